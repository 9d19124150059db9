"""The texture's benchmark: its measures on cases whose answers are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from recon.camera import Pinhole, View
from recon.data import PosedCapture
from recon.evaluate.pictures import Shot, compare
from recon.transforms import Rigid

ROOT = Path(__file__).parent.parent


@pytest.fixture
def texture(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark_texture

    yield benchmark_texture
    sys.modules.pop("benchmark_texture")


def test_measures_see_the_inside_only_and_no_exposure():
    rng = np.random.default_rng(0)
    photo = rng.integers(40, 200, (80, 100, 3)).astype(np.uint8)
    inside = np.zeros((80, 100), bool)
    inside[20:60, 20:80] = True
    exact = (photo / 255).astype(np.float32)
    dirty = np.where(inside[..., None], exact, 0).astype(np.float32)
    best = compare([Shot(photo, dirty, inside)])
    assert best["psnr"] > 80 and best["ssim"] > 0.999 and best["flip"] < 1e-3
    dim = compare([Shot(photo, 0.8 * exact, inside)])
    assert dim["psnr"] > 80 and dim["flip"] > 0.02
    noisy = exact + rng.normal(0, 0.05, exact.shape).astype(np.float32)
    assert compare([Shot(photo, noisy, inside)])["psnr"] == pytest.approx(26.0, abs=0.5)


def test_noise_turns_cameras_by_so_many_pixels(texture, tmp_path):
    camera = Pinhole(1200, 900, 900.0, 900.0, 600.0, 450.0)
    views = tuple(View(f"v{i}", camera, Rigid(np.eye(3), np.array([0.1 * i, 0, 3.0]))) for i in range(5))
    none = np.zeros(0, int)
    posed = PosedCapture(
        tmp_path, views, np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), none, none, np.zeros(3), "truth",
        "truth", None, np.ones(5),
    )  # fmt: skip
    shifts = []
    for before, after in zip(views, texture.disturbed(posed, 2.0).views, strict=True):
        assert np.allclose(before.centre_world(), after.centre_world())
        far = before.centre_world()[None] + [[0, 0, 10.0]]
        shifts.append(after.project(far)[0][0] - before.project(far)[0][0])
    assert np.allclose(np.linalg.norm(shifts, axis=1), 2.0, atol=1e-3)
    assert np.ptp(np.arctan2(*np.transpose(shifts))) > 1  # each its own way
