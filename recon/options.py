"""The words of the command line: texts made safe for Hydra, and its errors reduced to one sentence each."""

from __future__ import annotations

import difflib
import hashlib
import re
from pathlib import Path

from recon.failures import UsageError
from recon.help import COMMANDS, Option, option_named, option_names, preset_names

PATH_KEYS = ("capture", "captures", "out", "workspace")
NEED_NO_CAPTURE = {"-c", "--cfg", "-i", "--info", "--hydra-help", "-sc", "--shell-completion"}
VALUE_FLAGS = {"-cd", "--config-dir", "-c", "--cfg", "-p", "--package"}
WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false"}
"""What the value of an option of a kind must be."""


def quoted(value: str) -> str:
    """A text as Hydra's override grammar and OmegaConf read it back unchanged, whatever characters it holds."""
    value = value.replace("${", "\\${")
    value = re.sub(r"(\\*)'", lambda m: m[1] * 2 + "\\'", value)
    value = re.sub(r"(\\+)$", lambda m: m[1] * 2, value)
    return f"'{value}'"


def without_quotes(value: str) -> str:
    """A text without the quotes around it, if it has any."""
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"" else value


def expanded(path: str) -> str:
    """A path with the home folder in the place of `~`. Raises UsageError where there is no such user."""
    try:
        return str(Path(path).expanduser()) if path else path
    except RuntimeError:
        raise UsageError(f"{path} names the home folder of a user that this machine does not have.") from None


def given_paths(key: str, value: str, sweep: bool) -> list[str]:
    """The paths that `key=value` names: one, or in a sweep several captures separated by commas."""
    if not Path(value).exists():
        value = without_quotes(value)
    several = sweep and key == "capture" and "," in value and not Path(expanded(value)).exists()
    parts = [p.strip() for p in value.split(",")] if several else [value]
    return [expanded(p) for p in parts]


def split_word(word: str) -> tuple[str, str]:
    """`key=value` in two; the key is empty where the word has none."""
    key, equals, value = word.partition("=")
    return (key, value) if equals else ("", word)


def hydra_words(words: list[str], batch: bool) -> list[str]:
    """What Hydra gets for the words of `recon` or `recon batch`.

    Raises UsageError for an unknown option, where no capture is named, or where a sweep would put two captures into one
    folder.
    """
    sweep = "-m" in words or "--multirun" in words
    paths: dict[str, list[str]] = {}
    passed = []
    for position, word in enumerate(words):
        key, value = split_word(word)
        if key in PATH_KEYS:
            paths[key] = given_paths(key, value, sweep)
            passed.append(f"{key}=" + ",".join(quoted(p) for p in paths[key]))
            continue
        follows_flag = position > 0 and words[position - 1] in VALUE_FLAGS
        if not key and not word.startswith(("-", "~")) and not follows_flag:
            raise UsageError(_no_option(word, first=position == 0 and not batch))
        passed.append(f"{key}={_hydra_value(key, value, sweep)}" if _is_ours(key) else word)
    if not NEED_NO_CAPTURE & set(words):
        _require_capture(paths, batch)
    return passed + _sweep_words(paths) if sweep else passed


def _no_option(word: str, first: bool) -> str:
    """What to say of a word that is no `key=value`. first: it stands where a command would."""
    near = difflib.get_close_matches(word, COMMANDS, n=1) if first else []
    if Path(word).exists():
        return f"'{word}' is not of the form key=value: did you mean `recon capture={word}`?"
    if near:
        return f"There is no command {word}: did you mean `recon {near[0]}`?"
    return f"'{word}' is not of the form key=value: did you mean `recon capture=FOLDER preset=draft`?"


def _is_ours(key: str) -> bool:
    """Whether a word's key means an option of ours, not Hydra's: a flag, hydra.*, +key, ~key or group@package."""
    return bool(key) and not key.startswith(("-", "+", "~", "hydra")) and not re.search("[@/]", key)


def _hydra_value(key: str, value: str, sweep: bool) -> str:
    """An option's value as Hydra reads it. Raises UsageError for an unknown key and for commas in a number.

    A text is taken as it stands, commas and all, but in a sweep, where Hydra's own rules hold.
    """
    option = option_named(key)
    if option is None:
        if value.startswith("{") and _group_example(key):
            return value  # Hydra sets several options of a group so
        raise UsageError(unknown_option(key))
    is_text = option.kind == "str" and key != "preset"  # a preset is a file's name
    home = value == "~" or value.startswith("~/")
    if is_text and not sweep:
        value = without_quotes(value)
        return quoted(expanded(value) if home else value)
    if is_text and home and "," not in value:
        return quoted(expanded(value))
    if not sweep and "," in value and not value.startswith(("[", "'", '"')):
        raise UsageError(_with_comma(option, value))
    return value


def _with_comma(option: Option, value: str) -> str:
    word = f"{option.key}={value}"
    if option.kind == "float" and re.fullmatch(r"-?\d*,\d+", value):
        return f"{word} cannot be used: write {value.replace(',', '.')}, with a point."
    if option.kind == "int" and re.fullmatch(r"\d{1,3}(,\d{3})+", value):
        return f"{word} cannot be used: write {value.replace(',', '')}, without commas."
    return f"{word} names several values: `recon -m ...` tries one after another."


