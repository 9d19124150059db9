"""The pictures of report.html: the asset all around, photos beside renders, its cover, the masks and the cloud."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int, UInt8
from PIL import Image

from recon.camera import Pinhole, View
from recon.data import Asset, ObjectRegion, PosedCapture, PriorCloud
from recon.report.cloud import draw_dots, photo_dots, trust_dots
from recon.report.cover import Cover
from recon.transforms import Similarity
from texturing.preview import draw_on_grey, turntable_view
from texturing.render import Model, Shading, make_model, render, shrunk_texture

TURN_FRAMES, TURN_PX, TURN_ELEVATION_DEG = 12, 420, 14.0
COVER_PX = 360
COVER_DIRECTIONS = (
    ("front", 0.0, 18.0),
    ("back", 180.0, 18.0),
    ("from above", 30.0, 65.0),
    ("from below", 30.0, -50.0),
)
"""Name, azimuth and elevation in degrees in the asset's frame."""
CLOUD_PX = 300
"""At this size eight pictures stay below 300 kB even where all points differ in colour from their neighbours."""
CLOUD_DIRECTIONS = (("front", 0.0, 18.0), ("right", 90.0, 18.0), ("back", 180.0, 18.0), ("left", 270.0, 18.0))
"""As for the cover; without the sides from which few clouds have any points."""
N_PAIRS, PAIR_PX = 6, 640
MARGIN = 0.12
"""Around the object in a pair, in shares of its own size."""
MASKS_PX = 1600
JPEG_QUALITY = 84


@dataclass(frozen=True)
class Stage:
    """The asset set up to be photographed: in its own frame (+Y up), with the photos' cameras moved there."""

    asset: Asset
    model: Model
    views: tuple[View, ...]


def set_up(asset: Asset, posed: PosedCapture, asset_from_world: Similarity) -> Stage:
    """Move the mesh and the cameras into the asset's frame."""
    model = make_model(asset.uv_mesh, asset_from_world.apply(asset.uv_mesh.vertices_world))
    views = tuple(View(v.name, v.camera, asset_from_world.apply_to_camera(v.cam_from_world)) for v in posed.views)
    return Stage(asset, model, views)


def jpeg_uri(picture: UInt8[np.ndarray, "h w 3"], quality: int = JPEG_QUALITY) -> str:
    """A picture as a data: address."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def overlay_uri(cover: Cover) -> str:
    """The cover's colours by texel as a data: address; a palette PNG, sharp and small."""
    image = Image.fromarray(cover.grade_map).convert("P")
    colours = np.zeros((256, 3), np.uint8)
    rows, first = np.unique(cover.grade_map, return_index=True)
    colours[rows] = cover.overlay().reshape(-1, 3)[first]
    image.putpalette(colours.ravel().tolist())
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def turntable(stage: Stage) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The asset from all around, from the front anticlockwise."""
    turns = np.arange(TURN_FRAMES) * 360 / TURN_FRAMES
    size = (TURN_PX, TURN_PX)
    views = [turntable_view(stage.model.vertices, float(a), TURN_ELEVATION_DEG, size) for a in turns]
    texture = shrunk_texture(stage.model, views[0], stage.asset.base_colour)
    return [draw_on_grey(stage.model, view, texture, Shading.lit) for view in views]


def cover_pictures(stage: Stage, cover: Cover) -> list[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
    """The asset in the colours of its cover, from four sides, each with its name."""
    colours = cover.overlay()
    pictures = []
    for name, azimuth, elevation in COVER_DIRECTIONS:
        view = turntable_view(stage.model.vertices, azimuth, elevation, (COVER_PX, COVER_PX))
        pictures.append((name, draw_on_grey(stage.model, view, colours, Shading.lit)))
    return pictures


def cloud_pictures(
    stage: Stage, cloud: PriorCloud, asset_from_world: Similarity
) -> list[tuple[str, UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]]:
    """The cloud where the asset stands, from all around: name, in the photos' colours, in those of its confidence.

    Nothing for an empty cloud.
    """
    if not len(cloud.points_world):
        return []
    photo, trust = photo_dots(cloud, asset_from_world), trust_dots(cloud, asset_from_world)
    pictures = []
    for name, azimuth, elevation in CLOUD_DIRECTIONS:
        view = turntable_view(stage.model.vertices, azimuth, elevation, (CLOUD_PX, CLOUD_PX))
        pictures.append((name, draw_dots(photo, view), draw_dots(trust, view)))
    return pictures


def spread(views: Sequence[View], centre: Float64[np.ndarray, "3"], n: int) -> Int[np.ndarray, " k"]:
    """Indices of up to n views that look from directions as different as can be, the first one among them; sorted."""
    away = np.array([v.centre_world() - centre for v in views])
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    chosen = [0]
    while len(chosen) < min(n, len(views)):
        nearest = (away @ away[chosen].T).max(1)
        chosen.append(int(nearest.argmin()))
    return np.unique(chosen)


def pair(stage: Stage, view_idx: int, photo: UInt8[np.ndarray, "h w 3"]) -> tuple[np.ndarray, np.ndarray]:
    """A photo cut to the object, and the asset drawn by the same camera over the same photo in pale grey."""
    view = stage.views[view_idx]
    pixels, _ = view.project(stage.model.vertices)
    low, high = pixels.min(0), pixels.max(0)
    grown = MARGIN * (high - low).max()
    x0, y0 = np.clip(np.floor(low - grown).astype(int), 0, (view.camera.width_px - 2, view.camera.height_px - 2))
    x1, y1 = np.clip(np.ceil(high + grown).astype(int), (x0 + 2, y0 + 2), photo.shape[1::-1])
    c = view.camera
    cut = Pinhole(int(x1 - x0), int(y1 - y0), c.fx_px, c.fy_px, c.cx_px - float(x0), c.cy_px - float(y0))
    shrink = min(1.0, PAIR_PX / max(cut.width_px, cut.height_px))
    size = (max(1, round(cut.width_px * shrink)), max(1, round(cut.height_px * shrink)))
    seen = cv2.resize(np.ascontiguousarray(photo[y0:y1, x0:x1]), size, interpolation=cv2.INTER_AREA)
    camera = View(view.name, cut.resized(*size), view.cam_from_world)
    texture = shrunk_texture(stage.model, camera, stage.asset.base_colour)
    return seen, render(stage.model, camera, texture, Shading.texture).over(_pale(seen))


def _pale(photo: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return np.repeat((0.62 + 0.3 * grey)[..., None], 3, axis=2)


def mask_sheet(region: ObjectRegion) -> UInt8[np.ndarray, "h w 3"] | None:
    """The picture that the isolating stage drew of its masks, smaller; None where it left none."""
    path = region.folder / "debug" / "isolate.jpg"
    if not path.exists():
        return None
    with Image.open(path) as image:
        image.draft("RGB", (MASKS_PX, MASKS_PX))
        image.thumbnail((MASKS_PX, MASKS_PX))
        return np.asarray(image.convert("RGB"))
