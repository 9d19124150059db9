"""Harder versions of a capture, plain pycolmap on the same photos as the measure, and the judge of cameras.

A variant is a folder of photos like any capture. Half the features cannot be taken out of a photo's pixels; that
variant keeps the photos and is a parameter of the run: `FeaturesConfig.keep_share` here, `keep_share` of
`plain_matches` there, by the same rule.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import trimesh
from jaxtyping import Float64, UInt8
from PIL import Image

from pose.features import kept
from recon.data import read_mask, read_rgb
from recon.errors import UserError
from recon.evaluate.score import read_views
from recon.transforms import Rigid, Similarity, umeyama

PHOTO_TYPES = {".jpg", ".jpeg", ".png", ".webp", ".heic"}
GROW_SHARE = 0.01
"""The object's mask is grown by this share of the photo's long side before all else is painted out."""
BLUR_SHARE = 0.05
"""Sigma of the blur that leaves only shading, as a share of the photo's long side."""


class Variant(Enum):
    """What makes a capture harder."""

    full = "all photos"
    every_2nd = "every 2nd photo"
    every_3rd = "every 3rd photo"
    half_features = "half the features"
    no_table = "all but the object painted out"
    turntable = "the object and a disc of the table before a background that stands still"

    @property
    def step(self) -> int:
        """Every how many photos one is kept."""
        return {Variant.every_2nd: 2, Variant.every_3rd: 3}.get(self, 1)

    @property
    def keep_share(self) -> float:
        """The share of the features that the run keeps."""
        return 0.5 if self is Variant.half_features else 1.0


def photos_of(folder: Path) -> list[Path]:
    """The photos of a capture folder (its `images/` or itself), by name."""
    inside = folder / "images" if (folder / "images").is_dir() else folder
    return sorted(p for p in inside.iterdir() if p.suffix.lower() in PHOTO_TYPES)


def make_variant(capture_folder: Path, variant: Variant, target_folder: Path) -> Path:
    """Write a variant's photos into `target_folder/images`, and return `target_folder`.

    Raises UserError where `no_table` or `turntable` is asked of a capture without truth (`gt/`).
    """
    images = target_folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    photos = photos_of(capture_folder)[:: variant.step]
    if variant not in (Variant.no_table, Variant.turntable):
        for path in photos:
            shutil.copyfile(path, images / path.name)
        return target_folder
    if not (capture_folder / "gt" / "masks").is_dir():
        raise UserError(
            f"{capture_folder} has no true masks (gt/masks), so the variant {variant.name} cannot be made; "
            "leave it out for captures without truth."
        )
    masks = {p: read_mask(capture_folder / "gt" / "masks" / f"{p.stem}.png") for p in photos}
    if variant is Variant.turntable:
        for path, disc in zip(photos, _discs(capture_folder, photos), strict=True):
            masks[path] = np.maximum(masks[path], disc)
        hole = cv2.dilate(masks[photos[0]], np.ones((9, 9), np.uint8))
        room = cv2.inpaint(np.ascontiguousarray(read_rgb(photos[0])), hole, 5, cv2.INPAINT_TELEA)
    for path, mask in masks.items():
        photo = read_rgb(path)
        changed = (
            paint_out(photo, mask) if variant is Variant.no_table else np.where(mask[..., None] >= 128, photo, room)
        )
        with Image.open(path) as original:
            exif = original.getexif()
        Image.fromarray(changed).save(images / f"{path.stem}.jpg", "JPEG", quality=92, exif=exif)
    return target_folder


