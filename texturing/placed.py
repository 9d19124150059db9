"""An asset in the frame that its files share, ready to be written in any format."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from recon.data import Asset, UvMesh
from recon.transforms import Similarity
from texturing.images import EncodedMaps, ImageFormat, encode_maps
from texturing.normal_map import mikk_tangents
from texturing.normals import vertex_normals

PLAIN_ROUGHNESS = 0.6
"""Of a material whose maps do not tell it, 0 a mirror, 1 chalk; every asset of the pipeline has such a map."""


@dataclass(frozen=True)
class Placed:
    """A textured mesh in the asset's frame: +Y up, front +Z, the origin at the base's centre."""

    uv_mesh: UvMesh
    """Faces and texture coordinates; its vertices are still in world."""
    vertices: Float64[np.ndarray, "n_vertices 3"]
    normals: Float64[np.ndarray, "n_vertices 3"]
    tangents: Float64[np.ndarray, "n_vertices 4"] | None
    """Of the frame that the normal map is in, with the bitangent's sign; None without such a map."""
    maps: EncodedMaps


def placed_asset(asset: Asset, asset_from_world: Similarity, image_format: ImageFormat, jpeg_quality: int) -> Placed:
    """Move an asset into its own frame and encode its maps."""
    vertices = asset_from_world.apply(asset.uv_mesh.vertices_world)
    normals = vertex_normals(asset.uv_mesh, vertices)
    tangents = None
    if asset.normal_map is not None:
        tangents = mikk_tangents(replace(asset.uv_mesh, vertices_world=vertices), normals)
    maps = encode_maps(asset, image_format, jpeg_quality)
    return Placed(asset.uv_mesh, vertices, normals, tangents, maps)
