"""Learned features: places and descriptors against known warps, the ONNX border, and the making of the weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pose.colmap_io import write_database
from pose.features import FeaturesConfig, detect
from pose.learned.blobs import find_blobs
from pose.learned.config import LearnedConfig
from pose.learned.detect import WEIGHTS, detect_at_turns, detect_learned, joined
from pose.learned.network import FeatureNet, normalised, save_weights
from pose.learned.training import fit as fitting
from pose.learned.training.samples import Pair, view_pair, warped_pair
from pose.learned.training.scenes import Views, make_scene
from pose.learned.training.textures import KINDS, texture
from pose.matching import match_pairs
from recon.data import Capture, Photo
from recon.errors import UserError

PIXEL_SHIFT = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
"""cv2 counts from the first pixel's centre, we from its corner."""


def picture(height: int = 360, width: int = 480) -> np.ndarray:
    """Blobs of many sizes that no network of ours was trained on."""
    rng, total = np.random.default_rng(5), np.zeros((height, width))
    for step in (6, 12, 24, 48):
        small = rng.uniform(0, 255, (height // step + 1, width // step + 1)).astype(np.float32)
        total += cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) / 4
    return np.clip(total * 1.6 - 70, 0, 255).astype(np.uint8)


def warp(grey: np.ndarray, b_from_a: np.ndarray) -> np.ndarray:
    """The picture through a homography of pixel positions."""
    to_cv = np.linalg.inv(PIXEL_SHIFT) @ b_from_a @ PIXEL_SHIFT
    return cv2.warpPerspective(grey, to_cv, grey.shape[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def slanted() -> np.ndarray:
    """A homography as of a plane seen from some 35 degrees elsewhere, turned by 12 degrees."""
    turn, squeeze = np.radians(12), np.diag([0.82, 1.0, 1.0])
    linear = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]])
    centre = np.array([[1, 0, 240], [0, 1, 180], [0, 0, 1.0]])
    tilt = np.array([[1, 0, 0], [0, 1, 0], [4e-4, 1e-4, 1.0]])
    return centre @ tilt @ squeeze @ linear @ np.linalg.inv(centre)


def through(matrix: np.ndarray, xy: np.ndarray) -> np.ndarray:
    moved = np.column_stack([xy, np.ones(len(xy))]) @ matrix.T
    return moved[:, :2] / moved[:, 2:]


def test_blobs_follow_a_shift_by_parts_of_a_pixel() -> None:
    fine = cv2.GaussianBlur(picture(720, 960).astype(np.float32), (0, 0), 2)
    for shift in ((1, 0), (2, 3), (3, 1)):  # quarters of a pixel after the reduction
        moved = warp(fine, np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1.0]]))
        places = [
            find_blobs(normalised(cv2.resize(p, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)), 300)[0]
            for p in (fine, moved)
        ]
        gap = np.linalg.norm((places[0] + np.array(shift) / 4)[:, None] - places[1][None], axis=-1).min(1)
        assert np.median(gap) < 0.1
        assert (gap < 0.3).mean() > 0.8


def test_a_spot_is_found_at_its_middle() -> None:
    image = np.full((64, 64), 60, np.uint8)
    cv2.circle(image, (31, 40), 2, 200, -1)
    xy, strength = find_blobs(normalised(image.astype(np.float32)), 5)
    assert np.allclose(xy[0], (31.5, 40.5), atol=0.05)
    assert (np.diff(strength) <= 0).all()


def test_normalised_photos_forget_exposure() -> None:
    grey = picture().astype(np.float32)
    difference = np.abs(normalised(grey) - normalised(grey * 0.7 + 40))
    assert difference.mean() < 0.1 * np.abs(normalised(grey)).mean()


def test_features_are_what_the_matcher_of_sift_expects() -> None:
    found = detect_learned(picture(), LearnedConfig(max_features=500))
    assert found.keypoints.dtype == np.float32 and found.descriptors.dtype == np.uint8
    assert len(found.keypoints) == len(found.descriptors) == 500
    length = np.linalg.norm(found.descriptors.astype(float), axis=1)
    assert length.max() < 520 and abs(np.median(length) - 512) < 2
    assert length.min() > 400  # a byte holds no number above a half
    assert (found.keypoints[:, :2] > 0).all() and (found.keypoints[:, :2] < (480, 360)).all()


def test_a_plain_and_a_tiny_photo_have_no_features() -> None:
    for grey in (np.full((200, 300), 128, np.uint8), picture()[:20, :20]):
        assert detect_learned(grey, LearnedConfig()).descriptors.shape == (0, 128)


