"""The type checker that conftest.py hooks into our modules: strict about arrays, lenient about numpy's scalars."""

from __future__ import annotations

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

SCALARS = FrozenDict({bool: bool | np.bool_, int: int | np.integer, float: float | int | np.floating | np.integer})
check = beartype(conf=BeartypeConf(hint_overrides=SCALARS))
