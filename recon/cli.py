"""The `recon` command: Hydra composes the options, this runs them and says in plain words what happened."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from recon import __version__
from recon.errors import UserError
from recon.failures import Explained, UsageError, explain, sentence_for

if TYPE_CHECKING:
    from recon.config import Config  # its imports take a while, and --help needs none of them

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run `recon` with the given words (by default the process's own) and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words, open_console())
    except KeyboardInterrupt:
        complain("Stopped. Run the same command again: it goes on from the last finished stage.")
        return INTERRUPTED
    except Explained:
        return FAILED
    except SystemExit as leaving:  # argparse within Hydra, or a single job that failed
        return leaving.code if isinstance(leaving.code, int) else USAGE
    except (UserError, OSError, MemoryError) as error:
        sentence = sentence_for(error)
        if sentence is None:
            raise
        complain(sentence)
        return USAGE if isinstance(error, UsageError) else FAILED


def _dispatch(words: list[str], console: Console) -> int:
    asked = next((i for i, word in enumerate(words) if word in ("-h", "--help") or (i == 0 and word == "help")), None)
    if not words or asked is not None:
        return _help(console, words, asked)
    if words[0] == "--version":
        console.print(__version__, highlight=False)
        return 0
    if words[0] == "doctor":
        return _doctor(console)
    if words[0] == "check":
        return _check(console, words[1:])
    if words[0] == "scene":
        return _scene(console, words[1:])
    from recon.options import hydra_words

    batch = words[0] == "batch"
    return _run_hydra(hydra_words(words[1:] if batch else words, batch))


def _help(console: Console, words: list[str], asked: int | None) -> int:
    """`recon --help`, `recon --help GROUP` or `recon COMMAND --help`. asked: where in the words help is asked for."""
    from recon.help import COMMANDS, groups, print_help

    after = [] if asked is None else words[asked + 1 : asked + 2]
    command = words[0] if words and words[0] in COMMANDS else ""
    group = after[0] if after and "=" not in after[0] else command
    if not print_help(console, group):
        names = ", ".join(n for n in groups() if n)
        raise UsageError(f"There is no group of options called {group}: choose one of {names}.")
    return 0


def _doctor(console: Console) -> int:
    from recon.device import describe_machine
    from recon.surface.engine import Engine, choose
    from recon.surface.field import FieldConfig

    faults: list[str] = []
    try:
        engine = choose(Engine.auto, FieldConfig().layout(), faults.append).name
    except UserError as error:  # what is missing is what is asked for
        engine = Engine.cpu.name
        faults.append(str(error))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for what, finding in describe_machine(engine, faults):
        table.add_row(f"[bold]{what}[/]", finding.replace("[", r"\["))
    console.print(table)
    return 0


def _check(console: Console, words: list[str]) -> int:
    from recon.options import sole_capture

    source = sole_capture(words)
    from recon.check import check_capture, print_check  # its imports take seconds

    report = check_capture(source, console)
    print_check(console, report)
    return FAILED if report.refusal else 0


def _scene(console: Console, words: list[str]) -> int:
    from recon.options import scene_words
    from recon.scene.write import make_scene, print_scene, scene_path

    scene, assets, out = scene_words(words)
    print_scene(console, make_scene(scene, assets, scene_path(scene, out)))
    return 0


@contextmanager
def _process_words(words: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv, and hands exceptions on instead of printing them only under HYDRA_FULL_ERROR."""
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["recon", *words], "1"
    try:
        yield
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _run_hydra(words: list[str]) -> int:
    """Compose the options and run one job, or each job of a sweep; returns 0, or the exit code of what went wrong.

    Raises UsageError for a wrong option.
    """
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from recon.config import writable_schema
    from recon.options import hydra_sentence

    codes, this_process = [0], os.getpid()

    def job(node: Any) -> None:
        code = run_job(node)
        codes.append(code)
        # Hydra prints words of its own for every exception; only from another process (a launcher of jobs) must it be.
        if code and os.getpid() != this_process:
            raise Explained

    ConfigStore.instance().store(name="schema", node=writable_schema())
    with _process_words(words):
        try:
            hydra.main(version_base="1.3", config_path="pkg://configs", config_name="config")(job)()
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(hydra_sentence(error)) from error
    return min((code for code in codes if code), default=0)


def run_job(node: Any) -> int:
    """One job with its composed options, which tells the user why it failed, if it does; returns the exit code."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from recon.check_options import check_options
    from recon.config import frozen
    from recon.options import job_folder

    hydra_cfg = HydraConfig.get()
    sweep = hydra_cfg.mode == RunMode.MULTIRUN
    job = job_folder(list(hydra_cfg.overrides.task)) if sweep else ""
    console = open_console()
    if job:
        console.rule(job, align="left")
    try:
        cfg = frozen(node)
        check_options(cfg)
    except UserError as error:
        complain(str(error))
        return USAGE if isinstance(error, UsageError) else FAILED
    done = _run_batch(cfg, job, console) if cfg.captures else _run_single(cfg, job, console)
    return 0 if done else FAILED


def _run_single(cfg: Config, job: str, console: Console) -> bool:
    from recon.progress import display_on
    from recon.run import places_for, run_capture

    places = places_for(cfg, Path(cfg.capture), job=job)
    display = display_on(console, cfg.preset)
    try:
        with display:
            report = run_capture(cfg, places, display)
    except Exception as error:  # whatever it is, it is told here, where the out folder and the stage are known
        complain(explain(error, display.current, places.out))
        return False
    print_summary(console, report, places.out)
    return True


def _run_batch(cfg: Config, job: str, console: Console) -> bool:
    from recon.batch import run_batch
    from recon.progress import display_on

    try:
        outcomes = run_batch(cfg, job, console, display_on)
    except UserError as error:
        complain(str(error))
        return False
    return all(outcome.state == "done" for outcome in outcomes)


def open_console() -> Console:
    """Standard output; a log file or pipe has no width of its own, and tables get one that paths fit into."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=140)


def complain(sentence: str) -> None:
    """Print what went wrong to standard error."""
    Console(stderr=True).print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)


def print_summary(console: Console, report: dict[str, Any], out: Path) -> None:
    """What a finished run leaves on the screen: where the asset is, what it took, what to know."""
    from recon.report.page import PAGE_NAME  # a finished run has it loaded; other commands need not wait for it

    photos, totals, asset = report["photos"], report["totals"], report["asset"]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="left")
    table.add_column(justify="right")
    for stage, record in report["stages"].items():
        table.add_row(stage, "reused" if record["reused"] else f"{record['seconds']:.1f} s")
    table.add_row("total", f"{totals['seconds_this_time']:.1f} s", style="bold")
    console.print(table)
    lines = [f"photos used: {photos['used']} of {photos['given']}"]
    lines += [f"  left out: {x['name']}: {x['reason']}" for x in photos["left_out"][:10]]
    if len(photos["left_out"]) > 10:
        lines.append(f"  and {len(photos['left_out']) - 10} more, see report.json")
    lines += [f"warning: {sentence}" for sentence in report["warnings"]]
    lines.append(f"{asset['triangles']:,} triangles, {asset['texture_size_px']} px texture")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if PAGE_NAME in report["files"]:
        page = out / PAGE_NAME
        console.print(f"look at it: {page}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"asset: {out / 'asset.glb'}", style="bold green", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
