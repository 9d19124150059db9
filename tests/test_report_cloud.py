"""The prior's cloud as report.html draws and describes it: what is hidden, what lies on top, and the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from recon.camera import Pinhole, View
from recon.data import PriorCloud
from recon.prior.fuse import empty_cloud
from recon.report.cloud import BACKGROUND, TRUST, Dots, cloud_sentence, draw_dots, photo_dots, trust_dots, trust_shares
from recon.transforms import Rigid, Similarity

AHEAD = View("ahead", Pinhole(40, 30, 40.0, 40.0, 20.0, 15.0), Rigid.identity())
"""At the origin, looking along +z; (0, 0, z) is in the middle."""
TOWARDS, AWAY = [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]
RED, BLUE = (255, 0, 0), (0, 0, 255)


def dots(*rows: tuple[list[float], list[float], tuple[int, int, int]]) -> Dots:
    points, normals, rgb = zip(*rows, strict=True)
    return Dots(np.array(points, float), np.array(normals, float), np.array(rgb, np.uint8))


def cloud_of(confidence: list[float]) -> PriorCloud:
    n = len(confidence)
    points = np.array([[0.1 * k, 0.0, 2.0] for k in range(n)])
    return PriorCloud(
        points, np.tile(TOWARDS, (n, 1)), np.array(confidence), np.full((n, 3), 7, np.uint8), np.ones(n, int)
    )


def is_background(picture: np.ndarray) -> np.ndarray:
    return (picture == BACKGROUND).all(2)


def test_a_point_is_a_small_disc_where_the_camera_sees_it() -> None:
    picture = draw_dots(dots(([0.5, -0.25, 2.0], TOWARDS, RED)), AHEAD)
    assert picture.shape == (30, 40, 3)
    rows, columns = np.nonzero(~is_background(picture))
    assert 4 <= len(rows) <= 16 and tuple(picture[10, 30]) == RED
    assert [columns.mean() + 0.5, rows.mean() + 0.5] == pytest.approx([30, 10], abs=0.5)


@pytest.mark.parametrize(
    ("point", "normal"),
    [([0, 0, 2.0], AWAY), ([0, 0, -2.0], AWAY), ([9.0, 0, 2.0], TOWARDS)],
    ids=["faces away", "behind the camera", "beside the picture"],
)
def test_what_the_camera_cannot_see_is_not_drawn(point: list[float], normal: list[float]) -> None:
    assert is_background(draw_dots(dots((point, normal, RED)), AHEAD)).all()


def test_facing_is_told_from_where_the_camera_stands() -> None:
    """Off the optical axis a normal may point a little along the view's direction and still face the camera."""
    slanted = [-0.95, 0.0, float(np.sqrt(1 - 0.95**2))]
    assert not is_background(draw_dots(dots(([0.9, 0.0, 2.0], slanted, RED)), AHEAD)).all()
    assert is_background(draw_dots(dots(([0.0, 0.0, 2.0], slanted, RED)), AHEAD)).all()


@pytest.mark.parametrize("order", [1, -1])
def test_the_nearest_point_lies_on_top(order: int) -> None:
    rows = [([0, 0, 3.0], TOWARDS, BLUE), ([0, 0, 2.0], TOWARDS, RED), ([0.05, 0, 2.5], TOWARDS, BLUE)]
    picture = draw_dots(dots(*rows[::order]), AHEAD)
    assert tuple(picture[15, 20]) == RED
    assert tuple(picture[15, 21]) != BLUE, "a disc covers what lies behind it, not only its middle"


def test_a_disc_ends_at_the_rim_of_the_picture() -> None:
    picture = draw_dots(dots(([0.99, 0, 2.0], TOWARDS, RED)), AHEAD)
    assert not is_background(picture)[:, -1].all() and is_background(picture)[:, :3].all(), "nothing wraps around"


def test_normals_turn_with_the_points() -> None:
    asset_from_world = Similarity(2.0, np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.array([0, 0, 5.0]))
    moved = photo_dots(cloud_of([0.5, 0.9]), asset_from_world)
    assert moved.normals == pytest.approx(np.tile([0.0, -1.0, 0.0], (2, 1)))
    assert moved.points == pytest.approx(np.array([[0, 4.0, 5.0], [0.2, 4.0, 5.0]]))


def test_confidence_is_drawn_and_counted_in_steps() -> None:
    cloud = cloud_of([0.0, 0.249, 0.25, 0.5, 0.74, 0.75, 1.0, 0.9])
    assert trust_shares(cloud) == pytest.approx([2 / 8, 1 / 8, 2 / 8, 3 / 8])
    colours = trust_dots(cloud, Similarity.identity()).rgb
    assert [tuple(c) for c in colours] == [TRUST[k].rgb for k in (0, 0, 1, 2, 2, 3, 3, 3)]
    assert trust_shares(empty_cloud()) == pytest.approx([0, 0, 0, 0])


def test_the_sentence_says_how_many_points_and_by_which_method() -> None:
    cloud = cloud_of([0.5] * 1234)
    notes = {"method": "mvsnet", "n_depth_maps": 12, "kept_share": 0.405}
    said = cloud_sentence(cloud, notes)
    assert said.startswith("1,234 points") and "a depth network in 12 depth maps" in said and "40%" in said
    assert "two ways" in cloud_sentence(cloud, notes | {"method": "two ways"}), "an unknown method by its own name"
    assert "a plane sweep;" in cloud_sentence(cloud, {}), "older clouds had no other method and did not name it"
    none = cloud_sentence(empty_cloud(), {})
    assert "no dense points" in none and none.count(".") == 1
