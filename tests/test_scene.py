"""Scenes: copies where, how large and how turned as the YAML says, shared meshes, a sentence for each mistake."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from khronos import issues_of
from PIL import Image
from scipy.spatial.transform import Rotation
from test_files import usd_faults

from recon.cli import main
from recon.errors import UserError
from recon.scene.join import read_glb
from recon.scene.read import read_scene
from recon.scene.write import SceneReport, make_scene, scene_path


def write_box(folder: Path, size: tuple[float, float, float], colour: tuple[int, int, int], extras: dict) -> None:
    """An asset folder whose GLB holds a textured box that stands on its base's centre."""
    box = trimesh.creation.box(extents=size)
    box.apply_translation([0, size[1] / 2, 0])
    picture = Image.new("RGB", (16, 16), colour)
    rough = Image.new("RGB", (8, 8), (0, colour[0], 0))  # every asset's own, to be told apart in a scene
    material = trimesh.visual.material.PBRMaterial(
        name=folder.name, baseColorTexture=picture, metallicRoughnessTexture=rough, metallicFactor=1.0
    )
    uv = np.zeros((len(box.vertices), 2)) + 0.5
    mesh = trimesh.Trimesh(
        box.vertices, box.faces, visual=trimesh.visual.TextureVisuals(uv=uv, material=material), process=False
    )

    def finish(tree: dict[str, Any]) -> None:
        tree["asset"]["extras"] = extras

    folder.mkdir(parents=True)
    scene = trimesh.Scene()
    scene.add_geometry(mesh, node_name="object", geom_name="object")
    data = trimesh.exchange.gltf.export_glb(scene, include_normals=True, tree_postprocessor=finish)
    (folder / "asset.glb").write_bytes(data)


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    folder = tmp_path / "assets_out"
    write_box(folder / "Oak table", (1.0, 0.5, 0.6), (120, 80, 40), {"unit": "metre", "licence": "CC0"})
    write_box(folder / "cup", (0.5, 1.0, 0.5), (200, 200, 210), {"unit": "longest side"})
    shutil.copy(folder / "cup" / "asset.glb", folder / "cup" / "asset_lod1.glb")
    return folder


def write_parts(path: Path) -> None:
    """A GLB from elsewhere: two meshes, one below a turned and shifted parent."""
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box(extents=[2, 1, 1]), node_name="body", geom_name="body")
    moved = trimesh.transformations.translation_matrix([0, 3, 0]) @ trimesh.transformations.rotation_matrix(
        np.pi / 2, [0, 0, 1]
    )
    scene.graph.update(frame_from="body", frame_to="arm", matrix=moved, geometry="arm")
    scene.geometry["arm"] = trimesh.creation.box(extents=[2, 0.2, 0.2])
    path.write_bytes(trimesh.exchange.gltf.export_glb(scene, include_normals=True))


def make(tmp_path: Path, assets: Path, text: str) -> tuple[SceneReport, dict[str, Any], trimesh.Scene]:
    """The scene of a YAML text: its report, its glTF tree, and what another reader finds in it."""
    scene = tmp_path / "My Room.yaml"
    scene.write_text(text, encoding="utf-8")
    report = make_scene(scene, assets, scene_path(scene, ""))
    return report, read_glb(report.path).tree, trimesh.load(report.path, process=False)


def test_copies_stand_where_the_file_says(tmp_path: Path, assets: Path) -> None:
    report, tree, loaded = make(
        tmp_path,
        assets,
        """
        - asset: Oak table
          position: [2, 0, -1]
          turn_deg: 90
        - asset: cup
          position: [2, 0.5, -1]
          size_m: 0.1
          copies:
            - {position: [2.2, 0.5, -1]}
            - {position: [3, 0, 0], turn_deg: [0, 0, 90], scale: 2}
        """,
    )
    assert [n["name"] for n in tree["nodes"]] == ["oak_table_1", "cup_1", "cup_2", "cup_3"]
    table, *cups = (loaded.graph.get(n["name"])[0] for n in tree["nodes"])
    # A quarter turn about +Y brings the table's x to -z.
    assert table[:3, 3] == pytest.approx([2, 0, -1]) and table[:3, 0] == pytest.approx([0, 0, -1], abs=1e-7)
    assert [np.linalg.det(c[:3, :3]) ** (1 / 3) for c in cups] == pytest.approx([0.1, 0.1, 2])
    assert [c[:3, 3].tolist() for c in cups] == [[2, 0.5, -1], [2.2, 0.5, -1], [3, 0, 0]]
    turned = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    assert cups[2][:3, :3] / 2 == pytest.approx(turned, abs=1e-7)
    assert np.stack([report.low_m, report.high_m]) == pytest.approx(loaded.bounds, abs=1e-6)
    assert report.n_copies == {"oak_table": 1, "cup": 3} and report.n_triangles == 48


