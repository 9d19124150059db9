"""The same scene as USDZ, of the assets' own USDZ files; copies of an asset are instances of one prototype."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float64

USDZ_NAME = "asset.usdz"


def why_no_usdz(glbs: Mapping[str, Path]) -> str:
    """Why the scene cannot be written as USDZ too, or "" where it can. glbs: the assets' GLBs by their labels."""
    missing = next((label for label, glb in glbs.items() if not (glb.parent / USDZ_NAME).is_file()), None)
    return f"{missing} has no {USDZ_NAME} beside its GLB" if missing else ""


def write_usdz(path: Path, name: str, copies: Sequence[tuple[str, Path, Float64[np.ndarray, "4 4"]]]) -> None:
    """Write a USDZ package by Apple's rules for ARKit.

    name: of the scene's root; copies: each one's name, its asset's GLB (beside which lies the USDZ) and
    scene_from_asset.
    """
    from pxr import Sdf, UsdUtils

    with TemporaryDirectory() as folder:
        layers = {glb: _unpacked(glb.parent / USDZ_NAME, Path(folder) / str(k)) for k, glb in _numbered(copies)}
        root = Path(folder) / "scene.usdc"
        _write_root(root, name, [(copy, layers[glb], matrix) for copy, glb, matrix in copies])
        fresh = path.with_name(f".{path.stem}.new.usdz")
        # OpenUSD warns of textures that it has packed already; what is lost in truth is found below.
        quiet = UsdUtils.CoalescingDiagnosticDelegate()
        packed = UsdUtils.CreateNewARKitUsdzPackage(Sdf.AssetPath(str(root)), str(fresh), f"{name}.usdc")
        del quiet
        if not packed or _lost_textures(fresh):
            raise OSError(
                f"OpenUSD could not write {path}: {', '.join(_lost_textures(fresh)) or 'no package was made'}"
            )
        fresh.replace(path)


def _numbered(copies: Sequence[tuple[str, Path, Any]]) -> list[tuple[int, Path]]:
    return list(enumerate(dict.fromkeys(glb for _, glb, _ in copies)))


def _unpacked(package: Path, folder: Path) -> Path:
    """The root layer of a package laid out as files: textures within a package in a package get lost in flattening."""
    with zipfile.ZipFile(package) as files:
        files.extractall(folder)
        return folder / files.namelist()[0]  # by the USDZ specification the first file is the root


def _lost_textures(package: Path) -> list[str]:
    """Textures that a package names and does not hold."""
    from pxr import Usd

    if not package.exists():
        return []
    stage = Usd.Stage.Open(str(package))  # held: prims of a stage that is let go of are no more
    prims = Usd.PrimRange(stage.GetPseudoRoot(), Usd.TraverseInstanceProxies())
    files = [prim.GetAttribute("inputs:file").Get() for prim in prims if prim.GetAttribute("inputs:file")]
    return [file.path for file in files if not file.resolvedPath]


def _write_root(path: Path, name: str, copies: Sequence[tuple[str, Path, Float64[np.ndarray, "4 4"]]]) -> None:
    from pxr import Gf, Kind, Usd, UsdGeom

    stage = Usd.Stage.CreateNew(str(path.with_suffix(".usda")))  # a file, as references are found from its folder
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, f"/{name}")
    Usd.ModelAPI(root.GetPrim()).SetKind(Kind.Tokens.assembly)
    stage.SetDefaultPrim(root.GetPrim())
    for copy, layer, scene_from_asset in copies:
        placed = UsdGeom.Xform.Define(stage, f"/{name}/{copy}")
        placed.GetPrim().GetReferences().AddReference(f"./{layer.relative_to(path.parent).as_posix()}")
        placed.GetPrim().SetInstanceable(True)
        placed.AddTransformOp().Set(Gf.Matrix4d(scene_from_asset.T.tolist()))  # USD multiplies rows from the left
    # Flattened by hand, as packaging would complain of the references; instances stay instances.
    stage.Flatten().Export(str(path))
