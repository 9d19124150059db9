"""Options that are wrong in themselves are found before any work begins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recon.check_options import ZERO, check_options
from recon.config import Config
from recon.errors import UserError
from recon.help import option_named


def test_the_defaults_and_the_zeros_that_help_explains_are_right() -> None:
    cfg = Config()
    check_options(cfg)
    off = replace(cfg.export, lod1_triangles=0), replace(cfg.unwrap, max_chart_cost=0.0)
    check_options(replace(cfg, export=off[0], unwrap=off[1]))


@pytest.mark.parametrize("key", ["n_voxels", "work_side_px"])
def test_counts_and_sizes_are_positive(key: str) -> None:
    cfg = Config()
    for value, wanted in ((0, "at least 1"), (-1, "no less than 0")):
        with pytest.raises(UserError, match=rf"isolate\.{key}={value} cannot be used: it must be {wanted}\."):
            check_options(replace(cfg, isolate=replace(cfg.isolate, **{key: value})))


def test_a_zero_in_a_help_text() -> None:
    assert all(ZERO.search(text) for text in ("Rays; 0: none.", "so many; 0 leaves it out", "0 means one a core"))
    assert not any(ZERO.search(text) for text in ("from 0..1", "0.5 of it", "at 8080", "4,000 steps", "a 2.0"))
    steps = option_named("surface.n_steps")
    assert steps is not None and steps.kind == "int" and not ZERO.search(steps.text)
