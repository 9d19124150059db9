"""report.html: one self-contained page that shows an asset, how it came about and what to know about it.

Python gathers the data and draws the pictures; the files in `page/` lay them out. All text goes in as JSON and is put
on the page as text, so nothing in a name or a sentence can act as markup.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from recon.coverage import CoverageReport, capture_advice, coverage_report, exposure_report, overlap_report
from recon.data import Asset, Capture, ObjectRegion, PosedCapture, PriorCloud
from recon.progress import LABELS
from recon.report import pictures
from recon.report.cloud import TRUST, Trust, cloud_sentence, trust_shares
from recon.report.cover import GRADES, Cover, Grade, surface_cover
from recon.transforms import Similarity

PAGE_NAME = "report.html"
MODELS = ("asset.glb", "asset_lod1.glb", "asset_lod2.glb")
MAX_MODEL_MB = 10.0
"""The viewer shows the finest model below this, so that the page opens quickly; all have the same charts."""


@dataclass(frozen=True)
class Made:
    """What the page is about."""

    capture: Capture
    posed: PosedCapture
    region: ObjectRegion
    prior: PriorCloud
    asset: Asset
    asset_from_world: Similarity
    folder: Path
    """Holds asset.glb and whatever else the run left; the page links to these files."""


def write_page(path: Path, made: Made, report: Mapping[str, Any]) -> None:
    """Write the page of a finished run. report: what `build_report` made of it, with its list of `files`."""
    stage = pictures.set_up(made.asset, made.posed, made.asset_from_world)
    cover = surface_cover(made.asset, made.posed.views)
    directions = coverage_report(made.posed)
    model = shown_model(made.folder)
    data = {
        **_words(made, report, model),
        "advice": _advice(made, directions),
        "cover": _cover(stage, cover),
        "directions": _directions(made.posed, directions),
        "turntable": [pictures.jpeg_uri(p) for p in pictures.turntable(stage)],
        "pairs": _pairs(stage, made.posed),
        "masks": _masks(made.region),
        "cloud": _cloud(stage, made, report["stages"].get("estimate_prior", {})),
        "cameras": _cameras(stage),
    }
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(_filled(data, model.read_bytes()), encoding="utf-8")
    fresh.replace(path)


def shown_model(folder: Path) -> Path:
    """The model for the viewer: the finest that is small enough, else the smallest there is."""
    models = [folder / name for name in MODELS if (folder / name).is_file()]
    small = (path for path in models if path.stat().st_size <= MAX_MODEL_MB * 1e6)
    return next(small, models[-1])


def _filled(data: Mapping[str, Any], glb: bytes) -> str:
    """The page with its style, scripts and data within."""
    parts = resources.files("recon.report") / "page"

    def part(name: str) -> str:
        return (parts / name).read_text(encoding="utf-8")

    # Within a script element only "</" and "<!--" could end or hide anything, and JSON reads \u003c as "<".
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return Template(part("report.html")).substitute(
        title=html.escape(str(data["name"])),
        style=part("report.css"),
        script=part("report.js"),
        viewer=part("viewer.min.js"),
        licence=html.escape(part("LICENSE-three.txt")),
        data=text,
        glb=base64.b64encode(glb).decode(),
    )


def _words(made: Made, report: Mapping[str, Any], model: Path) -> dict[str, Any]:
    photos, asset, totals = report["photos"], report["asset"], report["totals"]
    return {
        "name": report["capture"],
        "summary": f"{asset['triangles']:,} triangles and a texture of {asset['texture_size_px']} px, from "
        f"{photos['used']} of {photos['given']} photos, preset {report['preset']}",
        "facts": _facts(report, model.name),
        "warnings": report["warnings"],
        "left_out": photos["left_out"],
        "files": [_file(made.folder / name) for name in report["files"]],
        "stages": [
            {
                "label": LABELS.get(name, name).capitalize(),
                "seconds": record["seconds"],
                "memory_mb": record["peak_memory_mb"],
                "reused": record["reused"],
            }
            for name, record in report["stages"].items()
        ],
        "totals": f"{totals['seconds'] / 60:.1f} minutes in all, {totals['peak_memory_mb'] / 1000:.1f} GB at most; "
        f"{totals['seconds_this_time'] / 60:.1f} minutes of it in this run; stages drawn hollow were reused.",
        "made": f"Made by recon {report['recon']}, engine {report['backend']}.",
    }


def _facts(report: Mapping[str, Any], shown: str) -> list[tuple[str, str]]:
    """Rows (what, finding) about the asset."""
    asset, stats = report["asset"], report["stats"]
    metric = stats["exported"]["unit"] == "metre"
    size = " x ".join(f"{length:.3g}" for length in stats["exported"]["width_height_depth"])
    measured = report["config"]["export"]["longest_side_m"] > 0
    evidence = "the longest side as you measured it" if measured else asset["scale_source"]
    rows = [
        ("Width x height x depth", f"{size} m" if metric else f"{size}, the longest side being 1"),
        ("Scale", f"true, from {evidence}" if metric else "not known: nothing in the photos tells how large it is"),
        ("Upright by", asset["up_source"]),
        ("Mesh", f"{asset['triangles']:,} triangles" + (", closed" if stats["mesh"].get("watertight") else "")),
        ("Texture", f"{asset['texture_size_px']} x {asset['texture_size_px']} px"),
        ("Camera error", f"{stats['posed']['mean_reprojection_error_px']:.2f} px on average"),
    ]
    if "hull_iou_median" in stats["region"]:
        rows.append(("Masks agree to", f"{stats['region']['hull_iou_median']:.0%}"))
    finish = report["stages"].get("bake_materials", {}).get("notes", {})
    if "finishes" in finish:
        values = "; ".join(
            f"roughness {part['roughness']:.2f}, metal {part['metallic']:.2f} on {part['area_share']:.0%}"
            for part in finish["finishes"]
        )
        rows.append(("Surface", f"{values}: {finish['roughness_and_metallic']}"))
    if report["config"]["export"].get("licence"):
        rows.append(("Licence", report["config"]["export"]["licence"]))
    if shown != MODELS[0]:
        rows.append(("Shown above", f"{shown}, as {MODELS[0]} is too large for a page that opens quickly"))
    return rows


def _file(path: Path) -> dict[str, Any]:
    return {"name": path.name + ("/" if path.is_dir() else ""), "size": None if path.is_dir() else path.stat().st_size}


def _advice(made: Made, directions: CoverageReport) -> list[str]:
    exposure = exposure_report(made.capture, made.posed)
    return capture_advice(made.capture, exposure, overlap_report(made.posed), directions)


def _cover(stage: pictures.Stage, cover: Cover) -> dict[str, Any]:
    return {
        "sentence": cover.sentence(),
        "grades": _legend(GRADES, cover.shares.tolist()),
        "pictures": [{"name": n, "src": pictures.jpeg_uri(p)} for n, p in pictures.cover_pictures(stage, cover)],
        "overlay": pictures.overlay_uri(cover),
    }


def _legend(grades: Sequence[Grade | Trust], shares: list[float]) -> list[dict[str, Any]]:
    shown = zip(grades, shares, strict=True)
    return [{"name": g.name, "colour": "#{:02x}{:02x}{:02x}".format(*g.rgb), "share": s} for g, s in shown]


def _directions(posed: PosedCapture, directions: CoverageReport) -> dict[str, Any]:
    rows = zip(posed.views, directions.azimuth_deg.tolist(), directions.elevation_deg.tolist(), strict=True)
    views = [{"name": v.name, "azimuth_deg": round(a, 1), "elevation_deg": round(e, 1)} for v, a, e in rows]
    return {"views": views, "gaps_deg": directions.gaps_deg()}


def _pairs(stage: pictures.Stage, posed: PosedCapture) -> list[dict[str, Any]]:
    pairs = []
    for view_idx in pictures.spread(stage.views, stage.model.vertices.mean(0), pictures.N_PAIRS).tolist():
        photo, render = pictures.pair(stage, view_idx, posed.image(view_idx))
        addresses = {"photo": pictures.jpeg_uri(photo), "render": pictures.jpeg_uri(render)}
        pairs.append({"name": posed.views[view_idx].name, "view": view_idx, **addresses})
    return pairs


def _masks(region: ObjectRegion) -> str | None:
    sheet = pictures.mask_sheet(region)
    return None if sheet is None else pictures.jpeg_uri(sheet)


def _cloud(stage: pictures.Stage, made: Made, record: Mapping[str, Any]) -> dict[str, Any]:
    drawn = pictures.cloud_pictures(stage, made.prior, made.asset_from_world)
    return {
        "sentence": cloud_sentence(made.prior, record.get("notes", {})),
        "file": f"{record['folder']}/cloud.ply" if "folder" in record else None,
        "grades": _legend(TRUST, trust_shares(made.prior).tolist()),
        "pictures": [
            {"name": name, "photo": pictures.jpeg_uri(photo), "trust": pictures.jpeg_uri(trust)}
            for name, photo, trust in drawn
        ],
    }


def _cameras(stage: pictures.Stage) -> list[dict[str, Any]]:
    """As the viewer wants them: OpenGL axes (x right, y up, z backward), camera to asset, row by row."""
    rows = []
    for view in stage.views:
        matrix = view.cam_from_world.inverse().matrix() @ np.diag([1.0, -1.0, -1.0, 1.0])
        c = view.camera
        fov = 2 * np.degrees(np.arctan(c.height_px / 2 / c.fy_px))
        numbers = [round(float(x), 6) for x in matrix.ravel()]
        row = {"name": view.name, "matrix": numbers, "fov_deg": round(float(fov), 4)}
        rows.append(row | {"aspect": round(c.width_px / c.height_px, 4)})
    return rows
