"""A world frame for the model: what the cameras look at, which way is up, what the object stands on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from pose.model import SparseModel
from recon.data import SupportPlane
from recon.transforms import Similarity, rotation_between


@dataclass(frozen=True)
class OrientConfig:
    """How the world frame is found."""

    near_share: float = 0.6
    """Points closer to the focus than this share of the median camera distance may belong to the support plane."""
    plane_thickness: float = 0.01
    """Points this close to a plane lie on it, in median camera distances."""
    min_inlier_share: float = 0.15
    """A level plane with a smaller share of the nearby points is no support."""
    min_wall_share: float = 0.35
    """A steep plane needs so large a share: it may be a side of the object."""
    max_tilt_deg: float = 25.0
    """A plane tilted more than this against the cameras' own upright is steep, and does not say which way is up."""
    seed: int = 0
    """Seed of the random sample of planes."""


@dataclass(frozen=True)
class Orientation:
    """The world frame and what it was found from."""

    world_from_model: Similarity
    focus_world: Float64[np.ndarray, "3"]
    up_source: str
    support_plane: SupportPlane | None


def orient(
    model: SparseModel, cfg: OrientConfig, metres_per_unit: float | None = None, has_gravity: bool = False
) -> Orientation:
    """+Z up, the origin on the support plane below the focus (else at the focus), in metres.

    Where metres_per_unit is None the median camera stands 1 away instead. has_gravity: the model's +Y or +Z is
    vertical, as in an AR session.
    """
    centres, rotations = model.centres(), model.rotations()
    focus = focus_point(centres, rotations[:, 2])
    radius = float(np.median(np.linalg.norm(centres - focus, axis=1)))
    upright, up_source = upright_of_cameras(rotations), "camera orientation"
    vertical = vertical_axis(upright, cfg.max_tilt_deg) if has_gravity else None
    if vertical is not None:
        upright, up_source = vertical, "gravity of the given poses"
    plane = find_support(model.points, centres, focus, radius, upright, cfg)
    up, origin = upright, focus
    if plane is not None and plane.normal_world @ upright >= np.cos(np.radians(cfg.max_tilt_deg)):
        up, up_source = plane.normal_world, "support plane"
        origin = focus - (up @ focus - plane.offset) * up
    turn = rotation_between(up, np.array([0.0, 0.0, 1.0]))
    scale = 1 / radius if metres_per_unit is None else metres_per_unit
    world_from_model = Similarity(scale, turn, -scale * (turn @ origin))
    if plane is not None:
        normal = turn @ plane.normal_world
        offset = float(normal @ world_from_model.apply((plane.offset * plane.normal_world)[None])[0])
        plane = SupportPlane(normal, offset, plane.inlier_share)
    return Orientation(world_from_model, world_from_model.apply(focus[None])[0], up_source, plane)


def focus_point(
    centres: Float64[np.ndarray, "n_views 3"], forward: Float64[np.ndarray, "n_views 3"]
) -> Float64[np.ndarray, "3"]:
    """The point nearest to all optical axes, cameras that look elsewhere counting little (Geman-McClure weights)."""
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    weight = np.ones(len(centres))
    focus = centres.mean(0)
    for _ in range(20):
        weighted = across * weight[:, None, None]
        # A small pull to the cameras' middle keeps parallel axes solvable.
        lhs = weighted.sum(0) + 1e-6 * weight.sum() * np.eye(3)
        rhs = np.einsum("nij,nj->i", weighted, centres) + 1e-6 * weight.sum() * centres.mean(0)
        focus = np.linalg.solve(lhs, rhs)
        distance = np.linalg.norm(np.einsum("nij,nj->ni", across, focus - centres), axis=1)
        scale = max(float(np.median(distance)) * 2, 1e-9)
        weight = 1 / (1 + (distance / scale) ** 2) ** 2
    return focus


def upright_of_cameras(rotations: Float64[np.ndarray, "n_views 3 3"]) -> Float64[np.ndarray, "3"]:
    """The direction that is up if the photographer held the camera level.

    The direction most at right angles to all cameras' right axes, on the side where their tops point. Where the right
    axes do not tell (a photographer who hardly walked around), the mean of the tops.
    """
    tops = -rotations[:, 1].mean(0)
    values, vectors = np.linalg.eigh(np.einsum("ni,nj->ij", rotations[:, 0], rotations[:, 0]) / len(rotations))
    up = vectors[:, 0]
    # All right axes nearly parallel leave a whole plane of candidates: two small eigenvalues.
    if values[1] < 0.05 or abs(up @ tops) < 0.1 * np.linalg.norm(tops):
        up = tops
    return up * (1 if up @ tops >= 0 else -1) / np.linalg.norm(up)


