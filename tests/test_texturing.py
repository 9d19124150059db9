"""The texture of a painted box from small rendered photos, and its parts against brute force or known answers."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from drawn_box import look_at
from PIL import Image

from recon.camera import Pinhole, View
from recon.data import Asset, ObjectRegion, PosedCapture, UvMesh
from recon.stage import Job
from recon.transforms import Rigid
from texturing.alignment import align_photos
from texturing.bake import TextureConfig, bake_texture
from texturing.cells import Cells, cut_into_cells
from texturing.compose import Surface, spread_to_vertices
from texturing.fill import dilate_gutters, fill_unseen
from texturing.gains import Samples, estimate_gains, linear_to_srgb, srgb_to_linear
from texturing.levelling import disagreement, reject
from texturing.photos import edge_distance_px, load_photos
from texturing.rasterize import Texels, rasterize_atlas
from texturing.view_selection import make_graph, potts_energy, solve_potts
from texturing.visibility import observe

HALF = np.array([0.5, 0.35, 0.4])
BACKGROUND = np.array([1.0, 0.0, 1.0])
"""Magenta: a colour that the object does not have, so that any of it in the texture is a leak."""
GAINS = (0.8, 1.0, 1.25, 1.0, 0.9, 1.1, 1.0, 0.85, 1.2, 1.0)
SIZE_PX = 256


def paint(points: np.ndarray) -> np.ndarray:
    """sRGB 0..1 of the box's surface: slow tones and checks about 6 photo pixels wide; blue stays low."""
    x, y, z = points.T
    check = np.sign(np.sin(40 * x) * np.sin(40 * y + 1) * np.sin(40 * z + 2))
    red = 0.5 + 0.15 * np.sin(3 * x + y) + 0.1 * check
    green = 0.5 + 0.15 * np.cos(3 * z - x) + 0.1 * check
    return np.stack([red, green, 0.25 + 0.05 * np.sin(4 * y)], 1)


