"""What is wrong with the options themselves, found before any work begins instead of after its first stages.

A number may be negative only where its default is. A stage's config may have two methods of its own: `check()` raises
UserError for options that contradict each other or this machine, `files()` gives the files it will read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import reduce
from typing import Any

from recon.config import Config
from recon.device import require_viewer
from recon.errors import UserError
from recon.failures import UsageError
from recon.help import all_options


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
        value, default = _number(cfg, option.key), _number(usual, option.key)
        if not math.isfinite(value):
            raise UsageError(f"{option.key}={value} cannot be used: it must be a finite number.")
        if value < 0 <= default:
            raise UsageError(f"{option.key}={value:g} cannot be used: it must not be negative.")


def _number(cfg: Any, key: str) -> float:
    found: float = reduce(getattr, key.split("."), cfg)
    return found
