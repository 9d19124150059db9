"""Photos with cameras."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, UInt8

from recon.camera import Pinhole, View
from recon.data.capture import LeftOut
from recon.data.files import read_json, read_mask, read_rgb, require, write_json
from recon.transforms import Rigid


@dataclass(frozen=True)
class SupportPlane:
    """What the object stands on (or hangs against): normal_world . x = offset, normal towards the object."""

    normal_world: Float64[np.ndarray, "3"]
    offset: float
    inlier_share: float
    """Share of the sparse points near the looked-at region that lie on the plane."""


def views_to_json(views: tuple[View, ...]) -> list[dict[str, Any]]:
    """Views as plain data."""
    return [
        {"name": v.name, "camera": asdict(v.camera), "cam_from_world": v.cam_from_world.matrix().tolist()}
        for v in views
    ]


def views_from_json(content: list[dict[str, Any]]) -> tuple[View, ...]:
    """What `views_to_json` wrote."""
    return tuple(
        View(v["name"], Pinhole(**v["camera"]), Rigid.from_matrix(np.array(v["cam_from_world"]))) for v in content
    )


SWEPT_FILE = "swept.png"


@dataclass(frozen=True)
class PosedCapture:
    """Undistorted photos with pinhole cameras, and the sparse points that they were found with."""

    folder: Path
    """Holds `images/<name>.jpg` (undistorted) and, where the user gave them, `masks/<name>.png` (undistorted)."""
    views: tuple[View, ...]
    points_world: Float64[np.ndarray, "n_points 3"]
    point_rgb: UInt8[np.ndarray, "n_points 3"]
    point_error_px: Float64[np.ndarray, " n_points"]
    obs_point_idx: Int[np.ndarray, " n_obs"]
    """Observations: point `obs_point_idx[i]` was measured in view `obs_view_idx[i]`."""
    obs_view_idx: Int[np.ndarray, " n_obs"]
    focus_world: Float64[np.ndarray, "3"]
    """The point that the cameras look at together."""
    up_source: str
    """How +Z was found, in words: `support plane`, `camera orientation`, ..."""
    scale_source: str
    """`unknown`, or how metres were found."""
    support_plane: SupportPlane | None
    sharpness: Float64[np.ndarray, " n_views"]
    """Of each view's photo, see Photo.sharpness."""
    left_out: tuple[LeftOut, ...] = ()
    """Photos that got no pose."""
    stats: dict[str, float] = field(default_factory=dict)
    """Figures for the report: mean reprojection error in px, track length, ..."""

    def image_path(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.jpg"

    def image(self, view_idx: int) -> UInt8[np.ndarray, "h w 3"]:
        """The undistorted photo of a view, decoded anew at each call."""
        return read_rgb(self.image_path(self.views[view_idx].name))

    def mask_path(self, name: str) -> Path | None:
        path = self.folder / "masks" / f"{name}.png"
        return path if path.exists() else None

    def swept(self) -> UInt8[np.ndarray, "h w"] | None:
        """Where the photos change (255), if the camera stood still before a turntable; else None."""
        path = self.folder / SWEPT_FILE
        return read_mask(path) if path.exists() else None

    def save(self, folder: Path) -> None:
        plane = self.support_plane
        write_json(
            folder / "posed.json",
            {
                "views": views_to_json(self.views),
                "up_source": self.up_source,
                "scale_source": self.scale_source,
                "support_plane": plane
                and {
                    "normal_world": plane.normal_world.tolist(),
                    "offset": plane.offset,
                    "inlier_share": plane.inlier_share,
                },
                "left_out": [asdict(x) for x in self.left_out],
                "stats": self.stats,
            },
        )
        arrays = ("points_world", "point_rgb", "point_error_px", "obs_point_idx", "obs_view_idx", "focus_world")
        np.savez(folder / "posed.npz", sharpness=self.sharpness, **{k: getattr(self, k) for k in arrays})

    @staticmethod
    def load(folder: Path) -> PosedCapture:
        j = read_json(folder / "posed.json")
        views = views_from_json(j["views"])
        p = j["support_plane"]
        plane = p and SupportPlane(np.array(p["normal_world"]), p["offset"], p["inlier_share"])
        with np.load(folder / "posed.npz") as arrays:
            return PosedCapture(
                folder=folder,
                views=views,
                up_source=j["up_source"],
                scale_source=j["scale_source"],
                support_plane=plane,
                left_out=tuple(LeftOut(**x) for x in j["left_out"]),
                stats=j["stats"],
                **arrays,
            )

    def check(self) -> None:
        require(len(self.views) >= 2, "fewer than two views have a pose")
        for v in self.views:
            v.cam_from_world.check()
        require(len({v.name for v in self.views}) == len(self.views), "two views share a name")
        require(bool(np.isfinite(self.points_world).all()), "a sparse point is not finite")
        require(len(self.obs_point_idx) == len(self.obs_view_idx), "observations have unequal lengths")
        if len(self.obs_point_idx):
            require(int(self.obs_point_idx.max()) < len(self.points_world), "an observation names no point")
            require(int(self.obs_view_idx.max()) < len(self.views), "an observation names no view")
        looking = sum(v.project(self.focus_world[None])[1][0] > 0 for v in self.views)
        require(looking >= len(self.views) / 2, "most views look away from the focus point")