def test_copies_share_what_they_are_made_of(tmp_path: Path, assets: Path) -> None:
    once, tree, _ = make(tmp_path, assets, "[{asset: cup, size_m: 0.1}, {asset: Oak table}]")
    grid = """
        - {asset: cup, size_m: 0.1, position: [1, 0, 0], copies: {count: [10, 1, 5], step: [0.2, 0, 0.3]}}
        - asset: Oak table
        - {asset: ./assets_out/cup/asset.glb, scale: 3}
        """
    often, many, loaded = make(tmp_path, assets, grid)
    assert len(many["nodes"]) == 52
    for name in ("meshes", "materials", "images", "textures", "accessors"):
        assert len(many[name]) == len(tree[name]), f"{name} were doubled"
    assert often.n_bytes < once.n_bytes + 52 * 150
    last = loaded.graph.get("cup_50")[0]
    assert last[:3, 3] == pytest.approx([1 + 9 * 0.2, 0, 4 * 0.3])
    colours = {
        mesh["primitives"][0]["material"]: many["materials"][mesh["primitives"][0]["material"]]["name"]
        for mesh in many["meshes"]
    }
    assert sorted(colours.values()) == ["Oak table", "cup"]
    for name, rgb in (("cup", (200, 200, 210)), ("Oak table", (120, 80, 40))):
        geometry = next(g for g in loaded.geometry.values() if g.visual.material.name == name)
        assert np.asarray(geometry.visual.material.baseColorTexture)[0, 0, :3] == pytest.approx(rgb, abs=2)
        rough = np.asarray(geometry.visual.material.metallicRoughnessTexture)
        assert rough.shape[0] == 8 and rough[0, 0, 1] == pytest.approx(rgb[0], abs=2)
    assert many["asset"]["extras"]["assets"]["oak_table"] == {"unit": "metre", "licence": "CC0"}


def test_nodes_of_other_files_keep_their_places(tmp_path: Path, assets: Path) -> None:
    write_parts(tmp_path / "robot.glb")
    text = "- {asset: robot.glb, size_m: 9, position: [1, 2, 3]}"
    report, tree, loaded = make(tmp_path, assets, text)
    truth = trimesh.load(tmp_path / "robot.glb").bounds * 2 + [1, 2, 3]  # its longest side is 4.5
    assert loaded.bounds == pytest.approx(truth) and report.high_m - report.low_m == pytest.approx([4, 9, 2])
    assert tree["nodes"][0]["children"] == [1, 2]


def test_an_unknown_size_is_said(tmp_path: Path, assets: Path) -> None:
    report, *_ = make(tmp_path, assets, "[{asset: cup}, {asset: cup, size_m: 0.1, lod: 1}, {asset: Oak table}]")
    assert len(report.warnings) == 1 and "entry 1 (cup)" in report.warnings[0] and "size_m" in report.warnings[0]


WRONG = {
    "{asset: cupp}": ("entry 1 (cupp)", "did you mean cup"),
    "{asset: cup, positon: [0, 0, 0]}": ("entry 1 (cup)", "no option positon", "position"),
    "{asset: cup, position: [0, yes, 0]}": ("position is [0, True, 0]", "three numbers"),
    "{asset: cup, turn_deg: .nan}": ("turn_deg", "degrees"),
    "{asset: cup, size_m: 0}": ("size_m is 0", "above 0"),
    "{asset: cup, size_m: 1, scale: 2}": ("contradict",),
    "{asset: cup, lod: 2}": ("asset_lod2.glb",),
    "{asset: cup, lod: fine}": ("lod is fine",),
    "{asset: ./assets_out/cup/asset.glb, lod: 1}": ("single file",),
    "{asset: cup, copies: 3}": ("copies",),
    "{asset: cup, copies: [{}, {position: 1}]}": ("copy 2", "position is 1"),
    "{asset: cup, copies: {count: [1, 0, 1], step: [1, 1, 1]}}": ("count is [1, 0, 1]",),
    "{asset: cup, copies: {count: [999, 999, 1], step: [1, 1, 1]}}": ("998,001 copies",),
    "{asset: cup, copies: {count: [2, 1, 1]}}": ("both count",),
    "cup": ("entry 1:", "- asset: NAME"),
    "{position: [0, 0, 0]}": ("entry 1:", "names no asset"),
}


@pytest.mark.parametrize(("entry", "said"), WRONG.items())
def test_a_wrong_entry_is_one_sentence(tmp_path: Path, assets: Path, entry: str, said: tuple[str, ...]) -> None:
    scene = tmp_path / "room.yaml"
    scene.write_text(f"- {entry}\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_scene(scene, assets)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{scene}, entry 1")
    assert all(words in str(error.value) for words in said), str(error.value)


