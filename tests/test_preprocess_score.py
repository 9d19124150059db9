"""The judge of preprocessing, on the true cameras and masks of the example and on worse ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from recon.camera import Pinhole, View
from recon.data import ObjectRegion, PosedCapture
from recon.evaluate.preprocess import COLUMNS, score_preprocess, true_mask_in
from recon.evaluate.score import read_views
from recon.isolate.box import convex_hull, upright_box
from recon.transforms import Similarity

OWL = Path(__file__).parent.parent / "examples" / "owl"
TURN = np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]])
WORLD_FROM_TRUTH = Similarity(3.0, TURN, np.array([0.2, -0.1, 0.4]))
CAMERA = Pinhole(400, 300, 295.0, 295.0, 200.0, 150.0)


@pytest.fixture(scope="module")
def perfect(tmp_path_factory: pytest.TempPathFactory) -> tuple[PosedCapture, ObjectRegion]:
    """The true cameras of some photos in another frame, with their true masks, box and hull."""
    folder = tmp_path_factory.mktemp("region")
    (folder / "masks").mkdir()
    true_views = read_views(OWL / "gt" / "transforms.json", "train")[::4]
    views = []
    for true in true_views:
        view = View(true.view.name, CAMERA, WORLD_FROM_TRUTH.apply_to_camera(true.view.cam_from_world))
        mask = true_mask_in(view, true, WORLD_FROM_TRUTH)
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{view.name}.png")
        views.append(view)
    none = np.zeros(0, int)
    posed = PosedCapture(
        folder, tuple(views), np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), none, none,
        WORLD_FROM_TRUTH.translation, "test", "test", None, np.ones(len(views)),
    )  # fmt: skip
    mesh = trimesh.load(OWL / "gt" / "mesh.ply", process=False)
    points = WORLD_FROM_TRUTH.apply(np.asarray(mesh.vertices, float))
    world_from_box, size = upright_box(points)
    vertices, faces = convex_hull(points, 1e-4)
    return posed, ObjectRegion(folder, world_from_box, size, vertices, faces, "test", True)


def test_the_truth_is_without_fault(perfect: tuple[PosedCapture, ObjectRegion]) -> None:
    score = score_preprocess(*perfect, 9, OWL)
    assert (score.registered, score.photos) == (9, 9)
    assert score.rotation_max_deg < 1e-4 and score.centre_max_pct < 1e-6
    assert min(score.mask_iou.values()) == 1.0
    assert np.abs(score.side_error_pct).max() < 1e-6
    assert score.hull_contains == 1.0
    assert score.hull_volume_ratio == pytest.approx(1, abs=0.01)
    assert len(score.table_row()) == len(COLUMNS)


def test_faults_are_measured(perfect: tuple[PosedCapture, ObjectRegion], tmp_path: Path) -> None:
    posed, region = perfect
    (tmp_path / "masks").mkdir()
    for view in posed.views:
        shifted = np.roll(region.mask(view.name), 5, axis=1)
        Image.fromarray(shifted).save(tmp_path / "masks" / f"{view.name}.png")
    worse = replace(region, folder=tmp_path, box_size=1.1 * region.box_size)
    angle = np.radians(0.5)
    nod = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    # Turned about its own centre, so that only the rotation is wrong.
    first = posed.views[0]
    pose = replace(
        first.cam_from_world,
        rotation=nod @ first.cam_from_world.rotation,
        translation=nod @ first.cam_from_world.translation,
    )
    turned = replace(posed, views=(replace(first, cam_from_world=pose), *posed.views[1:]))
    score = score_preprocess(turned, worse, 10, OWL)
    assert score.rotation_max_deg == pytest.approx(0.5, abs=1e-3)
    assert score.rotation_median_deg < 1e-4
    assert max(score.mask_iou.values()) < 0.95
    assert np.allclose(score.side_error_pct, 10)
    assert score.box_volume_ratio == pytest.approx(1.331)


def test_too_few_cameras_are_an_error(perfect: tuple[PosedCapture, ObjectRegion]) -> None:
    posed, region = perfect
    with pytest.raises(ValueError, match="2 photos of .* have a pose"):
        score_preprocess(replace(posed, views=posed.views[:2]), region, 9, OWL)