def box_uv_mesh(size_px: int = SIZE_PX) -> UvMesh:
    """Two triangles and one chart for each side, three charts to a row."""
    vertices, faces, uv = [], [], []
    for i, (axis, sign) in enumerate(itertools.product(range(3), (-1, 1))):
        u_axis, v_axis = (axis + 1) % 3, (axis + 2) % 3
        corners = np.zeros((4, 3))
        corners[:, axis] = sign * HALF[axis]
        square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        corners[:, u_axis], corners[:, v_axis] = (square * HALF[[u_axis, v_axis]]).T
        quad = np.array([[0, 1, 2], [0, 2, 3]])
        faces.append((quad if sign > 0 else quad[:, ::-1]) + 4 * i)
        vertices.append(corners)
        uv.append((np.array([i % 3, i // 3]) + 0.08 + 0.84 * (square + 1) / 2) / [3, 2])
    vertices_world = np.concatenate(vertices)
    _, joined = np.unique(np.round(vertices_world, 6), axis=0, return_inverse=True)
    return UvMesh(vertices_world, np.concatenate(faces), np.concatenate(uv), joined.ravel(), size_px)


def view_from(centre: np.ndarray, index: int) -> View:
    return View(f"p{index:02d}", Pinhole(240, 180, 260, 260, 121, 88), look_at(centre, np.zeros(3)))


def ring_of_views() -> list[View]:
    angles = 2 * np.pi * (np.arange(len(GAINS)) + 0.25) / len(GAINS)
    heights = np.where(np.arange(len(GAINS)) % 2, 1.4, 0.5)
    return [
        view_from(np.array([2 * np.cos(a), 2 * np.sin(a), h]), i)
        for i, (a, h) in enumerate(zip(angles, heights, strict=True))
    ]


def render(view: View, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Photo and mask of the box by the slab test, 4 rays a pixel."""
    w, h = view.camera.width_px, view.camera.height_px
    total, hits = np.zeros((h * w, 3)), np.zeros(h * w)
    for dx, dy in itertools.product((0.25, 0.75), repeat=2):
        x, y = np.meshgrid(np.arange(w) + dx, np.arange(h) + dy)
        ray = view.rays(np.stack([x.ravel(), y.ravel()], 1))
        origin = view.centre_world()
        near = np.minimum((-HALF - origin) / ray, (HALF - origin) / ray).max(1)
        far = np.maximum((-HALF - origin) / ray, (HALF - origin) / ray).min(1)
        hit = near < far
        colour = np.where(hit[:, None], paint(origin + near[:, None] * ray), BACKGROUND)
        total += linear_to_srgb(np.clip(srgb_to_linear(colour) * gain, 0, 1)) / 4
        hits += hit / 4
    return (total.reshape(h, w, 3) * 255 + 0.5).astype(np.uint8), (hits.reshape(h, w) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[PosedCapture, ObjectRegion]:
    """Ten photos of differing exposure; photo 3 has a white blotch, photo 5 was taken 2 px beside its pose."""
    folder: Path = tmp_path_factory.mktemp("scene")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    views = ring_of_views()
    for i, view in enumerate(views):
        photo, mask = render(view, GAINS[i])
        if i == 3:
            photo[75:95, 105:125] = 255
        if i == 5:
            photo, mask = np.roll(photo, 2, axis=1), np.roll(mask, 2, axis=1)
        Image.fromarray(photo).save(folder / "images" / f"{view.name}.jpg", quality=98, subsampling=0)
        Image.fromarray(mask).save(folder / "masks" / f"{view.name}.png")
    posed = PosedCapture(
        folder, tuple(views), np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), np.zeros(0, int),
        np.zeros(0, int), np.zeros(3), "truth", "unknown", None, np.ones(len(views)),
    )  # fmt: skip
    hull = box_uv_mesh()
    region = ObjectRegion(folder, Rigid.identity(), 2 * HALF, hull.vertices_world, hull.faces, "given", True)
    return posed, region


@pytest.fixture(scope="module")
def baked(scene: tuple[PosedCapture, ObjectRegion], tmp_path_factory: pytest.TempPathFactory) -> tuple[Asset, Job]:
    job = Job("bake_texture", tmp_path_factory.mktemp("bake"))
    return bake_texture(*scene, box_uv_mesh(), TextureConfig(n_cells=2500), job), job


def texel_truth(size_px: int = SIZE_PX) -> tuple[Texels, np.ndarray, np.ndarray]:
    """The atlas's texels, their true colours, and which lie on the underside."""
    mesh = box_uv_mesh(size_px)
    cells = cut_into_cells(mesh, 10.0)
    texels = rasterize_atlas(cells, size_px)
    points = np.einsum("nk,nkc->nc", texels.barycentric, cells.vertices_world[cells.faces[texels.face]])
    return texels, paint(points), points[:, 2] < -HALF[2] + 1e-6


def test_texture_shows_the_paint(baked: tuple[Asset, Job]) -> None:
    asset, _ = baked
    asset.check()
    texels, truth, under = texel_truth()
    colour = asset.base_colour[texels.row, texels.column] / 255
    seen = asset.seen[texels.row, texels.column] == 255
    assert 0.88 < seen[~under].mean() < 0.99  # two texels along the lower edges never lie clear of the silhouette
    assert not seen[under].any()
    gain = (colour[seen] * truth[seen]).sum() / (colour[seen] ** 2).sum()
    assert 0.93 < gain < 1.07  # the gains' mean is held at 1
    error = np.sqrt(((gain * colour[seen] - truth[seen]) ** 2).mean(1))
    # Pixels are 2 to 3 texels wide here, so the checks' edges stay soft; a plain tone would be 0.1 off.
    assert np.sqrt((error**2).mean()) < 0.055
    assert np.median(error) < 0.03


def test_nothing_foreign_in_texture(baked: tuple[Asset, Job]) -> None:
    asset, _ = baked
    assert (asset.base_colour[:, :, 2] < 125).all()  # neither the magenta background nor the white blotch
    assert (asset.base_colour.max(2) > 50).all()  # nothing black: charts, filled parts or gutters
    assert set(np.unique(asset.seen)) <= {0, 128, 255}


def test_stats(baked: tuple[Asset, Job]) -> None:
    stats, notes = baked[0].stats, baked[1].notes
    assert 4 <= stats["n_patches"] <= 60
    assert 0.75 < stats["seen_share"] < 0.85  # five of six sides; the underside is 0.3 of 1.58 of the atlas's charts
    assert stats["gain_min"] < 0.9 < 1.1 < stats["gain_max"]
    assert 0 < stats["rejected_share"] < 0.3
    assert {"atlas_s", "photos_s", "selection_s", "blending_s"} <= set(notes)


def test_alignment_finds_the_displaced_photo(scene: tuple[PosedCapture, ObjectRegion], tmp_path: Path) -> None:
    posed, region = scene
    cells = cut_into_cells(box_uv_mesh(), 0.15)
    texels = rasterize_atlas(cells, SIZE_PX)
    stack = load_photos(posed, region, cells, 0.01, Job("test", tmp_path))
    observed = observe(cells, posed.views, posed.sharpness, stack, 0.15, 3.0)
    weight = spread_to_vertices(cells, observed.share)
    surface = Surface(cells.vertices_world, cells.faces, cells.joined_faces, observed.seen, weight, 3.0)
    points = np.einsum("nk,nkc->nc", texels.barycentric, cells.vertices_world[cells.faces[texels.face]])
    aligned = align_photos(texels, surface, stack, paint(points).astype(np.float32), 4.0)
    for v in range(len(posed.views)):
        nodes = slice(aligned.shift_start[v], aligned.shift_start[v] + aligned.shift_size[v].prod())
        # The median of the nodes, some of which lie beside the object where nothing is known.
        x, y = np.median(aligned.shift_px[nodes], axis=0)
        # Half a pixel: texels are two to three photo pixels here, and the checks repeat.
        assert abs(y) < 0.5
        assert abs(x - (2 if v == 5 else 0)) < 0.5


def test_cells_cover_the_same_surface() -> None:
    mesh = box_uv_mesh()
    cells = cut_into_cells(mesh, 0.11)
    joined = cells.joined_vertices_world[cells.joined_faces]
    assert np.linalg.norm(joined - np.roll(joined, 1, axis=1), axis=2).max() <= 0.11
    assert cells.areas.sum() == pytest.approx(8 * (HALF[0] * HALF[1] + HALF[1] * HALF[2] + HALF[2] * HALF[0]))
    edges = np.sort(cells.joined_faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()  # closed, across charts too
    assert len(cells.adjacency[0]) == len(cells.faces) * 3 / 2
    outward = cells.vertices_world[cells.faces].mean(1)
    assert ((outward * cells.normals).sum(1) > 0).all()


def test_atlas_covers_every_texel_of_a_chart() -> None:
    mesh = box_uv_mesh(64)
    texels = rasterize_atlas(cut_into_cells(mesh, 0.2), 64)
    covered = np.zeros((64, 64), bool)
    covered[texels.row, texels.column] = True
    x, y = np.meshgrid((np.arange(64) + 0.5) / 64 * 3 % 1, (1 - (np.arange(64) + 0.5) / 64) * 2 % 1)
    inside = (abs(x - 0.5) < 0.42) & (abs(y - 0.5) < 0.42)
    assert covered[inside].all()
    # a texel's half diagonal beyond the chart, and no more
    assert not covered[(abs(x - 0.5) > 0.42 + 3 * 0.75 / 64) | (abs(y - 0.5) > 0.42 + 2 * 0.75 / 64)].any()
    assert np.allclose(texels.barycentric.sum(1), 1, atol=1e-5)
    assert texels.barycentric.min() >= -1e-6


@pytest.mark.parametrize("seed", range(6))
def test_potts_solver_against_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, n_labels = 8, 3
    pairs = np.array([p for p in itertools.combinations(range(n), 2) if rng.random() < 0.4])
    graph = make_graph(n, pairs[:, 0], pairs[:, 1], rng.random(len(pairs)))
    unary = rng.random((n, n_labels)).astype(np.float32)
    everything = (np.array(c) for c in itertools.product(range(n_labels), repeat=n))
    best = min(potts_energy(unary, graph, labels) for labels in everything)
    labels, energy = solve_potts(unary, graph, 50)
    assert energy == pytest.approx(potts_energy(unary, graph, labels))
    assert best - 1e-5 <= energy <= 1.1 * best  # TRW-S is not exact on loops, but near


def test_gains_are_recovered() -> None:
    rng = np.random.default_rng(0)
    n_faces, n_views = 300, 6
    gains = np.exp(rng.normal(0, 0.2, (n_views, 3)))
    gains /= np.exp(np.log(gains).mean(0))
    colour = linear_to_srgb(rng.uniform(0.1, 0.5, (n_faces, 1, 3)) / gains)
    colour[:40, 2] = 0.95  # a highlight in one photo
    share = (rng.random((n_faces, n_views)) < 0.6).astype(np.float32)
    found = estimate_gains([Samples(colour.astype(np.float32), share)])
    assert np.abs(np.log(found / gains)).max() < 0.03


def test_gains_of_a_mirror_stay_near_one() -> None:
    rng = np.random.default_rng(0)
    colour = np.repeat(rng.uniform(0.1, 0.9, (200, 6, 1)), 3, axis=2).astype(np.float32)
    colour[:, 1] **= 0.6  # brighter wherever one looks: it mirrors a lamp
    found = estimate_gains([Samples(colour, np.ones((200, 6)))])
    assert 0.6 < found.min() < found.max() < 1.4


def test_outlier_is_rejected_and_agreement_is_not() -> None:
    rng = np.random.default_rng(1)
    colour = (0.4 + rng.normal(0, 0.01, (50, 7, 3))).astype(np.float32)
    colour[:, 4] += 0.3
    weight = np.ones((50, 7), np.float32)
    rejected = reject(disagreement(colour, weight, 0.03), weight > 0, 4.0)
    assert rejected[:, 4].all()
    assert rejected.sum() == 50


def test_edges_are_jumps_and_not_steep_planes() -> None:
    x = np.arange(60, dtype=np.float32)
    depth = np.tile(1 / (1 - 0.01 * x), (40, 1)).astype(np.float32)  # a plane, steeper and steeper
    distance = edge_distance_px(depth, np.ones((40, 60), np.uint8), 0.02)
    assert distance[20, 30] > 15
    depth[:, 30:] += 0.1
    distance = edge_distance_px(depth, np.ones((40, 60), np.uint8), 0.02)
    assert distance[20, 29] == 0 and distance[20, 30] == 0
    assert distance[20, 20] == pytest.approx(9, abs=0.5)


def strip(n: int) -> tuple[Cells, Texels]:
    """A row of n quads along x; one texel at the middle of each triangle."""
    i = np.arange(n + 1)
    vertices = np.stack([np.repeat(i, 2), np.tile([0, 1], n + 1), np.zeros(2 * n + 2)], 1).astype(float)
    a = 2 * np.arange(n)
    faces = np.concatenate([np.stack([a, a + 2, a + 1], 1), np.stack([a + 2, a + 3, a + 1], 1)])
    cells = Cells(vertices, vertices[:, :2] / (n + 1), faces, np.arange(len(vertices)))
    column = np.arange(2 * n, dtype=np.int32)
    return cells, Texels(0 * column, column, column, np.full((2 * n, 3), 1 / 3, np.float32))


def test_unseen_texels_take_a_smooth_colour_between_their_surroundings() -> None:
    cells, texels = strip(20)
    middle = cells.vertices_world[cells.faces].mean(1)[:, 0]
    colour = np.repeat((middle / 20)[:, None], 3, 1).astype(np.float32)
    seen = (middle < 5) | (middle > 15)
    filled = fill_unseen(np.where(seen[:, None], colour, 0).astype(np.float32), seen, texels, cells)
    assert np.abs(filled - colour).max() < 0.06  # harmonic between two linear ends: linear
    assert (filled[seen] == colour[seen]).all()


def test_gutters_repeat_the_chart() -> None:
    used = np.zeros((64, 64), bool)
    used[20:40, 20:30], used[20:40, 45:60] = True, True
    image = np.zeros((64, 64, 3), np.float32)
    image[20:40, 20:30], image[20:40, 45:60] = [0.8, 0.2, 0.1], [0.1, 0.2, 0.8]
    out = dilate_gutters(image, used, 4)
    assert (out[used] == image[used]).all()
    assert np.allclose(out[30, 16:20], [0.8, 0.2, 0.1]) and np.allclose(out[30, 42:45], [0.1, 0.2, 0.8])
    assert out.max(2).min() > 0.3
