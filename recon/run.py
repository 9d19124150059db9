"""One capture from photos to a finished folder: lock, reconstruct, publish whole files, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recon.config import Config
from recon.data import read_json, write_json
from recon.errors import UserError
from recon.failures import LOG_NAME, explain, sentence_for
from recon.options import capture_name
from recon.report.page import PAGE_NAME, Made, write_page
from recon.report.write import build_report, place_key
from recon.stage import Reporter, Workspace, content_key

REPORT_NAME = "report.json"
OWN_FILES = {"stage.json", "exported.json"}
"""Files of the export stage's folder that are its bookkeeping, not results."""


@dataclass(frozen=True)
class Places:
    """Where one job reads and writes; all absolute."""

    source: Path
    out: Path
    workspace: Path

    @property
    def name(self) -> str:
        return capture_name(self.source)


def places_for(cfg: Config, source: Path, batch: bool = False, job: str = "") -> Places:
    """The folders of one job.

    batch: `cfg.out` then holds a folder for each capture. job: the job's name within a sweep, else "".
    """
    name = capture_name(source)
    own_root = bool(cfg.out) and not batch
    out = Path(cfg.out) if own_root else Path(cfg.out or "assets_out") / name
    if job:
        out = out / job if own_root else out / "sweep" / job
    workspace = Path(cfg.workspace or Path(cfg.out if batch and cfg.out else "assets_out") / ".work") / name
    return Places(*(p.expanduser().absolute() for p in (source, out, workspace)))


def check_places(places: Places) -> None:
    """Raise UserError where the capture is missing, or where results would land in a wrong folder."""
    source, out = places.source, places.out
    if not source.exists():
        raise UserError(f"There is no folder or video {source}: capture= names a folder of photos or a video file.")
    for folder, key in ((out, "out"), (places.workspace, "workspace")):
        if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
            raise UserError(f"{folder} lies inside the capture itself: start from another folder, or set {key}=FOLDER.")
        blocking = next((p for p in (folder, *folder.parents) if p.exists()), folder)
        if not blocking.is_dir():
            raise UserError(f"{blocking} is a file, so nothing can be written below it: set another {key}=FOLDER.")
    if (out / REPORT_NAME).exists():
        earlier = read_json(out / REPORT_NAME)
        elsewhere = earlier.get("source_place_sha256", place_key(source)) != place_key(source)
        # The same photos at another place are a capture that was moved.
        if elsewhere and earlier["source_sha256"] != content_key(source):
            raise UserError(
                f"{out} already holds the asset of another capture called {earlier['source']}: "
                f"set another out=FOLDER for {source}."
            )


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Hold the lock of an out folder; UserError if another process has it. A folder that stays empty is removed."""
    make_folder(out, "out")
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"Another run is writing {out} at this moment: wait for it, or set another out=.") from None
    try:
        yield
    finally:
        if [path.name for path in out.iterdir()] == [".lock"]:
            with suppress(OSError):  # some systems remove no file that is open
                (out / ".lock").unlink()
                out.rmdir()
        lock.release()


def make_folder(folder: Path, key: str) -> None:
    """Make the folder that the option `key` names; an OSError that has no sentence of its own becomes a UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if sentence_for(error) is not None:
            raise
        raise UserError(f"{folder} cannot be made ({error.strerror or error}): set another {key}=FOLDER.") from error


def replace_file(source: Path, target: Path) -> None:
    """Put a copy of a file in a target's place, so that a reader sees the old one or the new one whole."""
    fresh = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, fresh)
    fresh.replace(target)


def replace_folder(source: Path, target: Path) -> None:
    """Put a copy of a folder in a target's place: copies, as what a user edits there must not change the workspace."""
    fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(source, fresh, copy_function=shutil.copyfile)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def publish(made: Path, out: Path, report: dict[str, Any]) -> None:
    """Replace what an earlier run left in `out` by the results in `made`; the report comes last."""
    results = sorted(p for p in made.iterdir() if p.name not in OWN_FILES and not p.name.startswith("."))
    for result in results:
        (replace_folder if result.is_dir() else replace_file)(result, out / result.name)
    earlier = read_json(out / REPORT_NAME).get("files", []) if (out / REPORT_NAME).exists() else []
    for gone in set(earlier) - {r.name for r in results}:
        shutil.rmtree(out / gone) if (out / gone).is_dir() else (out / gone).unlink(missing_ok=True)
    (out / LOG_NAME).unlink(missing_ok=True)
    report["files"] = [r.name for r in results]
    write_report(out, report)


def write_report(out: Path, report: dict[str, Any]) -> None:
    """Put report.json into an out folder, whole."""
    fresh = out / f".{REPORT_NAME}.new"
    write_json(fresh, report)
    fresh.replace(out / REPORT_NAME)


def publish_page(made: Made, report: dict[str, Any], reporter: Reporter) -> None:
    """Write report.html beside the published results; a page that fails is a warning and costs no asset."""
    began = time.perf_counter()
    reporter.stage_started("report")
    try:
        write_page(made.folder / PAGE_NAME, made, report)
    except Exception as error:  # whatever it is: the asset is made and published already
        sentence = f"There is no {PAGE_NAME}: {explain(error, 'drawing the report', made.folder)}"
        reporter.warning("report", sentence)
        report["warnings"].append(sentence)
    else:
        report["files"].append(PAGE_NAME)
        reporter.stage_finished("report", time.perf_counter() - began, reused=False)
    write_report(made.folder, report)


def run_capture(cfg: Config, places: Places, reporter: Reporter) -> dict[str, Any]:
    """Reconstruct one capture and return its report; `places.out` then holds asset.glb, report.html, report.json, ...

    cfg: options that `check_options` accepted. Raises UserError for what the user can mend; anything else is a defect.
    """
    check_places(places)
    from recon.pipeline import reconstruct

    with sole_writer(places.out):
        make_folder(places.workspace, "workspace")
        workspace = Workspace(places.workspace, reporter, cfg.view)
        results = reconstruct(places.source, cfg, workspace)
        stats = {
            noun: getattr(getattr(results, noun), "stats", {})
            for noun in ("posed", "region", "prior", "field", "mesh", "uv_mesh", "asset", "exported")
        }
        nouns = (results.capture, results.posed, results.asset)
        report = build_report(places.name, places.source, cfg, nouns, stats, workspace.records)
        publish(places.workspace / workspace.records["export"]["folder"], places.out, report)
        placed = results.exported.asset_from_world
        made = Made(results.capture, results.posed, results.region, results.prior, results.asset, placed, places.out)
        publish_page(made, report, reporter)
    return report
