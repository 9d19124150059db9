"""Reading and writing what the nouns are saved as."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def require(condition: bool, what: str) -> None:
    """Raise ValueError(what) unless the predicate of a `check()` holds."""
    if not condition:
        raise ValueError(what)


def write_json(path: Path, content: Any) -> None:
    """Write readable UTF-8 JSON."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_rgb(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image file to 8-bit RGB."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def read_mask(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Decode a mask file to 8-bit grey (255 is the object)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))
