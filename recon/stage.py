"""A workspace that runs stages, keeps their results by what went into them, and resumes.

A stage is a plain function `stage(*inputs, cfg, job) -> noun` marked by `@stage(...)`. Its key is a hash of its
name, version, config and the keys of its inputs; a file or folder as input counts by its CONTENTS, and so do the files
that a config names by its method `files()`. The result is written into `NN_name-KEY.partial` and renamed once when
complete, so a finished folder is always whole. A config's field marked `NOT_IN_KEY` takes no part in the key.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import psutil
from filelock import FileLock

from recon import __version__
from recon.data import read_json, write_json

Noun = TypeVar("Noun")

NOT_IN_KEY = {"key": False}
"""Metadata of a config's field that changes how a stage goes about its work but never what it makes (threads, times
between checkpoints): `n_threads: int = field(default=0, metadata=NOT_IN_KEY)`."""


class Reporter(Protocol):
    """Whoever shows the user what is happening; `recon/progress.py` draws it, tests record it."""

    def stage_started(self, name: str) -> None: ...

    def stage_progress(self, name: str, done: float, total: float, note: str) -> None: ...

    def stage_finished(self, name: str, seconds: float, reused: bool) -> None: ...

    def warning(self, name: str, sentence: str) -> None: ...


class Silent:
    """A reporter that shows nothing."""

    def stage_started(self, name: str) -> None: ...

    def stage_progress(self, name: str, done: float, total: float, note: str) -> None: ...

    def stage_finished(self, name: str, seconds: float, reused: bool) -> None: ...

    def warning(self, name: str, sentence: str) -> None: ...


@dataclass
class Job:
    """What a running stage gets besides its inputs: a folder for its files and a line to the user."""

    name: str
    folder: Path
    """The stage's own folder (`.partial` while it runs); a resumable stage finds its checkpoints here."""
    reporter: Reporter = field(default_factory=Silent)
    notes: dict[str, Any] = field(default_factory=dict)
    """Free facts for stage.json and the report: the backend really used, counts, scores."""
    warnings: list[str] = field(default_factory=list)
    view: bool = False
    """Whether the user wants to look on while the stage works."""

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Tell how much of the stage is done, in any unit."""
        self.reporter.stage_progress(self.name, done, total, note)

    def warn(self, sentence: str) -> None:
        """Tell the user something that the report should keep."""
        self.warnings.append(sentence)
        self.reporter.warning(self.name, sentence)


def stage(result: type, version: int, resumable: bool = False) -> Callable[[Callable[..., Noun]], Callable[..., Noun]]:
    """Mark a function as a stage.

    Raise `version` whenever the function's results change for the same inputs. A `resumable` stage finds what it
    left in its folder when it was interrupted; any other starts with an empty one.
    """

    def mark(function: Callable[..., Noun]) -> Callable[..., Noun]:
        function.stage_result, function.stage_version, function.stage_resumable = result, version, resumable  # type: ignore[attr-defined]
        return function

    return mark


def plain(value: Any) -> Any:
    """A config as JSON-able plain data: enums by name, paths as text, dataclasses as dicts."""
    if is_dataclass(value) and not isinstance(value, type):
        return {k: plain(v) for k, v in asdict(value).items()}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def keyed(cfg: Any) -> Any:
    """What counts of a config for its stage's key: `plain` without the fields marked `NOT_IN_KEY`, nested ones too."""
    if not is_dataclass(cfg) or isinstance(cfg, type):
        return plain(cfg)
    return {f.name: keyed(getattr(cfg, f.name)) for f in fields(cfg) if f.metadata.get("key", True)}


def file_keys(cfg: Any) -> list[str]:
    """Content keys of the files that a config names by its method `files()`, such as a network's weights."""
    return [content_key(path) for path in cfg.files()] if hasattr(cfg, "files") else []


def content_key(path: Path) -> str:
    """SHA-256 over the names and contents of a file, or of all files below a folder (hidden ones left out)."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(_files_below(path)):
        relative = file.relative_to(path if path.is_dir() else path.parent)
        if any(part.startswith(".") for part in relative.parts):
            continue
        digest.update(relative.as_posix().encode() + b"\0")
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, linked folders included, each folder once."""
    visited = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        real = Path(root).resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        yield from (path for name in names if (path := Path(root, name)).is_file())


