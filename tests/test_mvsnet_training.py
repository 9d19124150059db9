"""The making of the depth network's weights: scenes that are right, a loss that falls, a fit that resumes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recon.prior.network.cascade import STEPS, StageDepth, load_weights
from recon.prior.network.config import SHIPPED
from recon.prior.network.warp import warp_to_planes
from recon.prior.training import fit as fitting
from recon.prior.training import scenes as rendering
from recon.prior.training import tuples as drawing
from recon.prior.training.fit import Fit, FitConfig, found_by, loss_of, reached, truth_at, tuples_of, validate
from recon.prior.training.scenes import Views, make_views
from recon.prior.training.shapes import KINDS, random_object
from recon.prior.training.tuples import StoredScenes, collate, draw, draw_tuple, moved, view_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def views() -> Views:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "WIDTH_PX", 96)
        patch.setattr(rendering, "HEIGHT_PX", 64)
        return make_views(0)


class OneScene:
    """A scene again and again."""

    def __init__(self, views: Views) -> None:
        self.views = views

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Views:
        return self.views


def test_shapes_are_whole_and_of_unit_size() -> None:
    for seed in range(2 * len(KINDS)):
        pieces = random_object(np.random.default_rng(seed))
        low = np.min([p.mesh.bounds[0] for p in pieces], axis=0)
        high = np.max([p.mesh.bounds[1] for p in pieces], axis=0)
        assert (high - low).max() == pytest.approx(1) and low[2] == pytest.approx(0, abs=1e-9)
        assert all(np.isfinite(p.mesh.vertices).all() and len(p.mesh.faces) > 3 for p in pieces)


def test_a_scene_is_the_same_for_the_same_seed(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "WIDTH_PX", 96)
    monkeypatch.setattr(rendering, "HEIGHT_PX", 64)
    again, other = make_views(0), make_views(5)
    for name, value in vars(views).items():
        np.testing.assert_array_equal(value, getattr(again, name))
    assert not np.array_equal(views.rgb, other.rgb)


def test_depths_of_two_views_agree(views: Views) -> None:
    height, width = views.depth_z.shape[1:]
    agree, compared = 0, 0
    for i, j in [(0, 2), (2, 4), (1, 3)]:
        one, other = view_of(views, i), view_of(views, j)
        v, u = np.mgrid[0:height, 0:width]
        rays = one.rays(np.stack([u.ravel() + 0.5, v.ravel() + 0.5], -1))
        distance = views.depth_z[i].ravel() / (rays @ one.forward_world())
        pixels, z = other.project(one.centre_world() + rays * distance[:, None])
        there = np.flatnonzero(other.in_image(pixels, z))
        seen = views.depth_z[j][tuple(pixels[there].astype(int).T[::-1])]
        agree += int((np.abs(seen - z[there]) < 0.02 * z[there]).sum())
        compared += int((seen > 0.98 * z[there]).sum())  # what is nearer there hides it
    assert compared > 2000 and agree > 0.9 * compared
    for k in range(len(views.rgb)):
        far, near = views.inv_depth[k]
        inv = 1 / np.maximum(views.depth_z[k], 1e-6)
        assert ((inv > far) & (inv < near)).mean() > 0.1
        assert views.rgb[k].std() > 3


def test_photos_of_two_views_look_alike_at_the_true_depth(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MASKED_SHARE", 0.0)
    right, wrong = [], []
    for seed in range(5):
        batch = collate([draw_tuple(views, 1, np.random.default_rng(seed))], CPU)
        inv_depth = batch.rig.inverse_depth(batch.position)[:, None]
        for depth, found in ((inv_depth, right), (inv_depth * 0.93, wrong)):
            warped, inside = warp_to_planes(batch.rgb[:, 1], batch.rig.a[:, 0], batch.rig.b[:, 0], depth, 1)
            on = inside[:, 0] & batch.known
            grey, other = batch.rgb[:, 0].mean(1)[on], warped[:, :, 0].mean(1)[on]
            found.append(float(np.corrcoef(grey, other)[0, 1]))
    assert np.median(right) > 0.5 and np.median(right) > np.median(wrong) + 0.05


def test_moved_cameras_are_off_by_parts_of_a_pixel(views: Views) -> None:
    view, rng = view_of(views, 0), np.random.default_rng(0)
    point = (view.centre_world() + 2.0 * view.forward_world())[None] + rng.normal(0, 0.2, (50, 3))
    off = [moved(view, 2.0, rng).project(point)[0] - view.project(point)[0] for _ in range(50)]
    assert 0.05 < np.sqrt(np.mean(np.square(off))) < 1.0


def test_truth_at_a_coarse_stage_leaves_edges_out(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MASKED_SHARE", 0.0)
    batch = collate([draw_tuple(views, 2, np.random.default_rng(1))], CPU)
    true, known = truth_at(batch, 4)
    assert true.shape == (1, 16, 24) and known.any() and not known.all()
    i, j = (int(x) for x in known[0].nonzero()[0])
    cell = batch.position[0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
    assert float(true[0, i, j]) == pytest.approx(float(cell.mean()), abs=1e-5)
    assert float(cell.max() - cell.min()) < 2 * STEPS[0]


def test_thirty_steps_on_one_tuple_lower_the_depth_error(views: Views, tmp_path: Path) -> None:
    cfg = FitConfig(n_steps=60, warm_steps=3, learning_rate=4e-3)
    run, tuples = Fit(tmp_path, CPU, cfg), [draw_tuple(views, 1, np.random.default_rng(2))] * 2
    batch = collate(tuples, CPU)

    def error() -> float:
        with torch.no_grad():  # by the batch's own statistics: running ones lag behind so short a training
            position = found_by(run.net, batch)[-1].position[:, : batch.position.shape[1], : batch.position.shape[2]]
        return float((position - batch.position).abs()[batch.known].mean())

    before = error()
    losses = [run.train_step(tuples) for _ in range(30)]
    assert error() < 0.5 * before
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])  # later stages begin to count as the first gets better
    figures = validate(run.net, [batch], cfg)
    assert run.net.training and 0 <= figures["right_share"] <= 1 and np.isfinite(list(figures.values())).all()


def test_an_interrupted_fit_goes_on_as_if_it_had_not_been(
    views: Views, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes, cfg = OneScene(views), FitConfig(n_steps=4, most_sources=2, check_every=2)
    checks = [collate(tuples_of(99, scenes, cfg), CPU)]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    net = fitting.fit(scenes, checks, whole, CPU, cfg)
    step = Fit.train_step

    def interrupted(self: Fit, tuples: list) -> float:
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self, tuples)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitting.fit(scenes, checks, parts, CPU, cfg)
    resumed = fitting.fit(scenes, checks, parts, CPU, cfg)
    for name, value in net.state_dict().items():
        # sums in torch's threads may come in another order
        torch.testing.assert_close(value, resumed.state_dict()[name], rtol=1e-3, atol=1e-5)
    for folder in (whole, parts):
        lines = (folder / "curve.csv").read_text().splitlines()
        assert lines[0].startswith("step,seconds,train_loss,loss") and [x.split(",")[0] for x in lines[1:]] == [
            "2",
            "4",
        ]


def test_scenes_are_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: Views) -> None:
    made = []
    monkeypatch.setattr(drawing, "make_views", lambda seed: made.append(seed) or views)
    scenes = StoredScenes(tmp_path / "scenes", range(7, 9))
    assert len(scenes) == 2
    for _ in range(2):
        np.testing.assert_array_equal(scenes[1].rgb, views.rgb)
    assert made == [8] and not list(tmp_path.glob("**/*partial*"))


def test_the_loss_is_of_known_and_reached_depths(views: Views) -> None:
    batch = collate([draw_tuple(views, 2, np.random.default_rng(1))], CPU)
    cfg, published = FitConfig(), FitConfig(unreached_weight=1.0)
    right = [StageDepth(t := truth_at(batch, s)[0], torch.ones_like(t)) for s in (4, 2, 1)]
    assert float(loss_of(right, batch, cfg)) == 0
    wrong = [*right[:2], StageDepth(right[2].position + 3 * STEPS[2], right[2].probability)]
    # smooth L1 of 3 steps is 2.5, the last stage weighs 2, and next to depth edges the stage before cannot be right
    assert float(loss_of(wrong, batch, published)) == pytest.approx(2 * 2.5, rel=1e-3)
    assert 0.8 * 5 < float(loss_of(wrong, batch, cfg)) < 5
    lost = [right[0], StageDepth(right[1].position * 0 + 0.0, right[1].probability), right[2]]
    true, known = truth_at(batch, 1)
    share = reached(lost, 2, true, batch.reach())[known]
    assert share.float().mean() < 0.2 and bool((true[known][share] < 7 * STEPS[2] + 1.1 * STEPS[2]).all())


def test_a_fit_can_be_bounded_by_time(views: Views, tmp_path: Path) -> None:
    scenes, cfg = OneScene(views), FitConfig(n_steps=10_000, most_s=0.01, most_sources=2)
    fitting.fit(scenes, [collate(tuples_of(9, scenes, cfg), CPU)], tmp_path, CPU, cfg)
    assert [x.split(",")[0] for x in (tmp_path / "curve.csv").read_text().splitlines()[1:]] == ["1"]
    assert Fit(tmp_path, CPU, cfg).used() >= 1, "it stays ended"


def test_the_shipped_weights_tell_depth_in_scenes_that_they_never_saw(tmp_path: Path) -> None:
    """Of the held-out scenes, whose seeds come before those trained on; the model card's figures are of all of them."""
    scenes = StoredScenes(tmp_path, range(4))
    batches = [collate(draw(scenes, 2, 2 + k, np.random.default_rng([3, k])), CPU) for k in range(2)]
    net = load_weights(SHIPPED, CPU)
    judged = validate(net, batches, FitConfig())
    assert judged["right_share"] > 0.25 and judged["right_share_of_surer_half"] > 0.4
    assert judged["median_error"] < 0.04


