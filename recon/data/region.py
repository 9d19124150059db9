"""Which part of the photos and of the world is the object."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int, UInt8

from recon.data.files import read_json, read_mask, require, write_json
from recon.data.mesh import check_triangles
from recon.transforms import Rigid


@dataclass(frozen=True)
class ObjectRegion:
    """Where the object is: a mask in every view, a tight box and a convex hull in world."""

    folder: Path
    """Holds `masks/<name>.png`, 8-bit, at the photo's size: 255 object, 0 not, between: unsure edge."""
    world_from_box: Rigid
    """The box's own axes, centred on it; its z axis is the world's +Z."""
    box_size: Float64[np.ndarray, "3"]
    """Full edge lengths of the box, in world units."""
    hull_vertices_world: Float64[np.ndarray, "n_vertices 3"]
    """The convex hull of the object with a small margin; nothing is sampled outside it."""
    hull_faces: Int[np.ndarray, "n_faces 3"]
    """Triangles, counter-clockwise seen from outside."""
    mask_source: str
    """`estimated` or `given`."""
    rests_on_support: bool
    """True if the object touches the support plane, so that its underside was never seen."""
    stats: dict[str, float] = field(default_factory=dict)
    """Figures for the report: mask agreement with the visual hull, share of photo covered, ..."""

    def mask_path(self, name: str) -> Path:
        return self.folder / "masks" / f"{name}.png"

    def mask(self, name: str) -> UInt8[np.ndarray, "h w"]:
        """A view's mask, decoded anew at each call."""
        return read_mask(self.mask_path(name))

    @cached_property
    def hull_planes(self) -> Float64[np.ndarray, "n_planes 4"]:
        """Half-spaces (n, d) with unit n: a point x is inside the hull where n . x + d <= 0 for all of them."""
        tri = self.hull_vertices_world[self.hull_faces]
        normal = np.cross(tri[:, 1] - tri[:, 0], tri[:, 2] - tri[:, 0])
        length = np.linalg.norm(normal, axis=1)
        normal = normal[length > 1e-15] / length[length > 1e-15, None]
        planes = np.concatenate([normal, -(normal * tri[length > 1e-15, 0]).sum(1, keepdims=True)], 1)
        return np.unique(np.round(planes, 9), axis=0)

    def inside_hull(self, points_world: Float[np.ndarray, "n 3"], margin: float = 0.0) -> np.ndarray:
        """Which points lie inside the hull grown by `margin` (world units)."""
        inside = np.ones(len(points_world), bool)
        for plane in self.hull_planes:
            inside &= points_world @ plane[:3] + plane[3] <= margin
        return inside

    def diagonal(self) -> float:
        """The box's diagonal in world units: the object's size."""
        return float(np.linalg.norm(self.box_size))

    def save(self, folder: Path) -> None:
        write_json(
            folder / "region.json",
            {
                "world_from_box": self.world_from_box.matrix().tolist(),
                "box_size": self.box_size.tolist(),
                "mask_source": self.mask_source,
                "rests_on_support": self.rests_on_support,
                "stats": self.stats,
            },
        )
        np.savez(folder / "hull.npz", vertices=self.hull_vertices_world, faces=self.hull_faces)

    @staticmethod
    def load(folder: Path) -> ObjectRegion:
        j = read_json(folder / "region.json")
        with np.load(folder / "hull.npz") as arrays:
            vertices, faces = arrays["vertices"], arrays["faces"]
        return ObjectRegion(
            folder=folder,
            world_from_box=Rigid.from_matrix(np.array(j.pop("world_from_box"))),
            box_size=np.array(j.pop("box_size")),
            hull_vertices_world=vertices,
            hull_faces=faces,
            **j,
        )

    def check(self) -> None:
        self.world_from_box.check()
        require(bool((self.box_size > 0).all()), "the object's box has no volume")
        check_triangles(self.hull_vertices_world, self.hull_faces)
        centre = self.hull_vertices_world.mean(0)
        require(bool(self.inside_hull(centre[None])[0]), "the hull's faces are turned inside out")
        require(any((self.folder / "masks").glob("*.png")), "no mask was written")
