"""Which pixels a step draws: more of those with detail, near mask edges or with a large error, unbiased by weights.

The pool's pixels lie in tiles. With r_t the relative density of tile t, its mean over all N pixels of a stratum (the
object's, or those beside it) being 1,

    r_t = (1 - sum_k s_k) + sum_k s_k min(v_kt / mean(v_k), c) / mean(min(v_k / mean(v_k), c)),

a pixel of tile t is drawn with q = r_t / N instead of p = 1 / N, and weighs w = p / q = 1 / r_t in the loss. So
E_q[w] = 1 and E_q[w f] = E_p[f] for every loss f: the draw changes the noise of the gradient, never what it aims at.
v_1 is the mean image gradient of the tile's pixels, v_2 how near they are to a mask's edge, v_3 the running mean of the
loss of the rays drawn there; s_k are their shares. As sum_k s_k < 1, no weight exceeds 1 / (1 - sum_k s_k).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from torch import Tensor, nn

from recon.surface.random_numbers import RandomNumbers

TILES_ACROSS = 150
"""Tiles along a photo's longer side: 8 px of a photo of 1,200."""
TILES_PER_ERROR = 4
"""Tiles along an edge of the larger ones that running errors are kept for: a fit looks at each some hundred times."""
REFRESH_EVERY, FORGET, PRIOR_RAYS = 50, 0.7, 4.0
"""Steps between two looks at the errors, what is kept of older ones then, for how many rays the mean error counts."""


@dataclass(frozen=True)
class ImportanceConfig:
    """Where rays are drawn more often than evenly; the loss stays the same by weights."""

    gradient_share: float = 0.2
    """Share of the rays drawn in proportion to the photos' gradients; 0: none. More look at detail, fewer at plain
    surfaces, whose rays then weigh more."""
    edge_share: float = 0.1
    """Share drawn near the masks' edges, most of all on thin parts; 0: none."""
    error_share: float = 0.2
    """Share drawn in proportion to the current error; 0: none."""
    largest_ratio: float = 8.0
    """A tile's gradient, edge or error counts as at most this many times the mean, so that a few tiles cannot take
    all rays."""

    def __post_init__(self) -> None:
        shares = (self.gradient_share, self.edge_share, self.error_share)
        if min(shares) < 0 or sum(shares) > 0.9:
            raise ValueError("importance shares must not be negative, nor add up to more than 0.9")


@dataclass(frozen=True)
class Tiles:
    """Pieces of the photos whose pixels lie one behind the other in the pool; the object's tiles come first."""

    start: Int64[Tensor, " n_borders"]
    """Tile t holds the pool's pixels start[t] to start[t + 1]; one more than there are tiles."""
    n_object: int
    """The first n_object tiles are the object's, the others lie beside it."""
    detail: Float[Tensor, " n_tiles"]
    """Mean gradient of the tile's pixels."""
    edge: Float[Tensor, " n_tiles"]
    """Their mean nearness to a mask's edge, 0..1."""
    error_idx: Int64[Tensor, " n_tiles"]
    """The larger tile whose running error counts for this one."""


def tile_size_px(width_px: int, height_px: int) -> int:
    return max(round(max(width_px, height_px) / TILES_ACROSS), 2)


