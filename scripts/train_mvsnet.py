#!/usr/bin/env python3
"""Make the weights of the learned multi-view stereo from nothing but seeded pictures of our own.

    python scripts/train_mvsnet.py --out build/mvsnet
    python scripts/train_mvsnet.py --out build/mvsnet --scenes 2000 --steps 60000 --batch 8 --device cuda

Renders scenes, fits the network and writes weights.npz (copy it to recon/prior/network/weights.npz to ship it, or name
it by prior.network.checkpoint); what is already in the folder is not made again, and an interrupted fit goes on from
its last check. The curve of the fit is in curve.csv and curve.png.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a checkout too

from recon.prior.network.cascade import save_weights
from recon.prior.training.fit import FitConfig, check_batches, fit
from recon.prior.training.tuples import StoredScenes

N_CHECKS, N_CHECK_SCENES = 48, 24


def render(scenes: StoredScenes, n_workers: int) -> None:
    """Make all scenes that are not there yet."""
    missing = [i for i in range(len(scenes)) if not scenes.path(i).exists()]
    if not missing:
        return
    with ProcessPoolExecutor(n_workers) as pool:
        for done, _ in enumerate(pool.map(scenes.make, missing, chunksize=4), 1):
            if done % 20 == 0 or done == len(missing):
                print(f"rendered {done} of {len(missing)} scenes", flush=True)


def plot(curve: Path, picture: Path) -> None:
    """Draw the validation curve."""
    try:
        import matplotlib
    except ImportError:
        print(f"{picture.name} is not drawn: pip install matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with curve.open(newline="") as handle:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(handle)]
    steps = [r["step"] for r in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name in ("train_loss", "loss"):
        left.plot(steps, [r[name] for r in rows], label=name)
    for name in ("right_share", "right_share_of_surer_half", "mean_probability"):
        right.plot(steps, [r[name] for r in rows], label=name)
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(picture, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for scenes, checkpoint, curve and weights")
    parser.add_argument("--scenes", type=int, default=600, help="scenes to render for training, 8 views each")
    parser.add_argument("--steps", type=int, default=FitConfig.n_steps, help="steps of the fit")
    parser.add_argument("--minutes", type=float, default=0, help="end the fit after so long (rendering not counted)")
    parser.add_argument("--batch", type=int, default=FitConfig.tuples_per_step, help="tuples per step")
    parser.add_argument("--rate", type=float, default=FitConfig.learning_rate, help="highest learning rate")
    parser.add_argument("--start", default="", help="a weights.npz to go on from, instead of random weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    held_out = StoredScenes(args.out / "scenes", range(N_CHECK_SCENES))
    scenes = StoredScenes(args.out / "scenes", range(N_CHECK_SCENES, N_CHECK_SCENES + args.scenes))
    for some in (held_out, scenes):
        render(some, args.workers)
    device = torch.device(args.device)
    cfg = FitConfig(args.start, args.steps, 60 * args.minutes, args.batch, learning_rate=args.rate)
    net = fit(scenes, check_batches(held_out, N_CHECKS, device), args.out, device, cfg)
    save_weights(net, args.out / "weights.npz")
    plot(args.out / "curve.csv", args.out / "curve.png")
    print(f"wrote {args.out / 'weights.npz'}")


if __name__ == "__main__":
    main()
