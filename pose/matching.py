"""Feature matches between photos, verified by two-view geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from pose.colmap_io import database_name, silenced


def match_pairs(
    database: Path,
    pairs: Sequence[tuple[int, int]],
    seed: int,
    progress: Callable[[float, float, str], None],
    guided: bool = False,
    min_inliers: int = 15,
) -> None:
    """Match and verify the features of pairs of photos (positions in the capture) in the database.

    Ratio test, cross check and RANSAC; `guided` also looks along the epipolar lines found, which wins more matches.
    """
    pycolmap = silenced()
    verification = verification_options(seed, min_inliers)
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    matching.guided_matching = guided
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = database.with_name("pairs.txt")
    # Blocks large enough to keep all cores busy, small enough for a lively progress bar.
    block = max(64, len(pairs) // 25)
    for start in range(0, len(pairs), block):
        lines = [f"{database_name(i)} {database_name(j)}\n" for i, j in pairs[start : start + block]]
        pairing.match_list_path.write_text("".join(lines), encoding="utf-8")
        pycolmap.match_image_pairs(
            database,
            matching_options=matching,
            pairing_options=pairing,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )
        progress(min(start + block, len(pairs)), len(pairs), "matching photos")
    pairing.match_list_path.unlink(missing_ok=True)


def verification_options(seed: int, min_inliers: int) -> Any:
    """pycolmap's options for the geometry of two photos."""
    options = silenced().TwoViewGeometryOptions()
    options.ransac.random_seed = seed
    options.min_num_inliers = min_inliers
    return options


def read_matches(database: Path) -> dict[tuple[int, int], Int[np.ndarray, "_ 2"]]:
    """The verified matches of each pair of photos (positions in the capture, the smaller first) as feature indices."""
    pycolmap = silenced()
    handle = pycolmap.Database.open(database)
    try:
        ids, geometries = handle.read_two_view_geometries()
    finally:
        handle.close()
    out = {}
    for pair_id, geometry in zip(ids, geometries, strict=True):
        a, b = pycolmap.pair_id_to_image_pair(pair_id)
        matches = np.asarray(geometry.inlier_matches, np.int64).reshape(-1, 2)
        if len(matches):
            out[a - 1, b - 1] = matches
    return out


def read_raw_matches(database: Path) -> dict[tuple[int, int], Int[np.ndarray, "_ 2"]]:
    """The matches of each pair of photos before any geometry was asked of them, as `read_matches`."""
    pycolmap = silenced()
    handle = pycolmap.Database.open(database)
    try:
        found = handle.read_all_matches()
    finally:
        handle.close()
    out = {}
    for pair_id, rows in zip(*found, strict=True):
        a, b = pycolmap.pair_id_to_image_pair(pair_id)
        matches = np.asarray(rows, np.int64).reshape(-1, 2)
        if len(matches):
            out[a - 1, b - 1] = matches
    return out
