"""report.html: its pictures against the photos, its words as text, and the page itself in a real browser."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ball_scene import CENTRE, RADIUS, ball_capture, iou
from PIL import Image

from recon.data import Asset, Capture, LeftOut, Mesh, ObjectRegion, Photo, PriorCloud, UvMesh
from recon.prior.fuse import empty_cloud
from recon.report import pictures
from recon.report.cloud import TRUST
from recon.report.cover import GRADES, surface_cover
from recon.report.page import Made, shown_model, write_page
from recon.stage import Job
from recon.transforms import Rigid
from texturing.export import ExportConfig, export

YELLOW = (0.9, 0.75, 0.15)
NAME = "</script><script>document.title='owned'</script> & <b>cup</b>"
WARNING = "5 photos are blurred: <img src=x onerror=alert(1)>."


def ball_asset() -> Asset:
    """The ball of `ball_scene` in its own colour, what lies far down marked as filled in."""
    n_around, n_up, size = 48, 24, 256
    k, j = np.meshgrid(np.arange(n_around + 1), np.arange(n_up + 1), indexing="ij")
    angle, polar = 2 * np.pi * k / n_around, np.pi * j / n_up
    unit = np.stack([np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), -np.cos(polar)], -1).reshape(-1, 3)
    corner = (k * (n_up + 1) + j)[:-1, :-1].ravel()
    a, b, c, d = corner, corner + n_up + 1, corner + n_up + 2, corner + 1
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    uv = 0.02 + 0.96 * np.stack([k / n_around, j / n_up], -1).reshape(-1, 2)
    mesh = UvMesh(CENTRE + RADIUS * unit, faces, uv, ((k % n_around) * (n_up + 1) + j).ravel(), size)
    up = -np.cos(np.pi * np.clip((1 - (np.arange(size) + 0.5) / size - 0.02) / 0.96, 0, 1))
    shade = np.array(YELLOW) * (0.65 + 0.35 * up[:, None])
    texture = np.repeat((shade * 255).astype(np.uint8)[:, None], size, axis=1)
    seen = np.repeat(np.where(up < -0.8, 128, 255).astype(np.uint8)[:, None], size, axis=1)
    return Asset(mesh, texture, seen)


def ball_cloud(n: int = 20_000) -> PriorCloud:
    """Points all over the ball in its own colour, the more trusted the higher they lie; a quarter in each step."""
    up = 1 - (2 * np.arange(n) + 1) / n
    angle = np.pi * (1 + 5**0.5) * np.arange(n)
    around = np.sqrt(1 - up**2)
    normals = np.stack([around * np.cos(angle), around * np.sin(angle), up], -1)
    rgb = np.tile((np.array(YELLOW) * 255).astype(np.uint8), (n, 1))
    return PriorCloud(CENTRE + RADIUS * normals, normals, (1 + up) / 2, rgb, np.full(n, 4))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A finished run on the ball, in which only the pipeline's stages are pretended."""
    folder = tmp_path_factory.mktemp("ball")
    posed, _ = ball_capture(folder)
    hull = CENTRE + RADIUS * 1.1 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]]) * 2
    box = Rigid(np.eye(3), CENTRE)
    hull_faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    region = ObjectRegion(folder, box, np.full(3, 2 * RADIUS), hull, hull_faces, "given", True)
    photos = tuple(Photo(v.name, f"{v.name}.jpg", 200, 150, None, "lens", 1.0, 0.0) for v in posed.views)
    capture = Capture(folder, "ball", photos)
    asset = ball_asset()
    mesh = Mesh(asset.uv_mesh.vertices_world, asset.uv_mesh.faces)
    out = folder / "out"
    out.mkdir()
    exported = export(
        asset, mesh, posed, region, folder / "images", ExportConfig(preview_width_px=300), Job("export", out)
    )
    return Made(capture, posed, region, ball_cloud(), asset, exported.asset_from_world, out)


