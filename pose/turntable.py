"""A camera that stands still before an object that turns: recognised, and rid of what stands still with the camera.

The background's features do not move between photos. Left in, they say that the camera never moved, and most of the
photos are placed in one spot. Without them, the object and the table that it turns on look as if the camera went round.

What moves is found as a region of the photos, not as the object's outline: it holds the turntable, shadows and all
places that the object sweeps over. So no masks are written; the region goes with the posed capture, and finding the
object starts from it, for what lies outside does not hold still in the world.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int
from PIL import Image
from scipy import ndimage

from pose.enrich import Evidence, inside
from pose.features import PhotoFeatures
from pose.matching import read_raw_matches
from pose.model import Lens
from pose.undistort import sampling_maps
from recon.camera import Pinhole
from recon.data import SWEPT_FILE, Capture, read_rgb


@dataclass(frozen=True)
class TurntableConfig:
    """How a turntable is recognised."""

    max_still_px: float = 1.5
    """Matches that move less than this between two photos stand still."""
    min_still_matches: int = 15
    """So many such matches make a pair of photos one from the same place."""
    min_still_share: float = 0.6
    """So large a share of such pairs makes a capture one of a standing camera."""
    min_moving_area: float = 0.01
    """Where a smaller share of the picture changes between the photos, nothing turns."""
    max_moving_area: float = 0.9
    """Where a larger share changes, the camera moved, and what stands still is a mark or date printed on the photos."""
    change_grey: float = 12.0
    """A pixel whose brightness (0..255) differs from its median by more than this in some photos changes."""


def stands_still(database: Path, features: Sequence[PhotoFeatures], cfg: TurntableConfig) -> bool:
    """Whether most pairs of photos share a background that does not move."""
    counts = [n for n, _ in _still_counts(read_raw_matches(database), features, cfg).values()]
    return len(counts) > 0 and float(np.mean(np.array(counts) >= cfg.min_still_matches)) >= cfg.min_still_share


def _still_counts(
    matches: dict[tuple[int, int], Int[np.ndarray, "_ 2"]], features: Sequence[PhotoFeatures], cfg: TurntableConfig
) -> dict[tuple[int, int], tuple[int, Bool[np.ndarray, " _"]]]:
    """For each pair, how many of its matches stand still, and which."""
    out = {}
    for (i, j), rows in matches.items():
        moved = features[i].keypoints[rows[:, 0], :2] - features[j].keypoints[rows[:, 1], :2]
        still = np.linalg.norm(moved, axis=1) <= cfg.max_still_px
        out[i, j] = (int(still.sum()), still)
    return out


def swept_region(capture: Capture, cfg: TurntableConfig, side_px: int = 320) -> Bool[np.ndarray, "h w"]:
    """Where the photos of a standing camera differ, at a small size; photos of another size are left aside."""
    sizes = Counter((photo.width_px, photo.height_px) for photo in capture.photos)
    size = sizes.most_common(1)[0][0]
    alike = [photo for photo in capture.photos if (photo.width_px, photo.height_px) == size]
    small = np.stack([_small_grey(capture, photo.name, side_px) for photo in alike])
    median = np.median(small, axis=0)
    # Exposure wobbles; the background, most of the picture, tells by how much.
    gain = np.median(small / np.maximum(median, 1), axis=(1, 2), keepdims=True)
    change = np.percentile(np.abs(small / gain - median), 90, axis=0)
    moving = (change > cfg.change_grey).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, disc)  # lone noisy pixels
    return cv2.dilate(cv2.morphologyEx(moving, cv2.MORPH_CLOSE, disc, iterations=3), disc) > 0


def write_swept(region: Bool[np.ndarray, "h w"], lens: Lens, camera: Pinhole, folder: Path) -> None:
    """Write the swept region, its holes filled, as the undistorted photos show it."""
    filled = ndimage.binary_fill_holes(region).astype(np.uint8) * 255
    photo = cv2.resize(filled, (lens.width_px, lens.height_px), interpolation=cv2.INTER_LINEAR)
    Image.fromarray(cv2.remap(photo, *sampling_maps(lens, camera), cv2.INTER_LINEAR)).save(folder / SWEPT_FILE)


def _small_grey(capture: Capture, name: str, side_px: int) -> Float32[np.ndarray, "h w"]:
    grey = cv2.cvtColor(read_rgb(capture.image_path(name)), cv2.COLOR_RGB2GRAY)
    scale = side_px / max(grey.shape)
    size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def moving_features(evidence: Evidence, region: Bool[np.ndarray, "h w"], cfg: TurntableConfig) -> list[PhotoFeatures]:
    """The features in the swept region that do not stand still between photos themselves."""
    features = evidence.features
    n_still = [np.zeros(len(f.keypoints), int) for f in features]
    n_all = [np.zeros(len(f.keypoints), int) for f in features]
    matches = read_raw_matches(evidence.database)
    for (i, j), (_, still) in _still_counts(matches, features, cfg).items():
        for side, position in ((0, i), (1, j)):
            np.add.at(n_still[position], matches[i, j][:, side], still)
            np.add.at(n_all[position], matches[i, j][:, side], 1)
    out = []
    for photo, found, n, total in zip(evidence.capture.photos, features, n_still, n_all, strict=True):
        keep = inside(region, found, photo) & ~((n >= 2) & (2 * n >= total))
        out.append(PhotoFeatures(found.keypoints[keep], found.descriptors[keep]))
    return out
