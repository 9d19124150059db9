"""From filtered depth maps to one evenly thinned cloud of oriented points."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.spatial import cKDTree

from recon.data import ObjectRegion, PriorCloud
from recon.prior.filter import Agreed
from recon.prior.sag import lifted
from recon.prior.visual_hull import VisualHull
from recon.prior.work_view import WorkView, world_points

STEEPEST_COSINE = 0.3
"""Windows seen more flatly count as this flat when their extent on the surface is told."""


@dataclass(frozen=True)
class FuseConfig:
    n_points: int = 120_000
    """Upper bound on points. Raising it keeps finer detail and costs memory later on."""
    edge_px: int = 1
    """Working pixels taken off the mask's rim, where windows saw background. Raising it loses thin parts. 0: none."""
    outlier_sigma: float = 3.0
    """A point is dropped if its neighbours are this many standard deviations farther away than is usual."""


@dataclass(frozen=True)
class Samples:
    """One row per kept pixel of all depth maps."""

    points: Float64[np.ndarray, "n 3"]
    normals: Float64[np.ndarray, "n 3"]
    confidence: Float64[np.ndarray, " n"]
    rgb: Float64[np.ndarray, "n 3"]
    support: Float64[np.ndarray, " n"]
    spread: Float64[np.ndarray, " n"]
    """Mean squared distance, on the surface, of the pixels of the windows that found a point from their middles."""

    def kept(self, keep: Bool[np.ndarray, " n"]) -> Samples:
        return Samples(*(values[keep] for values in vars(self).values()))


def empty_cloud() -> PriorCloud:
    """What is left where nothing could be matched."""
    none = np.zeros((0, 3))
    return PriorCloud(none, none, np.zeros(0), np.zeros((0, 3), np.uint8), np.zeros(0, int))


def samples_of(agreed: Agreed, edge_px: int) -> Samples:
    """World samples of the pixels whose depth survived the filter, without the mask's rim."""
    work = agreed.depth_map.work_view
    keep = agreed.depth_z > 0
    if edge_px > 0:
        kernel = np.ones((2 * edge_px + 1, 2 * edge_px + 1), np.uint8)
        keep &= cv2.erode(work.mask.astype(np.uint8), kernel).astype(bool)
    v, u = np.nonzero(keep)
    index, depth_z = np.stack([u, v], -1), agreed.depth_z[keep].astype(float)
    points = world_points(work.view, index, depth_z)
    normals = agreed.depth_map.normal_cam[keep].astype(float) @ work.view.cam_from_world.rotation
    ray = points - work.view.centre_world()
    cosine = np.maximum(np.abs((ray * normals).sum(1)) / np.linalg.norm(ray, axis=1), STEEPEST_COSINE)
    # a window is stretched along one of its two axes, where the surface is seen at an angle
    spread = agreed.depth_map.window_px2 * (depth_z / work.view.camera.fx_px) ** 2 * (1 + cosine**-2) / 2
    return Samples(
        points, normals, agreed.confidence[keep].astype(float), work.rgb[keep].astype(float),
        agreed.n_support[keep].astype(float), spread,
    )  # fmt: skip


def joined(parts: list[Samples]) -> Samples:
    """All samples in one."""
    return Samples(*(np.concatenate(values) for values in zip(*(vars(p).values() for p in parts), strict=True)))


def outside_masks(points: Float[np.ndarray, "n 3"], works: list[WorkView], share: float) -> Bool[np.ndarray, " n"]:
    """Points that too many views, among those that have them in their crop, see as background."""
    shown, outside = np.zeros(len(points), np.int32), np.zeros(len(points), np.int32)
    for work in works:
        pixels, depth_z = work.view.project(points)
        in_crop = work.view.in_image(pixels, depth_z)
        index = pixels[in_crop].astype(np.int64)
        shown += in_crop
        # one pixel of grace: a point on the silhouette lands on either side by rounding
        loose = cv2.dilate(work.mask.astype(np.uint8), np.ones((3, 3), np.uint8))
        outside[in_crop] += loose[index[:, 1], index[:, 0]] == 0
    return outside > share * np.maximum(shown, 1)


def voxel_index(points: Float64[np.ndarray, "n 3"], voxel: float) -> Int[np.ndarray, " n"]:
    """Which occupied voxel each point lies in, numbered from 0."""
    cell = np.floor((points - points.min(0)) / voxel).astype(np.int64)
    extent = cell.max(0) + 1
    key = (cell[:, 0] * extent[1] + cell[:, 1]) * extent[2] + cell[:, 2]
    return np.unique(key, return_inverse=True)[1]