def test_all_wrong_entries_are_told_at_once(tmp_path: Path, assets: Path) -> None:
    scene = tmp_path / "room.yaml"
    scene.write_text("".join(f"- {entry}\n" for entry in ("{asset: cup}", *WRONG)), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_scene(scene, assets)
    assert len(str(error.value).splitlines()) == len(WRONG) and "entry 1 " not in str(error.value)


def test_the_command(tmp_path: Path, assets: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "room.yaml").write_text("- {asset: cup, copies: [{position: [1, 0, 0]}]}", encoding="utf-8")
    assert main(["scene", "scene=room.yaml", "out=rooms"]) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "rooms" / "room.glb").exists() and "cup: 2 copies" in said and "24 triangles" in said
    assert (
        main(["scene", "scene=room.yaml", "out=rooms/other.glb"]) == 0 and (tmp_path / "rooms" / "other.glb").exists()
    )
    assert main(["scene"]) == main(["scene", "room.yaml"]) == main(["scene", "scene=a", "scene=b"]) == 2
    assert main(["scene", "scene=none.yaml"]) == 1 and "no scene file none.yaml" in capsys.readouterr().err
    before = (assets / "cup" / "asset.glb").read_bytes()
    assert main(["scene", "scene=room.yaml", "out=assets_out/cup/asset.glb"]) == 1
    assert (assets / "cup" / "asset.glb").read_bytes() == before and "another out=" in capsys.readouterr().err
    for text, words in (("- {asset: [", "line 1"), ("asset: cup", "a list of assets"), ("", "a list of assets")):
        (tmp_path / "room.yaml").write_text(text, encoding="utf-8")
        assert main(["scene", "scene=room.yaml"]) == 1 and words in capsys.readouterr().err
    for data in (b"glTF" + bytes(30), b"nothing", before[:-40]):
        (tmp_path / "bad.glb").write_bytes(data)
        (tmp_path / "room.yaml").write_text("- asset: bad.glb", encoding="utf-8")
        assert main(["scene", "scene=room.yaml"]) == 1 and "entry 1 (bad.glb): " in capsys.readouterr().err


def write_usd_box(path: Path, size: float) -> None:
    """A USDZ with a box that stands on its base's centre, as the exporter's files are made."""
    from pxr import Sdf, Usd, UsdGeom, UsdShade, UsdUtils

    layer = path.with_suffix(".usdc")
    stage = Usd.Stage.CreateNew(str(layer))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, "/asset").GetPrim())
    box = UsdGeom.Cube.Define(stage, "/asset/object")
    box.CreateSizeAttr(size)
    box.CreateExtentAttr([(-size / 2,) * 3, (size / 2,) * 3])
    box.AddTranslateOp().Set((0, size / 2, 0))
    Image.new("RGB", (4, 4), (9, 9, 9)).save(path.with_name("colour.png"))
    texture = UsdShade.Shader.Define(stage, "/asset/material/colour")
    UsdShade.Material.Define(stage, "/asset/material")
    texture.CreateIdAttr("UsdUVTexture")
    texture.CreateInput("file", Sdf.ValueTypeNames.Asset).Set("./colour.png")
    stage.GetRootLayer().Save()
    assert UsdUtils.CreateNewARKitUsdzPackage(Sdf.AssetPath(str(layer)), str(path))
    layer.unlink()


def test_the_same_scene_as_usdz(tmp_path: Path, assets: Path) -> None:
    write_usd_box(assets / "cup" / "asset.usdz", 1.0)
    from pxr import Usd, UsdGeom

    text = "- {asset: cup, size_m: 0.5, turn_deg: 90, position: [1, 2, 3], copies: [{position: [0, 0, 0]}]}"
    report, *_ = make(tmp_path, assets, text)
    assert report.usdz == tmp_path / "My Room.usdz" and report.no_usdz == ""
    stage = Usd.Stage.Open(str(report.usdz))
    root = stage.GetDefaultPrim()
    assert [p.GetName() for p in root.GetChildren()] == ["cup_1", "cup_2"]
    assert all(p.IsInstance() for p in root.GetChildren()) and len(stage.GetPrototypes()) == 1
    box = UsdGeom.BBoxCache(0, ["default"]).ComputeWorldBound(root.GetChildren()[0]).ComputeAlignedRange()
    texture = Usd.PrimRange(root.GetChildren()[1], Usd.TraverseInstanceProxies())
    files = [p.GetAttribute("inputs:file").Get() for p in texture if p.GetAttribute("inputs:file")]
    assert len(files) == 1 and files[0].resolvedPath, "the texture came along"
    assert [*box.GetMin(), *box.GetMax()] == pytest.approx([0.75, 2, 2.75, 1.25, 2.5, 3.25])
    assert usd_faults(report.usdz, stage) == []
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1

    report, *_ = make(tmp_path, assets, "[{asset: cup}, {asset: Oak table}]")
    assert report.usdz is None and "entry 2 (Oak table) has no asset.usdz" in report.no_usdz
    assert not (tmp_path / "My Room.usdz").exists(), "the USDZ of an earlier scene would not match"


def test_the_khronos_validator_finds_nothing(tmp_path: Path, assets: Path) -> None:
    write_parts(tmp_path / "robot.glb")
    text = "[{asset: cup, turn_deg: [10, 20, 30], copies: [{scale: 0.3}]}, {asset: robot.glb}, {asset: Oak table}]"
    report, *_ = make(tmp_path, assets, text)
    assert issues_of(report.path) == []
