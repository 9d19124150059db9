"""Camera files as other programs write them: COLMAP models, nerfstudio's transforms.json, Polycam's keyframes.

What is read here belongs to the photos as they are stored; `recon/capture/given.py` fits it to the upright photos.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int
from scipy.optimize import least_squares

from recon.errors import UserError
from recon.transforms import Rigid

COLMAP_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", ".")
POLYCAM_CAMERAS = ("keyframes/corrected_cameras", "keyframes/cameras")
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])
MAX_SHEAR = 1e-3
"""How far a rotation matrix may be from orthonormal: files with four digits stay below, a scaled one far above."""
MAX_REFIT_PX = 0.5
"""A lens that our distortion model misses by more than this anywhere in the photo is refused."""

Intrinsics = tuple[float, float, float, float, float, float, float, float]
"""fx, fy, cx, cy in pixels, k1, k2, p1, p2 (OpenCV's distortion)."""


@dataclass(frozen=True)
class StoredCamera:
    """A camera as its file gives it, of the photo's stored pixels."""

    name: str
    """The photo as the file names it, with or without folders and extension."""
    size_px: tuple[int, int] | None
    """Width and height that the intrinsics belong to; None where the file does not say."""
    intrinsics: Intrinsics
    cam_from_given: Rigid
    mask: Path | None = None
    depth: Path | None = None


@dataclass(frozen=True)
class GivenFile:
    """All cameras of one file."""

    path: Path
    cameras: tuple[StoredCamera, ...]
    is_metric: bool
    depth_unit_m: float = 0.001
    problems: tuple[str, ...] = ()
    """Sentences about cameras that the file names but that cannot be used."""
    points: Float64[np.ndarray, "n_points 3"] = field(default_factory=lambda: np.zeros((0, 3)))
    obs_point_idx: Int[np.ndarray, " n_obs"] = field(default_factory=lambda: np.zeros(0, np.int64))
    obs_camera_idx: Int[np.ndarray, " n_obs"] = field(default_factory=lambda: np.zeros(0, np.int64))
    obs_px: Float64[np.ndarray, "n_obs 2"] = field(default_factory=lambda: np.zeros((0, 2)))


def read_given_file(root: Path) -> GivenFile | None:
    """The cameras that lie with a capture: a COLMAP model, else transforms.json, else Polycam's keyframes, else None.

    Raises UserError where the file is damaged or of a kind that cannot be used.
    """
    for folder in COLMAP_FOLDERS:
        model = root / folder
        if any(
            (model / f"images.{kind}").is_file() and (model / f"cameras.{kind}").is_file() for kind in ("bin", "txt")
        ):
            return read_colmap(model)
    if (root / "transforms.json").is_file():
        return read_transforms(root / "transforms.json")
    polycam = next((root / p for p in POLYCAM_CAMERAS if any((root / p).glob("*.json"))), None)
    return read_polycam(polycam) if polycam else None


# ------------------------------------------------------------------------------------------------ COLMAP
def read_colmap(model: Path) -> GivenFile:
    """A COLMAP model, binary or text, with its points."""
    import pycolmap

    pycolmap.logging.minloglevel = 3
    try:
        reconstruction = pycolmap.Reconstruction(model)
    except (ValueError, RuntimeError, IndexError) as error:
        raise UserError(
            f"The COLMAP model in {model} cannot be read; write it again (colmap model_converter) or remove it."
        ) from error
    lenses = {k: _colmap_intrinsics(camera, model) for k, camera in reconstruction.cameras.items()}
    cameras: list[StoredCamera] = []
    problems, position = [], {}
    for image in reconstruction.images.values():
        pose = rigid_or_none(np.asarray(image.cam_from_world().matrix(), float)) if image.has_pose else None
        if pose is None:
            problems.append(_unusable(model, image.name))
            continue
        camera = reconstruction.cameras[image.camera_id]
        position[image.image_id] = len(cameras)
        size = (int(camera.width), int(camera.height))
        cameras.append(StoredCamera(image.name, size, lenses[image.camera_id], pose))
    _refuse_mostly_unusable(model, len(problems), len(reconstruction.images))
    points, obs, pixels = [], [], []
    for row, point in enumerate(reconstruction.points3D.values()):
        points.append(point.xyz)
        for element in point.track.elements:
            if element.image_id in position:
                obs.append((row, position[element.image_id]))
                pixels.append(reconstruction.images[element.image_id].points2D[element.point2D_idx].xy)
    table = np.array(obs, np.int64).reshape(-1, 2)
    return GivenFile(
        model,
        tuple(cameras),
        False,
        problems=tuple(problems),
        points=np.array(points, float).reshape(-1, 3),
        obs_point_idx=table[:, 0].copy(),
        obs_camera_idx=table[:, 1].copy(),
        obs_px=np.array(pixels, float).reshape(-1, 2),
    )


def _colmap_intrinsics(camera: Any, file: Path) -> Intrinsics:
    p = [float(v) for v in camera.params]
    match camera.model_name:
        case "SIMPLE_PINHOLE":
            return (p[0], p[0], p[1], p[2], 0.0, 0.0, 0.0, 0.0)
        case "PINHOLE":
            return (p[0], p[1], p[2], p[3], 0.0, 0.0, 0.0, 0.0)
        case "SIMPLE_RADIAL":
            return (p[0], p[0], p[1], p[2], p[3], 0.0, 0.0, 0.0)
        case "RADIAL":
            return (p[0], p[0], p[1], p[2], p[3], p[4], 0.0, 0.0)
        case "OPENCV":
            return (p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7])
    return _refitted(camera, file)


