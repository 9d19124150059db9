"""What a capture shows of its object: sharpness, exposure, overlap, directions, and what the frame cuts off."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int
from PIL import Image

from recon.data import Capture, PosedCapture

SECTORS = 12
"""Parts of the turn around the object."""
ELEVATION_BANDS = (
    ("from below", -90.0, 0.0),
    ("level", 0.0, 25.0),
    ("slanted", 25.0, 55.0),
    ("from above", 55.0, 91.0),
)
"""Name, from and to in degrees above the object's level."""
MAX_SPREAD_EV = 1.5
"""Exposure that changes by more stops than this leaves some photos too dark or too bright to match and paint with."""
MIN_GAP_DEG = 60.0
"""A turn without a photo from which a part of the object is seen too slantingly from both sides."""
SHARED_POINTS = 15
"""Photos that share so many points see each other."""
FEW_PARTNERS = 3
"""A photo that sees fewer others hangs on few matches."""
CUT_SHARE = 0.03
"""Share of the object's points outside a photo from which it counts as cut off."""
OBJECT_REACH = 0.35
"""Points closer to the focus than this, in median camera distances, are taken for the object's."""


@dataclass(frozen=True)
class ExposureReport:
    """How bright the photos are."""

    brightness: Float64[np.ndarray, " n_photos"]
    """Median of each photo's sRGB values, 0..1."""
    clipped: Float64[np.ndarray, " n_photos"]
    """Share of each photo's pixels that are white."""
    spread_ev: float | None
    """From the 5th to the 95th percentile of the photos' exposure, in stops; None where no photos were placed."""

    def findings(self) -> list[str]:
        """What is wrong, one sentence each."""
        found = []
        if np.median(self.brightness) < 0.12:
            found.append("The photos are dark: use more light, best the even light of a window or a cloudy day.")
        if np.mean(self.clipped > 0.1) > 0.25:
            found.append("Much of the picture is blown out white: tap on the object so that the phone exposes for it.")
        if self.spread_ev is not None and self.spread_ev > MAX_SPREAD_EV:
            found.append(
                f"The brightness changes by {self.spread_ev:.1f} stops between photos: lock the exposure "
                "(hold the finger on the object until AE/AF LOCK shows)."
            )
        return found


@dataclass(frozen=True)
class OverlapReport:
    """Which photos see the same points."""

    names: tuple[str, ...]
    n_partners: Int[np.ndarray, " n_views"]
    """How many other photos share at least SHARED_POINTS points with each."""
    n_points: Int[np.ndarray, " n_views"]

    def weak(self) -> list[str]:
        """The photos that hang on few matches, the weakest first."""
        order = np.lexsort((self.n_points, self.n_partners))
        return [self.names[i] for i in order if self.n_partners[i] < min(FEW_PARTNERS, len(self.names) - 1)]


@dataclass(frozen=True)
class CoverageReport:
    """From which directions the object was photographed.

    Azimuth 0 is the first photo's; it grows to the right of whoever stands there, counter-clockwise seen from above.
    """

    azimuth_deg: Float64[np.ndarray, " n_views"]
    """0..360."""
    elevation_deg: Float64[np.ndarray, " n_views"]
    on_wall: bool
    """The object hangs on a wall, so that there is nothing to see from behind."""
    cut_off: tuple[str, ...]
    """Photos whose frame cuts the object off."""

    def table(self) -> Int[np.ndarray, "n_bands n_sectors"]:
        """Photos by elevation band and sector; a sector is centred on its direction, the first on azimuth 0."""
        counts = np.zeros((len(ELEVATION_BANDS), SECTORS), int)
        sector = np.floor(self.azimuth_deg / (360 / SECTORS) + 0.5).astype(int) % SECTORS
        for row, (_, low, high) in enumerate(ELEVATION_BANDS):
            chosen = (self.elevation_deg >= low) & (self.elevation_deg < high)
            np.add.at(counts[row], sector[chosen], 1)
        return counts

    def gaps_deg(self) -> list[tuple[float, float]]:
        """Turns of at least MIN_GAP_DEG without a photo (from, to), the widest first; `to` may pass 360."""
        around = np.sort(self.azimuth_deg[self.elevation_deg < 70])
        if len(around) == 0:
            return [(0.0, 360.0)]
        ends = np.append(around[1:], around[0] + 360)
        gaps = [(float(a), float(b)) for a, b in zip(around, ends, strict=True) if b - a >= MIN_GAP_DEG]
        gaps.sort(key=lambda g: g[0] - g[1])
        return gaps[1:] if self.on_wall else gaps  # the widest is then the wall's own side

    def findings(self) -> list[str]:
        """What is missing, one sentence each."""
        found = []
        for a, b in self.gaps_deg():
            range_deg = f"{a:.0f} to {b if b <= 360 else b - 360:.0f} degrees"
            found.append(f"No photo {direction_name((a + b) / 2)} ({range_deg}): walk on around there.")
        if self.on_wall:
            return found
        if self.elevation_deg.max() < 40:
            found.append("Nothing from above: add a ring with the phone held high, looking down on the object.")
        if self.elevation_deg.min() > 35:
            found.append("Nothing from the side: add a ring with the phone at the object's height.")
        return found


def direction_name(azimuth_deg: float) -> str:
    """Where a direction lies for somebody who stands where the first photo was taken."""
    names = ["front", "front right", "right", "back right", "back", "back left", "left", "front left"]
    return f"from the {names[round(azimuth_deg / 45) % 8]}"


