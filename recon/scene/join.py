"""Several binary glTF files as one, whose copies share meshes, materials and images (the glTF border of scenes)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from recon.errors import UserError

MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
MOVABLE = {
    "EXT_meshopt_compression",
    "EXT_texture_webp",
    "KHR_draco_mesh_compression",
    "KHR_mesh_quantization",
    "KHR_texture_basisu",
    "KHR_texture_transform",
}
"""Extensions whose indices `_Joined` moves, besides those of materials (KHR_materials_*)."""


@dataclass(frozen=True)
class Source:
    """A glTF file as read: its tree, its one buffer, and its meshes with where its scene puts them."""

    path: Path
    tree: dict[str, Any]
    binary: bytes
    parts: tuple[tuple[int, Float64[np.ndarray, "4 4"]], ...]
    """(mesh, scene_from_mesh) for every node with a mesh."""
    low: Float64[np.ndarray, "3"]
    high: Float64[np.ndarray, "3"]
    """The bounding box in the file's own frame."""

    @property
    def longest_side(self) -> float:
        return float((self.high - self.low).max())

    @property
    def extras(self) -> dict[str, Any]:
        """The provenance that the exporter wrote; empty for files from elsewhere."""
        found = self.tree["asset"].get("extras", {})
        return found if isinstance(found, dict) else {}

    @property
    def n_triangles(self) -> int:
        """Of one copy."""
        accessors = self.tree["accessors"]
        primitives = [p for mesh, _ in self.parts for p in self.tree["meshes"][mesh]["primitives"]]
        return sum(accessors[p.get("indices", p["attributes"]["POSITION"])]["count"] // 3 for p in primitives)


def read_glb(path: Path) -> Source:
    """Read a binary glTF file. Raises UserError for what is none, or cannot be placed several times."""
    data = path.read_bytes()
    if len(data) < 20 or struct.unpack_from("<I", data)[0] != MAGIC:
        raise UserError(f"{path} is not a binary glTF file (GLB).")
    try:
        n_json, kind = struct.unpack_from("<2I", data, 12)
        tree = json.loads(data[20 : 20 + n_json])
        at = 20 + n_json
        n_binary, binary_kind = struct.unpack_from("<2I", data, at) if at + 8 <= len(data) else (0, BINARY_CHUNK)
        binary = data[at + 8 : at + 8 + n_binary]
        if (kind, binary_kind) != (JSON_CHUNK, BINARY_CHUNK) or len(binary) != n_binary:
            raise ValueError("its chunks are not as its header says")
        _require_movable(path, tree)
        parts = tuple(_meshes(tree))
        low, high = _bounds(tree, parts)
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise UserError(f"{path} is a damaged glTF file: {type(error).__name__}, {error}.") from error
    return Source(path, tree, binary, parts, low, high)


def _require_movable(path: Path, tree: Mapping[str, Any]) -> None:
    if tree.get("skins") or tree.get("animations"):
        raise UserError(f"{path} has a skeleton or moves, and a scene takes still assets only.")
    if (
        any("uri" in x for x in [*tree.get("buffers", []), *tree.get("images", [])])
        or len(tree.get("buffers", [])) != 1
    ):
        raise UserError(f"{path} keeps its data in other files: save it as one self-contained GLB.")
    strange = [x for x in tree.get("extensionsRequired", []) if x not in MOVABLE and not x.startswith("KHR_materials_")]
    if strange:
        raise UserError(f"{path} needs {strange[0]}, which recon cannot place in a scene: save it without.")


def _meshes(tree: Mapping[str, Any]) -> list[tuple[int, Float64[np.ndarray, "4 4"]]]:
    """Every node with a mesh below the file's scene."""
    found = []
    waiting = [(node, np.eye(4)) for node in tree["scenes"][tree.get("scene", 0)].get("nodes", [])]
    while waiting:
        index, scene_from_parent = waiting.pop()
        node = tree["nodes"][index]
        scene_from_node = scene_from_parent @ parent_from_node(node)
        if "mesh" in node:
            found.append((node["mesh"], scene_from_node))
        waiting += [(child, scene_from_node) for child in node.get("children", [])]
    if not found:
        raise ValueError("its scene shows no mesh")
    return found


def parent_from_node(node: Mapping[str, Any]) -> Float64[np.ndarray, "4 4"]:
    """The transform that a node states; glTF writes matrices by columns and quaternions as x, y, z, w."""
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0.0, 0.0, 0.0, 1.0))
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, :3] *= node.get("scale", (1.0, 1.0, 1.0))
    out[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return out


def _bounds(
    tree: Mapping[str, Any], parts: tuple[tuple[int, Float64[np.ndarray, "4 4"]], ...]
) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
    """The box around the corners of every mesh's own box, which glTF demands of positions."""
    corners = []
    for mesh, scene_from_mesh in parts:
        for primitive in tree["meshes"][mesh]["primitives"]:
            accessor = tree["accessors"][primitive["attributes"]["POSITION"]]
            ends = np.array([accessor["min"], accessor["max"]], float)
            box = np.array([[ends[i >> k & 1, k] for k in range(3)] for i in range(8)])
            corners.append(box @ scene_from_mesh[:3, :3].T + scene_from_mesh[:3, 3])
    everything = np.concatenate(corners)
    return everything.min(0), everything.max(0)


@dataclass
class Joined:
    """A glTF tree that grows: files are added once, copies of them as often as wanted."""

    tree: dict[str, Any]
    binary: bytearray = field(default_factory=bytearray)
    _first_mesh: dict[Path, int] = field(default_factory=dict)

    def add(self, source: Source) -> None:
        """Take in a file's meshes, materials and images, if they are not there yet."""
        if source.path in self._first_mesh:
            return
        names = ("bufferViews", "accessors", "images", "samplers", "textures", "materials", "meshes")
        before = {name: len(self.tree.get(name, [])) for name in names}
        self._first_mesh[source.path] = before["meshes"]
        moved = _moved({name: deepcopy(source.tree.get(name, [])) for name in names}, before, len(self.binary))
        for name in names:
            if moved[name]:
                self.tree.setdefault(name, []).extend(moved[name])
        for name in ("extensionsUsed", "extensionsRequired"):
            together = sorted({*self.tree.get(name, []), *source.tree.get(name, [])})
            if together:
                self.tree[name] = together
        self.binary += source.binary + b"\0" * (-len(source.binary) % 4)

    def place(self, source: Source, name: str, node: dict[str, Any]) -> None:
        """Add a copy of a file as one node; node: its translation, rotation and scale."""
        first = self._first_mesh[source.path]
        nodes = self.tree["nodes"]
        self.tree["scenes"][0]["nodes"].append(len(nodes))
        nodes.append({"name": name, **node})
        if len(source.parts) == 1 and np.array_equal(source.parts[0][1], np.eye(4)):
            nodes[-1]["mesh"] = first + source.parts[0][0]
            return
        nodes[-1]["children"] = list(range(len(nodes), len(nodes) + len(source.parts)))
        for number, (mesh, matrix) in enumerate(source.parts, 1):
            nodes.append({"name": f"{name}_part{number}", "mesh": first + mesh, "matrix": matrix.T.ravel().tolist()})

    def to_bytes(self) -> bytes:
        """The whole as a binary glTF file."""
        tree = self.tree | {"buffers": [{"byteLength": len(self.binary)}]}
        text = json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + len(self.binary)
        head = struct.pack("<3I", MAGIC, 2, total) + struct.pack("<2I", len(text), JSON_CHUNK)
        return head + text + struct.pack("<2I", len(self.binary), BINARY_CHUNK) + bytes(self.binary)


def _moved(lists: dict[str, list[Any]], before: Mapping[str, int], n_bytes: int) -> dict[str, list[Any]]:
    """A file's lists with every index moved by how many there are of its kind already (in place)."""

    def move(holder: dict[str, Any], key: str, kind: str) -> None:
        if key in holder:
            holder[key] += before[kind]

    for view in lists["bufferViews"]:
        for part in (view, view.get("extensions", {}).get("EXT_meshopt_compression", {})):
            if "buffer" in part:
                part["byteOffset"] = part.get("byteOffset", 0) + n_bytes
    for accessor in lists["accessors"]:
        sparse = accessor.get("sparse", {})
        for part in (accessor, sparse.get("indices", {}), sparse.get("values", {})):
            move(part, "bufferView", "bufferViews")
    for image in lists["images"]:
        move(image, "bufferView", "bufferViews")
    for texture in lists["textures"]:
        move(texture, "sampler", "samplers")
        for part in (texture, *texture.get("extensions", {}).values()):
            move(part, "source", "images")
    for material in lists["materials"]:
        _move_textures(material, before["textures"])
    for primitive in (p for mesh in lists["meshes"] for p in mesh["primitives"]):
        move(primitive, "material", "materials")
        move(primitive, "indices", "accessors")
        for attributes in (primitive["attributes"], *primitive.get("targets", [])):
            for key in attributes:
                attributes[key] += before["accessors"]
        move(primitive.get("extensions", {}).get("KHR_draco_mesh_compression", {}), "bufferView", "bufferViews")
    return lists


def _move_textures(holder: Any, n_before: int) -> None:
    """Move the index of every texture that a material names, in its extensions too."""
    if not isinstance(holder, dict):
        return
    for key, value in holder.items():
        if key.endswith("Texture") and isinstance(value, dict):
            value["index"] += n_before
        elif key != "extras":
            _move_textures(value, n_before)
