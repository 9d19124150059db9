"""Roughness and metal per region: surfaces of one colour have one finish, told from all that photos saw of them.

A single place is seen in too few directions to tell its highlight; a region of like colour shows its material under all
of them. Regions are clusters of colour, calmed by the same Markov random field that chooses photos.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from scipy.cluster.vq import kmeans2

from texturing.cells import Cells
from texturing.fill import dilate_gutters
from texturing.gloss import Gloss, measure_gloss, roughness_and_metallic
from texturing.levelling import level_observations
from texturing.rasterize import Texels
from texturing.view_selection import select_views
from texturing.visibility import Observations

N_COLOURS = 4
"""Clusters at most. A fifth finish on one object is rarer than a colour that light and shade have split."""
SAME_COLOUR = 12.0
"""Clusters nearer than this (CIELAB) are one."""
LIGHTNESS_WEIGHT = 0.5
"""Of lightness beside hue and chroma, as shading changes it on one material."""
LEAST_SHARE = 0.08
"""A region of less of the surface is not judged by itself."""
PLAINLY = 0.15
"""Regions whose roughness is nearer than this to the whole object's have that one: the side in shade has fewer
highlights on any material."""
BORDER_SHARE = 0.02
"""Price of a border between regions, as a share of the diagonal."""


@dataclass(frozen=True)
class Finish:
    """What a part of the surface is made of."""

    area_share: float
    roughness: float
    metallic: float


@dataclass(frozen=True)
class Finishes:
    """The finishes of an object, and which part of it has which."""

    found: tuple[Finish, ...]
    label: Int64[np.ndarray, " n_faces"]
    """Index into `found` of every cell."""

    def stats(self) -> list[dict[str, float]]:
        return [asdict(finish) for finish in self.found]


def find_finishes(
    cells: Cells, observed: Observations, gains: Float64[np.ndarray, "n_views 3"], whole: Gloss
) -> Finishes | None:
    """The finishes of the regions of like colour; None where the photos tell nothing of the object at all.

    whole: the object's gloss. A region that tells nothing of its own has the object's finish.
    """
    told = roughness_and_metallic(whole)
    if told is None:
        return None
    region = colour_regions(cells, level_observations(observed, gains), observed.seen)
    values = np.tile(told, (len(cells.faces), 1))
    for k in np.unique(region):
        inside = region == k
        own = roughness_and_metallic(_gloss_of(inside, cells, observed, gains))
        large = cells.areas[inside].sum() >= LEAST_SHARE * cells.areas.sum()
        if own and large and (abs(own[0] - told[0]) >= PLAINLY or own[1] != told[1]):
            values[inside] = own
    kept, label = np.unique(values, axis=0, return_inverse=True)
    share = np.bincount(label, cells.areas) / cells.areas.sum()
    found = (Finish(round(float(s), 3), float(r), float(m)) for s, (r, m) in zip(share, kept, strict=True))
    return Finishes(tuple(found), label.astype(np.int64))


def _gloss_of(
    inside: Bool[np.ndarray, " n_faces"], cells: Cells, observed: Observations, gains: Float64[np.ndarray, "n_views 3"]
) -> Gloss:
    part = Observations(*(x[inside] for x in (observed.share, observed.safety, observed.colour, observed.density)))
    return measure_gloss(part, gains, cells.areas[inside])


def colour_regions(
    cells: Cells, colour: Float32[np.ndarray, "n_faces n_views 3"], seen: Bool[np.ndarray, "n_faces n_views"]
) -> Int64[np.ndarray, " n_faces"]:
    """The colour cluster of every cell, in calm regions; cells that no photo sees follow their neighbours.

    colour: levelled, sRGB 0..1; a highlight in some photos does not move a cell's median.
    """
    from skimage.color import rgb2lab

    known = seen.any(1)
    if not known.any():
        return np.zeros(len(seen), np.int64)
    middle = np.nanmedian(np.where(seen[known][:, :, None], colour[known], np.nan), axis=1)
    lab = rgb2lab(np.clip(middle, 0, 1)) * [LIGHTNESS_WEIGHT, 1, 1]
    centres = _centres(lab)
    cost = np.zeros((len(seen), len(centres)))
    cost[known] = ((lab[:, None] - centres) ** 2).sum(2) / SAME_COLOUR**2
    diagonal = float(np.linalg.norm(np.ptp(cells.vertices_world, axis=0)))
    return select_views(cells, cost, BORDER_SHARE * diagonal)


def _centres(lab: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "k 3"]:
    """Cluster centres at least `SAME_COLOUR` apart."""
    for k in range(min(N_COLOURS, len(lab)), 1, -1):
        centres, _ = kmeans2(lab, k, minit="++", rng=np.random.default_rng(0), missing="warn")
        apart = np.linalg.norm(centres[:, None] - centres, axis=2) + np.diag(np.full(k, np.inf))
        if apart.min() >= SAME_COLOUR:
            return np.asarray(centres)
    return lab.mean(0, keepdims=True)


def finish_map(finishes: Finishes, texels: Texels, size_px: int) -> UInt8[np.ndarray, "h w 3"]:
    """glTF's packing with roughness (green) and metal (blue); occlusion (red) is none yet."""
    values = np.array([(1.0, f.roughness, f.metallic) for f in finishes.found], np.float32)
    image, used = np.ones((size_px, size_px, 3), np.float32), np.zeros((size_px, size_px), bool)
    image[texels.row, texels.column] = values[finishes.label[texels.face]]
    used[texels.row, texels.column] = True
    return (np.clip(dilate_gutters(image, used), 0, 1) * 255 + 0.5).astype(np.uint8)
