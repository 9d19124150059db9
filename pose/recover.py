"""Winning back the photos that the first mapping could not place, by means that get stronger, and never a wrong one.

Each rung of the ladder is tried only while photos are lost, and its outcome is kept only where more views stand the
check of `pose/verify.py` than before.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from pose.colmap_io import silenced
from pose.enrich import Detector, Evidence, detect_tilted, enrich
from pose.features import FeaturesConfig, detect
from pose.learned.config import LearnedConfig
from pose.mapping import MappingConfig, map_globally, map_on, map_photos
from pose.matching import match_pairs
from pose.merge import merged
from pose.pairs import partners_of
from pose.verify import VerifyConfig, take_back_wrong

Progress = Callable[[float, float, str], None]


class Means(Enum):
    """How a lost photo can be won back, weakest first."""

    guided = "guided matching with all photos"
    groups = "merging of groups"
    dense = "denser features"
    tilted = "features as seen from aside"
    learned = "learned features"
    mapped_globally = "global mapping"


@dataclass(frozen=True)
class RecoverConfig:
    """How hard lost photos are tried."""

    verify: VerifyConfig = field(default_factory=VerifyConfig)
    hardest: Means = Means.mapped_globally
    """The last of the means that is tried; each costs more time than the one before."""
    min_inliers: int = 14
    """Fewest points that must agree before a lost photo is placed; the check comes after. Lower tries more places."""
    n_partners: int = 24
    """With how many of the photos most like it a lost photo is matched again."""
    n_near_partners: int = 10
    """The same where new features are sought in all of them, which costs far more time."""
    feature_factor: float = 3.0
    """How many times more features than usual are sought, at as many times less contrast."""
    max_tilt: int = 2
    """How far aside photos are looked at for features, in steps of a factor 1.4 in foreshortening; costs time.
    0: not at all."""
    learned: LearnedConfig = field(default_factory=LearnedConfig)
    fresh_share: float = 0.25
    """Where a larger share of the photos is lost, everything is also mapped anew after new features were found."""


@dataclass
class Standing:
    """The best model so far, and what became of each photo (by position in the capture)."""

    model: Any | None
    """None while no model has three views that stand the check."""
    database: Path
    """The evidence that the model was made from: a copy, for the evidence grows on."""
    won: dict[int, Means] = field(default_factory=dict)
    taken_back: dict[int, str] = field(default_factory=dict)
    """Photos that were placed at some time, and why that place was not kept."""

    def placed(self) -> set[int]:
        images = self.model.images.values() if self.model else ()
        return {im.image_id - 1 for im in images if im.has_pose}


def recover(
    models: Sequence[Any],
    evidence: Evidence,
    cfg: RecoverConfig,
    features_cfg: FeaturesConfig,
    mapping_cfg: MappingConfig,
    progress: Progress,
) -> Standing:
    """Check the largest of `models`, and try what is lost again, rung after rung.

    `evidence` gains the features and matches that were found on the way.
    """
    standing = Standing(None, evidence.database.with_name("best.db"))
    for model in models[:1]:
        _take_if_better(standing, model, None, evidence, cfg)
    n = len(evidence.features)
    groups = list(models[1:])
    for rung, means in enumerate(Means):
        lost = sorted(set(range(n)) - standing.placed())
        if not lost or rung > list(Means).index(cfg.hardest):
            break

        def part(done: float, total: float, note: str, rung: int = rung) -> None:
            progress(rung + done / max(total, 1), len(Means), note)

        for candidate in _candidates(means, standing, groups, evidence, (cfg, features_cfg, mapping_cfg), part):
            _take_if_better(standing, candidate, means, evidence, cfg)
    return standing


def _take_if_better(
    standing: Standing, model: Any, means: Means | None, evidence: Evidence, cfg: RecoverConfig
) -> None:
    """Check a model's views, and let it take the place of the best one where more of them stand."""
    taken = take_back_wrong(model, evidence.database, cfg.verify, evidence.seed)
    standing.taken_back = taken | standing.taken_back
    before = standing.placed()
    if model.num_reg_images() < 3 or model.num_reg_images() <= len(before):
        return
    standing.model = model
    shutil.copyfile(evidence.database, standing.database)
    now = standing.placed()
    standing.won = {i: m for i, m in standing.won.items() if i in now}
    if means is not None:
        standing.won |= dict.fromkeys(sorted(now - before), means)
    standing.taken_back = {i: why for i, why in standing.taken_back.items() if i not in now}


