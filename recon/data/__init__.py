"""The nouns that the stages pass on: frozen, each with `save(folder)`, `load(folder)` and `check()`.

World frame: right-handed, +Z up, metres where `scale_source` says so, else a unit chosen by `pose/orient.py`
(the median camera stands 1 from the point looked at). Arrays are float64 unless said otherwise.
A noun that owns files (photos, masks) keeps them in its stage's folder and finds them by `folder`.
"""

from __future__ import annotations

from recon.data.capture import Capture, GivenCamera, GivenPoses, LeftOut, Photo
from recon.data.files import read_json, read_mask, read_rgb, require, write_json
from recon.data.mesh import OPTIONAL_MAPS, Asset, Mesh, UvMesh, check_triangles
from recon.data.posed import SWEPT_FILE, PosedCapture, SupportPlane, views_from_json, views_to_json
from recon.data.prior import PriorCloud, write_cloud_ply
from recon.data.region import ObjectRegion
from recon.data.surface import SurfaceField

__all__ = [
    "OPTIONAL_MAPS",
    "SWEPT_FILE",
    "Asset",
    "Capture",
    "GivenCamera",
    "GivenPoses",
    "LeftOut",
    "Mesh",
    "ObjectRegion",
    "Photo",
    "PosedCapture",
    "PriorCloud",
    "SupportPlane",
    "SurfaceField",
    "UvMesh",
    "check_triangles",
    "read_json",
    "read_mask",
    "read_rgb",
    "require",
    "views_from_json",
    "views_to_json",
    "write_cloud_ply",
    "write_json",
]
