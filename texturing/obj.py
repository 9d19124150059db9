"""asset.obj with its material and images, for tools that read neither glTF nor USD."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recon import __version__
from texturing.images import ImageFormat, encode
from texturing.placed import PLAIN_ROUGHNESS, Placed

HEADER = f"# recon {__version__}; +Y up\n"


def write_obj(path: Path, model: Placed, jpeg_quality: int, provenance: dict[str, Any]) -> Path:
    """Write NAME.obj, NAME.mtl and NAME_MAP.<suffix> beside it; vertices on chart borders are not doubled.

    provenance: plain facts for comments at the file's head.
    """
    uv_mesh = model.uv_mesh
    n_mesh_vertices = int(uv_mesh.mesh_vertex_idx.max()) + 1
    first = np.zeros(n_mesh_vertices, np.int64)
    first[uv_mesh.mesh_vertex_idx] = np.arange(len(model.vertices))
    point, texel = uv_mesh.mesh_vertex_idx[uv_mesh.faces] + 1, uv_mesh.faces + 1
    facts = "".join(f"# {name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in provenance.items())
    lines = [f"{HEADER}{facts}mtllib {path.stem}.mtl\no object"]
    lines += [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in model.vertices[first].tolist()]
    lines += [f"vt {u:.7g} {v:.7g}" for u, v in uv_mesh.uv.tolist()]
    lines += [f"vn {x:.5f} {y:.5f} {z:.5f}" for x, y, z in model.normals[first].tolist()]
    lines.append("usemtl photographed\ns 1")
    corners = zip(point.tolist(), texel.tolist(), strict=True)
    lines += [f"f {a}/{u}/{a} {b}/{v}/{b} {c}/{w}/{c}" for (a, b, c), (u, v, w) in corners]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.with_suffix(".mtl").write_text(_material(path, model, jpeg_quality), encoding="ascii")
    return path


def _material(path: Path, model: Placed, jpeg_quality: int) -> str:
    """Write the images and return the MTL file's text: classic statements, then the widely read PBR ones."""
    maps = model.maps
    lines = [f"{HEADER}newmtl photographed", "Kd 1 1 1", "Ks 0 0 0", "illum 1"]
    lines.append(f"map_Kd {_laid_beside(path, 'base_colour', maps.base_colour, maps.image_format)}")
    if maps.normal is not None:
        lines.append(f"norm {_laid_beside(path, 'normal', maps.normal, maps.image_format)}")
    if maps.occlusion_roughness_metallic is None:
        lines += [f"Pr {PLAIN_ROUGHNESS:g}", "Pm 0"]
    else:
        # MTL has no packed maps: each factor is a grey image of its own.
        with Image.open(io.BytesIO(maps.occlusion_roughness_metallic)) as image:
            packed = np.asarray(image)
        for statement, name, channel in (("map_Pr", "roughness", 1), ("map_Pm", "metallic", 2)):
            grey = encode(np.ascontiguousarray(packed[..., channel]), maps.image_format, jpeg_quality)
            lines.append(f"{statement} {_laid_beside(path, name, grey, maps.image_format)}")
    return "\n".join(lines) + "\n"


def _laid_beside(path: Path, name: str, image: bytes, image_format: ImageFormat) -> str:
    """Write an image beside the OBJ file and return its name."""
    beside = path.with_name(f"{path.stem}_{name}.{image_format.suffix}")
    beside.write_bytes(image)
    return beside.name
