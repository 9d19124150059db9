"""The depth network in the stage: which of its depths are kept, their refinement, and its weights' file."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from textured_ball import CENTRE, RADIUS, make_scene, true_depth

from recon.cli import main
from recon.errors import UserError
from recon.prior.estimate import Method, PriorConfig, estimate_prior, one_ahead
from recon.prior.filter import FilterConfig, agreeing
from recon.prior.learned import depth_map_from, estimate_by_network, position_bounds, pyramid_of, refined
from recon.prior.network.cascade import (
    CascadeMvsNet,
    load_weights,
    save_weights,
)
from recon.prior.network.config import NetworkConfig
from recon.prior.refine import RefineConfig
from recon.prior.visual_hull import carve
from recon.prior.work_view import WorkView, cut_out
from recon.stage import Job

CPU = torch.device("cpu")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.npz is missing; name a weights.npz"):
        PriorConfig(Method.mvsnet, network=NetworkConfig(str(tmp_path / "none.npz"))).files()
    assert PriorConfig(Method.sweep).files() == ()


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return make_scene(tmp_path_factory.mktemp("ball"), contrast=0.35, n_views=8)


@pytest.fixture(scope="module")
def works(ball) -> list[WorkView]:  # type: ignore[no-untyped-def]
    return [w for i in range(8) if (w := cut_out(*ball, i, 1.0)) is not None]


def true_map(work: WorkView, probability: np.ndarray):  # type: ignore[no-untyped-def]
    """What a perfect network would answer."""
    far, near = work.inv_depth_far, work.inv_depth_near
    depth = true_depth(work)
    position = np.where(depth > 0, (1 / np.maximum(depth, 1e-6) - far) / (near - far), 0).astype(np.float32)
    reach = np.stack([np.zeros_like(position), np.ones_like(position)])
    return depth_map_from(work, position, probability.astype(np.float32), reach, (far, near), NetworkConfig())


def test_probable_and_consistent_depths_are_kept_and_others_dropped(works: list[WorkView]) -> None:
    maps = []
    for work in works:
        probability = np.full(work.mask.shape, 0.9)
        if work is works[0]:
            probability[:, : work.mask.shape[1] // 3] = 0.1
        maps.append(true_map(work, probability))
    left = np.arange(works[0].mask.shape[1]) < works[0].mask.shape[1] // 3
    assert not maps[0].depth_z[:, left].any() and not maps[0].confidence[:, left].any()
    right = works[0].mask[:, ~left]
    assert (maps[0].depth_z[:, ~left][right] > 0).mean() > 0.9
    maps[0].depth_z[: works[0].mask.shape[0] // 2] *= 1.03  # probable, but no other view agrees
    agreed = agreeing(maps[0], maps[1:], FilterConfig(min_support=2))
    half = len(agreed.depth_z) // 2
    assert (agreed.depth_z[:half][works[0].mask[:half]] > 0).mean() < 0.03  # by chance, most of it at the rim
    kept = agreed.depth_z > 0
    assert kept[half:, ~left][works[0].mask[half:, ~left]].mean() > 0.5
    assert np.median(np.abs(agreed.depth_z - true_depth(works[0]))[kept]) < 2e-4


def test_normals_of_a_right_depth_map_are_the_balls(works: list[WorkView]) -> None:
    work = works[0]
    found = true_map(work, np.ones(work.mask.shape))
    on = found.depth_z > 0
    v, u = np.nonzero(on)
    rays = work.view.rays(np.stack([u, v], -1) + 0.5)
    world = work.view.centre_world() + rays * (found.depth_z[on] / (rays @ work.view.forward_world()))[:, None]
    normal = found.normal_cam[on] @ work.view.cam_from_world.rotation
    cosine = (normal * (world - CENTRE)).sum(1) / RADIUS
    assert np.degrees(np.arccos(np.clip(np.median(cosine), -1, 1))) < 4


def test_positions_of_the_hulls_bounds() -> None:
    bounds = np.zeros((1, 2, 2), np.float32)
    bounds[0, 0] = [2.0, 4.0]
    low, high = position_bounds(bounds, 0.2, 1.0)
    np.testing.assert_allclose(low[0], [(0.25 - 0.2) / 0.8, 1], atol=1e-6)
    np.testing.assert_allclose(high[0], [(0.5 - 0.2) / 0.8, 0], atol=1e-6)


def test_an_untrained_network_goes_through_the_whole_stage(ball, works: list[WorkView], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    save_weights(CascadeMvsNet(), tmp_path / "weights.npz")
    network = NetworkConfig(str(tmp_path / "weights.npz"), min_probability=0.0)
    net = load_weights(tmp_path / "weights.npz", CPU)
    hull = carve(works, ball[1], 48, 0.12)
    with torch.inference_mode():
        pyramids = [pyramid_of(net, w, CPU) for w in works]
        found = estimate_by_network(net, 0, pyramids, works, [1, 7], hull, network)
    on = found.depth_z > 0
    assert found.depth_z.shape == works[0].mask.shape and on.any() and not on[~works[0].mask].any()
    # it knows nothing, but the hull bounds it
    assert np.abs(found.depth_z - true_depth(works[0]))[on].max() < 2.2 * RADIUS
    cfg = replace(PriorConfig(method=Method.mvsnet, n_sources=2, max_views=4), network=network)
    assert cfg.files() == (tmp_path / "weights.npz",)
    job = Job("prior", tmp_path)
    estimate_prior(*ball, cfg, job).check()
    assert job.notes["method"] == "mvsnet" and job.notes["n_depth_maps"] == 4


def test_beside_an_untrained_network_the_sweep_still_finds_the_ball(ball, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    save_weights(CascadeMvsNet(), tmp_path / "weights.npz")
    network = NetworkConfig(str(tmp_path / "weights.npz"), min_probability=0.0)
    job = Job("prior", tmp_path)
    cloud = estimate_prior(*ball, PriorConfig(method=Method.both, network=network), job)
    assert job.notes["method"] == "both" and job.notes["n_depth_maps"] == 16
    error = (np.linalg.norm(cloud.points_world - CENTRE, axis=1) - RADIUS) / (2 * RADIUS)
    assert len(error) > 1000 and (np.abs(error) < 0.01).mean() > 0.95


def test_two_kinds_of_depth_maps_need_more_support_in_all_but_less_of_each() -> None:
    one = FilterConfig()
    two = one.for_two_kinds()
    assert two.n_compared == 2 * one.n_compared and one.min_support < two.min_support < 2 * one.min_support
    assert one.full_support < two.full_support < 2 * one.full_support


def test_missing_weights_end_a_job_before_its_first_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    words = [f"capture={tmp_path / 'photos'}", f"out={tmp_path / 'out'}", f"workspace={tmp_path / 'work'}"]
    code = main([*words, "prior.method=mvsnet", f"prior.network.checkpoint={tmp_path / 'none.npz'}"])
    said = capsys.readouterr()
    assert code != 0 and "none.npz is missing" in "".join((said.out + said.err).split("\n"))


def test_planes_put_a_depth_right_that_is_a_little_off_and_drop_none(ball, works: list[WorkView]) -> None:  # type: ignore[no-untyped-def]
    work, others = works[0], [works[1], works[7]]
    hull, right = carve(works, ball[1], 48, 0.12), true_map(work, np.full(work.mask.shape, 0.7))
    off = replace(right, depth_z=(right.depth_z * 1.004).astype(np.float32))
    found = refined(off, others, hull, 1.0, RefineConfig(rounds=2))
    on = right.depth_z > 0
    before, after = (np.abs(m.depth_z - right.depth_z)[on] for m in (off, found))
    assert np.median(after) < 0.5 * np.median(before)
    assert (found.depth_z[on] > 0).mean() > 0.97 and not found.depth_z[~on].any()
    np.testing.assert_array_equal(found.confidence[found.depth_z > 0], np.float32(0.7))
    assert found.window_px2 > 0
    nothing = refined(replace(off, depth_z=np.zeros_like(off.depth_z)), others, hull, 1.0, RefineConfig())
    assert not nothing.depth_z.any() and not nothing.confidence.any()


def test_results_come_in_order_while_the_next_one_is_begun() -> None:
    events: list[str] = []

    def begun() -> Iterator[Future]:
        for k in range(3):
            events.append(f"begin {k}")
            future: Future = Future()
            future.set_result(k)
            yield future

    for result in one_ahead(begun()):
        events.append(f"take {result}")
    assert events == ["begin 0", "begin 1", "take 0", "begin 2", "take 1", "take 2"]
    assert list(one_ahead(iter(()))) == []


def test_the_surface_can_do_without_a_cloud(ball, tmp_path):
    cfg = PriorConfig(Method.none, network=NetworkConfig(str(tmp_path / "none.npz")))
    assert cfg.files() == ()
    cloud = estimate_prior(*ball, cfg, Job("estimate_prior", tmp_path))
    cloud.check()
    assert cloud.points_world.shape == (0, 3)
