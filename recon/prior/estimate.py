"""A dense oriented point cloud of the object by multi-view stereo: depth maps (swept or learned), filter, fuse."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import cv2
import numpy as np

from recon.data import ObjectRegion, PosedCapture, PriorCloud
from recon.prior.filter import FilterConfig, agreeing, neighbours
from recon.prior.fuse import FuseConfig, empty_cloud, fuse, joined, samples_of
from recon.prior.network.config import NetworkConfig
from recon.prior.refine import RefineConfig, refine_depth
from recon.prior.sweep import SweepConfig, sweep_again, sweep_inverse_depth
from recon.prior.view_pairs import choose_sources, common_points, viewing_directions
from recon.prior.visual_hull import VisualHull, carve, depth_bounds
from recon.prior.work_view import DepthMap, WorkView, cut_all, halved, working_scale
from recon.stage import NOT_IN_KEY, Job, stage

FEW_KEPT = 0.1
"""Below this share of the masks' pixels with an agreed depth the user is told."""


class Method(Enum):
    """Who finds the depth maps."""

    sweep = "sweep"
    """The classical plane sweep with slanted-plane refinement: nothing learned."""
    mvsnet = "mvsnet"
    """The cascade MVSNet with the weights that come with recon, or others (`prior.network.checkpoint`)."""
    both = "both"
    """Depth maps of both, each confirmed by the others of both kinds; costs both times."""
    none = "none"
    """No depth maps: the surface rests on masks and photos alone."""


@dataclass(frozen=True)
class PriorConfig:
    method: Method = Method.mvsnet
    """Who finds the depth maps; all else is the same."""
    object_px: int = 60_000
    """Pixels of the object in the median photo at working size; photos are reduced to it, never enlarged. Time and
    memory go in proportion; raising it finds finer detail."""
    n_sources: int = 6
    """Views that each view is matched with. Raising it costs time in proportion and helps at occlusions."""
    max_views: int = 64
    """At most so many views get a depth map, evenly spread; more cost time and add little."""
    n_threads: int = field(default=0, metadata=NOT_IN_KEY)
    """Views worked on at the same time; 0 means one per core."""
    hull_voxels: int = 96
    """Voxels along the longest side of the visual hull that bounds each ray's depth. Raising it bounds tighter."""
    outside_share: float = 0.12
    """A place counts as outside the object if more than this share of the views that show it say background there.
    Raising it forgives worse masks and lets more stray points in."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """The plane sweep."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    """The slanted-plane refinement."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """The network, for method=mvsnet and both."""
    filter: FilterConfig = field(default_factory=FilterConfig)
    """The agreement between views."""
    fuse: FuseConfig = field(default_factory=FuseConfig)
    """The cloud."""

    def files(self) -> tuple[Path, ...]:
        """Files whose contents the result depends on. Raises UserError where the network's weights are missing."""
        return (self.network.weights(),) if self.method in (Method.mvsnet, Method.both) else ()


@contextmanager
def worker_pool(n_threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each work on a view of their own, with OpenCV's inner threads off meanwhile."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ThreadPoolExecutor(n_threads or os.cpu_count() or 1) as pool:
            yield pool
    finally:
        cv2.setNumThreads(before)


def estimate_depth(reference: WorkView, sources: list[WorkView], hull: VisualHull, cfg: PriorConfig) -> DepthMap:
    """The depth map of one view from its sources: swept at half size, then in a band at working size, then refined."""
    half = halved(reference)
    swept, step = sweep_inverse_depth(half, [halved(s) for s in sources], depth_bounds(hull, half), cfg.sweep)
    size = (reference.grey.shape[1], reference.grey.shape[0])
    # nearest, as a mean over a depth edge is on neither side; a rim pixel that the small mask lacks takes the
    # nearest one that has a value
    filled = np.where(swept > 0, swept, cv2.dilate(swept, np.ones((5, 5), np.uint8)))
    filled = cv2.resize(filled, size, interpolation=cv2.INTER_NEAREST)
    bounds = depth_bounds(hull, reference)
    swept, step = sweep_again(reference, sources, bounds, filled, step, cfg.sweep)
    return refine_depth(reference, sources, swept, step, bounds, cfg.refine)


def spread_subset(directions: np.ndarray, n: int) -> list[int]:
    """Indices of at most `n` directions, each next one the farthest from those before (Gonzalez 1985)."""
    if len(directions) <= n:
        return list(range(len(directions)))
    chosen = [0]
    nearest = directions @ directions[0]
    while len(chosen) < n:
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, directions @ directions[chosen[-1]])
    return sorted(chosen)


