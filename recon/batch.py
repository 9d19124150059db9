"""Many captures, one after another: a failed one is named and the rest go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from recon.capture.decode import PHOTO_SUFFIXES
from recon.capture.find import VIDEO_SUFFIXES
from recon.capture.given import photo_folder
from recon.config import Config
from recon.data import write_json
from recon.errors import UserError
from recon.failures import explain
from recon.options import capture_name
from recon.progress import Display, clock
from recon.run import Places, places_for, run_capture

OpenDisplay = Callable[[Console, str], Display]
"""What shows a run, for a console and the preset's name."""


@dataclass(frozen=True)
class Outcome:
    """What became of one capture of a batch."""

    name: str
    state: str
    """done, failed or not begun."""
    sentence: str
    """Where the asset is, or why there is none."""
    seconds: float = 0.0
    photos: str = ""


def find_captures(folder: Path) -> list[Path]:
    """Subfolders that hold photos (themselves, in `images/` or where an export keeps them) or videos, and loose videos.

    Sorted by name. Raises UserError where there is none, or where two would share a folder of results.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: captures= names a folder whose subfolders are captures.")
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    media = PHOTO_SUFFIXES | VIDEO_SUFFIXES
    found = [p for p in inside if p.is_dir() and (_holds(p, media) or _holds(photo_folder(p), media))]
    if not found and _holds(folder, PHOTO_SUFFIXES):
        raise UserError(f"{folder} is a capture itself: use `recon capture={folder}`.")
    found = sorted(found + [p for p in inside if p.is_file() and p.suffix.lower() in VIDEO_SUFFIXES])
    if not found:
        raise UserError(f"{folder} holds no video, and no subfolder with photos or a video.")
    by_name = {capture_name(p): p for p in reversed(found)}
    twice = next((p for p in found if by_name[capture_name(p)] != p), None)
    if twice is not None:
        name = capture_name(twice)
        raise UserError(f"{by_name[name]} and {twice} are both called {name} and would share a folder: rename one.")
    return found


def _holds(folder: Path, suffixes: frozenset[str]) -> bool:
    return folder.is_dir() and any(p.suffix.lower() in suffixes for p in folder.iterdir() if p.name[0] != ".")


def run_batch(cfg: Config, job: str, console: Console, open_display: OpenDisplay) -> list[Outcome]:
    """Run every capture below `cfg.captures`, then print a table; an interruption ends it with the table too.

    job: the job's name within a sweep, else "".
    """
    sources = find_captures(Path(cfg.captures).expanduser())
    outcomes: list[Outcome] = []
    try:
        for number, source in enumerate(sources, 1):
            places = places_for(cfg, source, batch=True, job=job)
            console.rule(f"{number} of {len(sources)}: {places.name}", align="left")
            outcomes.append(_run_one(cfg, places, console, open_display))
    finally:
        names = [places_for(cfg, s, batch=True, job=job).name for s in sources[len(outcomes) :]]
        rows = outcomes + [Outcome(n, "not finished", "the same command goes on here") for n in names]
        _close(rows, console, Path(cfg.out or "assets_out").expanduser(), job)
    return outcomes


def _run_one(cfg: Config, places: Places, console: Console, open_display: OpenDisplay) -> Outcome:
    display = open_display(console, cfg.preset)
    try:
        with display:
            report = run_capture(cfg, places, display)
    except Exception as error:  # the rest of a batch goes on, whatever one capture fails of
        sentence = explain(error, display.current, places.out)
        console.print(f"{places.name}: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
        return Outcome(places.name, "failed", sentence)
    photos = report["photos"]
    took = report["totals"]["seconds_this_time"]
    return Outcome(places.name, "done", str(places.out / "asset.glb"), took, f"{photos['used']} of {photos['given']}")


def _close(rows: list[Outcome], console: Console, folder: Path, job: str) -> None:
    """Print the closing table, and keep it as batch.json for whoever was not watching."""
    table = Table(title="Batch", title_justify="left")
    for heading in ("capture", "", "time", "photos", "asset, or what went wrong"):
        table.add_column(heading, overflow="fold")
    colour = {"done": "green", "failed": "red"}
    for row in rows:
        state = f"[{colour.get(row.state, 'yellow')}]{row.state}[/]"
        table.add_row(row.name, state, clock(row.seconds) if row.seconds else "", row.photos, row.sentence)
    console.print(table)
    content: list[dict[str, Any]] = [asdict(row) for row in rows]
    if folder.is_dir():
        write_json(folder / (f"batch-{job}.json" if job else "batch.json"), content)
