"""Write a whole synthetic capture: photos, held-out photos and the ground truth, in the layout of the scorer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from PIL import Image
from trimesh import Trimesh

from recon.data import write_json
from recon.evaluate.synthetic.camera import Lens, Shot, walk
from recon.evaluate.synthetic.design import Design
from recon.evaluate.synthetic.furnish import make_room
from recon.evaluate.synthetic.light import Scene, light_scene
from recon.evaluate.synthetic.owl import OWL
from recon.evaluate.synthetic.phone import develop, save_jpeg
from recon.evaluate.synthetic.render import photograph, true_mask
from recon.evaluate.synthetic.shapes import mesh_of
from recon.evaluate.synthetic.teapot import TEAPOT
from recon.transforms import Rigid

STARTED = datetime(2026, 5, 4, 11, 2, 0)
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])
FOCAL_PER_WIDTH = 0.7413
"""True focal length over the photo's width: 1.3 % shorter than EXIF says, as phones round theirs."""
GAIN = (1.13, 1.06, 1.01)
"""From room radiance to the sensor's white, per channel (white balance)."""


class Subject(Enum):
    """The objects that can be photographed."""

    owl = OWL
    teapot = TEAPOT


@dataclass(frozen=True)
class Preset:
    """How much work goes into a capture."""

    width_px: int
    """Width of a photo; its height is three quarters of it."""
    n_photos: int
    """Photos of the walk, in three rings."""
    n_test: int
    """Held-out photos."""
    spp: int
    """Samples per pixel; noise falls with its square root, time rises with it."""
    voxel_m: float
    """Cell of the grid that the shape is meshed on."""
    n_triangles: int
    """Of the true mesh."""
    light_side: int
    """The square of this many rays gathers the light at each point."""
    table_grid_m: float
    """Spacing of the points at which the table's light is gathered."""
    table_px: int
    """Width of the table top's picture."""
    quality: int = 88
    """Of the JPEG files."""


class Size(Enum):
    """Presets: `tiny` for tests, `small` for a first look, `full` for the example."""

    tiny = Preset(240, 14, 3, 4, 0.0026, 9_000, 4, 0.012, 640)
    small = Preset(480, 24, 4, 6, 0.0018, 24_000, 7, 0.005, 1600)
    full = Preset(800, 36, 8, 12, 0.0012, 36_000, 12, 0.0025, 3200)


def lens_of(preset: Preset) -> Lens:
    """The phone's lens at the preset's photo size; its principal point is a few pixels off the middle."""
    w, h = preset.width_px, preset.width_px * 3 // 4
    return Lens(w, h, FOCAL_PER_WIDTH * w, w / 2 + 0.0042 * w, h / 2 - 0.0031 * w)


def opengl_matrix(world_from_cam: Rigid) -> Float64[np.ndarray, "4 4"]:
    """Camera-to-world in OpenGL axes (y up, looking along -z), as nerfstudio's transforms.json wants it."""
    return Rigid(world_from_cam.rotation @ OPENGL_FROM_OPENCV, world_from_cam.translation).matrix()


def take(scene: Scene, lens: Lens, shot: Shot, preset: Preset, root: Path, split: str, seed: int, order: int) -> dict:
    """Render and write one photo and its mask; returns its entry in transforms.json."""
    rng = np.random.default_rng([seed, 31, order])
    linear = photograph(scene, lens, shot, preset.spp, rng)
    rgb = develop(linear, np.array(GAIN) * 2**shot.exposure_ev, rng)
    file_path = f"{'images' if split == 'train' else 'test'}/{shot.name}.jpg"
    mask_path = f"gt/masks/{shot.name}.png"
    save_jpeg(root / file_path, rgb, preset.quality, STARTED + timedelta(seconds=3 * order + 2), shot.exposure_ev)
    mask = (true_mask(scene, lens, shot) * 255 + 0.5).astype(np.uint8)
    Image.fromarray(mask).save(root / mask_path, optimize=True)
    return {
        "file_path": file_path,
        "mask_path": mask_path,
        "split": split,
        "transform_matrix": opengl_matrix(shot.world_from_cam).tolist(),
        "exposure_ev": round(shot.exposure_ev, 4),
        "motion_blur_px": round(shot.blur_px, 2),
    }