def _group_example(key: str) -> str:
    """The first option of a group, also of one within a group; empty where there is no such group."""
    return next((name for name in option_names() if name.startswith(f"{key}.")), "")


def unknown_option(key: str) -> str:
    """What to say of a key that is no option: the nearest one, or that it is a group."""
    example = _group_example(key)
    if example:
        help_group = key.split(".")[0]
        return f"{key} is a group of options, such as {example}: `recon --help {help_group}` lists them."
    near = difflib.get_close_matches(key, option_names(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "`recon --help` lists all of them."
    return f"There is no option {key}: {hint}"


def sole_capture(words: list[str]) -> Path:
    """The capture that the words of `recon check` name. Raises UsageError for any other words."""
    key, value = split_word(words[0]) if len(words) == 1 else ("", "")
    if key != "capture" or not value:
        raise UsageError("Name one capture and nothing else: `recon check capture=FOLDER`.")
    return Path(given_paths(key, value, False)[0])


def scene_words(words: list[str]) -> tuple[Path, Path, str]:
    """The scene file, the folder of assets and `out` that the words of `recon scene` name.

    Raises UsageError for any other words.
    """
    given = {}
    for word in words:
        key, value = split_word(word)
        if key not in ("scene", "assets", "out") or not value or key in given:
            raise UsageError(f"'{word}' is not understood: use `recon scene scene=FILE.yaml out=FOLDER assets=FOLDER`.")
        given[key] = given_paths(key, value, False)[0]
    if "scene" not in given:
        raise UsageError("Name the file that lists the scene: `recon scene scene=FILE.yaml`.")
    return Path(given["scene"]), Path(given.get("assets", "assets_out")), given.get("out", "")


def _require_capture(paths: dict[str, list[str]], batch: bool) -> None:
    if batch and not any(paths.get("captures", [])):
        raise UsageError("Name the folder that holds the captures: `recon batch captures=FOLDER`.")
    if not batch and "captures" in paths:
        raise UsageError("captures= belongs to `recon batch captures=FOLDER`; one capture is `recon capture=FOLDER`.")
    if batch and "capture" in paths:
        raise UsageError("`recon batch` takes captures=FOLDER; for a single capture leave the word batch away.")
    if not batch and not all(paths.get("capture", [""])):
        raise UsageError("Name the folder of photos: `recon capture=FOLDER` (`recon --help` shows examples).")


def _sweep_words(paths: dict[str, list[str]]) -> list[str]:
    """Where Hydra writes multirun.yaml: beside the folders of the jobs."""
    captures = paths.get("capture", [])
    names = [capture_name(Path(p)) for p in captures]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise UsageError(f"Two of the captures are called {twice}, so they would share a folder: rename one of them.")
    out = paths.get("out", [""])[0]
    if out and len(captures) > 1:
        raise UsageError(
            "out= names one folder, so it cannot take several captures: leave it away, or use `recon batch -m`."
        )
    folder = Path(out or "assets_out")
    if len(captures) == 1 and not out:
        folder = folder / names[0] / "sweep"
    return [f"hydra.sweep.dir={quoted(str(folder))}"]


def capture_name(source: Path) -> str:
    """What a capture is called: its folder (that above one called `images`), or its video without extension."""
    path = source.expanduser().resolve()
    if path.is_file():
        return path.stem
    if path.name.lower() == "images" and path.parent.name:
        path = path.parent
    return path.name or "capture"


def job_folder(overrides: list[str]) -> str:
    """A folder name for one job of a sweep: its overrides without paths and view; "" where nothing else was set."""
    kept = [w for w in overrides if split_word(w.lstrip("+"))[0] not in (*PATH_KEYS, "view")]
    text = ",".join(kept)
    name = re.sub(r"[^\w.=,+-]", "_", text)
    if name != text or len(name) > 120:
        name = f"{name[:110]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name


def hydra_sentence(error: BaseException) -> str:
    """One sentence for whatever Hydra or OmegaConf found wrong with the command line."""
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    preset = re.search(r"Could not find 'preset/([^']*)'", text)
    if preset:
        return f"There is no preset '{preset[1]}': choose {', '.join(preset_names())}."
    key = re.search(r"Could not override '([^']+)'", text)
    if key and "not in" in text:
        return unknown_option(key[1])
    group = re.search(r"No match in the defaults list|Could not find '([^']+)'", text)
    if group and group[1]:
        return f"Hydra has nothing called {group[1]} here: `recon --help` lists the options."
    merging = re.search(r"Error merging override (.+)", text)
    word = getattr(error, "override", None) or (merging and merging[1])
    reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0].rstrip(".")
    reason = f"{reason[:1].lower()}{reason[1:]}"
    if not word:
        return f"The command line cannot be used: {reason}."
    option = option_named(split_word(word)[0])
    if option is not None and option.kind == "str":
        return f"{word} cannot be used: in a sweep put such a text in quotes within quotes, {option.key}=\"'...'\"."
    if option is not None:
        wanted = WANTED.get(option.kind) or f"one of {', '.join(option.choices)}"
        return f"{word} cannot be used: it must be {wanted}."
    return f"{word} cannot be used: {reason}."
