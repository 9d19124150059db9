"""`recon scene`: several assets in one GLB (and USDZ), placed as a YAML file says."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from rich.console import Console

from recon import __version__
from recon.errors import UserError
from recon.scene.join import Joined, Source, parent_from_node, read_glb
from recon.scene.read import Item, Placement, read_scene
from recon.scene.usd import why_no_usdz, write_usdz


@dataclass(frozen=True)
class SceneReport:
    """What a finished scene is made of."""

    path: Path
    n_copies: dict[str, int]
    """By the asset's name."""
    n_triangles: int
    """Of all copies together: what an engine draws."""
    n_bytes: int
    low_m: Float64[np.ndarray, "3"]
    high_m: Float64[np.ndarray, "3"]
    usdz: Path | None
    no_usdz: str
    """Why there is no USDZ; empty where there is."""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Copy:
    """One copy of an asset in the scene."""

    name: str
    """Unique, of characters that every engine takes."""
    item: Item
    source: Source
    node: dict[str, Any]
    """Its translation, rotation and scale in glTF's words."""

    @property
    def scene_from_asset(self) -> Float64[np.ndarray, "4 4"]:
        return parent_from_node(self.node)


def scene_path(scene: Path, out: str) -> Path:
    """Where a scene's GLB goes: the file that `out` names, or into that folder, or beside the scene's YAML."""
    if not out:
        return scene.with_suffix(".glb")
    given = Path(out).expanduser()
    return given if given.suffix.lower() == ".glb" and not given.is_dir() else given / f"{scene.stem}.glb"


def make_scene(scene: Path, assets: Path, path: Path) -> SceneReport:
    """Place what a YAML file lists and write it as one GLB, and as one USDZ where all assets have theirs.

    assets: the folder in which assets' names are looked for. Raises UserError for a wrong entry or file.
    """
    items = read_scene(scene, assets)
    if path.resolve() in {item.glb for item in items}:
        raise UserError(f"{path} is one of the scene's own assets: set another out=.")
    copies = _copies(items)
    joined = Joined(_empty_tree(scene.stem, copies))
    for copy in copies:
        joined.add(copy.source)
        joined.place(copy.source, copy.name, copy.node)
    content = joined.to_bytes()
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        fresh.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): set another out=.") from error
    usdz, no_usdz = _usdz(path, copies)
    corners = np.concatenate([_moved_box(copy) for copy in copies])
    return SceneReport(
        path=path,
        n_copies=dict(Counter(_plain(copy.item.name) for copy in copies)),
        n_triangles=sum(copy.source.n_triangles for copy in copies),
        n_bytes=len(content),
        low_m=corners.min(0),
        high_m=corners.max(0),
        usdz=usdz,
        no_usdz=no_usdz,
        warnings=_unknown_sizes(copies),
    )


def print_scene(console: Console, report: SceneReport) -> None:
    """What a finished scene leaves on the screen."""
    size = " x ".join(f"{x:.2f}" for x in report.high_m - report.low_m)
    lines = [f"warning: {sentence}" for sentence in report.warnings]
    lines += [f"{name}: {n} {'copy' if n == 1 else 'copies'}" for name, n in report.n_copies.items()]
    lines.append(f"{report.n_triangles:,} triangles drawn, {report.n_bytes / 1e6:.1f} MB, {size} m")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    usdz = f"USDZ: {report.usdz}" if report.usdz else f"no USDZ: {report.no_usdz}"
    console.print(usdz, markup=False, highlight=False, soft_wrap=True)
    console.print(f"scene: {report.path}", style="bold green", markup=False, highlight=False, soft_wrap=True)


def _copies(items: tuple[Item, ...]) -> list[Copy]:
    """Every copy of every entry, each file read once."""
    sources: dict[Path, Source] = {}
    names = Counter[str]()
    copies = []
    for item in items:
        try:
            source = sources.get(item.glb) or sources.setdefault(item.glb, read_glb(item.glb))
        except UserError as error:
            raise UserError(f"{item.label}: {error}") from error
        for placement in item.placements:
            names[_plain(item.name)] += 1
            name = f"{_plain(item.name)}_{names[_plain(item.name)]}"
            copies.append(Copy(name, item, source, _node(placement, source)))
    return copies


def _usdz(path: Path, copies: list[Copy]) -> tuple[Path | None, str]:
    """Write the scene as USDZ beside its GLB where that can be done; returns its path, or why there is none."""
    usdz = path.with_suffix(".usdz")
    no_usdz = why_no_usdz({copy.item.label: copy.item.glb for copy in copies})
    if no_usdz:
        usdz.unlink(missing_ok=True)  # of an earlier scene
        return None, no_usdz
    write_usdz(usdz, _identifier(path.stem), [(_identifier(c.name), c.item.glb, c.scene_from_asset) for c in copies])
    return usdz, ""


def _plain(name: str) -> str:
    """A name that every engine takes: a-z, 0-9, _ and -."""
    return re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_") or "asset"


def _identifier(name: str) -> str:
    """A name as USD takes it: no hyphen, no digit in front."""
    return re.sub(r"^(?=[0-9])", "_", _plain(name).replace("-", "_"))


def _empty_tree(name: str, copies: list[Copy]) -> dict[str, Any]:
    """A glTF tree without nodes that says where each asset came from, by its own file's words."""
    found = {_plain(copy.item.name): copy.source.extras for copy in copies}
    extras = {"generator_version": __version__, "unit": "metre", "assets": found}
    asset = {"version": "2.0", "generator": f"recon {__version__}", "extras": extras}
    return {"asset": asset, "scene": 0, "scenes": [{"name": _plain(name), "nodes": []}], "nodes": []}


def _unknown_sizes(copies: list[Copy]) -> list[str]:
    """A sentence for each entry whose true size nobody knows and nobody gave."""
    unknown = {copy.item.label: copy for copy in copies if copy.source.extras.get("unit") == "longest side"}
    return [
        f"{label}: nothing tells how large it is, so its longest side is taken for 1 m; give size_m."
        for label, copy in unknown.items()
        if any(p.size_m is None for p in copy.item.placements)
    ]


def _node(placement: Placement, source: Source) -> dict[str, Any]:
    """A copy's place in glTF's words; what is as usual is left out."""
    from scipy.spatial.transform import Rotation

    scale = placement.scale if placement.size_m is None else placement.size_m / source.longest_side
    rotation = Rotation.from_euler("xyz", placement.turn_deg, degrees=True)  # lower case: about the scene's own axes
    node: dict[str, Any] = {}
    if any(placement.position_m):
        node["translation"] = list(placement.position_m)
    if any(placement.turn_deg):
        node["rotation"] = rotation.as_quat().tolist()
    if scale != 1:
        node["scale"] = [scale] * 3
    return node


def _moved_box(copy: Copy) -> Float64[np.ndarray, "8 3"]:
    """The corners of a copy's bounding box, in the scene."""
    ends = np.stack([copy.source.low, copy.source.high])
    corners = np.array([[ends[i >> k & 1, k] for k in range(3)] for i in range(8)])
    return corners @ copy.scene_from_asset[:3, :3].T + copy.scene_from_asset[:3, 3]
