"""Asks a segmentation network about the photos: one more witness, overruled where the common solid says otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from recon.isolate.carve import signed_distance_px
from recon.isolate.consensus import Body
from recon.isolate.frames import Frame
from recon.isolate.segmenter import BOX_CORNERS, Prompt, PromptedNetwork, SalientNetwork, fingerprints, load_network
from recon.isolate.sharpen import at_size
from recon.stage import Job

WEIGHT = 0.2
"""A network's share in the first evidence. Small enough that what it alone calls object or surroundings is not taken at
its word: only what the cues leave open is settled by it."""
LEAST_CONTRAST = 0.4
"""A photo's answer is used if the network is surer by this much within the first solid than outside it."""
MOST_OFF, EDGE_PX = 0.25, 2.0
"""A prompted answer is used if it differs from the solid's silhouette over at most this share of its area. The outline
itself does not count: within these working pixels of it the silhouette is not sure. True masks of a thin-legged stool
differ by up to 0.18."""
N_POINTS = 3
"""Points that show the network the object, and as many that show what is not."""


def network_named(model: str, job: Job) -> SalientNetwork | PromptedNetwork | None:
    """The network that isolate.model names, its files noted in the job; None for "".

    Raises UserError where it cannot be used (see `load_network`).
    """
    if not model:
        return None
    network = load_network(model)
    job.notes["model"] = fingerprints(model)
    return network


def salient_shares(
    network: SalientNetwork, full: Sequence[Frame], frames: Sequence[Frame], job: Job
) -> list[Float32[np.ndarray, "_ _"]]:
    """How surely each pixel of `frames` stands out, 0..1, from the photos at `full` size."""
    shares = []
    for n, (photo, frame) in enumerate(zip(full, frames, strict=True)):
        job.progress(0.02 * n / len(full), 1, f"asking the network about photo {n + 1} of {len(full)}")
        shares.append(cv2.resize(network.share(photo.rgb), frame.shape()[::-1], interpolation=cv2.INTER_AREA))
    return shares


def with_shares(
    maps: Sequence[Float32[np.ndarray, "_ _"]], shares: Sequence[Float32[np.ndarray, "_ _"]]
) -> list[Float32[np.ndarray, "_ _"]]:
    """The first evidence (-1..1) with the network, if there is one, as a witness."""
    if not shares:
        return list(maps)
    return [(1 - WEIGHT) * m + WEIGHT * (2 * s - 1) for m, s in zip(maps, shares, strict=True)]


def with_their_feature(
    stacks: Sequence[Float32[np.ndarray, "_ _ f"]],
    shares: Sequence[Float32[np.ndarray, "_ _"]],
    frames: Sequence[Frame],
    loose: Body,
    core: Body,
    job: Job,
) -> list[Float32[np.ndarray, "_ _ g"]]:
    """The pixels' features with their log odds of standing out, 0 in photos where the first solids overrule them.

    A feature needs no trust beforehand: the classifier weighs it by how well it tells this capture's object from its
    surroundings.
    """
    if not shares:
        return list(stacks)
    silhouettes = zip(loose.silhouettes(frames), core.silhouettes(frames), strict=True)
    agrees = [contrast(s, a, b) >= LEAST_CONTRAST for s, (a, b) in zip(shares, silhouettes, strict=True)]
    tell_overruled(agrees, job)
    odds = [
        (np.log(s + np.float32(0.02)) - np.log(np.float32(1.02) - s)) * ok for s, ok in zip(shares, agrees, strict=True)
    ]
    return [np.dstack([stack, o.astype(np.float32)]) for stack, o in zip(stacks, odds, strict=True)]


def contrast(share: Float32[np.ndarray, "h w"], loose: Bool[np.ndarray, "h w"], core: Bool[np.ndarray, "h w"]) -> float:
    """How much surer the network is within `core` than outside `loose`: 1 agrees fully, 0 and less contradicts."""
    if not core.any() or loose.all():
        return 0.0
    return float(share[core].mean() - share[~loose].mean())


def prompted_masks(
    network: PromptedNetwork,
    full: Sequence[Frame],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    silhouettes: Sequence[Bool[np.ndarray, "_ _"]],
    job: Job,
) -> list[Bool[np.ndarray, "_ _"]]:
    """Each photo's mask by the network, or as it was where that contradicts the solid's silhouette."""
    out, agrees = [], []
    for n, (photo, mask, silhouette) in enumerate(zip(full, masks, silhouettes, strict=True)):
        job.progress(0.6, 1, f"asking the network about photo {n + 1} of {len(full)}")
        prompt = prompt_for(mask, silhouette)
        answer = mask if prompt is None else at_size(network.mask(photo.rgb, prompt), mask.shape)
        agrees.append(prompt is not None and off_share(answer, silhouette) <= MOST_OFF)
        out.append(answer if agrees[-1] else mask)
    tell_overruled(agrees, job)
    return out


def off_share(answer: Bool[np.ndarray, "h w"], silhouette: Bool[np.ndarray, "h w"]) -> float:
    """Over which area an answer differs from a silhouette, as a share of the silhouette's."""
    off = (answer != silhouette) & (np.abs(signed_distance_px(silhouette)) > EDGE_PX)
    return float(off.sum() / silhouette.sum())


def prompt_for(mask: Bool[np.ndarray, "h w"], silhouette: Bool[np.ndarray, "h w"]) -> Prompt | None:
    """A box around a solid's silhouette, points deep inside what it and the mask agree on, and points clear of both.

    None where the photo does not show the solid.
    """
    ys, xs = np.flatnonzero(silhouette.any(1)), np.flatnonzero(silhouette.any(0))
    if not len(ys):
        return None
    low, high = (xs[0], ys[0]), (xs[-1] + 1, ys[-1] + 1)
    boxed = np.zeros_like(mask)
    boxed[low[1] : high[1], low[0] : high[0]] = True
    on, off = deepest(mask & silhouette, 2), deepest(boxed & ~mask & ~silhouette, 3)
    labels = np.array([*BOX_CORNERS, *[1] * len(on), *[0] * len(off)])
    h, w = mask.shape
    return Prompt(np.array([low, high, *on, *off], np.float64) / (w, h), labels)


def deepest(mask: Bool[np.ndarray, "h w"], least_px: float) -> list[tuple[float, float]]:
    """Up to N_POINTS pixel centres at least `least_px` inside a mask: the deepest, then the deepest far from those."""
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    points: list[tuple[float, float]] = []
    while len(points) < N_POINTS and distance.max() >= least_px:
        y, x = np.unravel_index(int(distance.argmax()), distance.shape)
        points.append((x + 0.5, y + 0.5))
        cv2.circle(distance, (int(x), int(y)), int(2 * distance[y, x]) + 1, 0.0, -1)
    return points


def tell_overruled(agrees: Sequence[bool], job: Job) -> None:
    """Note in how many photos the network was overruled; warn where it was in most."""
    n, total = len(agrees) - sum(agrees), len(agrees)
    job.notes["model_overruled"] = n
    if n > total / 2:
        job.warn(
            f"In {n} of {total} photos the network of isolate.model marks something else than what the photos show in "
            "common, and was not used there; try another one, or leave the option away."
        )
