"""What was photographed: photos and whatever came with them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int
from PIL import Image

from recon.data.files import read_json, require, write_json
from recon.transforms import Rigid


@dataclass(frozen=True)
class LeftOut:
    """A file or photo that was not used, and why, in words for the user."""

    name: str
    reason: str


@dataclass(frozen=True)
class Photo:
    """One upright 8-bit photo of a capture."""

    name: str
    """Unique within the capture; the source file's name without extension where that is unique."""
    source: str
    """Path of the file it came from, relative to the capture (a video frame adds `#frame`)."""
    width_px: int
    height_px: int
    focal_px: float | None
    """From EXIF, at this photo's size; None where EXIF does not say."""
    lens_key: str
    """Photos with the same key share intrinsics (make, model, lens, zoom, size, how the sensor lay)."""
    sharpness: float
    """Relative sharpness within the capture: 1 is its median photo; below about 0.5 is visibly blurred."""
    exposure_ev: float
    """Log2 of the photo's mean linear brightness against the capture's median photo."""
    captured_at: str | None = None
    """EXIF time (ISO, local), used only for the order of taking."""


@dataclass(frozen=True)
class GivenCamera:
    """A camera that the user gave for a photo: of the upright photo at its working size, OpenCV distortion."""

    photo: str
    """Name of the photo in the capture."""
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    k1: float
    k2: float
    p1: float
    p2: float
    cam_from_given: Rigid


@dataclass(frozen=True)
class GivenPoses:
    """Cameras, and perhaps points, that the user has already, in a frame of their own."""

    source: str
    """The file or folder they came from, relative to the capture."""
    cameras: tuple[GivenCamera, ...]
    is_metric: bool
    """From an AR session: the frame's unit is the metre, and its +Y or its +Z is vertical."""
    points_given: Float64[np.ndarray, "n_points 3"] = field(default_factory=lambda: np.zeros((0, 3)))
    obs_point_idx: Int[np.ndarray, " n_obs"] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Observations: point `obs_point_idx[i]` was measured at `obs_px[i]` of the photo of `obs_camera_idx[i]`."""
    obs_camera_idx: Int[np.ndarray, " n_obs"] = field(default_factory=lambda: np.zeros(0, np.int64))
    obs_px: Float64[np.ndarray, "n_obs 2"] = field(default_factory=lambda: np.zeros((0, 2)))

    def save(self, folder: Path) -> None:
        cameras = [
            {k: v for k, v in vars(c).items() if k != "cam_from_given"}
            | {"cam_from_given": c.cam_from_given.matrix().tolist()}
            for c in self.cameras
        ]
        write_json(folder / "given.json", {"source": self.source, "is_metric": self.is_metric, "cameras": cameras})
        arrays = ("points_given", "obs_point_idx", "obs_camera_idx", "obs_px")
        np.savez(folder / "given.npz", **{k: getattr(self, k) for k in arrays})

    @staticmethod
    def load(folder: Path) -> GivenPoses:
        j = read_json(folder / "given.json")
        cameras = tuple(
            GivenCamera(**c, cam_from_given=Rigid.from_matrix(np.array(matrix)))
            for c in j["cameras"]
            for matrix in [c.pop("cam_from_given")]
        )
        with np.load(folder / "given.npz") as arrays:
            return GivenPoses(j["source"], cameras, j["is_metric"], **arrays)

    def check(self) -> None:
        for camera in self.cameras:
            camera.cam_from_given.check()
            require(camera.fx_px > 0 and camera.fy_px > 0, "a given focal length is not positive")
        require(bool(np.isfinite(self.points_given).all()), "a given point is not finite")


@dataclass(frozen=True)
class Capture:
    """The usable photos of one capture, decoded, upright, at working size."""

    folder: Path
    """Holds `images/<name>.jpg` and, where the user gave them, `masks/<name>.png` and `depth/<name>.png`."""
    name: str
    photos: tuple[Photo, ...]
    left_out: tuple[LeftOut, ...] = ()
    is_video: bool = False
    """Photos come in the order of taking, so that sequential pairs make sense."""
    given: GivenPoses | None = None
    """Cameras that the user has already, or None."""

    def image_path(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.jpg"

    def mask_path(self, name: str) -> Path | None:
        """The mask that the user gave for this photo, or None."""
        path = self.folder / "masks" / f"{name}.png"
        return path if path.exists() else None

    def depth_z_m(self, name: str) -> Float64[np.ndarray, "h w"] | None:
        """The depth map that the user gave for this photo, in metres, at a size of its own; 0 where it is not known."""
        path = self.folder / "depth" / f"{name}.png"
        if not path.exists():
            return None
        with Image.open(path) as image:
            return np.asarray(image).astype(np.float64) / 1000

    def save(self, folder: Path) -> None:
        content = {k: v for k, v in asdict(self).items() if k not in ("folder", "given")}
        write_json(folder / "capture.json", content)
        if self.given is not None:
            self.given.save(folder)

    @staticmethod
    def load(folder: Path) -> Capture:
        j = read_json(folder / "capture.json")
        photos = tuple(Photo(**p) for p in j.pop("photos"))
        left_out = tuple(LeftOut(**x) for x in j.pop("left_out"))
        given = GivenPoses.load(folder) if (folder / "given.json").exists() else None
        return Capture(folder=folder, photos=photos, left_out=left_out, given=given, **j)

    def check(self) -> None:
        names = [p.name for p in self.photos]
        require(len(names) == len(set(names)), "two photos of a capture share a name")
        require(all(self.image_path(n).exists() for n in names), "a photo's image file is missing")
        require(all(p.sharpness >= 0 and np.isfinite(p.exposure_ev) for p in self.photos), "photo quality not finite")
        if self.given is not None:
            self.given.check()
            require({c.photo for c in self.given.cameras} <= set(names), "a given camera names no photo")
