"""The border to pycolmap: its database, its logging and its reconstructions."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pose.features import PhotoFeatures
from pose.model import Lens, SparseModel
from recon.data import Capture, GivenCamera, Photo
from recon.transforms import Rigid

DEFAULT_FOCAL_FACTOR = 0.85
"""Focal length over the long side where EXIF is silent: a phone's main camera has 0.75, its video
0.8 to 1."""


def silenced() -> Any:
    """pycolmap, imported with its logging off but for what ends the process: failures are told in words of ours."""
    import pycolmap

    pycolmap.logging.minloglevel = 3
    return pycolmap


@contextmanager
def work_folder(wanted: Path) -> Iterator[Path]:
    """A folder that pycolmap can open on every system, emptied in the end.

    `wanted`, or a temporary one where that path is not ASCII: on Windows pycolmap cannot open such a database.
    """
    if not str(wanted.resolve()).isascii():
        with tempfile.TemporaryDirectory(prefix="recon-") as temporary:
            yield Path(temporary)
        return
    wanted.mkdir(parents=True, exist_ok=True)
    yield wanted
    shutil.rmtree(wanted)


def database_name(position: int) -> str:
    """The name of the photo at a position of the capture inside pycolmap (ASCII without spaces, whatever its own)."""
    return f"{position:06d}.jpg"


def write_database(path: Path, capture: Capture, features: Sequence[PhotoFeatures]) -> None:
    """Write cameras (one per lens), photos (image id = position + 1) and features into a new database."""
    pycolmap = silenced()
    path.unlink(missing_ok=True)
    database = pycolmap.Database.open(path)
    try:
        camera_ids: dict[str, int] = {}
        for i, (photo, found) in enumerate(zip(capture.photos, features, strict=True), 1):
            if photo.lens_key not in camera_ids:
                camera_ids[photo.lens_key] = _write_camera(pycolmap, database, capture, photo)
            camera_id = camera_ids[photo.lens_key]
            image = pycolmap.Image(name=database_name(i - 1), camera_id=camera_id, image_id=i)
            database.write_image(image, use_image_id=True)
            frame = pycolmap.Frame(frame_id=i, rig_id=camera_id)
            frame.add_data_id(image.data_id)
            database.write_frame(frame, use_frame_id=True)
            write_features(database, i, found)
    finally:
        database.close()


def write_features(database: Any, image_id: int, found: PhotoFeatures) -> None:
    """Store one photo's features."""
    pycolmap = silenced()
    database.write_keypoints(image_id, found.keypoints)
    descriptors = pycolmap.FeatureDescriptors()
    descriptors.type, descriptors.data = pycolmap.FeatureExtractorType.SIFT, found.descriptors
    database.write_descriptors(image_id, descriptors)


def _write_camera(pycolmap: Any, database: Any, capture: Capture, photo: Photo) -> int:
    """A camera for all photos of one lens: a given one, else with the median of the focal lengths that EXIF says."""
    names = {p.name for p in capture.photos if p.lens_key == photo.lens_key}
    given = next((c for c in capture.given.cameras if c.photo in names), None) if capture.given else None
    known = [p.focal_px for p in capture.photos if p.lens_key == photo.lens_key and p.focal_px]
    focal = float(np.median(known)) if known else DEFAULT_FOCAL_FACTOR * max(photo.width_px, photo.height_px)
    camera = pycolmap.Camera.create_from_model_name(0, "RADIAL", focal, photo.width_px, photo.height_px)
    camera.has_prior_focal_length = bool(known)
    if given is not None:
        size = {"width": photo.width_px, "height": photo.height_px}
        camera = pycolmap.Camera(model="OPENCV", params=opencv_params(given), has_prior_focal_length=True, **size)
    camera.camera_id = database.write_camera(camera)
    rig = pycolmap.Rig(rig_id=camera.camera_id)
    rig.add_ref_sensor(camera.sensor_id)
    database.write_rig(rig, use_rig_id=True)
    return int(camera.camera_id)


def opencv_params(given: GivenCamera) -> list[float]:
    """The parameters of COLMAP's OPENCV model."""
    return [given.fx_px, given.fy_px, given.cx_px, given.cy_px, given.k1, given.k2, given.p1, given.p2]


def lens_from_camera(camera: Any) -> Lens:
    """A pycolmap camera of a radial or OpenCV model as a Lens. Raises ValueError for other models."""
    params = [float(v) for v in camera.params]
    size = (int(camera.width), int(camera.height))
    match camera.model_name:
        case "SIMPLE_RADIAL" | "RADIAL":
            return Lens(*size, params[0], params[0], *params[1:])
        case "PINHOLE" | "OPENCV":
            return Lens(*size, *params)
    raise ValueError(f"camera model {camera.model_name} is not supported")


def model_from_reconstruction(reconstruction: Any, capture: Capture) -> SparseModel:
    """A pycolmap reconstruction as plain arrays, its photos in the capture's order."""
    registered = {im.image_id: im for im in reconstruction.images.values() if im.has_pose}
    images = [registered[i] for i in sorted(registered)]
    view_of = {im.image_id: i for i, im in enumerate(images)}
    points, errors, obs = [], [], []
    for index, point in enumerate(reconstruction.points3D.values()):
        points.append(point.xyz)
        errors.append(point.error)
        obs += [(index, view_of[e.image_id], e.point2D_idx) for e in point.track.elements]
    table = np.array(obs, np.int64).reshape(-1, 3)
    pixels = np.zeros((len(table), 2))
    for view, image in enumerate(images):
        rows = np.flatnonzero(table[:, 1] == view)
        if len(rows):
            pixels[rows] = np.array([image.points2D[int(k)].xy for k in table[rows, 2]])
    return SparseModel(
        names=tuple(capture.photos[im.image_id - 1].name for im in images),
        lenses=tuple(lens_from_camera(reconstruction.cameras[im.camera_id]) for im in images),
        cam_from_world=tuple(_rigid(im.cam_from_world()) for im in images),
        points=np.array(points, float).reshape(-1, 3),
        point_error_px=np.array(errors, float),
        obs_point_idx=table[:, 0],
        obs_view_idx=table[:, 1],
        obs_px=pixels,
    )


def _rigid(pose: Any) -> Rigid:
    matrix = np.asarray(pose.matrix(), float)
    return Rigid(matrix[:, :3].copy(), matrix[:, 3].copy())
