"""The maps besides base colour: normals, occlusion, roughness, metal."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from recon.data import Asset, Mesh, UvMesh
from recon.stage import Job
from texturing.cells import cut_into_cells
from texturing.finishes import colour_regions, find_finishes
from texturing.gains import linear_to_srgb
from texturing.gloss import measure_gloss, roughness_and_metallic
from texturing.lods import lighter
from texturing.materials import MaterialsConfig, bake_materials
from texturing.normal_map import mikk_tangents, tangent_frames
from texturing.normals import vertex_normals
from texturing.occlusion import vertex_occlusion
from texturing.unwrap import UnwrapConfig, unwrap
from texturing.visibility import Observations

SIZE_PX = 512


def bumpy(points: np.ndarray) -> np.ndarray:
    """A unit sphere's points moved in and out by bumps about 0.4 wide."""
    x, y, z = points.T
    return points * (1 + 0.03 * np.sin(9 * x) * np.sin(9 * y + 1) * np.sin(9 * z + 2))[:, None]


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Asset:
    """A bumpy ball of 1280 triangles with the maps of the same ball of 82,000."""
    light, dense = trimesh.creation.icosphere(3), trimesh.creation.icosphere(6)
    mesh = Mesh(
        bumpy(np.asarray(light.vertices)), np.asarray(light.faces), {},
        bumpy(np.asarray(dense.vertices)).astype(np.float32), np.asarray(dense.faces).astype(np.int32),
    )  # fmt: skip
    job = Job("materials", tmp_path_factory.mktemp("materials"))
    uv_mesh = unwrap(mesh, UnwrapConfig(texture_size_px=SIZE_PX), job)
    blank = Asset(uv_mesh, np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8), np.full((SIZE_PX, SIZE_PX), 255, np.uint8))
    made = bake_materials(mesh, blank, MaterialsConfig(), job)
    made.check()
    assert job.notes["normal_map_found_share"] == 1.0
    return made


