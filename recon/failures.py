"""What the user reads when something fails: one sentence; only a defect of ours leaves a traceback, in a log file."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from recon.errors import UserError

FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
LOG_NAME = "error.log"


class UsageError(UserError):
    """The command line itself is wrong; the exit code is 2."""


class Explained(Exception):
    """A failure that the user has already been told about."""


def sentence_for(error: BaseException) -> str | None:
    """The sentence for a failure that the user can mend, or None where it is a defect of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return "This machine ran out of memory: close other programs, or use preset=draft."
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        where = f" while writing {error.filename}" if error.filename else ""
        return (
            f"The disk is full{where}: free some space and run the same command again; "
            "it goes on from the last finished stage."
        )
    if isinstance(error, OSError) and error.errno in NOT_ALLOWED:
        where = error.filename or "a file of this run"
        return (
            f"No permission to use {where}: change its permissions, or choose other folders with out= and workspace=."
        )
    return None


def explain(error: Exception, stage: str, folder: Path) -> str:
    """The sentence for any failure; a defect's traceback is appended to `error.log` in `folder`.

    stage: where it happened, or "" before the first stage.
    """
    sentence = sentence_for(error)
    if sentence is not None:
        return sentence
    during = f" during {stage}" if stage else ""
    what = f"recon itself failed{during} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    log = folder / LOG_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as handle:
            handle.write("".join(traceback.format_exception(error)) + "\n")
    except OSError as unwritable:
        traceback.print_exception(error)
        return f"{what}; the details stand above, because {log} could not be written ({unwritable.strerror})."
    return f"{what}; the details are in {log}."