def _discs(capture_folder: Path, photos: Sequence[Path]) -> list[UInt8[np.ndarray, "h w"]]:
    """Where a disc of the table under the object, half as wide again as the object, lies in each photo."""
    mesh: Any = trimesh.load(capture_folder / "gt" / "mesh.ply", process=False)
    low, high = mesh.bounds
    radius = 0.75 * float(np.linalg.norm((high - low)[:2]))
    angle = np.linspace(0, 2 * np.pi, 181)
    rim = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1) * radius + [*(low + high)[:2] / 2, 0]
    by_name = {t.view.name: t for t in read_views(capture_folder / "gt" / "transforms.json")}
    discs = []
    for path in photos:
        true = by_name[path.stem]
        c, ideal = true.view.camera, true.view.cam_from_world.apply(rim)
        x, y = (ideal[:, :2] / ideal[:, 2:]).T
        r2 = x * x + y * y
        bent = 1 + true.k1 * r2 + true.k2 * r2 * r2
        pixels = np.stack([c.fx_px * x * bent + c.cx_px, c.fy_px * y * bent + c.cy_px], 1)
        disc = np.zeros((c.height_px, c.width_px), np.uint8)
        discs.append(np.asarray(cv2.fillPoly(disc, [np.rint(pixels - 0.5).astype(np.int32)], 255), np.uint8))
    return discs


def paint_out(photo: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with everything outside its grown mask so blurred that only the light's course is left."""
    long_side = max(mask.shape)
    grow = 2 * round(GROW_SHARE * long_side) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow, grow))
    object_near = cv2.dilate((mask >= 128).astype(np.uint8), disc).astype(np.float32)
    # Normalised by what is outside: the object's own colours must not bleed into the paint.
    outside = 1 - object_near
    sigma = BLUR_SHARE * long_side
    weight = cv2.GaussianBlur(outside, (0, 0), sigma)[..., None]
    colour = cv2.GaussianBlur(photo.astype(np.float32) * outside[..., None], (0, 0), sigma)
    paint = colour / np.maximum(weight, 1e-6)
    soft = cv2.GaussianBlur(object_near, (0, 0), grow / 6)[..., None]
    return np.clip(np.rint(photo * soft + paint * (1 - soft)), 0, 255).astype(np.uint8)


def plain_pycolmap(folder: Path, work: Path, keep_share: float = 1.0) -> Any | None:
    """What pycolmap makes of a capture's photos as it comes: its largest reconstruction, or None.

    Its own SIFT, exhaustive matching, one SIMPLE_RADIAL camera, incremental mapping, default options.
    """
    database = plain_matches(folder, work, keep_share)
    return plain_mapping(database)


def plain_matches(folder: Path, work: Path, keep_share: float = 1.0) -> Path:
    """The database of pycolmap's features and exhaustive matches of a capture's photos, in `work`."""
    import pycolmap

    pycolmap.logging.minloglevel = 2
    work.mkdir(parents=True, exist_ok=True)
    database = work / "plain.db"
    database.unlink(missing_ok=True)
    reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_RADIAL")
    photos = photos_of(folder)
    pycolmap.extract_features(
        database,
        photos[0].parent,
        [p.name for p in photos],
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        device=pycolmap.Device.cpu,
    )
    if keep_share < 1:
        _thin(pycolmap, database, keep_share)
    pycolmap.match_exhaustive(database, device=pycolmap.Device.cpu)
    return database


def _thin(pycolmap: Any, database: Path, keep_share: float) -> None:
    """Take features out of a database, by the rule of `pose.features.kept`."""
    handle = pycolmap.Database.open(database)
    try:
        stored = {
            i.image_id: (handle.read_keypoints(i.image_id), handle.read_descriptors(i.image_id))
            for i in handle.read_all_images()
        }
        handle.clear_keypoints()
        handle.clear_descriptors()
        for image_id, (keypoints, descriptors) in stored.items():
            keep = kept(keypoints[:, :2].astype(np.float64), keep_share)
            handle.write_keypoints(image_id, keypoints[keep])
            descriptors.data = descriptors.data[keep]
            handle.write_descriptors(image_id, descriptors)
    finally:
        handle.close()


