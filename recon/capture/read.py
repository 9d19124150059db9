"""The first stage: photos and videos become upright sRGB photos at working size, with what is known of each."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from PIL import Image, UnidentifiedImageError

from recon.capture.choose import Candidate, ChoiceConfig, choose_photos
from recon.capture.decode import decode_mask, decode_photo, save_jpeg
from recon.capture.exif import focal_px
from recon.capture.find import Source, find_files, unique_names
from recon.capture.given import take_given
from recon.capture.quality import (
    are_all_blurred,
    detail_profile,
    mean_linear_brightness,
    relative_exposure_ev,
    relative_sharpness,
)
from recon.capture.video import choose_frames, read_frames
from recon.data import Capture, LeftOut, Photo
from recon.errors import UserError
from recon.stage import Job, stage


@dataclass(frozen=True)
class CaptureConfig:
    """How photos are read."""

    max_side_px: int = 1600
    """Long side of the working photos, in pixels; larger photos are made smaller, smaller ones stay as they are.
    Raising it keeps finer detail and costs time and memory in every later stage."""
    n_frames: int = 60
    """How many frames of a video, or of several together, are used, at most. Raising it adds views and time."""
    choice: ChoiceConfig = field(default_factory=ChoiceConfig)


@dataclass(frozen=True)
class Measured:
    """A photo whose pixels are on disk, before it is compared with the others."""

    photo: Photo
    profile: Float64[np.ndarray, "4"]
    brightness: float
    is_frame: bool


@stage(result=Capture, version=2)
def read_capture(source: Path, cfg: CaptureConfig, job: Job) -> Capture:
    """Decode a folder of photos, a folder with videos, or a video file.

    Damaged and foreign files, copies and useless photos are left out with a reason. Raises UserError where fewer than
    two photos remain.
    """
    found = find_files(source)
    if found.note:
        job.warn(found.note)
    (job.folder / "images").mkdir(parents=True, exist_ok=True)
    measured, damaged = _read_photos(found, cfg, job)
    measured += _read_videos(found, cfg, job)
    photos, unused = _chosen(measured, cfg, job)
    if len(photos) < 2:
        first = next(iter([*damaged, *unused]), None)
        why = f"; {first.name}: {first.reason}" if first else ""
        raise UserError(
            f"{source} has {'only one usable photo' if photos else 'no usable photo'}{why}; "
            "take 20 to 60 overlapping photos all around the object."
        )
    given = take_given(source, photos, job)
    job.notes |= {"n_photos": len(photos), "n_masks": sum(1 for _ in (job.folder / "masks").glob("*.png"))}
    capture = Capture(
        folder=job.folder,
        name=source.stem if source.is_file() else source.resolve().name,
        photos=tuple(photos),
        left_out=(*found.left_out, *damaged, *unused),
        is_video=bool(found.videos),
        given=given,
    )
    _warn_about_quality(capture, measured, job)
    return capture


def _read_photos(found: Source, cfg: CaptureConfig, job: Job) -> tuple[list[Measured], list[LeftOut]]:
    """Decode all photos in threads; the damaged ones come back as left out."""
    names = unique_names(found.photos)
    n = len(names)
    results: list[Measured | LeftOut | None] = [None] * n
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        futures = {
            pool.submit(_read_photo, found, p, name, cfg, job): i
            for i, (p, name) in enumerate(zip(found.photos, names, strict=True))
        }
        for done, future in enumerate(as_completed(futures), 1):
            results[futures[future]] = future.result()
            job.progress(done, n, "reading photos")
    damaged = [r for r in results if isinstance(r, LeftOut)]
    for item in damaged:
        job.warn(f"{item.name} was left out: {item.reason}.")
    return [r for r in results if isinstance(r, Measured)], damaged


def _read_photo(found: Source, path: Path, name: str, cfg: CaptureConfig, job: Job) -> Measured | LeftOut:
    relative = path.relative_to(found.root).as_posix()
    try:
        decoded = decode_photo(path, cfg.max_side_px)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        return LeftOut(relative, "the file is damaged or not a photo" + ("" if unknown else f" ({error})"))
    if min(decoded.rgb.size) < 64:
        return LeftOut(relative, "it is smaller than 64 pixels")
    mask, mask_path = decoded.mask, found.mask_of(path)
    if mask_path is not None:
        try:
            mask = decode_mask(mask_path, decoded.rgb.size, decoded.tags.orientation)
        except (OSError, ValueError, SyntaxError) as error:
            job.warn(f"The mask {mask_path.name} was not used: {error}.")
    save_jpeg(decoded.rgb, job.folder / "images" / f"{name}.jpg")
    if mask is not None:
        (job.folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.asarray(mask)).save(job.folder / "masks" / f"{name}.png")  # a fresh image: no metadata
    width, height = decoded.rgb.size
    return _measure(
        decoded.rgb,
        name,
        relative,
        focal_px(decoded.tags, width, height),
        decoded.tags.key(width, height),
        decoded.tags.captured_at,
        False,
    )


def _read_videos(found: Source, cfg: CaptureConfig, job: Job) -> list[Measured]:
    """The sharpest frames of all videos, one video after another, spread over how the view changes."""
    chosen = choose_frames(
        found.videos, cfg.n_frames, lambda done, total: job.progress(done, 2 * total, "looking through the video")
    )
    stems = unique_names(found.videos)
    measured: list[Measured] = []
    for video, stem, wanted in zip(found.videos, stems, chosen, strict=True):
        for index, rgb in read_frames(video, wanted, cfg.max_side_px):
            name = f"frame_{index:06d}" if len(stems) == 1 else f"{stem}_frame_{index:06d}"
            save_jpeg(rgb, job.folder / "images" / f"{name}.jpg")
            source = f"{video.relative_to(found.root).as_posix()}#{index}"
            # Each video is its own lens: zoom, focus and the crop of the stabiliser stay for its length only.
            measured.append(_measure(rgb, name, source, None, f"{stem}|{rgb.width}x{rgb.height}", None, True))
            total = sum(len(c) for c in chosen)
            job.progress(total + len(measured), 2 * total, "reading the frames")
    return measured


def _measure(
    rgb: Image.Image,
    name: str,
    source: str,
    focal: float | None,
    lens_key: str,
    captured_at: str | None,
    is_frame: bool,
) -> Measured:
    photo = Photo(name, source, rgb.width, rgb.height, focal, lens_key, 1.0, 0.0, captured_at)
    return Measured(photo, detail_profile(rgb), mean_linear_brightness(rgb), is_frame)


def _chosen(measured: list[Measured], cfg: CaptureConfig, job: Job) -> tuple[list[Photo], list[LeftOut]]:
    """The photos to use, and those read in vain; the files of the latter are deleted."""
    photos = _compared(measured)
    candidates = [
        Candidate(photo, job.folder / "images" / f"{photo.name}.jpg", m.brightness, m.is_frame)
        for photo, m in zip(photos, measured, strict=True)
    ]
    unused = choose_photos(candidates, cfg.choice)
    for name in unused:
        (job.folder / "images" / f"{name}.jpg").unlink()
        (job.folder / "masks" / f"{name}.png").unlink(missing_ok=True)
    return [p for p in photos if p.name not in unused], list(unused.values())


def _compared(measured: Sequence[Measured]) -> list[Photo]:
    """The photos with sharpness and exposure relative to their median."""
    if not measured:
        return []
    sharpness = relative_sharpness(np.stack([m.profile for m in measured]))
    exposure = relative_exposure_ev(np.array([m.brightness for m in measured]))
    return [
        dataclasses.replace(m.photo, sharpness=float(s), exposure_ev=float(e))
        for m, s, e in zip(measured, sharpness, exposure, strict=True)
    ]


def _warn_about_quality(capture: Capture, measured: Sequence[Measured], job: Job) -> None:
    """Tell what the user could do better, with the names of the worst photos."""
    blurred = [p for p in capture.photos if p.sharpness < 0.5]
    if are_all_blurred(np.stack([m.profile for m in measured])):
        job.warn("All photos are blurred; take them again in more light, tapping on the object to focus.")
    elif blurred:
        worst = ", ".join(p.source for p in sorted(blurred, key=lambda p: p.sharpness)[:5])
        job.warn(f"{len(blurred)} of {len(capture.photos)} photos are blurred (the worst: {worst}).")
    if len(capture.photos) < 12:
        job.warn(f"{len(capture.photos)} photos are few; 20 to 60 all around the object give a far better result.")
    sizes = {(p.width_px, p.height_px) for p in capture.photos}
    if max(max(s) for s in sizes) < 800:
        job.warn("The photos are smaller than 800 pixels; larger ones give more detail.")
