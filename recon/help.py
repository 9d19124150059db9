"""`recon --help`: read from the sources of the config classes, so that it answers at once and cannot go stale."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path

from rich.console import Console
from rich.table import Table

USAGE = """\
Walk around an object with a phone, run one command, get a finished textured 3D asset.

  recon capture=FOLDER                  photos of one object in, assets_out/<name>/asset.glb out
  recon capture=photos/teapot preset=draft              a first look within minutes
  recon capture=teapot.mp4 out=~/models/teapot          a video in, another folder out
  recon batch captures=photos out=FOLDER                every capture in a folder, one after another
  recon -m capture=photos/teapot preset=draft,standard  a sweep: every combination in its own folder
  recon check capture=photos/teapot                     is the capture good enough? what is missing? (a minute)
  recon scene scene=room.yaml assets=FOLDER out=FOLDER  several assets placed in one GLB, as a YAML file lists them
  recon doctor                                          what this machine has and what will be used
  recon --help surface                                  what every option of a group means; also of a command:
                                                        recon batch --help

Run the same command again after an interruption: it goes on from the last finished stage. A changed option remakes
only what depends on it.
"""

COMMANDS = {
    "batch": """\
recon batch captures=FOLDER [out=FOLDER] [any option of recon] makes every capture in a folder, one after another.

  captures=FOLDER   every subfolder with photos or videos is a capture, and so is every video that lies beside them
  out=FOLDER        gets a folder for each capture, and batch.json; by default assets_out

A capture that fails is named, with the reason, and the rest go on. `recon batch -m ...` sweeps over options.
""",
    "check": """\
recon check capture=FOLDER tells within about a minute whether a capture is good enough, and what is missing.

  capture=FOLDER    photos of one object, or capture=video.mp4

Sharpness, exposure, overlap and directions are looked at; nothing is written.
""",
    "scene": """\
recon scene scene=FILE.yaml [assets=FOLDER] [out=FOLDER] places several assets in one GLB, and in one USDZ.

  scene=FILE.yaml   lists them, each with position, turn, size and copies; the README shows one
  assets=FOLDER     where assets are looked for by their names; by default assets_out
  out=FOLDER        where the scene goes, or out=FILE.glb; by default beside the YAML file
""",
    "doctor": """\
recon doctor tells what this machine has, what will be used of it, and what would be faster. It takes no options.
""",
}
"""What `recon COMMAND --help` prints."""


@dataclass(frozen=True)
class Option:
    """One option as its config class states it."""

    key: str
    default: str
    text: str
    kind: str
    """int, float, str, bool, or the name of the Enum that its value is of."""
    choices: tuple[str, ...] = ()
    """The Enum's values."""


@cache
def _source(module: str) -> ast.Module:
    spec = util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {module}", name=module)
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _find_class(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """The class that `name` means in a module: its own, or the one it imports from one of our modules."""
    for node in _source(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module and any(a.name == name for a in node.names):
            ours = node.module.split(".")[0] in ("recon", "pose", "texturing")
            return _find_class(node.module, name) if ours else None
    return None


def _choices(node: ast.ClassDef) -> list[str]:
    """Members of an Enum; empty for any other class."""
    if not any(ast.unparse(base).endswith("Enum") for base in node.bases):
        return []
    return [t.id for a in node.body if isinstance(a, ast.Assign) for t in a.targets if isinstance(t, ast.Name)]


def _default(value: ast.expr | None) -> str:
    if value is None:
        return ""
    if isinstance(value, ast.Attribute):
        return value.attr
    if isinstance(value, ast.Call):
        given = {k.arg: k.value for k in value.keywords}
        if "default" in given:
            return _default(given["default"])
        inner = given.get("default_factory")
        return ast.unparse(inner.body) if isinstance(inner, ast.Lambda) else "[]"
    return str(value.value) if isinstance(value, ast.Constant) else ast.unparse(value)


def _options_of(module: str, class_name: str, prefix: str) -> list[Option]:
    found = _find_class(module, class_name)
    if found is None:
        return []
    home, node = found
    options: list[Option] = []
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        doc = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        text = " ".join(str(doc).split())
        key = f"{prefix}{field.target.id}"
        inner = _find_class(home, field.annotation.id) if isinstance(field.annotation, ast.Name) else None
        if inner and not _choices(inner[1]):
            options += _options_of(inner[0], inner[1].name, f"{key}.")
            continue
        choices = tuple(_choices(inner[1])) if inner else ()
        if choices:
            text = f"{text} One of {', '.join(choices)}."
        options.append(Option(key, _default(field.value), text.strip(), ast.unparse(field.annotation), choices))
    return options


@cache
def all_options() -> tuple[Option, ...]:
    """Every option of recon, groups in pipeline order."""
    return tuple(_options_of("recon.config", "Config", ""))


def option_names() -> list[str]:
    return [option.key for option in all_options()]


def option_named(key: str) -> Option | None:
    """The option with that key, or None."""
    return next((option for option in all_options() if option.key == key), None)


@cache
def preset_names() -> tuple[str, ...]:
    """The presets there are, the quickest first."""
    folder = Path(__file__).parent.parent / "configs" / "preset"
    names = {path.stem for path in folder.glob("*.yaml")}
    usual = [n for n in ("draft", "standard", "fine") if n in names]
    return (*usual, *sorted(names - set(usual)))


def groups() -> dict[str, list[Option]]:
    """Options by group; the run's own ones are under ""."""
    by_group: dict[str, list[Option]] = {}
    for option in all_options():
        group, dot, _ = option.key.partition(".")
        by_group.setdefault(group if dot else "", []).append(option)
    return by_group


def print_group(console: Console, options: list[Option]) -> None:
    """A table of options: key, default, meaning."""
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    for option in options:
        table.add_row(f"[bold]{option.key}[/]", option.default, option.text.replace("[", r"\["))
    console.print(table)


def print_help(console: Console, group: str = "") -> bool:
    """Print the whole help, or all about one group or command; False where there is no such one."""
    by_group = groups()
    if group in COMMANDS:
        console.print(COMMANDS[group], end="", markup=False, highlight=False, soft_wrap=True)
        return True
    if group:
        if group in by_group:
            print_group(console, by_group[group])
        return group in by_group
    console.print(USAGE, markup=False, highlight=False, soft_wrap=True)
    print_group(console, [o for o in by_group[""] if o.key != "captures"])
    console.print(f"\n  Presets: {', '.join(preset_names())}. Options of each stage (group.key=value):\n", markup=False)
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    for name, options in by_group.items():
        if name:
            table.add_row(f"[bold]{name}[/]", "  ".join(o.key.removeprefix(f"{name}.") for o in options))
    console.print(table)
    console.print("\n  recon --hydra-help tells about sweeps, launchers and --cfg job.", markup=False)
    return True
