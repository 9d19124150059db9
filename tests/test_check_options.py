"""Options that are wrong in themselves are found before any work begins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recon.check_options import check_options
from recon.config import Config
from recon.errors import UserError


def test_the_defaults_are_right() -> None:
    check_options(Config())


@pytest.mark.parametrize(
    ("value", "wanted"), [(-1.0, "must not be negative"), (float("nan"), "must be a finite number")]
)
def test_numbers_that_no_stage_can_use_are_told(value: float, wanted: str) -> None:
    cfg = Config()
    with pytest.raises(UserError, match=rf"surface\.learning_rate={value:g} cannot be used: it {wanted}\."):
        check_options(replace(cfg, surface=replace(cfg.surface, learning_rate=value)))


def test_a_fit_has_a_step_at_least() -> None:
    cfg = Config()
    with pytest.raises(UserError, match=r"surface\.n_steps=0 cannot be used: it must be at least 1\."):
        check_options(replace(cfg, surface=replace(cfg.surface, n_steps=0)))