def test_masks_show_the_object_and_their_outlines_are_a_little_off(views: Views) -> None:
    for k, mask in enumerate(views.mask):
        inverse = 1 / np.maximum(views.depth_z[k], 1e-6)
        far, near = views.inv_depth[k]
        assert 0.02 < mask.mean() < 0.9
        # the object's nearest and farthest points bound what its mask shows
        assert inverse[mask].min() > 0.999 * far and inverse[mask].max() < 1.001 * near
    mask, rng = views.mask[0], np.random.default_rng(0)
    near_outline = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))) > cv2.erode(
        mask.astype(np.uint8), np.ones((9, 9))
    )
    off = [mask != drawing.ragged(mask, rng) for _ in range(20)]
    assert not np.any(off, axis=0)[~near_outline].any()
    assert 0.005 * near_outline.sum() < np.mean([o.sum() for o in off]) < 0.5 * near_outline.sum()
    assert not drawing.ragged(np.zeros_like(mask), rng).any()


def test_a_masked_tuple_is_asked_for_the_object_alone(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MASKED_SHARE", 1.0)
    batch = collate([draw_tuple(views, 2, np.random.default_rng(3))], CPU)
    assert batch.known.any() and not (batch.known & batch.beside).any()
    assert not batch.known[batch.mask[:, 0] == 0].any()
    outline = torch.nn.functional.avg_pool2d((~batch.beside)[:, None].float(), 4)[:, 0]
    true, known = truth_at(batch, 4)
    on = known & (outline > 0.3) & (outline < 0.7)
    assert on.any(), "cells on the outline are asked too"
    i, j = (int(x) for x in on[0].nonzero()[0])
    cell = (slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4))
    own = batch.position[0][cell][batch.known[0][cell]]
    assert float(true[0, i, j]) == pytest.approx(float(own.mean()), abs=1e-5)
    monkeypatch.setattr(drawing, "MASKED_SHARE", 0.0)
    whole = collate([draw_tuple(views, 2, np.random.default_rng(3))], CPU)
    assert bool((whole.mask == 1).all()) and not whole.beside.any() and whole.known.sum() > batch.known.sum()


def test_a_fit_can_begin_with_given_weights(tmp_path: Path) -> None:
    run = Fit(tmp_path, CPU, FitConfig(start=str(SHIPPED)))
    for name, value in load_weights(SHIPPED, CPU).state_dict().items():
        torch.testing.assert_close(value, run.net.state_dict()[name])
    assert run.net.training and all(p.requires_grad for p in run.net.parameters())
