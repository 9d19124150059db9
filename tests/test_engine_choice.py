"""Which engine is taken, what is said where one is missing, and that one which is not taken is not imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fake_tinycudann
import pytest
import torch
from engine_checks import INTERPRETED, LAYOUT
from striped_sphere import SMALL, sphere_cloud, sphere_scene

from recon.cli import main
from recon.device import describe_machine
from recon.errors import UserError
from recon.stage import Job
from recon.surface import engine as engines
from recon.surface.config import SurfaceConfig
from recon.surface.engine import Engine, Precision, choose, device_for, is_half, resolve
from recon.surface.fit import fit_surface
from recon.surface.hashgrid import GridLayout

ROOT = Path(__file__).parent.parent


def test_auto_takes_the_fastest_that_is_there(monkeypatch):
    machine = {"gpu": None, "packages": {"numba"}}
    monkeypatch.setattr("recon.device.gpu_name", lambda: machine["gpu"])
    monkeypatch.setattr("recon.device.has_package", lambda name: name in machine["packages"])
    monkeypatch.setattr(engines, "gpu_name", lambda: machine["gpu"])
    monkeypatch.setattr(engines, "has_package", lambda name: name in machine["packages"])
    assert resolve(Engine.auto) is Engine.cpu
    machine["gpu"] = "A GPU"
    assert resolve(Engine.auto) is Engine.cpu
    machine["packages"].add("triton")
    assert resolve(Engine.auto) is Engine.triton
    machine["packages"].add("tinycudann")
    assert resolve(Engine.auto) is Engine.tcnn
    assert resolve(Engine.cpu) is Engine.cpu
    assert device_for(Engine.cpu).type == "cpu"
    machine["packages"].clear()
    sentences = {
        Engine.tcnn: "tiny-cuda-nn#pytorch",
        Engine.triton: "pip install triton",
        Engine.cpu: "pip install numba",
    }
    for wanted, words in sentences.items():
        with pytest.raises(UserError, match=words):
            resolve(wanted)


def test_the_doctor_names_the_engine_and_what_would_be_faster(monkeypatch):
    machine = {"gpu": "Some GPU", "packages": {"numba"}}
    monkeypatch.setattr("recon.device.gpu_name", lambda: machine["gpu"])
    monkeypatch.setattr("recon.device.has_package", lambda name: name in machine["packages"])
    said = dict(describe_machine("cpu", []))
    assert "engine cpu on the CPU for the surface" in said["will be used"]
    assert said["to be faster"].startswith("pip install triton") and "tiny-cuda-nn" in said["to be faster"]
    machine["packages"].add("triton")
    said = dict(describe_machine("triton", ["The engine tcnn is too old."]))
    assert (
        "engine triton on Some GPU for the surface; Some GPU for the prior's network" in said["will be used"]
        and said["does not work"] == "The engine tcnn is too old."
    )
    machine["packages"].add("tinycudann")
    assert dict(describe_machine("tcnn", []))["to be faster"] == "nothing is missing"
    machine["gpu"] = None
    monkeypatch.setattr("recon.device.which", lambda name: "/usr/bin/nvidia-smi")
    assert "built for CUDA" in dict(describe_machine("cpu", []))["to be faster"]
    assert "engine cpu" in dict(describe_machine("cpu", []))["will be used"]


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU, tiny-cuda-nn and Triton, as far as names go; work is done on the CPU."""
    for module in ("recon.device", "recon.surface.engine"):
        monkeypatch.setattr(f"{module}.gpu_name", lambda: "A GPU")
        monkeypatch.setattr(f"{module}.has_package", lambda name: True)
    monkeypatch.setattr(engines, "device_for", lambda engine: torch.device("cpu"))


def test_auto_goes_on_to_the_next_where_an_engine_does_not_work(pretended_gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", fake_tinycudann)
    said: list[str] = []
    assert choose(Engine.auto, LAYOUT, said.append) is Engine.tcnn and said == []
    # a layout that tiny-cuda-nn does not take, and an engine that works
    open_grid = engines.open_grid
    works = {Engine.triton}
    monkeypatch.setattr(
        engines,
        "open_grid",
        lambda engine, layout: open_grid(Engine.reference if engine in works else engine, layout),
    )
    unsure = GridLayout(n_levels=3, n_features=2, log2_rows=19, base_resolution=8, finest_resolution=32)
    assert choose(Engine.auto, unsure, said.append) is Engine.triton
    assert len(said) == 1 and "tcnn" in said[0] and "finest_resolution" in said[0]
    # built for another GPU; and Triton does not work either
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    works.clear()
    monkeypatch.setitem(sys.modules, "recon.surface.hashgrid_triton", None)
    assert choose(Engine.auto, LAYOUT, said.append) is Engine.cpu
    assert "cannot be loaded" in said[1] and "engine triton" in said[2]
    # by name it is taken as it is
    assert choose(Engine.tcnn, LAYOUT, said.append) is Engine.tcnn and len(said) == 3
    with pytest.raises(UserError, match="cannot be loaded"):
        open_grid(Engine.tcnn, LAYOUT)


def test_the_doctor_tries_the_engines(pretended_gpu, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    monkeypatch.setitem(sys.modules, "recon.surface.hashgrid_triton", None)
    assert main(["doctor"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the engine cpu on the CPU" in said and "tcnn is installed but does not work here" in said


def test_a_fit_notes_the_engine_that_did_not_work(pretended_gpu, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    monkeypatch.setitem(sys.modules, "recon.surface.hashgrid_triton", None)
    posed, region = sphere_scene(tmp_path / "scene", n_views=2)
    for module in ("fit", "field"):
        monkeypatch.setattr(f"recon.surface.{module}.device_for", lambda engine: torch.device("cpu"))
    job = Job("fit", tmp_path)
    fit_surface(posed, region, sphere_cloud(0), SurfaceConfig(n_steps=1, **SMALL), job)
    assert job.notes["engine"] == "cpu" and ["tcnn" in w or "triton" in w for w in job.warnings] == [True, True]


@pytest.mark.skipif(torch.cuda.is_available() or INTERPRETED, reason="what is said where there is no GPU")
def test_a_gpu_s_engine_without_a_gpu_is_refused(tmp_path):
    posed, region = sphere_scene(tmp_path / "scene", n_views=2)
    with pytest.raises(UserError, match="CUDA device"):
        fit_surface(posed, region, sphere_cloud(0), SurfaceConfig(engine=Engine.triton), Job("fit", tmp_path))
    with pytest.raises(UserError, match="bfloat16"):
        is_half(Precision.half, torch.device("cpu"))
    assert not is_half(Precision.auto, torch.device("cpu"))


BARE_NODE = """
import sys
for name in ("pycolmap pymeshlab trimesh embreex xatlas skimage pillow_heif hydra omegaconf rich av rawpy onnxruntime "
             "viser nerfstudio tinycudann triton").split():
    sys.modules[name] = None
from recon.surface import fit
from recon.surface.engine import Engine, resolve
print(resolve(Engine.auto).name)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto would take a GPU's engine")
def test_the_fit_needs_little_more_than_torch():
    """torch, numpy, scipy, OpenCV, numba, and what reads and writes the stage's folder."""
    done = subprocess.run([sys.executable, "-c", BARE_NODE], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "cpu\n"), done.stderr


def test_kernels_for_a_gpu_are_imported_late():
    code = "import sys; import recon.surface.fit; print('triton' in sys.modules, 'tinycudann' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "False False\n", done.stderr
