"""The training's course: the same twice, resumed as if never interrupted, taken back where it breaks, ended early."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from striped_sphere import SMALL, interrupt_at, sphere_cloud, sphere_scene

from recon.data import ObjectRegion, PosedCapture, SurfaceField
from recon.errors import UserError
from recon.mesh.extract import MeshConfig, extract_mesh
from recon.stage import Job
from recon.surface.baked import Placing
from recon.surface.baking import Refresh
from recon.surface.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from recon.surface.config import SurfaceConfig
from recon.surface.field import Engine, Field
from recon.surface.fit import fit_surface
from recon.surface.losses import Losses
from recon.surface.pace import PaceConfig, steps_to_skip
from recon.surface.pixels import OBJECT
from recon.surface.trainer import FAINT, Trainer
from recon.surface.watch import WatchConfig

pytestmark = pytest.mark.usefixtures("no_gpu")  # bit-equal is what the CPU's engines are
Scene = tuple[PosedCapture, ObjectRegion]
FEW = {"n_rays": 64, "n_points": 64, "n_free": 64, "n_hidden": 64, "log2_rows": 12, "bake_resolution": 24,
       "bake_resolution_late": 32}  # fmt: skip
QUICK = SurfaceConfig(n_steps=30, bake_every=5, checkpoint_s=0.0, **(SMALL | FEW))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return sphere_scene(tmp_path_factory.mktemp("sphere") / "scene")


@pytest.fixture(autouse=True)
def short_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here comes after the warm start."""
    monkeypatch.setattr(Trainer.warm_start, "__defaults__", (10, 1024))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(2)
    numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


def fitted(scene: Scene, cfg: SurfaceConfig, folder: Path) -> tuple[SurfaceField, Job]:
    folder.mkdir(exist_ok=True)
    job = Job("fit_surface", folder)
    return fit_surface(*scene, sphere_cloud(300), cfg, job), job


def assert_same(a: SurfaceField, b: SurfaceField) -> None:
    """Bit-equal, down to the statistics."""
    assert a.parameters.keys() == b.parameters.keys()
    for name, value in a.parameters.items():
        np.testing.assert_array_equal(value, b.parameters[name], err_msg=name)
    np.testing.assert_array_equal(a.photo_gain, b.photo_gain)
    assert a.stats == b.stats


@pytest.mark.parametrize("engine", [Engine.cpu, Engine.reference])
def test_the_same_fit_twice_is_bit_equal(scene, engine, two_threads, tmp_path):
    cfg = replace(QUICK, engine=engine)
    if engine is Engine.reference:  # slow
        cfg = replace(cfg, n_steps=6, n_levels=2, first_levels=1, bake_resolution=12, bake_resolution_late=16)
    fields = [fitted(scene, cfg, tmp_path / name)[0] for name in "ab"]
    assert_same(*fields)


def test_the_same_field_gives_the_same_mesh_twice(scene, two_threads, tmp_path):
    field, _ = fitted(scene, QUICK, tmp_path)
    meshes = []
    for _ in range(2):
        meshes.append(extract_mesh(*scene, field, MeshConfig(max_resolution=48), Job("extract_mesh", tmp_path)))
    np.testing.assert_array_equal(meshes[0].vertices_world, meshes[1].vertices_world)
    np.testing.assert_array_equal(meshes[0].faces, meshes[1].faces)


