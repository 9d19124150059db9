"""Every engine against the plain reference: values and gradients, one checkpoint for all, and what is said where one
is missing.

Triton's kernels run in its interpreter, in a process of their own: it must be told so before its first import, and
torch's optimisers import it. With a CUDA device the same tests run there; RECON_REQUIRE_CUDA=1 demands one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from striped_sphere import BOX, SMALL, radius_error, sphere_bake, sphere_cloud, sphere_scene

from recon.device import describe_machine
from recon.errors import UserError
from recon.stage import Job
from recon.surface import engine as engines
from recon.surface.checkpoint import load_checkpoint, save_checkpoint
from recon.surface.config import SurfaceConfig
from recon.surface.engine import Engine, Precision, device_for, is_half, open_grid, resolve
from recon.surface.field import Field, FieldConfig
from recon.surface.fit import fit_surface
from recon.surface.hashgrid import GridLayout, ReferenceGrid
from recon.surface.profile import encode_traffic, step_profile
from recon.surface.sampling import sample_rays
from recon.surface.sampling_reference import sample_rays_reference
from recon.surface.tiny_cuda_nn import FusedNetwork, TcnnGrid, encoding_config

ROOT = Path(__file__).parent.parent
LAYOUT = GridLayout(n_levels=5, n_features=2, log2_rows=9, base_resolution=4, finest_resolution=50)
LEVEL_WEIGHT = torch.tensor([1, 1, 1, 0.3, 0.0])
SMALL_FIELD = FieldConfig(n_levels=4, log2_rows=10, base_resolution=4, finest_resolution=30, hidden=32)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TOLERANCE = {
    # float32 sums in another order and with fused multiply-adds
    Engine.cpu: 1e-5,
    Engine.triton: 1e-5,
    # scales are float32 powers there, ours are rounded from float64: 50 cells are off by up to 1e-4 of a cell
    Engine.tcnn: 1e-3,
}


@pytest.fixture(params=[Engine.cpu, Engine.triton, Engine.tcnn], ids=lambda e: e.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine that this machine can run."""
    if request.param is Engine.tcnn:
        request.getfixturevalue("cuda")
        pytest.importorskip("tinycudann", reason="tiny-cuda-nn is not installed", exc_type=ImportError)
    if request.param is Engine.triton and not INTERPRETED:
        request.getfixturevalue("cuda")
        pytest.importorskip("triton")
    return request.param


def points_within_cells(n: int) -> torch.Tensor:
    """Points not nearer than a thousandth of a cell to a cell's border: the Jacobian jumps there."""
    x = torch.rand(4 * n, 3, generator=torch.Generator().manual_seed(1))
    place = (x[:, None] * torch.from_numpy(LAYOUT.scales())[:, None] + 0.5) % 1
    x = x[((place - 0.5).abs() < 0.499).all(2).all(1)]
    assert len(x) >= n
    return x[:n]


def grid_results(grid: engines.Grid, device: torch.device) -> dict[str, torch.Tensor]:
    """Features, J^T g, and the gradients of a weighted sum of both with respect to the table and to g."""
    random = torch.Generator().manual_seed(0)
    table = torch.randn(LAYOUT.n_rows(), 2, generator=random).to(device).requires_grad_()
    x = points_within_cells(200).to(device)
    g = torch.randn(200, 10, generator=random).to(device).requires_grad_()
    features, pull = grid.encode(table, x, LEVEL_WEIGHT.to(device))
    slope = pull(g)
    seeds = [torch.randn(v.shape, generator=random).to(device) for v in (features, slope)]
    ((features * seeds[0]).sum() + (slope * seeds[1]).sum()).backward()
    assert table.grad is not None and g.grad is not None
    alone = grid.features(table.detach(), x, LEVEL_WEIGHT.to(device))
    found = {"features": features, "slope": slope, "d_table": table.grad, "d_g": g.grad, "alone": alone}
    return {k: v.detach().cpu() for k, v in found.items()}


def assert_close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float, what: str = "") -> None:
    """Within `tolerance` of the largest wanted value."""
    assert found.shape == wanted.shape
    assert wanted.abs().max() > 0
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max(), what


