"""One small grid, its results by any engine, and how near two engines' must be."""

from __future__ import annotations

import os

import torch

from recon.surface import engine as engines
from recon.surface.engine import Engine
from recon.surface.field import FieldConfig
from recon.surface.hashgrid import GridLayout

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LAYOUT = GridLayout(n_levels=5, n_features=2, log2_rows=9, base_resolution=4, finest_resolution=50)
LEVEL_WEIGHT = torch.tensor([1, 1, 1, 0.3, 0.0])
SMALL_FIELD = FieldConfig(n_levels=4, log2_rows=10, base_resolution=4, finest_resolution=30, hidden=32)
TOLERANCE = {
    # float32 sums in another order and with fused multiply-adds
    Engine.cpu: 1e-5,
    Engine.triton: 1e-5,
    # scales are float32 powers there, ours are rounded from float64: 50 cells are off by up to 1e-4 of a cell
    Engine.tcnn: 1e-3,
}


def points_within_cells(n: int) -> torch.Tensor:
    """Points not nearer than a thousandth of a cell to a cell's border: the Jacobian jumps there."""
    x = torch.rand(4 * n, 3, generator=torch.Generator().manual_seed(1))
    place = (x[:, None] * torch.from_numpy(LAYOUT.scales())[:, None] + 0.5) % 1
    x = x[((place - 0.5).abs() < 0.499).all(2).all(1)]
    assert len(x) >= n
    return x[:n]


def grid_results(grid: engines.Grid, device: torch.device) -> dict[str, torch.Tensor]:
    """Features, J^T g, and the gradients of a weighted sum of both with respect to the table and to g."""
    random = torch.Generator().manual_seed(0)
    table = torch.randn(LAYOUT.n_rows(), 2, generator=random).to(device).requires_grad_()
    x = points_within_cells(200).to(device)
    g = torch.randn(200, 10, generator=random).to(device).requires_grad_()
    features, pull = grid.encode(table, x, LEVEL_WEIGHT.to(device))
    slope = pull(g)
    seeds = [torch.randn(v.shape, generator=random).to(device) for v in (features, slope)]
    ((features * seeds[0]).sum() + (slope * seeds[1]).sum()).backward()
    assert table.grad is not None and g.grad is not None
    alone = grid.features(table.detach(), x, LEVEL_WEIGHT.to(device))
    found = {"features": features, "slope": slope, "d_table": table.grad, "d_g": g.grad, "alone": alone}
    return {k: v.detach().cpu() for k, v in found.items()}


def assert_close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float, what: str = "") -> None:
    """Within `tolerance` of the largest wanted value."""
    assert found.shape == wanted.shape
    assert wanted.abs().max() > 0
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max(), what


def random_rays(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rays from all around through a ball a little larger than the baked sphere, and jitter for 16 sections."""
    random = torch.Generator().manual_seed(4)
    centre = torch.nn.functional.normalize(torch.randn(n, 3, generator=random), dim=1) * 1.5 + 0.5
    target = 0.5 + 0.35 * (torch.rand(n, 3, generator=random) * 2 - 1)
    return centre, torch.nn.functional.normalize(target - centre, dim=1), torch.rand(n, 17, generator=random)
