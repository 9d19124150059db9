"""Triangles: the mesh, its atlas and the textured asset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int32, UInt8
from PIL import Image

from recon.data.files import read_json, read_mask, read_rgb, require, write_json


def check_triangles(vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]) -> None:
    """Raise ValueError unless a triangle list is finite, indexed in range and not empty."""
    require(len(faces) > 0, "a mesh has no triangles")
    require(bool(np.isfinite(vertices).all()), "a vertex is not finite")
    require(int(faces.min()) >= 0 and int(faces.max()) < len(vertices), "a face names no vertex")


@dataclass(frozen=True)
class Mesh:
    """A cleaned, simplified triangle mesh in world; faces are counter-clockwise seen from outside."""

    vertices_world: Float64[np.ndarray, "n_vertices 3"]
    faces: Int[np.ndarray, "n_faces 3"]
    stats: dict[str, Any] = field(default_factory=dict)
    dense_vertices_world: Float32[np.ndarray, "n_dense_vertices 3"] = field(
        default_factory=lambda: np.zeros((0, 3), np.float32)
    )
    """The same surface before it was simplified, with all detail that was extracted; empty where it was not kept."""
    dense_faces: Int32[np.ndarray, "n_dense_faces 3"] = field(default_factory=lambda: np.zeros((0, 3), np.int32))

    def save(self, folder: Path) -> None:
        arrays = ("vertices_world", "faces", "dense_vertices_world", "dense_faces")
        np.savez(folder / "mesh.npz", **{k: getattr(self, k) for k in arrays})
        write_json(folder / "mesh.json", {"stats": self.stats})

    @staticmethod
    def load(folder: Path) -> Mesh:
        with np.load(folder / "mesh.npz") as arrays:
            return Mesh(stats=read_json(folder / "mesh.json")["stats"], **arrays)

    def check(self) -> None:
        check_triangles(self.vertices_world, self.faces)
        if len(self.dense_faces):
            check_triangles(self.dense_vertices_world, self.dense_faces)


@dataclass(frozen=True)
class UvMesh:
    """A mesh cut into charts: vertices on chart borders are doubled, each with its own uv."""

    vertices_world: Float64[np.ndarray, "n_vertices 3"]
    faces: Int[np.ndarray, "n_faces 3"]
    """In the same order as the faces of the mesh it came from."""
    uv: Float64[np.ndarray, "n_vertices 2"]
    """0..1, origin at the texture's BOTTOM left, v up (OBJ's convention; glTF's flip is at its border)."""
    mesh_vertex_idx: Int[np.ndarray, " n_vertices"]
    """Which vertex of the uncut mesh each vertex is."""
    texture_size_px: int
    stats: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        arrays = ("vertices_world", "faces", "uv", "mesh_vertex_idx")
        np.savez(folder / "uv_mesh.npz", **{k: getattr(self, k) for k in arrays})
        write_json(folder / "uv_mesh.json", {"texture_size_px": self.texture_size_px, "stats": self.stats})

    @staticmethod
    def load(folder: Path) -> UvMesh:
        j = read_json(folder / "uv_mesh.json")
        with np.load(folder / "uv_mesh.npz") as arrays:
            return UvMesh(texture_size_px=j["texture_size_px"], stats=j["stats"], **arrays)

    def check(self) -> None:
        check_triangles(self.vertices_world, self.faces)
        require(bool(((self.uv >= 0) & (self.uv <= 1)).all()), "a texture coordinate is outside 0..1")


OPTIONAL_MAPS = ("normal_map", "occlusion_roughness_metallic")
"""Maps that an Asset may have besides its base colour, in the order of its fields; each is saved as NAME.png."""


@dataclass(frozen=True)
class Asset:
    """A textured mesh in world, before it is placed and written by the exporter."""

    uv_mesh: UvMesh
    base_colour: UInt8[np.ndarray, "t t 3"]
    """sRGB, row 0 is the top of the texture (v = 1)."""
    seen: UInt8[np.ndarray, "t t"]
    """255 where a photo saw the texel, 128 where it was filled in, 0 outside every chart."""
    stats: dict[str, Any] = field(default_factory=dict)
    normal_map: UInt8[np.ndarray, "t t 3"] | None = None
    """Tangent space as glTF has it (green is +v, up in the texture): the dense surface's normals on this mesh."""
    occlusion_roughness_metallic: UInt8[np.ndarray, "t t 3"] | None = None
    """glTF's packing, linear: R ambient occlusion (255 is open), G roughness, B metallic."""

    def save(self, folder: Path) -> None:
        self.uv_mesh.save(folder)
        Image.fromarray(self.base_colour).save(folder / "base_colour.png")
        Image.fromarray(self.seen).save(folder / "seen.png")
        for name in OPTIONAL_MAPS:
            if getattr(self, name) is not None:
                Image.fromarray(getattr(self, name)).save(folder / f"{name}.png")
        write_json(folder / "asset.json", {"stats": self.stats})

    @staticmethod
    def load(folder: Path) -> Asset:
        return Asset(
            UvMesh.load(folder),
            read_rgb(folder / "base_colour.png"),
            read_mask(folder / "seen.png"),
            read_json(folder / "asset.json")["stats"],
            *(read_rgb(path) if path.exists() else None for path in (folder / f"{n}.png" for n in OPTIONAL_MAPS)),
        )

    def check(self) -> None:
        self.uv_mesh.check()
        require(self.base_colour.shape[:2] == self.seen.shape, "texture and its seen-map differ in size")
        for name in OPTIONAL_MAPS:
            made = getattr(self, name)
            require(made is None or made.shape == self.base_colour.shape, f"{name} and base colour differ in size")
        require(bool((self.seen > 0).any()), "no texel of the texture is used")
