"""Every engine against the plain reference: values and gradients, one checkpoint for all, and a fit by each on a GPU.

Triton's kernels run here with a CUDA device, or in its interpreter (`test_kernels.py` starts it).
RECON_REQUIRE_CUDA=1 demands a device.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_checks import (
    INTERPRETED,
    LAYOUT,
    LEVEL_WEIGHT,
    SMALL_FIELD,
    TOLERANCE,
    assert_close,
    grid_results,
    points_within_cells,
    random_rays,
)
from striped_sphere import BOX, SMALL, radius_error, sphere_bake, sphere_cloud, sphere_scene

from recon.stage import Job
from recon.surface.checkpoint import load_checkpoint, save_checkpoint
from recon.surface.config import SurfaceConfig
from recon.surface.engine import Engine, Precision, device_for, open_grid
from recon.surface.field import Field
from recon.surface.first_shape import FirstShape
from recon.surface.fit import fit_surface
from recon.surface.hashgrid import ReferenceGrid
from recon.surface.profile import copy_rate, encode_traffic, patch_seconds, step_profile
from recon.surface.sampling import sample_rays
from recon.surface.sampling_reference import sample_rays_reference
from recon.surface.start import make_start, unit_cloud


@pytest.fixture(params=[Engine.cpu, Engine.triton, Engine.tcnn], ids=lambda e: e.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine that this machine can run."""
    if request.param is Engine.tcnn:
        request.getfixturevalue("cuda")
        pytest.importorskip("tinycudann", reason="tiny-cuda-nn is not installed", exc_type=ImportError)
    if request.param is Engine.triton and not INTERPRETED:
        request.getfixturevalue("cuda")
        pytest.importorskip("triton")
    return request.param


def test_grid_matches_the_reference(engine):
    found = grid_results(open_grid(engine, LAYOUT), device_for(engine))
    wanted = grid_results(ReferenceGrid(LAYOUT), torch.device("cpu"))
    for name, value in wanted.items():
        assert_close(found[name], value, TOLERANCE[engine], name)


def test_transposed_and_expanded_gradients_are_understood(engine):
    device, x = device_for(engine), points_within_cells(10)
    grads = []
    for grid, place in ((open_grid(engine, LAYOUT), device), (ReferenceGrid(LAYOUT), torch.device("cpu"))):
        table = torch.ones(LAYOUT.n_rows(), 2, device=place).cumsum(0).div(1000).requires_grad_()
        features, pull = grid.encode(table, x.to(place), LEVEL_WEIGHT.to(place))
        slope = pull(torch.ones(10, 1, device=place).expand(10, 10))
        (features.T.cumsum(0).T.sum() + slope.sum()).backward()
        grads.append(table.grad.cpu())
    assert_close(grads[0], grads[1], TOLERANCE[engine])


def test_points_beside_the_unit_cube_meet_the_same_rows():
    """Points in front of the surface may lie beside the cube; tiny-cuda-nn wraps around otherwise there."""
    x = torch.tensor([[-0.3, 0.5, 1.4], [1.2, -0.9, 0.1], [-0.01, 1.001, 0.5]])
    table = torch.randn(LAYOUT.n_rows(), 2, generator=torch.Generator().manual_seed(0))
    wanted = ReferenceGrid(LAYOUT).features(table, x, LEVEL_WEIGHT)
    for engine in [Engine.cpu, *([Engine.triton] if INTERPRETED else [])]:
        assert_close(open_grid(engine, LAYOUT).features(table, x, LEVEL_WEIGHT), wanted, TOLERANCE[engine])


def field_pair(engine: Engine) -> tuple[Field, Field]:
    """A field of the engine and the reference's on the CPU, with the same parameters by way of a checkpoint."""
    torch.manual_seed(2)
    fields = Field(SMALL_FIELD, engine, Precision.single), Field(SMALL_FIELD, Engine.cpu, Precision.single)
    fields[1].grid = ReferenceGrid(fields[1].layout)  # as Engine.reference, which takes a GPU where there is one
    with torch.no_grad():
        fields[0].table.uniform_(-0.1, 0.1)
    fields[1].load_state_dict(fields[0].state_dict())
    return fields


