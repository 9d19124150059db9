"""`recon scene`: several assets in one GLB, placed as a YAML file says."""

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
from recon.scene.join import Joined, Source, read_glb
from recon.scene.read import Item, Placement, read_scene


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
    warnings: list[str] = field(default_factory=list)


def scene_path(scene: Path, out: str) -> Path:
    """Where a scene's GLB goes: the file that `out` names, or into that folder, or beside the scene's YAML."""
    if not out:
        return scene.with_suffix(".glb")
    given = Path(out).expanduser()
    return given if given.suffix.lower() == ".glb" and not given.is_dir() else given / f"{scene.stem}.glb"


def make_scene(scene: Path, assets: Path, path: Path) -> SceneReport:
    """Place what a YAML file lists and write it as one GLB.

    assets: the folder in which assets' names are looked for. Raises UserError for a wrong entry or file.
    """
    items = read_scene(scene, assets)
    if path.resolve() in {item.glb for item in items}:
        raise UserError(f"{path} is one of the scene's own assets: set another out=.")
    sources = {glb: _read(item) for glb, item in {item.glb: item for item in reversed(items)}.items()}
    tree = {
        "asset": {"version": "2.0", "generator": f"recon {__version__}", "extras": _provenance(items, sources)},
        "scene": 0,
        "scenes": [{"name": _plain(scene.stem), "nodes": []}],
        "nodes": [],
    }
    joined, names, corners, n_triangles = Joined(tree), Counter[str](), [], 0
    for item in items:
        source = sources[item.glb]
        joined.add(source)
        for placement in item.placements:
            node, scale, rotation = _node(placement, source)
            names[_plain(item.name)] += 1
            number = names[_plain(item.name)]
            joined.place(source, f"{_plain(item.name)}_{number}", node)
            corners.append(scale * _box(source) @ rotation.T + placement.position_m)
            n_triangles += source.n_triangles
    content = joined.to_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.replace(path)
    everything = np.concatenate(corners)
    warnings = _unknown_sizes(items, sources)
    return SceneReport(path, dict(names), n_triangles, len(content), everything.min(0), everything.max(0), warnings)


def print_scene(console: Console, report: SceneReport) -> None:
    """What a finished scene leaves on the screen."""
    size = " x ".join(f"{x:.2f}" for x in report.high_m - report.low_m)
    lines = [f"warning: {sentence}" for sentence in report.warnings]
    lines += [f"{name}: {n} {'copy' if n == 1 else 'copies'}" for name, n in report.n_copies.items()]
    lines.append(f"{report.n_triangles:,} triangles drawn, {report.n_bytes / 1e6:.1f} MB, {size} m")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"scene: {report.path}", style="bold green", markup=False, highlight=False, soft_wrap=True)


def _read(item: Item) -> Source:
    try:
        return read_glb(item.glb)
    except UserError as error:
        raise UserError(f"{item.label}: {error}") from error


def _plain(name: str) -> str:
    """A name that every engine takes: a-z, 0-9, _ and -."""
    return re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_") or "asset"


def _provenance(items: tuple[Item, ...], sources: dict[Path, Source]) -> dict[str, Any]:
    """What each asset's own file says of where it came from."""
    found = {_plain(item.name): sources[item.glb].extras for item in items}
    return {"generator_version": __version__, "unit": "metre", "assets": found}


def _unknown_sizes(items: tuple[Item, ...], sources: dict[Path, Source]) -> list[str]:
    """A sentence for each entry whose true size nobody knows and nobody gave."""
    return [
        f"{item.label}: nothing tells how large it is, so its longest side is taken for 1 m; give size_m."
        for item in items
        if sources[item.glb].extras.get("unit") == "longest side" and any(p.size_m is None for p in item.placements)
    ]


def _node(placement: Placement, source: Source) -> tuple[dict[str, Any], float, Float64[np.ndarray, "3 3"]]:
    """A copy's node in glTF's words, its scale and its rotation."""
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
    return node, scale, rotation.as_matrix()


def _box(source: Source) -> Float64[np.ndarray, "8 3"]:
    ends = np.stack([source.low, source.high])
    return np.array([[ends[i >> k & 1, k] for k in range(3)] for i in range(8)])