def camera_words(lens: Lens) -> dict:
    """The head of transforms.json."""
    return {
        "camera_model": "OPENCV",
        "w": lens.width_px,
        "h": lens.height_px,
        "fl_x": lens.focal_px,
        "fl_y": lens.focal_px,
        "cx": lens.cx_px,
        "cy": lens.cy_px,
        "k1": lens.k1,
        "k2": lens.k2,
        "p1": 0.0,
        "p2": 0.0,
        "pixel_centres": "top-left pixel centre is (0.5, 0.5)",
        "convention": "OpenGL camera-to-world, world Z up, metres",
    }


def scene_words(name: str, design: Design, mesh: Trimesh, preset: Preset, seed: int, seconds: float) -> dict:
    """What scene.json says about the capture."""
    return {
        "scene": name,
        "object": design.words,
        "material_class": design.material_class,
        "licence": "CC0-1.0 (data); the program that made it is Apache-2.0",
        "environment": "a drawn room (own design)",
        "table": "drawn oak boards with a printed linen mat (own design)",
        "units": "m",
        "up_axis": "+Z",
        "ground_plane": "z = 0 (table top; object rests on it)",
        "extents_m": mesh.extents.round(5).tolist(),
        "bbox_diagonal_m": float(np.linalg.norm(mesh.extents)),
        "triangles": len(mesh.faces),
        "watertight": bool(mesh.is_watertight),
        "photos": preset.n_photos,
        "test_photos": preset.n_test,
        "spp": preset.spp,
        "seed": seed,
        "seconds": round(seconds),
    }


def make_capture(
    root: Path, subject: Subject, preset: Preset, seed: int, say: Callable[[str], None] = lambda _: None
) -> None:
    """Make the capture of `subject` in `root` (created; files of the same names are replaced).

    The same arguments give the same capture. `say` gets a line about every step.
    """
    started = time.perf_counter()
    for folder in ("images", "test", "gt/masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    design = subject.value
    mesh = mesh_of(design.sdf, design.low, design.high, preset.voxel_m, preset.n_triangles)
    mesh.export(root / "gt" / "mesh.ply")
    say(f"shape: {len(mesh.faces):,} triangles")
    scene = light_scene(mesh, design, make_room(seed, preset.table_px), seed, preset.light_side, preset.table_grid_m)
    say(f"light gathered ({time.perf_counter() - started:.0f} s)")
    lens = lens_of(preset)
    low, high = mesh.bounds
    reach_m = 1.32 * float(np.linalg.norm(mesh.extents))
    target = np.array([0, 0, 0.47 * high[2]]) + np.array([0.5, 0.5, 0]) * (low + high)
    train, test = walk(target, reach_m, preset.n_photos, preset.n_test, seed)
    frames = []
    for order, shot in enumerate([*train, *test]):
        split = "train" if order < len(train) else "test"
        frames.append(take(scene, lens, shot, preset, root, split, seed, order))
        say(f"{shot.name} ({order + 1} of {len(train) + len(test)}, {time.perf_counter() - started:.0f} s)")
    files = {s: [f["file_path"] for f in frames if f["split"] == s] for s in ("train", "test")}
    content = camera_words(lens) | {
        "frames": frames,
        "train_filenames": files["train"],
        "test_filenames": files["test"],
    }
    write_json(root / "gt" / "transforms.json", content)
    seconds = time.perf_counter() - started
    write_json(root / "gt" / "scene.json", scene_words(root.name, design, mesh, preset, seed, seconds))
