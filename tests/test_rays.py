"""Which rays are drawn and what they are held against: the photo pyramid, importance by tile, photos that disagree."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from striped_sphere import SMALL, sphere_cloud, sphere_scene

from recon.camera import View
from recon.data import PosedCapture
from recon.stage import Job
from recon.surface.config import SurfaceConfig
from recon.surface.fit import fit_surface
from recon.surface.hashgrid import GridLayout
from recon.surface.importance import ImportanceConfig, RayDraw, Tiles, density, edge_nearness
from recon.surface.pixels import OBJECT, OUTSIDE, gather_pixels
from recon.surface.pyramid import PyramidConfig, blend_scales, coarse_colours, scale_at
from recon.surface.random_numbers import RandomNumbers
from recon.surface.trust import PhotoErrors, TrustConfig
from recon.transforms import Rigid

CPU = torch.device("cpu")


def test_no_scale_mixes_the_background_into_the_object():
    rng = np.random.default_rng(0)
    on = np.zeros((60, 80), bool)
    on[10:40, 10:50] = True
    on[40:58, 20:22] = True  # a leg of two pixels
    image = rng.integers(0, 255, (60, 80, 3)).astype(np.uint8)
    image[on] = (200, 120, 40)
    levels = coarse_colours(image, on, 5)
    assert levels.shape == (60, 80, 4, 3)
    assert np.abs(levels[on].astype(int) - (200, 120, 40)).max() <= 1  # rounding of one mean divided by another


def test_each_scale_is_half_as_fine_as_the_one_before():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (128, 128, 3)).astype(np.uint8)
    levels = coarse_colours(image, np.ones((128, 128), bool), 4)
    deviation = [levels[16:-16, 16:-16, k].std() for k in range(3)]
    # means over 4, 16 and 64 independent pixels, then interpolated between squares, which takes a third off each time
    for k, found in enumerate(deviation):
        assert 0.5 * image.std() / 2 ** (k + 1) < found < image.std() / 2 ** (k + 1)
    assert levels.mean() == pytest.approx(image.mean(), abs=1)
    assert coarse_colours(image, np.ones((128, 128), bool), 1).shape == (128, 128, 0, 3)


LAYOUT = GridLayout(n_levels=8, n_features=2, log2_rows=12, base_resolution=8, finest_resolution=1024)  # growth 2


def test_the_scale_follows_the_open_levels_down_to_the_full_photo():
    cfg = PyramidConfig(n_scales=4)
    # a pixel covers a cell of level 5 (256 cells): level 3's cell covers 4 of them, so scale 2
    at = {n: scale_at(n, LAYOUT, 1 / 256, cfg) for n in (1, 2, 4, 4.5, 5, 6, 8)}
    assert at == pytest.approx({1: 3, 2: 3, 4: 2, 4.5: 1.5, 5: 1, 6: 0, 8: 0})
    # photos finer than the finest cell are reached all the same
    assert scale_at(8, LAYOUT, 1 / 5000, cfg) == 0
    assert scale_at(7, LAYOUT, 1 / 5000, cfg) == pytest.approx(1)
    assert scale_at(1, LAYOUT, 1 / 256, PyramidConfig(n_scales=1)) == 0


def test_scales_are_blended_linearly():
    rgb = torch.zeros(1, 3, dtype=torch.uint8)
    coarse = torch.tensor([[[51] * 3, [255] * 3]], dtype=torch.uint8)
    for scale, expected in ((0, 0), (0.5, 0.1), (1, 0.2), (1.25, 0.4), (2, 1)):
        torch.testing.assert_close(blend_scales(rgb, coarse, scale), torch.full((1, 3), float(expected)))


def random_tiles(rng: np.random.Generator, n_object: int = 300, n_beside: int = 100) -> Tiles:
    n = n_object + n_beside
    start = np.concatenate([[0], np.cumsum(rng.integers(1, 80, n))])
    detail, edge = rng.gamma(0.5, 1, n), rng.random(n) ** 4
    detail[n_object:] = 0
    of_tile = [torch.from_numpy(x) for x in (detail.astype(np.float32), edge.astype(np.float32))]
    return Tiles(torch.from_numpy(start), n_object, *of_tile, torch.arange(n) // 10)


def test_weights_undo_the_draw():
    random = np.random.default_rng(2)
    tiles, rng = random_tiles(random), RandomNumbers(2, CPU)
    rays = RayDraw(ImportanceConfig(0.3, 0.2, 0.3), tiles)
    rays.observe(torch.arange(300), torch.from_numpy(random.gamma(0.3, 1, 300)), 0)
    rays.refresh()
    n, border = int(tiles.start[-1]), int(tiles.start[tiles.n_object])
    value = torch.repeat_interleave(tiles.detail + tiles.edge, tiles.start.diff()).numpy() + random.random(n)
    drawn = [rays.draw(rng, 800, 200) for _ in range(300)]
    pixel, tile, weight = (torch.cat(x).numpy() for x in zip(*drawn, strict=True))
    assert (np.searchsorted(tiles.start, pixel, side="right") - 1 == tile).all()
    assert (pixel < border).sum() == 300 * 800
    for part, inside in ((value[:border], pixel < border), (value[border:], pixel >= border)):
        w, f = weight[inside], value[pixel[inside]]
        # 60,000 draws and more: the noise of a mean is below half a per cent
        assert w.mean() == pytest.approx(1, abs=0.01)
        assert (w * f).mean() == pytest.approx(part.mean(), rel=0.01)
        assert f.mean() > 1.05 * part.mean()  # without weights it is off
    assert weight.max() <= 1 / (1 - 0.8) + 1e-6


def test_without_shares_every_pixel_is_as_likely_and_batches_are_spread_evenly():
    tiles = random_tiles(np.random.default_rng(3))
    rays = RayDraw(ImportanceConfig(0, 0, 0), tiles)
    pixel, tile, weight = rays.draw(RandomNumbers(3, CPU), 1000, 0)
    assert (weight == 1).all()
    expected = 1000 * tiles.start.diff()[:300] / tiles.start[300]
    # one ray in each thousandth of the pixels: a tile gets what it should but for its two ends
    assert (torch.bincount(tile, minlength=300)[:300] - expected).abs().max() < 2
    assert pixel.max() < tiles.start[300]


def test_density_is_capped_and_means_one():
    n_pixels, value = torch.tensor([50, 50, 1, 1]), torch.tensor([1.0, 1, 1, 1000])
    ratio = density([(0.5, value)], n_pixels, largest=8)
    assert float(ratio @ n_pixels.double()) / 102 == pytest.approx(1)
    mean = float(value @ n_pixels.float()) / 102
    assert float((ratio[3] - 0.5) / (ratio[0] - 0.5)) == pytest.approx(8 * mean)
    assert (density([(0.5, torch.zeros(4))], n_pixels, largest=8) == 1).all()


def test_tiles_with_large_errors_are_drawn_more_often_and_forgotten_again():
    tiles, rng = random_tiles(np.random.default_rng(4)), RandomNumbers(4, CPU)
    rays = RayDraw(ImportanceConfig(0, 0, 0.5), tiles)

    def look(error_there: float) -> float:
        for step in range(800):
            _, tile, _ = rays.draw(rng, 800, 200)
            error = torch.where((tile >= 20) & (tile < 30), error_there, 0.1)  # those of one larger tile
            rays.observe(tile, error, step)
        return float(rays.ratio[20:30].mean())

    assert look(0.5) > 2
    assert look(0.1) == pytest.approx(1, abs=0.05)


def test_a_restored_draw_goes_on_alike():
    tiles = random_tiles(np.random.default_rng(5))
    first = RayDraw(ImportanceConfig(0.2, 0.1, 0.2), tiles)
    for step in range(70):
        first.observe(torch.arange(400), torch.linspace(0, 1, 400), step)
    second = RayDraw(ImportanceConfig(0.2, 0.1, 0.2), tiles)
    second.restore(first.state())
    draws = [r.draw(RandomNumbers(6, CPU), 50, 50) for r in (first, second)]
    for a, b in zip(*draws, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="add up"):
        ImportanceConfig(0.5, 0.5, 0.2)


def test_thin_parts_lie_nearer_to_an_edge_than_broad_ones():
    on = np.zeros((200, 200), bool)
    on[20:120, 20:180] = True
    on[120:180, 100:104] = True
    near = edge_nearness(on, 8)
    assert near[70, 100] == 0
    assert near[22, 100] == pytest.approx(0.35, abs=0.03)  # the third row of a straight edge, window of 17
    assert near[150, 102] > 0.7
    assert near[10, 100] == 0
    assert near[18, 100] > 0.3


def test_the_pool_keeps_each_tile_together_within_its_budget(tmp_path: Path):
    posed, region = sphere_scene(tmp_path / "scene")
    pool = gather_pixels(posed, region, 0.06, 3, 10**6, 0)
    tiles, view_idx, pixel = pool.tiles, pool.view_idx.numpy(), pool.pixel.numpy().astype(int)
    assert (pool.label[: pool.n_object] == OBJECT).all()
    assert (pool.label[pool.n_object :] == OUTSIDE).all()
    assert tiles.start[tiles.n_object] == pool.n_object
    assert tiles.start[-1] == len(pool.label)
    for a, b in zip(tiles.start[:-1], tiles.start[1:], strict=True):
        assert len(set(view_idx[a:b])) == 1
        assert np.ptp(pixel[a:b], axis=0).max() < 2  # 72 px in 150 tiles: the least tile is 2 px
    assert len(np.unique(np.column_stack([view_idx, pixel]), axis=0)) == len(pool.label)
    for i in range(len(posed.views)):
        column, row = pixel[view_idx == i].T
        np.testing.assert_array_equal(pool.rgb[view_idx == i], posed.image(i)[row, column])
    small = gather_pixels(posed, region, 0.06, 3, 5000, 0)
    assert 4500 < len(small.label) < 5500
    assert small.n_object / len(small.label) == pytest.approx(pool.n_object / len(pool.label), abs=0.03)


def errors_of(colour: np.ndarray, outline: np.ndarray) -> PhotoErrors:
    photos = PhotoErrors(TrustConfig(), len(colour), CPU)
    errors = torch.from_numpy(np.stack([colour, outline]))
    photos.observe(torch.arange(len(colour)), errors, torch.ones_like(errors))
    return photos


def test_only_the_photo_that_stands_out_loses_weight():
    rng = np.random.default_rng(7)
    colour, outline = rng.normal(0.03, 0.004, 40), rng.normal(0.02, 0.003, 40)
    assert (errors_of(colour, outline).trust() == 1).all()
    colour[7], outline[12] = 0.12, 0.15
    trust = errors_of(colour, outline).trust()
    assert trust[7] < 0.5
    assert trust[12] < 0.5
    assert (np.delete(trust, [7, 12]) == 1).all()


def turned(posed: PosedCapture, view_idx: int, angle_deg: float) -> PosedCapture:
    """The capture with one camera turned about its own centre."""
    view = posed.views[view_idx]
    turn = Rotation.from_rotvec(np.radians(angle_deg) * np.array([0.6, 0.8, 0])).as_matrix()
    pose = view.cam_from_world
    wrong = View(view.name, view.camera, Rigid(turn @ pose.rotation, turn @ pose.translation))
    views = tuple(wrong if i == view_idx else v for i, v in enumerate(posed.views))
    return dataclasses.replace(posed, views=views)


@pytest.mark.parametrize(("angle_deg", "found"), [(0.0, []), (3.0, ["v4"])])
def test_a_photo_with_a_wrong_pose_is_named_and_no_other(tmp_path: Path, angle_deg: float, found: list[str]):
    posed, region = sphere_scene(tmp_path / "scene")
    (tmp_path / "job").mkdir()
    job = Job("fit", tmp_path / "job")
    cfg = SurfaceConfig(n_steps=250, **SMALL)
    fit_surface(turned(posed, 4, angle_deg), region, sphere_cloud(2000), cfg, job)
    assert sorted(job.notes["doubted_photos"]) == found
    assert len(job.warnings) == len(found)
    for name, sentence in zip(found, job.warnings, strict=True):
        assert name in sentence
        assert "leave it out" in sentence
