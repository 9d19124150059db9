"""The training live in a browser (viser): photos where they were taken, the prior cloud, the surface as it stands.

Everything is shown in the unit cube, moved to the origin. A failure here ends the view, never the training.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int

from recon.data import PosedCapture, PriorCloud
from recon.device import require_viewer
from recon.stage import Job
from recon.surface.sampling import BakedSdf
from recon.transforms import Similarity

HOST = "127.0.0.1"
"""Whoever looks from another machine makes an SSH tunnel: the photos are nobody else's business."""
COST_SHARE = 0.02
"""At most about this share of the time goes into the view."""


@dataclass(frozen=True)
class ViewConfig:
    """The live view of `view=true`."""

    port: int = 8080
    """Where the browser finds it, http://127.0.0.1:8080; the next free one where it is taken."""
    every_s: float = 5.0
    """Seconds between pictures, at the least."""


@dataclass(frozen=True)
class Moment:
    """What the view shows of a training at one time."""

    step: int
    n_steps: int
    losses: Mapping[str, float]
    """Running means of the loss's terms."""
    photo_error: Float[np.ndarray, " n_views"]
    """Running mean of each photo's colour error, 0..1."""
    baked: BakedSdf


@dataclass
class Viewer:
    """A browser's page that follows one training."""

    server: Any
    address: str
    frustums: list[Any]
    names: list[str]
    text: Any
    every_s: float
    next_at: float = 0.0
    """Of the monotonic clock."""
    failed: bool = False
    meshes: list[Any] = field(default_factory=list)

    def due(self) -> bool:
        return not self.failed and time.monotonic() >= self.next_at

    def show(self, moment: Moment, job: Job) -> None:
        """Bring the page up to date."""
        started = time.monotonic()
        try:
            self._draw(moment)
        except Exception as error:  # whatever it is: a batch must not end because nobody could look on
            self.failed = True
            job.warn(f"The live view stopped at step {moment.step} ({type(error).__name__}: {error}); the fit goes on.")
        now = time.monotonic()
        self.next_at = now + max(self.every_s, (now - started) / COST_SHARE)

    def _draw(self, moment: Moment) -> None:
        vertices, faces = zero_set(moment.baked)
        with self.server.atomic():
            for mesh in self.meshes:
                mesh.remove()
            self.meshes = []
            if len(faces):
                scene = self.server.scene
                self.meshes = [scene.add_mesh_simple("/surface", vertices, faces, color=(205, 200, 190), side="double")]
            for frustum, colour in zip(self.frustums, error_colours(moment.photo_error), strict=True):
                frustum.color = colour
            self.text.content = describe(moment, self.names)


def zero_set(baked: BakedSdf) -> tuple[Float32[np.ndarray, "n 3"], Int[np.ndarray, "m 3"]]:
    """The baked grid's zero set as triangles in the unit cube moved to the origin; empty where there is none."""
    from skimage.measure import marching_cubes

    values = baked.values.cpu().numpy()
    if not (values.min() < 0 < values.max()):
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    vertices, faces, _, _ = marching_cubes(values, 0.0, gradient_direction="descent")
    return (baked.origin.cpu().numpy() + vertices * np.float32(baked.cell) - np.float32(0.5)).astype(np.float32), faces


def error_colours(error: Float[np.ndarray, " n_views"]) -> list[tuple[int, int, int]]:
    """Green where a photo fits as most do, red from three times the median error on, grey where it was not used."""
    used = error[error > 0]
    usual = float(np.median(used)) if len(used) else 1.0
    bad = np.clip((error / usual - 1) / 2, 0, 1)
    return [
        (int(60 + 170 * b), int(190 - 130 * b), 70) if e > 0 else (120, 120, 120)
        for e, b in zip(error, bad, strict=True)
    ]


