"""cameras.json: the photos' cameras in the asset's frame, in nerfstudio's transforms.json format.

Camera axes there are OpenGL's (x right, y up, z backward) and matrices are camera-to-world; inside this program they
are OpenCV's. Photos are undistorted, so the distortion is zero.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from recon.camera import Pinhole
from recon.data import PosedCapture, write_json
from recon.transforms import Similarity

NOTE = (
    "nerfstudio's transforms.json. transform_matrix: camera to the asset's frame (+Y up, front +Z, as in asset.glb), "
    "OpenGL camera axes (x right, y up, z backward). Pixel centres at +0.5. applied_transform and applied_scale say "
    "how the reconstruction's own world was moved here: x_asset = applied_scale * (R x_world + t)."
)


def intrinsics(camera: Pinhole) -> dict[str, Any]:
    """A pinhole in nerfstudio's words."""
    names = {"fx_px": "fl_x", "fy_px": "fl_y", "cx_px": "cx", "cy_px": "cy", "width_px": "w", "height_px": "h"}
    return {names[k]: v for k, v in asdict(camera).items()} | dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0)


def write_cameras(path: Path, posed: PosedCapture, asset_from_world: Similarity, unit: str) -> None:
    """Write the registered views; photos without a pose are left out."""
    lenses = {view.camera for view in posed.views}
    shared = intrinsics(next(iter(lenses))) if len(lenses) == 1 else {}
    frames = []
    for view in posed.views:
        asset_from_cam = asset_from_world.apply_to_camera(view.cam_from_world).inverse().matrix()
        opengl = asset_from_cam @ np.diag([1.0, -1.0, -1.0, 1.0])
        own = {} if shared else intrinsics(view.camera)
        frames.append({"file_path": f"photos/{view.name}.jpg", "transform_matrix": opengl.tolist(), **own})
    moved = np.c_[asset_from_world.rotation, asset_from_world.translation / asset_from_world.scale]
    content = {
        "note": NOTE,
        "unit": unit,
        "camera_model": "OPENCV",
        **shared,
        "applied_transform": moved.tolist(),
        "applied_scale": asset_from_world.scale,
        "frames": frames,
    }
    write_json(path, content)