def gradient_size(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
    """Length of the brightness gradient over two pixels, which noise moves less than that over one."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.0)
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def edge_nearness(on: Bool[np.ndarray, "h w"], reach_px: int) -> Float32[np.ndarray, "h w"]:
    """Share of the square of 2 reach_px + 1 around each pixel that the mask gives to the other side, 0..1.

    About a half at a straight edge, 0 further off than the reach, nearly 1 on a part much thinner than the reach.
    """
    share = cv2.blur(on.astype(np.float32), (2 * reach_px + 1, 2 * reach_px + 1), borderType=cv2.BORDER_REPLICATE)
    return np.where(on, 1 - share, share).astype(np.float32)


def density(
    terms: list[tuple[float, Float[Tensor, " n_tiles"]]], n_pixels: Int64[Tensor, " n_tiles"], largest: float
) -> Float64[Tensor, " n_tiles"]:
    """r_t of the module's formula, from each term's share s_k and values v_k; its mean over pixels is 1."""
    pixel_share = n_pixels.double() / n_pixels.sum().clamp(min=1)
    ratio = torch.ones_like(pixel_share)
    for share, value in terms:
        # a mean of 0: no photo has any gradient, or no error is known yet
        capped = (value / (value @ pixel_share.to(value)).clamp(min=1e-12)).clamp(max=largest).double()
        mean = capped @ pixel_share
        ratio += share * torch.where(mean > 0, capped / mean.clamp(min=1e-12) - 1, 0.0)
    return ratio


def spread_evenly(n_rays: int, n: int, device: torch.device) -> Int64[Tensor, " n"]:
    """At most n of a batch's rays, from all over it: they come photo by photo, and the first are the first photos'."""
    n = min(n, n_rays)
    return torch.arange(n, device=device) * n_rays // max(n, 1)


class RayDraw:
    """Draws pixels tile by tile, and keeps the tiles' running errors, all where the training runs."""

    def __init__(self, cfg: ImportanceConfig, tiles: Tiles) -> None:
        self.cfg, self.tiles, self.n_pixels = cfg, tiles, tiles.start.diff()
        n_errors = int(tiles.error_idx.max()) + 1
        self.errors = torch.zeros(2, n_errors, dtype=torch.float64, device=tiles.start.device)
        """Of each larger tile, the sum of its rays' errors and their number, older ones counting less."""
        self.refresh()

    def refresh(self) -> None:
        """Bring the density up to the errors seen so far."""
        cfg, tiles = self.cfg, self.tiles
        ratios = []
        for part in (slice(0, tiles.n_object), slice(tiles.n_object, None)):
            total, seen = self.errors[:, tiles.error_idx[part]]
            mean = total.sum() / seen.sum().clamp(min=1e-9)
            terms = [
                (cfg.gradient_share, tiles.detail[part]),
                (cfg.edge_share, tiles.edge[part]),
                (cfg.error_share, (total + PRIOR_RAYS * mean) / (seen + PRIOR_RAYS)),
            ]
            ratios.append(density(terms, self.n_pixels[part], cfg.largest_ratio))
        self.ratio = torch.cat(ratios)
        self.below = nn.functional.pad(torch.cumsum(self.ratio * self.n_pixels, 0), (1, 0))
        self.errors *= FORGET

    def draw(
        self, rng: RandomNumbers, n_object: int, n_beside: int
    ) -> tuple[Int64[Tensor, " n_rays"], Int64[Tensor, " n_rays"], Float32[Tensor, " n_rays"]]:
        """Pool pixels of n_object rays through the object and n_beside beside it, their tiles and their weights.

        Each stratum's cumulative density is cut into as many equal parts as it gets rays, one ray in each: the batch
        is spread over the photos and over each photo evenly. One random number places a ray in its tile too.
        """
        low, middle, high = self.below[0], self.below[self.tiles.n_object], self.below[-1]
        reached = []
        for start, end, n in ((low, middle, n_object), (middle, high, n_beside)):
            part = torch.arange(n, device=self.below.device) + rng.random((n,)).double()
            reached.append(start + part / max(n, 1) * (end - start))
        at = torch.cat(reached)
        tile = (torch.searchsorted(self.below, at, right=True) - 1).clamp(max=len(self.ratio) - 1)
        ratio = self.ratio[tile]
        within = ((at - self.below[tile]) / ratio).long()
        pixel = self.tiles.start[tile] + torch.minimum(within, self.n_pixels[tile] - 1)
        return pixel, tile, (1 / ratio).float()

    def observe(self, tile_idx: Int64[Tensor, " n"], error: Float[Tensor, " n"], step: int) -> None:
        """Take in the errors of a step's rays, and now and then bring the density up to them."""
        seen = torch.stack([error, torch.ones_like(error)]).double()
        self.errors.index_add_(1, self.tiles.error_idx[tile_idx], seen)
        if step % REFRESH_EVERY == REFRESH_EVERY - 1:
            self.refresh()

    def state(self) -> dict[str, Tensor]:
        return {"errors": self.errors, "ratio": self.ratio, "below": self.below}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.errors, self.ratio, self.below = (state[k].to(self.below, copy=True) for k in ("errors", "ratio", "below"))
