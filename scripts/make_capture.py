#!/usr/bin/env python3
"""Make a small synthetic phone capture with ground truth, of an object designed for this project.

    python scripts/make_capture.py --object owl --out examples/owl
    python scripts/make_capture.py --object teapot --preset tiny --out teapot
    python scripts/make_capture.py --object owl --photos 192 --width 800 --spp 2 --out many  # for benchmark.py growth

Writes images/, test/ and gt/ (mesh.ply, transforms.json, masks/, scene.json). The same options give the same capture.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a checkout too

from recon.evaluate.synthetic.capture import Size, Subject, make_capture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--object", choices=[s.name for s in Subject], default="owl", help="what stands on the table")
    parser.add_argument(
        "--preset", choices=[s.name for s in Size], default="full", help="photo size and count, quality"
    )
    parser.add_argument("--photos", type=int, help="how many photos, instead of the preset's")
    parser.add_argument("--width", type=int, help="their width in pixels, instead of the preset's")
    parser.add_argument("--spp", type=int, help="samples a pixel, instead of the preset's")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; its name becomes the scene's")
    parser.add_argument("--seed", type=int, default=0, help="of the walk, the room, the paint and the noise")
    args = parser.parse_args()
    given = {"n_photos": args.photos, "width_px": args.width, "spp": args.spp}
    preset = replace(Size[args.preset].value, **{k: v for k, v in given.items() if v is not None})
    make_capture(args.out, Subject[args.object], preset, args.seed, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
