"""The dense cloud that supports the surface."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int, UInt8

from recon.data.files import read_json, require, write_json

ARRAYS = ("points_world", "normals_world", "confidence", "rgb", "n_support")


@dataclass(frozen=True)
class PriorCloud:
    """Dense oriented points on the object's surface, from multi-view stereo."""

    points_world: Float64[np.ndarray, "n 3"]
    normals_world: Float64[np.ndarray, "n 3"]
    """Unit, towards the cameras that saw the point."""
    confidence: Float64[np.ndarray, " n"]
    """0..1; how much the point may be trusted."""
    rgb: UInt8[np.ndarray, "n 3"]
    n_support: Int[np.ndarray, " n"]
    """How many views agree on the point."""
    stats: dict[str, float] = field(default_factory=dict)

    def kept(self, keep: Bool[np.ndarray, " n"]) -> PriorCloud:
        """Some of the points."""
        return replace(self, **{k: getattr(self, k)[keep] for k in ARRAYS})

    def save(self, folder: Path) -> None:
        np.savez(folder / "cloud.npz", **{k: getattr(self, k) for k in ARRAYS})
        write_json(folder / "cloud.json", {"stats": self.stats})
        write_cloud_ply(folder / "cloud.ply", self)

    @staticmethod
    def load(folder: Path) -> PriorCloud:
        with np.load(folder / "cloud.npz") as arrays:
            return PriorCloud(stats=read_json(folder / "cloud.json")["stats"], **arrays)

    def check(self) -> None:
        require(bool(np.isfinite(self.points_world).all()), "a prior point is not finite")
        length = np.linalg.norm(self.normals_world, axis=1)
        require(bool((np.abs(length - 1) < 1e-3).all()), "a prior normal is not of unit length")
        require(bool(((self.confidence >= 0) & (self.confidence <= 1)).all()), "a confidence is outside 0..1")


def write_cloud_ply(path: Path, cloud: PriorCloud) -> None:
    """Write a binary PLY with normals, colours and `quality` (MeshLab's name for confidence)."""
    dtype = [(k, "<f4") for k in ("x", "y", "z", "nx", "ny", "nz")]
    dtype += [(k, "u1") for k in ("red", "green", "blue")] + [("quality", "<f4")]
    rows = np.empty(len(cloud.points_world), dtype)
    for columns, values in (
        (("x", "y", "z"), cloud.points_world),
        (("nx", "ny", "nz"), cloud.normals_world),
        (("red", "green", "blue"), cloud.rgb),
    ):
        for i, column in enumerate(columns):
            rows[column] = values[:, i]
    rows["quality"] = cloud.confidence
    kinds = {"<f4": "float", "u1": "uchar"}
    header = "ply\nformat binary_little_endian 1.0\n" + f"element vertex {len(rows)}\n"
    header += "".join(f"property {kinds[kind]} {name}\n" for name, kind in dtype) + "end_header\n"
    path.write_bytes(header.encode() + rows.tobytes())