def test_grid_matches_the_reference(engine):
    found = grid_results(open_grid(engine, LAYOUT), device_for(engine))
    wanted = grid_results(ReferenceGrid(LAYOUT), torch.device("cpu"))
    for name, value in wanted.items():
        assert_close(found[name], value, TOLERANCE[engine], name)


def test_transposed_and_expanded_gradients_are_understood(engine):
    device, x = device_for(engine), points_within_cells(10)
    grads = []
    for grid, place in ((open_grid(engine, LAYOUT), device), (ReferenceGrid(LAYOUT), torch.device("cpu"))):
        table = torch.ones(LAYOUT.n_rows(), 2, device=place).cumsum(0).div(1000).requires_grad_()
        features, pull = grid.encode(table, x.to(place), LEVEL_WEIGHT.to(place))
        slope = pull(torch.ones(10, 1, device=place).expand(10, 10))
        (features.T.cumsum(0).T.sum() + slope.sum()).backward()
        grads.append(table.grad.cpu())
    assert_close(grads[0], grads[1], TOLERANCE[engine])


def test_points_beside_the_unit_cube_meet_the_same_rows():
    """Points in front of the surface may lie beside the cube; tiny-cuda-nn wraps around otherwise there."""
    x = torch.tensor([[-0.3, 0.5, 1.4], [1.2, -0.9, 0.1], [-0.01, 1.001, 0.5]])
    table = torch.randn(LAYOUT.n_rows(), 2, generator=torch.Generator().manual_seed(0))
    wanted = ReferenceGrid(LAYOUT).features(table, x, LEVEL_WEIGHT)
    for engine in [Engine.cpu, *([Engine.triton] if INTERPRETED else [])]:
        assert_close(open_grid(engine, LAYOUT).features(table, x, LEVEL_WEIGHT), wanted, TOLERANCE[engine])


def field_pair(engine: Engine) -> tuple[Field, Field]:
    """A field of the engine and the reference's on the CPU, with the same parameters by way of a checkpoint."""
    torch.manual_seed(2)
    fields = Field(SMALL_FIELD, engine, Precision.single), Field(SMALL_FIELD, Engine.reference).to("cpu")
    with torch.no_grad():
        fields[0].table.uniform_(-0.1, 0.1)
    fields[1].load_state_dict(fields[0].state_dict())
    return fields


def test_field_matches_the_reference_from_one_checkpoint(engine):
    found, wanted = field_pair(engine)
    x, direction = points_within_cells(200), torch.nn.functional.normalize(torch.ones(200, 3), dim=1)
    results = []
    for field in (found, wanted):
        device = field.table.device
        sdf, gradient, geometry = field.geometry(x.to(device))
        colour = field.radiance(x.to(device), direction.to(device), gradient, geometry)
        (sdf.sum() + ((gradient.norm(dim=1) - 1) ** 2).sum() + colour.sum()).backward()
        grads = {f"d_{k}": p.grad for k, p in field.named_parameters()}
        results.append({"sdf": sdf, "gradient": gradient, "colour": colour, "sdf alone": field.distance(x.to(device))})
        results[-1] |= grads
    for name, value in results[1].items():
        # ten times the grid's: a softplus of sharpness 100 follows, and sums of 200 points
        assert_close(results[0][name].detach().cpu(), value.detach(), 10 * TOLERANCE[engine], name)


def test_half_precision_changes_colours_by_less_than_two_levels():
    torch.manual_seed(3)
    field = Field(SMALL_FIELD, Engine.cpu, Precision.single)
    x, normal = torch.rand(500, 3), torch.nn.functional.normalize(torch.randn(500, 3), dim=1)
    geometry = torch.randn(500, 15)
    single = field.radiance(x, normal, normal, geometry)
    field.in_half = True
    half = field.radiance(x, normal, normal, geometry)
    assert half.dtype == torch.float32
    # bfloat16 keeps 8 bits; three layers of a network as it is at the start lose less than two of 255 levels
    assert 0 < (half - single).abs().max() < 2 / 255


