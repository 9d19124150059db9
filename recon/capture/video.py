"""Videos become their sharpest frames, spread over how the view changes rather than over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, UInt8
from PIL import Image

from recon.capture.decode import TURNS
from recon.capture.motion import THUMBNAIL_SIDE_PX, levelled, spread_choice, view_shift
from recon.capture.quality import detail_profile
from recon.capture.tone import Transfer, srgb_from_hdr
from recon.errors import UserError

CANDIDATES_PER_FRAME = 8
"""Frames looked at for each one used, at most: more cost time and are nearly the same picture."""
MIN_STEP = 0.005
"""Frames whose median corner moved less than this share of the long side are one view: about a degree around."""
ANCHOR_STEP = 0.04
"""Motion is measured against one frame until the view has moved so far, so that a trembling hand adds nothing up."""
SURVEY_SIDE_PX = 800
"""Size at which sharpness is compared."""
QUARTER_TURNS = {90: 8, 180: 3, 270: 6}
"""EXIF orientation that undoes a picture turned counter-clockwise by so many degrees."""

Progress = Callable[[float, float], None]


@dataclass(frozen=True)
class Survey:
    """A first look through a video: every so many frames, how far the view has moved and how sharp it is."""

    frame_idx: Int[np.ndarray, " n"]
    """Positions in the video, counted from 0."""
    path: Float64[np.ndarray, " n"]
    """Way of the median corner up to each frame, in long sides; it never falls."""
    sharpness: Float64[np.ndarray, " n"]
    """Against the frames shortly before and after, so that it does not depend on what is seen: 1 is usual."""


@dataclass(frozen=True)
class Length:
    """How long a video is."""

    n_frames: int
    seconds: float


def choose_frames(videos: Sequence[Path], n_frames: int, progress: Progress) -> list[list[int]]:
    """The frames to use of each video: `n_frames` in all, shared out by length, fewer where the view stood still.

    Raises UserError where PyAV is missing or a file cannot be decoded.
    """
    lengths = [measure_length(video) for video in videos]
    chosen = []
    for i, (video, length, share) in enumerate(zip(videos, lengths, shared_out(lengths, n_frames), strict=True)):
        every = max(1, length.n_frames // (share * CANDIDATES_PER_FRAME))

        def part(done: float, total: float, i: int = i) -> None:
            progress(i + done / max(total, 1), len(videos))

        survey = survey_video(video, every, length.n_frames, part)
        chosen.append([int(k) for k in survey.frame_idx[pick(survey, share)]])
    return chosen


def shared_out(lengths: Sequence[Length], n_frames: int) -> list[int]:
    """How many frames each video gives: in proportion to its seconds, at least two."""
    total = sum(length.seconds for length in lengths)
    return [max(2, round(n_frames * length.seconds / total)) for length in lengths]


def pick(survey: Survey, n_frames: int) -> Int[np.ndarray, " n_chosen"]:
    """Rows of a survey: sharp, evenly spread over the view's way."""
    # A frame twice as sharp may leave gaps twice as wide; sharper than that must not cost more of the spread.
    return spread_choice(survey.path, np.clip(survey.sharpness, 0.1, 2.0), n_frames, MIN_STEP)


