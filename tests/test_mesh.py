"""Extraction: analytic distances whose volume, holes and parts are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from drawn_box import look_at
from PIL import Image

from recon.camera import Pinhole, View
from recon.data import Mesh, ObjectRegion, PosedCapture, SupportPlane
from recon.errors import UserError
from recon.mesh.extract import MeshConfig, mesh_from_sdf
from recon.mesh.faults import SLIVER_DEG, Faults, find_faults, smallest_angles_deg
from recon.mesh.grid import Sdf, distance_to_planes, make_grid, sample
from recon.mesh.simplify import is_closed, signed_volume, simplify, smooth
from recon.stage import Job
from recon.transforms import Rigid

CENTRE = np.array([0.0, 0.0, 0.4])
CFG = MeshConfig(n_triangles=4000, max_resolution=72)


def ball(centre: np.ndarray | tuple[float, ...], radius: float) -> Sdf:
    return lambda x: np.linalg.norm(x - np.asarray(centre), axis=1) - radius


def block(low: tuple[float, ...], high: tuple[float, ...]) -> Sdf:
    """An axis-aligned box (exact outside and inside)."""
    middle, half = (np.array(low) + high) / 2, (np.array(high) - low) / 2

    def sdf(x: np.ndarray) -> np.ndarray:
        q = np.abs(x - middle) - half
        return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0)

    return sdf


def union(*parts: Sdf) -> Sdf:
    return lambda x: np.minimum.reduce([p(x) for p in parts])


def minus(whole: Sdf, part: Sdf) -> Sdf:
    return lambda x: np.maximum(whole(x), -part(x))


@pytest.fixture
def posed(tmp_path: Path) -> PosedCapture:
    """Twelve cameras in two rings around a table at z = 0."""
    views = []
    for k in range(12):
        azimuth, height = 2 * np.pi * k / 12, (0.7, 1.3)[k % 2]
        eye = np.array([2 * np.cos(azimuth), 2 * np.sin(azimuth), height])
        views.append(View(f"v{k:02d}", Pinhole(200, 150, 260.0, 260.0, 100.0, 75.0), look_at(eye, CENTRE)))
    nothing = np.zeros(0, np.int64)
    return PosedCapture(
        tmp_path,
        tuple(views),
        points_world=np.zeros((0, 3)),
        point_rgb=np.zeros((0, 3), np.uint8),
        point_error_px=np.zeros(0),
        obs_point_idx=nothing,
        obs_view_idx=nothing,
        focus_world=CENTRE,
        up_source="given",
        scale_source="unknown",
        support_plane=SupportPlane(np.array([0.0, 0, 1]), 0.0, 0.5),
        sharpness=np.ones(12),
    )


@pytest.fixture
def region(tmp_path: Path, posed: PosedCapture) -> ObjectRegion:
    """A cube of edge 1 whose base lies a little below the table; its masks show all of it."""
    cube = trimesh.creation.box(extents=[1, 1, 1])
    cube.apply_translation([0, 0, 0.45])
    (tmp_path / "masks").mkdir()
    made = ObjectRegion(
        tmp_path,
        Rigid(np.eye(3), np.array([0, 0, 0.45])),
        np.ones(3),
        np.asarray(cube.vertices),
        np.asarray(cube.faces),
        "given",
        rests_on_support=True,
    )
    draw_masks(made, posed, [np.asarray(cube.vertices)])
    return made


def draw_masks(region: ObjectRegion, posed: PosedCapture, convex_parts: list[np.ndarray]) -> None:
    for view in posed.views:
        mask = np.zeros((view.camera.height_px, view.camera.width_px), np.uint8)
        for points in convex_parts:
            outline = cv2.convexHull(view.project(points)[0].astype(np.float32))
            cv2.fillConvexPoly(mask, np.round(outline).astype(np.int32), 255)
        Image.fromarray(mask).save(region.mask_path(view.name))


def extract(
    sdf: Sdf, posed: PosedCapture, region: ObjectRegion, cfg: MeshConfig = CFG
) -> tuple[Mesh, trimesh.Trimesh, Job]:
    job = Job("extract_mesh", region.folder)
    mesh = mesh_from_sdf(sdf, posed, region, cfg, job)
    mesh.check()
    solid = trimesh.Trimesh(mesh.vertices_world, mesh.faces, process=False)
    assert solid.is_watertight and solid.is_winding_consistent and solid.volume > 0
    assert mesh.stats["watertight"] and not any(mesh.stats["faults"].values()) and not job.warnings
    assert mesh.stats["smallest_angle_deg"] > SLIVER_DEG
    assert len(np.unique(mesh.faces)) == len(mesh.vertices_world), "a vertex is not referenced"
    assert len(mesh.dense_faces) > len(mesh.faces) and is_closed(mesh.dense_faces)
    assert signed_volume(mesh.dense_vertices_world, mesh.dense_faces) == pytest.approx(solid.volume, rel=0.02)
    return mesh, solid, job


def test_a_ball_comes_out_as_a_ball(posed: PosedCapture, region: ObjectRegion) -> None:
    mesh, solid, _ = extract(ball(CENTRE, 0.3), posed, region)
    assert 0.97 * CFG.n_triangles <= len(mesh.faces) <= CFG.n_triangles
    # A polyhedron on a sphere of 4000 triangles lies 0.1 % inside; smoothing must not shrink it further.
    assert solid.volume == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=4e-3)
    radius = np.linalg.norm(mesh.vertices_world - CENTRE, axis=1)
    assert np.abs(radius - 0.3).max() < 0.2 * mesh.stats["cell"]
    # Twelve cameras from above the middle miss a part of the underside, and no more.
    assert 0.02 < mesh.stats["unseen_area_share"] < 0.4


def test_heavy_smoothing_does_not_shrink(posed: PosedCapture, region: ObjectRegion) -> None:
    _, plain, _ = extract(ball(CENTRE, 0.3), posed, region, replace(CFG, smoothing_steps=0))
    _, smooth, _ = extract(ball(CENTRE, 0.3), posed, region, replace(CFG, smoothing_steps=20))
    assert smooth.volume / plain.volume == pytest.approx(1, abs=5e-3)


def test_a_surface_that_runs_out_of_the_hull_is_closed_there(posed: PosedCapture, region: ObjectRegion) -> None:
    free = replace(region, rests_on_support=False)
    _, solid, _ = extract(lambda x: np.full(len(x), -1.0), posed, free)
    # Cells cut the cube's edges; nothing else is missing.
    assert 0.98 < solid.volume < 1.001
    assert np.abs(solid.bounds - region.hull_vertices_world[[0, -1]]).max() < 0.02


def test_what_is_below_the_table_is_cut_flat(posed: PosedCapture, region: ObjectRegion) -> None:
    mesh, solid, _ = extract(ball((0, 0, 0.2), 0.3), posed, region)
    assert mesh.vertices_world[:, 2].min() == pytest.approx(0, abs=0.15 * mesh.stats["cell"])
    cap = np.pi / 3 * 0.1**2 * (3 * 0.3 - 0.1)
    assert solid.volume == pytest.approx(4 / 3 * np.pi * 0.3**3 - cap, rel=0.01)


def test_a_dent_in_the_underside_is_filled_and_a_ring_stays_open(posed: PosedCapture, region: ObjectRegion) -> None:
    body = block((-0.3, -0.3, -0.02), (0.3, 0.3, 0.5))
    dented = minus(body, ball((0, 0, -0.1), 0.15))
    _, solid, job = extract(dented, posed, region)
    assert job.notes["underside_nodes_filled"] > 0
    assert solid.volume == pytest.approx(0.6 * 0.6 * 0.5, rel=0.02)

    ring = minus(body, block((-0.15, -0.15, -1), (0.15, 0.15, 1)))
    _, solid, job = extract(ring, posed, region)
    assert job.notes["underside_nodes_filled"] == 0
    assert solid.euler_number == 0, "the ring lost its hole"


def test_what_trails_off_unseen_is_cut_where_the_seen_surface_ends(posed: PosedCapture, region: ObjectRegion) -> None:
    eyes = [np.array([1.8, y, z]) for y in (-1.0, 0.0, 1.0) for z in (-0.4, 0.4, 1.2)]
    camera, away = posed.views[0].camera, np.array([-1.0, 0, 0])
    views = tuple(View(f"v{k:02d}", camera, look_at(eye, CENTRE)) for k, eye in enumerate(eyes))
    in_front = replace(posed, views=views, sharpness=np.ones(len(views)), support_plane=None)
    whole = ball(CENTRE, 0.2)

    def tail(x: np.ndarray) -> np.ndarray:
        """As long as two radii, in the ball's shadow."""
        along = np.clip((x - CENTRE) @ away, 0, 0.38)
        return np.linalg.norm(x - CENTRE - along[:, None] * away, axis=1) - 0.05

    job = Job("extract_mesh", region.folder)
    mesh = mesh_from_sdf(union(whole, tail), in_front, region, replace(CFG, trailing_share=0.02), job)
    assert is_closed(mesh.faces) and len(job.warnings) == 1 and "trailed off" in job.warnings[0]
    depth = (mesh.vertices_world - CENTRE) @ away
    assert depth.max() < 0.2, "the tail is gone"
    assert np.abs(whole(mesh.vertices_world[depth < -0.05])).max() < 0.2 * mesh.stats["cell"], "what is seen stays"
    all_around, _, _ = extract(union(whole, tail), posed, region, replace(CFG, trailing_share=0.02))
    assert ((all_around.vertices_world - CENTRE) @ away).max() == pytest.approx(0.43, abs=0.01)


