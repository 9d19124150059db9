"""Which engine is taken, what is said where one is missing, and that one which is not taken is not imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_checks import INTERPRETED
from striped_sphere import sphere_cloud, sphere_scene

from recon.device import describe_machine
from recon.errors import UserError
from recon.stage import Job
from recon.surface import engine as engines
from recon.surface.config import SurfaceConfig
from recon.surface.engine import Engine, Precision, device_for, is_half, resolve
from recon.surface.fit import fit_surface

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
    said = dict(describe_machine())
    assert "engine cpu on the CPU for the surface" in said["will be used"]
    assert said["to be faster"].startswith("pip install triton") and "tiny-cuda-nn" in said["to be faster"]
    machine["packages"].add("triton")
    assert "engine triton on Some GPU" in dict(describe_machine())["will be used"]
    machine["packages"].add("tinycudann")
    assert dict(describe_machine())["to be faster"] == "nothing is missing"
    machine["gpu"] = None
    monkeypatch.setattr("recon.device.which", lambda name: "/usr/bin/nvidia-smi")
    assert "built for CUDA" in dict(describe_machine())["to be faster"]
    assert "engine cpu" in dict(describe_machine())["will be used"]


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