def report_of(made: Made) -> dict[str, Any]:
    stage = {"seconds": 61.0, "cpu_seconds": 90.0, "peak_memory_mb": 812, "reused": False, "notes": {}}
    metal = {"area_share": 1.0, "roughness": 0.25, "metallic": 1.0}
    finish = {"finishes": [metal], "roughness_and_metallic": "from the photos"}
    prior = {"method": "both", "n_depth_maps": 32, "kept_share": 0.414}
    return {
        "recon": "0.1.0",
        "capture": NAME,
        "source": str(made.folder),
        "preset": "draft",
        "photos": {"given": 17, "used": 16, "left_out": [vars(LeftOut("IMG_7", "it is <i>black</i>"))]},
        "asset": {"triangles": 2304, "texture_size_px": 256, "up_source": "test", "scale_source": "unknown"},
        "backend": "cpu",
        "totals": {"seconds": 122.0, "seconds_this_time": 61.0, "peak_memory_mb": 812},
        "warnings": [WARNING],
        "stages": {
            "read_capture": stage,
            "estimate_prior": stage | {"folder": "04_estimate_prior-0123456789ab", "notes": prior},
            "bake_materials": stage | {"notes": finish},
            "a_new_stage": stage | {"reused": True},
        },
        "stats": {
            "exported": {"unit": "longest side", "width_height_depth": [1.0, 1.0, 1.0]},
            "mesh": {"watertight": True},
            "posed": {"mean_reprojection_error_px": 0.4},
            "region": {},
        },
        "config": {"export": {"longest_side_m": 0.0}},
        "files": ["asset.glb", "cameras.json", "photos", "preview.png"],
    }


@pytest.fixture(scope="module")
def page_path(made: Made) -> Path:
    path = made.folder / "report.html"
    write_page(path, made, report_of(made))
    return path


def yellow(picture: np.ndarray) -> np.ndarray:
    """Pixels of the ball: much more red and green than blue."""
    rgb = picture.astype(int)
    return (rgb[..., 0] - rgb[..., 2] > 50) & (rgb[..., 1] - rgb[..., 2] > 30)


def test_renders_lie_on_their_photos(made: Made) -> None:
    stage = pictures.set_up(made.asset, made.posed, made.asset_from_world)
    chosen = pictures.spread(stage.views, stage.model.vertices.mean(0), 6)
    away = np.array([stage.views[i].centre_world() for i in chosen]) - stage.model.vertices.mean(0)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    apart = np.degrees(np.arccos(np.clip(away @ away.T, -1, 1)))[np.triu_indices(6, 1)]
    assert chosen[0] == 0 and apart.min() > 30, "they look from all around"
    for i in chosen.tolist():
        photo, render = pictures.pair(stage, i, made.posed.image(i))
        assert photo.shape == render.shape
        # The table's texture is yellowish in places, so the photo is judged by where the render has the ball.
        ball = yellow(render)
        assert 0.3 < ball.mean() < 0.8
        difference = np.abs(photo.astype(int) - render.astype(int)).mean(2)
        assert np.median(difference[ball]) < 12 < np.median(difference[~ball])


def test_the_cover_tells_seen_from_filled_in(made: Made) -> None:
    cover = surface_cover(made.asset, made.posed.views)
    assert cover.shares.sum() == pytest.approx(1) and cover.shares[0] == pytest.approx(0.1, abs=0.02)
    assert cover.underside_share > 0.9 and cover.shares[-1] > 0.4
    assert "10% of the surface" in cover.sentence() and "underside" in cover.sentence()
    overlay = cover.overlay()
    assert tuple(overlay[-30, 500]) == GRADES[0].rgb and tuple(overlay[300, 500]) == GRADES[-1].rgb
    stage = pictures.set_up(made.asset, made.posed, made.asset_from_world)
    orange = {
        name: (p[..., 0].astype(int) - p[..., 2] > 90).mean() for name, p in pictures.cover_pictures(stage, cover)
    }
    assert orange["from below"] > 0.1 > 0.01 > orange["from above"]