def test_what_stands_on_the_table_is_not_cut_from_it(posed: PosedCapture, region: ObjectRegion) -> None:
    from_above = replace(posed, views=tuple(v for v in posed.views if v.centre_world()[2] > 1))
    mesh, _, _ = extract(ball((0, 0, 0.3), 0.3), from_above, region)
    assert mesh.vertices_world[:, 2].min() == pytest.approx(0, abs=0.01)
    assert mesh.stats["trailing_area_share"] == 0


def test_legs_keep_the_space_between_them(posed: PosedCapture, region: ObjectRegion) -> None:
    legs = [block((x, y, -0.02), (x + 0.06, y + 0.06, 0.4)) for x in (-0.3, 0.24) for y in (-0.3, 0.24)]
    seat = block((-0.3, -0.3, 0.4), (0.3, 0.3, 0.46))
    mesh, solid, job = extract(union(seat, *legs), posed, region)
    assert job.notes["underside_nodes_filled"] == 0 and solid.body_count == 1
    assert solid.volume == pytest.approx(0.6 * 0.6 * 0.06 + 4 * 0.06 * 0.06 * 0.4, rel=0.04)
    assert (mesh.vertices_world[:, 2] < 0.05).sum() > 12, "a leg is missing"


def test_small_floaters_and_cavities_go(posed: PosedCapture, region: ObjectRegion) -> None:
    hollow = minus(ball(CENTRE, 0.3), ball(CENTRE, 0.2))
    mesh, solid, _ = extract(union(hollow, ball((0.42, 0.42, 0.8), 0.02)), posed, region)
    assert solid.body_count == 1
    assert solid.volume == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.01)
    assert mesh.stats["dropped_triangle_share"] > 0.1


