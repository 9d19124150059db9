"""The workspace: what is reused, what is remade, and what an interruption or a second process leaves."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from recon.data import read_json, write_json
from recon.stage import NOT_IN_KEY, Job, PeakMemory, Workspace, content_key, keyed, stage


@dataclass(frozen=True)
class Words:
    """A noun of one line."""

    text: str

    def save(self, folder: Path) -> None:
        write_json(folder / "words.json", self.text)

    @staticmethod
    def load(folder: Path) -> Words:
        return Words(read_json(folder / "words.json"))

    def check(self) -> None:
        if not self.text:
            raise ValueError("no words")


@dataclass(frozen=True)
class Ending:
    text: str = "!"
    wait_s: float = 0.0


@dataclass
class Recorder:
    """A reporter that remembers."""

    made: list[str]
    reused: list[str]
    warnings: list[str]

    def stage_started(self, name: str) -> None: ...

    def stage_progress(self, name: str, done: float, total: float, note: str) -> None: ...

    def stage_finished(self, name: str, seconds: float, reused: bool) -> None:
        (self.reused if reused else self.made).append(name)

    def warning(self, name: str, sentence: str) -> None:
        self.warnings.append(sentence)


@stage(result=Words, version=1)
def read(source: Path, cfg: Ending, job: Job) -> Words:
    time.sleep(cfg.wait_s)
    with (source.parent / "calls.txt").open("a") as calls:
        calls.write("read\n")
    job.warn("one warning")
    return Words(source.read_text() + cfg.text)


@stage(result=Words, version=1)
def shout(words: Words, cfg: Ending, job: Job) -> Words:
    return Words(words.text.upper() + cfg.text)


@stage(result=Words, version=1)
def join(a: Words, b: Words, cfg: Ending, job: Job) -> Words:
    return Words(a.text + b.text + cfg.text)


@stage(result=Words, version=1, resumable=True)
def count_up(words: Words, cfg: Ending, job: Job) -> Words:
    """Stops at 2 unless it finds what it left before."""
    checkpoint = job.folder / "checkpoint.json"
    start = read_json(checkpoint) if checkpoint.exists() else 0
    write_json(checkpoint, 2)
    if start < 2:
        raise KeyboardInterrupt
    return Words(f"{words.text} from {start}")


@stage(result=Words, version=1)
def stop_once(words: Words, cfg: Ending, job: Job) -> Words:
    left_over = list(job.folder.iterdir())
    (job.folder / "half.bin").write_bytes(b"half")
    flag = job.folder.parent / "stopped"
    if not flag.exists():
        flag.touch()
        raise KeyboardInterrupt
    return Words(f"{words.text} found {len(left_over)}")


@stage(result=Words, version=1)
def empty(words: Words, cfg: Ending, job: Job) -> Words:
    return Words("")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "hello.txt"
    path.parent.mkdir()
    path.write_text("hello")
    return path


def run_three(root: Path, source: Path, last: str = "?", version: int = 1) -> tuple[str, Recorder]:
    recorder = Recorder([], [], [])
    ws = Workspace(root, recorder)
    shout.stage_version = version  # type: ignore[attr-defined]
    a = ws.run(read, source, cfg=Ending())
    b = ws.run(shout, a, cfg=Ending())
    return ws.run(join, a, b, cfg=Ending(last)).text, recorder


def test_a_second_run_reuses_everything(tmp_path: Path, source: Path) -> None:
    first, recorder = run_three(tmp_path / "ws", source)
    assert first == "hello!HELLO!!?" and recorder.made == ["read", "shout", "join"]
    again, recorder = run_three(tmp_path / "ws", source)
    assert again == first and recorder.made == [] and recorder.reused == ["read", "shout", "join"]


def test_a_changed_option_remakes_only_what_depends_on_it(tmp_path: Path, source: Path) -> None:
    run_three(tmp_path / "ws", source)
    text, recorder = run_three(tmp_path / "ws", source, last=".")
    assert text.endswith(".") and recorder.made == ["join"] and recorder.reused == ["read", "shout"]
    _, recorder = run_three(tmp_path / "ws", source)
    assert recorder.made == [], "the earlier option's result was kept"


def test_a_raised_version_remakes_its_stage_and_what_follows(tmp_path: Path, source: Path) -> None:
    run_three(tmp_path / "ws", source)
    _, recorder = run_three(tmp_path / "ws", source, version=2)
    assert recorder.reused == ["read"] and recorder.made == ["shout", "join"]


@dataclass(frozen=True)
class Pace:
    slow: bool = False
    n_threads: int = field(default=0, metadata=NOT_IN_KEY)


@dataclass(frozen=True)
class Manner:
    ending: Ending = field(default_factory=Ending)
    pace: Pace = field(default_factory=Pace)
    look_on: Ending = field(default_factory=Ending, metadata=NOT_IN_KEY)


@stage(result=Words, version=1)
def whisper(words: Words, cfg: Manner, job: Job) -> Words:
    return Words(words.text.lower() + str(cfg.pace.n_threads) + str(job.view))


def test_what_never_changes_a_result_is_not_in_its_key(tmp_path: Path, source: Path) -> None:
    usual = Manner()
    assert keyed(usual) == {"ending": {"text": "!", "wait_s": 0.0}, "pace": {"slow": False}}
    texts = []
    for cfg, view in (
        (usual, False),
        (replace(usual, pace=Pace(n_threads=7), look_on=Ending("-")), True),
        (replace(usual, pace=Pace(slow=True)), True),
    ):
        ws = Workspace(tmp_path / "ws", view=view)
        texts.append(ws.run(whisper, ws.run(read, source, cfg=Ending()), cfg=cfg).text)
    assert texts == ["hello!0False", "hello!0False", "hello!0True"]


def test_contents_count_and_names_of_folders_do_not(tmp_path: Path, source: Path) -> None:
    key = content_key(source.parent)
    moved = source.parent.rename(tmp_path / "elsewhere")
    assert content_key(moved) == key
    (moved / ".hidden").write_text("x")
    assert content_key(moved) == key
    (moved / "hello.txt").write_text("hellO")
    assert content_key(moved) != key
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "photos").symlink_to(moved)
    (tmp_path / "linked" / "photos" / "circle").symlink_to(tmp_path / "linked")
    through_link = content_key(tmp_path / "linked")
    (moved / "hello.txt").write_text("hello again")
    assert content_key(tmp_path / "linked") != through_link, "what a linked folder holds counts"


def test_an_interrupted_run_resumes_after_its_last_whole_stage(tmp_path: Path, source: Path) -> None:
    for attempt in range(2):
        recorder = Recorder([], [], [])
        ws = Workspace(tmp_path / "ws", recorder)
        a = ws.run(read, source, cfg=Ending())
        if attempt == 0:
            with pytest.raises(KeyboardInterrupt):
                ws.run(stop_once, a, cfg=Ending())
            partial = list((tmp_path / "ws").glob("*.partial"))
            assert len(partial) == 1 and (partial[0] / "half.bin").exists()
            assert not (partial[0] / "stage.json").exists()
        else:
            assert ws.run(stop_once, a, cfg=Ending()).text == "hello! found 0", "a stage starts in an empty folder"
            assert recorder.reused == ["read"] and not list((tmp_path / "ws").glob("*.partial"))


def test_a_resumable_stage_finds_its_checkpoint(tmp_path: Path, source: Path) -> None:
    ws = Workspace(tmp_path / "ws")
    a = ws.run(read, source, cfg=Ending())
    with pytest.raises(KeyboardInterrupt):
        ws.run(count_up, a, cfg=Ending())
    assert ws.run(count_up, a, cfg=Ending()).text == "hello! from 2"


def test_a_result_that_fails_its_check_is_not_kept(tmp_path: Path, source: Path) -> None:
    ws = Workspace(tmp_path / "ws")
    a = ws.run(read, source, cfg=Ending())
    with pytest.raises(ValueError, match="no words"):
        ws.run(empty, a, cfg=Ending())
    assert [p.name for p in (tmp_path / "ws").iterdir() if "empty" in p.name and p.is_dir()] == [
        next((tmp_path / "ws").glob("*empty*.partial")).name
    ]


def test_the_record_of_a_stage(tmp_path: Path, source: Path) -> None:
    recorder = Recorder([], [], [])
    ws = Workspace(tmp_path / "ws", recorder)
    ws.run(read, source, cfg=Ending(wait_s=0.4))
    record = ws.records["read"]
    assert 0.4 <= record["seconds"] < 5 and record["cpu_seconds"] < 5
    assert 20 < record["peak_memory_mb"] < 100_000
    assert record["warnings"] == recorder.warnings == ["one warning"]
    on_disk = json.loads((tmp_path / "ws" / record["folder"] / "stage.json").read_text())
    assert on_disk["recipe"]["stage"] == "read" and "python" in on_disk["versions"]


def test_peak_memory_is_the_largest_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # what the system says is not asked here: memory that other tests gave back may hide any allocation
    resident, read_all = iter([300, 900, 400]), threading.Event()

    def memory_info(process: psutil.Process) -> SimpleNamespace:
        rss = next(resident, None)
        if rss is None:
            read_all.set()
        return SimpleNamespace(rss=rss or 0)

    monkeypatch.setattr(psutil.Process, "memory_info", memory_info)
    memory = PeakMemory(interval_s=0.001)
    memory.start()
    assert read_all.wait(5)
    assert memory.stop() == 900


def test_a_foreign_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="was not made by this workspace"):
        Workspace(tmp_path).run(shout, Words("from nowhere"), cfg=Ending())


def _read_in_process(root: Path, source: Path) -> str:
    return Workspace(root).run(read, source, cfg=Ending(wait_s=0.5)).text


def test_two_processes_make_a_stage_once(tmp_path: Path, source: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        texts = pool.starmap(_read_in_process, [(tmp_path / "ws", source)] * 2, chunksize=1)
    assert texts == ["hello!", "hello!"]
    assert (source.parent / "calls.txt").read_text() == "read\n"
