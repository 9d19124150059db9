"""Reading photos and videos: orientation, colours, EXIF, masks, quality, and what is left out and why."""

from __future__ import annotations

import dataclasses
import math
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFilter, PngImagePlugin

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


def read(source: Path, out: Path, **settings: object) -> tuple[Capture, Job]:
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


def display_p3() -> bytes:
    """A minimal ICC profile (version 2.1) of Display P3's colours with a plain gamma of 2.2."""
    xyz = {
        "rXYZ": (0.51512, 0.24120, -0.00105),
        "gXYZ": (0.29198, 0.69225, 0.04189),
        "bXYZ": (0.15710, 0.06657, 0.78407),
    }
    xyz["wtpt"] = (0.9642, 1.0, 0.8249)
    s15 = [(k, b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(c * 65536) for c in v))) for k, v in xyz.items()]
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    name = b"Display P3\0"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(79)
    tags = [*s15, *((k, curve) for k in ("rTRC", "gTRC", "bTRC")), ("desc", desc), ("cprt", b"text\0\0\0\0CC0\0")]
    table, body = b"", b""
    for key, data in tags:
        table += key.encode() + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = 128 + 4 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02100000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    head += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def test_heic_is_turned_and_its_colours_are_converted(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    source = tmp_path / "capture"
    source.mkdir()
    for i in range(2):
        photo = textured(i)
        photo.paste((200, 60, 60), (0, 0, 60, 60))  # top left as stored; top right once upright
        try:
            tags = exif(orientation=6 if i else 1).tobytes()
            photo.save(source / f"IMG_{i}.HEIC", "HEIF", quality=95, exif=tags, icc_profile=display_p3())
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            pytest.skip(f"this pillow-heif cannot write HEIC: {error}")
    capture, _ = read(source, tmp_path / "out")
    assert [(p.width_px, p.height_px) for p in capture.photos] == [(240, 160), (160, 240)]
    assert len({p.lens_key for p in capture.photos}) == 2
    with Image.open(capture.image_path("IMG_1")) as upright:
        assert not upright.info.get("icc_profile")
        patch = np.asarray(upright, int)[20:40, 120:140].mean((0, 1))
    # Linear light through P3's matrix (IEC 61966-2-1, SMPTE EG 432-1): red grows, green and blue shrink.
    to_srgb = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
    linear = np.clip(to_srgb @ (np.array([200, 60, 60]) / 255) ** 2.2, 0, 1)
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(patch - expected).max() < 5 and expected[1] < 50


def write_dng(path: Path, light: np.ndarray, orientation: int, baseline_ev: float) -> None:
    """A raw photo of a Bayer sensor whose primaries are sRGB's; light: h w 3, linear, 0..1."""
    tifffile = pytest.importorskip("tifffile")
    values = (np.clip(light, 0, 1) * 60000 + 1000).round().astype(np.uint16)
    raw = values[..., 1].copy()
    raw[::2, ::2], raw[1::2, 1::2] = values[::2, ::2, 0], values[1::2, 1::2, 2]
    camera_from_xyz = [3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570]

    def rationals(numbers: list[float]) -> list[int]:
        return [v for x in numbers for v in (round(x * 10000), 10000)]

    tags = [
        (271, 2, 0, "Maker", True),
        (272, 2, 0, "Phone 1", True),
        (274, 3, 1, orientation, True),
        (33421, 3, 2, (2, 2), True),  # the Bayer pattern: red, green, green, blue
        (33422, 1, 4, bytes([0, 1, 1, 2]), True),
        (41989, 3, 1, 26, True),  # focal length in 35 mm film
        (50706, 1, 4, bytes([1, 4, 0, 0]), True),
        (50708, 2, 0, "Maker Phone 1", True),
        (50714, 4, 1, 1000, True),
        (50717, 4, 1, 61000, True),
        (50721, 10, 9, rationals(camera_from_xyz), True),
        (50728, 5, 3, rationals([1, 1, 1]), True),
        (50730, 10, 1, rationals([baseline_ev]), True),
        (50778, 3, 1, 21, True),
    ]
    tifffile.imwrite(path, raw, photometric=32803, extratags=tags, metadata=None, software=False)


def test_raw_photos(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    source = tmp_path / "capture"
    source.mkdir()
    light = np.tile(np.array([0.2, 0.4, 0.1]), (160, 240, 1))
    light[:60, :60] = (0.8, 0.05, 0.05)
    write_dng(source / "IMG_1.DNG", light, orientation=1, baseline_ev=0)
    write_dng(source / "IMG_2.dng", light / 2, orientation=6, baseline_ev=1)
    textured(3).save(source / "IMG_3.JPG")
    (source / "IMG_3.dng").write_bytes(b"never opened: its JPEG is there")
    (source / "IMG_4.dng").write_bytes(b"not a raw photo")
    capture, _ = read(source, tmp_path / "out")
    assert [p.name for p in capture.photos] == ["IMG_1", "IMG_2", "IMG_3"]
    assert {x.name: "raw file of IMG_3.JPG" in x.reason for x in capture.left_out} == {
        "IMG_3.dng": True,
        "IMG_4.dng": False,
    }
    expected = 255 * (1.055 * np.array([0.2, 0.4, 0.1]) ** (1 / 2.4) - 0.055)
    for name, shape, red in (("IMG_1", (160, 240, 3), (30, 30)), ("IMG_2", (240, 160, 3), (30, 130))):
        with Image.open(capture.image_path(name)) as image:
            values = np.asarray(image, int)
        assert values.shape == shape, "libraw turns a raw photo upright"
        assert np.abs(values[120, 100] - expected).max() < 4, "white balance, sRGB and brightness"
        assert values[red][0] > 220 and values[red][1] < 90
    assert capture.photos[0].focal_px == pytest.approx(26 / 43.2666 * math.hypot(240, 160), rel=1e-3)
    assert capture.photos[0].lens_key.startswith("Maker Phone 1")


def test_raw_photos_without_rawpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "IMG_1.DNG").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(UserError, match=r"IMG_1\.DNG .*pip install rawpy"):
        read(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_colour(tmp_path: Path, suffix: str) -> None:
    deep = np.zeros((100, 128, 3), np.uint16)
    deep[..., 0], deep[..., 1], deep[..., 2] = np.linspace(0, 65535, 128), 40000, 5000
    for i in range(2):
        assert cv2.imwrite(str(tmp_path / f"deep{i}{suffix}"), np.roll(deep, 40 * i, axis=1)[..., ::-1])
    capture, _ = read(tmp_path, tmp_path / "out")
    with Image.open(capture.image_path("deep0")) as image:
        values = np.asarray(image, int)
    assert np.abs(values[50, 64] - [129, 156, 19]).max() < 5 and values[50, 126, 0] > 245


def test_a_lens_is_its_zoom_and_how_the_sensor_lay() -> None:
    level = LensTags("Maker Phone", "back", 5.6, 26.0, None, None, None, 1)
    others = [
        dataclasses.replace(level, focal_mm=2.2, focal_35mm=13.0),
        dataclasses.replace(level, focal_35mm=52.0),
        dataclasses.replace(level, digital_zoom=2.0),
        dataclasses.replace(level, orientation=3),
        dataclasses.replace(level, lens="front"),
    ]
    keys = [tags.key(1600, 1200) for tags in (level, *others)]
    assert len({*keys, level.key(1200, 1600)}) == 7
    assert dataclasses.replace(level, digital_zoom=1.0).key(1600, 1200) == keys[0]


SECRETS = ("Anna Secret", "SN-0815-4711", "a private note", "37.7749", "Body-99", "secret@example.org")


def private_exif() -> Image.Exif:
    """What phones and editors store about people and places."""
    tags = exif()
    tags[ExifTags.Base.Artist] = tags[ExifTags.Base.Copyright] = "Anna Secret"
    tags[ExifTags.Base.ImageDescription] = "a private note"
    tags[0x9C9D] = "Anna Secret".encode("utf-16-le")  # XPAuthor
    details = tags.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.CameraOwnerName], details[ExifTags.Base.BodySerialNumber] = "Anna Secret", "SN-0815-4711"
    details[ExifTags.Base.LensSerialNumber], details[ExifTags.Base.UserComment] = (
        "Body-99",
        b"ASCII\0\0\0a private note",
    )
    gps = tags.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLatitude] = "N", (37.0, 46.0, 29.64)
    gps[ExifTags.GPS.GPSAreaInformation] = b"37.7749"
    return tags


