"""The maps besides base colour: normals, occlusion, roughness, metal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recon.data import Asset, UvMesh


def test_optional_maps_come_back_and_must_fit_the_texture(tmp_path: Path) -> None:
    square = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    mesh = UvMesh(square, faces, square[:, :2], np.arange(4), 8)
    rng = np.random.default_rng(0)
    base, seen = np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 255, np.uint8)
    packed = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
    made = Asset(mesh, base, seen, occlusion_roughness_metallic=packed)
    made.check()
    made.save(tmp_path)
    loaded = Asset.load(tmp_path)
    assert loaded.normal_map is None
    assert loaded.occlusion_roughness_metallic is not None
    assert (loaded.occlusion_roughness_metallic == packed).all()
    other_size = Asset.__new__(Asset)  # past the constructor, whose shapes the tests' type checker refuses already
    vars(other_size).update(vars(made), normal_map=packed[:4, :4])
    with pytest.raises(ValueError, match="normal_map"):
        other_size.check()
