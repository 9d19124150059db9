"""How like renders are to held-out photos, inside the object's silhouette."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from recon.errors import UserError

MARGIN_PX = 12
"""Kept around the silhouette: wider than the windows of SSIM and FLIP reach with any weight."""


@dataclass(frozen=True)
class Shot:
    """A photo, a render from its place, and where both show the object."""

    photo: UInt8[np.ndarray, "h w 3"]
    render: Float32[np.ndarray, "h w 3"]
    """sRGB, 0..1."""
    inside: Bool[np.ndarray, "h w"]


def compare(shots: Sequence[Shot]) -> dict[str, float]:
    """Mean PSNR (dB), SSIM and FLIP over photos; PSNR with one gain per channel for all, which no texture can know.

    SSIM by Wang et al. 2004 (Gaussian window of 1.5 px); FLIP by Andersson et al. 2020 at 67 pixels per degree, 0 is
    alike. Both are taken with the photo around the silhouette and averaged inside it.
    """
    try:
        from flip_evaluator import evaluate
    except ImportError as error:
        raise UserError("Comparing pictures needs FLIP; install it with `pip install flip-evaluator`.") from error
    from skimage.metrics import structural_similarity

    pairs = [(s.photo[s.inside] / 255, s.render[s.inside].astype(float)) for s in shots]
    gain = sum((p * r).sum(0) for p, r in pairs) / np.maximum(sum((r * r).sum(0) for _, r in pairs), 1e-9)
    psnr = [-10 * np.log10(max(((np.clip(r * gain, 0, 1) - p) ** 2).mean(), 1e-12)) for p, r in pairs]
    ssim, flip = [], []
    for s in shots:
        rows, columns = np.nonzero(s.inside)
        part = np.s_[
            max(rows.min() - MARGIN_PX, 0) : rows.max() + MARGIN_PX,
            max(columns.min() - MARGIN_PX, 0) : columns.max() + MARGIN_PX,
        ]
        inside = s.inside[part]
        photo = s.photo[part].astype(np.float32) / 255
        shown = np.where(inside[..., None], np.clip(s.render[part], 0, 1), photo).astype(np.float32)
        _, alike = structural_similarity(
            photo, shown, channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        ssim.append(float(alike.mean(2)[inside].mean()))
        unlike, _, _ = evaluate(photo, shown, "LDR", applyMagma=False, computeMeanError=False)
        flip.append(float(np.asarray(unlike).reshape(inside.shape)[inside].mean()))
    return {"psnr": float(np.mean(psnr)), "ssim": float(np.mean(ssim)), "flip": float(np.mean(flip))}
