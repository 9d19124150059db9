"""An asset in the frame that its files share, ready to be written in any format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from recon.data import Asset, UvMesh
from recon.transforms import Similarity
from texturing.images import EncodedMaps, ImageFormat, encode_maps
from texturing.normals import vertex_normals


@dataclass(frozen=True)
class Placed:
    """A textured mesh in the asset's frame: +Y up, front +Z, the origin at the base's centre."""

    uv_mesh: UvMesh
    """Faces and texture coordinates; its vertices are still in world."""
    vertices: Float64[np.ndarray, "n_vertices 3"]
    normals: Float64[np.ndarray, "n_vertices 3"]
    maps: EncodedMaps
    texture_size_px: int
    roughness: float
    """The whole material's, where the maps do not tell it."""


def placed_asset(
    asset: Asset, asset_from_world: Similarity, image_format: ImageFormat, jpeg_quality: int, roughness: float
) -> Placed:
    """Move an asset into its own frame and encode its maps."""
    vertices = asset_from_world.apply(asset.uv_mesh.vertices_world)
    maps = encode_maps(asset, image_format, jpeg_quality)
    return Placed(
        asset.uv_mesh, vertices, vertex_normals(asset.uv_mesh, vertices), maps, asset.base_colour.shape[0], roughness
    )
