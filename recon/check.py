"""`recon check`: what a capture is worth, before a long run. Photos are read small and placed with few features."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from pose.estimate import PosesConfig, estimate_poses
from pose.features import FeaturesConfig
from pose.pairs import PairsConfig
from pose.recover import Means, RecoverConfig
from recon.capture.quality import are_all_blurred, detail_profile
from recon.capture.read import CaptureConfig, read_capture
from recon.coverage import (
    ELEVATION_BANDS,
    SECTORS,
    CoverageReport,
    ExposureReport,
    OverlapReport,
    capture_advice,
    coverage_report,
    direction_name,
    exposure_report,
    listed,
    overlap_report,
)
from recon.data import Capture, PosedCapture
from recon.errors import UserError
from recon.stage import Workspace

READ = CaptureConfig(max_side_px=1000)
POSES = PosesConfig(
    features=FeaturesConfig(max_side_px=1000, max_features=1500),
    pairs=PairsConfig(n_partners=12),
    recover=RecoverConfig(hardest=Means.guided),
)
"""Enough to place the photos of a good capture within a minute on two cores; a run looks four times as closely."""
FEW_PHOTOS, FAR_TOO_FEW = 12, 6
"""Below the first a result is coarse at best, below the second there is hardly ever one."""


@dataclass(frozen=True)
class CheckReport:
    """All that was found out about a capture."""

    capture: Capture
    posed: PosedCapture | None
    """None where the photos could not be placed."""
    exposure: ExposureReport
    overlap: OverlapReport | None
    coverage: CoverageReport | None
    all_blurred: bool
    refusal: str
    """Why a run would fail; empty where it would not."""

    def advice(self) -> list[str]:
        """What to do better when capturing again, the most useful first; empty for a good capture."""
        n = len(self.capture.photos)
        found = []
        if self.all_blurred:
            found.append("All photos are blurred: take them again in more light, tapping on the object to focus.")
        if n < FEW_PHOTOS:
            found.append(f"{n} photos are few: take 20 to 60 all around the object, in steps of about 10 degrees.")
        if self.refusal:
            # So few photos, or blurred ones, are reason enough; what the matching says then would lead astray.
            return found if self.all_blurred or n < FAR_TOO_FEW else [self.refusal]
        assert self.overlap is not None and self.coverage is not None
        return found + capture_advice(self.capture, self.exposure, self.overlap, self.coverage)


def check_capture(source: Path, console: Console) -> CheckReport:
    """Read a capture and place its photos quickly, in a temporary folder.

    Raises UserError where there is nothing to look at.
    """
    with tempfile.TemporaryDirectory(prefix="recon-check-") as folder:
        workspace = Workspace(Path(folder))
        with console.status("reading the photos"):
            capture = workspace.run(read_capture, source, cfg=READ)
            all_blurred = _is_all_blurred(capture)
        posed, refusal = None, ""
        with console.status("finding the cameras, roughly"):
            try:
                posed = workspace.run(estimate_poses, capture, cfg=POSES)
            except UserError as error:
                refusal = str(error)
        return CheckReport(
            capture=capture,
            posed=posed,
            exposure=exposure_report(capture, posed),
            overlap=None if posed is None else overlap_report(posed),
            coverage=None if posed is None else coverage_report(posed),
            all_blurred=all_blurred,
            refusal=refusal,
        )


def _is_all_blurred(capture: Capture) -> bool:
    profiles = []
    for photo in capture.photos:
        with Image.open(capture.image_path(photo.name)) as image:
            profiles.append(detail_profile(image))
    return are_all_blurred(np.stack(profiles))


def print_check(console: Console, report: CheckReport) -> None:
    """Tell a person what a capture is worth, and the one thing to do better."""
    for line in _photo_lines(report):
        _say(console, line)
    if report.coverage is not None and report.overlap is not None:
        _say(console, _overlap_line(report.overlap, len(report.capture.photos)))
        _print_directions(console, report.coverage)
    advice = report.advice()
    for sentence in advice[1:]:
        _say(console, f"also: {sentence}")
    if report.refusal:
        _say(console, f"Verdict: a run would fail. {advice[0]}", "bold red")
        if report.refusal not in advice:
            _say(console, report.refusal)
    elif advice:
        _say(console, f"Verdict: usable. To make it better: {advice[0]}", "bold yellow")
    else:
        _say(console, "Verdict: good. Run recon on it.", "bold green")


def _photo_lines(report: CheckReport) -> list[str]:
    capture, exposure = report.capture, report.exposure
    lines = [f"photos: {len(capture.photos)} usable of {len(capture.photos) + len(capture.left_out)}"]
    lines += [f"  left out: {x.name}: {x.reason}" for x in capture.left_out[:10]]
    if len(capture.left_out) > 10:
        lines.append(f"  and {len(capture.left_out) - 10} more")
    if report.posed is not None:
        lines += [f"  not placed: {x.name}: {x.reason}" for x in report.posed.left_out[:10]]
    soft = sorted((p for p in capture.photos if p.sharpness < 0.5), key=lambda p: p.sharpness)
    lines.append(
        "sharpness: "
        + ("all photos are blurred" if report.all_blurred else f"{len(soft)} photos blurred")
        + (f" (the worst: {listed([p.source for p in soft])})" if soft else "")
    )
    lines.append(
        f"exposure: median brightness {np.median(exposure.brightness):.0%}, {np.median(exposure.clipped):.0%} white"
        + ("" if exposure.spread_ev is None else f", {exposure.spread_ev:.1f} stops between photos")
    )
    return lines


def _overlap_line(overlap: OverlapReport, n_photos: int) -> str:
    weak = overlap.weak()
    tail = f"; hanging on few matches: {listed(weak)}" if weak else ""
    return (
        f"overlap: {len(overlap.names)} of {n_photos} photos placed; each shares points with "
        f"{np.median(overlap.n_partners):.0f} others (the least with {overlap.n_partners.min()}){tail}"
    )


def _print_directions(console: Console, coverage: CoverageReport) -> None:
    """Photos by direction: columns turn to the right from the first photo, rows go up."""
    table = Table(title="photos by direction (degrees to the right of the first photo)", title_justify="left")
    table.add_column("")
    width = 360 // SECTORS
    for sector in range(SECTORS):
        table.add_column(f"{sector * width}", justify="right")
    counts = coverage.table()
    for row in reversed(range(len(ELEVATION_BANDS))):
        name, low, high = ELEVATION_BANDS[row]
        if counts[row].sum() or high > 0:
            label = f"{name} ({low:.0f} to {min(high, 90):.0f})"
            table.add_row(label, *(str(c) if c else "." for c in counts[row]))
    console.print(table)
    for a, b in coverage.gaps_deg():
        _say(console, f"gap: {direction_name((a + b) / 2)}, {b - a:.0f} degrees wide")
    if coverage.on_wall:
        _say(console, "The object seems to hang on a wall, so nothing is expected from behind.")
    if coverage.cut_off:
        _say(console, f"cut off by the frame: {listed(list(coverage.cut_off))}")


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
