"""Shows a run: bars with the time left on a terminal, plain lines elsewhere. Both are `recon.stage.Reporter`s."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

TYPICAL_SECONDS = {
    "read_capture": 4.0,
    "estimate_poses": 45.0,
    "isolate_object": 25.0,
    "estimate_prior": 58.0,
    "fit_surface": 289.0,
    "extract_mesh": 10.0,
    "unwrap": 10.0,
    "bake_texture": 25.0,
    "bake_materials": 8.0,
    "export": 12.0,
    "report": 12.0,
}
"""Wall seconds of each stage of preset=standard for 48 photos on two CPU cores, in pipeline order."""
PRESET_PACE = {"draft": 0.46, "fine": 3.0}
"""Time of a whole run in other presets, as a multiple of standard's."""

LABELS = {
    "read_capture": "reading photos",
    "estimate_poses": "finding cameras",
    "isolate_object": "isolating the object",
    "estimate_prior": "finding dense points",
    "fit_surface": "fitting the surface",
    "extract_mesh": "making the mesh",
    "unwrap": "unwrapping",
    "bake_texture": "painting the texture",
    "bake_materials": "baking the materials",
    "export": "writing the asset",
    "report": "drawing the report",
}
PRIOR_SECONDS = 120.0
"""How many typical seconds the typical pace counts for against the pace measured in this run."""
TRUSTED_SHARE = 0.1
"""From this share of a stage on, its own pace predicts its end."""


def clock(seconds: float) -> str:
    """Seconds as 0:05, 12:30 or 1:02:03."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


@dataclass
class TimeLeft:
    """Estimates the time left from typical stage durations, scaled by the pace measured so far."""

    now: Callable[[], float] = time.perf_counter
    first_pace: float = 1.0
    """The pace that is taken for likely before any is measured."""
    measured_s: float = 0.0
    typical_s: float = 0.0
    """Typical seconds of the stages that were really run (not reused) so far."""
    finished: set[str] = field(default_factory=set)
    current: str = ""
    share: float = 0.0
    """Done share of the current stage."""
    _stage_began: float = 0.0
    _began: float | None = None

    def start(self, name: str) -> None:
        self.current, self.share, self._stage_began = name, 0.0, self.now()
        self._began = self._stage_began if self._began is None else self._began

    def advance(self, share: float) -> None:
        self.share = min(max(share, self.share), 1.0)

    def finish(self, name: str, reused: bool) -> None:
        if not reused:
            self.measured_s += self.now() - self._stage_began
            self.typical_s += TYPICAL_SECONDS.get(name, 0.0)
        self.finished.add(name)
        self.current = ""

    def pace(self) -> float:
        """Real seconds for each typical second."""
        return (self.measured_s + PRIOR_SECONDS * self.first_pace) / (self.typical_s + PRIOR_SECONDS)

    def seconds_left(self) -> float:
        """Estimated seconds until the last stage ends."""
        pending = [n for n in TYPICAL_SECONDS if n not in self.finished and n != self.current]
        left = sum(TYPICAL_SECONDS[n] for n in pending) * self.pace()
        if not self.current:
            return left
        spent = self.now() - self._stage_began
        if self.share >= TRUSTED_SHARE:
            return left + spent * (1 - self.share) / self.share
        return left + max(TYPICAL_SECONDS.get(self.current, 0.0) * self.pace() - spent, 0.0)

    def share_done(self) -> float:
        """Done share of the whole run, by time."""
        spent = 0.0 if self._began is None else self.now() - self._began
        left = self.seconds_left()
        return spent / (spent + left) if spent + left > 0 else 1.0


class Display(Protocol):
    """A Reporter that also knows the stage it is in, and is entered and left like a file."""

    @property
    def current(self) -> str: ...

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def stage_started(self, name: str) -> None: ...

    def stage_progress(self, name: str, done: float, total: float, note: str) -> None: ...

    def stage_finished(self, name: str, seconds: float, reused: bool) -> None: ...

    def warning(self, name: str, sentence: str) -> None: ...


class PlainLines:
    """One line when a stage starts and ends, and one about every 20 s in between: for logs and pipes."""

    def __init__(
        self,
        console: Console,
        preset: str = "standard",
        every_s: float = 20.0,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.console, self.every_s, self.now = console, every_s, now
        self.time_left, self.current = TimeLeft(now, PRESET_PACE.get(preset, 1.0)), ""
        self._last_line = now()

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _line(self, text: str) -> None:
        self._last_line = self.now()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stage_started(self, name: str) -> None:
        self.current = name
        self.time_left.start(name)
        self._line(f"{name}: {LABELS.get(name, name)}, about {clock(self.time_left.seconds_left())} left in all")

    def stage_progress(self, name: str, done: float, total: float, note: str) -> None:
        self.time_left.advance(done / total if total else 0.0)
        if self.now() - self._last_line >= self.every_s:
            tail = f" ({note})" if note else ""
            left = clock(self.time_left.seconds_left())
            self._line(f"{name}: {self.time_left.share:.0%}{tail}, about {left} left in all")

    def stage_finished(self, name: str, seconds: float, reused: bool) -> None:
        self.time_left.finish(name, reused)
        self._line(f"{name}: " + ("reused" if reused else f"done in {seconds:.1f} s"))

    def warning(self, name: str, sentence: str) -> None:
        self._line(f"{name}: warning: {sentence}")


class Bars:
    """Two bars on a terminal: the whole run with its time left, and the current stage."""

    def __init__(self, console: Console, preset: str = "standard") -> None:
        time_left = TimeLeft(first_pace=PRESET_PACE.get(preset, 1.0))
        self.console, self.time_left, self.current = console, time_left, ""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        self._bars = Progress(*columns, console=console, transient=True, expand=True, refresh_per_second=4)
        self._whole = self._bars.add_task("whole run", total=1.0, note="")
        self._stage: TaskID | None = None

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def _update_whole(self) -> None:
        left = f"about {clock(self.time_left.seconds_left())} left"
        self._bars.update(self._whole, completed=self.time_left.share_done(), note=left)

    def stage_started(self, name: str) -> None:
        self.current = name
        self.time_left.start(name)
        self._stage = self._bars.add_task(LABELS.get(name, name), total=1.0, note="")
        self._update_whole()

    def stage_progress(self, name: str, done: float, total: float, note: str) -> None:
        self.time_left.advance(done / total if total else 0.0)
        if self._stage is not None:
            self._bars.update(self._stage, completed=self.time_left.share, note=note)
        self._update_whole()

    def stage_finished(self, name: str, seconds: float, reused: bool) -> None:
        self.time_left.finish(name, reused)
        if self._stage is not None:
            self._bars.remove_task(self._stage)
            self._stage = None
        took = "reused" if reused else f"{seconds:.1f} s"
        self._bars.console.print(f"  [green]done[/] {LABELS.get(name, name)} [dim]{took}[/]", highlight=False)
        self._update_whole()

    def warning(self, name: str, sentence: str) -> None:
        self._bars.console.print(f"  warning: {sentence}", style="yellow", markup=False, highlight=False)


def display_on(console: Console, preset: str) -> Display:
    """Bars where somebody watches a terminal, plain lines where the output goes to a file or a pipe."""
    watched = console.is_terminal and not console.is_dumb_terminal
    return Bars(console, preset) if watched else PlainLines(console, preset)
