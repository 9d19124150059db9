"""The options of learned features, apart from the network so that reading them takes no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LearnedConfig:
    """How learned features are found."""

    max_side_px: int = 1200
    """Photos are made this small before features are sought, in pixels; time grows with its square."""
    max_features: int = 4000
    """Most reliable features kept per photo; matching time grows with its square."""
    n_candidates: int = 10000
    """Blobs per photo that the network judges; raising it finds more on plain surfaces, slower."""
    turn_deg: float = 0.0
    """How far a photo is turned (counter-clockwise) before features are sought. The network knows turns up to about
    30 degrees between two photos; `detect_at_turns` serves photos held otherwise or looking steeply down from
    different sides. Keypoints stay in the photo as it is."""
    checkpoint: str = ""
    """A file of your own: weights.npz of scripts/train_features.py, or ALIKED as ONNX in COLMAP's form (needs the
    `onnx` extra). Empty: the weights that come with recon."""
