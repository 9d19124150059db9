"""Depth maps by the network: features of each view once, then each view against its sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32

from recon.prior.network.cascade import Rig, padded_reach
from recon.prior.network.checkpoint import DepthNetwork, load_network
from recon.prior.network.config import NetworkConfig
from recon.prior.network.features import Pyramid
from recon.prior.network.warp import motion_between
from recon.prior.refine import RefineConfig, fitted_slopes, normals_of_planes, refine_depth
from recon.prior.sweep import pixels_per_inverse_depth
from recon.prior.visual_hull import VisualHull, depth_bounds
from recon.prior.work_view import DepthMap, WorkView

NEVER_DROPPED = 1.01
"""As `RefineConfig.worst_cost`: more than a match can cost."""
NORMAL_RADIUS_PX = 2
"""Half the side of the window whose plane gives a pixel's normal."""


def fastest_device() -> torch.device:
    """CUDA where torch has it, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pyramid_of(net: DepthNetwork, work: WorkView, device: torch.device) -> Pyramid:
    """The features of a crop."""
    rgb, mask = torch.from_numpy(work.rgb).to(device), torch.from_numpy(work.mask).to(device)
    return net.pyramid(rgb.permute(2, 0, 1)[None].float() / 255, mask[None, None].float())


def position_bounds(bounds: Float32[np.ndarray, "h w 2"], far: float, near: float) -> Float32[np.ndarray, "2 h w"]:
    """Lowest and highest position of each pixel by the hull's nearest and farthest depth_z; 1 and 0 where it has none.

    far, near: inverse depth_z at positions 0 and 1.
    """
    some = bounds[..., 0] > 0
    low = (1 / np.maximum(bounds[..., 1], 1e-12) - far) / (near - far)
    high = (1 / np.maximum(bounds[..., 0], 1e-12) - far) / (near - far)
    return np.stack([np.where(some, low, 1), np.where(some, high, 0)]).astype(np.float32)


def depth_map_from(
    work: WorkView,
    position: Float32[np.ndarray, "h w"],
    probability: Float32[np.ndarray, "h w"],
    reach: Float32[np.ndarray, "2 h w"],
    ends: tuple[float, float],
    cfg: NetworkConfig,
) -> DepthMap:
    """What is left of the network's answer: the mask's pixels that are probable and within reach.

    ends: inverse depth_z at positions 0 and 1.
    """
    far, near = ends
    good = work.mask & (position >= reach[0]) & (position <= reach[1]) & (probability >= cfg.min_probability)
    inv_depth = (far + position * (near - far)).astype(np.float32)
    depth_z = np.where(good, 1 / np.maximum(inv_depth, 1e-12), 0).astype(np.float32)
    planes = np.stack(fitted_slopes(inv_depth, good, NORMAL_RADIUS_PX), -1)
    normal = np.where(good[..., None], normals_of_planes(planes, work), (0.0, 0.0, -1.0)).astype(np.float32)
    return DepthMap(work, depth_z, normal, np.where(good, probability, 0).astype(np.float32))


def estimate_by_network(
    net: DepthNetwork,
    index: int,
    pyramids: list[Pyramid],
    works: list[WorkView],
    sources: list[int],
    hull: VisualHull,
    cfg: NetworkConfig,
) -> DepthMap:
    """The depth map of one view from its sources. The depth range is the hull's in this view."""
    work = works[index]
    height, width = work.mask.shape
    bounds = depth_bounds(hull, work)
    some = bounds[..., 0] > 0
    if not some.any():
        return depth_map_from(
            work, np.zeros((height, width), np.float32), np.zeros((height, width), np.float32),
            np.zeros((2, height, width), np.float32), (work.inv_depth_far, work.inv_depth_near), cfg,
        )  # fmt: skip
    far, near = float(1 / bounds[some][:, 1].max()), float(1 / bounds[some][:, 0].min())
    device = pyramids[index][0].device
    motions = [motion_between(work.view, works[k].view) for k in sources]
    rig = Rig(
        torch.from_numpy(np.stack([m[0] for m in motions]))[None].float().to(device),
        torch.from_numpy(np.stack([m[1] for m in motions]))[None].float().to(device),
        torch.tensor([[far, near]], device=device),
    )
    reach = position_bounds(bounds, far, near)
    within = padded_reach(torch.from_numpy(reach)[None].to(device), *pyramids[index][-1].shape[2:])
    found = net.depth(pyramids[index], [pyramids[k] for k in sources], rig, within)
    position = found.position[0, :height, :width].cpu().numpy()
    probability = found.probability[0, :height, :width].cpu().numpy()
    return depth_map_from(work, position, probability, reach, (far, near), cfg)


def refined(found: DepthMap, sources: list[WorkView], hull: VisualHull, step_px: float, cfg: RefineConfig) -> DepthMap:
    """The network's depth moved to the slanted planes that match best; what matches badly stays, as it knows better.

    step_px: how far the search reaches, as `SweepConfig.plane_step_px` is for the sweep's.
    """
    work, some = found.work_view, found.depth_z > 0
    bounds = depth_bounds(hull, work)
    some &= bounds[..., 0] > 0
    near, far = 1 / np.maximum(bounds[..., 0], 1e-12), 1 / np.maximum(bounds[..., 1], 1e-12)
    start = np.where(some, np.clip(1 / np.maximum(found.depth_z, 1e-12), far, near), 0).astype(np.float32)
    step = step_px / pixels_per_inverse_depth(work, sources)
    moved = refine_depth(work, sources, start, step, bounds, replace(cfg, worst_cost=NEVER_DROPPED))
    return replace(moved, confidence=np.where(moved.depth_z > 0, found.confidence, 0).astype(np.float32))


def network_depth_maps(
    works: list[WorkView], sources: list[list[int]], wanted: list[int], hull: VisualHull, cfg: NetworkConfig
) -> Iterator[DepthMap]:
    """Depth maps of the wanted views, one after the other. Raises UserError where the weights are missing or the file
    holds something else."""
    device = fastest_device()
    with torch.inference_mode():
        net = load_network(cfg.weights(), device)
        pyramids = [pyramid_of(net, work, device) for work in works]
    for i in wanted:
        with torch.inference_mode():  # not around the yield, where the caller's code runs
            found = estimate_by_network(net, i, pyramids, works, sources[i][: cfg.n_sources], hull, cfg)
        yield found
