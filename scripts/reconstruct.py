"""`python scripts/reconstruct.py capture=FOLDER`: the `recon` command from a source tree that is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recon.cli import main

if __name__ == "__main__":
    sys.exit(main())
