"""What one training step sees: a view, its sources, cameras that are a little wrong, and the true depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from recon.camera import Pinhole, View
from recon.prior.network.cascade import Rig
from recon.prior.network.warp import motion_between
from recon.prior.training.scenes import Views, make_views
from recon.transforms import Rigid

POSE_NOISE_PX = 0.4
"""How far estimated cameras move a point in the picture, per axis."""
WIDEST_DEG = 50.0
"""Sources see the object from within this angle where there are enough."""
MASKED_SHARE = 0.75
"""Of the tuples are masked, as crops of an object are; the others teach more pixels."""
MASK_NOISE_PX = 3.0
"""How far a mask's outline may be off, in or out."""
MOST_SLACK = 0.25
"""How much farther than the object the depth range may reach at either end, as a share of it."""


@runtime_checkable
class SceneSource(Protocol):
    """Scenes by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Views: ...


class StoredScenes:
    """Scenes that are rendered once and read from disk from then on."""

    def __init__(self, folder: Path, seeds: range) -> None:
        self.folder, self.seeds = folder, seeds

    def __len__(self) -> int:
        return len(self.seeds)

    def path(self, index: int) -> Path:
        return self.folder / f"scene_{self.seeds[index]:05d}.npz"

    def make(self, index: int) -> None:
        """Render a scene unless it is there already."""
        if self.path(index).exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.path(index).with_suffix(".partial.npz")
        np.savez(partial, **vars(make_views(self.seeds[index])))
        partial.replace(self.path(index))

    def __getitem__(self, index: int) -> Views:
        self.make(index)
        with np.load(self.path(index)) as arrays:
            return Views(**arrays)


@dataclass(frozen=True)
class ViewTuple:
    """One reference view (first) with its sources."""

    rgb: Float32[np.ndarray, "v 3 h w"]
    a: Float32[np.ndarray, "s 3 3"]
    b: Float32[np.ndarray, "s 3"]
    inv_depth: Float32[np.ndarray, "2"]
    depth_z: Float32[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "v h w"]
    """What the network is told to be the object; everything where the tuple is not masked."""
    beside: Bool[np.ndarray, "h w"]
    """What is no object in the reference of a masked tuple, and is not asked for."""


@dataclass(frozen=True)
class Batch:
    """Tuples of as many sources side by side."""

    rgb: Float[Tensor, "b v 3 h w"]
    rig: Rig
    position: Float[Tensor, "b h w"]
    """True position in the range."""
    known: Bool[Tensor, "b h w"]
    """Where the true depth is in the range and asked for."""
    mask: Float[Tensor, "b v h w"]
    beside: Bool[Tensor, "b h w"]
    """As in `ViewTuple`."""

    def reach(self) -> Float[Tensor, "b 2 h w"]:
        """Any position within the reference's mask, none beside it."""
        return torch.stack([1 - self.mask[:, 0], self.mask[:, 0]], 1)


def view_of(views: Views, index: int) -> View:
    """A photo's true camera."""
    height, width = views.depth_z.shape[1:]
    pose = views.cam_from_world[index]
    return View(f"{index}", Pinhole(width, height, *views.intrinsics[index].tolist()), Rigid(pose[:, :3], pose[:, 3]))


def moved(view: View, distance: float, rng: np.random.Generator) -> View:
    """The camera as structure from motion would have it: turned and shifted by parts of a pixel."""
    angle = rng.normal(0, POSE_NOISE_PX / view.camera.fx_px, 3)
    cross = np.array([[0, -angle[2], angle[1]], [angle[2], 0, -angle[0]], [-angle[1], angle[0], 0]])
    u, _, vt = np.linalg.svd(np.eye(3) + cross)
    shift = rng.normal(0, 0.5 * POSE_NOISE_PX / view.camera.fx_px * distance, 3)
    # turned about the object, so that the error is in how rays meet and not in where the object is
    middle = view.forward_world() * distance + view.centre_world()
    turned = Rigid(u @ vt, shift + (np.eye(3) - u @ vt) @ view.cam_from_world.apply(middle[None])[0])
    return View(view.name, view.camera, turned @ view.cam_from_world)