def one_ahead(futures: Iterator[Future[DepthMap]]) -> Iterator[DepthMap]:
    """Results in order, each waited for when the next one has been begun."""
    before: Future[DepthMap] | None = None
    for future in futures:
        if before:
            yield before.result()
        before = future
    if before:
        yield before.result()


def depth_maps(
    works: list[WorkView],
    sources: list[list[int]],
    chosen: list[int],
    hull: VisualHull,
    cfg: PriorConfig,
    pool: ThreadPoolExecutor,
    progress: Callable[[int, int], None],
) -> list[DepthMap]:
    """Depth maps of the chosen views that have at least one source; two of each for method=both."""
    wanted = [i for i in chosen if sources[i]]
    n_methods = 2 if cfg.method is Method.both else 1
    maps: list[DepthMap] = []

    def take(found: DepthMap) -> None:
        maps.append(found)
        progress(len(maps), n_methods * len(wanted))

    if cfg.method in (Method.mvsnet, Method.both):
        from recon.prior.learned import network_depth_maps, refined

        learned = network_depth_maps(works, sources, wanted, hull, cfg.network)
        if cfg.method is Method.mvsnet and cfg.network.refine_rounds > 0:
            rule = replace(cfg.refine, rounds=cfg.network.refine_rounds)
            # each on a thread of its own while the network is at the next view
            learned = one_ahead(
                pool.submit(refined, found, [works[k] for k in sources[i]], hull, cfg.sweep.plane_step_px, rule)
                for i, found in zip(wanted, learned, strict=True)
            )
        for found in learned:
            take(found)
    if cfg.method in (Method.sweep, Method.both):
        for future in [
            pool.submit(estimate_depth, works[i], [works[k] for k in sources[i]], hull, cfg) for i in wanted
        ]:
            take(future.result())
    return maps


@stage(PriorCloud, 3)
def estimate_prior(posed: PosedCapture, region: ObjectRegion, cfg: PriorConfig, job: Job) -> PriorCloud:
    """An oriented, confidence-weighted cloud on the object's surface, by multi-view stereo.

    May be nearly empty (with a warning): what has no texture, or mirrors, gets no points rather than wrong ones.
    """
    if cfg.method is Method.none:
        job.notes["method"] = cfg.method.name
        return empty_cloud()
    centre = region.world_from_box.translation
    with worker_pool(cfg.n_threads) as pool:
        job.progress(0, 100, "cutting out the object")
        scale = working_scale(posed, region, cfg.object_px)
        works = cut_all(posed, region, scale, pool)
        if len(works) < 2:
            job.warn(
                "Fewer than two photos show the object in their masks, so the surface starts without a point cloud."
            )
            return empty_cloud()
        hull = carve(works, region, cfg.hull_voxels, cfg.outside_share)
        n_common = common_points(posed, works, region.inside_hull(posed.points_world))
        sources = choose_sources(works, centre, n_common, cfg.n_sources)
        chosen = spread_subset(viewing_directions(works, centre), cfg.max_views)
        maps = depth_maps(
            works, sources, chosen, hull, cfg, pool,
            lambda i, n: job.progress(5 + 80 * i / n, 100, f"depth map {i} of {n}"),
        )  # fmt: skip
        if len(maps) < 2:
            job.warn("No two photos see the object from directions near enough to match, so there is no point cloud.")
            return empty_cloud()
        job.progress(85, 100, "comparing depth maps")
        rule = cfg.filter.for_two_kinds() if cfg.method is Method.both else cfg.filter
        near = neighbours(viewing_directions([m.work_view for m in maps], centre), rule.n_compared)
        agreed = list(pool.map(lambda i: agreeing(maps[i], [maps[k] for k in near[i]], rule), range(len(maps))))
    job.progress(92, 100, "fusing")
    parts = [samples_of(a, cfg.fuse.edge_px) for a in agreed]
    cloud = fuse(joined(parts), works, hull, region, cfg.outside_share, cfg.fuse)
    kept = sum(len(p.points) for p in parts) / sum(int(m.work_view.mask.sum()) for m in maps)
    job.notes |= {
        "method": cfg.method.name,
        "scale": scale,
        "n_depth_maps": len(maps),
        "kept_share": kept,
        "n_points": len(cloud.points_world),
    }
    if kept < FEW_KEPT:
        job.warn(
            f"Photos agree on only {kept:.0%} of the object's surface (plain or mirroring material): "
            "the shape there rests on silhouettes and shading alone."
        )
    return replace(cloud, stats={"kept_share": kept, "n_depth_maps": float(len(maps))})