def test_keypoints_are_in_pixels_of_the_photo_given() -> None:
    large = cv2.resize(picture(), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    reduced = detect_learned(large, LearnedConfig(max_side_px=480, max_features=300))
    own = detect_learned(picture(), LearnedConfig(max_features=1500))
    gap = np.linalg.norm(reduced.keypoints[:, None, :2] / 2 - own.keypoints[None, :, :2], axis=-1).min(1)
    assert np.median(gap) < 0.3


def test_pycolmap_matches_a_slanted_and_darker_photo(tmp_path: Path) -> None:
    b_from_a = slanted()
    photos = [picture(), np.clip(warp(picture(), b_from_a) * 0.6 + 10, 0, 255).astype(np.uint8)]
    listed = tuple(Photo(str(i), f"{i}.png", 480, 360, None, "lens", 1.0, 0.0) for i in range(2))
    capture = Capture(tmp_path, "two", listed)
    features = [detect_learned(g, LearnedConfig(max_features=1500)) for g in photos]
    database = tmp_path / "database.db"
    write_database(database, capture, features)
    match_pairs(database, [(0, 1)], 0, lambda done, total, note: None)
    rows = verified(database)
    error = np.linalg.norm(
        through(b_from_a, features[0].keypoints[rows[:, 0], :2]) - features[1].keypoints[rows[:, 1], :2], axis=1
    )
    assert len(rows) > 250
    assert (error < 2).mean() > 0.95
    assert np.median(error) < 0.6


def verified(database: Path) -> np.ndarray:
    import pycolmap

    handle = pycolmap.Database.open(database)
    try:
        return np.asarray(handle.read_two_view_geometry(1, 2).inlier_matches, int)
    finally:
        handle.close()


def test_weights_are_small_and_of_this_network() -> None:
    assert WEIGHTS.stat().st_size < 2_000_000
    with np.load(WEIGHTS) as arrays:
        names = {n for n in FeatureNet().state_dict() if not n.endswith("num_batches_tracked")}
        assert set(arrays) == names
        assert all(v.dtype == np.float16 and np.isfinite(v).all() for v in arrays.values())


def test_other_weights_can_be_used_and_wrong_ones_are_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_weights(FeatureNet(), tmp_path / "own.npz")
    own = detect_learned(picture(), LearnedConfig(checkpoint=str(tmp_path / "own.npz"), max_features=50))
    shipped = detect_learned(picture(), LearnedConfig(max_features=50))
    assert not np.array_equal(own.descriptors, shipped.descriptors)
    np.savez(tmp_path / "wrong.npz", a=np.zeros(3))
    with pytest.raises(UserError, match=r"wrong\.npz does not hold weights"):
        detect_learned(picture(), LearnedConfig(checkpoint=str(tmp_path / "wrong.npz")))
    with pytest.raises(UserError, match=r"lost\.npz is missing"):
        detect_learned(picture(), LearnedConfig(checkpoint=str(tmp_path / "lost.npz")))


def write_onnx(path: Path, output: str = "descriptors") -> None:
    """A file with ALIKED's inputs and outputs that always answers the same three keypoints, one in the padding."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    keypoints = np.array([[[-1, -1], [0, 0], [1, 1]]], np.float32)
    descriptors = np.zeros((1, 3, 64), np.float32)
    descriptors[0, :, :2] = [[0.6, -0.8], [1, 0], [0, 1]]
    values = {"keypoints": keypoints, output: descriptors, "scores": np.array([[0.2, 0.9, 1.0]], np.float32)}
    nodes = [helper.make_node("Constant", [], [n], value=numpy_helper.from_array(v)) for n, v in values.items()]
    graph = helper.make_graph(
        nodes,
        "aliked",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, None, None]),
            helper.make_tensor_value_info("max_keypoints", TensorProto.INT64, []),
            helper.make_tensor_value_info("min_score", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)


def test_an_onnx_checkpoint_gives_the_same_noun(tmp_path: Path) -> None:
    write_onnx(tmp_path / "aliked.onnx")
    found = detect_learned(picture(80, 100), LearnedConfig(checkpoint=str(tmp_path / "aliked.onnx")))
    # padded to 96 x 128: the corner pixels' centres are at 0.5 and 127.5 (95.5); the last lies in the padding
    assert np.allclose(found.keypoints[:, :2], [[64, 48], [0.5, 0.5]])
    shifted = found.descriptors.astype(int) - 128
    assert shifted[0, 0] == 127 and shifted[1, :3].tolist() == [127, -128, 0]  # 1, 0.6 and 0.8 are clipped
    assert found.descriptors.shape == (2, 128)


def test_an_unusable_onnx_checkpoint_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(name: str) -> None:
        detect_learned(picture(80, 100), LearnedConfig(checkpoint=str(tmp_path / name)))

    with pytest.raises(UserError, match=r"lost\.onnx is missing"):
        ask("lost.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"broken\.onnx cannot be read"):
        ask("broken.onnx")
    write_onnx(tmp_path / "other.onnx", output="features")
    with pytest.raises(UserError, match=r"other\.onnx is no ALIKED file"):
        ask("other.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    write_onnx(tmp_path / "good.onnx")
    with pytest.raises(UserError, match=r"needs onnxruntime: pip install onnxruntime"):
        ask("good.onnx")


@pytest.mark.parametrize("kind", KINDS)
def test_textures_are_pictures_and_repeat_by_seed(kind: Any) -> None:
    first, again, other = (kind(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.min() >= 0 and first.max() <= 1 and first.std() > 0.01


@pytest.fixture(scope="module")
def views() -> Views:
    return make_scene(3)


def agreement(pair: Pair) -> tuple[float, float]:
    """Median correlation of 9x9 patches around rows seen in both, and around rows put together wrongly."""
    rows = np.flatnonzero(pair.found_again)
    patches = [
        np.stack([cv2.getRectSubPix(image, (9, 9), (xy[r] - 0.5).tolist()).ravel() for r in rows])
        for image, xy in zip(pair.images, pair.xy_px, strict=True)
    ]
    a, b = ((p - p.mean(1, keepdims=True)) / (p.std(1, keepdims=True) + 1e-3) for p in patches)
    right, wrong = (a * b).mean(1), (a * np.roll(b, 1, axis=0)).mean(1)
    return float(np.median(right)), float(np.median(wrong))


def test_pairs_show_the_same_places(views: Views) -> None:
    flat = (texture(np.random.default_rng(2)) * 255).astype(np.uint8)
    makers = [lambda rng: view_pair(views, rng), lambda rng: warped_pair(flat, rng)]
    for make in makers:
        pairs = [make(np.random.default_rng([9, k])) for k in range(12)]
        right, wrong = np.median([agreement(p) for p in pairs if p.found_again.sum() > 5], axis=0)
        assert right > wrong + 0.25
        assert all(not (p.found_again & ~p.seen).any() and not (p.seen & ~p.judged).any() for p in pairs)


def test_a_fit_goes_on_where_it_was_stopped(views: Views, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    flats = [(texture(np.random.default_rng(2)) * 255).astype(np.uint8)]
    cfg = fitting.FitConfig(n_steps=3, pairs_per_step=1, check_every=1)
    checks = fitting.draw([views], flats, 1, 1.0, np.random.default_rng(0))
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = fitting.fit([views], flats, checks, tmp_path / "whole", cfg)
    append, calls = fitting._append, []

    def stop_at_the_second(path: Path, row: dict[str, float]) -> None:
        calls.append(row)
        if len(calls) == 2:
            raise KeyboardInterrupt
        append(path, row)

    monkeypatch.setattr(fitting, "_append", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        fitting.fit([views], flats, checks, tmp_path / "parts", cfg)
    monkeypatch.setattr(fitting, "_append", append)
    parts = fitting.fit([views], flats, checks, tmp_path / "parts", cfg)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-6), name
    assert len((tmp_path / "parts" / "curve.csv").read_text().splitlines()) == 4


def test_the_loss_falls_on_one_batch(views: Views) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cfg = fitting.FitConfig()
    batch = fitting.collate([view_pair(views, np.random.default_rng(k)) for k in range(2)], torch.device("cpu"))
    net = FeatureNet()
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    history = []
    for _ in range(12):
        matching, reliability, _ = fitting.losses(net, batch, cfg)
        optimiser.zero_grad()
        (matching + reliability).backward()
        optimiser.step()
        history.append(float((matching + reliability).detach()))
    assert history[-1] < 0.7 * history[0]


def test_a_turned_photo_is_matched_when_turned_back() -> None:
    grey = picture(400, 400)
    quarter = np.ascontiguousarray(np.rot90(grey, -1))  # clockwise: (x, y) goes to (400 - y, x)
    first = detect_learned(grey, LearnedConfig(max_features=400))
    found = {
        turn: detect_learned(quarter, LearnedConfig(max_features=400, turn_deg=turn)) for turn in (0.0, 90.0, 60.0)
    }
    n_right = {}
    for turn, second in found.items():
        nearest = (first.descriptors.astype(np.float32) @ second.descriptors.astype(np.float32).T).argmax(1)
        true = np.stack([400 - first.keypoints[:, 1], first.keypoints[:, 0]], -1)
        n_right[turn] = (np.linalg.norm(second.keypoints[nearest, :2] - true, axis=1) < 1.5).sum()
    spread = detect_at_turns(quarter, LearnedConfig(max_features=400), (0.0, 60.0, 120.0))
    assert 800 < len(spread.keypoints) <= 1200
    assert n_right[90.0] > 380
    assert n_right[60.0] > 100
    assert n_right[0.0] < 40


def test_two_kinds_of_features_go_into_one_list() -> None:
    learned = detect_learned(picture(), LearnedConfig(max_features=400))
    sift = detect(picture(), FeaturesConfig(max_features=400))
    both = joined(sift, learned)
    n = len(sift.keypoints)
    assert np.array_equal(both.keypoints[n:], learned.keypoints)
    # each descriptor's nearest of another place is of its own kind, but for a few
    values = both.descriptors.astype(np.float32)
    cosine = values @ values.T
    near = np.linalg.norm(both.keypoints[:, None, :2] - both.keypoints[None, :, :2], axis=-1) < 4
    nearest = np.where(near, -1, cosine).argmax(1)
    assert ((nearest < n) == (np.arange(len(values)) < n)).mean() > 0.9