@pytest.mark.parametrize("at", [13, 23])
def test_a_resumed_fit_equals_one_that_was_never_interrupted(scene, at, two_threads, tmp_path):
    whole, _ = fitted(scene, QUICK, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(at, patch)
        with pytest.raises(KeyboardInterrupt):
            fitted(scene, QUICK, tmp_path / "parts")
    resumed, job = fitted(scene, QUICK, tmp_path / "parts")
    assert job.notes["resumed_at_step"] == at // 5 * 5
    assert_same(whole, resumed)
    assert not list((tmp_path / "parts").iterdir()), "the checkpoint goes when the fit is done"


def test_a_damaged_or_older_checkpoint_is_named_and_left(scene, tmp_path):
    path = tmp_path / "checkpoint.pt"
    state = {"draws": np.random.default_rng(3).bit_generator.state, "tensor": torch.arange(3), "none": None}
    save_checkpoint(path, state)
    found, why = load_checkpoint(path)
    assert why == "" and found is not None and found["draws"] == state["draws"]
    assert found["tensor"].tolist() == [0, 1, 2] and not path.with_suffix(".tmp").exists()
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint at all", whole[:-300] + bytes(300)):
        path.write_bytes(content)
        found, why = load_checkpoint(path)
        assert found is None and "is damaged, so the surface is fitted from the start." in why and str(path) in why
    torch.save({"format": FORMAT - 1, "state": state}, path)
    assert "another version" in load_checkpoint(path)[1]
    torch.save({"step": 3}, path)  # as it was before there were formats
    field, job = fitted(scene, replace(QUICK, n_steps=5), tmp_path)
    field.check()
    assert len(job.warnings) == 1 and "another version" in job.warnings[0]
    assert load_checkpoint(tmp_path / "nothing.pt") == (None, "")


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int], spoiler) -> list[int]:
    """Spoil the loss of the n-th, m-th, ... training step made; returns the steps as they happen."""
    made: list[int] = []
    losses = Trainer.losses

    def spoilt(self, *drawn):
        terms: Losses = losses(self, *drawn)
        made.append(self.step)
        if len(made) - 1 in steps:
            terms.colour = spoiler(terms.colour)
        return terms

    monkeypatch.setattr(Trainer, "losses", spoilt)
    return made


def nan(colour):
    return colour * float("nan")


def test_nan_is_noticed_and_taken_back_once(scene, tmp_path, monkeypatch):
    cfg = replace(QUICK, watch=WatchConfig(keep_every=5))
    made = spoil(monkeypatch, {16}, nan)
    field, job = fitted(scene, cfg, tmp_path)
    field.check()
    assert made[16] == 16 and made[19:22] == [19, 10, 11], "noticed at step 20, back to the copy before the last"
    assert made[-1] == cfg.n_steps - 1
    (sentence,) = job.warnings
    assert "broke down at step 20 as its loss is no longer a number" in sentence
    assert "went back to step 10" in sentence and "0.3 times the learning rate" in sentence
    assert all(np.isfinite(v) for k, v in field.stats.items() if isinstance(v, float))


def test_a_last_step_that_breaks_is_noticed(scene, tmp_path, monkeypatch):
    spoil(monkeypatch, {29}, nan)
    field, job = fitted(scene, QUICK, tmp_path)
    field.check()
    assert len(job.warnings) == 1


def test_a_second_breakdown_tells_the_user_what_to_do(scene, tmp_path, monkeypatch):
    spoil(monkeypatch, {16, 22}, nan)
    with pytest.raises(UserError, match=r"broke down twice, .* leave them out, or lower surface.learning_rate"):
        fitted(scene, QUICK, tmp_path)


def test_a_start_that_is_broken_is_not_trained_on(scene, tmp_path, monkeypatch):
    def broken(self):
        with torch.no_grad():
            self.field.sdf_out.bias[0] = float("nan")

    monkeypatch.setattr(Trainer, "warm_start", broken)
    with pytest.raises(UserError, match="at step 0 as its parameters are no longer numbers"):
        fitted(scene, QUICK, tmp_path)


def test_an_exploding_step_is_taken_back(scene, tmp_path, monkeypatch):
    train_step = Trainer.train_step

    def wild(self, baker):
        train_step(self, baker)
        if self.step == 22 and self.rate == 1.0:
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.mul_(30.0)

    monkeypatch.setattr(Trainer, "train_step", wild)
    field, job = fitted(scene, QUICK, tmp_path)
    field.check()
    assert "broke down at step 25" in job.warnings[0]


@pytest.mark.parametrize(("shift", "says"), [(1.0, "the object vanished"), (-1.0, "became solid")])
def test_a_surface_that_is_gone_is_taken_back(scene, tmp_path, monkeypatch, shift, says):
    train_step = Trainer.train_step

    def shifted(self, baker):
        train_step(self, baker)
        if self.step == 22 and self.rate == 1.0:
            with torch.no_grad():
                self.field.sdf_out.bias[0] += shift

    monkeypatch.setattr(Trainer, "train_step", shifted)
    cfg = replace(QUICK, watch=WatchConfig(loss_ratio=1e9))
    field, job = fitted(scene, cfg, tmp_path)
    field.check()
    assert "broke down at step 25" in job.warnings[0] and says in job.warnings[0]


