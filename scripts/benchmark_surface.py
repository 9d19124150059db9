"""The surface's tables of benchmark.py: the fit on captures, with each technique taken away, and as captures grow.

Every run is a process of its own, so that its peak memory is its own. Results are kept in assets_out/.benchmark by what
went into them: cameras, masks and prior are made once for all variants, and an interrupted table goes on where it was.
Delete that folder to measure anew.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pose.estimate import estimate_poses
from recon.capture.read import read_capture
from recon.config import Config, frozen, writable_schema
from recon.evaluate.score import score_geometry
from recon.evaluate.variants import photos_of
from recon.isolate.isolate import isolate_object
from recon.mesh.extract import extract_mesh
from recon.prior.estimate import estimate_prior
from recon.stage import Workspace
from recon.surface.fit import fit_surface

KEPT = Path("assets_out") / ".benchmark"

SURFACE = ("variant", "photos", "Chamfer %", "F 0.5 %", "F 1 %", "normals", "fit s", "mesh s", "fit peak MB")

ABLATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("everything", ()),
    ("no image pyramid", ("surface.pyramid.n_scales=1",)),
    (
        "rays drawn evenly",
        tuple(f"surface.importance.{k}_share=0" for k in ("gradient", "edge", "error")),
    ),
    ("all photos trusted", ("surface.trust.tolerance=0",)),
    ("no patches", ("surface.patches.weight=0",)),
    ("patches of gloss too", ("surface.patches.gloss=1000",)),
    ("bad patches to the end", ("surface.patches.last_worst_cost=1",)),
    ("cameras corrected", ("surface.cameras.likely_px=1",)),
    ("colour in one network", ("surface.split_colour=false",)),
    ("shape free at once", ("surface.hold_share=0",)),
    ("nothing left of the hold", ("surface.loss.hold_left=0",)),
    ("starts on the hull where no prior point is", ("surface.start_inside=0",)),
    ("no prior", ("prior.method=none",)),
    ("prior points do not pull, no closed underside", ("surface.loss.points=0", "surface.loss.normals=0")),
    ("no prior normals", ("surface.loss.normals=0",)),
    ("no free space", ("surface.loss.free_space=0",)),
    ("no Eikonal term", ("surface.loss.eikonal=0",)),
    ("smoothness fades to a third", ("surface.loss.smoothness_left=0.33",)),
    ("with a curvature term", ("surface.loss.curvature=0.03",)),
    ("hidden space left alone", ("surface.loss.hidden=0",)),
    ("no level annealing, no pyramid", ("surface.open_share=0",)),
    ("no exposures", ("surface.loss.gain=1000",)),
    ("no closed underside", ("surface.support_confidence=0",)),
    ("no mask term", ("surface.loss.mask=0",)),
    ("masks pull to the full", ("surface.loss.mask_enough=1",)),
    ("even samples", ("surface.placing=even",)),
)
"""What is taken away, and the options that do it."""

GROWTH = (
    "photos", "megapixels", "placed", "read + poses + isolate s", "prior s", "fit s", "mesh s", "peak MB", "F 0.5 %",
)  # fmt: skip
PHOTO_COUNTS, MEGAPIXELS = (24, 48, 96, 192), (0.5, 1.0, 2.0, 4.0)
BASE_PHOTOS, BASE_MEGAPIXELS = 48, 1.0
"""What stays the same while the other grows; of a capture with fewer photos, all of them."""


@dataclass(frozen=True)
class Run:
    """A capture taken as far as its mesh."""

    photos: int
    placed: int
    seconds: dict[str, float]
    """By stage."""
    peak_mb: dict[str, int]
    """By stage; of a stage that was reused, what it took when it was made."""
    score: dict[str, float]
    """Empty for a capture without truth."""


def options(words: Sequence[str]) -> Config:
    """The options that command-line words such as `preset=draft surface.n_steps=100` make."""
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=writable_schema())
    with initialize_config_module("configs", version_base="1.3"):
        return frozen(compose("config", overrides=list(words)))


def reconstruct(photos: Path, scene: Path, root: Path, words: Sequence[str]) -> Run:
    """Mesh a folder of photos in a workspace, and judge it against the truth in `scene` where that has one."""
    cfg, workspace = options(words), Workspace(root)
    capture = workspace.run(read_capture, photos, cfg=cfg.read)
    posed = workspace.run(estimate_poses, capture, cfg=cfg.poses)
    region = workspace.run(isolate_object, posed, cfg=cfg.isolate)
    prior = workspace.run(estimate_prior, posed, region, cfg=cfg.prior)
    field = workspace.run(fit_surface, posed, region, prior, cfg=cfg.surface)
    refined = workspace.derive(field.refined(posed), posed, field)
    mesh = workspace.run(extract_mesh, refined, region, field, cfg=cfg.mesh)
    score: dict[str, float] = {}
    if (scene / "gt").exists():
        centres = {v.name: v.centre_world() for v in refined.views}
        score = score_geometry(mesh.vertices_world, mesh.faces, centres, scene)
    records = workspace.records
    return Run(
        len(capture.photos) + len(capture.left_out),
        len(posed.views),
        {name: float(r["seconds"]) for name, r in records.items()},
        {name: int(r["peak_memory_mb"]) for name, r in records.items()},
        score,
    )


def in_own_process(photos: Path, scene: Path, root: Path, words: Sequence[str]) -> Run:
    """`reconstruct`, apart."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(reconstruct, photos, scene, root, words).result()


def surface_row(variant: str, run: Run) -> tuple[str, ...]:
    judged = [f"{run.score[k]:.3f}" for k in ("chamfer_pct", "fscore_0.5", "fscore_1.0", "normals") if run.score]
    return (
        variant, f"{run.placed} / {run.photos}", *(judged or [""] * 4), f"{run.seconds['fit_surface']:.0f}",
        f"{run.seconds['extract_mesh']:.0f}", str(run.peak_mb["fit_surface"]),
    )  # fmt: skip