def _candidates(
    means: Means,
    standing: Standing,
    groups: list[Any],
    evidence: Evidence,
    configs: tuple[RecoverConfig, FeaturesConfig, MappingConfig],
    progress: Progress,
) -> Iterator[Any]:
    """Models that one rung makes, one after another."""
    cfg, features_cfg, mapping_cfg = configs
    n = len(evidence.features)
    lost = sorted(set(range(n)) - standing.placed())
    if means is Means.mapped_globally:
        yield from map_globally(evidence.database, mapping_cfg)[:1]
        return
    if means is Means.groups:
        yield from _joined_groups(standing, groups, lost, evidence, cfg, mapping_cfg)
        return
    if means is Means.guided:
        pairs = _pairs(lost, evidence, cfg.n_partners)
        match_pairs(evidence.database, pairs, evidence.seed, progress, True, cfg.min_inliers)
    else:
        detector = _detector(means, cfg, features_cfg)
        pairs = _pairs(lost, evidence, cfg.n_near_partners)
        if not enrich(evidence, pairs, detector, cfg.min_inliers, progress):
            return
    if standing.model is not None:
        yield map_on(standing.model, evidence.database, mapping_cfg, cfg.min_inliers)
    if n - len(standing.placed()) > cfg.fresh_share * n:
        again = dataclasses.replace(mapping_cfg, min_inliers=cfg.min_inliers)
        fresh = map_photos(evidence.database, n, again, lambda *_: None)
        groups[:] = fresh[1:] or groups
        yield from fresh[:1]


def _pairs(lost: Sequence[int], evidence: Evidence, n_partners: int) -> list[tuple[int, int]]:
    """Each lost photo with the photos most like it."""
    partners = partners_of(lost, evidence.features, n_partners, 2000)
    return sorted({(min(i, j), max(i, j)) for i, others in partners.items() for j in others})


def _detector(means: Means, cfg: RecoverConfig, features_cfg: FeaturesConfig) -> Detector:
    """What finds the features of a rung."""
    patient = dataclasses.replace(
        features_cfg,
        max_features=round(features_cfg.max_features * cfg.feature_factor),
        contrast_threshold=features_cfg.contrast_threshold / cfg.feature_factor,
    )
    if means is Means.tilted:
        return lambda grey: detect_tilted(grey, features_cfg, cfg.max_tilt)
    if means is Means.learned:
        from pose.learned.detect import detect_learned  # brings torch, which most captures' poses do without

        return lambda grey: detect_learned(grey, cfg.learned)
    return lambda grey: detect(grey, patient)


def _joined_groups(
    standing: Standing,
    groups: Sequence[Any],
    lost: Sequence[int],
    evidence: Evidence,
    cfg: RecoverConfig,
    mapping_cfg: MappingConfig,
) -> Iterator[Any]:
    """The best model with each group of other photos: those of the first mapping, and what the lost ones form alone."""
    if standing.model is None:
        return
    own = map_photos(evidence.database, len(lost), mapping_cfg, lambda *_: None, lost) if len(lost) >= 3 else []
    for group in [*groups, *own]:
        joined = merged(standing.model, group, evidence.database, evidence.seed)
        if joined is not None:
            yield map_on(joined, evidence.database, mapping_cfg, cfg.min_inliers)


def likely_reason(position: int, evidence: Evidence, standing: Standing) -> str:
    """Why a photo found no place, in words."""
    photo = evidence.capture.photos[position]
    counts = sorted(len(f.keypoints) for f in evidence.features)
    best = max(overlaps_of(position, standing.placed(), evidence.database), default=0)
    if photo.sharpness < 0.5:
        return "it is blurred"
    if len(evidence.features[position].keypoints) < max(100, counts[len(counts) // 2] / 4):
        return "it shows too little texture (plain, dark or overexposed)"
    if position in standing.taken_back:
        return f"its place did not stand the check ({standing.taken_back[position]})"
    if best < 15:
        return "it shares too little with the photos that could be placed"
    return f"it does not fit the scene that the other photos show ({best} points in common with one of them at best)"


def overlaps_of(position: int, placed: set[int], database: Path) -> list[int]:
    """The number of verified matches of a photo with each of the placed ones (positions in the capture)."""
    pycolmap = silenced()
    handle = pycolmap.Database.open(database)
    try:
        pair_ids, counts = handle.read_two_view_geometry_num_inliers()
    finally:
        handle.close()
    overlaps = []
    for pair_id, n in zip(pair_ids, counts, strict=True):
        pair = {image_id - 1 for image_id in pycolmap.pair_id_to_image_pair(pair_id)}
        if position in pair and pair - {position} <= placed:
            overlaps.append(int(n))
    return overlaps