def test_an_unwatched_training_is_not_taken_back(scene, tmp_path, monkeypatch):
    made = spoil(monkeypatch, {28}, nan)
    field, job = fitted(scene, replace(QUICK, watch=WatchConfig(keep_every=0)), tmp_path)
    assert len(made) == QUICK.n_steps and job.warnings == []
    with pytest.raises(ValueError, match="NaN"):
        field.check()


def test_the_second_try_goes_on_from_a_checkpoint_too(scene, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, {16}, nan)
        interrupt_at(25, patch)
        with pytest.raises(KeyboardInterrupt):
            fitted(scene, QUICK, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, {3}, nan)
        with pytest.raises(UserError, match="twice"):
            fitted(scene, QUICK, tmp_path)


def test_steps_are_skipped_while_the_surface_stands_still():
    still, moving = Refresh(-1, 1, 0.0004), Refresh(-1, 1, 0.0006)
    assert steps_to_skip(PaceConfig(still=0.5), still, True, 50) == 50
    assert steps_to_skip(PaceConfig(still=0.5, n_skipped=3), still, True, 50) == 150
    assert steps_to_skip(PaceConfig(still=0.5), moving, True, 50) == 0
    assert steps_to_skip(PaceConfig(still=0.5), still, False, 50) == 0
    assert steps_to_skip(PaceConfig(), Refresh(-1, 1, 0.0), True, 50) == 0


@pytest.mark.parametrize(("hold_share", "first", "skipped"), [(0.0, 20, 14), (0.4, 30, 10)])
def test_a_fit_that_stands_still_ends_early_at_the_end_of_its_schedule(
    hold_share, first, skipped, scene, tmp_path, monkeypatch
):
    made = spoil(monkeypatch, set(), nan)
    cfg = replace(QUICK, n_steps=50, open_share=0.4, hold_share=hold_share, pace=PaceConfig(still=1e6))
    field, job = fitted(scene, cfg, tmp_path)
    early = "no step is left out before all levels are open and the shape is free"
    assert made[: first + 1] == [*range(first), first + 5], early
    assert made[-1] == 49 and job.notes["steps_skipped"] == 50 - len(made) == skipped
    assert field.log_inv_s == pytest.approx(np.log(cfg.last_inv_s)), "the schedule was not cut off"


def test_samples_can_be_spread_evenly(scene, tmp_path, monkeypatch):
    lengths = []
    losses = Trainer.losses

    def measured(self, batch, *others):
        section = batch.edges.diff(dim=1)
        lengths.append(float((section.max(1).values / section.mean(1)).median()))
        return losses(self, batch, *others)

    monkeypatch.setattr(Trainer, "losses", measured)
    for placing in (Placing.even, Placing.baked):
        fitted(scene, replace(QUICK, placing=placing), tmp_path)[0].check()
    # strata jittered by a full stratum: the longest of ten is not quite twice their mean
    assert max(lengths[:30]) < 2.2 < min(lengths[31:])


def test_colours_are_worked_out_where_they_are_seen(scene, tmp_path, monkeypatch):
    """All others are no part of what is rendered, but for less than a photo can tell."""
    n_told, colours, radiance = [], Trainer.colours, Field.radiance

    def checked(self, batch, weights, x, normal, geometry):
        found = colours(self, batch, weights, x, normal, geometry)
        direction = batch.direction.repeat_interleave(weights.shape[1], 0)
        everywhere = radiance(self.field, x, direction, normal, geometry).view(*weights.shape, 3)
        rendered, whole = ((weights[..., None] * colour).sum(1) for colour in (found, everywhere))
        on = self.data.pool.label[batch.pixel_idx] == OBJECT
        off = (rendered - whole).detach().abs().amax(1)
        assert on.any() and off[on].max() < weights.shape[1] * FAINT * 3
        n_told.append(float((found.detach() > 0).any(-1).float().mean()))
        return found

    monkeypatch.setattr(Trainer, "colours", checked)
    fitted(scene, QUICK, tmp_path)
    assert len(n_told) == QUICK.n_steps and 0.05 < np.mean(n_told) < 0.95
