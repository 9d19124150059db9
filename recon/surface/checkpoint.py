"""A training's state on disk, so that an interrupted fit goes on; one file serves every engine."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

FORMAT = 3
"""Raise it whenever what `Trainer.state`, `Baker.state` or `Watch.state` hold changes its names or meaning."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state (tensors and plain values, nested), whole or not at all."""
    fresh = path.with_suffix(".tmp")
    torch.save({"format": FORMAT, "state": state}, fresh)
    fresh.replace(path)


def load_checkpoint(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The state in a file, its tensors on the CPU; or None, and one sentence that says why the fit starts anew.

    The sentence is empty where there is no file. Nothing but tensors and plain values is unpickled.
    """
    if not path.exists():
        return None, ""
    why = "is damaged"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, dict) and content.get("format") == FORMAT:
            return content["state"], ""
        why = "was written by another version of recon"
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        pass  # whatever torch makes of a damaged file; one that cannot be opened at all raises OSError
    return None, f"The checkpoint that an interrupted fit left ({path}) {why}, so the surface is fitted from the start."
