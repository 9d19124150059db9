"""What multi-view stereo works on: each photo cropped to the object and reduced, as a view of its own.

A crop keeps its pose and gets a shifted principal point, so that it is an ordinary `View` and no later code needs to
know about the photo it was cut from.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8

from recon.camera import Pinhole, View
from recon.data import ObjectRegion, PosedCapture

CROP_MARGIN = 0.06
"""Of the object's size in the photo, kept around it: windows of other views reach past the silhouette."""


@dataclass(frozen=True)
class WorkView:
    """One photo's crop of the object at working size."""

    view_idx: int
    """In PosedCapture.views."""
    view: View
    """Pose of the photo, pinhole of the crop."""
    rgb: UInt8[np.ndarray, "h w 3"]
    grey: Float32[np.ndarray, "h w"]
    """0..1."""
    mask: Bool[np.ndarray, "h w"]
    """Where depth is looked for: the object, within the hull."""
    inv_depth_near: float
    inv_depth_far: float
    """1 / depth_z at the hull's nearest and farthest point."""

    def index_matrix(self) -> Float64[np.ndarray, "3 3"]:
        """K for array indices: the centre of the first pixel is at 0 instead of 0.5."""
        k = self.view.camera.matrix()
        k[:2, 2] -= 0.5
        return k


@dataclass(frozen=True)
class DepthMap:
    """What any depth estimator (the sweep here, a network) hands on to filtering and fusion."""

    work_view: WorkView
    depth_z: Float32[np.ndarray, "h w"]
    """0 where there is none."""
    normal_cam: Float32[np.ndarray, "h w 3"]
    """Unit, in camera axes, towards the camera (z < 0)."""
    confidence: Float32[np.ndarray, "h w"]
    """0..1."""
    window_px2: float = 0.0
    """Mean squared distance of a window's pixels from its middle, where windows were matched by planes; 0 where not."""


def relative_motion(
    reference: WorkView, source: WorkView
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3"]]:
    """`a`, `b` so that a reference pixel (index u, v) at depth_z d is seen in the source at a @ (u, v, 1) + b / d.

    A plane whose inverse depth is m . (u, v, 1) thus induces the homography a + b m^T (Hartley & Zisserman, 13.1).
    """
    source_from_ref = source.view.cam_from_world @ reference.view.cam_from_world.inverse()
    k_source = source.index_matrix()
    a = k_source @ source_from_ref.rotation @ np.linalg.inv(reference.index_matrix())
    return a, k_source @ source_from_ref.translation


def hull_mask(region: ObjectRegion, view: View) -> Bool[np.ndarray, "h w"]:
    """Pixels of a photo whose ray meets the region's convex hull."""
    pixels, depth_z = view.project(region.hull_vertices_world)
    if (depth_z <= 0).any():  # the camera stands inside or beside the hull: no pixel can be excluded
        return np.ones((view.camera.height_px, view.camera.width_px), bool)
    outline = cv2.convexHull(pixels.astype(np.float32)) - 0.5
    canvas = np.zeros((view.camera.height_px, view.camera.width_px), np.uint8)
    cv2.fillConvexPoly(canvas, np.round(outline).astype(np.int32), 1)
    return canvas.astype(bool)


def depth_range(region: ObjectRegion, view: View) -> tuple[float, float]:
    """Nearest and farthest depth_z of the hull, kept in front of the camera."""
    depth_z = view.project(region.hull_vertices_world)[1]
    far = float(depth_z.max())
    return max(float(depth_z.min()), 0.02 * far), far


def cut_out(
    posed: PosedCapture, region: ObjectRegion, view_idx: int, scale: float, min_object_px: int = 200
) -> WorkView | None:
    """The crop of one photo; None if the object is not in it, or behind the camera."""
    view = posed.views[view_idx]
    near, far = depth_range(region, view)
    mask: np.ndarray = np.greater(region.mask(view.name), 127) & hull_mask(region, view)
    if far <= 0 or int(mask.sum()) * scale**2 < min_object_px:
        return None
    full = view.camera
    reduced = full.resized(max(1, round(full.width_px * scale)), max(1, round(full.height_px * scale)))
    size = (reduced.width_px, reduced.height_px)
    rgb = cv2.resize(posed.image(view_idx), size, interpolation=cv2.INTER_AREA)
    small_mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    if not small_mask.any():
        return None
    box = crop_box(small_mask)
    x0, y0, x1, y1 = box
    camera = Pinhole(x1 - x0, y1 - y0, reduced.fx_px, reduced.fy_px, reduced.cx_px - x0, reduced.cy_px - y0)
    rgb = np.ascontiguousarray(rgb[y0:y1, x0:x1])
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    crop = View(view.name, camera, view.cam_from_world)
    return WorkView(view_idx, crop, rgb, grey, small_mask[y0:y1, x0:x1].copy(), 1 / near, 1 / far)


def crop_box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the mask's bounding box with its margin, even in size (so that halving keeps pixels whole)."""
    ys, xs = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    margin = 4 + round(CROP_MARGIN * max(np.ptp(xs), np.ptp(ys)))
    x0, y0 = max(int(xs[0]) - margin, 0), max(int(ys[0]) - margin, 0)
    x1, y1 = min(int(xs[-1]) + 1 + margin, mask.shape[1]), min(int(ys[-1]) + 1 + margin, mask.shape[0])
    return x0, y0, x1 - (x1 - x0) % 2, y1 - (y1 - y0) % 2


def halved(work: WorkView) -> WorkView:
    """The crop at half its size."""
    camera = work.view.camera.resized(work.view.camera.width_px // 2, work.view.camera.height_px // 2)
    size = (camera.width_px, camera.height_px)
    mask = cv2.resize(work.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
    return WorkView(
        work.view_idx,
        View(work.view.name, camera, work.view.cam_from_world),
        cv2.resize(work.rgb, size, interpolation=cv2.INTER_AREA),
        cv2.resize(work.grey, size, interpolation=cv2.INTER_AREA),
        mask,
        work.inv_depth_near,
        work.inv_depth_far,
    )


def working_scale(posed: PosedCapture, region: ObjectRegion, object_px: int) -> float:
    """The reduction (at most 1) at which the median view shows `object_px` pixels of the object."""
    area = [int(np.count_nonzero(np.greater(region.mask(v.name), 127))) for v in posed.views]
    seen = [a for a in area if a > 0]
    return min(1.0, float(np.sqrt(object_px / np.median(seen)))) if seen else 1.0


def cut_all(posed: PosedCapture, region: ObjectRegion, scale: float, pool: ThreadPoolExecutor) -> list[WorkView]:
    """The crops of all photos that show the object."""
    crops = pool.map(lambda i: cut_out(posed, region, i, scale), range(len(posed.views)))
    return [c for c in crops if c is not None]


def world_points(
    view: View, index: Int[np.ndarray, "n 2"] | Float[np.ndarray, "n 2"], depth_z: Float[np.ndarray, " n"]
) -> Float64[np.ndarray, "n 3"]:
    """World positions of pixels, given by array index (u, v), at their depth_z."""
    c = view.camera
    x_cam = (
        np.stack(
            [(index[:, 0] + 0.5 - c.cx_px) / c.fx_px, (index[:, 1] + 0.5 - c.cy_px) / c.fy_px, np.ones(len(index))], -1
        )
        * np.asarray(depth_z, float)[:, None]
    )
    return view.cam_from_world.inverse().apply(x_cam)
