"""The glTF border: frames, colours the right way up, cameras that still look at the same things, a valid file."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
import trimesh
from drawn_box import look_at
from khronos import issues_of
from PIL import Image

from recon.camera import Pinhole, View
from recon.data import Asset, Mesh, ObjectRegion, PosedCapture, UvMesh, read_json
from recon.stage import Job, content_key
from recon.transforms import Rigid
from texturing.export import ExportConfig, Exported, export, place
from texturing.images import ImageFormat

SIZE = np.array([0.6, 0.3, 0.9])
BASE = np.array([5.0, -3.0, 2.0])
"""Centre of the object's base in world."""
MIDDLE = BASE + np.array([0, 0, SIZE[2] / 2])
TURN = np.radians(25)
RED, BLUE = np.array([210, 40, 30]), np.array([30, 40, 210])


def turn_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


@pytest.fixture
def asset() -> Asset:
    """An upright cylinder-like shape whose texture is red in its upper half (v > 0.5) and blue below."""
    n_around, n_up = 48, 24
    k, j = np.meshgrid(np.arange(n_around + 1), np.arange(n_up + 1), indexing="ij")
    angle, v = 2 * np.pi * k / n_around, j / n_up
    wide = np.where((j == 0) | (j == n_up), 0.0, 1.0)  # closed at both ends
    box = np.stack([wide * np.cos(angle) / 2, wide * np.sin(angle) / 2, v], -1).reshape(-1, 3) * SIZE
    corner = (k * (n_up + 1) + j)[:-1, :-1].ravel()
    a, b, c, d = corner, corner + n_up + 1, corner + n_up + 2, corner + 1
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    mesh_idx = ((k % n_around) * (n_up + 1) + j).ravel()
    uv = 0.02 + 0.96 * np.stack([k / n_around, v], -1).reshape(-1, 2)
    texture = np.empty((256, 256, 3), np.uint8)
    texture[:128], texture[128:] = RED, BLUE
    uv_mesh = UvMesh(box @ turn_z(TURN).T + BASE, faces, uv, mesh_idx, 256)
    made = Asset(uv_mesh, texture, np.full((256, 256), 255, np.uint8))
    made.check()
    return made


@pytest.fixture
def posed(tmp_path: Path) -> PosedCapture:
    """Five cameras around; the first stands in front of the box's -y side."""
    (tmp_path / "images").mkdir()
    views = []
    for k in range(5):
        azimuth = TURN - np.pi / 2 + 0.3 + 2 * np.pi * k / 5
        eye = BASE + np.array([2.5 * np.cos(azimuth), 2.5 * np.sin(azimuth), 1.1])
        views.append(View(f"IMG_{k}", Pinhole(120, 90, 130.0, 131.0, 61.0, 44.0), look_at(eye, MIDDLE)))
        Image.new("RGB", (120, 90), (10 * k, 0, 0)).save(tmp_path / "images" / f"IMG_{k}.jpg")
    nothing = np.zeros(0, np.int64)
    return PosedCapture(
        tmp_path,
        tuple(views),
        points_world=np.zeros((0, 3)),
        point_rgb=np.zeros((0, 3), np.uint8),
        point_error_px=np.zeros(0),
        obs_point_idx=nothing,
        obs_view_idx=nothing,
        focus_world=MIDDLE,
        up_source="support plane",
        scale_source="unknown",
        support_plane=None,
        sharpness=np.ones(5),
    )


@pytest.fixture
def region(tmp_path: Path) -> ObjectRegion:
    cube = trimesh.creation.box(extents=SIZE)
    world_from_box = Rigid(turn_z(TURN), MIDDLE)
    hull = world_from_box.apply(np.asarray(cube.vertices))
    return ObjectRegion(tmp_path, world_from_box, SIZE, hull, np.asarray(cube.faces), "given", rests_on_support=True)