def _refitted(camera: Any, file: Path) -> Intrinsics:
    """The OpenCV lens nearest to another camera model, by least squares over a grid of pixels."""
    grid = np.stack(np.meshgrid(np.linspace(0, camera.width, 15), np.linspace(0, camera.height, 15)), -1).reshape(-1, 2)
    x, y = np.asarray(camera.cam_from_img(grid), float).T
    focal = (camera.focal_length_x, camera.focal_length_y)

    def miss(v: np.ndarray) -> np.ndarray:
        r2 = x * x + y * y
        radial = 1 + v[4] * r2 + v[5] * r2 * r2
        u = v[0] * (x * radial + 2 * v[6] * x * y + v[7] * (r2 + 2 * x * x)) + v[2]
        w = v[1] * (y * radial + v[6] * (r2 + 2 * y * y) + 2 * v[7] * x * y) + v[3]
        return (np.stack([u, w], -1) - grid).ravel()

    start = np.array([*focal, camera.principal_point_x, camera.principal_point_y, 0, 0, 0, 0], float)
    if np.isfinite([x, y]).all():
        fit = least_squares(miss, start, x_scale="jac")
        if np.abs(fit.fun).max() <= MAX_REFIT_PX:
            a = [float(v) for v in fit.x]
            return (a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7])
    raise UserError(
        f"{file} has cameras of the model {camera.model_name}, whose distortion is too strong here; "
        "undistort the photos (colmap image_undistorter) and give that folder."
    )


# ------------------------------------------------------------------------------------------------ transforms.json
def read_transforms(file: Path) -> GivenFile:
    """nerfstudio's transforms.json: OpenGL camera-to-world, intrinsics for all photos or for each.

    `applied_transform` and `applied_scale`, by which nerfstudio moved the cameras, are undone.
    """
    content = load_json(file)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames:
        raise UserError(f"{file} lists no frames; write it again or remove it.")
    cameras, problems = [], []
    undo = _undo_applied(content, file)
    for frame in frames:
        values = content | frame
        name = str(frame.get("file_path", ""))
        given_from_cam = _matrix(frame.get("transform_matrix"))
        pose = None if given_from_cam is None else rigid_or_none(undo(given_from_cam))
        if pose is None:
            problems.append(_unusable(file, name))
            continue
        size, intrinsics = _transforms_intrinsics(values, file)
        extra = {
            kind: file.parent / str(frame[key])
            for kind, key in (("mask", "mask_path"), ("depth", "depth_path"), ("depth", "depth_file_path"))
            if frame.get(key)
        }
        cam_from_given = Rigid(
            OPENGL_FROM_OPENCV @ pose.rotation.T, -OPENGL_FROM_OPENCV @ pose.rotation.T @ pose.translation
        )
        cameras.append(StoredCamera(name, size, intrinsics, cam_from_given, **extra))
    _refuse_mostly_unusable(file, len(problems), len(frames))
    # Nerfstudio's converter marks Polycam's sessions so; all its other sources have no unit, or do not tell.
    is_metric = content.get("orientation_override") == "none"
    unit = content.get("depth_unit_scale_factor", content.get("integer_depth_scale", 0.001))
    return GivenFile(file, tuple(cameras), is_metric, float(unit), tuple(problems))


