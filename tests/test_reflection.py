"""Colour split into paint and mirrored surroundings."""

import numpy as np
import torch

from recon.surface.baking import sphere_directions
from recon.surface.reflection import SplitColour, harmonics, mirrored_inputs
from recon.surface.reflection_cpu import mirrored_inputs_cpu


def test_harmonics_are_orthogonal_and_about_one():
    values = harmonics(torch.from_numpy(sphere_directions(20_000)).float()).double().numpy()
    products = values.T @ values / len(values)
    norms = np.sqrt(np.diag(products))
    np.testing.assert_allclose(products / norms / norms[:, None], np.eye(24), atol=2e-3)
    # and to a constant: bands 1 and up have no mean
    assert np.abs(values.mean(0)).max() < 2e-3
    assert np.abs(values).max(0).min() > 0.5 and np.abs(values).max() < 2.5


def random_inputs(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    unit = [torch.nn.functional.normalize(torch.randn(n, 3, generator=rng)) for _ in range(2)]
    return torch.rand(n, 3, generator=rng), unit[0], unit[1], torch.randn(n, 15, generator=rng)


def test_gloss_depends_on_the_place_through_paint_alone():
    torch.manual_seed(0)
    network = SplitColour(15, 32)
    x, direction, normal, geometry = random_inputs(50)
    moved = network(x.flip(0), direction, normal, geometry)
    assert (network(x, direction, normal, geometry) >= 0).all()
    assert not torch.allclose(moved, network(x, direction, normal, geometry))
    with torch.no_grad():  # paint that is the same everywhere
        network.paint[0].weight.zero_()
    torch.testing.assert_close(network(x.flip(0), direction, normal, geometry), network(x, direction, normal, geometry))


def test_a_rough_surface_looks_alike_from_all_sides():
    torch.manual_seed(0)
    network = SplitColour(15, 32)
    x, direction, normal, geometry = random_inputs(200)
    spread = []
    for bias in (-20.0, 20.0):  # mirror-like, and very rough
        with torch.no_grad():
            network.paint[2].weight[6].zero_()
            network.paint[2].bias[6] = bias
        # seen from elsewhere at the same angle: turned about the normal
        across = direction - 2 * (direction - (direction * normal).sum(1, keepdim=True) * normal)
        difference = network(x, direction, normal, geometry) - network(x, across, normal, geometry)
        spread.append(float(difference.detach().abs().mean()))
    assert spread[1] < 1e-4 < spread[0]


def test_the_kernel_does_as_torch_does():
    _, direction, normal, _ = random_inputs(300)
    roughness = torch.rand(300, 1) * 2
    weights = [torch.randn(300, n) for n in (8, 25)]
    found = []
    for look_up, kind in ((mirrored_inputs, torch.float64), (mirrored_inputs_cpu, torch.float32)):
        n, r = (x.to(kind).requires_grad_() for x in (normal, roughness))
        outs = look_up(direction.to(kind), n, r)
        sum((out * w.to(kind)).sum() for out, w in zip(outs, weights, strict=True)).backward()
        found.append([x.detach().double() for x in (*outs, n.grad, r.grad)])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=2e-5)
