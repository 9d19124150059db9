"""Videos: which frames are used, rotation, high dynamic range, several at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from test_capture import read, textured

from recon.capture.tone import Transfer, light_of_pq, pq_of_light, rolled_off, scene_of_hlg, srgb_from_hdr
from recon.capture.video import Length, pick, shared_out, survey_video
from recon.errors import UserError


def write_video(path: Path, steps: Sequence[float], blurred: frozenset[int] = frozenset()) -> None:
    """A video of a camera that moves sideways; steps: where it is in each frame, in pixels."""
    av = pytest.importorskip("av")
    big = textured(0, 330 + round(max(steps)), 240)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 8_000_000
        for i, x in enumerate(steps):
            picture = big.crop((round(x), 0, round(x) + 320, 240))
            if i in blurred:
                picture = picture.filter(ImageFilter.BoxBlur(3))
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def walk(n: int) -> list[float]:
    return [2.0 * i for i in range(n)]


def frames_of(sources: Sequence[str]) -> list[int]:
    return [int(s.split("#")[1]) for s in sources]


def test_video_becomes_its_sharpest_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "走 一圈.mp4", walk(36), frozenset(i for i in range(36) if i % 6 != 3))
    capture, _ = read(tmp_path / "走 一圈.mp4", tmp_path / "out", n_frames=6)
    assert capture.is_video and capture.name == "走 一圈"
    assert frames_of([p.source for p in capture.photos]) == [3, 9, 15, 21, 27, 33]
    assert len({p.lens_key for p in capture.photos}) == 1
    assert (capture.photos[0].width_px, capture.photos[0].height_px) == (320, 240)


def test_standing_still_gives_one_frame(tmp_path: Path) -> None:
    trembling = [4.0 + (i % 2) for i in range(30)]
    write_video(tmp_path / "clip.mp4", [*trembling, *(5 + 4.0 * i for i in range(1, 31)), *([125.0] * 20)])
    survey = survey_video(tmp_path / "clip.mp4", 1, 80, lambda done, total: None)
    assert survey.path[29] < 0.005 and survey.path[-1] == pytest.approx(120 / 320, rel=0.1)
    assert (np.diff(survey.path) >= 0).all()
    capture, _ = read(tmp_path / "clip.mp4", tmp_path / "out", n_frames=20)
    frames = np.array(frames_of([p.source for p in capture.photos]))
    assert 15 <= len(frames) <= 20
    assert (frames < 30).sum() <= 2 and (frames >= 61).sum() <= 2, "most frames come from the part that moves"
    still = [4.0] * 12
    write_video(tmp_path / "still.mp4", still)
    assert len(pick(survey_video(tmp_path / "still.mp4", 1, 12, lambda done, total: None), 10)) == 2


def test_several_videos_share_the_frames_by_length(tmp_path: Path) -> None:
    source = tmp_path / "capture"
    source.mkdir()
    write_video(source / "high.mp4", walk(20))
    write_video(source / "low.mov", walk(40))
    capture, _ = read(source, tmp_path / "out", n_frames=12)
    assert capture.is_video and len(capture.photos) == 12
    runs = [p.source.split("#")[0] for p in capture.photos]
    assert runs == ["high.mp4"] * 4 + ["low.mov"] * 8
    assert len({p.lens_key for p in capture.photos}) == 2
    for name in ("high.mp4", "low.mov"):
        frames = frames_of([p.source for p in capture.photos if p.source.startswith(name)])
        assert frames == sorted(frames)
    assert shared_out([Length(600, 10.0), Length(1200, 10.0), Length(3, 0.1)], 60) == [30, 30, 2]


def test_few_photos_and_a_video_are_used_together(tmp_path: Path) -> None:
    source = tmp_path / "capture"
    source.mkdir()
    for i in range(3):
        textured(10 + i).save(source / f"IMG_{i}.jpg")
    write_video(source / "clip.mp4", walk(12))
    capture, job = read(source, tmp_path / "out", n_frames=5)
    assert [p.source for p in capture.photos[:3]] == ["IMG_0.jpg", "IMG_1.jpg", "IMG_2.jpg"]
    assert len(capture.photos) == 8 and any("photos are few" in w for w in job.warnings)


def test_video_shorter_than_asked(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", walk(5))
    capture, _ = read(tmp_path, tmp_path / "out", n_frames=60)
    assert len(capture.photos) == 5


def test_a_phone_held_upright(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, walk(6))
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44  # the track header's matrix (ISO 14496-12), fixed point
    turned = np.array([0, 0x10000, 0, -0x10000, 0, 0, 240 << 16, 0, 0x40000000], ">i4")  # clockwise by 90 degrees
    content[at : at + 36] = turned.tobytes()
    path.write_bytes(content)
    capture, _ = read(path, tmp_path / "out", n_frames=2)
    assert (capture.photos[0].width_px, capture.photos[0].height_px) == (240, 320)
    with Image.open(capture.image_path(capture.photos[0].name)) as image:
        x = 2 * int(capture.photos[0].source.split("#")[1])
        stored = textured(0, 340, 240).crop((x, 0, x + 320, 240)).transpose(Image.Transpose.ROTATE_270)
        assert np.abs(np.asarray(image, int) - np.asarray(stored, int)).mean() < 12


def test_reference_values_of_hdr() -> None:
    """BT.2100 and BT.2408: where reference white and the peak lie on either curve."""
    assert 1000 * scene_of_hlg(np.array([0.75]))[0] ** 1.2 == pytest.approx(203, abs=0.5)
    assert scene_of_hlg(np.array([0.0, 0.5, 1.0])) == pytest.approx([0, 1 / 12, 1], abs=1e-6)
    assert light_of_pq(np.array([0.0, 0.508, 0.581, 1.0])) == pytest.approx([0, 100, 203, 10000], rel=0.01)
    light = np.array([0.01, 1.0, 80.0, 203.0, 500.0, 1000.0])
    assert light_of_pq(pq_of_light(light)) == pytest.approx(light, rel=1e-6)
    rolled = rolled_off(light)
    assert rolled[:3] == pytest.approx(light[:3], rel=1e-6) and rolled[-1] == pytest.approx(203, rel=1e-3)
    assert (np.diff(rolled) > 0).all() and 140 < rolled[3] < 203


@pytest.mark.parametrize("transfer", list(Transfer))
def test_hdr_video_becomes_srgb(tmp_path: Path, transfer: Transfer) -> None:
    """A grey of 26 cd/m2 and an sRGB red, coded as a phone codes them, come back with their own values."""
    av = pytest.importorskip("av")
    bt2020_from_srgb = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    colours = np.array([[0.13, 0.13, 0.13], [0.3, 0.02, 0.02]])  # linear, of reference white
    light = 203 * colours @ bt2020_from_srgb.T
    if transfer is Transfer.pq:
        signal = pq_of_light(light)
    else:
        table = scene_of_hlg(np.linspace(0, 1, 4096))
        shown = light / 1000
        luminance = shown @ [0.2627, 0.6780, 0.0593]
        signal = np.interp(shown * luminance[:, None] ** (1 / 1.2 - 1), table, np.linspace(0, 1, 4096))
    picture = np.zeros((96, 128, 3), np.uint16)
    picture[:, :64], picture[:, 64:] = np.round(signal * 65535).astype(np.uint16)
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p10le"
        coding = stream.codec_context
        coding.color_primaries = coding.colorspace = 9
        coding.color_trc, coding.color_range = transfer.value, 1
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb48le").reformat(
                format="yuv420p10le", dst_colorspace=9
            )
            frame.color_primaries = frame.colorspace = 9
            frame.color_trc = transfer.value
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    capture, job = read(path, tmp_path / "out")
    with Image.open(capture.image_path(capture.photos[0].name)) as image:
        values = np.asarray(image, float)
    expected = 255 * (1.055 * colours ** (1 / 2.4) - 0.055)
    assert np.abs(values[48, 32] - expected[0]).max() < 4 and np.abs(values[48, 96] - expected[1]).max() < 5
    assert not any("HDR" in w for w in job.warnings)


def test_highlights_keep_their_hue() -> None:
    bright = np.array([[[0.95, 0.75, 0.75]]])
    red, green, blue = srgb_from_hdr((bright * 65535).astype(np.uint16), Transfer.hlg)[0, 0].astype(int)
    assert red > 240 and green == pytest.approx(blue, abs=20) and green < 200


def test_video_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install av"):
        read(tmp_path / "clip.mp4", tmp_path / "out")


def test_damaged_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "clip.mp4").write_bytes(b"not a video at all")
    with pytest.raises(UserError, match=r"clip\.mp4"):
        read(tmp_path / "clip.mp4", tmp_path / "out")
