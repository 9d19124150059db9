"""`recon batch`: which captures a folder holds, and what becomes of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_pipeline
from tiny_pipeline import make_capture, report_in

from recon.batch import find_captures
from recon.cli import main


@pytest.fixture(autouse=True)
def pipeline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in its own empty current folder, with the tiny pipeline in the real one's place."""
    tiny_pipeline.take_the_place_of_the_real_one(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")


def test_a_batch_goes_on_after_a_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_capture(folder / "all" / "a")
    make_capture(folder / "all" / "b", "one", "two", "user")
    make_capture(folder / "all" / "c", "one", "two", "defect")
    make_capture(folder / "all" / "d" / "images")
    (folder / "all" / "notes").mkdir()
    assert main(["batch", "captures=all", "preset=draft"]) == 1
    said = capsys.readouterr().out
    assert "take at least twelve" in said and said.count("done") >= 2 and "notes" not in said
    assert (folder / "assets_out" / "d" / "asset.glb").exists()
    assert (folder / "assets_out" / "c" / "error.log").exists()
    rows = json.loads((folder / "assets_out" / "batch.json").read_text())
    assert [(r["name"], r["state"]) for r in rows] == [
        ("a", "done"),
        ("b", "failed"),
        ("c", "failed"),
        ("d", "done"),
    ]
    for name in ("b/user", "c/defect"):
        (folder / "all" / f"{name}.jpg").unlink()
    assert main(["batch", "captures=all", "preset=draft"]) == 0
    assert all(s["reused"] for s in report_in(folder / "assets_out" / "a")["stages"].values())


def test_a_stopped_batch_shows_its_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_capture(folder / "all" / "a")
    make_capture(folder / "all" / "b", "one", "two", "stop")
    make_capture(folder / "all" / "c")
    assert main(["batch", "captures=all"]) == 130
    captured = capsys.readouterr()
    assert captured.out.count("not finished") == 2 and "Run the same command again" in captured.err


def test_a_batch_can_be_swept(folder: Path) -> None:
    make_capture(folder / "all" / "a")
    assert main(["batch", "-m", "captures=all", "preset=draft,fine", "out=o"]) == 0
    assert (folder / "o" / "a" / "sweep" / "preset=fine" / "asset.glb").exists()


def test_loose_videos_are_captures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_capture(folder / "all" / "pot")
    for name in ("cup.mp4", ".hidden.mp4", "notes.txt"):
        (folder / "all" / name).touch()
    assert find_captures(folder / "all") == [folder / "all" / "cup.mp4", folder / "all" / "pot"]
    (folder / "films").mkdir()
    for name in ("b.mp4", "a.MOV"):
        (folder / "films" / name).touch()
    assert [p.name for p in find_captures(folder / "films")] == ["a.MOV", "b.mp4"]
    (folder / "films" / "a.mp4").touch()
    assert main(["batch", "captures=films"]) == 1
    assert "a.mp4 are both called a and would share a folder" in capsys.readouterr().err
