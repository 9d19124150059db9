"""Writing one textured mesh as a binary glTF 2.0 file."""

from __future__ import annotations

import io
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int
from PIL import Image

from recon import __version__
from recon.data import Asset, UvMesh


class ImageFormat(Enum):
    """How a texture is embedded."""

    jpeg = "jpeg"
    png = "png"


LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963


def write_glb(
    path: Path,
    asset: Asset,
    vertices: Float64[np.ndarray, "n 3"],
    image_format: ImageFormat,
    jpeg_quality: int,
    roughness: float,
    provenance: dict[str, Any],
) -> None:
    """Write an asset whose vertices were already moved to glTF's frame (+Y up).

    provenance: plain facts for `asset.extras`; no paths, no personal data.
    """
    import trimesh
    from trimesh.exchange.gltf import export_glb
    from trimesh.visual.material import PBRMaterial

    uv_mesh = asset.uv_mesh
    texture = Image.fromarray(asset.base_colour)
    material = PBRMaterial(
        name="photographed",
        baseColorTexture=texture,
        metallicFactor=0.0,
        roughnessFactor=float(roughness),
        doubleSided=False,
    )
    mesh = trimesh.Trimesh(
        vertices,
        uv_mesh.faces,
        vertex_normals=vertex_normals(uv_mesh, vertices),
        visual=trimesh.visual.TextureVisuals(uv=uv_mesh.uv, material=material),
        process=False,
    )
    image_bytes = _encoded(texture, image_format, jpeg_quality)
    extras = {"generator_version": __version__, **provenance}

    def embed(buffers: dict[Any, bytes], tree: dict[str, Any]) -> None:
        # trimesh encodes textures with Pillow's default quality, so its image is replaced by ours.
        view = tree["images"][0]["bufferView"]
        buffers[list(buffers)[view]] = image_bytes + b"\0" * (-len(image_bytes) % 4)
        tree["images"][0]["mimeType"] = f"image/{image_format.value}"

    def finish(tree: dict[str, Any]) -> None:
        _name_and_sample(tree, extras, len(image_bytes))

    scene = trimesh.Scene()
    scene.add_geometry(mesh, geom_name="object", node_name="object")
    path.write_bytes(export_glb(scene, include_normals=True, buffer_postprocessor=embed, tree_postprocessor=finish))


def vertex_normals(uv_mesh: UvMesh, vertices: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    """Unit normals of the uncut mesh, so that chart borders do not show; angle-weighted (Thuermer & Wuethrich 1998)."""
    corners = vertices[uv_mesh.faces]
    ahead, behind = np.roll(corners, -1, axis=1) - corners, np.roll(corners, 1, axis=1) - corners
    face_normal = np.cross(ahead[:, 0], behind[:, 0])
    face_normal /= np.maximum(np.linalg.norm(face_normal, axis=1, keepdims=True), 1e-30)
    lengths = np.linalg.norm(ahead, axis=2) * np.linalg.norm(behind, axis=2)
    angle = np.arccos(np.clip((ahead * behind).sum(2) / np.maximum(lengths, 1e-30), -1, 1))
    sums = _sum_at(uv_mesh.mesh_vertex_idx[uv_mesh.faces], face_normal[:, None] * angle[..., None])
    normals = sums[uv_mesh.mesh_vertex_idx]
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    # A vertex whose faces cancel out or are all degenerate has no normal of its own; up is a valid one.
    return np.where(length > 1e-12, normals / np.maximum(length, 1e-12), [0.0, 1.0, 0.0])


def _sum_at(idx: Int[np.ndarray, "m 3"], values: Float64[np.ndarray, "m 3 3"]) -> Float64[np.ndarray, "k 3"]:
    columns = [np.bincount(idx.ravel(), values[..., k].ravel()) for k in range(3)]
    return np.stack(columns, -1)


def _encoded(texture: Image.Image, image_format: ImageFormat, jpeg_quality: int) -> bytes:
    stream = io.BytesIO()
    if image_format is ImageFormat.jpeg:
        # Full chroma: halved, the colours of neighbouring charts would bleed over their gutter.
        texture.save(stream, "JPEG", quality=jpeg_quality, subsampling=0, optimize=True)
    else:
        texture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _name_and_sample(tree: dict[str, Any], extras: dict[str, Any], n_image_bytes: int) -> None:
    """Fill in what trimesh leaves out: provenance, sampler, names, what each buffer view is for."""
    tree["asset"] = {"version": "2.0", "generator": f"recon {__version__}", "extras": extras}
    tree["samplers"] = [
        {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": CLAMP_TO_EDGE, "wrapT": CLAMP_TO_EDGE}
    ]
    tree["textures"][0]["sampler"] = 0
    tree["images"][0]["name"] = "base_colour"
    tree["bufferViews"][tree["images"][0]["bufferView"]]["byteLength"] = n_image_bytes
    for mesh in tree["meshes"]:
        mesh.pop("extras", None)
        for primitive in mesh["primitives"]:
            tree["bufferViews"][tree["accessors"][primitive["indices"]]["bufferView"]]["target"] = ELEMENT_ARRAY_BUFFER
            for accessor in primitive["attributes"].values():
                tree["bufferViews"][tree["accessors"][accessor]["bufferView"]]["target"] = ARRAY_BUFFER
