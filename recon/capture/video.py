"""A video becomes its sharpest frames, well spread over its length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recon.capture.decode import TURNS
from recon.capture.quality import detail_profile
from recon.errors import UserError

SPREAD = 0.7
"""Share of each window in which its frame is looked for; the gap keeps neighbouring picks apart."""
MAX_CANDIDATES = 12
"""Frames compared per window, at most: more cost time and are nearly the same picture."""
HDR_CURVES = frozenset({16, 18})
"""ISO/IEC 23091-2 transfer characteristics: PQ and HLG."""
QUARTER_TURNS = {90: 8, 180: 3, 270: 6}
"""EXIF orientation that undoes a picture turned counter-clockwise by so many degrees."""


@dataclass(frozen=True)
class Frame:
    """One picked frame, upright, at working size."""

    index: int
    """Position in the video, counted from 0."""
    rgb: Image.Image
    is_hdr: bool
    """Recorded in high dynamic range (HLG or PQ), so that its colours look pale as sRGB."""


def pick_frames(
    video: Path, n_frames: int, max_side_px: int, progress: Callable[[float, float], None]
) -> Iterator[Frame]:
    """Cut the video into `n_frames` windows of equal length and yield the sharpest frame of each, in order.

    Raises UserError where PyAV is missing or the file cannot be decoded.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(f"Reading the video {video.name} needs PyAV; install it with: pip install av") from error
    try:
        total = _count_frames(av, video)
        if total == 0:
            raise UserError(f"The video {video.name} has no frames; export it again or give photos.")
        yield from _sharpest(av, video, total, n_frames, max_side_px, progress)
    except av.FFmpegError as error:
        raise UserError(f"The video {video.name} cannot be decoded ({error}); export it again as MP4.") from error


def _count_frames(av: Any, video: Path) -> int:
    """How many frames the video holds, by counting packets where its header does not say."""
    with av.open(str(video)) as container:
        if not container.streams.video:
            raise UserError(f"{video.name} has no picture track; give a video or a folder of photos.")
        stream = container.streams.video[0]
        return stream.frames or sum(1 for packet in container.demux(stream) if packet.size)


def _sharpest(
    av: Any, video: Path, total: int, n_frames: int, max_side_px: int, progress: Callable[[float, float], None]
) -> Iterator[Frame]:
    window = max(1.0, total / n_frames)
    every = max(1, int(window * SPREAD / MAX_CANDIDATES))
    best: Frame | None = None
    best_detail, current = -1.0, 0
    with av.open(str(video)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for index, frame in enumerate(container.decode(video=0)):
            slot, offset = int(index / window), index % window
            if slot != current:
                if best is not None:
                    yield best
                best, best_detail, current = None, -1.0, slot
                progress(min(index, total), total)
            outside = abs(offset + 0.5 - window / 2) > SPREAD * window / 2
            if (outside and window >= 3) or (every > 1 and index % every):
                continue
            rgb = _upright(frame, max_side_px)
            detail = float(np.exp(np.log(detail_profile(rgb, 800) + 1e-9).mean()))
            if detail > best_detail:
                best, best_detail = Frame(index, rgb, int(frame.color_trc) in HDR_CURVES), detail
    if best is not None:
        yield best
    progress(total, total)


def _upright(frame: Any, max_side_px: int) -> Image.Image:
    """A decoded frame as upright sRGB with its long side at most `max_side_px`."""
    scale = min(1.0, max_side_px / max(frame.width, frame.height))
    # ffmpeg assumes BT.601 where a stream does not name its colour matrix; HD video is BT.709 then.
    unnamed_hd = int(frame.colorspace) == 2 and frame.height >= 720
    picture = frame.to_image(
        width=max(1, round(frame.width * scale)),
        height=max(1, round(frame.height * scale)),
        interpolation="AREA",
        src_colorspace="ITU709" if unnamed_hd else None,
    )
    turn = TURNS.get(QUARTER_TURNS.get(int(frame.rotation) % 360, 1))
    return picture if turn is None else picture.transpose(turn)