def test_the_cloud_lies_on_the_asset_and_shows_its_confidence(made: Made) -> None:
    stage = pictures.set_up(made.asset, made.posed, made.asset_from_world)
    drawn = pictures.cloud_pictures(stage, made.prior, made.asset_from_world)
    assert [name for name, *_ in drawn] == ["front", "right", "back", "left"]
    for (_, photo, trust), k in zip(drawn, (0, 3, 6, 9), strict=True):
        turned = cv2.resize(pictures.turntable(stage)[k], photo.shape[1::-1])
        assert iou(yellow(photo), yellow(turned)) > 0.93, "both are seen from nearly the same height"
        rows = [np.nonzero(np.abs(trust.astype(int) - t.rgb).max(2) < 8)[0].mean() for t in TRUST]
        assert rows == sorted(rows, reverse=True), "the upper points are the sure ones"


def test_the_page_is_whole_and_plain(made: Made, page_path: Path) -> None:
    text = page_path.read_text(encoding="utf-8")
    assert text.count("</script>") == 4 and "$" + "data" not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert data["name"] == NAME and data["warnings"] == [WARNING]
    assert len(data["cameras"]) == 16 and len(data["turntable"]) == 12 and len(data["pairs"]) == 6
    assert str(made.folder) not in text and str(Path.home()) + "/" not in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text) and "default-src 'none'" in text
    assert "three.js authors" in text and page_path.stat().st_size < 3e6
    assert ["Surface", "roughness 0.25, metal 1.00 on 100%: from the photos"] in data["facts"]
    cloud = data["cloud"]
    assert cloud["sentence"].startswith("20,000 points") and "confirm each other in 32 depth maps" in cloud["sentence"]
    assert "41%" in cloud["sentence"] and cloud["file"] == "04_estimate_prior-0123456789ab/cloud.ply"
    assert [g["share"] for g in cloud["grades"]] == pytest.approx([0.25] * 4)
    assert sum(len(p["photo"]) + len(p["trust"]) for p in cloud["pictures"]) < 300_000
    assert data["files"][0] == {"name": "asset.glb", "size": (made.folder / "asset.glb").stat().st_size}


