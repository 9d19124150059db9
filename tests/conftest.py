"""Every test runs with array shapes and types checked: jaxtyping reads the annotations, beartype enforces them."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import install_import_hook

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
