"""Every test runs with array shapes and types checked: jaxtyping reads the annotations, beartype enforces them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).parent.parent


def checked_modules() -> list[str]:
    """Our modules whose annotations carry shapes.

    Left out are packages (they would take in all below) and modules that numba compiles (it refuses wrapped functions).
    """
    files = [f for top in ("recon", "pose", "texturing") for f in sorted((ROOT / top).rglob("*.py"))]
    texts = {f: f.read_text(encoding="utf-8") for f in files if f.name != "__init__.py"}
    shaped = [f for f, text in texts.items() if "import jaxtyping" in text or "from jaxtyping" in text]
    return [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in shaped if "njit" not in texts[f]]


install_import_hook(checked_modules(), "shape_checks.check")
pytest.register_assert_rewrite("engine_checks")  # so that its asserts say what they compared


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    """The CUDA device. Without one a test is skipped, or fails under RECON_REQUIRE_CUDA=1."""
    import torch

    if not torch.cuda.is_available():
        if os.environ.get("RECON_REQUIRE_CUDA") == "1":
            pytest.fail("RECON_REQUIRE_CUDA=1, but torch finds no CUDA device")
        pytest.skip("no CUDA device")
    return torch.device("cuda")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The surface as on a machine without a GPU, whatever this one has: where the CPU's values are compared."""
    for module in ("recon.device", "recon.surface.engine"):
        monkeypatch.setattr(f"{module}.gpu_name", lambda: None)