def describe(moment: Moment, names: list[str], n_worst: int = 8) -> str:
    """Step, losses and the photos that fit worst, as Markdown."""
    worst = np.argsort(-moment.photo_error)[:n_worst]
    lines = [f"**step {moment.step:,} of {moment.n_steps:,}**", "", "| loss | |", "|---|---|"]
    lines += [f"| {name} | {value:.4f} |" for name, value in moment.losses.items()]
    lines += ["", "| photos that fit worst | colour error |", "|---|---|"]
    return "\n".join([*lines, *(f"| {names[i]} | {moment.photo_error[i]:.4f} |" for i in worst)])


def free_port(first: int, n_tries: int = 20) -> int | None:
    """The first port from `first` on that can be listened at, or None."""
    for port in range(first, min(first + n_tries, 65536)):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    return None


@contextmanager
def viewing(
    posed: PosedCapture, prior: PriorCloud, unit_from_world: Similarity, cfg: ViewConfig, job: Job
) -> Iterator[Viewer | None]:
    """A view that is open for as long as the block runs; None where the job asks for none, or no port is free.

    Raises UserError where viser is not installed.
    """
    if not job.view:
        yield None
        return
    require_viewer()
    port = free_port(cfg.port)
    if port is None:  # asked first, as viser would wait for one without end
        job.warn(f"No port from {cfg.port} on is free, so there is no live view: set another surface.view.port.")
        yield None
        return
    import viser

    server = viser.ViserServer(HOST, port, label="recon", verbose=False)
    try:
        yield open_scene(server, posed, prior, unit_from_world, cfg)
    finally:
        server.stop()


def open_scene(
    server: Any, posed: PosedCapture, prior: PriorCloud, unit_from_world: Similarity, cfg: ViewConfig
) -> Viewer:
    """What does not change: the photos in their places and the prior cloud."""
    server.scene.set_up_direction("+z")
    centres = unit_from_world.apply(np.array([v.centre_world() for v in posed.views])) - 0.5
    server.initial_camera.position = tuple(0.75 * centres[0])
    server.initial_camera.look_at = (0.0, 0.0, 0.0)
    points = unit_from_world.apply(prior.points_world)[:: max(1, len(prior.points_world) // 50_000)] - 0.5
    colours = prior.rgb[:: max(1, len(prior.points_world) // 50_000)]
    cloud = server.scene.add_point_cloud("/prior", points.astype(np.float32), colours, point_size=0.004, visible=False)
    size = 0.12 * float(np.median(np.linalg.norm(centres, axis=1)))
    frustums = [frustum(server, posed, i, centre, size) for i, centre in enumerate(centres)]
    text = server.gui.add_markdown("the training starts ...")
    with_cloud, with_photos = server.gui.add_checkbox("prior cloud", False), server.gui.add_checkbox("photos", True)

    @with_cloud.on_update
    def _(_event: Any) -> None:
        cloud.visible = with_cloud.value

    @with_photos.on_update
    def _(_event: Any) -> None:
        for one in frustums:
            one.visible = with_photos.value

    return Viewer(
        server, f"http://{HOST}:{server.get_port()}", frustums, [v.name for v in posed.views], text, cfg.every_s
    )


def frustum(server: Any, posed: PosedCapture, view_idx: int, centre: Float[np.ndarray, "3"], size: float) -> Any:
    """One photo, small, as a pyramid from its camera."""
    from scipy.spatial.transform import Rotation

    view, image = posed.views[view_idx], posed.image(view_idx)
    h, w = image.shape[:2]
    small = cv2.resize(image, (160, max(1, round(160 * h / w))), interpolation=cv2.INTER_AREA)
    turn = Rotation.from_matrix(view.cam_from_world.rotation.T).as_quat()
    return server.scene.add_camera_frustum(
        f"/photos/{view.name}",
        2 * float(np.arctan2(h / 2, view.camera.fy_px)),
        w / h,
        scale=size,
        image=small,
        wxyz=tuple(turn[[3, 0, 1, 2]]),
        position=tuple(centre),
    )
