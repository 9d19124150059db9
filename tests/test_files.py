"""Every format tells the same asset: lighter versions, hull, USDZ, OBJ and the dense surface, with and without maps."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from khronos import issues_of
from PIL import Image
from scipy.spatial import ConvexHull, cKDTree

from recon.data import Asset, Mesh, UvMesh
from recon.mesh.faults import find_faults
from recon.stage import Job
from recon.transforms import Similarity
from texturing.collision import collision_hull
from texturing.dense import write_dense_ply
from texturing.gltf import write_bare_glb, write_glb
from texturing.images import ImageFormat
from texturing.lods import lighter
from texturing.obj import write_obj
from texturing.placed import Placed, placed_asset
from texturing.unwrap import UnwrapConfig, unwrap
from texturing.usdz import write_usdz

SIZE_PX = 256
ASSET_FROM_WORLD = Similarity(0.5, np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.array([0.1, 0.2, 0.3]))
PROVENANCE = {"licence": "CC0-1.0", "photos": 48}
USD_SHADERS = {"UsdPreviewSurface", "UsdUVTexture", "UsdPrimvarReader_float2"}
"""The nodes of ours that AR Quick Look knows."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    """A dented egg of 5,120 triangles and its dense surface."""
    return Mesh(*egg(4), {}, egg(5)[0].astype(np.float32), egg(5)[1].astype(np.int32))


def egg(subdivisions: int) -> tuple[np.ndarray, np.ndarray]:
    ball = trimesh.creation.icosphere(subdivisions)
    v = np.asarray(ball.vertices)
    dented = v * (1 - 0.3 * np.exp(-4 * ((v - [1, 0, 0]) ** 2).sum(1)))[:, None] * [0.5, 0.4, 0.7]
    return dented + np.array([3, -2, 1]), np.asarray(ball.faces, np.int64)


@pytest.fixture(scope="module")
def asset(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Asset:
    """The egg in a real atlas, with every map; its colours go from left to right and from top to bottom."""
    uv_mesh = unwrap(mesh, UnwrapConfig(texture_size_px=SIZE_PX), Job("unwrap", tmp_path_factory.mktemp("unwrap")))
    ramp = np.arange(SIZE_PX, dtype=np.uint8)
    base = np.stack([*np.meshgrid(ramp, ramp), np.full((SIZE_PX, SIZE_PX), 90, np.uint8)], -1)
    plane = np.full((SIZE_PX, SIZE_PX, 3), (128, 128, 255), np.uint8)
    packed = np.full((SIZE_PX, SIZE_PX, 3), (230, 150, 10), np.uint8)
    made = Asset(uv_mesh, base, np.full((SIZE_PX, SIZE_PX), 255, np.uint8), {}, plane, packed)
    made.check()
    return made


@pytest.fixture(scope="module")
def model(asset: Asset) -> Placed:
    return placed_asset(asset, ASSET_FROM_WORLD, ImageFormat.png, 90)


def sewn(uv_mesh: UvMesh) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of the uncut mesh."""
    _, first = np.unique(uv_mesh.mesh_vertex_idx, return_index=True)
    return uv_mesh.vertices_world[first], uv_mesh.mesh_vertex_idx[uv_mesh.faces]