def draw_tuple(views: Views, n_sources: int, rng: np.random.Generator) -> ViewTuple:
    """A random view of a scene and random sources near it, each with its own exposure, contrast, tint and mask."""
    n = len(views.rgb)
    reference = int(rng.integers(n))
    forward = np.array([view_of(views, i).forward_world() for i in range(n)])
    angle = np.degrees(np.arccos(np.clip(forward @ forward[reference], -1, 1)))
    angle[reference] = np.inf
    order = np.argsort(angle)
    near = order[: max(n_sources, int((angle < WIDEST_DEG).sum()))]
    # wrong sources happen: one in twelve is any view
    sources = [int(order[int(rng.integers(n - 1))]) if rng.random() < 1 / 12 else int(i)
               for i in rng.choice(near, n_sources, replace=False)]  # fmt: skip
    far, close = views.inv_depth[reference]
    distance = 2 / (far + close)
    own = view_of(views, reference)
    motions = [motion_between(own, moved(view_of(views, i), distance, rng)) for i in sources]
    slack = rng.uniform(0, MOST_SLACK, 2) * (close - far)
    rgb = np.stack([jittered(views.rgb[i], rng) for i in (reference, *sources)])
    masked = rng.random() < MASKED_SHARE
    masks = [ragged(views.mask[i], rng) if masked else np.ones_like(views.mask[i]) for i in (reference, *sources)]
    return ViewTuple(
        rgb,
        np.array([m[0] for m in motions], np.float32),
        np.array([m[1] for m in motions], np.float32),
        np.array([max(far - slack[0], 0.2 * far), close + slack[1]], np.float32),
        views.depth_z[reference],
        np.stack(masks),
        ~views.mask[reference] & masked,
    )


def ragged(mask: Bool[np.ndarray, "h w"], rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
    """A mask as segmentation finds it: its outline a little off, here in and there out."""
    height, width = mask.shape
    cell = rng.uniform(6, 24)
    waves = rng.uniform(-1, 1, (1 + int(height / cell), 1 + int(width / cell))).astype(np.float32)
    off = rng.uniform(-1, 1) + cv2.resize(waves, (width, height), interpolation=cv2.INTER_CUBIC)
    within, without = (cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, 3) for m in (mask, ~mask))
    return np.asarray(within - without > rng.uniform(0, MASK_NOISE_PX / 2) * off)


def jittered(rgb: np.ndarray, rng: np.random.Generator) -> Float32[np.ndarray, "3 h w"]:
    """A photo (bytes) as 0..1 with its own brightness, gamma, contrast, tint and grain."""
    out = (rgb.astype(np.float32) / 255) ** np.float32(rng.uniform(0.8, 1.25))
    out = out * (rng.uniform(0.75, 1.2) * rng.uniform(0.94, 1.06, 3)).astype(np.float32)
    out = (out - 0.5) * np.float32(rng.uniform(0.75, 1.1)) + np.float32(rng.uniform(0.45, 0.55))
    out += rng.normal(0, 0.015 * rng.random() ** 2, out.shape).astype(np.float32)
    return np.ascontiguousarray(np.clip(out, 0, 1).transpose(2, 0, 1))


def draw(scenes: SceneSource, n: int, n_sources: int, rng: np.random.Generator) -> list[ViewTuple]:
    """Random tuples of random scenes."""
    return [draw_tuple(scenes[int(rng.integers(len(scenes)))], n_sources, rng) for _ in range(n)]


def collate(tuples: Sequence[ViewTuple], device: torch.device) -> Batch:
    """Tuples as one batch on a device."""

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(t, name) for t in tuples])).to(device)

    rig = Rig(stacked("a"), stacked("b"), stacked("inv_depth"))
    depth_z = stacked("depth_z")
    far, near = (rig.inv_depth[:, i, None, None] for i in (0, 1))
    position = (1 / depth_z.clamp(min=1e-6) - far) / (near - far)
    mask, beside = stacked("mask").float(), stacked("beside")
    known = (depth_z > 0) & (position >= 0) & (position <= 1) & (mask[:, 0] > 0) & ~beside
    return Batch(stacked("rgb"), rig, position.clamp(0, 1), known, mask, beside)
