"""The depth network: its parts against explicit arithmetic, and whole on pictures of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recon.camera import Pinhole, View
from recon.errors import UserError
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
from recon.prior.network.features import STRIDES, Pyramid, standardised
from recon.prior.network.regularise import (
    Convolution,
    VolumeNet,
    probability_around,
    soft_argmin,
    soft_argmin_near_peak,
)
from recon.prior.network.warp import (
    group_correlation,
    motion_between,
    source_positions,
    warp_to_planes,
    warped_correlation_reference,
)
from recon.prior.network.warp_cpu import warped_correlation_cpu
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


@pytest.mark.parametrize(("stride", "channels", "groups"), [(4, 32, 8), (2, 16, 8), (1, 8, 4)])
def test_the_kernel_correlates_as_the_plain_warp_does(
    two_views: tuple[View, View], stride: int, channels: int, groups: int
) -> None:
    torch.manual_seed(0)
    sizes = [(v.camera.height_px // stride, v.camera.width_px // stride) for v in two_views]
    own, other = (torch.randn(2, channels, *size) for size in sizes)
    there, back = tensors(two_views), tensors(two_views[::-1])
    a, b = (torch.cat([x, y]) for x, y in zip(there, back, strict=True))
    inv_depth = 0.1 + torch.rand(2, 5, *sizes[0])
    inv_depth[:, 0] = torch.tensor([-30.0, 60.0])[:, None, None]
    assert (source_positions(a, b, inv_depth, stride)[:, 0, ..., 2] <= 0).any((1, 2)).all(), "some are behind a source"
    wanted, seen = warped_correlation_reference(own, other, a, b, inv_depth, stride, groups)
    found, inside = warped_correlation_cpu(own, other, a, b, inv_depth, stride, groups)
    assert 0.2 < float(seen.float().mean()) < 0.9
    agree = seen == inside
    assert int((~agree).sum()) <= 3, "a place on the very border may fall on either side by rounding"
    assert not found.movedim(1, -1)[~inside].any()
    torch.testing.assert_close(torch.where(agree[:, None], found, wanted), wanted, atol=2e-3, rtol=1e-3)


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
    for _ in range(2):
        pyramid(net, torch.rand(2, 3, 32, 32))  # moves the statistics
    net.eval()
    save_weights(net, tmp_path / "weights.npz")
    assert (tmp_path / "weights.npz").stat().st_size < 1_000_000
    back = load_weights(tmp_path / "weights.npz", CPU)
    picture = torch.rand(1, 3, 32, 32)
    # float16 holds three to four digits
    for mine, theirs in zip(pyramid(net, picture), pyramid(back, picture), strict=True):
        torch.testing.assert_close(mine, theirs, atol=5e-3, rtol=5e-3)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "text.npz").write_text("no weights")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(UserError, match="holds no weights of this network"):
            load_weights(tmp_path / name, CPU)


def test_a_volumes_size_is_kept() -> None:
    assert VolumeNet(4)(torch.rand(1, 4, 8, 12, 20)).shape == (1, 8, 12, 20)


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
