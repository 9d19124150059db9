"""An asset's maps as image files: encoded once, then embedded in or laid beside whatever is written."""

from __future__ import annotations

import io
from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from recon.data import Asset


class ImageFormat(Enum):
    """How a texture is embedded."""

    jpeg = "jpeg"
    png = "png"

    @property
    def suffix(self) -> str:
        return "jpg" if self is ImageFormat.jpeg else "png"


@dataclass(frozen=True)
class EncodedMaps:
    """The bytes of an asset's images, all in one format."""

    image_format: ImageFormat
    base_colour: bytes
    normal: bytes | None
    """Tangent space, green up; None where the asset has none."""
    occlusion_roughness_metallic: bytes | None
    """glTF's packing: red occlusion, green roughness, blue metallic; None where the asset has none."""

    def by_name(self) -> dict[str, bytes]:
        """Those images that there are."""
        named = {
            "base_colour": self.base_colour,
            "normal": self.normal,
            "occlusion_roughness_metallic": self.occlusion_roughness_metallic,
        }
        return {name: image for name, image in named.items() if image is not None}


def encode_maps(asset: Asset, image_format: ImageFormat, jpeg_quality: int) -> EncodedMaps:
    """Encode every map of an asset."""
    optional = (asset.normal_map, asset.occlusion_roughness_metallic)
    encoded = [None if image is None else encode(image, image_format, jpeg_quality) for image in optional]
    return EncodedMaps(image_format, encode(asset.base_colour, image_format, jpeg_quality), *encoded)


def encode(image: UInt8[np.ndarray, "h w *c"], image_format: ImageFormat, jpeg_quality: int) -> bytes:
    """One image as a JPEG or PNG file's bytes."""
    stream = io.BytesIO()
    if image_format is ImageFormat.jpeg:
        # Full chroma: halved, the colours of neighbouring charts would bleed over their gutter.
        Image.fromarray(image).save(stream, "JPEG", quality=jpeg_quality, subsampling=0, optimize=True)
    else:
        Image.fromarray(image).save(stream, "PNG", optimize=True)
    return stream.getvalue()
