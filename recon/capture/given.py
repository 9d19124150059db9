"""What the user has already besides photos: cameras, masks and depth maps, fitted to the upright working photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float64, UInt16
from PIL import Image

from recon.capture.decode import TURNS, decode_mask
from recon.capture.exif import read_lens_tags
from recon.capture.given_files import POLYCAM_CAMERAS, GivenFile, StoredCamera, load_json, read_given_file
from recon.data import GivenCamera, GivenPoses, Photo
from recon.errors import UserError
from recon.stage import Job
from recon.transforms import Rigid

UPRIGHT_FROM_STORED = {
    1: np.eye(2),
    3: np.array([[-1.0, 0], [0, -1]]),
    6: np.array([[0.0, -1], [1, 0]]),
    8: np.array([[0.0, 1], [-1, 0]]),
}
"""How each EXIF orientation turns image axes (x right, y down); the mirrored ones have no camera that fits."""
MAX_ASPECT_ERROR = 0.01
"""Rounding of a resize changes a photo's aspect by less; a crop by more."""


def photo_folder(source: Path) -> Path:
    """Where an export keeps its photos: Polycam's keyframes, the folder of transforms.json's frames, else `images/`."""
    for cameras in POLYCAM_CAMERAS:
        images = source / cameras.replace("cameras", "images")
        if any((source / cameras).glob("*.json")) and images.is_dir():
            return images
    if (source / "transforms.json").is_file() and not (source / "images").is_dir():
        try:
            frames = load_json(source / "transforms.json")["frames"]
            names = [PurePosixPath(_plain(str(f["file_path"]))) for f in frames]
        except (UserError, TypeError, KeyError):
            names = []  # take_given tells what is wrong with the file
        folders = {name.parent for name in names}
        inside = [source / f for f in folders if not f.is_absolute() and ".." not in f.parts]
        if len(folders) == 1 and inside and inside[0].is_dir() and inside[0] != source:
            return inside[0]
    return source / "images"


def take_given(source: Path, photos: Sequence[Photo], job: Job) -> GivenPoses | None:
    """Read given cameras and write given masks and depth maps for `photos` into the stage's folder.

    Masks that are there already are kept. Raises UserError where a camera file is damaged, names none of the photos, or
    belongs to photos of another shape.
    """
    if not source.is_dir():
        return None
    upright = [_Upright.of(source / p.source, p) for p in photos]
    beside = _by_stem(source / "depth")
    file = read_given_file(source)
    stored = _match(file, photos, source, job) if file else {}
    for i, photo in enumerate(photos):
        camera = stored.get(i)
        if camera is not None and camera.mask is not None:
            _write_mask(camera.mask, upright[i], job)
        depth = (camera.depth if camera else None) or beside.get(Path(photo.source).stem.lower())
        if depth is not None:
            _write_depth(depth, file.depth_unit_m if camera and camera.depth and file else 0.001, upright[i], job)
    n_depth = sum(1 for _ in (job.folder / "depth").glob("*.png"))
    job.notes |= {"n_depth_maps": n_depth} if n_depth else {}
    return _fitted(file, stored, upright, source, job) if file else None


@dataclass(frozen=True)
class _Upright:
    """How one stored photo became the upright working photo."""

    photo: Photo
    orientation: int

    @staticmethod
    def of(path: Path, photo: Photo) -> _Upright:
        try:
            with Image.open(path) as image:
                return _Upright(photo, read_lens_tags(image).orientation)
        except OSError:  # a frame of a video, or raw data, which its decoder turned upright
            return _Upright(photo, 1)

    def quarter_turn(self, size_px: tuple[int, int] | None) -> np.ndarray | None:
        """Turn of the image axes from a picture of the given size to the upright photo; None where none fits its shape.

        A picture of the stored photo's shape is turned like it; one that only has the upright photo's shape was made
        from a photo that was upright already.
        """
        turn = UPRIGHT_FROM_STORED.get(self.orientation)
        if turn is None or size_px is None:
            return turn
        working = np.array([self.photo.width_px, self.photo.height_px])
        for candidate in (turn, np.eye(2)):
            w, h = np.abs(candidate) @ size_px
            if abs(w * working[1] - h * working[0]) <= MAX_ASPECT_ERROR * w * working[1]:
                return candidate
        return None


