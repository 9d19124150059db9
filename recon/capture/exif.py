"""What a photo's EXIF tags say about its lens and its time."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

TAG, IFD = ExifTags.Base, ExifTags.IFD
DAMAGED = (ValueError, TypeError, KeyError, OSError, SyntaxError, struct.error)
"""What Pillow raises at damaged tags."""

FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
"""EXIF FocalPlaneResolutionUnit: inch, centimetre, millimetre, micrometre."""


@dataclass(frozen=True)
class LensTags:
    """The tags of one photo that matter for its camera."""

    make_model: str
    lens: str
    focal_mm: float | None
    focal_35mm: float | None
    focal_plane_px_per_mm: float | None
    exif_long_side_px: float | None
    """The long side when the photo was taken; a smaller file was resized since."""
    captured_at: str | None
    orientation: int
    """EXIF orientation 1..8: how the sensor lay."""
    digital_zoom: float | None = None
    """How much the phone enlarged the middle of the picture."""

    def key(self, width_px: int, height_px: int) -> str:
        """Photos of equal key share intrinsics: same lens, zoom and size, the sensor lying the same way.

        The last matters because photos are turned upright: a principal point that is off by (3, 2) pixels with the
        phone level is off by (-2, 3) with the phone upright and by (-3, -2) upside down. One camera for all of them
        would be wrong by more than its figures are worth, so a capture of both kinds has two cameras, which start from
        the same EXIF focal length. Copies without EXIF are told apart by their size alone.
        """
        zoom = "/".join("?" if x is None else f"{x:g}" for x in (self.focal_mm, self.focal_35mm))
        if self.digital_zoom and self.digital_zoom != 1:
            zoom += f" x{self.digital_zoom:g}"
        return f"{self.make_model}|{self.lens}|{zoom}|{width_px}x{height_px}|{self.orientation}"


def exif_of_raw(path: Path) -> Image.Exif:
    """The EXIF tags of a raw photo; empty where its format does not keep them as a TIFF does (DNG and most others do).

    Pillow reads tags from any TIFF structure, though not these files' pixels.
    """
    exif = Image.Exif()
    try:
        with path.open("rb") as handle:
            exif.load_from_fp(handle)
            exif.get_ifd(IFD.Exif)  # read now, while the file is open
            return exif
    except DAMAGED:
        return Image.Exif()


def read_lens_tags(image: Image.Image) -> LensTags:
    """The lens tags of an opened image."""
    try:
        exif = image.getexif()
        # A HEIC is turned upright by its decoder, which then keeps the tag's old value here.
        return lens_tags(exif, image.info.get("original_orientation"))
    except DAMAGED:  # damaged tags do not make a photo useless
        return lens_tags(Image.Exif())


def lens_tags(exif: Image.Exif, orientation: int | None = None) -> LensTags:
    """The lens tags among EXIF tags; missing or damaged ones are None. orientation: in place of the tag's own."""
    try:
        details = dict(exif) | dict(exif.get_ifd(IFD.Exif))  # raw formats keep some of them in the first directory
    except DAMAGED:
        details = {}
    unit_mm = MM_PER_UNIT.get(int(_positive(details.get(TAG.FocalPlaneResolutionUnit)) or 2))
    plane = _positive(details.get(TAG.FocalPlaneXResolution))
    sides = [_positive(details.get(t)) for t in (TAG.ExifImageWidth, TAG.ExifImageHeight)]
    orientation = orientation or exif.get(TAG.Orientation, 1)
    return LensTags(
        make_model=" ".join(_text(exif.get(t)) for t in (TAG.Make, TAG.Model)).strip(),
        lens=_text(details.get(TAG.LensModel)),
        focal_mm=_positive(details.get(TAG.FocalLength)),
        focal_35mm=_positive(details.get(TAG.FocalLengthIn35mmFilm)),
        focal_plane_px_per_mm=plane / unit_mm if plane and unit_mm else None,
        exif_long_side_px=max((s for s in sides if s), default=None),
        captured_at=_iso_time(_text(details.get(TAG.DateTimeOriginal)) or _text(exif.get(TAG.DateTime))),
        orientation=orientation if orientation in range(1, 9) else 1,
        digital_zoom=_positive(details.get(TAG.DigitalZoomRatio)),
    )


def focal_px(tags: LensTags, width_px: int, height_px: int) -> float | None:
    """The focal length in pixels of the photo at the given size, or None where the tags do not say.

    From FocalLengthIn35mmFilm by the diagonal (CIPA DCG-001: 43.27 mm), else from FocalLength and the resolution of
    the focal plane, which counts pixels of the photo as it was taken.
    """
    long_side = max(width_px, height_px)
    candidates = []
    if tags.focal_35mm:
        candidates.append(tags.focal_35mm / FULL_FRAME_DIAGONAL_MM * math.hypot(width_px, height_px))
    if tags.focal_mm and tags.focal_plane_px_per_mm and tags.exif_long_side_px:
        candidates.append(tags.focal_mm * tags.focal_plane_px_per_mm * long_side / tags.exif_long_side_px)
    # Lenses from 150 degrees to a 300 mm tele: a value outside is a wrong tag, not a lens.
    return next((f for f in candidates if 0.15 * long_side < f < 8.5 * long_side), None)


def _positive(value: Any) -> float | None:
    """A tag as a positive finite number, else None (0 means unknown in EXIF; rationals can be 0/0)."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _text(value: Any) -> str:
    return value.strip("\0 ") if isinstance(value, str) else ""


def _iso_time(text: str) -> str | None:
    """EXIF's `2026:05:04 11:02:02` as `2026-05-04T11:02:02`; None where it is not a time."""
    date, _, clock = text.partition(" ")
    if len(date) != 10 or date.startswith("0000") or len(clock) < 8:
        return None
    return f"{date.replace(':', '-')}T{clock[:8]}"
