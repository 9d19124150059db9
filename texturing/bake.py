"""bake_texture: the texture map from the best photo for every patch of the surface, without seams.

1. Cut large triangles into cells and find the cell under every texel (cells, rasterize).
2. Crop the photos; depth and distance to edges per pixel; which photo sees which cell (photos, visibility).
3. Level the photos by one gain each and reject what does not fit the others (gains, levelling).
4. Shift the photos locally into register with what they agree on (alignment).
5. Choose one photo per cell in large patches (view_selection).
6. Average all photos robustly; where that loses detail, take the detail from the chosen photo (compose).
7. Fill what no photo saw, and the gutters (fill).
8. Tell roughness and metal of regions of like colour from how the photos differ there (gloss, finishes).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from recon.data import Asset, ObjectRegion, PosedCapture, UvMesh
from recon.stage import Job, stage
from texturing.alignment import align_photos
from texturing.cells import Cells, cut_into_cells, edge_for_count
from texturing.compose import Surface, average_photos, blend_patches, lost_detail, photo_corrections, spread_to_vertices
from texturing.fill import dilate_gutters, fill_unseen
from texturing.finishes import find_finishes, finish_map
from texturing.gains import cell_samples, estimate_gains, point_samples
from texturing.gloss import measure_gloss
from texturing.levelling import disagreement, level_observations, reject, with_gains
from texturing.photos import PhotoStack, load_photos
from texturing.rasterize import Texels, every, rasterize_atlas
from texturing.view_selection import select_views, selection_cost
from texturing.visibility import Observations, observe

SENSOR_NOISE = 0.012
"""Of one photo (sRGB, 0..1): 3 of 255."""
ALIGN_TEXELS = 600_000
"""About as many as the photos have pixels on the surface; more would only cost time."""


@dataclass(frozen=True)
class TextureConfig:
    """How the texture is made from the photos."""

    n_cells: int = 40_000
    """Large triangles are cut to about so many cells; more follow visibility closer and cost time and memory."""
    edge_margin_px: float = 3.0
    """Distance (photo px) from mask borders and depth edges at which pixels are trusted; raise it for poor masks."""
    min_cosine: float = 0.15
    """A photo that sees the surface flatter than this (cosine to the normal) is not used there."""
    depth_tolerance_share: float = 0.006
    """Depth differences below this share of the diagonal do not hide a point; raise it for rough geometry."""
    noise: float = 0.03
    """Difference between photos (sRGB, 0..1) that is still noise; raising it averages more and rejects less."""
    reject_deviations: float = 4.0
    """A photo whose colour lies this many robust deviations off the others' is left out for that cell."""
    seam_share: float = 0.02
    """Price of a seam, as a share of the diagonal; raising it makes patches larger, and some of them less sharp."""
    max_shift_px: float = 4.0
    """Photos are shifted locally by up to this (photo px) to meet each other; 0 leaves them as the cameras say."""
    tone_share: float = 0.015
    """Structures larger than this share of the diagonal come from all photos together, smaller ones from one."""


class Clock:
    """Notes the seconds of each part in the job's record."""

    def __init__(self, job: Job) -> None:
        self.job, self.last = job, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.job.notes[f"{name}_s"] = round(now - self.last, 2)
        self.last = now


class Choice(NamedTuple):
    """The cut and observed surface, and which photo stands for which cell."""

    cells: Cells
    texels: Texels
    stack: PhotoStack
    """Levelled by the gains, not yet aligned."""
    observed: Observations
    gains: Float64[np.ndarray, "n_views 3"]
    rejected: Bool[np.ndarray, "n_faces n_views"]
    labels: Int64[np.ndarray, " n_faces"]


@stage(result=Asset, version=4)
def bake_texture(posed: PosedCapture, region: ObjectRegion, uv_mesh: UvMesh, cfg: TextureConfig, job: Job) -> Asset:
    """Make the base colour map of `uv_mesh` from the photos, and its roughness and metal where they tell.

    Texels that no photo saw are filled from around them.
    """
    clock = Clock(job)
    choice = choose_photos(posed, region, uv_mesh, cfg, job, clock)
    cells, texels, observed, gains = choice.cells, choice.texels, choice.observed, choice.gains
    job.progress(0.5, 1, "blending")
    surface = surface_of(cells, observed, choice.rejected, cfg)
    stack = _align(texels, surface, choice.stack, cfg, job)
    clock.lap("alignment")
    radius_px = cfg.tone_share * _diagonal(uv_mesh) * _pixels_per_length(observed, choice.labels)
    colour, seen = _compose(texels, surface, stack, cells, choice.labels, radius_px, cfg.noise, job)
    clock.lap("blending")
    asset = finish(uv_mesh, texels, cells, colour, seen)
    clock.lap("filling")
    gloss = measure_gloss(observed, gains, cells.areas)
    finishes = find_finishes(cells, observed, gains, gloss)
    if finishes:
        asset = replace(asset, occlusion_roughness_metallic=finish_map(finishes, texels, uv_mesh.texture_size_px))
    clock.lap("finishes")
    asset.stats.update(
        n_cells=len(cells.faces),
        seen_share=round(float(seen.mean()), 4),
        gain_min=round(float(gains.min()), 3),
        gain_max=round(float(gains.max()), 3),
        rejected_share=round(float(choice.rejected.sum() / max(observed.seen.sum(), 1)), 4),
        tone_radius_px=round(radius_px, 2),
        gloss=asdict(gloss),
        finishes=finishes.stats() if finishes else [],
        **_patch_stats(cells, np.where(observed.seen.any(1), choice.labels, -1)),
    )
    if asset.stats["seen_share"] < 0.5:
        job.warn(f"Only {asset.stats['seen_share']:.0%} of the surface is seen by a photo; the rest is filled in.")
    return asset