def _match(file: GivenFile, photos: Sequence[Photo], source: Path, job: Job) -> dict[int, StoredCamera]:
    """The camera of each photo (by its position): the one with its path, else its file name, else its stem."""
    found: dict[int, StoredCamera] = {}
    unknown = []
    tables = [_unique([key(p.source) for p in photos]) for key in (_path, _name, _stem)]
    for camera in file.cameras:
        keys = (key(camera.name) for key in (_path, _name, _stem))
        position = next((t[k] for t, k in zip(tables, keys, strict=True) if k in t), None)
        if position is None:
            unknown.append(camera.name)
        else:
            found[position] = camera
    where = file.path.relative_to(source).as_posix()
    if not found:
        raise UserError(
            f"{file.path} names none of the photos (its first is {file.cameras[0].name}); "
            "give the photos that it was made for, or remove it."
        )
    for sentence in file.problems:
        job.warn(sentence)
    if unknown:
        job.warn(
            f"{where} has cameras for {len(unknown)} photos that are not here or were left out ({_some(unknown)})."
        )
    without = [p.source for i, p in enumerate(photos) if i not in found]
    if without:
        job.warn(f"{where} has no camera for {len(without)} photos ({_some(without)}); they are placed by matching.")
    job.notes["given_cameras"] = len(found)
    return found


def _fitted(
    file: GivenFile, stored: dict[int, StoredCamera], upright: Sequence[_Upright], source: Path, job: Job
) -> GivenPoses | None:
    """The matched cameras, and the points that they see, in the upright working photos."""
    cameras: list[GivenCamera] = []
    pixels, mirrored = np.zeros_like(file.obs_px), []
    row_of = {id(camera): k for k, camera in enumerate(file.cameras)}
    kept = np.full(len(file.cameras), -1)
    for i in sorted(stored):
        camera, photo = stored[i], upright[i].photo
        turn = upright[i].quarter_turn(camera.size_px)
        if turn is None and upright[i].orientation in UPRIGHT_FROM_STORED:
            w, h = camera.size_px or (0, 0)
            raise UserError(
                f"{file.path} says that {camera.name} has {w}x{h} pixels, but the photo has the shape of "
                f"{photo.width_px}x{photo.height_px}; give the photos that its cameras were made for, or remove it."
            )
        if turn is None:
            mirrored.append(photo.source)
            continue
        rows = np.flatnonzero(file.obs_camera_idx == row_of[id(camera)])
        fitted, pixels[rows] = turned(camera, photo, turn, file.obs_px[rows])
        kept[row_of[id(camera)]] = len(cameras)
        cameras.append(fitted)
    if mirrored:
        job.warn(f"{_some(mirrored)} are stored mirrored, so their given cameras were not used.")
    if not cameras:
        return None
    camera_idx = kept[file.obs_camera_idx]
    use = camera_idx >= 0
    return GivenPoses(
        file.path.relative_to(source).as_posix(),
        tuple(cameras),
        file.is_metric,
        file.points,
        file.obs_point_idx[use],
        camera_idx[use],
        pixels[use],
    )


