"""Which photos of a capture are used: bursts, thinning, useless photos, what is stored beside a photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from test_capture import exif, read, textured

from recon.capture.choose import ChoiceConfig
from recon.capture.find import find_files
from recon.capture.motion import is_same_view, spread_choice, thumbnail, view_shift
from recon.errors import UserError

BACK, FRONT = textured(0, 1600, 400), textured(1, 160, 160)


def scene(step: float, shake: tuple[int, int] = (0, 0)) -> Image.Image:
    """A photo from a place `step` along a walk: what stands in front moves thrice as far as the wall behind it."""
    x, y = round(10 * step) + 40 + shake[0], 40 + shake[1]
    photo = BACK.crop((x, y, x + 480, y + 320))
    photo.paste(FRONT, (480 // 2 - round(20 * step) % 240 - shake[0], 90 - shake[1]))
    return photo


def walk(folder: Path, steps: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in steps:
        scene(i).save(folder / f"IMG_{i:03d}.jpg", quality=95)


def test_one_view_is_told_from_two() -> None:
    here = thumbnail(scene(2))
    brighter = scene(2, (6, -5)).point(lambda v: min(255, round(v * 1.2)))
    assert is_same_view(here, thumbnail(brighter), 0.002), "a shaking hand and another exposure change no view"
    assert is_same_view(here, thumbnail(scene(2, (3, 2)).filter(ImageFilter.GaussianBlur(1.5))), 0.002)
    assert not is_same_view(here, thumbnail(scene(2.5)), 0.002), "the front moved against the wall by 10 of 480 pixels"
    assert not is_same_view(here, thumbnail(scene(2, (40, 0))), 0.002), "the camera turned on to other parts"
    assert not is_same_view(here, thumbnail(textured(5, 480, 320)), 0.002)
    turned = scene(2)
    turned.paste(textured(6, 100, 100), (140, 110))
    assert not is_same_view(here, thumbnail(turned), 0.002), "a thing turned before a still background"
    assert view_shift(here, thumbnail(scene(2, (12, 0)))) == pytest.approx(12 / 480, rel=0.05)
    assert view_shift(here, thumbnail(textured(5, 480, 320))) is None


def test_the_sharpest_of_a_burst_is_used(tmp_path: Path) -> None:
    walk(tmp_path / "cup", range(6))
    blurred = scene(3, (2, 1)).filter(ImageFilter.GaussianBlur(1.2))
    blurred.save(tmp_path / "cup" / "IMG_002b.jpg", quality=95)  # between 2 and 3 by name
    scene(3, (-4, 3)).filter(ImageFilter.GaussianBlur(0.8)).save(tmp_path / "cup" / "IMG_003b.jpg", quality=95)
    capture, _ = read(tmp_path / "cup", tmp_path / "out")
    assert [p.name for p in capture.photos] == [f"IMG_{i:03d}" for i in range(6)]
    assert {x.name for x in capture.left_out} == {"IMG_002b.jpg", "IMG_003b.jpg"}
    assert all("IMG_003.jpg, the sharpest of 3" in x.reason for x in capture.left_out)
    assert {f.stem for f in (tmp_path / "out" / "images").iterdir()} == {p.name for p in capture.photos}
    everything, _ = read(tmp_path / "cup", tmp_path / "all", choice=ChoiceConfig(max_parallax=0))
    assert len(everything.photos) == 8 and not everything.left_out


def test_neighbours_are_found_by_time_where_names_do_not_tell(tmp_path: Path) -> None:
    for i, name in enumerate(["d", "a", "c", "b"]):
        tags = exif()
        tags[306] = f"2026:05:04 11:02:0{i}"
        scene(3 * (i // 2), (2 * i, 0)).save(tmp_path / f"{name}.jpg", exif=tags, quality=95)
    capture, _ = read(tmp_path, tmp_path / "out")
    assert len(capture.photos) == 2
    assert len({p.name for p in capture.photos} & {"d", "a"}) == 1


def test_choice_by_spread_and_sharpness() -> None:
    path, quality = np.arange(30.0), np.ones(30)
    assert np.ptp(np.diff(spread_choice(path, quality, 10, 0.0))) <= 3
    quality[::3] = 2.0
    assert (spread_choice(path, quality, 10, 0.0) % 3 == 0).all(), "sharp ones first where the spread allows"
    standing = np.concatenate([np.zeros(40), np.linspace(0, 1, 21)])
    chosen = spread_choice(standing, np.ones(61), 20, 0.02)
    assert (standing[chosen] == 0).sum() == 1 and 15 <= len(chosen) <= 20
    assert np.diff(standing[chosen]).min() >= 0.02
    assert len(spread_choice(np.zeros(9), np.ones(9), 20, 0.02)) == 2


def test_a_huge_capture_is_thinned(tmp_path: Path) -> None:
    walk(tmp_path / "cup", range(24))
    capture, _ = read(tmp_path / "cup", tmp_path / "out", choice=ChoiceConfig(max_photos=8))
    kept = [int(p.name.split("_")[1]) for p in capture.photos]
    assert len(kept) == 8 and np.diff(kept).max() <= 5
    assert len(capture.left_out) == 16 and "8 of 24 photos are enough" in capture.left_out[0].reason


def test_black_and_useless_photos_go_where_enough_stay(tmp_path: Path) -> None:
    walk(tmp_path / "cup", range(21))
    Image.new("RGB", (480, 320), (1, 1, 1)).save(tmp_path / "cup" / "pocket.jpg")
    scene(30).filter(ImageFilter.GaussianBlur(6)).save(tmp_path / "cup" / "smeared.jpg")
    capture, _ = read(tmp_path / "cup", tmp_path / "out")
    assert {x.name: x.reason for x in capture.left_out} == {
        "pocket.jpg": "it is black",
        "smeared.jpg": "it is blurred beyond use",
    }
    for i in range(4):
        (tmp_path / "cup" / f"IMG_{i:03d}.jpg").unlink()
    capture, _ = read(tmp_path / "cup", tmp_path / "few")
    assert len(capture.photos) == 19 and not capture.left_out


def test_all_blurred_is_said(tmp_path: Path) -> None:
    for i in range(4):
        textured(i, 1200, 800).filter(ImageFilter.GaussianBlur(4)).save(tmp_path / f"{i}.jpg", quality=95)
    _, job = read(tmp_path, tmp_path / "out")
    assert any("All photos are blurred" in w and "more light" in w for w in job.warnings)


def test_what_phones_store_beside_a_photo(tmp_path: Path) -> None:
    for name in ("IMG_1.JPG", "IMG_1.DNG", "IMG_1.MOV", "IMG_2.HEIC", "IMG_2.mov", "IMG_3.dng", "walk.mp4"):
        (tmp_path / name).write_text(name)
    found = find_files(tmp_path)
    assert [f.name for f in found.photos] == ["IMG_1.JPG", "IMG_2.HEIC", "IMG_3.dng"]
    assert [f.name for f in found.videos] == ["walk.mp4"] and "3 photos are few" in found.note
    reasons = {x.name: x.reason for x in found.left_out}
    assert "raw file of IMG_1.JPG" in reasons["IMG_1.DNG"]
    assert "live photo IMG_1.JPG" in reasons["IMG_1.MOV"] and "live photo IMG_2.HEIC" in reasons["IMG_2.mov"]


def test_videos_beside_many_photos_are_left_out(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"{i}.jpg").write_text(str(i))
    (tmp_path / "walk.mp4").write_text("film")
    found = find_files(tmp_path)
    assert len(found.photos) == 12 and not found.videos
    assert [x.reason for x in found.left_out] == ["a video; the photos were used instead"]


def test_a_poster_is_not_a_live_photo(tmp_path: Path) -> None:
    (tmp_path / "cup.jpg").write_text("poster")
    (tmp_path / "cup.mov").write_text("film")
    assert [f.name for f in find_files(tmp_path).videos] == ["cup.mov"]


def test_only_useless_photos(tmp_path: Path) -> None:
    scene(0).save(tmp_path / "a.jpg")
    scene(0, (2, 2)).save(tmp_path / "b.jpg")
    with pytest.raises(UserError, match=r"only one usable photo; .* nearly the same picture"):
        read(tmp_path, tmp_path / "out")
