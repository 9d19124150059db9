"""Which of the photos that were read are used: no black or hopelessly blurred ones, one of each burst, not too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon.capture.motion import is_same_view, spread_choice, thumbnail_of, view_shift
from recon.data import LeftOut, Photo

BLACK = 0.0005
"""Mean linear light below which a photo shows nothing but noise: 8 bits in sRGB resolve 0.0003."""
ENOUGH = 20
"""Poor photos are left out only where at least so many better ones stay: a poor view is better than none."""
LOST_STEP = 0.25
"""Way of the view, in long sides, that counts for two photos without a common corner."""


@dataclass(frozen=True)
class ChoiceConfig:
    """Which photos are left out."""

    max_photos: int = 150
    """A larger capture is thinned to so many photos, sharp and evenly spread. Raising it adds views and time."""
    min_sharpness: float = 0.05
    """Photos less sharp than this, against the capture's median photo, are left out; 0 keeps all."""
    max_parallax: float = 0.002
    """Neighbours whose parts moved against each other by less than this share of the long side show one view; only the
    sharpest is used. Raising it takes photos for copies sooner; 0 keeps all."""


@dataclass(frozen=True)
class Candidate:
    """A photo that was read, with its sharpness against the others."""

    photo: Photo
    image: Path
    brightness: float
    """Mean linear light, 0..1."""
    is_frame: bool
    """Of a video, whose frames were already spread over the view's way."""


def choose_photos(candidates: Sequence[Candidate], cfg: ChoiceConfig) -> dict[str, LeftOut]:
    """The photos not to use, by name, with the reason.

    Neighbours are compared in the order of taking: by EXIF time where every photo has one, else in the order given.
    """
    left_out = _too_poor(candidates, cfg)
    row = _in_order([c for c in candidates if not c.is_frame and c.photo.name not in left_out])
    copies = _same_views(row, cfg)
    row = [c for c in row if c.photo.name not in copies]
    return left_out | copies | _thinned(row, cfg)


def _too_poor(candidates: Sequence[Candidate], cfg: ChoiceConfig) -> dict[str, LeftOut]:
    poor = {}
    for c in candidates:
        if c.brightness < BLACK:
            poor[c.photo.name] = LeftOut(c.photo.source, "it is black")
        elif c.photo.sharpness < cfg.min_sharpness:
            poor[c.photo.name] = LeftOut(c.photo.source, "it is blurred beyond use")
    return poor if len(candidates) - len(poor) >= ENOUGH else {}


def _in_order(candidates: list[Candidate]) -> list[Candidate]:
    if any(c.photo.captured_at is None for c in candidates):
        return candidates
    return sorted(candidates, key=lambda c: c.photo.captured_at or "")


def _same_views(row: Sequence[Candidate], cfg: ChoiceConfig) -> dict[str, LeftOut]:
    """All but the sharpest of each run of photos that show the view of the run's first one."""
    groups: list[list[Candidate]] = []
    if cfg.max_parallax > 0:
        first = None
        for c in row:
            picture = thumbnail_of(c.image)
            if first is not None and is_same_view(first, picture, cfg.max_parallax):
                groups[-1].append(c)
            else:
                first = picture
                groups.append([c])
    left_out: dict[str, LeftOut] = {}
    for group in groups:
        best = max(group, key=lambda c: c.photo.sharpness)
        why = f"nearly the same picture as {best.photo.source}, the sharpest of {len(group)}"
        left_out |= {c.photo.name: LeftOut(c.photo.source, why) for c in group if c is not best}
    return left_out


def _thinned(row: Sequence[Candidate], cfg: ChoiceConfig) -> dict[str, LeftOut]:
    """Photos whose neighbours show enough, where there are more than `max_photos`."""
    if len(row) <= cfg.max_photos:
        return {}
    path, before = [0.0], thumbnail_of(row[0].image)
    for c in row[1:]:
        after = thumbnail_of(c.image)
        shift = view_shift(before, after)
        path.append(path[-1] + (LOST_STEP if shift is None else min(shift, LOST_STEP)))
        before = after
    quality = np.clip([c.photo.sharpness for c in row], 0.1, 2.0)
    kept = {int(k) for k in spread_choice(np.array(path), quality, cfg.max_photos, 0.0)}
    why = f"{cfg.max_photos} of {len(row)} photos are enough, and its neighbours show what it shows"
    return {c.photo.name: LeftOut(c.photo.source, why) for k, c in enumerate(row) if k not in kept}