def test_nothing_private_is_passed_on(tmp_path: Path) -> None:
    source = tmp_path / "capture"
    (source / "masks").mkdir(parents=True)
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>secret@example.org</x:xmpmeta>"
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", "Anna Secret")
    cut = textured(0).convert("RGBA")
    cut.paste((0, 0, 0, 0), (0, 0, 100, 100))
    cut.save(source / "a.png", exif=private_exif(), pnginfo=notes)
    textured(1).save(source / "b.jpg", exif=private_exif(), comment=b"a private note", xmp=xmp)
    textured(2).save(source / "c.webp", exif=private_exif(), xmp=xmp)
    textured(3).save(source / "d.tif", exif=private_exif())
    Image.new("L", (240, 160), 255).save(source / "masks" / "b.png", exif=private_exif(), pnginfo=notes)
    assert any(s.encode() in (source / "b.jpg").read_bytes() for s in SECRETS), "the test itself writes them"
    capture, job = read(source, tmp_path / "out")
    capture.save(capture.folder)
    assert len(capture.photos) == 4 and capture.mask_path("a") and capture.mask_path("b")
    for file in (f for f in capture.folder.rglob("*") if f.is_file()):
        content = file.read_bytes()
        assert not [s for s in SECRETS if s.encode() in content or s.encode("utf-16-le") in content], file
        if file.suffix in (".jpg", ".png"):
            with Image.open(file) as image:
                assert not image.getexif() and not {"comment", "xmp", "exif", "Author", "icc_profile"} & set(image.info)
    assert not [s for s in SECRETS for said in job.warnings if s in said]
