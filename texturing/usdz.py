"""asset.usdz for AR Quick Look: one mesh, one UsdPreviewSurface material, metres, +Y up."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from texturing.placed import PLAIN_ROUGHNESS, Placed

MAX_TRIANGLES = 100_000
"""What AR Quick Look draws smoothly on every phone that has it."""
MAX_TEXTURE_PX = 2048


def write_usdz(path: Path, model: Placed, provenance: dict[str, Any]) -> Path:
    """Write a textured mesh as a USDZ package that passes Apple's rules for ARKit; returns the path.

    provenance: plain facts for the layer's custom data.
    """
    from pxr import Sdf

    suffix = model.maps.image_format.suffix
    images = {name: f"textures/{name}.{suffix}" for name in model.maps.by_name()}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "textures").mkdir()
        for name, image in model.maps.by_name().items():
            (root / images[name]).write_bytes(image)
        layer = f"{path.stem}.usdc"  # it must be the package's first file
        _write_layer(root / layer, model, images, provenance)
        package = Sdf.ZipFileWriter.CreateNew(str(path))
        for name in (layer, *images.values()):
            package.AddFile(str(root / name), name)
        package.Save()
    return path


def _write_layer(path: Path, model: Placed, textures: dict[str, str], provenance: dict[str, Any]) -> None:
    from pxr import Kind, Usd, UsdGeom, UsdShade

    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, "/asset")
    Usd.ModelAPI(root.GetPrim()).SetKind(Kind.Tokens.component)
    stage.SetDefaultPrim(root.GetPrim())
    mesh = _define_mesh(stage, model)
    material = _define_material(stage, textures)
    UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)
    stage.GetRootLayer().customLayerData = provenance
    stage.GetRootLayer().Save()


def _define_mesh(stage: Any, model: Placed) -> Any:
    from pxr import Sdf, UsdGeom, Vt

    mesh = UsdGeom.Mesh.Define(stage, "/asset/object")
    points = Vt.Vec3fArray.FromNumpy(model.vertices.astype(np.float32))
    mesh.CreatePointsAttr(points)
    mesh.CreateExtentAttr(UsdGeom.PointBased.ComputeExtent(points))
    mesh.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(model.normals.astype(np.float32)))
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(model.uv_mesh.faces), 3, np.int32)))
    mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(model.uv_mesh.faces.astype(np.int32).ravel()))
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    st = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex)
    st.Set(Vt.Vec2fArray.FromNumpy(model.uv_mesh.uv.astype(np.float32)))
    return mesh


def _define_material(stage: Any, textures: dict[str, str]) -> Any:
    """UsdPreviewSurface fed by those maps that there are."""
    from pxr import Sdf, UsdShade

    types = Sdf.ValueTypeNames
    material = UsdShade.Material.Define(stage, "/asset/photographed")
    surface = _define_shader(stage, "surface", "UsdPreviewSurface")
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    reader = _define_shader(stage, "st_reader", "UsdPrimvarReader_float2")
    reader.CreateInput("varname", types.String).Set("st")
    st = reader.CreateOutput("result", types.Float2)

    def channel(name: str, of: str, kind: Any, colour_space: str) -> Any:
        texture = UsdShade.Shader.Get(stage, f"/asset/photographed/{name}")
        if not texture:
            texture = _define_shader(stage, name, "UsdUVTexture")
            texture.CreateInput("file", types.Asset).Set(f"./{textures[name]}")
            texture.CreateInput("sourceColorSpace", types.Token).Set(colour_space)
            texture.CreateInput("st", types.Float2).ConnectToSource(st)
            for axis in ("wrapS", "wrapT"):
                texture.CreateInput(axis, types.Token).Set("clamp")
            if name == "normal":  # 0..1 to -1..1
                texture.CreateInput("scale", types.Float4).Set((2, 2, 2, 1))
                texture.CreateInput("bias", types.Float4).Set((-1, -1, -1, 0))
        return texture.CreateOutput(of, kind)

    surface.CreateInput("diffuseColor", types.Color3f).ConnectToSource(
        channel("base_colour", "rgb", types.Float3, "sRGB")
    )
    if "normal" in textures:
        surface.CreateInput("normal", types.Normal3f).ConnectToSource(channel("normal", "rgb", types.Float3, "raw"))
    if "occlusion_roughness_metallic" in textures:
        for name, of in (("occlusion", "r"), ("roughness", "g"), ("metallic", "b")):
            packed = channel("occlusion_roughness_metallic", of, types.Float, "raw")
            surface.CreateInput(name, types.Float).ConnectToSource(packed)
    else:
        surface.CreateInput("roughness", types.Float).Set(PLAIN_ROUGHNESS)
        surface.CreateInput("metallic", types.Float).Set(0.0)
    return material


def _define_shader(stage: Any, name: str, kind: str) -> Any:
    from pxr import UsdShade

    shader = UsdShade.Shader.Define(stage, f"/asset/photographed/{name}")
    shader.CreateIdAttr(kind)
    return shader