def test_loose_parts_need_the_masks(posed: PosedCapture, region: ObjectRegion) -> None:
    parts = [(np.array([-0.2, 0, 0.25]), 0.15), (np.array([0.25, 0.1, 0.6]), 0.12)]
    sdf = union(*(ball(c, r) for c, r in parts))
    _, both, _ = extract(sdf, posed, region)
    assert both.body_count == 2
    draw_masks(region, posed, [trimesh.creation.icosphere(2, parts[0][1]).vertices + parts[0][0]])
    _, first, _ = extract(sdf, posed, region)
    assert first.body_count == 1 and first.centroid == pytest.approx(parts[0][0], abs=0.01)


def test_no_surface_is_a_plain_sentence(posed: PosedCapture, region: ObjectRegion) -> None:
    with pytest.raises(UserError, match="No surface was found"):
        extract(lambda x: np.ones(len(x)), posed, region)
    with pytest.raises(ValueError, match="not finite"):
        extract(lambda x: np.full(len(x), np.nan), posed, region)


def test_sampling_is_exact_near_the_surface_and_sparse(region: ObjectRegion) -> None:
    n_asked = 0
    shape = union(ball(CENTRE, 0.3), block((-0.45, -0.02, 0), (0.45, 0.02, 0.02)))  # with a thin bar

    def counted(x: np.ndarray) -> np.ndarray:
        nonlocal n_asked
        n_asked += len(x)
        return shape(x)

    told: list[float] = []
    grid = make_grid(region.world_from_box, region.hull_vertices_world, 0.0, 160)
    values = sample(counted, region.hull_planes, grid, told.append)
    nodes = np.stack(np.meshgrid(*(np.arange(n) for n in values.shape), indexing="ij"), -1).reshape(-1, 3)
    points = grid.points_world(nodes, 1)
    truth = np.maximum(shape(points), distance_to_planes(points, region.hull_planes)).reshape(values.shape)
    near = np.abs(truth) < grid.cell
    assert np.abs(values - truth)[near].max() < 1e-5
    assert ((values < 0) == (truth < 0)).all()
    assert n_asked < 0.15 * values.size
    assert told == sorted(told) and told[-1] == pytest.approx(1)
    assert (grid.points_world(np.array([[0, 0, 0]]), 1) < region.hull_vertices_world.min(0)).all()


