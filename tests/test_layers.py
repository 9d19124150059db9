"""The layer rule, read off the imports: who may import whom, and what may not be imported at start-up."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
CORE = {f"recon.{name}" for name in ("data", "transforms", "camera", "device", "stage", "errors")} | {"recon"}
COMPOSERS = {"recon.pipeline", "recon.config", "recon.check"}
SHARED = {
    ("recon.mesh.extract", "recon.surface.query"),
    ("recon.batch", "recon.capture.decode"),
    ("recon.batch", "recon.capture.find"),
    ("recon.batch", "recon.capture.given"),
    ("recon.check_options", "recon.surface.engine"),
    ("recon.cli", "recon.scene.write"),
    ("recon.cli", "recon.surface.engine"),
    ("recon.cli", "recon.surface.field"),
    ("recon.evaluate.variants", "pose.features"),
    ("recon.evaluate.preprocess", "recon.isolate.box"),
    ("recon.prior.training.paint", "pose.learned.training.textures"),
    ("recon.prior.training.paint", "recon.evaluate.synthetic.noise"),
    ("recon.prior.training.scenes", "recon.evaluate.synthetic.camera"),
    ("recon.prior.training.scenes", "recon.evaluate.synthetic.noise"),
    ("recon.prior.training.scenes", "recon.evaluate.synthetic.phone"),
    ("recon.prior.training.shapes", "recon.evaluate.synthetic.shapes"),
    ("recon.report.page", "recon.coverage"),
    ("recon.report.page", "recon.progress"),
    ("recon.report.cover", "recon.mesh.visibility"),
    ("recon.report.pictures", "texturing.preview"),
    ("recon.report.pictures", "texturing.render"),
}
"""A mesh is read off a surface field; a batch looks for captures by the file types that the first stage reads; before
a run it is asked whether the surface's engine can be had, and `recon doctor` tries the engines as a fit does; the
command line makes scenes, which are no stage; the judges of poses and of boxes go by the rules of the stages that they
judge; what the prior's network learns from is rendered with the parts that make synthetic captures and the textures of
the learned features; the report draws the asset as the preview does, says what `recon check` and the mesh stage can
see, and names stages as the progress bars do."""
LATE_ONLY = {"pycolmap", "pymeshlab", "av", "rawpy", "nerfstudio", "onnxruntime", "tinycudann", "viser", "pxr"}
"""Slow to import or optional: allowed inside the functions that need them, never at the top of a module."""


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for top in ("recon", "pose", "texturing"):
        for path in sorted((ROOT / top).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Names of imported modules; `from package import module` gives both."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "relative imports hide the layers"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(module: str) -> str:
    """The layer a module belongs to: recon.mesh.extract -> recon.mesh, pose.matching -> pose."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "recon" and len(parts) > 2 else parts[0]


def in_core(module: str) -> bool:
    return module in CORE or module.startswith("recon.data.")


def allowed(importer: str, target: str, known: set[str]) -> bool:
    if target not in known or in_core(target) or (importer, target) in SHARED:
        return True
    if in_core(importer):
        return False
    if importer in COMPOSERS:
        return True
    stage_package = importer.count(".") > 1 or not importer.startswith("recon.")
    if stage_package:
        return package_of(target) == package_of(importer) or target == package_of(importer)
    return target.split(".")[0] == "recon" and (target.count(".") == 1 or target.startswith("recon.report"))


def violations(parsed: dict[str, ast.Module]) -> list[str]:
    packages = {name for name in parsed if any(other.startswith(f"{name}.") for other in parsed)}
    known = set(parsed) - packages
    pairs = ((name, target) for name, tree in parsed.items() for target in imported(ast.walk(tree)))
    return sorted({f"{name} imports {target}" for name, target in pairs if not allowed(name, target, known)})


def test_imports_keep_the_layers() -> None:
    parsed = modules()
    assert "recon.pipeline" in parsed and "pose.estimate" in parsed and "texturing.bake" in parsed
    assert violations(parsed) == []


@pytest.mark.parametrize(
    ("importer", "code"),
    [
        ("recon.stage", "from recon.pipeline import reconstruct"),
        ("pose.estimate", "import recon.mesh.extract"),
        ("texturing.bake", "def f():\n    from pose.estimate import estimate_poses"),
        ("recon.mesh.extract", "from recon.surface import fit"),
        ("recon.cli", "from recon.surface.fit import SurfaceConfig"),
    ],
)
def test_a_broken_layer_is_found(importer: str, code: str) -> None:
    assert violations(modules() | {importer: ast.parse(code)}) != []


def test_slow_packages_are_imported_late() -> None:
    early = {
        f"{name} imports {target}"
        for name, tree in modules().items()
        for target in imported(iter(tree.body))
        if target.split(".")[0] in LATE_ONLY
    }
    assert early == set()


def test_only_one_module_knows_nerfstudio() -> None:
    users = {n for n, tree in modules().items() for t in imported(ast.walk(tree)) if t.split(".")[0] == "nerfstudio"}
    assert users <= {"recon.external.nerfstudio"}


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    tops = ("recon", "pose", "texturing", "configs")
    found = [p.parent.relative_to(ROOT) for top in tops for p in (ROOT / top).rglob("__init__.py")]
    assert sorted(listed) == sorted(".".join(path.parts) for path in found)


def test_a_wrong_shape_fails() -> None:
    """The canary: without the import hook of conftest.py no annotation is checked, and nobody would notice."""
    from recon.transforms import Rigid

    with pytest.raises(jaxtyping.TypeCheckError):
        Rigid(np.eye(4), np.zeros(3))
    Rigid(np.eye(3), np.zeros(3))
