"""What this machine has: cores, memory, a GPU, and the optional packages that would use it."""

from __future__ import annotations

import os
import platform
from importlib import metadata, util
from shutil import which

import psutil

from recon.errors import UserError

TINYCUDANN_PAGE = "https://github.com/NVlabs/tiny-cuda-nn#pytorch-extension"
TORCH_PAGE = "https://pytorch.org/get-started/locally/"
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


def require_viewer() -> None:
    """Raise UserError where the package that `view=true` needs is missing."""
    if not has_package("viser"):
        raise UserError("view=true needs the package viser: `pip install viser`, or leave view=true away.")


def engines_here() -> list[str]:
    """The surface's engines whose packages are here, by their names in `recon/surface/engine.py`, likely fastest first.

    Whether they work is found by trying; the last, `cpu`, always does. tiny-cuda-nn before Triton is a belief: the two
    have not been timed against each other.
    """
    packages = {"tcnn": "tinycudann", "triton": "triton"} if gpu_name() is not None else {}
    return [*(engine for engine, package in packages.items() if has_package(package)), "cpu"]


def ways_to_be_faster() -> list[str]:
    """What to install or change here so that the surface is fitted faster, the most useful first; may be empty."""
    if gpu_name() is not None:
        missing = [] if has_package("triton") else ["pip install triton"]
        return missing + ([] if has_package("tinycudann") else [f"tiny-cuda-nn, see {TINYCUDANN_PAGE}"])
    if which("nvidia-smi"):
        return [f"this torch does not see the NVIDIA GPU: install one built for CUDA, see {TORCH_PAGE}"]
    return ["an NVIDIA GPU, or more cores"]


def _optional_row(what: str, package: str, use: str) -> tuple[str, str]:
    found = "found" if has_package(package) else f"not installed; for {use}: pip install {package}"
    return f"{what} ({package})", found


def describe_machine(engine: str, faults: list[str]) -> list[tuple[str, str]]:
    """Rows (what, finding) for `recon doctor`, the last ones saying what will be used and what would be faster.

    engine: the surface's that was chosen by trying; faults: sentences about those that do not work.
    """
    gpu = gpu_name()
    rows = [("python", f"{platform.python_version()} on {platform.platform(terse=True)}")]
    rows += [(name, package_version(name) or "missing") for name in ("torch", "numba", "pycolmap", "pymeshlab")]
    rows += [
        ("cores", str(n_cores())),
        ("memory", f"{memory_gb():.1f} GB, {psutil.virtual_memory().available / 1e9:.1f} GB free"),
        ("gpu", gpu or "none that torch can use"),
        ("triton", package_version("triton") or "not installed; only for a GPU: pip install triton"),
        (
            "tiny-cuda-nn",
            "found" if has_package("tinycudann") else f"not installed; only for a GPU, see {TINYCUDANN_PAGE}",
        ),
        _optional_row("video", "av", "videos"),
        _optional_row("raw photos", "rawpy", "DNG and other raw photos"),
        _optional_row("networks", "onnxruntime", "isolate.model and ALIKED"),
        _optional_row("viewer", "viser", "view=true"),
        (
            "nerfstudio",
            ("found" if has_package("nerfstudio") else f"not installed, see {NERFSTUDIO_PAGE}")
            + "; only to train its models on an asset's cameras.json, nothing here uses it",
        ),
    ]
    where = "the CPU" if gpu is None or engine == "cpu" else gpu
    rest = "the CPU for all else" if gpu is None else f"{gpu} for the prior's network; the CPU for all else"
    rows.append(("will be used", f"the engine {engine} on {where} for the surface; {rest}"))
    rows += [("does not work", fault) for fault in faults]
    return [*rows, ("to be faster", "; ".join(ways_to_be_faster()) or "nothing is missing")]