def turned(
    camera: StoredCamera, photo: Photo, turn: Float64[np.ndarray, "2 2"], pixels: Float64[np.ndarray, "n 2"]
) -> tuple[GivenCamera, Float64[np.ndarray, "n 2"]]:
    """A stored photo's camera and pixels as those of the upright working photo, `turn` being upright_from_stored.

    OpenCV's tangential distortion is 2 (t . x) x + |x|^2 t with t = (p2, p1), so t turns like any image vector.
    """
    fx, fy, cx, cy, k1, k2, p1, p2 = camera.intrinsics
    working = np.array([photo.width_px, photo.height_px], float)
    size = np.array(camera.size_px, float) if camera.size_px else np.abs(turn).T @ working
    upright_size = np.abs(turn) @ size
    scale = working / upright_size
    focal = np.abs(turn) @ [fx, fy] * scale
    middle = np.where(np.isnan([cx, cy]), size / 2, [cx, cy])

    def move(p: np.ndarray) -> np.ndarray:
        return ((p - size / 2) @ turn.T + upright_size / 2) * scale

    centre, tangential = move(middle), turn @ [p2, p1]
    rotation = np.eye(3)
    rotation[:2, :2] = turn
    pose = Rigid(rotation, np.zeros(3)) @ camera.cam_from_given
    fitted = GivenCamera(
        photo.name,
        float(focal[0]),
        float(focal[1]),
        float(centre[0]),
        float(centre[1]),
        k1,
        k2,
        float(tangential[1]),
        float(tangential[0]),
        pose,
    )
    return fitted, move(pixels)


def _write_mask(path: Path, upright: _Upright, job: Job) -> None:
    """A mask that a camera file names, unless the photo has one already."""
    target = job.folder / "masks" / f"{upright.photo.name}.png"
    if target.exists():
        return
    try:
        mask = decode_mask(path, (upright.photo.width_px, upright.photo.height_px), upright.orientation)
    except (OSError, ValueError, SyntaxError) as error:
        job.warn(f"The mask {path.name} was not used: {error}.")
        return
    target.parent.mkdir(exist_ok=True)
    mask.save(target)


def _write_depth(path: Path, unit_m: float, upright: _Upright, job: Job) -> None:
    """A depth map as 16-bit millimetres, upright, at its own size."""
    try:
        depth_mm = _decode_depth(path, unit_m)
    except (OSError, ValueError, SyntaxError) as error:
        job.warn(f"The depth map {path.name} was not used: {error}.")
        return
    h, w = depth_mm.shape
    turn = upright.quarter_turn((w, h))
    if turn is None:
        shape = f"{upright.photo.width_px}x{upright.photo.height_px}"
        job.warn(f"The depth map {path.name} was not used: it is {w}x{h}, its photo {shape}.")
        return
    image = Image.fromarray(depth_mm)
    if not np.array_equal(turn, np.eye(2)):
        image = image.transpose(TURNS[upright.orientation])
    (job.folder / "depth").mkdir(exist_ok=True)
    image.save(job.folder / "depth" / f"{upright.photo.name}.png")


def _decode_depth(path: Path, unit_m: float) -> UInt16[np.ndarray, "h w"]:
    """Depth in millimetres, 0 where it is not known; `unit_m` is the length of the file's unit."""
    if path.suffix.lower() == ".npy":
        values = np.squeeze(np.load(path, allow_pickle=False)).astype(np.float64)
    else:
        with Image.open(path) as image:
            values = np.asarray(image).astype(np.float64)
    if values.ndim != 2:
        raise ValueError("it has more than one channel")
    depth_mm = np.nan_to_num(values * unit_m * 1000, nan=0.0, posinf=0.0, neginf=0.0)
    return np.where((depth_mm > 0) & (depth_mm < 65535), depth_mm + 0.5, 0).astype(np.uint16)


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {
        f.stem.lower(): f for f in sorted(folder.iterdir()) if f.suffix.lower() in (".png", ".tif", ".tiff", ".npy")
    }


def _unique(keys: list[str]) -> dict[str, int]:
    """Positions by key, without the keys that several positions have."""
    return {k: i for i, k in enumerate(keys) if keys.count(k) == 1}


def _plain(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _path(name: str) -> str:
    return _plain(name).lower()


def _name(name: str) -> str:
    return _path(name).rsplit("/", 1)[-1]


def _stem(name: str) -> str:
    """The file name without an extension of a picture; other dots belong to the name."""
    base, dot, extension = _name(name).rpartition(".")
    return base if dot and extension.isalpha() and len(extension) <= 4 else _name(name)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