def surface_rows(scene: Path, words: list[str]) -> Iterator[tuple[str, ...]]:
    """The fit on one capture of which nothing is given but the photos."""
    yield surface_row(" ".join(words) or "standard", in_own_process(scene, scene, KEPT / scene.name, words))


def ablation_rows(scene: Path, words: list[str]) -> Iterator[tuple[str, ...]]:
    """The same with each technique taken away."""
    for name, change in ABLATIONS:
        yield surface_row(name, in_own_process(scene, scene, KEPT / scene.name, [*words, *change]))


@cache
def size_of(photo: Path) -> tuple[int, int]:
    with Image.open(photo) as image:
        return image.size


def make_grown(scene: Path, n_photos: int, megapixels: float, target: Path) -> None:
    """Write `n_photos` evenly chosen photos of a capture at a size of so many megapixels.

    Photos that are smaller are enlarged, which costs every stage what real ones of that size would but for the detail
    that they lack. Raises SystemExit where the capture has too few.
    """
    photos = photos_of(scene)
    if len(photos) < n_photos:
        raise SystemExit(f"{scene} has {len(photos)} photos: make {n_photos} by make_capture.py --photos {n_photos}.")
    target.mkdir(parents=True, exist_ok=True)
    for k in np.linspace(0, len(photos), n_photos, endpoint=False).astype(int):
        width, height = size_of(photos[k])
        scale = (megapixels * 1e6 / (width * height)) ** 0.5
        with Image.open(photos[k]) as image:
            exif = image.getexif()
            grown = image.resize((round(scale * width), round(scale * height)), Image.Resampling.LANCZOS)
        grown.save(target / f"{photos[k].stem}.jpg", "JPEG", quality=92, exif=exif)


def sizes(words: list[str], base_photos: int) -> tuple[list[tuple[int, float]], list[str]]:
    """What `photos=24,48` and `megapixels=0.5,1` ask for (by default all sizes), and the other words."""
    given = dict(word.split("=", 1) for word in words if word.startswith(("photos=", "megapixels=")))
    counts = [int(x) for x in given["photos"].split(",")] if "photos" in given else PHOTO_COUNTS
    megapixels = [float(x) for x in given["megapixels"].split(",")] if "megapixels" in given else MEGAPIXELS
    wanted = [(n, BASE_MEGAPIXELS) for n in counts] + [(base_photos, m) for m in megapixels]
    return list(dict.fromkeys(wanted)), [word for word in words if word.split("=", 1)[0] not in given]


def growth_rows(scene: Path, words: list[str]) -> Iterator[tuple[str, ...]]:
    """Time and memory of one capture with more and larger photos; draws assets_out/growth-NAME.png at the end."""
    base_photos = min(BASE_PHOTOS, len(photos_of(scene)))
    wanted, rest = sizes(words, base_photos)
    runs: dict[tuple[int, float], Run] = {}
    for n, m in wanted:
        folder = KEPT / f"{scene.name}-grown" / f"{n}-{m:g}"
        make_grown(scene, n, m, folder)
        # nothing is left out or made smaller, or what grows would not grow
        long_side = max(max(size_of(p)) for p in folder.iterdir())
        whole = [f"read.choice.max_photos={n}", "read.choice.max_parallax=0", f"read.max_side_px={long_side}"]
        run = runs[n, m] = in_own_process(folder, scene, KEPT / scene.name, [*whole, *rest])
        seconds = run.seconds
        before = " + ".join(f"{seconds[s]:.0f}" for s in ("read_capture", "estimate_poses", "isolate_object"))
        after = (f"{seconds[s]:.0f}" for s in ("estimate_prior", "fit_surface", "extract_mesh"))
        judged = f"{run.score['fscore_0.5']:.3f}" if run.score else ""
        yield (str(n), f"{m:g}", str(run.placed), before, *after, str(max(run.peak_mb.values())), judged)
    draw_growth(runs, base_photos, KEPT.parent / f"growth-{scene.name}.png")


def draw_growth(runs: dict[tuple[int, float], Run], base_photos: int, path: Path) -> None:
    """Seconds by stage, and peak memory, against the number of photos and their size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for column, (label, base) in enumerate((("photos", BASE_MEGAPIXELS), ("megapixels", base_photos))):
        chosen = sorted((key[column], run) for key, run in runs.items() if key[1 - column] == base)
        if not chosen:
            continue
        x = [key for key, _ in chosen]
        draw_lines(axes[:, column], x, [run for _, run in chosen])
        axes[0, column].set_title(f"{base:g} megapixels" if column == 0 else f"{base} photos")
        axes[1, column].set_xlabel(label)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_lines(axes: Any, x: list[float], runs: list[Run]) -> None:
    """One column of the plot: seconds above, memory below, both axes logarithmic."""
    for stage in runs[0].seconds:
        axes[0].plot(x, [r.seconds[stage] for r in runs], marker="o", label=stage)
    total = [sum(r.seconds.values()) for r in runs]
    axes[0].plot(x, total, "k", marker="o", linewidth=2, label="all")
    axes[0].plot(x, [total[0] * v / x[0] for v in x], "k:", label="in proportion")
    axes[1].plot(x, [max(r.peak_mb.values()) for r in runs], "k", marker="o")
    axes[0].set_ylabel("seconds")
    axes[1].set_ylabel("peak MB")
    axes[1].set_ylim(bottom=0)
    axes[0].set_yscale("log")
    axes[0].legend(fontsize="small")
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xticks(x, [f"{v:g}" for v in x])
        axis.grid(alpha=0.3)
