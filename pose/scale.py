"""How long the model's unit is in metres: from a printed marker, from depth maps, or from poses of an AR session.

Photos alone do not tell; without any of these the scale is unknown and said to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np

from pose.markers import MarkerDictionary, find_markers, marker_sides
from pose.model import SparseModel
from recon.camera import Pinhole, View
from recon.data import Capture, read_rgb
from recon.stage import Job

UNKNOWN = "unknown"
DISAGREEMENT = 0.05
"""Two sources that differ by more than this share are worth a warning."""
MIN_DEPTHS = 50
"""Fewer measured points are no base for a scale."""
MIN_DEPTH_VIEWS = 2


class GivenUnit(Enum):
    """What one unit of given poses is."""

    auto = "auto"
    metre = "metre"
    unknown = "unknown"


@dataclass(frozen=True)
class ScaleConfig:
    """Where metres come from."""

    marker_side_m: float = 0.0
    """Side of the black square of a printed ArUco or AprilTag marker in the photos (of a board: of each marker on it),
    in metres; 0 looks for none."""
    marker_dictionary: MarkerDictionary = MarkerDictionary.auto
    """The family of the marker; `auto` takes the one that is found most."""
    given_unit: GivenUnit = GivenUnit.auto
    """Unit of given poses: `auto` takes Polycam's for metres, and all others for unknown; `metre` for other AR sessions
    (Record3D, ARKit, ARCore)."""


@dataclass(frozen=True)
class Scale:
    """Metres in one unit of the model, from one source."""

    metres_per_unit: float
    uncertainty: float | None
    """Relative: the spread of the single measurements (they share causes, so it is not divided by the square root of
    their number); None where not measured."""
    source: str
    """In words."""
    counts: dict[str, float] = field(default_factory=dict)

    def stats(self) -> dict[str, float]:
        """Figures for the report."""
        return self.counts if self.uncertainty is None else self.counts | {"scale_uncertainty": self.uncertainty}


def find_scale(
    capture: Capture, model: SparseModel, cameras: Sequence[Pinhole], folder: Path, cfg: ScaleConfig, job: Job
) -> Scale | None:
    """The best of the sources that there are (marker, then depth maps, then AR poses), or None; disagreement is told.

    cameras: of the undistorted photos that `folder` holds in images/. Depth and AR are only trusted as far as they go:
    a marker is measured with a ruler.
    """
    candidates = [
        _from_markers(model, cameras, folder, cfg, job) if cfg.marker_side_m > 0 else None,
        _from_depth(capture, model),
        _from_given(capture, cfg),
    ]
    found = [c for c in candidates if c is not None]
    for other in found[1:]:
        ratio = other.metres_per_unit / found[0].metres_per_unit
        if abs(np.log(ratio)) > np.log(1 + DISAGREEMENT):
            job.warn(
                f"The scale from {found[0].source} and that from {other.source} differ by "
                f"{100 * abs(ratio - 1):.0f} %; the former was used."
            )
    return found[0] if found else None


def is_metric(capture: Capture, cfg: ScaleConfig) -> bool:
    """Whether the unit of the capture's given poses is the metre."""
    if capture.given is None or cfg.given_unit is GivenUnit.unknown:
        return False
    return capture.given.is_metric or cfg.given_unit is GivenUnit.metre


def _from_given(capture: Capture, cfg: ScaleConfig) -> Scale | None:
    return Scale(1.0, None, "given poses (AR)") if is_metric(capture, cfg) else None


def _from_markers(
    model: SparseModel, cameras: Sequence[Pinhole], folder: Path, cfg: ScaleConfig, job: Job
) -> Scale | None:
    """From the sides of printed markers whose corners are triangulated over all photos that show them."""
    views = [View(n, c, p) for n, c, p in zip(model.names, cameras, model.cam_from_world, strict=True)]
    photos = (read_rgb(folder / "images" / f"{v.name}.jpg") for v in views)
    seen = find_markers(photos, cfg.marker_dictionary)
    sides = marker_sides(views, seen)
    if not len(sides.lengths):
        job.warn(
            f"No marker of {cfg.marker_side_m:g} m was found in three photos or more, so it gives no scale; "
            "print it larger, lay it flat beside the object and keep all of its white border in the picture."
        )
        return None
    middle = float(np.median(sides.lengths))
    spread = _spread(sides.lengths) / middle
    return Scale(
        cfg.marker_side_m / middle,
        spread,
        f"{sides.n_markers} printed {'marker' if sides.n_markers == 1 else 'markers'} ({sides.dictionary.value})",
        {"n_markers": float(sides.n_markers), "n_marker_views": float(sides.n_views)},
    )


def _from_depth(capture: Capture, model: SparseModel) -> Scale | None:
    """From the depth maps at the sparse points: the median over photos of the median of measured over model depth."""
    ratios = []
    n = 0
    for view, name in enumerate(model.names):
        depth_z_m = capture.depth_z_m(name)
        if depth_z_m is None:
            continue
        rows = np.flatnonzero(model.obs_view_idx == view)
        lens = model.lenses[view]
        depth_z = model.cam_from_world[view].apply(model.points[model.obs_point_idx[rows]])[:, 2]
        h, w = depth_z_m.shape
        col, row = (model.obs_px[rows] * [w / lens.width_px, h / lens.height_px]).astype(int).T
        measured = depth_z_m[np.clip(row, 0, h - 1), np.clip(col, 0, w - 1)]
        known = (measured > 0) & (depth_z > 0)
        if known.sum() >= MIN_DEPTHS / 5:
            ratios.append(float(np.median(measured[known] / depth_z[known])))
            n += int(known.sum())
    if len(ratios) < MIN_DEPTH_VIEWS or n < MIN_DEPTHS:
        return None
    middle = float(np.median(ratios))
    spread = _spread(np.array(ratios)) / middle
    return Scale(
        middle,
        spread,
        f"{len(ratios)} depth maps",
        {"n_depth_maps": float(len(ratios))},
    )


def _spread(values: np.ndarray) -> float:
    """Robust standard deviation: 1.4826 times the median distance to the median."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