def test_field_matches_the_reference_from_one_checkpoint(engine):
    found, wanted = field_pair(engine)
    x, direction = points_within_cells(200), torch.nn.functional.normalize(torch.ones(200, 3), dim=1)
    results = []
    for field in (found, wanted):
        device = field.table.device
        sdf, gradient, geometry = field.geometry(x.to(device))
        colour = field.radiance(x.to(device), direction.to(device), gradient, geometry)
        (sdf.sum() + ((gradient.norm(dim=1) - 1) ** 2).sum() + colour.sum()).backward()
        grads = {f"d_{k}": p.grad for k, p in field.named_parameters()}
        results.append({"sdf": sdf, "gradient": gradient, "colour": colour, "sdf alone": field.distance(x.to(device))})
        results[-1] |= grads
    for name, value in results[1].items():
        # ten times the grid's: a softplus of sharpness 100 follows, and sums of 200 points
        assert_close(results[0][name].detach().cpu(), value.detach(), 10 * TOLERANCE[engine], name)


@pytest.mark.parametrize("split", [False, True])
def test_half_precision_changes_colours_by_less_than_two_levels(split):
    torch.manual_seed(3)
    field = Field(replace(SMALL_FIELD, split_colour=split), Engine.cpu, Precision.single)
    x, normal = torch.rand(500, 3), torch.nn.functional.normalize(torch.randn(500, 3), dim=1)
    geometry = torch.randn(500, 15)
    single = field.radiance(x, normal, normal, geometry)
    field.in_half = True
    half = field.radiance(x, normal, normal, geometry)
    half.sum().backward()
    assert half.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 and p.grad.abs().max() > 0 for p in field.colour.parameters())
    # bfloat16 keeps 8 bits; three layers of a network as it is at the start lose less than two of 255 levels
    assert 0 < (half - single).abs().max() < 2 / 255


@pytest.mark.parametrize("inv_s", [20.0, 240.0])
def test_samples_match_the_reference(inv_s):
    rays_o, rays_d, jitter = random_rays(400)
    rays_o[:5, 0] += 3  # beside the hull
    found, hit = sample_rays(sphere_bake(), rays_o, rays_d, BOX, inv_s, 16, jitter)
    wanted, wanted_hit = sample_rays_reference(sphere_bake(), rays_o, rays_d, BOX, inv_s, 16, jitter)
    assert (hit == wanted_hit).all() and 0 < hit.sum() < 400
    difference = (found - wanted).abs()[hit]
    # float32 in both; where a piece has little weight an edge moves by rounding errors over that weight, but never by
    # more than the piece's length
    assert difference.median() < 1e-5
    assert difference.quantile(0.99) < 2e-3
    assert difference.max() < 2 * np.sqrt(3) / 128
    assert (wanted[~hit] == 0).all() and (found[~hit] == 0).all()


def trainer_of(engine: Engine, posed, region, seed: int = 0):
    from recon.surface.baking import Baker, unit_from_region
    from recon.surface.fit import gather
    from recon.surface.trainer import Trainer

    unit_from_world = unit_from_region(region)
    cfg = SurfaceConfig(n_steps=50, engine=engine, precision=Precision.single, seed=seed, **SMALL)
    baker = Baker(region, unit_from_world, cfg.bake_resolution, device_for(engine))
    near = baker.points[baker.near_hull].cpu().numpy()
    hull = np.linalg.norm(near - 0.5, axis=1).astype(np.float32) - np.float32(0.35)
    free = near[hull > 0.03], hull[hull > 0.03]
    start = make_start(baker.baked, baker.near_hull, hull, np.zeros_like(hull))
    cloud = unit_cloud(posed, region, sphere_cloud(400), unit_from_world, cfg.support_confidence)
    data = gather(posed, region, FirstShape(cloud, start, *free, cfg.first_inv_s), unit_from_world, cfg)
    return Trainer(cfg, engine, data, len(posed.views)), baker