def random_rays(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rays from all around through a ball a little larger than the baked sphere, and jitter for 16 sections."""
    random = torch.Generator().manual_seed(4)
    centre = torch.nn.functional.normalize(torch.randn(n, 3, generator=random), dim=1) * 1.5 + 0.5
    target = 0.5 + 0.35 * (torch.rand(n, 3, generator=random) * 2 - 1)
    return centre, torch.nn.functional.normalize(target - centre, dim=1), torch.rand(n, 17, generator=random)


@pytest.mark.parametrize("inv_s", [20.0, 240.0])
def test_samples_match_the_reference(inv_s):
    rays_o, rays_d, jitter = random_rays(400)
    rays_o[:5, 0] += 3  # beside the hull
    found, hit = sample_rays(sphere_bake(), rays_o, rays_d, BOX, inv_s, 16, jitter)
    wanted, wanted_hit = sample_rays_reference(sphere_bake(), rays_o, rays_d, BOX, inv_s, 16, jitter)
    assert (hit == wanted_hit).all() and 0 < hit.sum() < 400
    difference = (found - wanted).abs()[hit]
    # float32 in both; where a piece has little weight an edge moves by rounding errors over that weight, but never by
    # more than the piece's length
    assert difference.median() < 1e-5
    assert difference.quantile(0.99) < 2e-3
    assert difference.max() < 2 * np.sqrt(3) / 128
    assert (wanted[~hit] == 0).all() and (found[~hit] == 0).all()


def trainer_of(engine: Engine, posed, region, seed: int = 0):
    from recon.surface.baking import Baker, unit_from_region
    from recon.surface.fit import gather
    from recon.surface.trainer import Trainer

    unit_from_world = unit_from_region(region)
    cfg = SurfaceConfig(n_steps=50, engine=engine, precision=Precision.single, seed=seed, **SMALL)
    baker = Baker(region, unit_from_world, cfg.bake_resolution, device_for(engine))
    near = baker.points[baker.near_hull].cpu().numpy()
    hull = np.linalg.norm(near - 0.5, axis=1).astype(np.float32) - np.float32(0.35)
    data = gather(posed, region, sphere_cloud(400), unit_from_world, (near[hull > 0.03], hull[hull > 0.03]), cfg)
    return Trainer(cfg, engine, data, len(posed.views)), baker, (near, hull)


def test_a_checkpoint_of_one_engine_serves_another(tmp_path):
    posed, region = sphere_scene(tmp_path / "scene")
    first, baker, start = trainer_of(Engine.cpu, posed, region)
    first.warm_start(*start, n_steps=20, n_points=500)
    first.step = 20
    baker.refresh(first.field, None)
    save_checkpoint(tmp_path / "checkpoint.pt", first.state())
    second, other_baker, _ = trainer_of(Engine.reference, posed, region, seed=9)
    second.restore(load_checkpoint(tmp_path / "checkpoint.pt")[0])
    other_baker.refresh(second.field, None)
    for trainer, at in ((first, baker), (second, other_baker)):
        for _ in range(3):
            trainer.train_step(at)
    for a, b in zip(first.field.parameters(), second.field.parameters(), strict=True):
        # Adam's first steps are nearly the gradient's sign, so that a rounding error can turn a rarely hit row's
        assert ((a - b.cpu()).abs() < 1e-3).float().mean() > 0.98
    for name, value in first.averages.items():
        assert second.averages[name] == pytest.approx(value, rel=0.02, abs=1e-5)


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


def test_tiny_cuda_nn_s_adapter_hands_over_our_parameters(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", __import__("fake_tinycudann"))
    found = grid_results(TcnnGrid(LAYOUT), torch.device("cpu"))
    for name, value in grid_results(ReferenceGrid(LAYOUT), torch.device("cpu")).items():
        assert_close(found[name], value, TOLERANCE[Engine.tcnn], name)
    field = Field(SMALL_FIELD, Engine.tcnn, Precision.single)
    with torch.no_grad():  # as a viewer asks for normals
        _, gradient, _ = field.geometry(points_within_cells(20))
    assert gradient.abs().max() > 0 and not gradient.requires_grad


def test_a_tiny_cuda_nn_that_does_not_load_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", None)  # as an extension built for another GPU
    with pytest.raises(UserError, match="cannot be loaded"):
        TcnnGrid(LAYOUT)


def test_the_fused_network_is_exact_with_biases(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", __import__("fake_tinycudann"))
    torch.manual_seed(5)
    for hidden in (15, 64):
        layers = Field(FieldConfig(n_levels=1, hidden=hidden), Engine.cpu).colour
        fused, inputs = FusedNetwork(layers), torch.randn(50, 39)
        gradients = []
        for out in (layers[:-1](inputs), fused(layers, inputs)):
            layers.zero_grad()
            (out**2).sum().backward()
            gradients.append([out.detach(), *(p.grad.clone() for p in layers.parameters())])
        for a, b in zip(*gradients, strict=True):
            assert_close(b, a, 1e-5)  # float32 sums of other lengths
    with pytest.raises(UserError, match=r"surface\.hidden"):
        FusedNetwork(torch.nn.Sequential(torch.nn.Linear(3, 128), torch.nn.Linear(128, 3)))


def test_layouts_that_tiny_cuda_nn_may_round_otherwise_are_refused():
    encoding_config(FieldConfig().layout())
    with pytest.raises(UserError, match="finest_resolution"):
        encoding_config(GridLayout(n_levels=3, n_features=2, log2_rows=19, base_resolution=8, finest_resolution=32))


def test_triton_s_kernels_in_its_interpreter():
    pytest.importorskip("triton")
    if INTERPRETED:
        pytest.skip("this is that run")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "triton or unit_cube"]
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
import hashlib, torch
from test_engines import LAYOUT, grid_results, random_rays, sphere_bake, BOX
from recon.surface.hashgrid_cpu import CpuGrid
from recon.surface.sampling import sample_rays
found = [*grid_results(CpuGrid(LAYOUT), torch.device("cpu")).values()]
rays_o, rays_d, jitter = random_rays(400)
found.append(sample_rays(sphere_bake(), rays_o, rays_d, BOX, 100.0, 16, jitter)[0])
print(hashlib.sha256(b"".join(v.numpy().tobytes() for v in found)).hexdigest())
"""


@pytest.mark.slow
def test_kernels_from_the_cache_give_the_bits_of_those_just_compiled(tmp_path):
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    said = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", BITS], env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1] != ""


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


def test_a_step_s_parts_add_up(tmp_path):
    posed, region = sphere_scene(tmp_path / "scene", n_views=4)
    trainer, baker, _ = trainer_of(Engine.cpu, posed, region)
    trainer.schedule()
    profile = step_profile(trainer, baker, n=3)
    assert sum(profile.shares().values()) == pytest.approx(1)
    parts = (profile.sampling, profile.encode, profile.networks, profile.optimiser, profile.baking)
    assert min(parts) > 0 and max(parts) < profile.step * 1.5  # other processes may disturb so short a time
    trainer.field.open_levels(4)
    # 64 + 2 * 32 + 2 * 64 bytes each, and the point itself twice
    assert encode_traffic(trainer.field, 10) == 10 * (24 + 4 * (64 + 2 * 32 + 2 * 64))
    assert profile.copy_bytes_per_s > 1e8


@pytest.mark.parametrize("wanted", [Engine.reference, Engine.triton, Engine.tcnn], ids=lambda e: e.name)
def test_a_fit_on_the_gpu_finds_the_sphere(cuda, tmp_path, wanted):
    if wanted is Engine.tcnn:
        pytest.importorskip("tinycudann", exc_type=ImportError)
    posed, region = sphere_scene(tmp_path / "scene")
    errors = {}
    for precision in (Precision.single, Precision.half):
        folder = tmp_path / precision.name
        folder.mkdir()
        cfg = SurfaceConfig(n_steps=250, engine=wanted, precision=precision, **SMALL)
        job = Job("fit", folder)
        field = fit_surface(posed, region, sphere_cloud(0), cfg, job)
        assert job.notes["device"].startswith("cuda")
        errors[precision] = np.abs(radius_error(field))
        # as on the CPU: 4 % of the radius is one pixel of these photos
        assert np.median(errors[precision]) < 0.04