def plain_mapping(database: Path, names: Sequence[str] = ()) -> Any | None:
    """pycolmap's incremental mapping, of some of the photos where `names` says which; None where nothing came out.

    A subset of the photos mapped from all photos' matches is what the subset alone would give, without matching again.
    """
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.image_names = list(names)
    options.random_seed = 0
    output = database.parent / "plain"
    output.mkdir(exist_ok=True)
    models = pycolmap.incremental_mapping(database, database.parent, output, options)
    return max(models.values(), key=lambda m: m.num_reg_images(), default=None)


def poses_of(reconstruction: Any) -> dict[str, Rigid]:
    """`cam_from_world` of every placed photo of a pycolmap reconstruction, by the file's name without extension."""
    out = {}
    for image in reconstruction.images.values():
        if image.has_pose:
            matrix = np.asarray(image.cam_from_world().matrix(), float)
            out[Path(image.name).stem] = Rigid(matrix[:, :3].copy(), matrix[:, 3].copy())
    return out


@dataclass(frozen=True)
class CameraErrors:
    """How far cameras are from the truth, after a similarity by their centres."""

    names: tuple[str, ...]
    rotation_deg: Float64[np.ndarray, " n"]
    centre_share: Float64[np.ndarray, " n"]
    """Distance of the centre from the true one, as a share of the orbit's radius."""

    def wrong(self, max_rotation_deg: float = 1.0, max_centre_share: float = 0.01) -> tuple[str, ...]:
        """The names of the cameras outside the bounds."""
        bad = (self.rotation_deg > max_rotation_deg) | (self.centre_share > max_centre_share)
        return tuple(n for n, b in zip(self.names, bad, strict=True) if b)


def judge_cameras(found: Mapping[str, Rigid], truth: Mapping[str, Rigid]) -> CameraErrors:
    """Compare cameras with the truth (or with another solution). Raises ValueError below three common cameras."""
    names = tuple(n for n in found if n in truth)
    if len(names) < 3:
        raise ValueError("fewer than three cameras to compare")
    centres = np.array([found[n].inverse().translation for n in names])
    true_centres = np.array([truth[n].inverse().translation for n in names])
    true_rotations = np.array([truth[n].rotation for n in names])
    truth_from_found = robust_similarity(centres, true_centres)
    radius = _orbit_radius(true_centres, true_rotations[:, 2])
    off = np.linalg.norm(truth_from_found.apply(centres) - true_centres, axis=1)
    turned = [truth_from_found.apply_to_camera(found[n]).rotation for n in names]
    cosine = [(np.trace(a @ b.T) - 1) / 2 for a, b in zip(turned, true_rotations, strict=True)]
    return CameraErrors(names, np.degrees(np.arccos(np.clip(cosine, -1, 1))), off / radius)


def robust_similarity(source: Float64[np.ndarray, "n 3"], target: Float64[np.ndarray, "n 3"]) -> Similarity:
    """`target_from_source` that fits the best half of the points, so that a few wrong ones cannot pull it."""
    if len(source) < 6:
        return umeyama(source, target)
    rng = np.random.default_rng(0)
    best, best_error = umeyama(source, target), np.inf
    for _ in range(300):
        pick = rng.choice(len(source), 4, replace=False)
        candidate = umeyama(source[pick], target[pick])
        error = float(np.median(np.linalg.norm(candidate.apply(source) - target, axis=1)))
        if error < best_error:
            best, best_error = candidate, error
    for _ in range(5):
        off = np.linalg.norm(best.apply(source) - target, axis=1)
        near = off <= max(3 * np.median(off), np.sort(off)[len(off) // 2])
        best = umeyama(source[near], target[near])
    return best


def _orbit_radius(centres: Float64[np.ndarray, "n 3"], forward: Float64[np.ndarray, "n 3"]) -> float:
    """Median distance of the cameras from the point nearest to all their optical axes."""
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    focus = np.linalg.solve(across.sum(0), (across @ centres[:, :, None]).sum(0)[:, 0])
    return float(np.median(np.linalg.norm(centres - focus, axis=1)))
