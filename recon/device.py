"""What this machine has: cores, memory, a GPU, and the optional packages that would use it."""

from __future__ import annotations

import os
import platform
from importlib import metadata, util

import psutil

TINYCUDANN_PAGE = "https://github.com/NVlabs/tiny-cuda-nn#pytorch-extension"
NERFSTUDIO_PAGE = "https://docs.nerf.studio/quickstart/installation.html"


def n_cores() -> int:
    """How many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gb() -> float:
    """Physical memory in GB (10^9 bytes)."""
    return float(psutil.virtual_memory().total / 1e9)


def gpu_name() -> str | None:
    """The CUDA device that torch would use, or None."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def has_package(module: str) -> bool:
    """Whether an optional package is installed; it is not imported."""
    return util.find_spec(module) is not None


def package_version(distribution: str) -> str | None:
    """An installed distribution's version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def fastest_engine() -> str:
    """The surface's engine that is likely the fastest here, by its name in `recon/surface/engine.py`.

    tiny-cuda-nn before Triton is a belief: the two have not been timed against each other.
    """
    if gpu_name() is None:
        return "cpu"
    if has_package("tinycudann"):
        return "tcnn"
    return "triton" if has_package("triton") else "cpu"


def describe_machine() -> list[tuple[str, str]]:
    """Rows (what, finding) for `recon doctor`, the last one saying what will be used."""
    gpu = gpu_name()
    rows = [("python", f"{platform.python_version()} on {platform.platform(terse=True)}")]
    rows += [(name, package_version(name) or "missing") for name in ("torch", "numba", "pycolmap", "pymeshlab")]
    rows += [
        ("cores", str(n_cores())),
        ("memory", f"{memory_gb():.1f} GB, {psutil.virtual_memory().available / 1e9:.1f} GB free"),
        ("gpu", gpu or "none that torch can use"),
        (
            "tiny-cuda-nn",
            "found" if has_package("tinycudann") else f"not installed; only for a GPU, see {TINYCUDANN_PAGE}",
        ),
        ("nerfstudio", "found" if has_package("nerfstudio") else f"not installed; optional, see {NERFSTUDIO_PAGE}"),
        ("video (av)", "found" if has_package("av") else "not installed; for videos: pip install av"),
    ]
    used = f"the CPU engine on {n_cores()} cores"
    if gpu is not None:
        used += "; the GPU stays idle, as no engine for it is built in"
    return [*rows, ("will be used", used)]
