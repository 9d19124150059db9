"""The texture's table of benchmark.py: true shape and true cameras, so that the texture alone is judged.

Beside ours stands a plain texture from the best view: the same levelling and patches, but every texel from its patch's
photo alone, as the camera has it. Words: `noise=0,1,2` turns every camera about a random axis at right angles to its
view by so many pixels; `halves=yes` also makes textures from every second photo and from the others, and says how far
they differ (RMS of 255, one gain per channel): what stays in a texture of the place from which it was photographed.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import trimesh
from PIL import Image

from pose.model import Lens
from pose.undistort import pinhole_inside, sampling_maps
from recon.camera import View
from recon.capture.quality import detail_profile, relative_sharpness
from recon.data import Asset, Mesh, ObjectRegion, PosedCapture, UvMesh, read_mask, read_rgb
from recon.evaluate.pictures import Shot, compare
from recon.evaluate.score import TrueView, read_views
from recon.stage import Job, measured
from recon.transforms import Rigid, rotation_between
from texturing.bake import Choice, Clock, TextureConfig, bake_texture, choose_photos, finish, surface_of
from texturing.compose import GRID_PX, Corrections, blend_patches, spread_to_vertices
from texturing.export import ExportConfig, export
from texturing.gains import linear_to_srgb, srgb_to_linear
from texturing.materials import MaterialsConfig, bake_materials
from texturing.normal_map import RayTarget
from texturing.render import Shading, make_model, render, shrunk_texture
from texturing.unwrap import UnwrapConfig, unwrap

TEXTURE = (
    "noise px", "texture", "PSNR", "SSIM", "FLIP", "at seams 1 px", "4 px", "elsewhere 1 px", "4 px", "halves differ",
    "black", "CPU seconds: unwrap + texture + materials + export", "peak MB",
)  # fmt: skip
LEAST_FACES = 30_000
"""Coarser true meshes are divided (which moves nothing), so that time and memory are of an asset's size."""
SEAM_SAMPLES = 20_000


@dataclass(frozen=True)
class Truth:
    """A synthetic capture in its true frame, undistorted."""

    posed: PosedCapture
    region: ObjectRegion
    mesh: Mesh
    test: tuple[tuple[View, np.ndarray, np.ndarray], ...]
    """Held-out cameras, photos and masks."""


def undistorted(scene: Path, true: TrueView, maps: dict[str, Any]) -> tuple[View, np.ndarray, np.ndarray]:
    """The pinhole camera, photo and mask of a frame."""
    c = true.view.camera
    lens = Lens(c.width_px, c.height_px, c.fx_px, c.fy_px, c.cx_px, c.cy_px, true.k1, true.k2)
    if str(lens) not in maps:
        camera = pinhole_inside(lens)
        maps[str(lens)] = camera, sampling_maps(lens, camera)
    camera, places = maps[str(lens)]
    photo = cv2.remap(read_rgb(true.photo), *places, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
    if true.mask is None:
        raise SystemExit(f"{scene} has no true masks.")
    return View(true.view.name, camera, true.view.cam_from_world), photo, cv2.remap(read_mask(true.mask), *places, 1)


def load_truth(scene: Path, folder: Path) -> Truth:
    """Write a capture's undistorted photos and masks below `folder`, with its true cameras and mesh."""
    maps: dict[str, Any] = {}
    transforms = scene / "gt" / "transforms.json"
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    views, profiles = [], []
    for true in read_views(transforms, "train"):
        view, photo, mask = undistorted(scene, true, maps)
        Image.fromarray(photo).save(folder / "images" / f"{view.name}.jpg", "JPEG", quality=97, subsampling=0)
        Image.fromarray(mask).save(folder / "masks" / f"{view.name}.png")
        views.append(view)
        profiles.append(detail_profile(Image.fromarray(photo)))
    test = tuple(undistorted(scene, true, maps) for true in read_views(transforms, "test"))
    shape: Any = trimesh.load(scene / "gt" / "mesh.ply", process=False)
    shape.merge_vertices(merge_tex=True, merge_norm=True)
    while len(shape.faces) < LEAST_FACES:
        shape = shape.subdivide()
    vertices, faces = np.array(shape.vertices, float), np.array(shape.faces, np.int64)
    posed = PosedCapture(
        folder, tuple(views), np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), np.zeros(0, int),
        np.zeros(0, int), vertices.mean(0), "truth", "truth", None, relative_sharpness(np.stack(profiles)),
    )  # fmt: skip
    box = trimesh.creation.box(bounds=shape.bounds)
    world_from_box = Rigid(np.eye(3), shape.bounds.mean(0))
    region = ObjectRegion(
        folder, world_from_box, np.ptp(shape.bounds, axis=0), np.array(box.vertices), np.array(box.faces, np.int64),
        "truth", True,
    )  # fmt: skip
    return Truth(posed, region, Mesh(vertices, faces, {}, vertices.astype(np.float32), faces.astype(np.int32)), test)


