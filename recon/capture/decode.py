"""Image files of any usual kind as upright 8-bit sRGB, and masks that fit them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps

from recon.capture.exif import LensTags, exif_of_raw, lens_tags, read_lens_tags
from recon.errors import UserError

HEIF_SUFFIXES = frozenset({".heic", ".heif"})
RAW_SUFFIXES = frozenset({".dng", ".arw", ".cr2", ".cr3", ".nef", ".orf", ".pef", ".raf", ".rw2"})
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}) | HEIF_SUFFIXES | RAW_SUFFIXES

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a photo of each EXIF orientation upright."""
BASELINE_EXPOSURE = 50730
"""DNG tag (specification 1.7): by how many stops the raw values are to be brightened."""


@dataclass(frozen=True)
class Decoded:
    """One photo as it is used."""

    rgb: Image.Image
    """Upright, 8-bit sRGB, at working size."""
    mask: Image.Image | None
    """From the alpha channel, grey, of the same size; None where the photo is opaque."""
    tags: LensTags


def decode_photo(path: Path, max_side_px: int) -> Decoded:
    """Decode one image file, turned upright, in sRGB, with its long side at most `max_side_px`.

    Raises OSError or ValueError where the file is damaged, UserError where a raw photo needs a missing package.
    """
    if path.suffix.lower() in RAW_SUFFIXES:
        return _decode_raw(path, max_side_px)
    is_heif = path.suffix.lower() in HEIF_SUFFIXES
    if is_heif:
        import pillow_heif  # heavy, and most captures have none

        pillow_heif.register_heif_opener()
    with Image.open(path) as image:
        tags = read_lens_tags(image)
        # Lets the JPEG decoder skip detail that the resampling below would remove; it never goes below the size asked.
        image.draft(None, _fitted(image.size, max_side_px))  # type: ignore[arg-type]
        image.load()
        alpha = _alpha(image)
        rgb = _as_srgb(image)
    turn = None if is_heif else TURNS.get(tags.orientation)  # a HEIC comes upright from its decoder
    if turn is not None:
        rgb, alpha = rgb.transpose(turn), alpha and alpha.transpose(turn)
    size = _fitted(rgb.size, max_side_px)
    if rgb.size != size:
        rgb = rgb.resize(size, Image.Resampling.LANCZOS)
        alpha = alpha and alpha.resize(size, Image.Resampling.BOX)
    return Decoded(rgb, alpha, tags)


def _decode_raw(path: Path, max_side_px: int) -> Decoded:
    """Develop a raw photo with the camera's own white balance; libraw turns it upright.

    Nothing adapts to what a photo shows (no automatic brightness or white level), so that equal exposures stay equal. A
    DNG's BaselineExposure says how much brighter its maker means it to be.
    """
    try:
        import rawpy
    except ImportError as error:
        raise UserError(f"Reading the raw photo {path.name} needs rawpy; install it with: pip install rawpy") from error
    exif = exif_of_raw(path)
    baseline_ev = exif.get(BASELINE_EXPOSURE)
    try:
        with rawpy.imread(str(path)) as raw:
            pixels = raw.postprocess(
                use_camera_wb=True,
                no_auto_bright=True,
                adjust_maximum_thr=0.0,
                bright=2.0 ** float(baseline_ev) if baseline_ev is not None else 1.0,
                output_color=rawpy.ColorSpace.sRGB,
                gamma=(2.4, 12.92),  # sRGB's curve as libraw counts: exponent and slope near black
                half_size=max(raw.sizes.width, raw.sizes.height) >= 2 * max_side_px,
            )
    except rawpy.LibRawError as error:
        raise OSError(f"libraw cannot read it: {error}") from error
    rgb = Image.fromarray(pixels)
    size = _fitted(rgb.size, max_side_px)
    return Decoded(rgb.resize(size, Image.Resampling.LANCZOS), None, lens_tags(exif))


def decode_mask(path: Path, size: tuple[int, int], orientation: int) -> Image.Image:
    """Decode a mask (255 is the object) and fit it to its photo's upright size (width, height) in pixels.

    Raises ValueError where its shape fits the photo neither as it is nor turned like the photo.
    """
    with Image.open(path) as image:
        image.load()
        mask = _alpha(image) or _as_grey(image)
    if not _same_shape(mask.size, size) and orientation in TURNS:
        mask = mask.transpose(TURNS[orientation])
    if not _same_shape(mask.size, size):
        raise ValueError(f"it is {mask.width}x{mask.height}, its photo {size[0]}x{size[1]}")
    if np.asarray(mask).max() == 1:  # labels 0/1 instead of 0/255
        mask = mask.point(lambda v: v * 255)
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BOX)


def save_jpeg(image: Image.Image | UInt8[np.ndarray, "h w 3"], path: Path) -> None:
    """Write 8-bit RGB with hardly any loss (quality 97, full chroma) and without metadata."""
    picture = Image.fromarray(np.asarray(image))  # a fresh image carries no EXIF, profile or comment
    picture.save(path, "JPEG", quality=97, subsampling=0)


def _fitted(size: tuple[int, int], max_side_px: int) -> tuple[int, int]:
    scale = min(1.0, max_side_px / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Equal aspect to within the rounding of a resize (1 per cent)."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= 0.01 * a[0] * b[1]


def _alpha(image: Image.Image) -> Image.Image | None:
    """The alpha channel where it separates something, else None."""
    if not image.has_transparency_data:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    values = np.asarray(alpha)
    return alpha if values.min() < 128 <= values.max() else None


def _as_grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _deep_as_grey(image)
    return image.convert("RGB").convert("L") if image.mode == "P" else image.convert("L")


def _deep_as_grey(image: Image.Image) -> Image.Image:
    """16- and 32-bit grey as 8 bits (Pillow's own conversion clips instead)."""
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" and values.max() <= 1 else 65535.0 if values.max() > 255 else 255.0
    return Image.fromarray((np.clip(values / top, 0, 1) * 255 + 0.5).astype(np.uint8))


def _as_srgb(image: Image.Image) -> Image.Image:
    """8-bit RGB in sRGB; an embedded profile is applied."""
    if image.mode.startswith(("I", "F")):
        return _deep_as_grey(image).convert("RGB")
    profile = image.info.get("icc_profile")
    flat = image.convert("RGB") if image.mode not in ("RGB", "CMYK", "L") else image
    if profile and flat.mode != "L":
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "srgb" not in ImageCms.getProfileDescription(source).lower():
                flat = ImageCms.profileToProfile(flat, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or flat
        except ImageCms.PyCMSError:
            pass  # a damaged profile: the pixel values are then the best that is known
    return flat.convert("RGB")


def grey_thumbnail(rgb: Image.Image, long_side_px: int) -> Image.Image:
    """A grey copy whose long side is at most `long_side_px`."""
    return ImageOps.grayscale(rgb).resize(_fitted(rgb.size, long_side_px), Image.Resampling.BOX)
