"""The trained signed distance field."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from recon.camera import View
from recon.data.files import read_json, require, write_json
from recon.data.posed import PosedCapture, views_from_json, views_to_json
from recon.transforms import Similarity


@dataclass(frozen=True)
class SurfaceField:
    """A trained SDF and colour field; `recon/surface/field.py` turns `parameters` into a network."""

    unit_from_world: Similarity
    """The normaliser: the hull's box lies within [0, 1]^3 of the unit frame."""
    config: dict[str, Any]
    """The field's architecture, as its config class's dict."""
    parameters: dict[str, Float[np.ndarray, "..."]]
    """float32 arrays by name, the same for every backend."""
    log_inv_s: float
    """NeuS's sharpness at the end of the fit: the logistic density's scale is exp(-log_inv_s) in unit lengths."""
    photo_gain: Float64[np.ndarray, "n_views 3"]
    """Per-photo, per-channel gain that levels exposures: photo = gain * object colour."""
    views: tuple[View, ...]
    """Of the posed capture, with the cameras as the fit corrected them."""
    stats: dict[str, Any] = field(default_factory=dict)

    def refined(self, posed: PosedCapture) -> PosedCapture:
        """The capture that the surface was fitted to, with the cameras that the surface agrees with."""
        require([v.name for v in posed.views] == [v.name for v in self.views], "the surface is of other photos")
        return replace(posed, views=self.views)

    def save(self, folder: Path) -> None:
        write_json(
            folder / "field.json",
            {
                "unit_from_world": {
                    "scale": self.unit_from_world.scale,
                    "rotation": self.unit_from_world.rotation.tolist(),
                    "translation": self.unit_from_world.translation.tolist(),
                },
                "config": self.config,
                "log_inv_s": self.log_inv_s,
                "photo_gain": self.photo_gain.tolist(),
                "views": views_to_json(self.views),
                "stats": self.stats,
            },
        )
        np.savez(folder / "field.npz", **self.parameters)  # type: ignore[arg-type]

    @staticmethod
    def load(folder: Path) -> SurfaceField:
        j = read_json(folder / "field.json")
        t = j["unit_from_world"]
        with np.load(folder / "field.npz") as arrays:
            parameters = dict(arrays)
        return SurfaceField(
            Similarity(t["scale"], np.array(t["rotation"]), np.array(t["translation"])),
            j["config"],
            parameters,
            j["log_inv_s"],
            np.array(j["photo_gain"]),
            views_from_json(j["views"]),
            j["stats"],
        )

    def check(self) -> None:
        require(all(np.isfinite(v).all() for v in self.parameters.values()), "the surface field holds NaN")
        require(np.isfinite(self.log_inv_s), "the surface field's sharpness is not finite")
        for v in self.views:
            v.cam_from_world.check()
