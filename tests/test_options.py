"""The words of the command line on their way to Hydra."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon.options import capture_name, given_paths, hydra_words, job_folder, quoted

NAMES = [
    "a b",
    "中文 照片",
    "x=y",
    "a,b",
    "it's",
    'say "hi"',
    "(1) [2] {3}",
    "$HOME",
    "${x}",
    "back\\",
    "\\'",
    "100%",
    "#1",
]


@pytest.mark.parametrize("name", NAMES)
def test_hydra_reads_back_any_path(name: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    override = OverridesParser.create().parse_override(f"capture={quoted(name)}")
    assert OmegaConf.create({"capture": override.value()}).capture == name


def test_words_for_hydra(folder: Path) -> None:
    assert quoted("it's") == r"'it\'s'"
    assert given_paths("capture", "a,b", sweep=True) == ["a", "b"]
    (folder / "a,b").mkdir()
    assert given_paths("capture", "a,b", sweep=True) == ["a,b"]
    assert given_paths("capture", "'a b'", sweep=False) == ["a b"]
    assert hydra_words(["capture=a", "preset=draft"], batch=False) == ["capture='a'", "preset=draft"]


@pytest.mark.parametrize("text", [*NAMES, "IMG_0003:0.4,0.55", "CC BY 4.0 (me), ~2026", "https://a.org//b"])
def test_texts_are_taken_as_they_stand(text: str, folder: Path) -> None:
    word = hydra_words([f"export.licence={text}", "capture=a"], batch=False)[0]
    assert word == f"export.licence={quoted(text)}"


def test_values_are_made_safe_by_their_kind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = ["isolate.model=~/a b.onnx", "export.licence='CC0'", "surface.n_steps=3", "hydra.verbose=true", "+a=1,2"]
    assert hydra_words([*words, "capture=a"], batch=False)[:-1] == [
        "isolate.model='/home/me/a b.onnx'",
        "export.licence='CC0'",
        *words[2:],
    ]
    sweep = hydra_words(["-m", "export.licence=CC0,CC-BY", "isolate.model=~/a.onnx", "capture=a"], batch=False)
    assert sweep[1:3] == ["export.licence=CC0,CC-BY", "isolate.model='/home/me/a.onnx'"]


def test_names_of_captures_and_jobs(folder: Path) -> None:
    (folder / "cup" / "Images").mkdir(parents=True)
    (folder / "film.take2.mp4").touch()
    assert capture_name(Path("cup/Images")) == capture_name(Path("cup")) == "cup"
    assert capture_name(Path("film.take2.mp4")) == "film.take2"
    assert job_folder(["capture='x'", "preset=draft", "a.b=1"]) == "preset=draft,a.b=1"
    one, two = job_folder(["a=x/y"]), job_folder(["a=x:y"])
    assert one != two and "/" not in one and len(job_folder([f"a.b{i}=1" for i in range(99)])) < 130
    assert job_folder(["capture='x'"]) == ""
