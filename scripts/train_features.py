#!/usr/bin/env python3
"""Make the weights of the learned features from nothing but seeded pictures of our own.

    python scripts/train_features.py --out build/features
    python scripts/train_features.py --out build/features --steps 20000     # longer; a GPU is used if there is one

Renders scenes, fits the network and writes weights.npz; what is already in the folder is not made again, and an
interrupted fit goes on. The curve of the fit is in curve.csv.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a checkout too

from pose.learned.network import save_weights
from pose.learned.training.fit import FitConfig, draw, fit
from pose.learned.training.scenes import Views, make_scene
from pose.learned.training.textures import texture

N_CHECKS, N_CHECK_SCENES, N_FLATS = 64, 12, 120


def rendered(folder: Path, seed: int) -> Views:
    """A scene from the folder, or made and left there."""
    path = folder / f"scene_{seed:04d}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **vars(make_scene(seed)))
        partial.replace(path)
    with np.load(path) as arrays:
        return Views(**arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for scenes, checkpoint, curve and weights")
    parser.add_argument("--scenes", type=int, default=160, help="scenes to render for training")
    parser.add_argument("--steps", type=int, default=FitConfig.n_steps, help="steps of the fit")
    args = parser.parse_args()
    scenes = [rendered(args.out / "scenes", seed) for seed in range(args.scenes + N_CHECK_SCENES)]
    rng = np.random.default_rng(11)
    flats = [(texture(rng) * 255).astype(np.uint8) for _ in range(N_FLATS)]
    held_out, scenes = scenes[:N_CHECK_SCENES], scenes[N_CHECK_SCENES:]
    held_out_flats, flats = flats[:N_CHECK_SCENES], flats[N_CHECK_SCENES:]
    checks = draw(held_out, held_out_flats, N_CHECKS, 0.75, np.random.default_rng(12))
    net = fit(scenes, flats, checks, args.out, FitConfig(n_steps=args.steps))
    save_weights(net, args.out / "weights.npz")
    print(f"wrote {args.out / 'weights.npz'}")


if __name__ == "__main__":
    main()