def capture_advice(
    capture: Capture, exposure: ExposureReport, overlap: OverlapReport, coverage: CoverageReport
) -> list[str]:
    """What to do better when capturing again, the most useful first; empty for a good capture."""
    n, n_placed = len(capture.photos), len(overlap.names)
    found = []
    if n_placed < 0.9 * n:
        found.append(
            f"{n - n_placed} of {n} photos could not be placed: take more photos between them and the others, "
            "in steps of about 10 degrees."
        )
    found += coverage.findings()
    weak = overlap.weak()
    if weak:
        found.append(
            f"Too few other photos see the same points as {listed(weak)}: take more photos near there, "
            "with large overlap."
        )
    if len(coverage.cut_off) > 0.2 * n_placed:
        found.append(
            f"The frame cuts the object off in {len(coverage.cut_off)} photos: step back until all of it "
            "is in the picture."
        )
    soft = sum(p.sharpness < 0.5 for p in capture.photos)
    if soft > 0.2 * n:
        found.append(f"{soft} of {n} photos are blurred: hold the phone still while it takes them, in more light.")
    return found + exposure.findings()


def listed(names: list[str]) -> str:
    """Up to five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def exposure_report(capture: Capture, posed: PosedCapture | None) -> ExposureReport:
    """Brightness and white pixels of every photo, from small copies, and how far the exposures lie apart."""
    brightness, clipped = [], []
    for photo in capture.photos:
        with Image.open(capture.image_path(photo.name)) as image:
            image.draft("RGB", (400, 400))
            values = np.asarray(image.convert("RGB"))
        brightness.append(float(np.median(values)) / 255)
        clipped.append(float((values.min(axis=2) >= 250).mean()))
    spread = None
    if posed is not None:
        low, high = np.percentile(exposures_ev(posed), (5, 95))
        spread = float(high - low)
    return ExposureReport(np.array(brightness), np.array(clipped), spread)


def exposures_ev(posed: PosedCapture) -> Float64[np.ndarray, " n_views"]:
    """Each view's exposure in stops against the median view, from how bright it shows the points it shares.

    Unlike a photo's mean brightness this does not depend on what else is in the picture.
    """
    light = np.zeros(len(posed.obs_view_idx))
    for i, view in enumerate(posed.views):
        rows = np.flatnonzero(posed.obs_view_idx == i)
        pixels, _ = view.project(posed.points_world[posed.obs_point_idx[rows]])
        grey = cv2.GaussianBlur(cv2.cvtColor(posed.image(i), cv2.COLOR_RGB2GRAY), (0, 0), 1.5)
        at = np.clip(pixels.astype(int), 0, (view.camera.width_px - 1, view.camera.height_px - 1))
        light[rows] = np.log2((np.maximum(grey[at[:, 1], at[:, 0]], 2) / 255) ** 2.2)  # sRGB's curve, nearly
    n_seen = np.maximum(np.bincount(posed.obs_point_idx, minlength=len(posed.points_world)), 1)
    ev = np.zeros(len(posed.views))
    for _ in range(20):  # the points' brightness given the exposures, then the exposures given the points'
        of_point = np.bincount(posed.obs_point_idx, light - ev[posed.obs_view_idx], len(n_seen)) / n_seen
        rest = light - of_point[posed.obs_point_idx]
        views = [rest[posed.obs_view_idx == i] for i in range(len(ev))]
        ev = np.array([np.median(v) if len(v) else 0.0 for v in views])
        ev -= np.median(ev)
    return ev


def overlap_report(posed: PosedCapture) -> OverlapReport:
    """How many points every two views share."""
    n = len(posed.views)
    seen = np.zeros((n, len(posed.points_world)), np.float32)
    seen[posed.obs_view_idx, posed.obs_point_idx] = 1
    shared = seen @ seen.T
    np.fill_diagonal(shared, 0)
    names = tuple(v.name for v in posed.views)
    return OverlapReport(names, (shared >= SHARED_POINTS).sum(axis=1), seen.sum(axis=1).astype(int))


def coverage_report(posed: PosedCapture) -> CoverageReport:
    """The directions of the views around the object, and which of them cut it off."""
    centres = np.array([v.centre_world() for v in posed.views])
    away = centres - posed.focus_world
    first = np.arctan2(away[0, 1], away[0, 0])
    azimuth = np.degrees(np.arctan2(away[:, 1], away[:, 0]) - first) % 360
    elevation = np.degrees(np.arctan2(away[:, 2], np.linalg.norm(away[:, :2], axis=1)))
    plane = posed.support_plane
    on_wall = plane is not None and abs(float(plane.normal_world[2])) < 0.5
    reach = float(np.median(np.linalg.norm(away, axis=1)))
    cut_off = _cut_off(posed, posed.points_world[_on_object(posed, reach)])
    return CoverageReport(azimuth, elevation, on_wall, cut_off)


def _on_object(posed: PosedCapture, distance: float) -> Bool[np.ndarray, " n_points"]:
    """Points near the focus that are not on what the object stands on; distance: of the median camera."""
    near = np.linalg.norm(posed.points_world - posed.focus_world, axis=1) < OBJECT_REACH * distance
    plane = posed.support_plane
    if plane is not None:
        near &= posed.points_world @ plane.normal_world - plane.offset > 0.02 * distance
    return near


def _cut_off(posed: PosedCapture, points_world: Float64[np.ndarray, "n 3"]) -> tuple[str, ...]:
    """Names of the views outside whose frame more than CUT_SHARE of the points lie."""
    if len(points_world) < 50:
        return ()
    return tuple(v.name for v in posed.views if 1 - v.in_image(*v.project(points_world)).mean() > CUT_SHARE)