def vertical_axis(upright: Float64[np.ndarray, "3"], max_tilt_deg: float) -> Float64[np.ndarray, "3"] | None:
    """The one of +Y and +Z (ARKit's and nerfstudio's up) that is nearer to the cameras' upright; None if neither is."""
    y, z = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    axis = y if upright @ y > upright @ z else z
    return axis if upright @ axis >= np.cos(np.radians(max_tilt_deg)) else None


def find_support(
    points: Float64[np.ndarray, "n_points 3"],
    centres: Float64[np.ndarray, "n_views 3"],
    focus: Float64[np.ndarray, "3"],
    radius: float,
    upright: Float64[np.ndarray, "3"],
    cfg: OrientConfig,
) -> SupportPlane | None:
    """The level plane with most points near the focus that has cameras and points above it; else a wall behind them.

    radius: the median camera distance to the focus; upright: roughly up.
    """
    near = points[np.linalg.norm(points - focus, axis=1) < cfg.near_share * radius]
    if len(near) < 50:
        return None
    thickness = cfg.plane_thickness * radius
    sample, normals, offsets = _candidate_planes(near, centres.mean(0), cfg.seed)
    level = normals @ upright >= np.cos(np.radians(cfg.max_tilt_deg))
    for group, min_share in ((level, cfg.min_inlier_share), (~level, cfg.min_wall_share)):
        best, best_share = -1, min_share
        for k in np.flatnonzero(group):
            height = sample @ normals[k] - offsets[k]
            share = float((np.abs(height) < thickness).mean())
            if share > best_share and _carries(height, centres @ normals[k] - offsets[k], thickness):
                best, best_share = int(k), share
        if best >= 0:
            return _fitted(near, normals[best], float(offsets[best]), thickness)
    return None


def _candidate_planes(
    near: Float64[np.ndarray, "n 3"], camera_middle: Float64[np.ndarray, "3"], seed: int
) -> tuple[Float64[np.ndarray, "m 3"], Float64[np.ndarray, "k 3"], Float64[np.ndarray, " k"]]:
    """A sample of the points, and planes through random triples of it with normals towards the cameras."""
    rng = np.random.default_rng(seed)
    sample = near[rng.choice(len(near), min(len(near), 4000), replace=False)]
    a, b, c = sample[rng.integers(0, len(sample), (3, 4000))]
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1)
    proper = length > 1e-6 * np.median(length)
    normals, a = normals[proper] / length[proper, None], a[proper]
    normals *= np.where(((camera_middle - a) * normals).sum(1, keepdims=True) > 0, 1, -1)
    return sample, normals, (a * normals).sum(1)


def _fitted(
    near: Float64[np.ndarray, "n 3"], normal: Float64[np.ndarray, "3"], offset: float, thickness: float
) -> SupportPlane:
    """Least squares on the points near a plane, repeated as the set of near points settles."""
    for _ in range(5):
        inlier = near[np.abs(near @ normal - offset) < thickness]
        middle = inlier.mean(0)
        fitted = np.linalg.svd(inlier - middle, full_matrices=False)[2][2]
        normal = fitted * (1 if fitted @ normal > 0 else -1)
        offset = float(normal @ middle)
    return SupportPlane(normal, offset, float((np.abs(near @ normal - offset) < thickness).mean()))


def _carries(
    height: Float64[np.ndarray, " n"], camera_height: Float64[np.ndarray, " n_views"], thickness: float
) -> bool:
    """A support has the cameras above it, hardly any point below, and far more points on it than just above it.

    The last tells a surface from a slab cut through a crowd of points.
    """
    on = int((np.abs(height) < thickness).sum())
    above = int(((height > 2 * thickness) & (height < 4 * thickness)).sum())
    return bool((camera_height > 0).mean() > 0.97 and (height < -3 * thickness).mean() < 0.05 and on > 3 * above)