def disturbed(posed: PosedCapture, noise_px: float) -> PosedCapture:
    """The same photos with every camera turned by as much as moves its middle by `noise_px`, each its own way."""
    rng, views = np.random.default_rng(0), []
    for view in posed.views:
        way = rng.uniform(0, 2 * np.pi)
        angle = noise_px / view.camera.fx_px
        off = np.array([np.sin(angle) * np.cos(way), np.sin(angle) * np.sin(way), np.cos(angle)])
        turned = Rigid(rotation_between(np.array([0.0, 0, 1]), off), np.zeros(3))
        # The turn is about the camera's own centre.
        views.append(replace(view, cam_from_world=turned @ view.cam_from_world))
    return replace(posed, views=tuple(views))


def best_view(uv_mesh: UvMesh, choice: Choice, cfg: TextureConfig) -> Asset:
    """Each texel from its patch's levelled photo alone, faded over one cell where patches meet."""
    surface = surface_of(choice.cells, choice.observed, np.zeros_like(choice.rejected), cfg)
    size = -(-choice.stack.window_px[:, 2:] // GRID_PX) + 1
    count = size.prod(1)
    nothing = Corrections(np.zeros((int(count.sum()), 3), np.float32), np.cumsum(count) - count, size)
    chosen = np.zeros(surface.allowed.shape, np.float32)
    chosen[np.arange(len(choice.labels)), choice.labels] = 1
    grey = np.full((len(choice.texels.face), 3), 0.5, np.float32)
    weight = spread_to_vertices(choice.cells, chosen)
    colour, total = blend_patches(choice.texels, surface, choice.stack, nothing, weight, grey)
    return finish(uv_mesh, choice.texels, choice.cells, colour, total > 0)


def finished(truth: Truth, photos: Path, folder: Path) -> tuple[Asset, dict[str, float], int]:
    """Unwrap, texture, materials and export with default options: the asset, CPU seconds by stage, peak MB."""
    seconds: dict[str, float] = {}
    peak = 0

    def timed(stage: Any, *inputs: Any) -> Any:
        nonlocal peak
        record: dict[str, Any] = {}
        with measured(record):
            made = stage(*inputs, Job(stage.__name__, folder))
        seconds[stage.__name__], peak = record["cpu_seconds"], max(peak, record["peak_memory_mb"])
        return made

    uv_mesh = timed(unwrap, truth.mesh, UnwrapConfig())
    painted = timed(bake_texture, truth.posed, truth.region, uv_mesh, TextureConfig())
    asset = timed(bake_materials, truth.mesh, painted, MaterialsConfig())
    timed(export, asset, truth.mesh, truth.posed, truth.region, photos, ExportConfig())
    return asset, seconds, peak


def novel_views(asset: Asset, truth: Truth) -> dict[str, float]:
    model, shots = make_model(asset.uv_mesh, asset.uv_mesh.vertices_world), []
    for view, photo, mask in truth.test:
        picture = render(model, view, shrunk_texture(model, view, asset.base_colour), Shading.texture)
        whole = picture.alpha > 0.999
        colour = picture.rgb / np.maximum(picture.alpha, 1e-6)[..., None]
        shots.append(Shot(photo, colour.astype(np.float32), whole & (mask >= 128)))
    return compare(shots)


@dataclass(frozen=True)
class Pairs:
    """Pairs of surface points across edges between cells."""

    ends: np.ndarray
    """(2, n, 3), in world."""
    faces: np.ndarray
    """(2, n), of the uv mesh."""
    weights: np.ndarray
    """(2, n, 3), barycentric."""
    labels: np.ndarray
    """(2, n): the photos on both sides."""


def pairs_across(uv_mesh: UvMesh, choice: Choice, step_px: float, at_seams: bool) -> Pairs:
    """Points `step_px` photo pixels on either side of edges where the patch changes, or of others."""
    cells, labels = choice.cells, choice.labels
    left, right, _ = cells.adjacency
    seen = choice.observed.seen.any(1)
    wanted = np.flatnonzero(((labels[left] != labels[right]) == at_seams) & seen[left] & seen[right])
    wanted = np.random.default_rng(0).permutation(wanted)[:SEAM_SAMPLES]
    left, right = left[wanted], right[wanted]
    a, b = cells.joined_faces[left], cells.joined_faces[right]
    shared = (a[:, :, None] == b[:, None, :]).any(2)
    good = shared.sum(1) == 2
    left, right, a, shared = left[good], right[good], a[good], shared[good]
    ends = cells.joined_vertices_world[a[shared].reshape(-1, 2)]
    normal = cells.normals[left] + cells.normals[right]
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    across = np.cross(normal, ends[:, 1] - ends[:, 0])
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-30)
    density = choice.observed.density[left, labels[left]]
    step = 0.5 * step_px / np.maximum(density, 1e-9)
    target, above = RayTarget(uv_mesh.vertices_world, uv_mesh.faces, None), 3 * step[:, None] * normal
    sides = []
    for sign in (-1.0, 1.0):
        start = ends.mean(1) + sign * step[:, None] * across + above
        distance, face, weights = target.hits(start, -normal)
        sides.append((start - distance[:, None] * normal, face, weights, distance < 6 * step))
    near = sides[0][3] & sides[1][3]
    points, faces, weights = (np.stack([s[k][near] for s in sides]) for k in range(3))
    return Pairs(points, faces, weights, np.stack([labels[left], labels[right]])[:, near])


