"""The adapter to tiny-cuda-nn, against a stand-in for it that computes on the CPU."""

from __future__ import annotations

import sys

import fake_tinycudann
import pytest
import torch
from engine_checks import LAYOUT, SMALL_FIELD, TOLERANCE, assert_close, grid_results, points_within_cells

from recon.errors import UserError
from recon.surface import tiny_cuda_nn
from recon.surface.engine import Engine, Precision
from recon.surface.field import Field, FieldConfig, fused_networks, plain_colour
from recon.surface.hashgrid import GridLayout, ReferenceGrid
from recon.surface.tiny_cuda_nn import FusedNetwork, TcnnGrid, encoding_config, fits_fused


@pytest.fixture
def fake(no_gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for the package; it computes on the CPU."""
    monkeypatch.setitem(sys.modules, "tinycudann", fake_tinycudann)


def test_tiny_cuda_nn_s_adapter_hands_over_our_parameters(fake):
    found = grid_results(TcnnGrid(LAYOUT), torch.device("cpu"))
    for name, value in grid_results(ReferenceGrid(LAYOUT), torch.device("cpu")).items():
        assert_close(found[name], value, TOLERANCE[Engine.tcnn], name)
    field = Field(SMALL_FIELD, Engine.tcnn, Precision.single)
    with torch.no_grad():  # as a viewer asks for normals
        _, gradient, _ = field.geometry(points_within_cells(20))
    assert gradient.abs().max() > 0 and not gradient.requires_grad


@pytest.mark.parametrize("error", [ImportError, OSError, NameError])
def test_a_tiny_cuda_nn_that_does_not_load_is_named(monkeypatch, error):
    """As an extension built for another GPU: some of its versions then stumble over a name."""

    class Broken:
        def find_spec(self, name: str, *args: object) -> None:
            if name == "tinycudann":
                raise error("no compatible extension")

    monkeypatch.delitem(sys.modules, "tinycudann", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(UserError, match=r"cannot be loaded \(no compatible extension\)"):
        TcnnGrid(LAYOUT)


def gradients_of(out: torch.Tensor, loss: torch.Tensor, layers: torch.nn.Sequential) -> list[torch.Tensor]:
    layers.zero_grad()
    loss.backward()
    return [out.detach(), *(p.grad.clone() for p in layers.parameters() if p.grad is not None)]


def test_the_fused_network_is_exact_with_biases(fake):
    torch.manual_seed(5)
    for hidden in (15, 64):
        layers = plain_colour(FieldConfig(n_levels=1, hidden=hidden))
        inputs = torch.randn(50, 39)
        a, b = (
            gradients_of(out, (out**2).sum(), layers) for out in (layers(inputs), FusedNetwork(layers)(layers, inputs))
        )
        for wanted, found in zip(a, b, strict=True):
            assert_close(found, wanted, 1e-5)  # float32 sums of other lengths
    assert not fits_fused(torch.nn.Sequential(torch.nn.Linear(3, 128), torch.nn.Linear(128, 3)))


@pytest.mark.parametrize("share", [1e-7, 1e-4])
def test_small_gradients_survive_float16_and_large_sums_do_too(fake, monkeypatch, share):
    """1e-7 of a sample is hardly a number of float16; 1e-4 of 10,000 samples that all pull alike is a loss's most."""
    monkeypatch.setattr(fake_tinycudann, "HALF", True)
    torch.manual_seed(6)
    layers, n = plain_colour(FieldConfig(n_levels=1, hidden=31)), 10_050
    inputs, found = torch.rand(n, 39), []
    for network in (layers, lambda x: FusedNetwork(layers)(layers, x)):
        x = inputs.clone().requires_grad_()
        out = network(x)
        assert out.dtype == torch.float32
        found.append([*gradients_of(out, share * out.sum(), layers), x.grad])
    for wanted, value in zip(*found, strict=True):
        # 11 bits, and some units near 0 that a rounding error switches
        assert (value - wanted).norm() < 5e-2 * wanted.norm()
    monkeypatch.setattr(tiny_cuda_nn, "GRADIENT_SCALE", 1.0)
    _, *lost = gradients_of(out := FusedNetwork(layers)(layers, inputs), 1e-8 * out.sum(), layers)
    assert max(float(x.abs().max()) for x in lost) == 0, "the stand-in rounds as float16 does"


def test_a_split_colour_s_networks_are_fused_where_they_fit(fake):
    x, normal = points_within_cells(50), torch.nn.functional.normalize(torch.randn(50, 3), dim=1)
    for hidden, n_fused in ((64, 3), (128, 1)):
        field = Field(FieldConfig(n_levels=1, hidden=hidden, split_colour=True), Engine.tcnn, Precision.single)
        assert field.fused == {}
        arguments = x, normal, normal.flip(0), torch.randn(50, 15)
        single = field.radiance(*arguments)
        field.in_half, field.fused = True, fused_networks(field.colour)
        assert len(field.fused) == n_fused
        difference = (field.radiance(*arguments) - single).abs().max()
        # those that are not fused are bfloat16
        assert difference < 1e-5 if n_fused == 3 else 0 < difference < 3 / 255


def test_layouts_that_tiny_cuda_nn_may_round_otherwise_are_refused():
    encoding_config(FieldConfig().layout())
    with pytest.raises(UserError, match="finest_resolution"):
        encoding_config(GridLayout(n_levels=3, n_features=2, log2_rows=19, base_resolution=8, finest_resolution=32))
