"""Do given poses agree with what the photos show in common?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from pose.matching import read_matches

MIN_FITTING = 0.5
"""A given pose that a smaller share of its photo's matches fits is wrong."""
MIN_TRIANGULATED = 0.25
"""A smaller share of the features matched in two other photos is triangulated only where the poses are wrong."""
MIN_JUDGED = 15
"""A photo with fewer matches says nothing about its given pose."""


@dataclass(frozen=True)
class Verdict:
    wrong: set[int]
    confirmed: set[int]
    """Photos in neither set share too little with others to be judged."""
    fitting_share: float
    """Median over the trusted photos of the share of their matches that fits."""


class Matches:
    """Every photo's matches with the others, as errors in pixels of the points that those saw."""

    def __init__(self, reconstruction: Any, database: Path, fits_px: float) -> None:
        row_of = {point_id: row for row, point_id in enumerate(reconstruction.points3D)}
        self.points = np.array([p.xyz for p in reconstruction.points3D.values()], float).reshape(-1, 3)
        self.point_rows = {
            i - 1: np.array([row_of[p.point3D_id] if p.has_point3D() else -1 for p in image.points2D], np.int64)
            for i, image in reconstruction.images.items()
        }
        self.pixels = {
            i - 1: np.array([p.xy for p in image.points2D], float).reshape(-1, 2)
            for i, image in reconstruction.images.items()
        }
        self.reconstruction = reconstruction
        self.fits_px = fits_px
        self.pairs = read_matches(database)

    def wrong_poses(self, given: set[int]) -> Verdict:
        """Take away the worst given pose until every one left fits its matches with the others."""
        trusted = set(given)
        while True:
            shares = {i: s for i in trusted if (s := self._fitting_share(i, trusted)) is not None}
            worst = min(shares, key=lambda i: shares[i], default=-1)
            if worst < 0 or shares[worst] >= MIN_FITTING:
                middle = float(np.median(list(shares.values()))) if shares else 0.0
                return Verdict(given - trusted, set(shares), middle)
            trusted.remove(worst)

    def _fitting_share(self, i: int, trusted: set[int]) -> float | None:
        """Share of the photo's matched features that lie where two other photos say.

        Matches without a point are noise, unless nearly all are: poses that are all wrong triangulate nothing.
        """
        fits, has_point = np.zeros((2, len(self.pixels[i])), bool)
        n_partners = np.zeros(len(self.pixels[i]), int)
        n_views = self._views_of_points(trusted - {i})
        for (a, b), matches in self.pairs.items():
            if i not in (a, b) or not {a, b} <= trusted:
                continue
            other = b if a == i else a
            mine, theirs = matches.T if a == i else matches.T[::-1]
            n_partners[mine] += 1
            rows = self.point_rows[other][theirs]
            good = (rows >= 0) & (n_views[rows] >= 2)
            has_point[mine[good]] = True
            fits[mine[good]] |= self._errors_px(i, rows[good], mine[good]) < self.fits_px
        n_matched = int((n_partners >= 2).sum())
        if n_matched < MIN_JUDGED:
            return None
        return float(fits.sum() / max(has_point.sum(), MIN_TRIANGULATED * n_matched))

    def _views_of_points(self, photos: set[int]) -> Int[np.ndarray, " n_points"]:
        """How many of the photos have a part in each point."""
        rows = [r[r >= 0] for i, r in self.point_rows.items() if i in photos]
        return np.bincount(np.concatenate([np.zeros(0, np.int64), *rows]), minlength=max(1, len(self.points)))

    def _errors_px(
        self, i: int, rows: Int[np.ndarray, " n"], features: Int[np.ndarray, " n"]
    ) -> Float64[np.ndarray, " n"]:
        image = self.reconstruction.images[i + 1]
        pose = np.asarray(image.cam_from_world().matrix(), float)
        x_cam = self.points[rows] @ pose[:, :3].T + pose[:, 3]
        pixels = np.asarray(self.reconstruction.cameras[image.camera_id].img_from_cam(x_cam), float).reshape(-1, 2)
        error = np.linalg.norm(pixels - self.pixels[i][features], axis=1)
        return np.where(np.isfinite(error) & (x_cam[:, 2] > 0), error, np.inf)
