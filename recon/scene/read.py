"""A scene as its YAML file states it: which assets stand where, how turned, how large and how often.

Every wrong entry is told in one sentence with its number and name; all of them at once, so that one look mends a file.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon.errors import UserError

ITEM_KEYS = ("asset", "position", "turn_deg", "size_m", "scale", "copies", "lod")
PLACE_KEYS = ("position", "turn_deg", "size_m", "scale")
GRID_KEYS = ("count", "step")
LOD_FILES = ("asset.glb", "asset_lod1.glb", "asset_lod2.glb")
MOST_COPIES = 10_000
"""More copies of one entry than this are taken for a slip of the pen."""

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Placement:
    """Where one copy stands: the centre of its base at a point, turned about it."""

    position_m: Vector = (0.0, 0.0, 0.0)
    """x to the right, y up, z towards the viewer."""
    turn_deg: Vector = (0.0, 0.0, 0.0)
    """About +X, then +Y, then +Z, each anticlockwise seen from the axis's end."""
    size_m: float | None = None
    """Length of the longest side; None: `scale` counts."""
    scale: float = 1.0
    """Times the asset's own size."""


@dataclass(frozen=True)
class Item:
    """One entry of a scene: an asset and its copies."""

    label: str
    """For messages: `entry 2 (stool)`."""
    name: str
    """Of the asset: its folder's, or its file's without extension."""
    glb: Path
    placements: tuple[Placement, ...]


class WrongEntry(Exception):
    """What is wrong with an entry, without saying which."""


def read_scene(path: Path, assets: Path) -> tuple[Item, ...]:
    """The entries of a scene file. assets: the folder in which an asset's bare name is looked for.

    Raises UserError with a sentence for each wrong entry.
    """
    items, wrong = [], []
    for number, entry in enumerate(_entries(path), 1):
        name = entry.get("asset") if isinstance(entry, dict) else None
        label = f"entry {number} ({name})" if isinstance(name, str) and name else f"entry {number}"
        try:
            items.append(_item(entry, label, path.parent, assets))
        except WrongEntry as error:
            wrong.append(f"{path}, {label}: {error}.")
    if wrong:
        raise UserError("\n".join(wrong))
    return tuple(items)


def _entries(path: Path) -> list[Any]:
    import yaml

    if not path.is_file():
        raise UserError(f"There is no scene file {path}: scene= names a YAML file with a list of assets.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: this is not YAML that can be read ({error.problem}).") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not a text file in YAML.") from error
    if not isinstance(content, list) or not content:
        raise UserError(f"{path} must hold a list of assets, each beginning with `- asset: NAME`.")
    return content


def _item(entry: Any, label: str, folder: Path, assets: Path) -> Item:
    if not isinstance(entry, dict):
        raise WrongEntry("it is not of the form `- asset: NAME` with options below")
    _check_keys(entry, ITEM_KEYS)
    glb, name = _find_asset(entry.get("asset"), entry.get("lod", 0), folder, assets)
    first = _placement(entry, Placement())
    copies = entry.get("copies", [])
    if isinstance(copies, dict):
        return Item(label, name, glb, _grid(copies, first))
    if not isinstance(copies, list):
        raise WrongEntry("copies is neither a list of placements nor a grid {count: [x, y, z], step: [x, y, z]}")
    placements = [first]
    for number, copy in enumerate(copies, 1):
        try:
            if not isinstance(copy, dict):
                raise WrongEntry("it is not of the form {position: [x, y, z], turn_deg: ANGLE}")
            _check_keys(copy, PLACE_KEYS)
            placements.append(_placement(copy, first))
        except WrongEntry as error:
            raise WrongEntry(f"copy {number}: {error}") from None
    return Item(label, name, glb, tuple(placements))


def _check_keys(entry: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}" if near else f"there are {', '.join(known)}"
            raise WrongEntry(f"there is no option {key}; {hint}")


