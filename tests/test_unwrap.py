"""Charts: nothing lost, nothing overlapping, gutters kept, texels spread evenly."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from scipy.ndimage import distance_transform_edt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recon.data import Mesh, UvMesh
from recon.stage import Job
from texturing.unwrap import UnwrapConfig, unwrap, uv_area

CFG = UnwrapConfig(texture_size_px=1024, gutter_px=4)


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    """A bumpy ball with a neck, a few thousand triangles, far from the origin and of odd size."""
    ball = trimesh.creation.icosphere(4)
    v = np.asarray(ball.vertices)
    v = v * (1 + 0.15 * np.sin(5 * v[:, :1]) * np.cos(4 * v[:, 1:2]))
    v[:, 2] *= 1 + (v[:, 2] > 0.4) * 0.5
    return Mesh(37.0 * v + [1000.0, -500.0, 20.0], np.asarray(ball.faces))


@pytest.fixture(scope="module")
def uv_mesh(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> UvMesh:
    made = unwrap(mesh, CFG, Job("unwrap", tmp_path_factory.mktemp("unwrap")))
    made.check()
    return made


def charts_of(uv_mesh: UvMesh) -> np.ndarray:
    """Each face's chart, read off the connectivity."""
    n, f = len(uv_mesh.uv), uv_mesh.faces
    rows, columns = f[:, :2].ravel(), f[:, 1:].ravel()
    return connected_components(coo_array((np.ones(len(rows)), (rows, columns)), (n, n)), directed=False)[1][f[:, 0]]


def drawn(uv_mesh: UvMesh, size: int) -> tuple[np.ndarray, int]:
    """Chart numbers (1..) at the texels' centres, and how many texels two triangles of different charts claim."""
    chart = charts_of(uv_mesh)
    image, n_contested = np.zeros((size, size), np.int32), 0
    for c in range(chart.max() + 1):
        mine = np.zeros((size, size), np.uint8)
        for corners in uv_mesh.uv[uv_mesh.faces[chart == c]]:
            cv2.fillConvexPoly(mine, np.round((corners * size - 0.5) * 16).astype(np.int32), 1, shift=4)
        n_contested += int(((image > 0) & (mine > 0)).sum())
        image[mine > 0] = c + 1
    return image, n_contested


def test_the_surface_is_the_same(mesh: Mesh, uv_mesh: UvMesh) -> None:
    assert np.array_equal(uv_mesh.mesh_vertex_idx[uv_mesh.faces], mesh.faces), "order or corners of faces changed"
    assert np.array_equal(uv_mesh.vertices_world, mesh.vertices_world[uv_mesh.mesh_vertex_idx])
    assert uv_mesh.texture_size_px == 1024
    assert len(mesh.vertices_world) < len(uv_mesh.uv) < 1.5 * len(mesh.vertices_world)


def test_charts_are_few_and_keep_their_distance(uv_mesh: UvMesh) -> None:
    assert charts_of(uv_mesh).max() + 1 == uv_mesh.stats["charts"]
    assert 2 <= uv_mesh.stats["charts"] <= 80
    image, n_contested = drawn(uv_mesh, 1024)
    assert n_contested == 0
    # Where the nearest chart changes between neighbouring free texels, the gap is their distances together.
    distance, nearest = distance_transform_edt(image == 0, return_indices=True)
    owner = image[tuple(nearest)]
    for axis in (0, 1):
        border = np.diff(owner, axis=axis) != 0
        a, b = (np.take(distance, np.arange(k, 1024 + k - 1), axis) for k in (0, 1))
        # fillConvexPoly draws every touched texel, which takes up to one from each side.
        assert (a + b)[border].min() >= CFG.gutter_px - 2


def test_texels_are_spread_evenly(mesh: Mesh, uv_mesh: UvMesh) -> None:
    def areas(corners: np.ndarray) -> np.ndarray:
        return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2

    flat = areas(np.pad(uv_mesh.uv, ((0, 0), (0, 1)))[uv_mesh.faces])
    density = np.sqrt(flat / areas(mesh.vertices_world[mesh.faces]))
    low, high = np.quantile(density, [0.05, 0.95])
    assert low > 0 and high / low < 2
    assert flat.sum() == pytest.approx(uv_area(uv_mesh.uv, uv_mesh.faces))
    assert 0.4 < uv_mesh.stats["texture_used"] < 1


def test_the_same_mesh_gives_the_same_charts(mesh: Mesh, uv_mesh: UvMesh, tmp_path: Path) -> None:
    again = unwrap(mesh, CFG, Job("unwrap", tmp_path))
    assert np.array_equal(again.faces, uv_mesh.faces) and np.array_equal(again.uv, uv_mesh.uv)


def test_save_and_load(uv_mesh: UvMesh, tmp_path: Path) -> None:
    uv_mesh.save(tmp_path)
    back = UvMesh.load(tmp_path)
    assert np.array_equal(back.uv, uv_mesh.uv) and back.stats == uv_mesh.stats
