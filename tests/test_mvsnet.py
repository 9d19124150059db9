"""The depth network: its parts against explicit arithmetic, its training on one tuple, and its place in the stage."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_prior import CENTRE, RADIUS, make_scene, true_depth

from recon.camera import Pinhole, View
from recon.cli import main
from recon.errors import UserError
from recon.prior.estimate import Method, PriorConfig, estimate_prior, one_ahead
from recon.prior.filter import FilterConfig, agreeing
from recon.prior.learned import depth_map_from, estimate_by_network, position_bounds, pyramid_of, refined
from recon.prior.network.cascade import (
    N_HYPOTHESES,
    STEPS,
    CascadeMvsNet,
    Rig,
    first_hypotheses,
    load_weights,
    next_hypotheses,
    padded_reach,
    save_weights,
    whole_probability,
)
from recon.prior.network.config import NetworkConfig
from recon.prior.network.features import STRIDES, Pyramid, standardised
from recon.prior.network.regularise import (
    Convolution,
    VolumeNet,
    probability_around,
    soft_argmin,
    soft_argmin_near_peak,
)
from recon.prior.network.warp import group_correlation, motion_between, source_positions, warp_to_planes
from recon.prior.refine import RefineConfig
from recon.prior.visual_hull import carve
from recon.prior.work_view import WorkView, cut_out
from recon.stage import Job
from recon.transforms import Rigid

CPU = torch.device("cpu")


def pyramid(net: CascadeMvsNet, rgb: torch.Tensor) -> Pyramid:
    """Of a picture that shows nothing but the object."""
    return net.pyramid(rgb, torch.ones_like(rgb[:, :1]))


def turned(degrees: float, shift: tuple[float, float, float]) -> Rigid:
    """A pose turned about a slanted axis."""
    axis = np.array([0.3, 0.9, 0.1]) / np.linalg.norm([0.3, 0.9, 0.1])
    x, y, z = axis * np.sin(np.radians(degrees))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) / np.sin(np.radians(degrees))
    angle = np.radians(degrees)
    return Rigid(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross, np.array(shift))


@pytest.fixture
def two_views() -> tuple[View, View]:
    # neither the same size nor a middle principal point: mistakes in the pixel convention must show
    reference = View("r", Pinhole(48, 32, 60.0, 61.0, 22.3, 17.1), turned(4, (0.1, 0.2, 0.3)))
    source = View("s", Pinhole(64, 40, 66.0, 65.0, 33.7, 18.9), turned(11, (-0.15, 0.12, 0.35)))
    return reference, source


def tensors(views: tuple[View, View]) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = motion_between(*views)
    return torch.from_numpy(a)[None].float(), torch.from_numpy(b)[None].float()


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_warp_is_the_explicit_projection(two_views: tuple[View, View], stride: int) -> None:
    reference, source = two_views
    a, b = tensors(two_views)
    size = (source.camera.height_px // stride, source.camera.width_px // stride)
    rows, columns = torch.meshgrid(*(stride * (torch.arange(n) + 0.5) for n in size), indexing="ij")
    places = torch.stack([columns, rows])[None]  # a map that tells where in the photo each cell's centre is
    h, w = reference.camera.height_px // stride, reference.camera.width_px // stride
    depth_z = np.array([1.4, 2.0, 3.1])
    inv_depth = torch.from_numpy(1 / depth_z).float()[None, :, None, None].expand(1, 3, h, w)
    warped, inside = warp_to_planes(places, a, b, inv_depth, stride)
    v, u = np.mgrid[0:h, 0:w]
    pixels = stride * (np.stack([u.ravel(), v.ravel()], -1) + 0.5)
    for k, z in enumerate(depth_z):
        rays = reference.rays(pixels)
        world = reference.centre_world() + rays * (z / (rays @ reference.forward_world()))[:, None]
        true, true_z = source.project(world)
        np.testing.assert_array_equal(
            inside[0, k].numpy().ravel(), source.in_image(true, true_z), err_msg="where the source sees it"
        )
        # interpolation reads zeros within half a cell of the border
        edge = 0.5 * stride + 0.01
        deep = (true > edge).all(1) & (true < np.array([size[1], size[0]]) * stride - edge).all(1)
        assert deep.sum() > 0.3 * deep.size
        np.testing.assert_allclose(warped[0, :, k].reshape(2, -1).T[deep], true[deep], atol=2e-3)


def test_what_lies_behind_a_source_is_not_seen(two_views: tuple[View, View]) -> None:
    a, _ = tensors(two_views)
    away = a.clone(), torch.tensor([[0.0, 0.0, -10.0]])
    inv_depth = torch.full((1, 1, 8, 12), 0.5)
    assert (source_positions(*away, inv_depth, 4)[..., 2] <= 0).any()
    warped, inside = warp_to_planes(torch.ones(1, 2, 10, 16), *away, inv_depth, 4)
    behind = source_positions(*away, inv_depth, 4)[..., 2] <= 0
    assert not inside[behind].any() and float(warped[:, :, behind[0]].abs().max()) == 0


def test_group_correlation_by_hand() -> None:
    rng = torch.Generator().manual_seed(0)
    reference, warped = torch.randn(2, 6, 3, 4, generator=rng), torch.randn(2, 6, 5, 3, 4, generator=rng)
    volume = group_correlation(reference, warped, 3)
    assert volume.shape == (2, 3, 5, 3, 4)
    by_hand = (reference[1, 2, 1, 3] * warped[1, 2, 4, 1, 3] + reference[1, 3, 1, 3] * warped[1, 3, 4, 1, 3]) / 2
    assert float(volume[1, 1, 4, 1, 3]) == pytest.approx(float(by_hand), rel=1e-5)


def test_the_volume_is_a_mean_over_the_sources_that_see() -> None:
    torch.manual_seed(0)
    net = CascadeMvsNet().eval()
    own, positions = torch.randn(1, 32, 8, 8), torch.rand(1, 4, 8, 8)
    still, away = (torch.eye(3)[None, None], torch.zeros(1, 1, 3)), torch.tensor([[[500.0, 0, 0]]])
    bounds = torch.tensor([[0.5, 1.0]])
    alone = Rig(*still, bounds)
    with torch.no_grad():
        volume, _ = net._volume(0, own, [own], positions, alone, [])
        # the same view at the same place correlates with itself, at every depth
        expected = group_correlation(own, own[:, :, None].expand(-1, -1, 4, -1, -1), 8)
        torch.testing.assert_close(volume, expected, atol=1e-2, rtol=1e-2)
        both = Rig(still[0].expand(1, 2, 3, 3), torch.cat([still[1], away], 1), bounds)
        with_blind, _ = net._volume(0, own, [own, own], positions, both, [])
        torch.testing.assert_close(with_blind, volume, atol=1e-6, rtol=1e-6)


def test_soft_argmin_and_probability_of_a_known_volume() -> None:
    hypotheses = torch.linspace(0, 1, 8)[None, :, None, None].expand(1, 8, 1, 3)
    probability = torch.zeros(1, 8, 1, 3)
    probability[0, 3, 0, 0] = 1.0
    probability[0, 2, 0, 1], probability[0, 3, 0, 1] = 0.25, 0.75
    probability[0, :, 0, 2] = 1 / 8
    value = soft_argmin(probability, hypotheses)
    np.testing.assert_allclose(value[0, 0], [3 / 7, 2.75 / 7, 0.5], atol=1e-6)
    np.testing.assert_allclose(probability_around(probability, value, hypotheses)[0, 0], [1, 1, 0.5], atol=1e-6)
    ends = torch.tensor([0.0, 1.0, 0.5]).reshape(1, 1, 3)
    np.testing.assert_allclose(probability_around(probability, ends, hypotheses)[0, 0], [1, 0, 0.5], atol=1e-6)


def test_hypotheses_shrink_and_stay_in_the_range() -> None:
    before = torch.tensor([[[0.0, 0.5], [0.9, 1.0]]])
    for stage in (1, 2):
        around = next_hypotheses(before, stage)
        assert around.shape == (1, N_HYPOTHESES[stage], 4, 4)
        assert float(around.min()) >= -1e-6 and float(around.max()) <= 1 + 1e-6
        torch.testing.assert_close(around.diff(dim=1), torch.full_like(around[:, 1:], STEPS[stage]))
        # the next stage can reach what the one before confuses with its neighbour
        assert (N_HYPOTHESES[stage] - 1) * STEPS[stage] > 2 * STEPS[stage - 1]


def test_convolutions_are_torchs_own() -> None:
    torch.manual_seed(0)
    own, volume = Convolution(4, 8, 3, 2, 1), torch.randn(2, 4, 4, 8, 12)
    torch.testing.assert_close(own(volume), torch.nn.functional.conv3d(volume, own.weight, own.bias, 2, 1))


def test_any_size_and_number_of_sources() -> None:
    torch.manual_seed(0)
    net = CascadeMvsNet().eval()
    sizes = [(50, 70), (64, 48), (33, 90), (17, 16)]
    with torch.no_grad():
        pyramids = [pyramid(net, torch.rand(1, 3, *s)) for s in sizes]
        for n in (1, 3):
            motion = torch.eye(3).expand(1, n, 3, 3), torch.rand(1, n, 3) * 5
            found = net(pyramids[0], pyramids[1 : n + 1], Rig(*motion, torch.tensor([[0.5, 1.0]])))
            assert [tuple(s.position.shape[1:]) for s in found] == [(16, 20), (32, 40), (64, 80)]
            assert all(bool(((s.position >= 0) & (s.position <= 1)).all()) for s in found)
            assert bool(((p := whole_probability(found)) > 0).all() and (p <= 1).all())


def test_a_bounded_pixel_stays_within_reach() -> None:
    torch.manual_seed(0)
    net = CascadeMvsNet().eval()
    with torch.no_grad():
        maps = [pyramid(net, torch.rand(1, 3, 32, 32)) for _ in range(2)]
        rig = Rig(torch.eye(3)[None, None], torch.rand(1, 1, 3), torch.tensor([[0.5, 1.0]]))
        reach = torch.stack([torch.full((1, 32, 32), 0.6), torch.full((1, 32, 32), 0.7)], 1)
        free, bounded = (net(maps[0], maps[1:], rig, r)[0].position for r in (None, reach))
    assert float(free.min()) < 0.55
    assert float(bounded.min()) > 0.6 - STEPS[0] - 1e-3 and float(bounded.max()) < 0.7 + STEPS[0] + 1e-3


def test_exposure_hardly_changes_what_the_network_sees() -> None:
    rgb = torch.rand(1, 3, 40, 48) * 0.6 + 0.1
    mask = torch.ones(1, 1, 40, 48)
    seen, darker = standardised(rgb, mask), standardised(rgb * 0.6 + 0.1, mask)
    assert seen.shape == (1, 4, 48, 48)
    assert float((seen - darker).abs().mean()) < 0.05 * float(seen.abs().mean())


def test_what_lies_beside_the_mask_changes_nothing() -> None:
    torch.manual_seed(0)
    net, rgb, other = CascadeMvsNet().eval(), torch.rand(1, 3, 48, 64), torch.rand(1, 3, 48, 64)
    mask = torch.zeros(1, 1, 48, 64)
    mask[..., 10:37, 13:50] = 1
    seen = standardised(rgb, mask)
    assert float(seen[mask.expand_as(seen) == 0].abs().max()) == 0
    on = seen[:, :3, 10:37, 13:50]
    assert float(on.mean()) == pytest.approx(0, abs=1e-5) and float(on.std()) == pytest.approx(1, abs=0.05)
    with torch.no_grad():
        pairs = zip(net.pyramid(rgb, mask), net.pyramid(torch.where(mask > 0, rgb, other), mask), strict=True)
        for stride, (one, two) in zip(STRIDES, pairs, strict=True):
            torch.testing.assert_close(one, two)
            assert not one[..., : 10 // stride, :].any() and one[..., -(-37 // stride) - 1, 20 // stride].any()


def test_beside_the_object_a_later_stage_goes_by_the_cells_on_it() -> None:
    before, reach = torch.full((1, 4, 4), 0.9), torch.stack([torch.ones(1, 16, 16), torch.zeros(1, 16, 16)], 1)
    before[..., 2:] = 0.3
    reach[:, 0, :, 9:], reach[:, 1, :, 9:] = 0.1, 0.4  # the third column of cells is partly on the object
    middle = next_hypotheses(before, 1, reach).mean(1)
    torch.testing.assert_close(middle[..., 4:], torch.full((1, 8, 4), 0.3))
    reach[:, 1, :, 9:] = 0.2  # out of reach at the stage before: moved into it
    torch.testing.assert_close(next_hypotheses(before, 1, reach).mean(1)[..., 4:], torch.full((1, 8, 4), 0.2))
    wide = padded_reach(reach, 18, 20)
    assert wide.shape == (1, 2, 18, 20) and bool((wide[:, 0, 16:] == 1).all() and (wide[:, 1, 16:] == 0).all())
    torch.testing.assert_close(wide[..., :16, :16], reach)


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    net = CascadeMvsNet().train()
    maps = [pyramid(net, torch.rand(1, 3, 32, 48)) for _ in range(3)]
    sideways = torch.tensor([[[9.0, 2, 0], [-6, 5, 0]]])
    found = net(maps[0], maps[1:], Rig(torch.eye(3).expand(1, 2, 3, 3), sideways, torch.tensor([[0.5, 1.0]])))
    sum((s.position - 0.3).abs().mean() for s in found).backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None and bool(torch.isfinite(weight.grad).all()), name
        if not name.startswith("view_weights.layers.4.bias"):
            assert float(weight.grad.abs().max()) > 0, name


def test_weights_come_back_from_their_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = CascadeMvsNet().train()
    maps = [pyramid(net, torch.rand(2, 3, 32, 32)) for _ in range(2)]  # moves the statistics
    net.eval()
    save_weights(net, tmp_path / "weights.npz")
    assert (tmp_path / "weights.npz").stat().st_size < 1_000_000
    back = load_weights(tmp_path / "weights.npz", CPU)
    picture = torch.rand(1, 3, 32, 32)
    # float16 holds three to four digits
    for mine, theirs in zip(pyramid(net, picture), pyramid(back, picture), strict=True):
        torch.testing.assert_close(mine, theirs, atol=5e-3, rtol=5e-3)
    assert len(maps) == 2
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "text.npz").write_text("no weights")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(UserError, match="holds no weights of this network"):
            load_weights(tmp_path / name, CPU)


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


def test_a_volumes_size_is_kept() -> None:
    assert VolumeNet(4)(torch.rand(1, 4, 8, 12, 20)).shape == (1, 8, 12, 20)


def test_missing_weights_end_a_job_before_its_first_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    words = [f"capture={tmp_path / 'photos'}", f"out={tmp_path / 'out'}", f"workspace={tmp_path / 'work'}"]
    code = main([*words, "prior.method=mvsnet", f"prior.network.checkpoint={tmp_path / 'none.npz'}"])
    said = capsys.readouterr()
    assert code != 0 and "none.npz is missing" in "".join((said.out + said.err).split("\n"))


def test_a_gpu_finds_the_same_depth(cuda: torch.device) -> None:
    torch.manual_seed(0)
    net, pictures = CascadeMvsNet().eval(), torch.rand(3, 1, 3, 48, 64)
    a, b = torch.eye(3).expand(1, 2, 3, 3), torch.tensor([[[9.0, 2, 0], [-6, 5, 0]]])
    found = []
    for device in (CPU, cuda):
        own = net.to(device)
        maps = [pyramid(own, p.to(device)) for p in pictures]
        rig = Rig(a.to(device), b.to(device), torch.tensor([[0.5, 1.0]], device=device))
        found.append(own(maps[0], maps[1:], rig)[-1].position.detach().cpu())
    # other orders of summing, and TF32 where it is on: parts of a step
    torch.testing.assert_close(found[0], found[1], atol=0.5 * STEPS[-1], rtol=0)


def test_at_a_jump_the_depth_is_on_one_side() -> None:
    probability = torch.zeros(1, 32, 1, 2)
    probability[0, [4, 5, 6, 24, 25], 0, 0] = torch.tensor([0.1, 0.4, 0.1, 0.2, 0.2])
    probability[0, 31, 0, 1] = 1.0
    positions = first_hypotheses(torch.zeros(1, 1, 1, 2))
    torch.testing.assert_close(soft_argmin_near_peak(probability, positions)[0, 0], torch.tensor([5 / 31, 1.0]))
    assert 10 / 31 < float(soft_argmin(probability, positions)[0, 0, 0]) < 15 / 31


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
