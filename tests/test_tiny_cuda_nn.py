"""The adapter to tiny-cuda-nn, against a stand-in for it that computes on the CPU."""

from __future__ import annotations

import sys

import fake_tinycudann
import pytest
import torch
from engine_checks import LAYOUT, SMALL_FIELD, TOLERANCE, assert_close, grid_results, points_within_cells

from recon.errors import UserError
from recon.surface.engine import Engine, Precision
from recon.surface.field import Field, FieldConfig
from recon.surface.hashgrid import GridLayout, ReferenceGrid
from recon.surface.tiny_cuda_nn import FusedNetwork, TcnnGrid, encoding_config


def test_tiny_cuda_nn_s_adapter_hands_over_our_parameters(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", fake_tinycudann)
    found = grid_results(TcnnGrid(LAYOUT), torch.device("cpu"))
    for name, value in grid_results(ReferenceGrid(LAYOUT), torch.device("cpu")).items():
        assert_close(found[name], value, TOLERANCE[Engine.tcnn], name)
    field = Field(SMALL_FIELD, Engine.tcnn, Precision.single)
    with torch.no_grad():  # as a viewer asks for normals
        _, gradient, _ = field.geometry(points_within_cells(20))
    assert gradient.abs().max() > 0 and not gradient.requires_grad


def test_a_tiny_cuda_nn_that_does_not_load_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", None)  # as an extension built for another GPU
    with pytest.raises(UserError, match="cannot be loaded"):
        TcnnGrid(LAYOUT)


def test_the_fused_network_is_exact_with_biases(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", fake_tinycudann)
    torch.manual_seed(5)
    for hidden in (15, 64):
        layers = Field(FieldConfig(n_levels=1, hidden=hidden), Engine.cpu).colour
        fused, inputs = FusedNetwork(layers), torch.randn(50, 39)
        gradients = []
        for out in (layers[:-1](inputs), fused(layers, inputs)):
            layers.zero_grad()
            (out**2).sum().backward()
            gradients.append([out.detach(), *(p.grad.clone() for p in layers.parameters())])
        for a, b in zip(*gradients, strict=True):
            assert_close(b, a, 1e-5)  # float32 sums of other lengths
    with pytest.raises(UserError, match=r"surface\.hidden"):
        FusedNetwork(torch.nn.Sequential(torch.nn.Linear(3, 128), torch.nn.Linear(128, 3)))


def test_layouts_that_tiny_cuda_nn_may_round_otherwise_are_refused():
    encoding_config(FieldConfig().layout())
    with pytest.raises(UserError, match="finest_resolution"):
        encoding_config(GridLayout(n_levels=3, n_features=2, log2_rows=19, base_resolution=8, finest_resolution=32))
