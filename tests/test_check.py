"""`recon check`: what it finds in known sets of cameras, what it says, and how it ends."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from drawn_box import look_at
from PIL import Image
from rich.console import Console
from test_capture import textured

from recon.camera import Pinhole, View
from recon.check import CheckReport, print_check
from recon.cli import main
from recon.coverage import (
    ExposureReport,
    coverage_report,
    direction_name,
    exposure_report,
    exposures_ev,
    overlap_report,
)
from recon.data import Capture, LeftOut, Photo, PosedCapture, SupportPlane

CAMERA = Pinhole(400, 300, 350.0, 350.0, 200.0, 150.0)


def cameras(azimuths_deg: np.ndarray, elevation_deg: float) -> list[np.ndarray]:
    """Centres at distance 1 around the origin; azimuth 0 stands at -Y."""
    a, e = np.radians(azimuths_deg), np.radians(elevation_deg)
    return [np.array([np.cos(e) * np.sin(x), -np.cos(e) * np.cos(x), np.sin(e)]) for x in a]


def posed(folder: Path, centres: list[np.ndarray], size: float = 0.2, wall: bool = False) -> PosedCapture:
    """Cameras that look at a ball of points of radius `size`; each camera sees the side that faces it."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(600, 3))
    points *= size / np.linalg.norm(points, axis=1, keepdims=True)
    views = tuple(View(f"v{i}", CAMERA, look_at(c, np.zeros(3))) for i, c in enumerate(centres))
    seen = [np.flatnonzero(points @ v.forward_world() < -0.5 * size) for v in views]
    plane = SupportPlane(np.array([0, -1.0, 0]), -0.5, 0.4) if wall else SupportPlane(np.array([0, 0, 1.0]), -0.5, 0.4)
    return PosedCapture(
        folder=folder,
        views=views,
        points_world=points,
        point_rgb=np.zeros((600, 3), np.uint8),
        point_error_px=np.zeros(600),
        obs_point_idx=np.concatenate(seen),
        obs_view_idx=np.repeat(np.arange(len(views)), [len(s) for s in seen]),
        focus_world=np.zeros(3),
        up_source="support plane",
        scale_source="unknown",
        support_plane=plane,
        sharpness=np.ones(len(views)),
    )


def capture(folder: Path, n: int, **photo: float) -> Capture:
    values = {"sharpness": 1.0, "exposure_ev": 0.0} | photo
    photos = (Photo(f"v{i}", f"v{i}.jpg", 400, 300, None, "lens", **values) for i in range(n))
    return Capture(folder, "cup", tuple(photos), (LeftOut("pocket.jpg", "it is black"),))


def report_on(folder: Path, of: PosedCapture, **photo: float) -> CheckReport:
    even = ExposureReport(np.full(len(of.views), 0.4), np.zeros(len(of.views)), 0.3)
    taken = capture(folder, len(of.views), **photo)
    return CheckReport(taken, of, even, overlap_report(of), coverage_report(of), False, "")


FULL = [*cameras(np.arange(0, 360, 24), 12), *cameras(np.arange(0, 360, 24), 45), *cameras(np.arange(0, 360, 60), 65)]


def test_a_full_turn_has_no_fault(tmp_path: Path) -> None:
    report = report_on(tmp_path, posed(tmp_path, FULL))
    assert report.advice() == []
    table = report.coverage.table()
    assert table.sum(axis=1).tolist() == [0, 15, 15, 6] and (table[1:].sum(axis=0) >= 2).all()
    assert report.coverage.gaps_deg() == [] and not report.coverage.cut_off and report.overlap.weak() == []


def test_a_gap_is_named_as_the_photographer_sees_it(tmp_path: Path) -> None:
    """Without the photos from 90 to 170 degrees to the right of the first, and nothing from above."""
    azimuths = np.array([a for a in range(0, 360, 12) if not 84 < a < 170])
    coverage = coverage_report(posed(tmp_path, cameras(azimuths, 15)))
    assert coverage.azimuth_deg == pytest.approx(azimuths.astype(float)), "azimuth grows to the photographer's right"
    assert coverage.elevation_deg == pytest.approx(np.full(len(azimuths), 15.0))
    (gap,) = coverage.gaps_deg()
    assert gap == pytest.approx((84, 180))
    assert coverage.findings()[0].startswith("No photo from the back right (84 to 180 degrees)")
    assert any("Nothing from above" in f for f in coverage.findings())
    assert coverage.table()[1].tolist()[3:6] == [1, 0, 0]


