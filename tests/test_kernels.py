"""How kernels come to run: Triton's in its interpreter and compiled for a GPU, numba's from its cache.

Triton's run in a process of their own: it must be told to interpret before its first import, and torch's optimisers
import it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from engine_checks import INTERPRETED

ROOT = Path(__file__).parent.parent


def test_triton_s_kernels_in_its_interpreter():
    pytest.importorskip("triton")
    if INTERPRETED:
        pytest.skip("this is that run")
    tests = str(ROOT / "tests" / "test_engines.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        tests,
        "-k",
        "(triton or unit_cube) and not gpu",
    ]
    env = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout, done.stdout


@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels are not compiled")
@pytest.mark.parametrize("capability", [75, 90])
def test_triton_s_kernels_compile_without_a_gpu(capability):
    """The interpreter takes what the compiler refuses; capabilities of Turing and Hopper."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from recon.surface import hashgrid_triton as kernels

    constants = {"N_FEATURES": 2, "SLOPES": True, "BLOCK": kernels.BLOCK}
    integers = {"resolutions": "*i32", "offsets": "*i32", "n": "i32"}
    integers |= dict.fromkeys(("f_point", "f_feature", "j_point", "j_feature", "j_axis"), "i32")
    for kernel, wanted in ((kernels._encode_kernel, "st.global"), (kernels._scatter_kernel, "red.global")):
        names = kernel.arg_names
        signature = {k: "constexpr" if k in constants else integers.get(k, "*fp32") for k in names}
        given = {(names.index(k),): v for k, v in constants.items() if k in names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=given)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert wanted in compiled.asm["ptx"] and len(compiled.asm["cubin"]) > 0


BITS = """
import hashlib, sys, torch
from pathlib import Path
from engine_checks import LAYOUT, grid_results, random_rays
from striped_sphere import BOX, sphere_bake
from test_patches import CFG, middle_rays, photographed_sphere, places, planes
from recon.surface.hashgrid_cpu import CpuGrid
from recon.surface.patch_match_cpu import match_cpu
from recon.surface.sampling import sample_rays
found = [*grid_results(CpuGrid(LAYOUT), torch.device("cpu")).values()]
rays_o, rays_d, jitter = random_rays(400)
found.append(sample_rays(sphere_bake(), rays_o, rays_d, BOX, 100.0, 16, jitter)[0])
scene = photographed_sphere(Path(sys.argv[1]))
view_idx, at_px, origin, direction, t, centre, _ = middle_rays(scene)
plane = planes(origin, direction, t * 1.01, centre).requires_grad_()
matches = match_cpu(plane, scene[4], CFG.patch(), places(scene, view_idx, at_px))
matches.cost.sum().backward()
found += [plane.grad, *(v.detach() for v in matches)]
print(hashlib.sha256(b"".join(v.numpy().tobytes() for v in found)).hexdigest())
"""


@pytest.mark.slow
def test_kernels_from_the_cache_give_the_bits_of_those_just_compiled(tmp_path):
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    said = []
    for name in "ab":
        command = [sys.executable, "-c", BITS, str(tmp_path / name)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1] != ""
