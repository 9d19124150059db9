"""report.json: what went in, what every stage did, and what came out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from recon import __version__
from recon.data import Asset, Capture, PosedCapture
from recon.stage import content_key

STAGE_FIELDS = ("seconds", "cpu_seconds", "peak_memory_mb", "reused", "folder", "notes", "warnings")
UNKNOWN_SCALE = "The photos do not tell how large the object is, so the asset has unit size: its longest side is 1."


def jsonable(value: Any) -> Any:
    """Any value as strict JSON: numpy by its plain value, NaN and infinity as null, whatever else as text."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {k.name if isinstance(k, Enum) else str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def place_key(source: Path) -> str:
    """What tells whether two captures lie at the same place, without saying where: a hash of the path."""
    return hashlib.sha256(str(source.resolve()).encode()).hexdigest()


def without_places(value: Any) -> Any:
    """Options with only the last part of each path: a report is passed on, and where its files lay is private."""
    if isinstance(value, Mapping):
        return {k: without_places(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(v) for v in value]
    return Path(value).name if isinstance(value, str) and "/" in value else value


def build_report(
    name: str,
    source: Path,
    config: Any,
    nouns: tuple[Capture, PosedCapture, Asset],
    stats: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The report of one finished run as JSON-able data.

    config: any dataclass with a `preset`; stats: figures by noun; records: stage.json by stage, in order.
    """
    capture, posed, asset = nouns
    left_out = [*capture.left_out, *posed.left_out]
    stages: dict[str, dict[str, Any]] = {s: {k: record[k] for k in STAGE_FIELDS} for s, record in records.items()}
    made = [s for s in stages.values() if not s["reused"]]
    report: dict[str, Any] = {
        "recon": __version__,
        "capture": name,
        "source": source.name,
        "source_place_sha256": place_key(source),
        "source_sha256": content_key(source),
        "preset": config.preset,
        "photos": {
            "given": len(capture.photos) + len(capture.left_out),
            "used": len(posed.views),
            "left_out": left_out,
        },
        "asset": {
            "triangles": len(asset.uv_mesh.faces),
            "texture_size_px": asset.base_colour.shape[0],
            "up_source": posed.up_source,
            "scale_source": posed.scale_source,
        },
        "backend": stages.get("fit_surface", {}).get("notes", {}).get("engine", "cpu"),
        "totals": {
            "seconds": round(sum(s["seconds"] for s in stages.values()), 1),
            "cpu_seconds": round(sum(s["cpu_seconds"] for s in stages.values()), 1),
            "seconds_this_time": round(sum(s["seconds"] for s in made), 1),
            "peak_memory_mb": max((s["peak_memory_mb"] for s in stages.values()), default=0),
        },
        "warnings": [w for s in stages.values() for w in s["warnings"]],
        "stages": stages,
        "stats": stats,
        "config": without_places(jsonable(config)),
    }
    if posed.scale_source == "unknown" and stats.get("exported", {}).get("unit") != "metre":
        report["asset"] |= {"size": "unit-size", "size_note": UNKNOWN_SCALE}
    return {k: jsonable(v) for k, v in report.items()}
