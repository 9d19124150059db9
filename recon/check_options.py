"""What is wrong with the options themselves, found before any work begins instead of after its first stages.

A number may be negative only where its default is. A count or a size (by its name) may be 0 only where its default is,
or where its help says what 0 means. A stage's config may have two methods of its own: `check()` raises UserError for
options that contradict each other or this machine, `files()` gives the files it will read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import reduce
from typing import Any

from recon.config import Config
from recon.device import require_viewer
from recon.errors import UserError
from recon.failures import UsageError
from recon.help import all_options

COUNT_OR_SIZE = re.compile(r"^(n|max)_|_(px|triangles|resolution|voxels|cells)$")
ZERO = re.compile(r"(?<![\w.,])0(?![\d%]|[.,]\d|\.\.)")
"""A 0 that stands alone in a help text."""


def check_options(cfg: Config) -> None:
    """Raise UserError, with a sentence, for an option that would end the run later."""
    _check_ranges(cfg)
    if cfg.view:
        require_viewer()
    for name, part in _parts(cfg):
        if hasattr(part, "check"):
            part.check()
        missing = next((p for p in part.files() if not p.is_file()), None) if hasattr(part, "files") else None
        if missing is not None:
            raise UserError(f"There is no file {missing}, which an option of {name} names.")
    from recon.surface.engine import device_for, is_half, resolve

    is_half(cfg.surface.precision, device_for(resolve(cfg.surface.engine)))


def _parts(cfg: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The dataclasses within a config, with their names, inner ones too."""
    for field in fields(cfg):
        part = getattr(cfg, field.name)
        if is_dataclass(part):
            path = f"{name}.{field.name}".strip(".")
            yield path, part
            yield from _parts(part, path)


def _check_ranges(cfg: Config) -> None:
    usual = Config()
    for option in all_options():
        if option.kind not in ("int", "float"):
            continue
        path = option.key.split(".")
        value, default = (reduce(getattr, path, c) for c in (cfg, usual))
        wanted = ""
        if not math.isfinite(value):
            wanted = "a finite number"
        elif value < 0 <= default:
            wanted = "no less than 0"
        elif value == 0 < default and option.kind == "int" and COUNT_OR_SIZE.search(path[-1]):
            wanted = "" if ZERO.search(option.text) else "at least 1"
        if wanted:
            raise UsageError(f"{option.key}={value:g} cannot be used: it must be {wanted}.")
