"""Every command and option that the README shows is one that recon takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import tiny_pipeline
import yaml

from recon.cli import main
from recon.options import scene_words, sole_capture, split_word

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (?:.* && .*/)?recon (.+?)(?: +#.*| +# .*)?$", README, re.MULTILINE)
SPANS = [span for span in re.findall(r"`([^`]+)`", README) if re.fullmatch(r"[a-z_.]+=[^=\s]+", span)]
HYDRA = [words for words in map(shlex.split, COMMANDS) if any("capture" in w for w in words) and words[0] != "check"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a capture wherever the README names one, and the tiny pipeline in the real one's place."""
    tiny_pipeline.take_the_place_of_the_real_one(monkeypatch)
    monkeypatch.setattr("recon.device.has_package", lambda module: True)  # view=true needs one that may be missing
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for place in ("FOLDER", "examples/owl"):
        tiny_pipeline.make_capture(tmp_path / place)
    return tmp_path


def test_there_is_something_to_test() -> None:
    assert len(HYDRA) >= 6 and len(SPANS) >= 10 and "isolate.point=IMG_0003:0.4,0.55" in SPANS


@pytest.mark.parametrize("words", HYDRA, ids=" ".join)
def test_a_command_runs(words: list[str], folder: Path) -> None:
    if words[0] == "batch":
        (folder / "examples").rename(folder / "all")
        words = [word.replace("FOLDER", "all") for word in words]
    assert main(words) == 0


@pytest.mark.parametrize("word", SPANS)
def test_an_option_keeps_its_value(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    key, value = split_word(word)
    assert main([word, "--cfg", "job"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    for part in key.split("."):
        found = found[part]
    assert found == (value if isinstance(found, str) else yaml.safe_load(value))


def test_the_other_commands_are_understood() -> None:
    rest = [shlex.split(c) for c in COMMANDS if shlex.split(c) not in HYDRA]
    assert {words[0] for words in rest} == {"--help", "check", "scene", "doctor"}
    for command, *words in rest:
        if command == "check":
            assert sole_capture(words) == Path("FOLDER")
        if command == "scene":
            assert scene_words(words)[0] == Path("room.yaml")