def scattered(uv_mesh: UvMesh, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Random points of a surface and where they are in its texture."""
    rng = np.random.default_rng(1)
    weights, face = rng.dirichlet([1, 1, 1], n), rng.integers(len(uv_mesh.faces), size=n)
    corners = uv_mesh.faces[face]
    return tuple(np.einsum("nk,nkc->nc", weights, x[corners]) for x in (uv_mesh.vertices_world, uv_mesh.uv))


def test_lighter_versions_keep_shape_and_texture_in_place(asset: Asset) -> None:
    lod = lighter(asset, 1500, 128)
    lod.check()
    assert 1400 < len(lod.uv_mesh.faces) <= 1500 and lod.base_colour.shape == (128, 128, 3)
    assert not find_faults(*sewn(lod.uv_mesh)), "closed, manifold, without slivers or folds"
    points, uv = scattered(lod.uv_mesh, 3000)
    there, there_uv = scattered(asset.uv_mesh, 300_000)
    apart = np.linalg.norm(points - there[cKDTree(there_uv).query(uv)[1]], axis=1)
    # One in a hundred lies in the gutter, where charts lost a corner.
    assert np.median(apart) < 0.004 and np.quantile(apart, 0.97) < 0.02, "the texture slid over the surface"
    assert (lod.occlusion_roughness_metallic == [230, 150, 10]).all()
    assert lod.normal_map is not None and lod.normal_map.shape == (128, 128, 3)


def test_what_fits_its_budget_is_not_touched(asset: Asset) -> None:
    assert lighter(asset, 10**6, 4096) is asset
    small = lighter(asset, 10**6, 64)
    assert small.uv_mesh.faces is asset.uv_mesh.faces and small.uv_mesh.texture_size_px == 64
    bare = lighter(replace(asset, normal_map=None, occlusion_roughness_metallic=None), 2000, 64)
    assert bare.normal_map is None and bare.occlusion_roughness_metallic is None


def test_shrunk_normals_stay_of_unit_length(asset: Asset) -> None:
    rng = np.random.default_rng(0)
    tilted = np.round(127.5 + 90 * rng.uniform(-1, 1, (SIZE_PX, SIZE_PX, 3)) + [0, 0, 37]).astype(np.uint8)
    shrunk = lighter(replace(asset, normal_map=tilted), 10**6, 32).normal_map
    assert np.linalg.norm(shrunk / 127.5 - 1, axis=2) == pytest.approx(1, abs=0.01)


def test_the_hull_is_convex_small_and_holds_the_object(model: Placed, tmp_path: Path) -> None:
    vertices, faces = collision_hull(model.vertices)
    assert len(vertices) <= 128 and len(faces) <= 252 and not find_faults(vertices, faces)
    assert np.ptp(vertices, axis=0) == pytest.approx(np.ptp(model.vertices, axis=0))
    hull = ConvexHull(vertices)
    outside = (model.vertices @ hull.equations[:, :3].T + hull.equations[:, 3]).max()
    assert outside < 0.012 * np.ptp(model.vertices, axis=0).max() and len(hull.vertices) == len(vertices)
    assert hull.volume > 0.95 * ConvexHull(model.vertices).volume
    path = write_bare_glb(tmp_path / "asset_collision.glb", "object_collision", vertices, faces, PROVENANCE)
    loaded = trimesh.load(path, process=False, force="mesh")
    assert loaded.is_watertight and loaded.volume == pytest.approx(hull.volume, rel=1e-5)
    assert issues_of(path) == []


def test_the_glb_has_every_map_in_its_place(model: Placed, asset: Asset, tmp_path: Path) -> None:
    path = write_glb(tmp_path / "asset.glb", model, PROVENANCE)
    material = trimesh.load(path, process=False, force="mesh").visual.material
    for image, expected in (
        (material.baseColorTexture, asset.base_colour),
        (material.normalTexture, asset.normal_map),
        (material.metallicRoughnessTexture, asset.occlusion_roughness_metallic),
        (material.occlusionTexture, asset.occlusion_roughness_metallic),
    ):
        assert np.array_equal(np.asarray(image), expected)
    data = path.read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert "TANGENT" in tree["meshes"][0]["primitives"][0]["attributes"]
    assert material.roughnessFactor is None and material.metallicFactor is None, "the map alone tells them"
    assert issues_of(path) == []


def test_large_meshes_get_large_indices(asset: Asset, tmp_path: Path) -> None:
    k = np.arange(70_000)
    strip = np.stack([k[:-2], k[1:-1], k[2:]], -1)
    points = np.stack([k // 2, k % 2, 0 * k], -1).astype(float)
    path = write_bare_glb(tmp_path / "strip.glb", "strip", points, strip, {})
    assert np.array_equal(trimesh.load(path, process=False, force="mesh").faces, strip)


def test_the_obj_is_read_as_it_was_written(model: Placed, asset: Asset, tmp_path: Path) -> None:
    path = write_obj(tmp_path / "asset.obj", model, 90, {"licence": "© somebody"})
    read = trimesh.load(path, process=False, force="mesh")
    corners = model.vertices[model.uv_mesh.faces]
    assert read.vertices[read.faces] == pytest.approx(corners, abs=1e-6)
    assert read.visual.uv[read.faces] == pytest.approx(model.uv_mesh.uv[model.uv_mesh.faces], abs=1e-6)
    text = path.read_text(encoding="utf-8")
    assert '# licence: "© somebody"' in text
    assert text.count("\nv ") == len(np.unique(model.uv_mesh.mesh_vertex_idx)), "a vertex on a seam is doubled"
    statements = dict(line.split(" ", 1) for line in (tmp_path / "asset.mtl").read_text().splitlines()[1:])
    pictures = {k: np.asarray(Image.open(tmp_path / statements[k])) for k in ("map_Kd", "norm", "map_Pr", "map_Pm")}
    assert np.array_equal(pictures["map_Kd"], asset.base_colour) and (pictures["norm"] == [128, 128, 255]).all()
    assert (pictures["map_Pr"] == 150).all() and (pictures["map_Pm"] == 10).all()
    plain = replace(model, maps=replace(model.maps, normal=None, occlusion_roughness_metallic=None))
    (tmp_path / "plain").mkdir()
    write_obj(tmp_path / "plain" / "asset.obj", plain, 90, {})
    assert "Pr 0.6\nPm 0" in (tmp_path / "plain" / "asset.mtl").read_text()
    assert len(list((tmp_path / "plain").iterdir())) == 3


@pytest.mark.parametrize("with_maps", [True, False])
def test_the_usdz_follows_arkits_rules(
    model: Placed, tmp_path: Path, with_maps: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    from pxr import Usd, UsdGeom, UsdShade

    if not with_maps:
        model = replace(model, maps=replace(model.maps, normal=None, occlusion_roughness_metallic=None))
    path = write_usdz(tmp_path / "asset.usdz", model, PROVENANCE)
    assert capfd.readouterr().err == "", "OpenUSD warns"
    stage = Usd.Stage.Open(str(path))
    assert usd_faults(path, stage) == []
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert stage.GetDefaultPrim().GetPath() == "/asset" and stage.GetRootLayer().customLayerData == PROVENANCE
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/asset/object"))
    assert np.asarray(mesh.GetPointsAttr().Get()) == pytest.approx(model.vertices, abs=1e-6)
    assert np.array_equal(np.asarray(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3), model.uv_mesh.faces)
    st = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").Get()
    assert np.asarray(st) == pytest.approx(model.uv_mesh.uv, abs=1e-6)
    surface = UsdShade.Shader.Get(stage, "/asset/photographed/surface")
    fed = {i.GetBaseName() for i in surface.GetInputs() if i.HasConnectedSource()}
    maps = {"normal", "occlusion", "roughness", "metallic"} if with_maps else set()
    assert fed == {"diffuseColor"} | maps
    with zipfile.ZipFile(path) as package:
        entries = package.infolist()
        pictures = [np.asarray(Image.open(io.BytesIO(package.read(e)))) for e in entries[1:]]
    assert entries[0].filename.endswith(".usdc") and all(e.compress_type == zipfile.ZIP_STORED for e in entries)
    assert len(pictures) == (3 if with_maps else 1) and pictures[0].shape == (SIZE_PX, SIZE_PX, 3)
    shaders = {UsdShade.Shader(p).GetIdAttr().Get() for p in stage.Traverse() if p.IsA(UsdShade.Shader)}
    assert shaders == USD_SHADERS


def usd_faults(path: Path, stage: object) -> list[str]:
    """What usdchecker --arkit says; its rules live in UsdUtils up to OpenUSD 26.5, in UsdValidation ever since."""
    from pxr import UsdUtils, UsdValidation

    registry = UsdValidation.ValidationRegistry()
    validators = [registry.GetOrLoadValidatorByName(m.name) for m in registry.GetAllValidatorMetadata()]
    found = [error.GetMessage() for error in UsdValidation.ValidationContext(validators).Validate(stage)]
    if hasattr(UsdUtils, "ComplianceChecker"):
        checker = UsdUtils.ComplianceChecker(arkit=True)
        checker.CheckCompliance(str(path))
        found += [*checker.GetErrors(), *checker.GetFailedChecks(), *checker.GetWarnings()]
    return found


def test_the_dense_surface_takes_the_textures_colours(mesh: Mesh, asset: Asset, tmp_path: Path) -> None:
    path = write_dense_ply(tmp_path / "asset_dense.ply", mesh, asset, ASSET_FROM_WORLD)
    read = trimesh.load(path, process=False)
    truth = ASSET_FROM_WORLD.apply(mesh.dense_vertices_world.astype(np.float64))
    assert read.vertices == pytest.approx(truth, abs=1e-5) and np.array_equal(read.faces, mesh.dense_faces)
    there, uv = scattered(asset.uv_mesh, 300_000)
    near = uv[cKDTree(there).query(mesh.dense_vertices_world)[1]] * [1, -1] + [0, 1]
    off = np.abs(np.asarray(read.visual.vertex_colors)[:, :2].astype(float) - SIZE_PX * near).max(1)
    assert np.median(off) < 2 and np.quantile(off, 0.95) < 5, "colours come from elsewhere in the texture"
