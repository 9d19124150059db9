"""Which kernels evaluate the surface, on which device, and at which precision.

All engines share one set of parameters (`recon/surface/field.py`), so that a checkpoint of one serves the others. What
each needs is imported only where it is chosen.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon.device import TINYCUDANN_PAGE, engines_here, gpu_name, has_package
from recon.errors import UserError
from recon.surface.baked import BakedSdf
from recon.surface.hashgrid import GridLayout, Pull


class Engine(Enum):
    """What evaluates the hash grid."""

    auto = "auto"
    cpu = "cpu"
    reference = "reference"
    triton = "triton"
    tcnn = "tcnn"


class Precision(Enum):
    """What the colour's networks are evaluated in; all else is always float32."""

    auto = "auto"
    single = "single"
    half = "half"


@runtime_checkable
class Grid(Protocol):
    """A hash grid of one layout, evaluated by one engine."""

    def encode(
        self,
        table: Float[Tensor, "n_rows n_features"],
        x: Float[Tensor, "n 3"],
        level_weight: Float[Tensor, " n_levels"],
    ) -> tuple[Float[Tensor, "n n_encoded"], Pull]:
        """Features F at x, and the function g -> J^T g with J = dF / dx; differentiable in table and g, not in x.

        A function instead of J, since tiny-cuda-nn never writes J out.
        """
        ...

    def features(
        self,
        table: Float[Tensor, "n_rows n_features"],
        x: Float[Tensor, "n 3"],
        level_weight: Float[Tensor, " n_levels"],
    ) -> Float[Tensor, "n n_encoded"]:
        """Features alone, without gradients."""
        ...


SampleRays = Callable[
    [BakedSdf, Float[Tensor, "n_rays 3"], Float[Tensor, "n_rays 3"], Float[Tensor, "n_planes 4"], float, int, Tensor],
    tuple[Float[Tensor, "n_rays n_edges"], Bool[Tensor, " n_rays"]],
]
"""See `recon.surface.sampling.sample_rays`."""


def resolve(engine: Engine) -> Engine:
    """The engine that a name means: `auto` the likely fastest of those whose packages are here, tried or not.

    Raises UserError where what it needs is not here.
    """
    chosen = Engine(engines_here()[0]) if engine is Engine.auto else engine
    if chosen is Engine.triton and not has_package("triton"):
        raise UserError("The engine triton needs Triton: `pip install triton`, or leave surface.engine=auto.")
    if chosen is Engine.tcnn and not has_package("tinycudann"):
        raise UserError(
            f"The engine tcnn needs tiny-cuda-nn: install its PyTorch extension as {TINYCUDANN_PAGE} says, or leave "
            "surface.engine=auto."
        )
    if chosen in (Engine.triton, Engine.tcnn) and gpu_name() is None and not _is_interpreted(chosen):
        raise UserError(
            f"The engine {chosen.name} needs a CUDA device that torch can use, and there is none: leave "
            "surface.engine=auto."
        )
    if not has_package("numba"):  # with any engine: what is prepared before the training is prepared on the host
        raise UserError("The surface needs numba: `pip install numba`.")
    return chosen


def choose(engine: Engine, layout: GridLayout, warn: Callable[[str], object]) -> Engine:
    """The engine that will be used for grids of such a layout: `auto` becomes the likely fastest that works here.

    warn: is told of each that is installed and does not work, in a sentence. An engine asked for by name is not tried.
    Raises UserError where what it needs is not here.
    """
    if engine is not Engine.auto:
        return resolve(engine)
    *fast, last = (Engine(name) for name in engines_here())
    for candidate in fast:
        fault = fault_of(candidate, layout)
        if not fault:
            return candidate
        warn(f"The engine {candidate.name} is installed but does not work here, so the next is used: {fault}")
    return resolve(last)


def fault_of(engine: Engine, layout: GridLayout) -> str:
    """Why an engine cannot evaluate such a layout on this machine, found by trying; empty if it can."""
    try:
        resolve(engine)
        grid, device = open_grid(engine, layout), device_for(engine)
        table = torch.zeros(layout.n_rows(), layout.n_features, device=device, requires_grad=True)
        weight = torch.ones(layout.n_levels, device=device)
        features, pull = grid.encode(table, torch.linspace(0.1, 0.9, 24, device=device).view(8, 3), weight)
        (features.sum() + pull(torch.ones_like(features)).sum()).backward()
        if device.type == "cuda":  # a kernel's fault shows when it is waited for
            torch.cuda.synchronize(device)
    except Exception as error:  # a foreign extension's or a compiler's, of any type
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _is_interpreted(engine: Engine) -> bool:
    return engine is Engine.triton and os.environ.get("TRITON_INTERPRET") == "1"


def device_for(engine: Engine) -> torch.device:
    """Where a resolved engine works; the reference takes a GPU if there is one."""
    on_cpu = engine is Engine.cpu or gpu_name() is None or _is_interpreted(engine)
    return torch.device("cpu" if on_cpu else "cuda")


def is_half(precision: Precision, device: torch.device) -> bool:
    """Whether the colour's networks are evaluated in half precision. Raises UserError where the device has none."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision is Precision.half and not able:
        raise UserError(
            "surface.precision=half needs a CUDA device with bfloat16 (NVIDIA Ampere or newer): leave it at auto."
        )
    return able and precision is not Precision.single


def open_grid(engine: Engine, layout: GridLayout) -> Grid:
    """The grid of a resolved engine."""
    if engine is Engine.tcnn:
        from recon.surface.tiny_cuda_nn import TcnnGrid

        return TcnnGrid(layout)
    if engine is Engine.triton:
        from recon.surface.hashgrid_triton import TritonGrid

        return TritonGrid(layout)
    if engine is Engine.cpu:
        from recon.surface.hashgrid_cpu import CpuGrid

        return CpuGrid(layout)
    from recon.surface.hashgrid import ReferenceGrid

    return ReferenceGrid(layout)


def open_sampler(engine: Engine) -> SampleRays:
    """What places a resolved engine's samples on rays."""
    if engine is Engine.cpu:
        from recon.surface.sampling import sample_rays

        return sample_rays
    from recon.surface.sampling_reference import sample_rays_reference

    return sample_rays_reference
