"""A standing camera: solved where the object turns, refused with a sentence where nothing does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn_box import draw, pattern, ring
from PIL import Image

from pose.estimate import PosesConfig, _solve
from pose.model import Lens, SparseModel
from pose.recover import Means, RecoverConfig
from pose.turntable import TurntableConfig, write_swept
from pose.undistort import pinhole_inside
from recon.capture.choose import ChoiceConfig
from recon.capture.read import CaptureConfig, read_capture
from recon.data import SWEPT_FILE, Capture, read_mask
from recon.errors import UserError
from recon.evaluate.variants import CameraErrors, judge_cameras
from recon.stage import Job

ROOM = pattern(99)[:360, :480]
TRUTH = {f"{i:02d}": pose for i, pose in enumerate(ring(16, heights=(0.55,)))}
"""To a camera before a turntable the object looks as if the camera went round."""


def photographed(folder: Path, pictures: dict[str, np.ndarray]) -> Capture:
    """A capture of pictures with a little noise."""
    rng = np.random.default_rng(0)
    for part in ("photos", "capture"):
        (folder / part).mkdir()
    for name, picture in pictures.items():
        noisy = picture + rng.normal(0, 1.5, picture.shape)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / "photos" / f"{name}.png")
    keep_all = CaptureConfig(choice=ChoiceConfig(max_parallax=0))
    return read_capture(folder / "photos", keep_all, Job("read_capture", folder / "capture"))


@pytest.fixture(scope="module")
def turning(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    textures = [pattern(i) for i in range(6)]
    textures[0] *= 0.6  # darker than the room, as a turntable that is in focus mostly differs from what is behind
    pictures = {name: draw(pose, textures, background=ROOM) for name, pose in TRUTH.items()}
    return photographed(tmp_path_factory.mktemp("turning"), pictures)


def errors(model: SparseModel) -> CameraErrors:
    return judge_cameras(dict(zip(model.names, model.cam_from_world, strict=True)), TRUTH)


def test_what_turns_is_solved(turning: Capture, tmp_path: Path) -> None:
    job = Job("estimate_poses", tmp_path)
    model, left_out, swept = _solve(turning, PosesConfig(), job)
    assert swept is not None and 0.05 < swept.mean() < 0.8
    assert job.notes["turntable"] and any("camera stood still" in w for w in job.warnings)
    assert len(model.names) == len(TRUTH) and left_out == []
    found = errors(model)
    assert found.rotation_deg.max() < 1 and found.centre_share.max() < 0.02


def test_without_the_turntable_the_background_wins(turning: Capture, tmp_path: Path) -> None:
    blind = PosesConfig(turntable=TurntableConfig(min_still_share=2.0), recover=RecoverConfig(hardest=Means.guided))
    try:
        model, _, swept = _solve(turning, blind, Job("estimate_poses", tmp_path))
    except UserError:
        return
    assert swept is None
    assert len(model.names) < len(TRUTH) or errors(model).rotation_deg.max() > 5


def test_a_standing_camera_before_nothing_that_turns(tmp_path: Path) -> None:
    textures = [pattern(i) for i in range(6)]
    same = draw(TRUTH["00"], textures, background=ROOM)
    capture = photographed(tmp_path, {f"{i}": same for i in range(5)})
    with pytest.raises(UserError, match=r"same place and nothing in them turns: walk around the object"):
        _solve(capture, PosesConfig(), Job("estimate_poses", tmp_path))


def test_the_swept_region_is_written_as_the_undistorted_photos_show_it(tmp_path: Path) -> None:
    lens = Lens(480, 360, 400.0, 400.0, 250.0, 175.0, k1=-0.1)
    camera = pinhole_inside(lens)
    region = np.zeros((240, 320), bool)
    region[60:180, 80:240] = True
    region[100:140, 140:180] = False  # an even patch of the object that never seems to change
    write_swept(region, lens, camera, tmp_path)
    swept = read_mask(tmp_path / SWEPT_FILE)
    assert swept.shape == (camera.height_px, camera.width_px)
    assert swept[int(camera.cy_px), int(camera.cx_px)] == 255 and swept[5, 5] == 0
    # Near the middle the lens hardly bends: the left edge at 120 px is as far from the principal point as before.
    row = swept[int(camera.cy_px)]
    assert abs(np.flatnonzero(row > 127)[0] - (camera.cx_px - 130)) < 3
