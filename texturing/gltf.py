"""Writing binary glTF 2.0 files: a textured mesh, and a bare one for physics."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, Shaped

from recon import __version__
from texturing.placed import PLAIN_ROUGHNESS, Placed

LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
UNSIGNED_SHORT, UNSIGNED_INT, FLOAT = 5123, 5125, 5126
VECTORS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
JSON_CHUNK, BINARY_CHUNK = b"JSON", b"BIN\0"


class Buffer:
    """The file's binary part, with the views and accessors that tell what lies where."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def add_view(self, content: bytes, target: int | None = None) -> int:
        """Append bytes, four-byte aligned; returns the view's number."""
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        self.views.append(view | ({"target": target} if target is not None else {}))
        self.data += content + b"\0" * (-len(content) % 4)
        return len(self.views) - 1

    def add_attribute(self, values: Float64[np.ndarray, "n c"], with_bounds: bool = False) -> int:
        """Append a vertex attribute as float32; returns the accessor's number."""
        values32 = np.ascontiguousarray(values, "<f4")
        bounds = {"min": values32.min(0).tolist(), "max": values32.max(0).tolist()} if with_bounds else {}
        return self._add_accessor(values32, FLOAT, values.shape[1], ARRAY_BUFFER, bounds)

    def add_indices(self, faces: Int[np.ndarray, "m 3"], n_vertices: int) -> int:
        """Append triangles in the smallest type that holds them; returns the accessor's number."""
        is_short = n_vertices <= 0xFFFF  # index 0xFFFF itself restarts a primitive
        flat = np.ascontiguousarray(faces, "<u2" if is_short else "<u4").ravel()
        return self._add_accessor(flat, UNSIGNED_SHORT if is_short else UNSIGNED_INT, 1, ELEMENT_ARRAY_BUFFER, {})

    def _add_accessor(
        self, array: Shaped[np.ndarray, "..."], kind: int, width: int, target: int, bounds: dict[str, Any]
    ) -> int:
        view = self.add_view(array.tobytes(), target)
        self.accessors.append(
            {"bufferView": view, "componentType": kind, "count": len(array), "type": VECTORS[width], **bounds}
        )
        return len(self.accessors) - 1


def write_glb(path: Path, model: Placed, provenance: dict[str, Any]) -> Path:
    """Write a textured mesh with one material; returns the path.

    provenance: plain facts for `asset.extras`; no paths, no personal data.
    """
    buffer = Buffer()
    flipped = model.uv_mesh.uv * [1, -1] + [0, 1]  # glTF counts v from the top
    attributes = {
        "POSITION": buffer.add_attribute(model.vertices, with_bounds=True),
        "NORMAL": buffer.add_attribute(model.normals),
        "TEXCOORD_0": buffer.add_attribute(flipped),
    }
    if model.tangents is not None:
        attributes["TANGENT"] = buffer.add_attribute(model.tangents)
    indices = buffer.add_indices(model.uv_mesh.faces, len(model.vertices))
    images = model.maps.by_name()
    mime = f"image/{model.maps.image_format.value}"
    primitive = {"attributes": attributes, "indices": indices, "material": 0}
    tree = _tree("object", primitive, provenance) | {
        "materials": [_material({name: k for k, name in enumerate(images)})],
        "textures": [{"sampler": 0, "source": k, "name": name} for k, name in enumerate(images)],
        "images": [
            {"name": name, "mimeType": mime, "bufferView": buffer.add_view(image)} for name, image in images.items()
        ],
        "samplers": [
            {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": CLAMP_TO_EDGE, "wrapT": CLAMP_TO_EDGE}
        ],
    }
    return _write(path, tree, buffer)


def write_bare_glb(
    path: Path,
    name: str,
    vertices: Float64[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "m 3"],
    provenance: dict[str, Any],
) -> Path:
    """Write a mesh without a material, for physics; viewers shade its faces flat. Returns the path."""
    buffer = Buffer()
    primitive = {
        "attributes": {"POSITION": buffer.add_attribute(vertices, with_bounds=True)},
        "indices": buffer.add_indices(faces, len(vertices)),
    }
    return _write(path, _tree(name, primitive, provenance), buffer)


def _tree(name: str, primitive: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
    """The parts of a file that every mesh needs; names are in a-z 0-9 _ -."""
    return {
        "asset": {"version": "2.0", "generator": f"recon {__version__}", "extras": provenance},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": [primitive]}],
    }


def _material(texture_idx: dict[str, int]) -> dict[str, Any]:
    """A metallic-roughness material from those maps that there are."""
    surface: dict[str, Any] = {"baseColorTexture": {"index": texture_idx["base_colour"]}}
    material: dict[str, Any] = {"name": "photographed", "pbrMetallicRoughness": surface}
    packed = texture_idx.get("occlusion_roughness_metallic")
    if packed is None:
        surface |= {"metallicFactor": 0.0, "roughnessFactor": PLAIN_ROUGHNESS}
    else:
        surface["metallicRoughnessTexture"] = {"index": packed}
        material["occlusionTexture"] = {"index": packed}
    if "normal" in texture_idx:
        material["normalTexture"] = {"index": texture_idx["normal"]}
    return material


def _write(path: Path, tree: dict[str, Any], buffer: Buffer) -> Path:
    """glTF 2.0, section 4.4: a header and two chunks, each a length, a kind and four-byte aligned content."""
    whole = tree | {
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    text = json.dumps(whole, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = b"".join(
        struct.pack("<I4s", len(content), kind) + content
        for kind, content in ((JSON_CHUNK, text), (BINARY_CHUNK, bytes(buffer.data)))
    )
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
    return path
