"""Reading photos and videos: orientation, colours, EXIF, masks, quality, and what is left out and why."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFilter

from recon.capture.exif import LensTags, focal_px
from recon.capture.find import find_files, natural_key
from recon.capture.quality import detail_profile, relative_sharpness
from recon.capture.read import CaptureConfig, read_capture
from recon.data import Capture
from recon.errors import UserError
from recon.stage import Job


def textured(seed: int, width: int = 240, height: int = 160) -> Image.Image:
    """Noise with detail at several scales, so that blur shows."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for step in (2, 4, 8, 16):
        small = Image.fromarray(rng.integers(0, 256, (height // step + 1, width // step + 1, 3), np.uint8))
        total += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), float) / 4
    return Image.fromarray(total.astype(np.uint8))


def exif(orientation: int = 1, focal_35mm: int = 26) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Make], tags[ExifTags.Base.Model] = "Maker", "Phone 1"
    tags[ExifTags.Base.Orientation] = orientation
    tags[ExifTags.Base.DateTime] = "2026:05:04 11:02:02"
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = focal_35mm
    return tags


def read(source: Path, out: Path, **settings: int) -> tuple[Capture, Job]:
    out.mkdir(parents=True, exist_ok=True)
    job = Job("read_capture", out)
    capture = read_capture(source, CaptureConfig(**settings), job)
    capture.check()
    return capture, job


def test_folder_with_everything_in_it(tmp_path: Path) -> None:
    source = tmp_path / "拍摄 1"
    (source / "masks").mkdir(parents=True)
    (source / "gt").mkdir()
    textured(9).save(source / "gt" / "hidden_truth.jpg")
    turned = textured(0)
    turned.paste((255, 0, 0), (0, 0, 40, 40))  # top left as stored; top right once upright
    turned.save(source / "玩具 2.jpg", exif=exif(orientation=6), quality=95)
    textured(1).save(source / "a10.jpg", exif=exif())
    textured(2).save(source / "a9.png")
    textured(3).save(source / "a9.webp", lossless=True)
    see_through = textured(4).convert("RGBA")
    see_through.putalpha(Image.new("L", see_through.size, 0))
    see_through.paste((9, 200, 9, 255), (60, 40, 180, 120))
    see_through.save(source / "cut.png")
    Image.new("L", (120, 80), 255).save(source / "masks" / "a10.jpg.png")
    Image.new("L", (50, 80), 255).save(source / "masks" / "a9.png")
    (source / "copy.jpg").write_bytes((source / "a10.jpg").read_bytes())
    (source / "broken.jpg").write_bytes((source / "a10.jpg").read_bytes()[:900])
    (source / "README.txt").write_text("notes")
    (source / ".DS_Store").write_text("x")

    capture, job = read(source, tmp_path / "工作" / "capture", max_side_px=120)

    assert [p.name for p in capture.photos] == ["a9", "a9_webp", "a10", "cut", "玩具 2"]
    assert {x.name for x in capture.left_out} == {"copy.jpg", "broken.jpg", "README.txt"}
    assert any("broken.jpg" in w for w in job.warnings) and any("a9.png" in w for w in job.warnings)
    sizes = {p.name: (p.width_px, p.height_px) for p in capture.photos}
    assert sizes["玩具 2"] == (80, 120) and sizes["a10"] == (120, 80)
    with Image.open(capture.image_path("玩具 2")) as upright:
        assert upright.size == (80, 120) and not upright.getexif()
        red = np.asarray(upright.convert("RGB"), int)
    assert red[10, 70, 0] > 200 and red[10, 70, 1] < 80 and red[10, 10].min() > 40
    with Image.open(capture.mask_path("cut")) as mask:
        values = np.asarray(mask)
    assert values[40, 60] == 255 and values[5, 5] == 0 and 0.2 < (values > 127).mean() < 0.3
    assert capture.mask_path("a10") is not None and capture.mask_path("a9") is None
    photo = {p.name: p for p in capture.photos}
    assert photo["a10"].focal_px == pytest.approx(26 / 43.2666 * math.hypot(120, 80), rel=1e-3)
    assert photo["a9"].focal_px is None
    assert photo["a10"].lens_key != photo["玩具 2"].lens_key  # another size on the sensor's axes
    assert photo["a10"].captured_at == "2026-05-04T11:02:02"
    capture.save(capture.folder)
    assert Capture.load(capture.folder) == capture


def test_images_subfolder_comes_first(tmp_path: Path) -> None:
    source = tmp_path / "capture"
    (source / "images").mkdir(parents=True)
    for i in range(3):
        textured(i).save(source / "images" / f"p{i}.jpg")
    textured(7).save(source / "cover.jpg")
    capture, job = read(source, tmp_path / "out")
    assert [p.source for p in capture.photos] == ["images/p0.jpg", "images/p1.jpg", "images/p2.jpg"]
    assert any("images/" in w for w in job.warnings)


@pytest.mark.parametrize(
    ("files", "says"), [((), "no photo or video"), (("notes.txt",), "notes.txt"), (("one.jpg",), "only one")]
)
def test_unusable_folders(tmp_path: Path, files: tuple[str, ...], says: str) -> None:
    source = tmp_path / "capture"
    source.mkdir()
    for name in files:
        if name.endswith(".jpg"):
            textured(0).save(source / name)
        else:
            (source / name).write_text("x")
    with pytest.raises(UserError, match=says):
        read(source, tmp_path / "out")