def test_only_from_above_and_on_a_wall(tmp_path: Path) -> None:
    steep = coverage_report(posed(tmp_path, cameras(np.arange(0, 360, 20), 60)))
    assert [f for f in steep.findings() if "Nothing from the side" in f] and steep.gaps_deg() == []
    wall = coverage_report(posed(tmp_path, cameras(np.arange(-70, 71, 10), 10), wall=True))
    assert wall.on_wall and wall.findings() == []
    assert [direction_name(a) for a in (0, 91, 180, 350, 675)] == [
        f"from the {x}" for x in ("front", "right", "back", "front", "front left")
    ]


def test_a_photo_that_hangs_on_nothing_and_one_too_close(tmp_path: Path) -> None:
    scene = posed(tmp_path, [*FULL, 0.4 * FULL[0]])
    keep = (scene.obs_view_idx != 20) | (scene.obs_point_idx % 40 == 0)
    lonely = PosedCapture(
        **{k: getattr(scene, k) for k in scene.__dataclass_fields__}
        | {"obs_point_idx": scene.obs_point_idx[keep], "obs_view_idx": scene.obs_view_idx[keep]}
    )
    assert overlap_report(lonely).weak()[0] == "v20"
    assert coverage_report(lonely).cut_off == (f"v{len(FULL)}",)
    assert any("Too few other photos see the same points as v20" in a for a in report_on(tmp_path, lonely).advice())


def test_exposure_of_photos_on_disk(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i, grey in enumerate((20, 20, 255)):
        Image.new("RGB", (60, 40), (grey, grey, grey)).save(tmp_path / "images" / f"v{i}.jpg")
    dark = exposure_report(capture(tmp_path, 2), None)
    assert dark.brightness == pytest.approx([20 / 255] * 2, abs=0.01) and "photos are dark" in dark.findings()[0]
    assert exposure_report(capture(tmp_path, 3), None).clipped.tolist() == [0, 0, 1]
    changing = ExposureReport(np.full(3, 0.5), np.zeros(3), 2.2)
    assert changing.findings() == [f for f in changing.findings() if "2.2 stops" in f and "lock" in f]


def test_exposure_is_told_from_what_else_is_in_the_picture(tmp_path: Path) -> None:
    """Every view shows the ball as a disc; a bright or dark wall behind it is no change of exposure."""
    scene = posed(tmp_path, FULL)
    (tmp_path / "images").mkdir()
    stops = np.tile([-1.0, 0.0, 0.5], 12)
    for i, ev in enumerate(stops):
        picture = np.full((300, 400, 3), (30, 120, 240)[i % 2], np.uint8)
        ball = np.hypot(*np.mgrid[-150:150, -200:200]) < 80
        picture[ball] = round(255 * (0.2 * 2**ev) ** (1 / 2.2))
        Image.fromarray(picture).save(tmp_path / "images" / f"v{i}.jpg", quality=95)
    assert exposures_ev(scene) == pytest.approx(stops, abs=0.1)


def said(report: CheckReport) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    print_check(console, report)
    return console.export_text()


def test_what_is_printed(tmp_path: Path) -> None:
    good = said(report_on(tmp_path, posed(tmp_path, FULL)))
    assert "36 usable of 37" in good and "pocket.jpg: it is black" in good and "Verdict: good" in good
    partial = said(report_on(tmp_path, posed(tmp_path, cameras(np.arange(0, 180, 12), 20)), sharpness=0.3))
    assert "gap: from the" in partial and "Verdict: usable" in partial and "15 photos blurred" in partial
    refusal = "For cup, none of 9 photos could be placed."
    even = ExposureReport(np.full(9, 0.4), np.zeros(9), 0.3)
    failed = CheckReport(capture(tmp_path, 9), None, even, None, None, False, refusal)
    assert failed.advice() == [refusal] and f"Verdict: a run would fail. {refusal}" in said(failed)
    hazy = CheckReport(capture(tmp_path, 15), None, even, None, None, True, refusal)
    assert "All photos are blurred" in hazy.advice()[0] and refusal in said(hazy)
    pair = CheckReport(capture(tmp_path, 2), None, even, None, None, False, refusal)
    assert "2 photos are few" in pair.advice()[0] and "take 20 to 60" in said(pair)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["check"], 2, "recon check capture=FOLDER"),
        (["check", "capture=cup", "preset=draft"], 2, "recon check capture=FOLDER"),
        (["check", "capture=gone"], 1, "does not exist"),
        (["check", "capture=empty"], 1, "no photo or video"),
        (["check", "capture=one"], 1, "only one usable photo"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    textured(0).save(tmp_path / "one" / "a.jpg")
    assert main(words) == code
    errors = capsys.readouterr().err.strip()
    assert says in errors and len(errors.splitlines()) == 1


def test_a_capture_that_would_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photos of unrelated things: nothing connects, and the exit code says so; nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cup").mkdir()
    for i in range(4):
        textured(i, 200, 150).save(tmp_path / "cup" / f"{i}.jpg")
    assert main(["check", "capture=cup"]) == 1
    assert "Verdict: a run would fail." in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["cup"]
