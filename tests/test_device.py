"""A whole fit on a device that is not the CPU: nothing of a step may go through the host."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pretend_device import PRETENDED, PretendDevice
from striped_sphere import SMALL, sphere_cloud, sphere_scene
from torch.utils._pytree import tree_map

from recon.stage import Job
from recon.surface import field, fit, trainer
from recon.surface.config import SurfaceConfig
from recon.surface.engine import Engine
from recon.surface.patches import PatchConfig
from recon.surface.random_numbers import RandomNumbers


class HostNumbers(RandomNumbers):
    """Random numbers of the host, moved: the pretended device has no generator."""

    def __init__(self, seed: int, device: torch.device) -> None:
        super().__init__(seed, torch.device("cpu"))
        self.place = device

    def integers(self, low: int, high: int, size: int) -> torch.Tensor:
        return super().integers(low, high, size).to(self.place)

    def random(self, shape: tuple[int, ...]) -> torch.Tensor:
        return super().random(shape).to(self.place)


@pytest.fixture
def pretended(monkeypatch) -> PretendDevice:
    monkeypatch.setattr(trainer, "RandomNumbers", HostNumbers)
    for module in (fit, field):
        monkeypatch.setattr(module, "device_for", lambda engine: PRETENDED)
    return PretendDevice()


def test_a_fit_stays_on_its_device_and_seldom_waits_for_it(pretended, tmp_path, monkeypatch):
    posed, region = sphere_scene(tmp_path / "scene", n_views=4)
    waits: list[Counter[str]] = []
    step, warm_start = trainer.Trainer.train_step, trainer.Trainer.warm_start

    def counted(self: trainer.Trainer, *args: object) -> None:
        before = pretended.waits.copy()
        step(self, *args)
        waits.append(pretended.waits - before)
        if self.step == 4:  # a checkpoint is loaded onto the host
            self.restore(tree_map(lambda x: x.cpu() if isinstance(x, torch.Tensor) else x, self.state()))
            self.field.distance(self.data.points[:5])

    monkeypatch.setattr(trainer.Trainer, "train_step", counted)
    monkeypatch.setattr(trainer.Trainer, "warm_start", lambda self: warm_start(self, n_steps=2, n_points=64))
    patches = PatchConfig(start_share=0.0, ramp_share=0.0, n_rays=16)
    few = SMALL | {"n_levels": 2, "n_rays": 64, "n_points": 64, "n_free": 64, "bake_resolution": 24}
    cfg = SurfaceConfig(n_steps=8, bake_every=4, engine=Engine.reference, patches=patches, **few)
    job = Job("fit", tmp_path)
    with pretended:
        fit.fit_surface(posed, region, sphere_cloud(300), cfg, job).check()
    assert job.notes["device"] == str(PRETENDED)
    # which rays hit the hull, which are the object's, and which of these meet the surface
    assert all(w <= Counter(nonzero=3) for w in waits), waits
    assert max(w["nonzero"] for w in waits) == 3


def test_what_mixes_devices_is_found():
    with PretendDevice() as device:
        there = torch.ones(3, device=PRETENDED)
        assert (there * 2).device == PRETENDED
        assert there.sum().item() == 3 and device.waits["_local_scalar_dense"] == 1
        with pytest.raises(AssertionError, match="mixes"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError):
            there.numpy()
