"""The published CasMVSNet: its file, its geometry by explicit arithmetic, and its place beside our own network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_mvsnet import turned
from textured_ball import RADIUS, make_scene, true_depth

from recon.camera import Pinhole, View
from recon.errors import UserError
from recon.prior.learned import network_depth_maps
from recon.prior.network.cascade import CascadeMvsNet, Rig, save_weights
from recon.prior.network.casmvsnet import (
    LEAST_SHARE,
    N_HYPOTHESES,
    CasMvsNet,
    confidence,
    depth_hypotheses,
    warp_to_depths,
)
from recon.prior.network.checkpoint import DepthNetwork, load_network
from recon.prior.network.config import NetworkConfig
from recon.prior.network.warp import motion_between
from recon.prior.visual_hull import carve
from recon.prior.work_view import WorkView, cut_out

CPU = torch.device("cpu")
PUBLISHED = {
    "feature.conv0.0.conv.weight": (8, 3, 3, 3),
    "feature.conv0.1.bn.running_var": (8,),
    "feature.conv1.0.conv.weight": (16, 8, 5, 5),
    "feature.conv2.0.conv.weight": (32, 16, 5, 5),
    "feature.conv2.2.bn.num_batches_tracked": (),
    "feature.out1.weight": (32, 32, 1, 1),
    "feature.inner1.bias": (32,),
    "feature.inner2.weight": (32, 8, 1, 1),
    "feature.out2.weight": (16, 32, 3, 3),
    "feature.out3.weight": (8, 32, 3, 3),
    "cost_regularization.0.conv0.conv.weight": (8, 32, 3, 3, 3),
    "cost_regularization.1.conv0.conv.weight": (8, 16, 3, 3, 3),
    "cost_regularization.2.conv0.bn.weight": (8,),
    "cost_regularization.2.conv6.conv.weight": (64, 64, 3, 3, 3),
    "cost_regularization.0.conv7.conv.weight": (64, 32, 3, 3, 3),
    "cost_regularization.0.conv9.bn.running_mean": (16,),
    "cost_regularization.0.conv11.conv.weight": (16, 8, 3, 3, 3),
    "cost_regularization.2.prob.weight": (1, 8, 3, 3, 3),
}
"""Some names and shapes of the public file, of each kind one."""


def untrained() -> CasMvsNet:
    """A network of noise that is as sure of itself as a trained one: its statistics keep values from dying out."""
    torch.manual_seed(0)
    net = CasMvsNet().eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            module.running_var.fill_(0.1)
    for regularisation in net.cost_regularization:
        regularisation.prob.weight *= 30
    return net


def write_checkpoint(path: Path, prefix: str = "", zipped: bool = False) -> CasMvsNet:
    """A file as the public one is, with random weights; torch wrote no zip files when that one was made."""
    net = untrained()
    state = {prefix + name: values for name, values in net.state_dict().items()}
    optimiser = {"state": {}, "param_groups": [{"lr": 0.001, "betas": (0.9, 0.999)}]}
    whole = {"epoch": 15, "model": state, "optimizer": optimiser}
    torch.save(whole, path, _use_new_zipfile_serialization=zipped)
    return net


def test_layers_are_the_published_ones() -> None:
    net = CasMvsNet()
    state = net.state_dict()
    assert {name: tuple(state[name].shape) for name in PUBLISHED} == PUBLISHED
    # as counted with the public code
    assert len(state) == 238 and sum(p.numel() for p in net.parameters()) == 934_304


@pytest.mark.parametrize(("prefix", "zipped"), [("", False), ("module.", False), ("module.", True)])
def test_the_kind_of_file_is_recognised(tmp_path: Path, prefix: str, zipped: bool) -> None:
    written = write_checkpoint(tmp_path / "casmvsnet.ckpt", prefix, zipped)
    back = load_network(tmp_path / "casmvsnet.ckpt", CPU)
    assert isinstance(back, CasMvsNet) and isinstance(back, DepthNetwork) and not back.training
    for name, values in written.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], values, atol=0, rtol=0)
    save_weights(CascadeMvsNet(), tmp_path / "weights.npz")
    own = load_network(tmp_path / "weights.npz", CPU)
    assert isinstance(own, CascadeMvsNet) and isinstance(own, DepthNetwork)


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    state = CasMvsNet().state_dict()
    without = {name: values for name, values in state.items() if name != "feature.out3.weight"}
    wider = state | {"feature.out3.weight": torch.zeros(8, 16, 3, 3)}
    more = state | {"refine_network.conv1.conv.weight": torch.zeros(32, 4, 3, 3)}
    for stored in ({"model": without}, {"model": wider}, {"model": more}, {"state_dict": state}, [1], torch.nn.ReLU()):
        torch.save(stored, path)
        with pytest.raises(UserError, match=r"other.ckpt holds no weights of a known network; what is read is .*\.$"):
            load_network(path, CPU)
    for text in (b"", b"no weights at all", b"PK\x03\x04 half an archive"):
        path.write_bytes(text)
        with pytest.raises(UserError, match=r"other.ckpt holds no weights of a known network"):
            load_network(path, CPU)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UserError, match=r"other.npz holds no weights of this network"):
        load_network(tmp_path / "other.npz", CPU)


def views_of_a_plane() -> list[View]:
    """A reference and five sources of other sizes, none with its principal point in the middle."""
    reference = View("r", Pinhole(96, 64, 110.0, 112.0, 45.3, 34.1), turned(0.01, (0.0, 0.0, 0.0)))
    sizes = [(96, 64), (128, 80), (70, 50), (97, 65), (64, 96)]
    return [reference] + [
        View(f"s{i}", Pinhole(*size, 110.0 + i, 111.0, size[0] / 2 + 1.7, size[1] / 2 - 2.2),
             turned(2 + i, (0.25 * (-1) ** i, 0.03 * i - 0.1, 0.05 * i)))
        for i, size in enumerate(sizes)
    ]  # fmt: skip


def rig_of(views: list[View], nearest: float, farthest: float) -> Rig:
    motions = [motion_between(views[0], v) for v in views[1:]]
    a, b = (torch.from_numpy(np.stack([m[i] for m in motions]))[None].float() for i in (0, 1))
    return Rig(a, b, torch.tensor([[1 / farthest, 1 / nearest]]))


def cell_centres(view: View, stride: int) -> np.ndarray:
    """Where in the photo the cells of a map are centred: kernels of 5x5 at stride 2 stand on every second pixel."""
    v, u = np.mgrid[0 : view.camera.height_px // stride, 0 : view.camera.width_px // stride]
    return stride * np.stack([u, v], -1).astype(float) + 0.5


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_warp_is_the_explicit_projection(stride: int) -> None:
    reference, source = views_of_a_plane()[:3:2]
    a, b = (torch.from_numpy(x)[None].float() for x in motion_between(reference, source))
    places = torch.from_numpy(cell_centres(source, stride).transpose(2, 0, 1))[None].float()
    pixels = cell_centres(reference, stride)
    h, w = pixels.shape[:2]
    depth_z = np.array([1.4, 2.0, 3.1])
    depths = torch.from_numpy(depth_z).float()[None, :, None, None].expand(1, 3, h, w)
    warped = warp_to_depths(places, a, b, depths, stride)
    last = places[0, :, -1, -1].numpy()
    for k, z in enumerate(depth_z):
        rays = reference.rays(pixels.reshape(-1, 2))
        world = reference.centre_world() + rays * (z / (rays @ reference.forward_world()))[:, None]
        true, _ = source.project(world)
        # between the outermost cells' centres, beyond which interpolation reads zeros
        deep = (true > 0.51).all(1) & (true < last - 0.01).all(1)
        assert deep.sum() > 0.3 * deep.size
        np.testing.assert_allclose(warped[0, :, k].reshape(2, -1).T[deep], true[deep], atol=2e-3)


def test_features_are_centred_on_every_second_pixel() -> None:
    net = untrained()
    picture = torch.zeros(1, 3, 64, 64)
    picture[..., 32, 32] = 1.0  # cell 8 at stride 4 stands on pixel 32, so what it changes is even about cell 8
    for blocks in (net.feature.conv0, net.feature.conv1, net.feature.conv2):
        for block in blocks:  # even kernels, and positive, so that no ReLU hides anything
            block.conv.weight.copy_((block.conv.weight + block.conv.weight.flip(2, 3)).abs())
    change = net.feature(picture)[0] - net.feature(torch.zeros_like(picture))[0]
    near = change[..., 4:13, 4:13]  # far from the border, whose zeros are not even about the middle
    assert float(near.abs().max()) > 1e-4
    torch.testing.assert_close(near, near.flip(2, 3), atol=1e-5, rtol=1e-3)


def test_variance_is_least_at_the_planes_depth() -> None:
    views, plane_z, stride = views_of_a_plane()[:4], 1.75, 4
    waves = np.random.default_rng(0).normal(size=(32, 2)) * 4

    def on_plane(view: View) -> np.ndarray:
        rays, centre = view.rays(cell_centres(view, stride).reshape(-1, 2)), view.centre_world()
        return centre + rays * ((plane_z - centre[2]) / rays[:, 2])[:, None]

    def features(view: View) -> torch.Tensor:
        maps = np.sin(on_plane(view)[:, :2] @ waves.T).T
        return torch.from_numpy(maps.reshape(1, 32, *cell_centres(view, stride).shape[:2])).float()

    own, *others = [features(v) for v in views]
    rig = rig_of(views, 1.28, 2.22)
    depths = depth_hypotheses(rig, 0, own, None)
    step = float(depths[0, 1, 0, 0] - depths[0, 0, 0, 0])
    assert step == pytest.approx((2.22 - 1.28) / 47, rel=1e-4)
    variance = CasMvsNet()._variance(own, others, depths, rig, 0).mean(1)[0]
    seen = np.ones(variance[0].numel(), bool)
    for view in views[1:]:
        at, _ = view.project(on_plane(views[0]))
        seen &= ((at > 1) & (at < cell_centres(view, stride)[-1, -1])).all(1)
    best = depths[0, :, 0, 0][variance.argmin(0)].numpy().ravel()[seen]
    assert seen.mean() > 0.2 and np.abs(best - plane_z).max() < 1.01 * step


def test_hypotheses_are_the_published_ones() -> None:
    rig = Rig(torch.eye(3)[None, None], torch.zeros(1, 1, 3), torch.tensor([[1 / 4.0, 1 / 2.0]]))
    whole = depth_hypotheses(rig, 0, torch.zeros(1, 32, 2, 2), None)
    torch.testing.assert_close(whole[0, :, 1, 1], torch.linspace(2, 4, 48))
    interval = (4.0 - 2.0) / 192
    for stage, ratio in ((1, 2), (2, 1)):
        n = N_HYPOTHESES[stage]
        around = depth_hypotheses(rig, stage, torch.zeros(1, 16, 4, 4), torch.full((1, 2, 2), 3.9))[0, :, 1, 2]
        low = 3.9 - n / 2 * ratio * interval
        torch.testing.assert_close(around, low + torch.arange(n) * (n * ratio * interval / (n - 1)))


def test_confidence_of_a_known_volume() -> None:
    probability = torch.zeros(1, 8, 1, 4)
    probability[0, :, 0, 0] = 1 / 8  # expected at 3.5: hypotheses 2 to 5
    probability[0, 0, 0, 1] = 1.0
    probability[0, 7, 0, 2] = 1.0
    probability[0, 1, 0, 3], probability[0, 6, 0, 3] = 0.6, 0.4  # expected at 3: neither is near
    np.testing.assert_allclose(confidence(probability)[0, 0], [0.5, 1, 1, 0], atol=1e-6)
    even = torch.full((1, 4, 1, 1), 0.25)  # expected at 1.5: hypotheses 0 to 3
    assert float(confidence(even)) == pytest.approx(1.0)


@pytest.mark.parametrize("n_sources", [1, 2, 5])
def test_any_size_and_number_of_sources(n_sources: int) -> None:
    net = untrained()
    views = views_of_a_plane()[: n_sources + 1]
    rig = rig_of(views, 1.2, 2.4)
    with torch.inference_mode():
        pictures = [torch.rand(1, 3, v.camera.height_px - 3, v.camera.width_px - 5) for v in views]
        pyramids = [net.pyramid(p, torch.ones_like(p[:, :1])) for p in pictures]
        stages = net(pyramids[0], pyramids[1:], rig)
        found = net.depth(pyramids[0], pyramids[1:], rig)
    assert [tuple(s.depth_z.shape[1:]) for s in stages] == [(16, 24), (32, 48), (64, 96)]
    assert all(bool(torch.isfinite(s.depth_z).all()) for s in stages)
    # the later stages' hypotheses reach out of the range by half of what they cover
    assert float(stages[0].depth_z.min()) >= 1.2 - 1e-4 and float(stages[0].depth_z.max()) <= 2.4 + 1e-4
    assert float(stages[2].depth_z.min()) > 1.2 * 0.77 and float(stages[2].depth_z.max()) < 2.4 + 0.25
    torch.testing.assert_close(1 / rig.inverse_depth(found.position), stages[2].depth_z, atol=1e-5, rtol=1e-5)
    assert bool(((found.probability >= 0) & (found.probability <= 1)).all())


def test_a_range_that_begins_at_the_camera_stays_finite() -> None:
    net = untrained()
    views = views_of_a_plane()[:3]
    rig = rig_of(views, 0.05, 3.0)  # the second stage looks behind the camera as well
    with torch.inference_mode():
        pyramids = [net.pyramid(torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)) for _ in views]
        found = net.depth(pyramids[0], pyramids[1:], rig)
    assert bool(torch.isfinite(found.position).all())
    assert float(1 / rig.inverse_depth(found.position).max()) > 0.99 * LEAST_SHARE * 0.05


def test_a_bounded_pixel_stays_within_reach() -> None:
    net = untrained()
    views = views_of_a_plane()[:2]
    rig = rig_of(views, 1.0, 3.0)
    reach = torch.stack([torch.full((1, 32, 32), 0.1), torch.full((1, 32, 32), 0.3)], 1)
    with torch.inference_mode():
        pyramids = [net.pyramid(torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)) for _ in views]
        free, bounded = (net(pyramids[0], pyramids[1:], rig, r)[0].depth_z for r in (None, reach))
    far, near = 1 / rig.inverse_depth(torch.tensor([[0.1, 0.3]]))[0]
    step = 2.0 / 47
    assert float(bounded.min()) > near - step - 1e-3 and float(bounded.max()) < far + step + 1e-3
    assert float(free.min()) < near - step


def test_it_serves_the_stage_in_the_place_of_our_own(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "casmvsnet.ckpt", "module.")
    ball = make_scene(tmp_path / "ball", contrast=0.35, n_views=4)
    works: list[WorkView] = [w for i in range(4) if (w := cut_out(*ball, i, 0.5)) is not None]
    cfg = NetworkConfig(str(tmp_path / "casmvsnet.ckpt"), min_probability=0.0)
    hull = carve(works, ball[1], 32, 0.12)
    maps = list(network_depth_maps(works, [[1, 3], [0], [], [0, 1, 2]], [0, 1], hull, cfg))
    assert [m.work_view for m in maps] == works[:2]
    for found in maps:
        on = found.depth_z > 0
        assert found.depth_z.shape == found.work_view.mask.shape and on.any() and not on[~found.work_view.mask].any()
        # it knows nothing, but the hull bounds it
        assert np.abs(found.depth_z - true_depth(found.work_view))[on].max() < 2.5 * RADIUS