def test_a_heavy_asset_is_shown_by_a_lighter_level(tmp_path: Path) -> None:
    (tmp_path / "asset.glb").write_bytes(bytes(5_000_000))
    (tmp_path / "asset_lod1.glb").write_bytes(bytes(1_000_000))
    assert shown_model(tmp_path).name == "asset.glb"
    (tmp_path / "asset.glb").write_bytes(bytes(11_000_000))
    assert shown_model(tmp_path).name == "asset_lod1.glb"
    (tmp_path / "asset_lod1.glb").unlink()
    assert shown_model(tmp_path).name == "asset.glb", "better a slow page than none"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium. Without one a test is skipped, or fails under RECON_REQUIRE_CHROMIUM=1."""
    found = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    missing = None if found else "no Chromium: apt-get install chromium"
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        missing = "no playwright: pip install playwright"
    if missing is not None:
        if os.environ.get("RECON_REQUIRE_CHROMIUM") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    # SwiftShader draws WebGL without a GPU; a sandbox needs rights that a container's root does not have.
    flags = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=found, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def opened(browser: Any, page_path: Path) -> Iterator[tuple[Any, list[str]]]:
    """The page as a browser shows it from the file system, and all that it complains of or asks the network for."""
    page, trouble = browser.new_page(viewport={"width": 900, "height": 700}), []
    page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: trouble.append("a dialog opened"))
    local = ("data:", "blob:", page_path.as_uri())
    page.on("request", lambda asked: None if asked.url.startswith(local) else trouble.append(asked.url))
    page.goto(page_path.as_uri())
    page.wait_for_selector("html[data-viewer]", state="attached", timeout=120_000)
    yield page, trouble
    page.close()


def canvas(page: Any) -> np.ndarray:
    """What the viewer shows, after it had time for another picture."""
    page.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")
    return np.asarray(Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB"))


def choose(page: Any, shading: str) -> np.ndarray:
    page.locator("#shading").get_by_label(shading).check()
    return canvas(page)


def test_the_model_is_drawn(opened: tuple[Any, list[str]]) -> None:
    page, trouble = opened
    assert page.evaluate("document.documentElement.dataset.viewer") == "ready" and trouble == []
    lit = canvas(page)
    assert 0.1 < yellow(lit).mean() < 0.6 and not yellow(lit[:10]).any(), "the ball before a plain background"
    clay = choose(page, "Clay")
    assert not yellow(clay).any()
    assert (np.abs(clay.astype(int) - lit).max(2) > 20)[yellow(lit)].mean() > 0.9
    cover = choose(page, "Cover").astype(int)
    assert (cover[..., 2] - cover[..., 0] > 40).mean() > 0.05, "well covered parts are blue"
    assert page.locator("#legend").is_visible()
    flat = choose(page, "Texture")
    assert yellow(flat).mean() == pytest.approx(yellow(lit).mean(), rel=0.1)
    assert trouble == []


def test_the_viewer_looks_through_a_photos_camera(opened: tuple[Any, list[str]], made: Made) -> None:
    page, trouble = opened
    choose(page, "Texture")
    for view_idx in (3, 11):
        page.locator("#through").select_option(str(view_idx))
        shown = yellow(canvas(page))
        view, (h, w) = made.posed.views[view_idx], shown.shape
        scale = h / view.camera.height_px  # the window is wider than the photo, so heights agree
        row, column = (x.mean() for x in np.nonzero(shown))
        at = view.project(CENTRE[None])[0][0]
        # Half a per cent of the height: the viewer puts the optical axis into the middle, and this lens's is 1 px off.
        expected = (at - [view.camera.cx_px, view.camera.cy_px]) * scale + [w / 2, h / 2]
        assert [column, row] == pytest.approx(expected, abs=0.02 * h)
        radius = RADIUS / np.linalg.norm(view.centre_world() - CENTRE) * view.camera.fy_px * scale
        assert shown.sum() == pytest.approx(np.pi * radius**2, rel=0.12)
    page.locator("#reset").click()
    assert page.locator("#through").input_value() == "" and trouble == []


def test_the_cameras_are_drawn_around_it(opened: tuple[Any, list[str]]) -> None:
    page, trouble = opened
    page.locator("#cameras").check()
    shown = canvas(page).astype(int)
    blue = shown[..., 2] - shown[..., 0] > 40
    assert 0.001 < blue.mean() < 0.2 and np.ptp(np.nonzero(blue)[1]) > 0.3 * shown.shape[1]
    page.locator("#cameras").uncheck()
    assert trouble == []


def test_text_stays_text_and_fits_a_phone(opened: tuple[Any, list[str]]) -> None:
    page, trouble = opened
    assert page.locator("#name").text_content() == NAME and page.title().startswith("</script>")
    assert page.locator("#advice li").first.text_content() == WARNING
    assert "it is <i>black</i>" in page.locator("#left-out").text_content()
    assert page.locator("#dome .dot").count() == 16 and page.locator(".pair").count() == 6
    assert "Reading photos1 min 1 s0.8 GB" in page.locator("#stages").text_content()
    assert page.locator("#cloud img").count() == 8
    assert page.get_by_alt_text("The points, back, coloured by confidence").count() == 1
    assert "0.75 or more25%" in page.locator("#cloud-trust").text_content()
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out sideways"
    assert 0.05 < yellow(canvas(page)).mean() < 0.7
    assert trouble == []


def test_without_webgl_the_pictures_remain(browser: Any, page_path: Path) -> None:
    page = browser.new_page()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(page_path.as_uri())
    page.wait_for_selector("html[data-viewer=failed]", state="attached")
    assert "cannot draw the model" in page.locator("#stage").text_content()
    assert page.locator("#viewer .bar").is_hidden() and page.locator(".look").count() == 0
    assert page.locator(".turn img").count() == 12
    page.locator(".turn img").first.wait_for(state="visible")  # once it is decoded
    page.close()


def test_an_empty_cloud_is_one_sentence(browser: Any, made: Made, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_page(path, replace(made, prior=empty_cloud()), report_of(made))
    page = browser.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-viewer]", state="attached", timeout=120_000)
    assert page.locator("#cloud-sentence").text_content().startswith("The photos gave no dense points")
    assert page.locator("#cloud .columns").is_hidden() and page.locator("#cloud img").count() == 0
    page.close()