class PeakMemory(threading.Thread):
    """Samples this process's resident memory while a stage runs."""

    def __init__(self, interval_s: float = 0.1) -> None:
        super().__init__(daemon=True)
        self.interval_s, self.peak_bytes, self._stop_event = interval_s, 0, threading.Event()

    def run(self) -> None:
        process = psutil.Process()
        while True:
            self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
            if self._stop_event.wait(self.interval_s):
                return

    def stop(self) -> int:
        self._stop_event.set()
        self.join()
        return self.peak_bytes


@contextmanager
def measured(record: dict[str, Any]) -> Iterator[None]:
    """Write wall seconds, CPU seconds and peak memory of a block into `record`."""
    memory = PeakMemory()
    memory.start()
    wall, cpu = time.perf_counter(), os.times()
    try:
        yield
    finally:
        now = os.times()
        record["seconds"] = round(time.perf_counter() - wall, 2)
        record["cpu_seconds"] = round(now.user + now.system - cpu.user - cpu.system, 2)
        record["peak_memory_mb"] = round(memory.stop() / 1e6)


@dataclass
class Workspace:
    """Runs stages into one folder, reusing every result whose recipe has not changed."""

    root: Path
    reporter: Reporter = field(default_factory=Silent)
    view: bool = False
    """Handed on to every stage's job."""
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    """stage.json of every stage of this run, by stage name, in order."""
    _keys: dict[int, tuple[str, Any]] = field(default_factory=dict)

    def run(self, function: Callable[..., Noun], *inputs: Any, cfg: Any) -> Noun:
        """The result of a stage: loaded if its folder is whole, else made now.

        inputs: nouns that this workspace returned, or paths. Raises whatever the stage raises; its `.partial`
        folder stays behind, and nothing that was finished before is touched.
        """
        name: str = function.__name__
        recipe = {
            "stage": name,
            "version": function.stage_version,  # type: ignore[attr-defined]
            "config": keyed(cfg),
            "inputs": [*(self._key_of(x) for x in inputs), *file_keys(cfg)],
        }
        key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
        folder = self.root / f"{len(self.records) + 1:02d}_{name}-{key}"
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f".{name}-{key}.lock"):
            reused = (folder / "stage.json").exists()
            self.reporter.stage_started(name)
            if not reused:
                self._make(function, inputs, cfg, folder, recipe)
        record = read_json(folder / "stage.json") | {"reused": reused, "folder": folder.name}
        noun: Noun = function.stage_result.load(folder)  # type: ignore[attr-defined]
        self.reporter.stage_finished(name, record["seconds"], reused)
        self.records[name] = record
        self._keys[id(noun)] = (key, noun)
        return noun

    def derive(self, noun: Noun, *sources: Any) -> Noun:
        """Let a noun that a method of this workspace's nouns made from nothing but `sources` be an input of stages."""
        recipe = [type(noun).__name__, *(self._key_of(x) for x in sources)]
        self._keys[id(noun)] = (hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12], noun)
        return noun

    def _key_of(self, value: Any) -> str:
        if isinstance(value, Path):
            return content_key(value)
        if id(value) not in self._keys:
            raise TypeError(f"{type(value).__name__} was not made by this workspace, so its key is unknown")
        return self._keys[id(value)][0]

    def _make(self, function: Callable[..., Any], inputs: Any, cfg: Any, folder: Path, recipe: dict[str, Any]) -> None:
        partial = folder.with_name(folder.name + ".partial")
        if partial.exists() and not function.stage_resumable:  # type: ignore[attr-defined]
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        job = Job(recipe["stage"], partial, self.reporter, view=self.view)
        record: dict[str, Any] = {}
        with measured(record):
            result = function(*inputs, cfg, job)
            result.check()
            result.save(partial)
        record |= {"recipe": recipe, "notes": job.notes, "warnings": job.warnings}
        record["versions"] = {"recon": __version__, "python": platform.python_version()}
        write_json(partial / "stage.json", plain(record))
        partial.rename(folder)