def test_a_checkpoint_of_one_engine_serves_another(no_gpu, tmp_path):
    posed, region = sphere_scene(tmp_path / "scene")
    first, baker = trainer_of(Engine.cpu, posed, region)
    first.warm_start(n_steps=20, n_points=500)
    first.step = 20
    baker.refresh(first.field, None)
    save_checkpoint(tmp_path / "checkpoint.pt", first.state())
    second, other_baker = trainer_of(Engine.reference, posed, region, seed=9)
    second.restore(load_checkpoint(tmp_path / "checkpoint.pt")[0])
    other_baker.refresh(second.field, None)
    for trainer, at in ((first, baker), (second, other_baker)):
        for _ in range(3):
            trainer.train_step(at)
    for a, b in zip(first.field.parameters(), second.field.parameters(), strict=True):
        # Adam's first steps are nearly the gradient's sign, so that a rounding error can turn a rarely hit row's
        assert ((a - b.cpu()).abs() < 1e-3).float().mean() > 0.98
    for name, value in first.averages.items():
        assert second.averages[name] == pytest.approx(value, rel=0.02, abs=1e-5)


def test_every_part_s_time_turns_up_in_its_own_share(tmp_path, monkeypatch):
    """On a clock that only the slowed parts move."""
    posed, region = sphere_scene(tmp_path / "scene", n_views=4)
    trainer, baker = trainer_of(Engine.cpu, posed, region)
    trainer.warm_start(n_steps=50, n_points=500)
    baker.refresh(trainer.field, None)
    trainer.step = 45  # of 50: patches have weight
    trainer.schedule()
    now = [0.0]

    def slow(owner: object, name: str, seconds: float) -> None:
        work = getattr(owner, name)

        def slowed(*args):
            now[0] += seconds
            return work(*args)

        monkeypatch.setattr(owner, name, slowed)

    def read() -> float:
        now[0] += 1e-6
        return now[0]

    monkeypatch.setattr("recon.surface.profile.time", SimpleNamespace(perf_counter=read))
    slow(trainer, "draw", 0.2)
    slow(trainer, "compare_patches", 0.3)
    slow(trainer, "compare", 0.11)  # with the photos
    slow(trainer.optimizer, "step", 0.4)
    slow(trainer.field.grid, "encode", 0.05)
    slow(trainer.field, "radiance", 0.07)
    slow(baker, "refresh", 1.0)
    profile = step_profile(trainer, baker, n=1)
    wanted = {"encode": 0.05, "networks": 0.07, "sampling": 0.2, "patches": 0.35, "optimiser": 0.4, "baking": 1 / 50}
    wanted["rest"] = 0.11
    found = profile.shares()
    assert found.keys() == wanted.keys()
    assert {k: v * profile.step for k, v in found.items()} == pytest.approx(wanted, abs=1e-4)
    assert profile.step == pytest.approx(sum(wanted.values()), abs=1e-4)
    monkeypatch.undo()
    trainer.field.open_levels(4)
    # 64 + 2 * 32 + 2 * 64 bytes each, and the point itself twice
    assert encode_traffic(trainer.field, 10) == 10 * (24 + 4 * (64 + 2 * 32 + 2 * 64))
    assert copy_rate(torch.device("cpu")) > 1e8
    trainer.step = 0
    assert patch_seconds(trainer, trainer.draw(baker), baker, 1) == 0


@pytest.mark.parametrize("wanted", [Engine.reference, Engine.triton, Engine.tcnn], ids=lambda e: e.name)
def test_a_fit_on_the_gpu_finds_the_sphere(cuda, tmp_path, wanted):
    if wanted is Engine.tcnn:
        pytest.importorskip("tinycudann", exc_type=ImportError)
    posed, region = sphere_scene(tmp_path / "scene")
    errors = {}
    for precision in (Precision.single, Precision.half):
        folder = tmp_path / precision.name
        folder.mkdir()
        cfg = SurfaceConfig(n_steps=250, engine=wanted, precision=precision, **SMALL)
        job = Job("fit", folder)
        field = fit_surface(posed, region, sphere_cloud(0), cfg, job)
        assert job.notes["device"].startswith("cuda")
        errors[precision] = np.abs(radius_error(field))
        # as on the CPU: 4 % of the radius is one pixel of these photos
        assert np.median(errors[precision]) < 0.04
