"""The benchmark's surface tables: options, ablations that compose, captures made larger, and their judge."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import trimesh
from PIL import Image
from striped_sphere import SMALL, sphere_cloud, sphere_scene

from recon.evaluate.cloud import score_cloud
from recon.evaluate.score import read_views, score_geometry
from recon.transforms import Similarity

ROOT = Path(__file__).parent.parent
OWL = ROOT / "examples" / "owl"


@pytest.fixture
def surface(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark_surface

    yield benchmark_surface
    for name in [name for name in sys.modules if name.split("_")[0] == "benchmark"]:
        sys.modules.pop(name)


def test_every_ablation_is_an_option_that_changes_something(surface):
    everything = surface.options([])
    changed = [surface.options(change) for name, change in surface.ABLATIONS if name != "everything"]
    assert all(cfg != everything for cfg in changed) and len(set(map(repr, changed))) == len(changed)
    assert surface.options(["preset=draft", "surface.n_steps=7"]).surface.n_steps == 7


def test_a_capture_is_made_larger_and_smaller(surface, tmp_path):
    surface.make_grown(OWL, 12, 0.12, tmp_path / "small")
    surface.make_grown(OWL, 3, 1.92, tmp_path / "large")
    small, large = sorted((tmp_path / "small").iterdir()), sorted((tmp_path / "large").iterdir())
    assert len(small) == 12 and [p.stem for p in large] == ["IMG_0001", "IMG_0013", "IMG_0025"]
    with Image.open(small[0]) as a, Image.open(large[0]) as b, Image.open(OWL / "images" / large[0].name) as original:
        assert a.size == (400, 300) and b.size == (1600, 1200)
        assert dict(a.getexif()) == dict(original.getexif())
    with pytest.raises(SystemExit, match=r"make_capture\.py --photos 100"):
        surface.make_grown(OWL, 100, 1.0, tmp_path / "many")


def test_sizes_are_read_off_the_words(surface):
    wanted, rest = surface.sizes(["photos=24,48", "megapixels=1,2", "preset=draft"], 36)
    assert wanted == [(24, 1.0), (48, 1.0), (36, 1.0), (36, 2.0)] and rest == ["preset=draft"]
    assert len(surface.sizes([], 48)[0]) == len(surface.PHOTO_COUNTS) + len(surface.MEGAPIXELS) - 1


def test_growth_is_drawn(surface, tmp_path):
    stages = ("read_capture", "fit_surface")
    runs = {
        size: surface.Run(size[0], size[0], dict.fromkeys(stages, 10.0 + size[0]), dict.fromkeys(stages, 900), {})
        for size in ((24, 1.0), (48, 1.0), (48, 2.0))
    }
    surface.draw_growth(runs, 48, tmp_path / "growth.png")
    assert np.asarray(Image.open(tmp_path / "growth.png")).std() > 10


def test_a_row_has_a_cell_for_every_column(surface):
    seconds, peak = {"fit_surface": 61.2, "extract_mesh": 9.0}, {"fit_surface": 2500, "extract_mesh": 900}
    score = {"chamfer_pct": 0.1, "fscore_0.5": 0.97, "fscore_1.0": 0.99, "normals": 0.95}
    for judged in (score, {}):
        row = surface.surface_row("everything", surface.Run(48, 47, seconds, peak, judged))
        assert len(row) == len(surface.SURFACE) and row[1] == "47 / 48" and row[-1] == "2500"


class GivenResults:
    """A workspace whose stages were all made before."""

    results: ClassVar[list[object]] = []

    def __init__(self, root: Path) -> None:
        self.left = list(self.results)

    def run(self, stage, *inputs, cfg):
        return self.left.pop(0)


def test_the_profile_of_a_step_is_a_table(surface, monkeypatch, tmp_path, capsys):
    import benchmark

    monkeypatch.setattr(GivenResults, "results", [None, *sphere_scene(tmp_path, n_views=6), sphere_cloud(300)])
    monkeypatch.setattr(benchmark.profile, "Workspace", GivenResults)
    small = [f"surface.{k}={v}" for k, v in SMALL.items()]
    benchmark.main(["profile", str(tmp_path), "surface.n_steps=8", "surface.engine=cpu", *small])
    head, _, row = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    found = dict(zip(head, row, strict=True))
    shares = [found[k] for k in ("encode", "MLP", "sampling", "patches", "optimiser", "baking", "rest")]
    assert found["engine"] == "cpu" and found["colour"] == "single" and all(x.endswith(" %") for x in shares)
    assert float(found["ms a step"]) > 0 and float(found["memory GB/s"]) > 0 and found["patches"] != "0 %"


def test_the_geometry_score_knows_the_truth_and_a_shifted_copy():
    truth = trimesh.load(OWL / "gt" / "mesh.ply", process=False)
    turn = np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]])
    world_from_truth = Similarity(3.0, turn, np.array([0.2, -0.1, 0.4]))
    train = read_views(OWL / "gt" / "transforms.json", "train")
    centres = {t.view.name: world_from_truth.apply(t.view.centre_world()[None])[0] for t in train}
    vertices = np.asarray(truth.vertices, float)
    perfect = score_geometry(world_from_truth.apply(vertices), truth.faces, centres, OWL, 20_000)
    assert perfect["registered"] == perfect["photos"] == 36
    # two samplings of one surface are as far apart as their spacing: 200,000 points on it
    assert perfect["chamfer_pct"] < 0.15 and perfect["fscore_0.5"] > 0.99 and perfect["normals"] > 0.95
    shift = 0.02 * float(np.linalg.norm(truth.extents)) * np.array([0, 0, 1.0])
    moved = score_geometry(world_from_truth.apply(vertices + shift), truth.faces, centres, OWL, 20_000)
    assert 0.4 < moved["chamfer_pct"] <= 2.0 and moved["fscore_0.5"] < 0.7


def test_the_cloud_score_knows_wrong_and_missing_points():
    truth = trimesh.load(OWL / "gt" / "mesh.ply", process=False)
    diagonal = float(np.linalg.norm(truth.extents))
    world_from_truth = Similarity(2.0, np.eye(3), np.array([0.5, 0.1, -0.3]))
    train = read_views(OWL / "gt" / "transforms.json", "train")
    centres = {t.view.name: world_from_truth.apply(t.view.centre_world()[None])[0] for t in train}
    points, faces = trimesh.sample.sample_surface(truth, 20_000, seed=7)
    whole = score_cloud(world_from_truth.apply(points), centres, OWL, 10_000)
    assert whole.accuracy == 1 and whole.completeness > 0.99 and whole.median_error_pct < 0.3
    off = points.copy()
    off[::4] += 0.05 * diagonal * truth.face_normals[faces[::4]]
    assert score_cloud(world_from_truth.apply(off), centres, OWL, 10_000).accuracy == pytest.approx(0.75, abs=0.03)
    upper = points[points[:, 2] > np.median(points[:, 2])]
    assert 0.3 < score_cloud(world_from_truth.apply(upper), centres, OWL, 10_000).completeness < 0.8
    assert score_cloud(np.zeros((0, 3)), centres, OWL).completeness == 0


def test_a_capture_that_is_not_there_is_told(surface):
    import benchmark

    with pytest.raises(SystemExit, match="There is no capture gone"):
        benchmark.main(["preprocess", "gone"])
    for name in ("benchmark", "benchmark_prior", "benchmark_texture"):
        sys.modules.pop(name)


def test_a_method_without_weights_does_not_end_the_priors_table(surface, monkeypatch, tmp_path):
    monkeypatch.setattr("recon.prior.network.config.SHIPPED", tmp_path / "weights.npz")
    import benchmark_prior

    ((name, sentence),) = benchmark_prior.prior_rows(OWL, ["prior.method=mvsnet"])
    assert name == "mvsnet" and "make them with scripts/train_mvsnet.py" in sentence
    sys.modules.pop("benchmark_prior")