@pytest.fixture
def mesh(asset: Asset) -> Mesh:
    """The asset's own surface, each triangle cut in four: what it was simplified from."""
    uv_mesh = asset.uv_mesh
    _, first = np.unique(uv_mesh.mesh_vertex_idx, return_index=True)
    vertices, faces = uv_mesh.vertices_world[first], uv_mesh.mesh_vertex_idx[uv_mesh.faces]
    dense_vertices, dense_faces = trimesh.remesh.subdivide(vertices, faces)
    return Mesh(vertices, faces, {}, dense_vertices.astype(np.float32), dense_faces.astype(np.int32))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The capture that it all came from."""
    folder = tmp_path / "somebodys_private_name"
    folder.mkdir()
    (folder / "IMG_0.jpg").write_bytes(b"a photo")
    return folder


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "out").mkdir()
    return Job("export", tmp_path / "out")


def read_glb(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    n = int.from_bytes(data[12:16], "little")
    return json.loads(data[20 : 20 + n]), data[28 + n :]


def attribute(tree: dict, blob: bytes, name: str, width: int) -> np.ndarray:
    accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"][name]]
    view = tree["bufferViews"][accessor["bufferView"]]
    start = view.get("byteOffset", 0)
    return np.frombuffer(blob[start : start + view["byteLength"]], "<f4").reshape(-1, width)


def test_the_asset_stands_on_its_base(asset: Asset, posed: PosedCapture, region: ObjectRegion) -> None:
    asset_from_world, unit = place(asset.uv_mesh.vertices_world, posed, region)
    v = asset_from_world.apply(asset.uv_mesh.vertices_world)
    assert unit == "longest side"
    # The first photo looks at the box's -y side, so the box's x runs from left to right and its depth along z.
    assert np.ptp(v, axis=0) == pytest.approx(SIZE[[0, 2, 1]] / 0.9)
    assert v[:, 1].min() == pytest.approx(0, abs=1e-12)
    assert (v.min(0) + v.max(0))[[0, 2]] == pytest.approx([0, 0], abs=1e-12)
    first_eye = asset_from_world.apply(posed.views[0].centre_world()[None])[0]
    assert first_eye[2] > abs(first_eye[0]) and first_eye[1] > 0
    assert np.linalg.det(asset_from_world.rotation) == pytest.approx(1)

    metric, unit = place(asset.uv_mesh.vertices_world, replace(posed, scale_source="markers"), region)
    assert metric.scale == 1 and unit == "metre"
    assert np.ptp(metric.apply(asset.uv_mesh.vertices_world), axis=0) == pytest.approx(SIZE[[0, 2, 1]])


def test_unknown_scale_is_said_once(
    asset: Asset, mesh: Mesh, posed: PosedCapture, region: ObjectRegion, source: Path, job: Job
) -> None:
    exported = export(asset, mesh, posed, region, source, ExportConfig(), job)
    assert len(job.warnings) == 1 and "size" in job.warnings[0] and exported.unit == "longest side"
    job.warnings.clear()
    export(asset, mesh, replace(posed, scale_source="markers"), region, source, ExportConfig(), job)
    assert job.warnings == []


def test_the_longest_side_as_measured_sets_the_scale(
    asset: Asset, mesh: Mesh, posed: PosedCapture, region: ObjectRegion, source: Path, job: Job
) -> None:
    exported = export(asset, mesh, posed, region, source, ExportConfig(longest_side_m=0.3), job)
    size = np.ptp(exported.asset_from_world.apply(asset.uv_mesh.vertices_world), axis=0)
    assert exported.unit == "metre" and size.max() == pytest.approx(0.3) and job.warnings == []
    tree, _ = read_glb(exported.glb_path)
    assert "longest side as given" in json.dumps(tree)
    longest = float(np.ptp(asset.uv_mesh.vertices_world @ turn_z(TURN), axis=0).max())
    known = replace(posed, scale_source="3 printed markers")
    export(asset, mesh, known, region, source, ExportConfig(longest_side_m=longest * 1.03), job)
    assert job.warnings == []
    export(asset, mesh, known, region, source, ExportConfig(longest_side_m=longest * 1.2), job)
    assert len(job.warnings) == 1 and "3 printed markers" in job.warnings[0] and "longest_side_m" in job.warnings[0]


def test_the_glb_holds_mesh_texture_and_provenance(
    asset: Asset, mesh: Mesh, posed: PosedCapture, region: ObjectRegion, source: Path, job: Job, tmp_path: Path
) -> None:
    exported = export(asset, mesh, posed, region, source, ExportConfig(), job)
    exported.check()
    tree, blob = read_glb(exported.glb_path)
    position, normal = attribute(tree, blob, "POSITION", 3), attribute(tree, blob, "NORMAL", 3)
    truth = exported.asset_from_world.apply(asset.uv_mesh.vertices_world)
    assert np.abs(position - truth).max() < 1e-6
    assert np.abs(np.linalg.norm(normal, axis=1) - 1).max() < 1e-5
    seam = asset.uv_mesh.mesh_vertex_idx
    assert all(np.ptp(normal[seam == i], axis=0).max() < 1e-6 for i in seam[-25:]), "the seam would show in shading"
    side = np.abs(position[:, 1] - 0.5) < 0.3
    assert ((normal * (position * [1, 0, 1]))[side].sum(1) > 0).all(), "normals point inward"

    # glTF: v runs down, row 0 at v = 0. Upper vertices must find red there, lower ones blue.
    image = tree["bufferViews"][tree["images"][0]["bufferView"]]
    start = image.get("byteOffset", 0)
    picture = np.asarray(Image.open(io.BytesIO(blob[start : start + image["byteLength"]])), int)
    assert tree["images"][0]["mimeType"] == "image/jpeg" and picture.shape == (256, 256, 3)
    u, v = (attribute(tree, blob, "TEXCOORD_0", 2) * 256).astype(int).T
    for part, colour in ((position[:, 1] > 0.6, RED), (position[:, 1] < 0.4, BLUE)):
        assert np.abs(picture[v[part], u[part]] - colour).max() < 12

    material = tree["materials"][0]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert material["pbrMetallicRoughness"]["roughnessFactor"] == pytest.approx(0.6)
    assert tree["asset"]["extras"]["scale"] == "unknown" and tree["asset"]["generator"].startswith("recon ")
    text = json.dumps(tree)
    assert str(tmp_path) not in text and str(Path.home()) not in text and "IMG_" not in text


def test_png_keeps_every_texel(
    asset: Asset, mesh: Mesh, posed: PosedCapture, region: ObjectRegion, source: Path, job: Job
) -> None:
    exported = export(asset, mesh, posed, region, source, ExportConfig(image_format=ImageFormat.png), job)
    loaded = trimesh.load(exported.glb_path, process=False, force="mesh")
    assert np.array_equal(np.asarray(loaded.visual.material.baseColorTexture), asset.base_colour)
    assert np.array_equal(loaded.faces, asset.uv_mesh.faces)
    assert np.abs(loaded.visual.uv - asset.uv_mesh.uv).max() < 1e-6


def test_cameras_see_the_asset_as_the_photos_saw_the_object(
    asset: Asset, mesh: Mesh, posed: PosedCapture, region: ObjectRegion, source: Path, job: Job
) -> None:
    exported = export(asset, mesh, posed, region, source, ExportConfig(), job)
    j = read_json(exported.cameras_path)
    points = asset.uv_mesh.vertices_world[::40]
    for frame, view in zip(j["frames"], posed.views, strict=True):
        asset_from_cam = np.array(frame["transform_matrix"])
        assert asset_from_cam[:3, :3] @ asset_from_cam[:3, :3].T == pytest.approx(np.eye(3), abs=1e-9)
        x = (exported.asset_from_world.apply(points) - asset_from_cam[:3, 3]) @ asset_from_cam[:3, :3]
        pixels = np.stack([j["fl_x"] * x[:, 0], -j["fl_y"] * x[:, 1]], -1) / -x[:, 2:] + [j["cx"], j["cy"]]
        assert pixels == pytest.approx(view.project(points)[0], abs=1e-6)
        assert (job.folder / frame["file_path"]).read_bytes() == posed.image_path(view.name).read_bytes()
    applied = np.array(j["applied_transform"])
    moved = j["applied_scale"] * (points @ applied[:, :3].T + applied[:, 3])
    assert moved == pytest.approx(exported.asset_from_world.apply(points))


def test_lenses_that_differ_are_written_per_photo(
    asset: Asset, mesh: Mesh, posed: PosedCapture, region: ObjectRegion, source: Path, job: Job
) -> None:
    zoomed = replace(posed.views[1], camera=replace(posed.views[1].camera, fx_px=200.0))
    mixed = replace(posed, views=(posed.views[0], zoomed, *posed.views[2:]))
    exported = export(asset, mesh, mixed, region, source, ExportConfig(with_photos=False), job)
    j = read_json(exported.cameras_path)
    assert "fl_x" not in j and [f["fl_x"] for f in j["frames"]] == [130.0, 200.0, 130.0, 130.0, 130.0]
    assert not (job.folder / "photos").exists()


def test_the_preview_shows_the_object_with_and_without_texture(
    asset: Asset, mesh: Mesh, posed: PosedCapture, region: ObjectRegion, source: Path, job: Job
) -> None:
    exported = export(asset, mesh, posed, region, source, ExportConfig(preview_width_px=600), job)
    picture = np.asarray(Image.open(exported.preview_path), int)
    height, width = picture.shape[0] // 2, picture.shape[1] // 3
    assert (width, height) == (200, 168)
    for k in range(6):
        tile = picture[k // 3 * height :][:height, k % 3 * width :][:, :width]
        saturation = np.ptp(tile, axis=2)
        assert (saturation[:5] == 0).all() and 200 < tile[:5].mean() < 245, "the background is not neutral"
        column = tile[:, width // 2]
        if k == 5:
            assert (saturation == 0).all() and np.ptp(tile) > 60
        else:
            red, blue = (column[:, 0] - column[:, 2]) > 60, (column[:, 2] - column[:, 0]) > 60
            assert red.sum() > 25 and blue.sum() > 25
            assert np.flatnonzero(red).max() <= np.flatnonzero(blue).min() + 1, "red is above blue"
            assert 0.1 < (saturation > 40).mean() < 0.7


def test_save_load_and_check(
    asset: Asset, mesh: Mesh, posed: PosedCapture, region: ObjectRegion, source: Path, job: Job
) -> None:
    exported = export(asset, mesh, posed, region, source, ExportConfig(), job)
    exported.save(job.folder)
    back = Exported.load(job.folder)
    assert back.stats == exported.stats and back.unit == exported.unit
    assert np.array_equal(back.asset_from_world.matrix(), exported.asset_from_world.matrix())
    back.check()
    back.preview_path.unlink()
    with pytest.raises(ValueError, match=r"preview\.png"):
        back.check()


@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_the_khronos_validator_finds_nothing(
    asset: Asset,
    mesh: Mesh,
    posed: PosedCapture,
    region: ObjectRegion,
    source: Path,
    job: Job,
    image_format: ImageFormat,
) -> None:
    exported = export(asset, mesh, posed, region, source, ExportConfig(image_format=image_format), job)
    for path in sorted(exported.folder.glob("*.glb")):
        assert issues_of(path) == [], path.name


FORMATS = {
    "asset.glb",
    "asset_lod1.glb",
    "asset_lod2.glb",
    "asset_collision.glb",
    "asset.usdz",
    "asset.obj",
    "asset_dense.ply",
}


def test_every_format_is_written_and_can_be_left_out(
    asset: Asset, mesh: Mesh, posed: PosedCapture, region: ObjectRegion, source: Path, job: Job
) -> None:
    cfg = ExportConfig(lod1_triangles=900, lod1_texture_px=128, lod2_triangles=300, lod2_texture_px=64)
    exported = export(asset, mesh, posed, region, source, cfg, job)
    exported.check()
    assert set(exported.stats["files"]) == FORMATS
    for name, n_triangles, texture_px in (("asset_lod1.glb", 900, 128), ("asset_lod2.glb", 300, 64)):
        lod = trimesh.load(exported.folder / name, process=False, force="mesh")
        assert 0.9 * n_triangles <= len(lod.faces) <= n_triangles
        assert lod.visual.material.baseColorTexture.size == (texture_px, texture_px)
        assert np.abs(lod.bounds - trimesh.load(exported.glb_path, force="mesh").bounds).max() < 0.02

    lean = Job("export", job.folder.with_name("lean"))
    lean.folder.mkdir()
    off = dict.fromkeys(("with_collision", "with_usdz", "with_obj", "with_dense_ply", "with_photos"), False)
    export(asset, mesh, posed, region, source, ExportConfig(lod1_triangles=0, lod2_triangles=0, **off), lean).check()
    assert {p.name for p in lean.folder.iterdir()} == {"asset.glb", "cameras.json", "preview.png"}


def test_provenance_tells_the_capture_and_nobody(
    asset: Asset, mesh: Mesh, posed: PosedCapture, region: ObjectRegion, source: Path, job: Job
) -> None:
    exported = export(asset, mesh, posed, region, source, ExportConfig(), job)
    facts = read_glb(exported.glb_path)[0]["asset"]["extras"]
    assert facts["capture_sha256"] == content_key(source) and facts["licence"] == "unspecified"
    assert date.fromisoformat(facts["date"]) <= datetime.now(UTC).date() and facts["photos"] == 5
    assert set(facts) == {*["generator_version", "capture_sha256", "date", "photos", "scale", "unit", "up", "licence"]}
    for path in (exported.folder / name for name in [*FORMATS, "asset.mtl"]):
        content = path.read_bytes()
        assert source.name.encode() not in content and b"IMG_" not in content and b"/tmp" not in content, path.name
    tree, _ = read_glb(exported.folder / "asset_lod1.glb")
    names = [x["name"] for kind in ("nodes", "meshes", "materials", "images", "textures") for x in tree[kind]]
    assert all(re.fullmatch("[a-z0-9_-]+", name) for name in names)
    assert not {"matrix", "translation", "rotation", "scale"} & set(tree["nodes"][0]), "a transform is not applied"
    licensed = export(asset, mesh, posed, region, source, ExportConfig(licence="CC-BY-4.0"), job)
    assert read_glb(licensed.folder / "asset_lod2.glb")[0]["asset"]["extras"]["licence"] == "CC-BY-4.0"