def _undo_applied(content: dict[str, Any], file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """What takes a camera-to-world matrix back to the frame before `applied_transform` and `applied_scale`."""
    applied = np.eye(4)
    if content.get("applied_transform") is not None:
        matrix = _matrix(content["applied_transform"])
        if matrix is None or rigid_or_none(matrix) is None:
            raise UserError(f"{file} has an applied_transform that is no rotation; write it again or remove it.")
        applied[:3] = matrix
    scale = float(content.get("applied_scale", 1.0))

    def undo(given_from_cam: np.ndarray) -> np.ndarray:
        scaled = np.concatenate([given_from_cam[:, :3], given_from_cam[:, 3:] / scale], 1)
        return (np.linalg.inv(applied) @ np.concatenate([scaled, [[0, 0, 0, 1]]]))[:3]

    return undo


def _transforms_intrinsics(v: dict[str, Any], file: Path) -> tuple[tuple[int, int] | None, Intrinsics]:
    """Size and intrinsics of one frame; `v` holds its own values and the file's."""
    import pycolmap

    try:
        size = (round(float(v["w"])), round(float(v["h"]))) if "w" in v and "h" in v else None
        if "fl_x" not in v and "camera_angle_x" in v and size:
            v = v | {"fl_x": size[0] / 2 / math.tan(float(v["camera_angle_x"]) / 2)}
        fx = float(v["fl_x"])
        fy = float(v.get("fl_y", fx))
        cx, cy = (float(v[k]) if k in v else size[i] / 2 if size else math.nan for i, k in enumerate(("cx", "cy")))
        k1, k2, k3, k4, p1, p2 = (float(v.get(k, 0.0)) for k in ("k1", "k2", "k3", "k4", "p1", "p2"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} lacks usable intrinsics (fl_x, cx, cy, w, h); write it again or remove it.") from error
    if not np.isfinite([fx, fy, cx, cy, k1, k2, k3, k4, p1, p2]).all() or min(fx, fy) <= 0:
        raise UserError(f"{file} has intrinsics that are no numbers (fl_x, cx, cy, w, h); write it again or remove it.")
    model = str(v.get("camera_model", "OPENCV")).upper()
    plain = {"PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "PERSPECTIVE"}
    if model in plain and not k3 and not k4:
        return size, (fx, fy, cx, cy, k1, k2, p1, p2)
    if model not in plain | {"OPENCV_FISHEYE", "FULL_OPENCV"} or not size:
        raise UserError(f"{file} has cameras of the model {model}, which cannot be used; give perspective photos.")
    fisheye = model == "OPENCV_FISHEYE"
    params = [fx, fy, cx, cy, k1, k2, k3, k4] if fisheye else [fx, fy, cx, cy, k1, k2, p1, p2, k3, k4, 0, 0]
    name = "OPENCV_FISHEYE" if fisheye else "FULL_OPENCV"
    return size, _refitted(pycolmap.Camera(model=name, width=size[0], height=size[1], params=params), file)


# ------------------------------------------------------------------------------------------------ Polycam
def read_polycam(folder: Path) -> GivenFile:
    """Polycam's keyframes: one JSON for each photo, ARKit's camera-to-world in metres, +Y up, OpenGL camera axes."""
    cameras, problems = [], []
    files = sorted(folder.glob("*.json"))
    for file in files:
        v = load_json(file)
        try:
            matrix = np.array([[float(v[f"t_{r}{c}"]) for c in range(4)] for r in range(3)])
            size = (round(float(v["width"])), round(float(v["height"])))
            fx, fy, cx, cy = (float(v[k]) for k in ("fx", "fy", "cx", "cy"))
        except (KeyError, TypeError, ValueError):
            problems.append(f"{file} lacks a camera.")
            continue
        pose = rigid_or_none(matrix)
        if pose is None or not np.isfinite([fx, fy, cx, cy]).all():
            problems.append(_unusable(folder, file.stem))
            continue
        turn = OPENGL_FROM_OPENCV @ pose.rotation.T
        depth = folder.parent / "depth" / f"{file.stem}.png"
        camera = StoredCamera(
            file.stem,
            size,
            (fx, fy, cx, cy, 0.0, 0.0, 0.0, 0.0),
            Rigid(turn, -turn @ pose.translation),
            depth=depth if depth.is_file() else None,
        )
        cameras.append(camera)
    _refuse_mostly_unusable(folder, len(problems), len(files))
    return GivenFile(folder, tuple(cameras), True, 0.001, tuple(problems))


# ------------------------------------------------------------------------------------------------ common parts
def load_json(file: Path) -> Any:
    """The content of a JSON file. Raises UserError where it is damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged (not JSON); write it again or remove it.") from error


def rigid_or_none(matrix: np.ndarray) -> Rigid | None:
    """A 3x4 matrix as a rigid transform with its rotation made orthonormal; None where it is none."""
    rotation, translation = matrix[:, :3], matrix[:, 3]
    if not np.isfinite(matrix).all() or np.linalg.det(rotation) <= 0:
        return None
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > MAX_SHEAR:
        return None
    u, _, vt = np.linalg.svd(rotation)
    return Rigid(u @ vt, translation.copy())


def _matrix(value: Any) -> np.ndarray | None:
    """A 3x4 or 4x4 list of lists as its upper 3x4 part; None where it is none."""
    try:
        matrix = np.array(value, float)
    except (TypeError, ValueError):
        return None
    return matrix[:3] if matrix.shape in ((3, 4), (4, 4)) else None


def _unusable(file: Path, name: str) -> str:
    return f"The pose of {name} in {file.name} is no rotation and translation, so it was not used."


def _refuse_mostly_unusable(file: Path, n_bad: int, n: int) -> None:
    if n == 0 or n_bad > n / 2:
        raise UserError(
            f"{n_bad} of the {n} poses in {file} are no rotation and translation (not finite, scaled or mirrored); "
            "write the file again or remove it."
        )