def energy_ratio(asset: Asset, truth: Truth, choice: Choice, pairs: Pairs) -> float:
    """The texture's mean squared difference over pairs, against that of the levelled photos of both sides."""
    own = [texture_at(asset, pairs.faces[i], pairs.weights[i]) for i in (0, 1)]
    of_texture = ((own[0] - own[1]) ** 2).sum(1)
    of_photos, counted = np.zeros(len(of_texture)), np.zeros(len(of_texture))
    for v, view in enumerate(truth.posed.views):
        rows = np.flatnonzero((pairs.labels == v).any(0))
        if len(rows) == 0:
            continue
        photo = linear_to_srgb(srgb_to_linear(truth.posed.image(v) / 255) * choice.gains[v]).astype(np.float32)
        colours = []
        for i in (0, 1):
            pixel, _ = view.project(pairs.ends[i][rows])
            x, y = (pixel - 0.5).astype(np.float32).T
            colours.append(cv2.remap(photo, x[None], y[None], cv2.INTER_LINEAR)[0])
        of_photos[rows] += ((colours[0] - colours[1]) ** 2).sum(1)
        counted[rows] += 1
    return float(of_texture.sum() / max((of_photos / np.maximum(counted, 1)).sum(), 1e-12))


def texture_at(asset: Asset, faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Bilinear colours, 0..1."""
    uv = np.einsum("nk,nkc->nc", weights, asset.uv_mesh.uv[asset.uv_mesh.faces[faces]])
    size = len(asset.base_colour)
    x, y = (uv[:, 0] * size - 0.5).astype(np.float32), ((1 - uv[:, 1]) * size - 0.5).astype(np.float32)
    return cv2.remap(asset.base_colour, x[None], y[None], cv2.INTER_LINEAR)[0].astype(float) / 255


def n_black(asset: Asset) -> int:
    """Texels of charts that are black or were never filled."""
    used = asset.seen > 0
    return int((asset.base_colour[used].max(1) <= 2).sum())


def half(posed: PosedCapture, first: int) -> PosedCapture:
    return replace(posed, views=posed.views[first::2], sharpness=posed.sharpness[first::2])


def difference(one: Asset, other: Asset) -> float:
    """RMS of 255 between two textures of one atlas where photos saw both, after one gain per channel."""
    both = (one.seen == 255) & (other.seen == 255)
    a, b = one.base_colour[both].astype(float), other.base_colour[both].astype(float)
    return float(np.sqrt(((a - b * ((a * b).sum(0) / (b * b).sum(0))) ** 2).mean()))


def halves(truth: Truth, uv_mesh: UvMesh, job: Job) -> dict[str, float]:
    made: dict[str, list[Asset]] = {"ours": [], "best view": []}
    for first in (0, 1):
        posed = half(truth.posed, first)
        choice = choose_photos(posed, truth.region, uv_mesh, TextureConfig(), job, Clock(job))
        made["ours"].append(bake_texture(posed, truth.region, uv_mesh, TextureConfig(), job))
        made["best view"].append(best_view(uv_mesh, choice, TextureConfig()))
    return {name: difference(*assets) for name, assets in made.items()}


def texture_rows(scene: Path, words: list[str]) -> Iterator[tuple[str, ...]]:
    """Ours and the best view's at each noise."""
    given = dict(word.split("=", 1) for word in words)
    if not set(given) <= {"noise", "halves"} or not (scene / "gt").exists():
        raise SystemExit("benchmark.py texture takes captures with gt/, noise=0,1,2 and halves=yes.")
    with tempfile.TemporaryDirectory() as name:
        truth, job = load_truth(scene, Path(name)), Job("texture", Path(name))
        apart = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        ours, seconds, peak = apart.submit(finished, truth, scene / "images", Path(name)).result()
        uv_mesh, between = ours.uv_mesh, {}
        if given.get("halves") == "yes":
            between = halves(truth, uv_mesh, job)
        for noise in map(float, given.get("noise", "0,1,2").split(",")):
            posed = disturbed(truth.posed, noise)
            choice = choose_photos(posed, truth.region, uv_mesh, TextureConfig(), job, Clock(job))
            both = {"ours": ours, "best view": best_view(uv_mesh, choice, TextureConfig())}
            if noise > 0:
                both["ours"] = bake_texture(posed, truth.region, uv_mesh, TextureConfig(), job)
            for kind, asset in both.items():
                score = novel_views(asset, truth)
                ratios = [
                    energy_ratio(asset, truth, choice, pairs_across(uv_mesh, choice, step, at_seams))
                    for at_seams in (True, False)
                    for step in (1.0, 4.0)
                ]
                timed = noise == 0 and kind == "ours"
                yield (
                    f"{noise:g}", kind, f"{score['psnr']:.2f}", f"{score['ssim']:.3f}", f"{score['flip']:.4f}",
                    *(f"{r:.2f}" for r in ratios), f"{between[kind]:.1f}" if between and noise == 0 else "",
                    str(n_black(asset)), " + ".join(f"{s:.0f}" for s in seconds.values()) if timed else "",
                    str(peak) if timed else "",
                )  # fmt: skip