def _find_asset(asset: Any, lod: Any, folder: Path, assets: Path) -> tuple[Path, str]:
    """The GLB that an entry means, and the asset's name; a path is taken from the scene file's folder."""
    if not isinstance(asset, str) or not asset.strip():
        raise WrongEntry("it names no asset: begin it with `- asset: NAME`, a folder of assets_out or a path")
    if isinstance(lod, bool) or not isinstance(lod, int) or not 0 <= lod < len(LOD_FILES):
        raise WrongEntry(f"lod is {lod}, but there are 0 (the finest), 1 and 2")
    places = [folder / Path(asset).expanduser(), assets / asset]
    found = next((p for p in places if p.is_dir() or p.is_file()), None)
    if found is None:
        known = [p.parent.name for p in assets.glob("*/asset.glb")]
        near = difflib.get_close_matches(asset, known, n=1)
        hint = f"did you mean {near[0]}" if near else "run `recon capture=...` first, or give a path"
        raise WrongEntry(f"there is no asset {asset}, neither {places[0]} nor {places[1]}; {hint}")
    if found.is_file():
        if lod:
            raise WrongEntry(f"{asset} is a single file, so lod={lod} cannot be chosen: name its folder instead")
        return found.resolve(), found.stem if found.stem != "asset" else found.resolve().parent.name
    glb = found / LOD_FILES[lod]
    if not glb.is_file():
        reason = "run recon on its capture again" if (found / LOD_FILES[0]).is_file() else "it holds no asset"
        raise WrongEntry(f"{found} has no {glb.name}: {reason}")
    return glb.resolve(), found.resolve().name


def _placement(entry: Mapping[str, Any], otherwise: Placement) -> Placement:
    """A placement, with what it leaves out taken from another one."""
    if "size_m" in entry and "scale" in entry:
        raise WrongEntry("size_m and scale contradict each other: give one of them")
    size_m, scale = otherwise.size_m, otherwise.scale
    if "size_m" in entry:
        size_m, scale = _positive(entry["size_m"], "size_m", "the longest side in metres"), 1.0
    if "scale" in entry:
        size_m, scale = None, _positive(entry["scale"], "scale", "times the asset's own size")
    position, turn = otherwise.position_m, otherwise.turn_deg
    if "position" in entry:
        position = _vector(entry["position"], "position", "three numbers, [x, y, z] in metres", _number)
    if "turn_deg" in entry:
        angle = _number(entry["turn_deg"])
        meant = "one angle about the vertical, or three about [x, y, z], in degrees"
        turn = (0.0, angle, 0.0) if angle is not None else _vector(entry["turn_deg"], "turn_deg", meant, _number)
    return Placement(position, turn, size_m, scale)


def _grid(grid: Mapping[str, Any], first: Placement) -> tuple[Placement, ...]:
    """Copies in rows along x, y and z, the first one at the entry's own position."""
    _check_keys(grid, GRID_KEYS)
    if set(grid) != set(GRID_KEYS):
        raise WrongEntry("a grid of copies needs both count: [x, y, z] and step: [x, y, z]")
    counts = _vector(grid["count"], "count", "three whole numbers of at least 1, [x, y, z]", _count)
    step = _vector(grid["step"], "step", "three numbers, [x, y, z] in metres", _number)
    if math.prod(counts) > MOST_COPIES:
        raise WrongEntry(f"count asks for {math.prod(counts):,.0f} copies, and {MOST_COPIES:,} is the most")
    placements = []
    for place in itertools.product(*(range(int(n)) for n in counts)):
        x, y, z = (at + n * by for at, n, by in zip(first.position_m, place, step, strict=True))
        placements.append(Placement((x, y, z), first.turn_deg, first.size_m, first.scale))
    return tuple(placements)


def _number(value: Any) -> float | None:
    """A finite number; None for anything else (YAML's yes and no are numbers to Python)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _count(value: Any) -> float | None:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None


def _positive(value: Any, key: str, meaning: str) -> float:
    number = _number(value)
    if number is None or number <= 0:
        raise WrongEntry(f"{key} is {value}, but it must be a number above 0 ({meaning})")
    return number


def _vector(value: Any, key: str, meant: str, read: Callable[[Any], float | None]) -> Vector:
    numbers = [read(v) for v in value] if isinstance(value, list) else []
    if len(numbers) != 3 or None in numbers:
        raise WrongEntry(f"{key} is {value}, but it must be {meant}")
    x, y, z = (float(n) for n in numbers if n is not None)
    return x, y, z
