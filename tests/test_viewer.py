"""The live view of `view=true`: what it shows, that it changes nothing, and that nothing ends because of it."""

from __future__ import annotations

import socket
import urllib.request
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from striped_sphere import sphere_bake, sphere_cloud, sphere_scene
from test_training import QUICK, assert_same
from tiny_pipeline import make_capture

from recon.cli import main
from recon.config import Config
from recon.errors import UserError
from recon.help import all_options
from recon.stage import Job, keyed
from recon.surface import fit as fit_module
from recon.surface.config import SurfaceConfig
from recon.surface.fit import fit_surface
from recon.surface.trainer import Trainer
from recon.surface.viewer import HOST, Moment, ViewConfig, Viewer, describe, error_colours, free_port, viewing, zero_set


def moment(errors: list[float]) -> Moment:
    return Moment(1200, 4000, {"colour": 0.0312, "total": 0.05}, np.array(errors), sphere_bake())


def test_a_training_can_be_watched_and_is_none_the_worse(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer.warm_start, "__defaults__", (10, 1024))
    posed, region = sphere_scene(tmp_path / "scene")
    pages, shapes = [], []
    show = Viewer.show

    def shown(self, now, job):
        show(self, now, job)
        pages.append(urllib.request.urlopen(self.address, timeout=10).read().decode())
        shapes.append((self.server.get_scene_serializer().serialize(), list(self.meshes)))
        self.next_at = 0.0

    monkeypatch.setattr(Viewer, "show", shown)
    fields = []
    for view in (False, True):
        folder = tmp_path / str(view)
        folder.mkdir()
        job = Job("fit_surface", folder, view=view)
        fields.append(fit_surface(posed, region, sphere_cloud(300), replace(QUICK, n_steps=20), job))
        assert job.warnings == []
    assert_same(*fields)
    assert len(pages) == 20 and all("<html" in page.lower() for page in pages)
    recording, (mesh,) = shapes[-1]
    assert len(recording) > 10_000
    distance = np.linalg.norm(mesh.vertices, axis=1)
    # the unit cube's edge is 2.3 radii (and margins), so the sphere's radius is about 0.42
    assert 0.3 < np.median(distance) < 0.5


def test_a_view_that_fails_does_not_end_the_training(tmp_path):
    job = Job("fit_surface", tmp_path)
    viewer = Viewer(SimpleNamespace(), "http://nowhere", [], [], None, 5.0)
    assert viewer.due()
    viewer.show(moment([0.1]), job)
    (sentence,) = job.warnings
    assert "The live view stopped at step 1200 (AttributeError" in sentence and sentence.endswith("the fit goes on.")
    assert not viewer.due()


def test_pictures_cost_little_time(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("recon.surface.viewer.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(Viewer, "_draw", lambda self, now: clock.__setitem__(0, clock[0] + 2.0))
    viewer = Viewer(None, "", [], [], None, 5.0)
    viewer.show(moment([0.1]), Job("fit_surface", tmp_path))
    assert viewer.next_at == pytest.approx(102 + 2.0 / 0.02), "a picture of two seconds is followed by a long pause"


def test_a_taken_port_leaves_the_next_one():
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = free_port(port)
        assert found is None or found > port
        assert free_port(port, n_tries=1) is None
    assert free_port(70_000) is None


def test_without_a_port_there_is_no_view_and_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("recon.surface.viewer.free_port", lambda first: None)
    posed, region = sphere_scene(tmp_path / "scene", n_views=2)
    job = Job("fit_surface", tmp_path, view=True)
    with viewing(posed, sphere_cloud(3), fit_module.unit_from_region(region), ViewConfig(port=8123), job) as viewer:
        assert viewer is None
    assert job.warnings == ["No port from 8123 on is free, so there is no live view: set another surface.view.port."]


def test_the_package_is_named_where_it_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("recon.device.has_package", lambda module: module != "viser")
    posed, region = sphere_scene(tmp_path / "scene", n_views=2)
    job = Job("fit_surface", tmp_path, view=True)
    with (
        pytest.raises(UserError, match="pip install viser"),
        viewing(posed, sphere_cloud(3), fit_module.unit_from_region(region), ViewConfig(), job),
    ):
        pass
    monkeypatch.chdir(tmp_path)
    make_capture(tmp_path / "cup")
    assert main(["capture=cup", "view=true"]) == 1
    assert "view=true needs the package viser: `pip install viser`" in " ".join(capsys.readouterr().err.split())


def test_the_view_is_no_part_of_any_key():
    cfg = SurfaceConfig()
    assert keyed(cfg) == keyed(replace(cfg, view=ViewConfig(port=9000), checkpoint_s=1.0))
    assert "view" not in keyed(cfg) and keyed(cfg)["n_steps"] == cfg.n_steps
    assert Config().view is False
    defaults = {option.key: option.default for option in all_options()}
    assert defaults["surface.checkpoint_s"] == "30.0" and defaults["surface.view.port"] == "8080"
    assert defaults["view"] == "False" and defaults["prior.n_threads"] == "0"


def test_what_is_shown():
    vertices, faces = zero_set(sphere_bake())
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 0.3, atol=0.01)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    outward = (np.cross(b - a, c - a) * a).sum(1)
    assert (outward > 0).mean() > 0.99
    empty = sphere_bake(radius=-1.0)
    assert len(zero_set(empty)[1]) == 0
    good, usual, bad, unused = error_colours(np.array([0.02, 0.02, 0.1, 0.0]))
    assert good == usual and usual[1] > usual[0] and bad[0] > bad[1] and len(set(unused)) == 1
    said = describe(moment([0.1, 0.3]), ["left", "right"])
    assert "step 1,200 of 4,000" in said and said.index("| right | 0.3000 |") < said.index("| left | 0.1000 |")
    assert "| colour | 0.0312 |" in said