def shaded(asset: Asset, face: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normals at points of the light mesh as a viewer has them: with the map (bilinear), and without."""
    mesh = asset.uv_mesh
    normals = vertex_normals(mesh, mesh.vertices_world)
    tangents = mikk_tangents(mesh, normals)
    corners = mesh.faces[face]
    frame = tangent_frames(normals[corners], tangents[corners], weights)
    uv = np.einsum("nk,nkc->nc", weights, mesh.uv[corners])
    place = (np.stack([uv[:, 0], 1 - uv[:, 1]]) * SIZE_PX - 0.5).astype(np.float32)
    assert asset.normal_map is not None
    read = cv2.remap(asset.normal_map.astype(np.float32), place[0][None], place[1][None], cv2.INTER_LINEAR)[0]
    mapped = np.einsum("nij,ni->nj", frame, read / 255 * 2 - 1)
    return mapped / np.linalg.norm(mapped, axis=1, keepdims=True), frame[:, 2]


def angle_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip((a * b).sum(1), -1, 1)))


def test_normal_map_shades_the_light_mesh_like_the_dense_one(ball: Asset) -> None:
    rng = np.random.default_rng(0)
    face = rng.integers(0, len(ball.uv_mesh.faces), 20_000)
    weights = rng.dirichlet([1, 1, 1], len(face))
    point = np.einsum("nk,nkc->nc", weights, ball.uv_mesh.vertices_world[ball.uv_mesh.faces[face]])
    truth = trimesh.creation.icosphere(7)
    vertices = bumpy(np.asarray(truth.vertices))
    towards = point / np.linalg.norm(point, axis=1, keepdims=True)
    _, nearest = cKDTree(truth.vertices).query(towards)
    true_normal = trimesh.Trimesh(vertices, truth.faces, process=False).vertex_normals[nearest]
    mapped, plain = shaded(ball, face, weights)
    # Measured: 0.31 degrees with the map (8 bits and the truth's own triangles leave that), 4.16 without.

    assert angle_deg(mapped, true_normal).mean() < 0.6
    assert angle_deg(plain, true_normal).mean() > 3


def test_normal_map_shows_no_seam_between_charts(ball: Asset) -> None:
    mesh = ball.uv_mesh
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for f, corners in enumerate(mesh.mesh_vertex_idx[mesh.faces]):
        for k in range(3):
            a, b = corners[k], corners[(k + 1) % 3]
            edges.setdefault((min(a, b), max(a, b)), []).append((f, k))
    sides: list[list[np.ndarray]] = [[], []]
    for pair in edges.values():
        (f, k), (g, j) = pair
        if set(mesh.faces[f]) & set(mesh.faces[g]):
            continue  # the same chart
        for side, (face, first), share in ((0, (f, k), 0.3), (1, (g, j), 0.7)):
            weights = np.zeros(4)
            weights[0], weights[1 + first], weights[1 + (first + 1) % 3] = face, 1 - share, share
            sides[side].append(weights)
    left, right = (np.array(s) for s in sides)
    one, other = (shaded(ball, s[:, 0].astype(int), s[:, 1:])[0] for s in (left, right))
    assert len(left) > 50
    # A step of 1 degree changes light from the side (45 degrees) by 1.7 %.
    assert np.median(angle_deg(one, other)) < 1.0
    assert angle_deg(one, other).max() < 4


def test_a_lighter_version_is_shaded_like_the_full_one(ball: Asset) -> None:
    light = lighter(ball, 500, SIZE_PX)
    assert len(light.uv_mesh.faces) <= 500
    rng = np.random.default_rng(0)
    face = rng.integers(0, len(light.uv_mesh.faces), 5000)
    weights = rng.dirichlet([1, 1, 1], len(face))
    mapped, plain = shaded(light, face, weights)
    full = ball.uv_mesh
    point = np.einsum("nk,nkc->nc", weights, light.uv_mesh.vertices_world[light.uv_mesh.faces[face]])
    full_face = rng.integers(0, len(full.faces), 200_000)
    full_weights = rng.dirichlet([1, 1, 1], len(full_face))
    corners = full.faces[full_face]
    there = np.einsum("nk,nkc->nc", full_weights, full.vertices_world[corners])
    normal = np.einsum("nk,nkc->nc", full_weights, vertex_normals(full, full.vertices_world)[corners])
    wanted = normal[cKDTree(there).query(point)[1]]
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    # Measured: 0.28 degrees with the map, 2.12 without.
    assert angle_deg(mapped, wanted).mean() < 0.4 * angle_deg(plain, wanted).mean()


def test_tangents_follow_u_and_tell_mirrored_charts() -> None:
    square = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    turned = np.array([[0.5, 0], [0.5, 0.5], [0, 0.5], [0, 0]])  # u grows along -y, v along +x
    for uv, tangent, sign in ((square[:, :2], [1, 0, 0], 1), (turned, [0, -1, 0], 1), (turned[:, ::-1], [1, 0, 0], -1)):
        mesh = UvMesh(square, faces, uv, np.arange(4), 8)
        found = mikk_tangents(mesh, np.tile([0.0, 0, 1], (4, 1)))
        assert np.allclose(found, [*tangent, sign])


def test_occlusion_of_a_corner_and_of_a_ball() -> None:
    ball = trimesh.creation.icosphere(3)
    plain = np.zeros((len(ball.vertices), 2))
    mesh = UvMesh(np.asarray(ball.vertices), np.asarray(ball.faces), plain, np.arange(len(plain)), 8)
    assert vertex_occlusion(mesh, cut_into_cells(mesh, np.inf), 64).min() > 0.97
    # A floor along x in front of a wall of height 1; both very long along y.
    room = np.array([[0.0, -9, 0], [4, -9, 0], [4, 9, 0], [0, 9, 0], [0, -9, 1], [0, 9, 1]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 5], [0, 5, 4]])
    mesh = UvMesh(room, faces, np.zeros((6, 2)), np.arange(6), 8)
    cells = cut_into_cells(mesh, 0.25)
    occlusion = vertex_occlusion(mesh, cells, 64)
    x, y, z = cells.joined_vertices_world.T
    for distance in (0.5, 1.0, 2.0):
        near = (abs(x - distance) < 0.1) & (abs(y) < 4) & (z == 0)
        # The wall's view factor from an element of the floor: (1 - cos(elevation of its top)) / 2.
        expected = 0.5 + 0.5 * distance / np.hypot(distance, 1)
        assert near.sum() > 5
        assert occlusion[near].mean() == pytest.approx(expected, abs=0.03)


def test_packing_and_plain_values(ball: Asset) -> None:
    packed = ball.occlusion_roughness_metallic
    assert packed is not None
    assert (packed[:, :, 1] == 153).all()  # 0.6
    assert (packed[:, :, 2] == 0).all()
    assert packed[:, :, 0].min() > 150  # shallow bumps close in little
    assert packed[:, :, 0].max() == 255


def seen_as(luminance: np.ndarray) -> Observations:
    """Grey cells (n_faces, n_views) of a given linear luminance, all seen well."""
    shape = luminance.shape
    colour = np.repeat(linear_to_srgb(luminance)[:, :, None], 3, axis=2).astype(np.float32)
    return Observations(np.ones(shape, np.float32), np.ones(shape, np.float32), colour, np.ones(shape))


def test_matt_glossy_and_metal_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    paint, noise = rng.uniform(0.05, 0.6, (400, 1)), rng.normal(0, 0.01, (400, 40))
    lit = rng.random((400, 40)) < 0.05  # a highlight in one photo of twenty
    found = []
    for luminance in (paint + noise, paint + noise + 0.25 * lit, rng.uniform(0.05, 0.95, (400, 40))):
        gloss = measure_gloss(seen_as(np.clip(luminance, 0.01, 1)), np.ones((40, 3)), np.ones(400))
        told = roughness_and_metallic(gloss)
        assert told is not None
        found.append(told)
    (matt, not_metal), (glossy, nor_this), (_, metal) = found
    assert (not_metal, nor_this, metal) == (0, 0, 1)
    assert matt > 0.8 and glossy < 0.45
    # Six photos of each place cannot tell.
    few = measure_gloss(seen_as(rng.uniform(0.1, 0.7, (400, 6))), np.ones((6, 3)), np.ones(400))
    assert roughness_and_metallic(few) is None


def test_optional_maps_come_back_and_must_fit_the_texture(tmp_path: Path) -> None:
    square = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    mesh = UvMesh(square, faces, square[:, :2], np.arange(4), 8)
    rng = np.random.default_rng(0)
    base, seen = np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 255, np.uint8)
    packed = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
    made = Asset(mesh, base, seen, occlusion_roughness_metallic=packed)
    made.check()
    made.save(tmp_path)
    loaded = Asset.load(tmp_path)
    assert loaded.normal_map is None
    assert loaded.occlusion_roughness_metallic is not None
    assert (loaded.occlusion_roughness_metallic == packed).all()
    other_size = Asset.__new__(Asset)  # past the constructor, whose shapes the tests' type checker refuses already
    vars(other_size).update(vars(made), normal_map=packed[:4, :4])
    with pytest.raises(ValueError, match="normal_map"):
        other_size.check()


def test_a_glossy_half_and_a_matt_half_have_finishes_of_their_own() -> None:
    rng = np.random.default_rng(0)
    ball = trimesh.creation.icosphere(4)
    plain = np.zeros((len(ball.vertices), 2))
    mesh = UvMesh(np.asarray(ball.vertices), np.asarray(ball.faces), plain, np.arange(len(plain)), 8)
    cells = cut_into_cells(mesh, np.inf)
    n, upper = len(cells.faces), ball.triangles_center[:, 2] > 0.2
    red, blue = np.array([0.5, 0.05, 0.05]), np.array([0.05, 0.1, 0.5])
    linear = np.where(upper[:, None], red, blue)[:, None] * rng.uniform(0.8, 1.2, (n, 1, 1)) + np.zeros((n, 40, 3))
    linear += rng.normal(0, 0.003, (n, 40, 1)) + 0.3 * (upper[:, None] & (rng.random((n, 40)) < 0.06))[:, :, None]
    colour = linear_to_srgb(np.clip(linear, 0, 1)).astype(np.float32)
    every = np.ones((n, 40), np.float32)
    observed, gains = Observations(every, every, colour, np.ones((n, 40))), np.ones((40, 3))
    finishes = find_finishes(cells, observed, gains, measure_gloss(observed, gains, cells.areas))
    assert finishes is not None
    roughness = np.array([f.roughness for f in finishes.found])[finishes.label]
    assert np.median(roughness[upper]) < 0.45 < 0.8 < np.median(roughness[~upper])
    # one material under shading is one region
    grey = np.repeat(rng.uniform(0.4, 0.6, (n, 1, 1)), 40, 1).repeat(3, 2).astype(np.float32)
    assert len(np.unique(colour_regions(cells, grey, every > 0))) == 1
    # nothing is told of what hardly any photo sees
    few = Observations(every[:, :5], every[:, :5], colour[:, :5], np.ones((n, 5)))
    assert find_finishes(cells, few, gains[:5], measure_gloss(few, gains[:5], cells.areas)) is None
