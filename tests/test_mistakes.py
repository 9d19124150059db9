"""What the command line says to wrong words: one sentence each, before any work begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_pipeline
from tiny_pipeline import make_capture

from recon.cli import main


@pytest.fixture(autouse=True)
def pipeline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in its own empty current folder, with the tiny pipeline in the real one's place."""
    tiny_pipeline.take_the_place_of_the_real_one(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["preset=draft"], 2, "recon capture=FOLDER"),
        (["capture="], 2, "recon capture=FOLDER"),
        (["cup"], 2, "did you mean `recon capture=cup`?"),
        (["capture=cup", "preset=fast"], 2, "There is no preset 'fast': choose draft, standard, fine."),
        (["capture=cup", "read.max_side=3"], 2, "did you mean read.max_side_px?"),
        (["capture=cup", "colour=red"], 2, "There is no option colour"),
        (["capture=cup", "read.max_side_px=big"], 2, "read.max_side_px=big cannot be used: it must be a whole number."),
        (["capture=cup", "view=maybe"], 2, "it must be true or false"),
        (["capture=cup", "surface.engine=gpu"], 2, "it must be one of auto, cpu, reference, triton, tcnn"),
        (["capture=cup", "surface=3"], 2, "surface is a group of options"),
        (["capture=cup", "export.longest_side_m=0,23"], 2, "write 0.23, with a point"),
        (["capture=cup", "surface.n_steps=4,000"], 2, "write 4000, without commas"),
        (["capture=cup", "preset=draft,fine"], 2, "`recon -m ...` tries one after another"),
        (["-m", "capture=cup", "export.licence=(c) me"], 2, "quotes within quotes"),
        (["captur=cup"], 2, "There is no option captur: did you mean capture?"),
        (["capture=~nobody-here/cup"], 2, "the home folder of a user"),
        (["doctr"], 2, "did you mean `recon doctor`?"),
        (["capture=cup", "captures=."], 2, "recon batch"),
        (["batch", "preset=draft"], 2, "recon batch captures=FOLDER"),
        (["--help", "nothing"], 2, "no group of options called nothing"),
        (["capture=cup", "surface.importance.edge_share=3"], 2, "nor add up to more than 0.9."),
        (["capture=cup", "surface.n_steps=-1"], 2, "surface.n_steps=-1 cannot be used: it must not be negative."),
        (["capture=cup", "export.longest_side_m=-1"], 2, "it must not be negative"),
        (["capture=cup", "surface.learning_rate=nan"], 2, "it must be a finite number"),
        (["batch", "captures=.", "isolate.model=gone.onnx"], 1, "there is no such file"),
        (
            ["capture=cup", "poses.recover.learned.checkpoint=gone"],
            1,
            "There is no file gone, which an option of",
        ),
        (["capture=cup", "isolate.point=one:0.4"], 1, "needs 2 numbers from 0 to 1"),
        (["capture=cup", "isolate.box=0.4,0.5,0.6,0.7"], 1, "names no photo: write PHOTO:left,top,right,bottom"),
        (["capture=cup", "surface.engine=tcnn"], 1, "The engine tcnn needs"),
        (["-m", "capture=gone", "preset=draft"], 1, "There is no folder or video"),
        (["capture=gone"], 1, "There is no folder or video"),
        (["capture=cup", "out=cup/result"], 1, "inside the capture itself"),
        (["capture=cup", "out=file/result"], 1, "is a file"),
        (["capture=cup", "out=/proc/x"], 1, "/proc/x cannot be made (No such file or directory): set another out="),
        (["capture=empty"], 1, "There is no photo in"),
        (["batch", "captures=gone"], 1, "There is no folder"),
        (["batch", "captures=cup"], 1, "is a capture itself"),
        (["batch", "captures=empty"], 1, "no subfolder with photos or a video"),
    ],
)
def test_mistakes_get_one_clear_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, says: str
) -> None:
    make_capture(folder / "cup")
    (folder / "empty").mkdir()
    (folder / "file").write_text("")
    assert main(words) == code
    errors = capsys.readouterr().err.strip()
    assert says in errors and len(errors.splitlines()) == 1 and "Traceback" not in errors


def test_a_failed_job_of_a_sweep_is_told_in_our_words_alone(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_capture(folder / "cup")
    assert main(["-m", "capture=cup", "surface.n_steps=-1,5", "out=o"]) == 2
    assert capfd.readouterr().err.strip() == "surface.n_steps=-1 cannot be used: it must not be negative."
    assert (folder / "o" / "surface.n_steps=5" / "asset.glb").exists(), "the sweep went on"