def test_missing_source_and_single_photo(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_files(tmp_path / "nowhere")
    textured(0).save(tmp_path / "one.jpg")
    with pytest.raises(UserError, match="folder"):
        find_files(tmp_path / "one.jpg")


def test_blur_and_exposure_are_measured(tmp_path: Path) -> None:
    source = tmp_path / "capture"
    source.mkdir()
    for i in range(6):
        photo = textured(i, 480, 320)
        if i == 2:
            photo = photo.filter(ImageFilter.BoxBlur(2))
        if i == 4:  # half the light: in sRGB's curve (1/2) ** (1 / 2.2) of the value, about
            photo = photo.point(lambda v: round(255 * (v / 255 * 0.5 ** (1 / 2.2))))
        photo.save(source / f"{i}.png")
    capture, job = read(source, tmp_path / "out")
    sharpness = [p.sharpness for p in capture.photos]
    assert sharpness[2] < 0.5 and min(s for i, s in enumerate(sharpness) if i not in (2, 4)) > 0.8
    assert sharpness[4] > 0.6  # dark is not blurred
    assert capture.photos[4].exposure_ev == pytest.approx(-1, abs=0.15)
    assert abs(capture.photos[0].exposure_ev) < 0.15
    assert any("blurred" in w and "2.png" in w for w in job.warnings)


def test_motion_in_one_direction_counts() -> None:
    sharp = [textured(i, 480, 320) for i in range(5)]
    kernel = np.zeros((5, 5))
    kernel[2] = 1
    moved = sharp[0].filter(ImageFilter.Kernel((5, 5), kernel.ravel().tolist()))
    relative = relative_sharpness(np.stack([detail_profile(p) for p in [*sharp, moved]]))
    assert relative[5] < 0.5 < 0.8 < relative[:5].min()


def test_deep_grey_is_not_clipped(tmp_path: Path) -> None:
    source = tmp_path / "capture"
    source.mkdir()
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (100, 1))
    Image.fromarray(ramp).save(source / "deep.png")
    textured(0).save(source / "other.jpg")
    capture, _ = read(source, tmp_path / "out")
    with Image.open(capture.image_path("deep")) as image:
        values = np.asarray(image.convert("L"), int)
    assert abs(values[50, 128] - 128) < 4 and values[50, 250] > 240 and values[50, 5] < 15


def test_focal_length_from_focal_plane() -> None:
    # A compact camera: 5.406 mm, 3106.8 px per inch at 640 px wide (5.23 mm of sensor).
    tags = LensTags("Canon", "", 5.40625, None, 3106.796 / 25.4, 640, None, 1)
    assert focal_px(tags, 640, 480) == pytest.approx(661.3, abs=0.5)
    assert focal_px(tags, 320, 240) == pytest.approx(330.6, abs=0.5)
    assert focal_px(LensTags("", "", 5.4, None, 9e5, 640, None, 1), 640, 480) is None  # absurd tags


def test_natural_order() -> None:
    assert sorted(["IMG_10", "IMG_2", "img_1", "x"], key=natural_key) == ["img_1", "IMG_2", "IMG_10", "x"]


def test_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    source = tmp_path / "capture"
    source.mkdir()
    for i in range(2):
        try:
            textured(i).save(source / f"IMG_{i}.HEIC", format="HEIF", quality=95)
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            pytest.skip(f"this pillow-heif cannot write HEIC: {error}")
    capture, _ = read(source, tmp_path / "out")
    with Image.open(capture.image_path("IMG_0")) as image:
        difference = np.asarray(image, int) - np.asarray(textured(0), int)
    assert np.abs(difference).mean() < 12


def write_video(path: Path, blurred: set[int], n_frames: int = 36) -> None:
    av = pytest.importorskip("av")
    big = textured(0, 320 + 2 * n_frames, 240)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 8_000_000
        for i in range(n_frames):
            picture = big.crop((2 * i, 0, 2 * i + 320, 240))
            if i in blurred:
                picture = picture.filter(ImageFilter.BoxBlur(3))
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_video_becomes_its_sharpest_frames(tmp_path: Path) -> None:
    blurred = {i for i in range(36) if i % 6 != 3}
    write_video(tmp_path / "走 一圈.mp4", blurred)
    capture, _ = read(tmp_path / "走 一圈.mp4", tmp_path / "out", n_frames=6)
    assert capture.is_video and capture.name == "走 一圈"
    picked = [int(p.source.split("#")[1]) for p in capture.photos]
    assert picked == [3, 9, 15, 21, 27, 33]
    assert len({p.lens_key for p in capture.photos}) == 1
    assert (capture.photos[0].width_px, capture.photos[0].height_px) == (320, 240)


def test_video_in_a_folder_and_shorter_than_asked(tmp_path: Path) -> None:
    source = tmp_path / "capture"
    source.mkdir()
    write_video(source / "clip.mp4", set(), n_frames=5)
    capture, _ = read(source, tmp_path / "out", n_frames=60)
    assert len(capture.photos) == 5


def test_video_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match=r"pip install av"):
        read(tmp_path / "clip.mp4", tmp_path / "out")


def test_damaged_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "clip.mp4").write_bytes(b"not a video at all")
    with pytest.raises(UserError, match=r"clip\.mp4"):
        read(tmp_path / "clip.mp4", tmp_path / "out")