def thinned(samples: Samples, n_points: int, finest: float) -> Samples:
    """Confidence-weighted means of the samples in each cell of the finest grid with at most `n_points` cells.

    finest: smallest useful voxel (world units), about the width of a working pixel at the object.
    """
    voxel = finest
    index = voxel_index(samples.points, voxel)
    while (count := int(index.max()) + 1) > n_points:
        voxel *= max(1.02, 1.01 * np.sqrt(count / n_points))  # occupied cells of a surface go with 1 / voxel^2
        index = voxel_index(samples.points, voxel)
    weight = samples.confidence**2 + 1e-6
    total = np.bincount(index, weight)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(index, weight * column) for column in values.T], -1) / total[:, None]

    normals = mean(samples.normals)
    length = np.linalg.norm(normals, axis=1)
    scalars = mean(np.stack([samples.confidence, samples.support, samples.spread], -1))
    out = Samples(
        mean(samples.points),
        normals / np.maximum(length, 1e-9)[:, None],
        scalars[:, 0],
        mean(samples.rgb),
        scalars[:, 1],
        scalars[:, 2],
    )
    return out.kept(length > 0.3)  # below, the normals of a cell contradict each other: two surfaces or noise


def without_outliers(samples: Samples, sigma: float, n_neighbours: int = 12) -> Samples:
    """Drop points whose neighbours are unusually far off (statistical outlier removal, as in PCL)."""
    if len(samples.points) <= n_neighbours:
        return samples
    distance = cKDTree(samples.points).query(samples.points, n_neighbours + 1, workers=-1)[0][:, 1:].mean(1)
    middle = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - middle))
    return samples.kept(distance <= middle + sigma * max(spread, 0.25 * middle))


def smoothed_normals(samples: Samples, n_neighbours: int = 48) -> Float64[np.ndarray, "n 3"]:
    """Normals of local planes (weighted principal components), turned to the side of the views' own normals.

    The points themselves stay: moving them onto the planes would even out noise, but also pull curved parts inwards,
    and whoever fits a surface to the cloud averages noise anyway.
    """
    if len(samples.points) < n_neighbours:
        return samples.normals
    distance, near = cKDTree(samples.points).query(samples.points, n_neighbours, workers=-1)
    out = np.empty_like(samples.normals)
    for some in np.array_split(np.arange(len(near)), max(1, len(near) // 20_000)):  # bounds the memory
        own = samples.normals[some]
        alike = np.maximum(np.einsum("nkj,nj->nk", samples.normals[near[some]], own), 0)
        weight = (
            np.exp(-2 * (distance[some] / distance[some, -1:]) ** 2) * alike * samples.confidence[near[some]] + 1e-9
        )
        weight /= weight.sum(1, keepdims=True)
        points = samples.points[near[some]]
        local = points - np.einsum("nk,nkj->nj", weight, points)[:, None]
        normal = np.linalg.eigh(np.einsum("nk,nki,nkj->nij", weight, local, local))[1][:, :, 0]
        cosine = (normal * own).sum(1, keepdims=True)
        # where the plane and what the views saw differ widely (an edge, a thin sheet) the views are right
        out[some] = np.where(np.abs(cosine) > 0.7, normal * np.sign(cosine), own)
    return out


def fuse(
    samples: Samples,
    works: list[WorkView],
    hull: VisualHull,
    region: ObjectRegion,
    outside_share: float,
    cfg: FuseConfig,
) -> PriorCloud:
    """One cloud from all samples: thinned, cropped by hull and masks, without outliers."""
    samples = samples.kept(hull.contains(samples.points))
    if len(samples.points) == 0:
        return empty_cloud()
    centre = region.world_from_box.translation
    finest = float(np.median([np.linalg.norm(w.view.centre_world() - centre) / w.view.camera.fx_px for w in works]))
    samples = thinned(samples, cfg.n_points, finest)
    samples = samples.kept(~outside_masks(samples.points, works, outside_share))
    samples = samples.kept(region.inside_hull(samples.points))
    samples = without_outliers(samples, cfg.outlier_sigma)
    normals = smoothed_normals(samples)
    return PriorCloud(
        lifted(samples.points, samples.normals, samples.spread),
        normals,
        np.clip(samples.confidence, 0, 1),
        np.clip(np.round(samples.rgb), 0, 255).astype(np.uint8),
        np.round(samples.support).astype(np.int64),
    )
