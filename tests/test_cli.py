"""The command line with a tiny pipeline: what it writes, what it says, and how it ends."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_pipeline
from filelock import FileLock
from tiny_pipeline import make_capture, report_in

from recon.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in its own empty current folder, with the tiny pipeline in the real one's place."""
    tiny_pipeline.take_the_place_of_the_real_one(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_command_leaves_an_asset(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_capture(folder / "my cup" / "images")
    assert main(["capture=my cup/images"]) == 0
    out = folder / "assets_out" / "my cup"
    assert {p.name for p in out.iterdir() if not p.name.startswith(".")} == {
        "asset.glb",
        "preview.png",
        "report.html",
        "report.json",
        "cameras.json",
        "photos",
    }
    said = capsys.readouterr().out
    assert str(out / "asset.glb") in said and "photos used: 3 of 4" in said and "Few photos" in said
    assert "Traceback" not in said
    assert {p.name for p in folder.iterdir()} == {"my cup", "assets_out"}, "Hydra leaves nothing behind"
    assert Path.cwd() == folder


def test_the_report(folder: Path) -> None:
    make_capture(folder / "cup")
    assert main(["capture=cup", "preset=draft"]) == 0
    report = report_in(folder / "assets_out" / "cup")
    assert report["preset"] == report["config"]["preset"] == "draft"
    assert report["photos"] == {
        "given": 4,
        "used": 3,
        "left_out": [{"name": "blurred", "reason": "far too blurred"}],
    }
    assert report["asset"]["triangles"] == 1 and report["asset"]["texture_size_px"] == 8
    assert report["asset"]["size"] == "unit-size" and "longest side" in report["asset"]["size_note"]
    assert report["warnings"] == ["Few photos: the back of the object may be coarse."]
    stage = report["stages"]["read_capture"]
    assert stage["notes"] == {"n_files": 3} and stage["reused"] is False and stage["peak_memory_mb"] > 10


def test_a_second_run_reuses_and_a_changed_one_replaces(folder: Path) -> None:
    make_capture(folder / "cup")
    assert main(["capture=cup"]) == main(["capture=cup"]) == 0
    report = report_in(folder / "assets_out" / "cup")
    assert all(s["reused"] for s in report["stages"].values()) and report["totals"]["seconds_this_time"] == 0
    (folder / "cup" / "four.jpg").write_bytes(b"one more")
    assert main(["capture=cup"]) == 0
    assert report_in(folder / "assets_out" / "cup")["photos"]["used"] == 4
    assert (folder / "assets_out" / "cup" / "asset.glb").stat().st_size == 8


def test_any_folder_name_works(folder: Path) -> None:
    name = 'it\'s, 中文 照片=(1) [2] {3} ${x} "hi"'
    make_capture(folder / name)
    assert main([f"capture={folder / name}", f"out={folder / ('out ' + name)}"]) == 0
    assert (folder / f"out {name}" / "asset.glb").exists()


def test_home_and_trailing_slash(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    make_capture(folder / "cup")
    assert main(["capture=~/cup/"]) == 0
    assert (folder / "assets_out" / "cup" / "asset.glb").exists()


@pytest.mark.parametrize(
    ("trouble", "code", "says"),
    [
        ("user", 1, "take at least twelve"),
        ("full", 1, "The disk is full"),
        ("denied", 1, "No permission to use /somewhere/closed"),
        ("stop", 130, "Run the same command again"),
    ],
)
def test_failures_that_the_user_can_mend(
    folder: Path, capsys: pytest.CaptureFixture[str], trouble: str, code: int, says: str
) -> None:
    make_capture(folder / "cup", "one", "two", trouble)
    assert main(["capture=cup"]) == code
    errors = capsys.readouterr().err.strip()
    assert says in errors and len(errors.splitlines()) == 1
    out = folder / "assets_out" / "cup"
    assert not (out / "error.log").exists() and not (out / "asset.glb").exists()
    with FileLock(out / ".lock", timeout=0):
        pass  # a failed run has let go of its folder


def test_a_defect_goes_to_a_log(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_capture(folder / "cup", "one", "two", "defect")
    assert main(["capture=cup"]) == 1
    log = folder / "assets_out" / "cup" / "error.log"
    errors = capsys.readouterr().err.strip()
    assert str(log) in errors and "estimate_poses" in errors and "Traceback" not in errors
    assert "Traceback" in log.read_text() and "an index is negative" in log.read_text()
    (folder / "cup" / "defect.jpg").unlink()
    assert main(["capture=cup"]) == 0
    assert not log.exists(), "a success leaves no log of the past"


def test_an_out_folder_that_cannot_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Path.mkdir

    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        if "closed" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refuse)
    make_capture(folder / "cup")
    assert main(["capture=cup", "out=closed/x"]) == 1
    errors = capsys.readouterr().err.strip()
    assert "No permission to use" in errors and "closed" in errors and "out=" in errors
    assert len(errors.splitlines()) == 1


def test_a_refused_capture_leaves_no_empty_folder(folder: Path) -> None:
    make_capture(folder / "cup", "user", "two")
    assert main(["capture=cup", "out=o"]) == 1 and not (folder / "o").exists()
    (folder / "o").mkdir()
    (folder / "o" / "mine.txt").touch()
    assert main(["capture=cup", "out=o"]) == 1 and (folder / "o" / "mine.txt").exists()


def test_one_out_folder_has_one_writer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_capture(folder / "cup")
    (folder / "o").mkdir()
    with FileLock(folder / "o" / ".lock"):
        assert main(["capture=cup", "out=o"]) == 1
    assert "Another run is writing" in capsys.readouterr().err
    assert main(["capture=cup", "out=o"]) == 0


def test_an_asset_of_another_capture_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_capture(folder / "a" / "cup")
    make_capture(folder / "b" / "cup", "four", "five", "six")
    assert main(["capture=a/cup"]) == 0 and main(["capture=b/cup"]) == 1
    assert "already holds the asset of" in capsys.readouterr().err
    assert main(["capture=b/cup", "out=second"]) == 0
    (folder / "a").rename(folder / "c")
    assert main(["capture=c/cup"]) == 0, "a capture that was only moved"


def test_a_sweep_gives_each_job_its_own_folder(folder: Path) -> None:
    make_capture(folder / "my cup")
    assert main(["-m", "preset=draft,standard", "read.max_side_px=500,600", "capture=my cup"]) == 0
    sweep = folder / "assets_out" / "my cup" / "sweep"
    jobs = {p.name for p in sweep.iterdir() if p.is_dir()}
    assert jobs == {f"preset={p},read.max_side_px={n}" for p in ("draft", "standard") for n in (500, 600)}
    configs = [report_in(sweep / job)["config"] for job in jobs]
    assert {(c["preset"], c["read"]["max_side_px"]) for c in configs} == {
        (p, n) for p in ("draft", "standard") for n in (500, 600)
    }
    assert (sweep / "multirun.yaml").exists() and not (folder / "multirun").exists()
    assert {p.name for p in folder.iterdir()} == {"my cup", "assets_out"}


def test_a_sweep_below_a_given_folder_and_over_captures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_capture(folder / "cup")
    make_capture(folder / "pot")
    assert main(["--multirun", "preset=draft,fine", "capture=cup", "out=o"]) == 0
    assert (folder / "o" / "preset=fine" / "asset.glb").exists()
    assert main(["-m", "preset=draft", "capture=cup,pot"]) == 0
    assert (folder / "assets_out" / "pot" / "sweep" / "preset=draft" / "asset.glb").exists()
    assert main(["-m", "preset=draft,fine", "capture=cup,pot", "out=o"]) == 2
    assert main(["-m", "preset=draft", "capture=gone,cup"]) == 1, "a failed job is a failed sweep"
    assert "There is no folder or video" in capsys.readouterr().err


def test_a_page_that_fails_costs_no_asset(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_capture(folder / "cup")
    assert main(["capture=cup"]) == 0
    out = folder / "assets_out" / "cup"
    assert "report.html" in report_in(out)["files"] and str(out / "report.html") in capsys.readouterr().out

    def fail(*_: object) -> None:
        raise ValueError("a picture is odd")

    monkeypatch.setattr("recon.run.write_page", fail)
    assert main(["capture=cup"]) == 0
    said = capsys.readouterr().out
    assert "There is no report.html" in said and "a picture is odd" in said and "look at it" not in said
    report = report_in(out)
    assert "There is no report.html" in report["warnings"][-1] and "report.html" not in report["files"]
    assert (out / "asset.glb").exists() and not (out / "report.html").exists(), "no page of an earlier run is left"
    assert "ValueError: a picture is odd" in (out / "error.log").read_text(encoding="utf-8")


SLOW_MAIN = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
sys.path.insert(0, {tests!r})
import recon.pipeline, tiny_pipeline
from recon.cli import main
inner = tiny_pipeline.reconstruct
def slow(source, cfg, workspace):
    workspace.run(tiny_pipeline.read_capture, source, cfg=cfg.read)
    print("WAITING", flush=True)
    time.sleep(60)
recon.pipeline.reconstruct = slow
sys.exit(main(["capture=cup"]))
"""


def test_ctrl_c_in_a_real_process(folder: Path) -> None:
    make_capture(folder / "cup")
    code = SLOW_MAIN.format(tests=str(ROOT / "tests"))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert any("WAITING" in line for line in iter(process.stdout.readline, ""))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and "Run the same command again" in errors and "Traceback" not in errors
    assert main(["capture=cup"]) == 0
    assert report_in(folder / "assets_out" / "cup")["stages"]["read_capture"]["reused"] is True


def test_help_answers_at_once_and_names_every_option(folder: Path) -> None:
    from omegaconf import DictConfig

    from recon.config import writable_schema
    from recon.help import all_options, option_names

    code = "import sys; from recon.cli import main; main(['--help']); print('torch' in sys.modules, file=sys.stderr)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert answer.returncode == 0 and answer.stderr.strip() == "False", "no heavy import"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2, "CPU seconds, as the machine may be busy"
    assert "recon capture=" in answer.stdout and "max_side_px" in answer.stdout and "draft" in answer.stdout

    def leaves(node: DictConfig, prefix: str = "") -> set[str]:
        children = {key: node._get_node(key) for key in node}
        below = [
            leaves(c, f"{prefix}{k}.") if isinstance(c, DictConfig) else {f"{prefix}{k}"} for k, c in children.items()
        ]
        return set().union(*below)

    assert set(option_names()) == leaves(writable_schema())
    assert [o.key for o in all_options() if not o.text] == [], "every option says what it means"


def test_help_explains_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command, keys in {"batch": ["captures="], "check": ["capture="], "scene": ["assets=", "out="]}.items():
        assert main([command, "--help"]) == 0
        said = capsys.readouterr().out
        assert main(["--help", command]) == 0 and capsys.readouterr().out == said
        assert said.startswith(f"recon {command}") and all(key in said for key in keys)
    assert main(["doctor", "--help"]) == 0 and "what this machine has" in capsys.readouterr().out


def test_presets_are_small_and_known(folder: Path) -> None:
    from recon.help import preset_names

    assert preset_names() == ("draft", "standard", "fine")
    make_capture(folder / "cup")
    assert main(["-m", "capture=cup", "out=o", f"preset={','.join(preset_names())}"]) == 0
    for preset in preset_names():
        assert report_in(folder / "o" / f"preset={preset}")["preset"] == preset
    assert main(["--cfg", "job"]) == 0


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "torch" in said and "tiny-cuda-nn" in said and "will be used" in said
    assert all(name in said for name in ("(rawpy)", "(onnxruntime)", "(av)", "cameras.json"))
    assert main(["--version"]) == 0