def test_a_grid_is_no_finer_than_the_photos() -> None:
    corners = np.array([[0.0, 0, 0], [1, 2, 3]])
    assert make_grid(Rigid.identity(), corners, 0.1, 400).cell == 0.1
    assert make_grid(Rigid.identity(), corners, 0.001, 300).cell == pytest.approx(0.01)


def test_every_kind_of_fault_is_counted() -> None:
    solid = trimesh.creation.icosphere(2)
    v, f = np.asarray(solid.vertices), np.asarray(solid.faces)
    none = Faults(0, 0, 0, 0, 0, 0, 0)
    assert find_faults(v, f) == none and not none and none.words() == ""
    assert find_faults(v, f[1:]) == replace(none, open_edges=3)
    turned = np.concatenate([f[:1, ::-1], f[1:]])
    assert find_faults(v, turned) == replace(none, turned_edges=3, non_manifold_vertices=3, folds=0)
    assert find_faults(v, f[:, ::-1]) == replace(none, inner_faces=len(f))
    inner = find_faults(np.concatenate([v, 0.5 * v]), np.concatenate([f, f[:, ::-1] + len(v)]))
    assert inner == replace(none, inner_faces=len(f)), "the wall of a cavity"

    # Two tetrahedra that share a vertex, then an edge.
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1]], float)
    one = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    other = np.array([[0, 5, 4], [0, 4, 6], [0, 6, 5], [4, 5, 6]])[:, ::-1]
    assert find_faults(corners, np.concatenate([one, other])) == replace(none, non_manifold_vertices=1)
    hinged = np.array([0, 1, 5, 6])[one]
    found = find_faults(corners, np.concatenate([one, hinged]))
    assert found.non_manifold_edges == 1 and found.open_edges == 0
    assert "1 non manifold edges" in found.words()


def test_slivers_and_folds_are_counted() -> None:
    v = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0.02, 0], [0.5, 1, 0.02]], float)
    assert smallest_angles_deg(v, np.array([[0, 1, 2]])) == pytest.approx([45])
    assert smallest_angles_deg(v, np.array([[0, 1, 3], [0, 0, 1]])) == pytest.approx([2.2906, 0], abs=1e-3)
    folded = find_faults(v, np.array([[0, 1, 2], [1, 0, 4]]))
    assert folded.folds == 1 and folded.turned_edges == 0 and folded.slivers == 0
    assert find_faults(v, np.array([[0, 1, 2], [0, 1, 3]])).slivers == 1


def test_closedness_is_told_apart() -> None:
    solid = trimesh.creation.icosphere(2)
    faces = np.asarray(solid.faces)
    assert is_closed(faces)
    assert not is_closed(faces[1:])
    assert not is_closed(np.concatenate([faces[:1, ::-1], faces[1:]])), "a turned face"
    assert signed_volume(solid.vertices, faces[:, ::-1]) == pytest.approx(-solid.volume)


def test_a_faulty_mesh_is_repaired_and_turned_outward() -> None:
    solid = trimesh.creation.icosphere(3)
    faces = np.asarray(solid.faces)[3:, ::-1]  # three faces missing, inside out
    faces = np.concatenate([faces, faces[:2], [[5, 5, 9]]])  # two double, one degenerate
    vertices, repaired = simplify(*smooth(np.asarray(solid.vertices), faces, 0), 600)
    assert is_closed(repaired) and len(repaired) <= 600
    assert signed_volume(vertices, repaired) == pytest.approx(solid.volume, rel=0.02)
