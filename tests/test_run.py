"""What a run shows, reports and leaves behind."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from recon.failures import explain, sentence_for
from recon.progress import PRESET_PACE, PlainLines, TimeLeft, clock
from recon.report.write import jsonable
from recon.run import publish


def test_an_unwritable_log_still_says_what_happened(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("")
    assert "stand above" in explain(ValueError("odd"), "unwrap", folder / "file")
    assert "ValueError: odd" in capsys.readouterr().err
    assert "memory" in str(sentence_for(MemoryError())) and sentence_for(ValueError()) is None


def test_publishing_replaces_and_removes(folder: Path) -> None:
    first, second, out = folder / "1", folder / "2", folder / "out"
    for made, names in ((first, ("asset.glb", "asset.obj", "stage.json")), (second, ("asset.glb",))):
        (made / "photos").mkdir(parents=True)
        (made / "photos" / f"{made.name}.jpg").write_text(made.name)
        for name in names:
            (made / name).write_text(made.name)
    out.mkdir()
    publish(first, out, {})
    (out / "mine.txt").write_text("the user's own")
    publish(second, out, {})
    assert {p.name for p in out.iterdir()} == {"asset.glb", "photos", "report.json", "mine.txt"}
    assert (out / "asset.glb").read_text() == "2" and [p.name for p in (out / "photos").iterdir()] == ["2.jpg"]
    (out / "asset.glb").write_text("edited")
    assert (second / "asset.glb").read_text() == "2", "an edited result does not change the workspace"


def test_time_left_learns_the_pace() -> None:
    seconds = 0.0
    left = TimeLeft(now=lambda: seconds)
    typical = left.seconds_left()
    left.start("read_capture")
    seconds += 30
    left.finish("read_capture", reused=False)
    left.start("estimate_poses")
    seconds += 270
    left.finish("estimate_poses", reused=False)
    left.finish("isolate_object", reused=True)
    assert 1.5 < left.pace() < 3, "three times slower so far, tempered by the typical pace"
    assert typical < left.seconds_left() + 300 < 3 * typical
    left.start("estimate_prior")
    before = left.seconds_left()
    seconds += 60
    left.advance(0.5)
    assert left.seconds_left() < before, "half of the stage took a minute: another minute remains of it"
    assert 0.1 < left.share_done() < 0.6
    assert clock(5) == "0:05" and clock(3723) == "1:02:03"


def test_the_first_estimate_goes_by_the_preset() -> None:
    standard, draft = (TimeLeft(first_pace=PRESET_PACE.get(name, 1.0)).seconds_left() for name in ("standard", "draft"))
    assert 470 < standard < 550 and 210 < draft < 250


def test_plain_lines_come_about_every_twenty_seconds() -> None:
    seconds = 0.0
    console = Console(record=True, width=200, file=io.StringIO())
    lines = PlainLines(console, now=lambda: seconds)
    lines.stage_started("fit_surface")
    for step in range(600):
        seconds += 0.1
        lines.stage_progress("fit_surface", step, 600, "loss [0.1]")
    lines.stage_finished("fit_surface", seconds, reused=False)
    text = console.export_text().splitlines()
    assert 4 <= len(text) <= 5 and "loss [0.1]" in text[1] and "done in 60.0 s" in text[-1]


def test_anything_becomes_json() -> None:
    odd = {"a": np.float32(1.5), 2: np.arange(2), "nan": float("nan"), "p": Path("x"), "s": {1}, "n": np.bool_(True)}
    assert json.loads(json.dumps(jsonable(odd), allow_nan=False)) == {
        "a": 1.5,
        "2": [0, 1],
        "nan": None,
        "p": "x",
        "s": [1],
        "n": True,
    }