def choose_photos(
    posed: PosedCapture, region: ObjectRegion, uv_mesh: UvMesh, cfg: TextureConfig, job: Job, clock: Clock
) -> Choice:
    """Steps 1 to 3 and 5: who sees what, how bright each photo is, what does not fit, and one photo for each cell."""
    diagonal = _diagonal(uv_mesh)
    cells = cut_into_cells(uv_mesh, edge_for_count(uv_mesh, cfg.n_cells))
    texels = rasterize_atlas(cells, uv_mesh.texture_size_px)
    clock.lap("atlas")
    stack = load_photos(posed, region, cells, cfg.depth_tolerance_share * diagonal, job)
    clock.lap("photos")
    observed = observe(cells, posed.views, posed.sharpness, stack, cfg.min_cosine, cfg.edge_margin_px)
    gains = estimate_gains([cell_samples(observed, cells.areas), point_samples(posed)])
    clock.lap("levelling")
    job.progress(0.35, 1, "choosing photos")
    score, rejected = _outliers(observed, gains, cfg)
    labels = select_views(cells, selection_cost(observed, score, rejected), cfg.seam_share * diagonal)
    clock.lap("selection")
    return Choice(cells, texels, with_gains(stack, gains), observed, gains, rejected, labels)


def _diagonal(uv_mesh: UvMesh) -> float:
    return float(np.linalg.norm(np.ptp(uv_mesh.vertices_world, axis=0)))


def _outliers(observed: Observations, gains: np.ndarray, cfg: TextureConfig) -> tuple[np.ndarray, np.ndarray]:
    weight = (observed.share * observed.safety * observed.density).astype(np.float32)
    score = disagreement(level_observations(observed, gains), weight, cfg.noise)
    return score, reject(score, observed.seen, cfg.reject_deviations)


def surface_of(cells: Cells, observed: Observations, rejected: np.ndarray, cfg: TextureConfig) -> Surface:
    """Who may paint what; photos are averaged by the square of their density: their pixels on a piece of surface."""
    allowed = observed.seen & ~rejected
    quality = np.where(allowed, observed.density, 0) ** 2
    quality /= np.maximum(quality.max(), 1e-300)
    weight = spread_to_vertices(cells, quality.astype(np.float32))
    return Surface(cells.vertices_world, cells.faces, cells.joined_faces, allowed, weight, cfg.edge_margin_px)


def _align(texels: Texels, surface: Surface, stack: PhotoStack, cfg: TextureConfig, job: Job) -> PhotoStack:
    """Pull the photos into register with what they agree on, twice: the second time that is already sharper."""
    if cfg.max_shift_px <= 0:
        return stack
    some = every(texels, max(1, len(texels.face) // ALIGN_TEXELS))
    for _ in range(2):
        agreed, _ = average_photos(some, surface, stack, cfg.noise)
        stack = align_photos(some, surface, stack, agreed, cfg.max_shift_px)
    job.notes["mean_shift_px"] = round(float(np.linalg.norm(stack.shift_px, axis=1).mean()), 3)
    return stack


def _pixels_per_length(observed: Observations, labels: np.ndarray) -> float:
    """The median sampling density of the chosen photos."""
    density = observed.density[np.arange(len(labels)), labels]
    seen = observed.seen[np.arange(len(labels)), labels]
    return float(np.median(density[seen])) if seen.any() else 0.0


def _compose(
    texels: Texels, surface: Surface, stack: PhotoStack, cells: Cells, labels: np.ndarray, radius_px: float,
    noise: float, job: Job,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Texel colours and whether any photo stands behind them."""
    agreed, weight = average_photos(texels, surface, stack, noise)
    job.progress(0.7, 1, "blending")
    corrections = photo_corrections(texels, surface, stack, agreed, max(radius_px, 1.0))
    job.progress(0.8, 1, "blending")
    chosen = np.zeros(surface.allowed.shape, np.float32)
    chosen[np.arange(len(labels)), labels] = 1
    patches, _ = blend_patches(texels, surface, stack, corrections, spread_to_vertices(cells, chosen), agreed)
    seen = weight > 0
    single = lost_detail(texels, cells, patches, agreed, seen, SENSOR_NOISE)
    job.notes["single_photo_share"] = round(float(single.mean()), 3)
    return agreed + single[:, None] * (patches - agreed), seen


def finish(uv_mesh: UvMesh, texels: Texels, cells: Cells, colour: np.ndarray, seen: np.ndarray) -> Asset:
    """The asset of texel colours, with what was not seen and the gutters filled."""
    size = uv_mesh.texture_size_px
    colour = fill_unseen(np.clip(colour, 0, 1), seen, texels, cells)
    image, used = np.zeros((size, size, 3), np.float32), np.zeros((size, size), bool)
    image[texels.row, texels.column], used[texels.row, texels.column] = colour, True
    seen_map = np.zeros((size, size), np.uint8)
    seen_map[texels.row, texels.column] = np.where(seen, 255, 128)
    image = dilate_gutters(image, used)
    return Asset(uv_mesh, (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), seen_map, {})


def _patch_stats(cells: Cells, labels: np.ndarray) -> dict[str, int]:
    """How many connected regions of cells share a photo, and how many photos were chosen; -1 is no photo."""
    left, right, _ = cells.adjacency
    same = labels[left] == labels[right]
    n = len(labels)
    links = coo_matrix((np.ones(int(same.sum())), (left[same], right[same])), shape=(n, n))
    _, region = connected_components(links, directed=False)
    return {"n_patches": len(np.unique(region[labels >= 0])), "n_photos_used": len(np.unique(labels[labels >= 0]))}