def survey_video(video: Path, every: int, n_frames: int, progress: Progress) -> Survey:
    """Look at every so-many-th frame of a video."""
    kept, path, detail = [], [], []
    anchor: UInt8[np.ndarray, "h w"] | None = None
    at_anchor, at, was_lost = 0.0, 0.0, False
    for index, frame in _decoded(video):
        if index % every:
            continue
        grey = _grey(frame, SURVEY_SIDE_PX)
        detail.append(float(np.exp(2 * np.log(detail_profile(grey, SURVEY_SIDE_PX) + 1e-9).mean())))
        small = levelled(np.asarray(grey.resize(_fitted(grey.size, THUMBNAIL_SIDE_PX), Image.Resampling.BOX)))
        shift = 0.0 if anchor is None else view_shift(anchor, small)
        if shift is None and was_lost:  # a second frame in a row shows nothing of the anchor: go on from here
            at, anchor = at + ANCHOR_STEP, None
        elif shift is not None:
            at = max(at, at_anchor + shift)
        was_lost = shift is None and not was_lost
        if anchor is None or (shift is not None and shift >= ANCHOR_STEP):
            anchor, at_anchor = small, at
        kept.append(index)
        path.append(at)
        progress(index, n_frames)
    if not kept:
        raise UserError(f"The video {video.name} has no frames; export it again or give photos.")
    return Survey(np.array(kept), np.array(path), _against_neighbours(np.array(detail)))


def _against_neighbours(detail: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Each value over the median of those around it."""
    reach = CANDIDATES_PER_FRAME
    usual = [np.median(detail[max(0, i - reach) : i + reach + 1]) for i in range(len(detail))]
    return detail / np.maximum(np.array(usual), 1e-9)


def read_frames(video: Path, wanted: Sequence[int], max_side_px: int) -> Iterator[tuple[int, Image.Image]]:
    """The wanted frames of a video with their positions, upright sRGB, long side at most `max_side_px`."""
    left = set(wanted)
    for index, frame in _decoded(video):
        if index in left:
            yield index, _upright(frame, max_side_px)
            left.discard(index)
            if not left:
                return


def measure_length(video: Path) -> Length:
    """How many frames a video holds (counting packets where its header does not say) and how long it is."""
    with _opened(video) as container:
        if not container.streams.video:
            raise UserError(f"{video.name} has no picture track; give a video or a folder of photos.")
        stream = container.streams.video[0]
        n_frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        return Length(n_frames, max(n_frames, 1) / float(stream.average_rate or 30))


@contextmanager
def _opened(video: Path) -> Iterator[Any]:
    """An opened video; UserError where PyAV is missing or the file is damaged."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"Reading the video {video.name} needs PyAV; install it with: pip install av") from error
    try:
        with av.open(str(video)) as container:
            yield container
    except av.FFmpegError as error:
        raise UserError(f"The video {video.name} cannot be decoded ({error}); export it again as MP4.") from error


def _decoded(video: Path) -> Iterator[tuple[int, Any]]:
    """All frames of a video with their positions."""
    with _opened(video) as container:
        container.streams.video[0].thread_type = "AUTO"
        yield from enumerate(container.decode(video=0))


def _fitted(size: tuple[int, int], max_side_px: int) -> tuple[int, int]:
    scale = min(1.0, max_side_px / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _grey(frame: Any, max_side_px: int) -> Image.Image:
    """A decoded frame's brightness, as it lies in the file."""
    width, height = _fitted((frame.width, frame.height), max_side_px)
    return Image.fromarray(frame.reformat(width, height, "gray", interpolation="AREA").to_ndarray())


def _upright(frame: Any, max_side_px: int) -> Image.Image:
    """A decoded frame as upright sRGB with its long side at most `max_side_px`."""
    width, height = _fitted((frame.width, frame.height), max_side_px)
    if int(frame.color_trc) in {t.value for t in Transfer}:
        deep = frame.reformat(width, height, "rgb48le", interpolation="AREA").to_ndarray()
        picture = Image.fromarray(srgb_from_hdr(deep, Transfer(int(frame.color_trc))))
    else:
        # ffmpeg assumes BT.601 where a stream does not name its colour matrix; HD video is BT.709 then.
        unnamed_hd = int(frame.colorspace) == 2 and frame.height >= 720
        picture = frame.to_image(
            width=width, height=height, interpolation="AREA", src_colorspace="ITU709" if unnamed_hd else None
        )
    turn = TURNS.get(QUARTER_TURNS.get(int(frame.rotation) % 360, 1))
    return picture if turn is None else picture.transpose(turn)
