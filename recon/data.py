"""The nouns that the stages pass on: frozen, each with `save(folder)`, `load(folder)` and `check()`.

World frame: right-handed, +Z up, metres where `scale_source` says so, else a unit chosen by `pose/orient.py`
(the median camera stands 1 from the point looked at). Arrays are float64 unless said otherwise.
A noun that owns files (photos, masks) keeps them in its stage's folder and finds them by `folder`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int32, UInt8
from PIL import Image

from recon.camera import Pinhole, View
from recon.transforms import Rigid, Similarity


def require(condition: bool, what: str) -> None:
    """Raise ValueError(what) unless the predicate of a `check()` holds."""
    if not condition:
        raise ValueError(what)


def write_json(path: Path, content: Any) -> None:
    """Write readable UTF-8 JSON."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_rgb(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image file to 8-bit RGB."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def read_mask(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Decode a mask file to 8-bit grey (255 is the object)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


@dataclass(frozen=True)
class LeftOut:
    """A file or photo that was not used, and why, in words for the user."""

    name: str
    reason: str


@dataclass(frozen=True)
class Photo:
    """One upright 8-bit photo of a capture."""

    name: str
    """Unique within the capture; the source file's name without extension where that is unique."""
    source: str
    """Path of the file it came from, relative to the capture (a video frame adds `#frame`)."""
    width_px: int
    height_px: int
    focal_px: float | None
    """From EXIF, at this photo's size; None where EXIF does not say."""
    lens_key: str
    """Photos with the same key share intrinsics (make, model, lens, zoom, size, how the sensor lay)."""
    sharpness: float
    """Relative sharpness within the capture: 1 is its median photo; below about 0.5 is visibly blurred."""
    exposure_ev: float
    """Log2 of the photo's mean linear brightness against the capture's median photo."""
    captured_at: str | None = None
    """EXIF time (ISO, local), used only for the order of taking."""


@dataclass(frozen=True)
class GivenCamera:
    """A camera that the user gave for a photo: of the upright photo at its working size, OpenCV distortion."""

    photo: str
    """Name of the photo in the capture."""
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    k1: float
    k2: float
    p1: float
    p2: float
    cam_from_given: Rigid


@dataclass(frozen=True)
class GivenPoses:
    """Cameras, and perhaps points, that the user has already, in a frame of their own."""

    source: str
    """The file or folder they came from, relative to the capture."""
    cameras: tuple[GivenCamera, ...]
    is_metric: bool
    """From an AR session: the frame's unit is the metre, and its +Y or its +Z is vertical."""
    points_given: Float64[np.ndarray, "n_points 3"] = field(default_factory=lambda: np.zeros((0, 3)))
    obs_point_idx: Int[np.ndarray, " n_obs"] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Observations: point `obs_point_idx[i]` was measured at `obs_px[i]` of the photo of `obs_camera_idx[i]`."""
    obs_camera_idx: Int[np.ndarray, " n_obs"] = field(default_factory=lambda: np.zeros(0, np.int64))
    obs_px: Float64[np.ndarray, "n_obs 2"] = field(default_factory=lambda: np.zeros((0, 2)))

    def save(self, folder: Path) -> None:
        cameras = [
            {k: v for k, v in vars(c).items() if k != "cam_from_given"}
            | {"cam_from_given": c.cam_from_given.matrix().tolist()}
            for c in self.cameras
        ]
        write_json(folder / "given.json", {"source": self.source, "is_metric": self.is_metric, "cameras": cameras})
        arrays = ("points_given", "obs_point_idx", "obs_camera_idx", "obs_px")
        np.savez(folder / "given.npz", **{k: getattr(self, k) for k in arrays})

    @staticmethod
    def load(folder: Path) -> GivenPoses:
        j = read_json(folder / "given.json")
        cameras = tuple(
            GivenCamera(**c, cam_from_given=Rigid.from_matrix(np.array(matrix)))
            for c in j["cameras"]
            for matrix in [c.pop("cam_from_given")]
        )
        with np.load(folder / "given.npz") as arrays:
            return GivenPoses(j["source"], cameras, j["is_metric"], **arrays)

    def check(self) -> None:
        for camera in self.cameras:
            camera.cam_from_given.check()
            require(camera.fx_px > 0 and camera.fy_px > 0, "a given focal length is not positive")
        require(bool(np.isfinite(self.points_given).all()), "a given point is not finite")


@dataclass(frozen=True)
class Capture:
    """The usable photos of one capture, decoded, upright, at working size."""

    folder: Path
    """Holds `images/<name>.jpg` and, where the user gave them, `masks/<name>.png` and `depth/<name>.png`."""
    name: str
    photos: tuple[Photo, ...]
    left_out: tuple[LeftOut, ...] = ()
    is_video: bool = False
    """Photos come in the order of taking, so that sequential pairs make sense."""
    given: GivenPoses | None = None
    """Cameras that the user has already, or None."""

    def image_path(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.jpg"

    def mask_path(self, name: str) -> Path | None:
        """The mask that the user gave for this photo, or None."""
        path = self.folder / "masks" / f"{name}.png"
        return path if path.exists() else None

    def depth_z_m(self, name: str) -> Float64[np.ndarray, "h w"] | None:
        """The depth map that the user gave for this photo, in metres, at a size of its own; 0 where it is not known."""
        path = self.folder / "depth" / f"{name}.png"
        if not path.exists():
            return None
        with Image.open(path) as image:
            return np.asarray(image).astype(np.float64) / 1000

    def save(self, folder: Path) -> None:
        content = {k: v for k, v in asdict(self).items() if k not in ("folder", "given")}
        write_json(folder / "capture.json", content)
        if self.given is not None:
            self.given.save(folder)

    @staticmethod
    def load(folder: Path) -> Capture:
        j = read_json(folder / "capture.json")
        photos = tuple(Photo(**p) for p in j.pop("photos"))
        left_out = tuple(LeftOut(**x) for x in j.pop("left_out"))
        given = GivenPoses.load(folder) if (folder / "given.json").exists() else None
        return Capture(folder=folder, photos=photos, left_out=left_out, given=given, **j)

    def check(self) -> None:
        names = [p.name for p in self.photos]
        require(len(names) == len(set(names)), "two photos of a capture share a name")
        require(all(self.image_path(n).exists() for n in names), "a photo's image file is missing")
        require(all(p.sharpness >= 0 and np.isfinite(p.exposure_ev) for p in self.photos), "photo quality not finite")
        if self.given is not None:
            self.given.check()
            require({c.photo for c in self.given.cameras} <= set(names), "a given camera names no photo")


@dataclass(frozen=True)
class SupportPlane:
    """What the object stands on (or hangs against): normal_world . x = offset, normal towards the object."""

    normal_world: Float64[np.ndarray, "3"]
    offset: float
    inlier_share: float
    """Share of the sparse points near the looked-at region that lie on the plane."""


def views_to_json(views: tuple[View, ...]) -> list[dict[str, Any]]:
    """Views as plain data."""
    return [
        {"name": v.name, "camera": asdict(v.camera), "cam_from_world": v.cam_from_world.matrix().tolist()}
        for v in views
    ]


def views_from_json(content: list[dict[str, Any]]) -> tuple[View, ...]:
    """What `views_to_json` wrote."""
    return tuple(
        View(v["name"], Pinhole(**v["camera"]), Rigid.from_matrix(np.array(v["cam_from_world"]))) for v in content
    )


SWEPT_FILE = "swept.png"


@dataclass(frozen=True)
class PosedCapture:
    """Undistorted photos with pinhole cameras, and the sparse points that they were found with."""

    folder: Path
    """Holds `images/<name>.jpg` (undistorted) and, where the user gave them, `masks/<name>.png` (undistorted)."""
    views: tuple[View, ...]
    points_world: Float64[np.ndarray, "n_points 3"]
    point_rgb: UInt8[np.ndarray, "n_points 3"]
    point_error_px: Float64[np.ndarray, " n_points"]
    obs_point_idx: Int[np.ndarray, " n_obs"]
    """Observations: point `obs_point_idx[i]` was measured in view `obs_view_idx[i]`."""
    obs_view_idx: Int[np.ndarray, " n_obs"]
    focus_world: Float64[np.ndarray, "3"]
    """The point that the cameras look at together."""
    up_source: str
    """How +Z was found, in words: `support plane`, `camera orientation`, ..."""
    scale_source: str
    """`unknown`, or how metres were found."""
    support_plane: SupportPlane | None
    sharpness: Float64[np.ndarray, " n_views"]
    """Of each view's photo, see Photo.sharpness."""
    left_out: tuple[LeftOut, ...] = ()
    """Photos that got no pose."""
    stats: dict[str, float] = field(default_factory=dict)
    """Figures for the report: mean reprojection error in px, track length, ..."""

    def image_path(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.jpg"

    def image(self, view_idx: int) -> UInt8[np.ndarray, "h w 3"]:
        """The undistorted photo of a view, decoded anew at each call."""
        return read_rgb(self.image_path(self.views[view_idx].name))

    def mask_path(self, name: str) -> Path | None:
        path = self.folder / "masks" / f"{name}.png"
        return path if path.exists() else None

    def swept(self) -> UInt8[np.ndarray, "h w"] | None:
        """Where the photos change (255), if the camera stood still before a turntable; else None."""
        path = self.folder / SWEPT_FILE
        return read_mask(path) if path.exists() else None

    def save(self, folder: Path) -> None:
        plane = self.support_plane
        write_json(
            folder / "posed.json",
            {
                "views": views_to_json(self.views),
                "up_source": self.up_source,
                "scale_source": self.scale_source,
                "support_plane": plane
                and {
                    "normal_world": plane.normal_world.tolist(),
                    "offset": plane.offset,
                    "inlier_share": plane.inlier_share,
                },
                "left_out": [asdict(x) for x in self.left_out],
                "stats": self.stats,
            },
        )
        arrays = ("points_world", "point_rgb", "point_error_px", "obs_point_idx", "obs_view_idx", "focus_world")
        np.savez(folder / "posed.npz", sharpness=self.sharpness, **{k: getattr(self, k) for k in arrays})

    @staticmethod
    def load(folder: Path) -> PosedCapture:
        j = read_json(folder / "posed.json")
        views = views_from_json(j["views"])
        p = j["support_plane"]
        plane = p and SupportPlane(np.array(p["normal_world"]), p["offset"], p["inlier_share"])
        with np.load(folder / "posed.npz") as arrays:
            return PosedCapture(
                folder=folder,
                views=views,
                up_source=j["up_source"],
                scale_source=j["scale_source"],
                support_plane=plane,
                left_out=tuple(LeftOut(**x) for x in j["left_out"]),
                stats=j["stats"],
                **arrays,
            )

    def check(self) -> None:
        require(len(self.views) >= 2, "fewer than two views have a pose")
        for v in self.views:
            v.cam_from_world.check()
        require(len({v.name for v in self.views}) == len(self.views), "two views share a name")
        require(bool(np.isfinite(self.points_world).all()), "a sparse point is not finite")
        require(len(self.obs_point_idx) == len(self.obs_view_idx), "observations have unequal lengths")
        if len(self.obs_point_idx):
            require(int(self.obs_point_idx.max()) < len(self.points_world), "an observation names no point")
            require(int(self.obs_view_idx.max()) < len(self.views), "an observation names no view")
        looking = sum(v.project(self.focus_world[None])[1][0] > 0 for v in self.views)
        require(looking >= len(self.views) / 2, "most views look away from the focus point")


@dataclass(frozen=True)
class ObjectRegion:
    """Where the object is: a mask in every view, a tight box and a convex hull in world."""

    folder: Path
    """Holds `masks/<name>.png`, 8-bit, at the photo's size: 255 object, 0 not, between: unsure edge."""
    world_from_box: Rigid
    """The box's own axes, centred on it; its z axis is the world's +Z."""
    box_size: Float64[np.ndarray, "3"]
    """Full edge lengths of the box, in world units."""
    hull_vertices_world: Float64[np.ndarray, "n_vertices 3"]
    """The convex hull of the object with a small margin; nothing is sampled outside it."""
    hull_faces: Int[np.ndarray, "n_faces 3"]
    """Triangles, counter-clockwise seen from outside."""
    mask_source: str
    """`estimated` or `given`."""
    rests_on_support: bool
    """True if the object touches the support plane, so that its underside was never seen."""
    stats: dict[str, float] = field(default_factory=dict)
    """Figures for the report: mask agreement with the visual hull, share of photo covered, ..."""

    def mask_path(self, name: str) -> Path:
        return self.folder / "masks" / f"{name}.png"

    def mask(self, name: str) -> UInt8[np.ndarray, "h w"]:
        """A view's mask, decoded anew at each call."""
        return read_mask(self.mask_path(name))

    @cached_property
    def hull_planes(self) -> Float64[np.ndarray, "n_planes 4"]:
        """Half-spaces (n, d) with unit n: a point x is inside the hull where n . x + d <= 0 for all of them."""
        tri = self.hull_vertices_world[self.hull_faces]
        normal = np.cross(tri[:, 1] - tri[:, 0], tri[:, 2] - tri[:, 0])
        length = np.linalg.norm(normal, axis=1)
        normal = normal[length > 1e-15] / length[length > 1e-15, None]
        planes = np.concatenate([normal, -(normal * tri[length > 1e-15, 0]).sum(1, keepdims=True)], 1)
        return np.unique(np.round(planes, 9), axis=0)

    def inside_hull(self, points_world: Float[np.ndarray, "n 3"], margin: float = 0.0) -> np.ndarray:
        """Which points lie inside the hull grown by `margin` (world units)."""
        inside = np.ones(len(points_world), bool)
        for plane in self.hull_planes:
            inside &= points_world @ plane[:3] + plane[3] <= margin
        return inside

    def diagonal(self) -> float:
        """The box's diagonal in world units: the object's size."""
        return float(np.linalg.norm(self.box_size))

    def save(self, folder: Path) -> None:
        write_json(
            folder / "region.json",
            {
                "world_from_box": self.world_from_box.matrix().tolist(),
                "box_size": self.box_size.tolist(),
                "mask_source": self.mask_source,
                "rests_on_support": self.rests_on_support,
                "stats": self.stats,
            },
        )
        np.savez(folder / "hull.npz", vertices=self.hull_vertices_world, faces=self.hull_faces)

    @staticmethod
    def load(folder: Path) -> ObjectRegion:
        j = read_json(folder / "region.json")
        with np.load(folder / "hull.npz") as arrays:
            vertices, faces = arrays["vertices"], arrays["faces"]
        return ObjectRegion(
            folder=folder,
            world_from_box=Rigid.from_matrix(np.array(j.pop("world_from_box"))),
            box_size=np.array(j.pop("box_size")),
            hull_vertices_world=vertices,
            hull_faces=faces,
            **j,
        )

    def check(self) -> None:
        self.world_from_box.check()
        require(bool((self.box_size > 0).all()), "the object's box has no volume")
        check_triangles(self.hull_vertices_world, self.hull_faces)
        centre = self.hull_vertices_world.mean(0)
        require(bool(self.inside_hull(centre[None])[0]), "the hull's faces are turned inside out")
        require(any((self.folder / "masks").glob("*.png")), "no mask was written")


@dataclass(frozen=True)
class PriorCloud:
    """Dense oriented points on the object's surface, from multi-view stereo."""

    points_world: Float64[np.ndarray, "n 3"]
    normals_world: Float64[np.ndarray, "n 3"]
    """Unit, towards the cameras that saw the point."""
    confidence: Float64[np.ndarray, " n"]
    """0..1; how much the point may be trusted."""
    rgb: UInt8[np.ndarray, "n 3"]
    n_support: Int[np.ndarray, " n"]
    """How many views agree on the point."""
    stats: dict[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        arrays = ("points_world", "normals_world", "confidence", "rgb", "n_support")
        np.savez(folder / "cloud.npz", **{k: getattr(self, k) for k in arrays})
        write_json(folder / "cloud.json", {"stats": self.stats})
        write_cloud_ply(folder / "cloud.ply", self)

    @staticmethod
    def load(folder: Path) -> PriorCloud:
        with np.load(folder / "cloud.npz") as arrays:
            return PriorCloud(stats=read_json(folder / "cloud.json")["stats"], **arrays)

    def check(self) -> None:
        require(bool(np.isfinite(self.points_world).all()), "a prior point is not finite")
        length = np.linalg.norm(self.normals_world, axis=1)
        require(bool((np.abs(length - 1) < 1e-3).all()), "a prior normal is not of unit length")
        require(bool(((self.confidence >= 0) & (self.confidence <= 1)).all()), "a confidence is outside 0..1")


def write_cloud_ply(path: Path, cloud: PriorCloud) -> None:
    """Write a binary PLY with normals, colours and `quality` (MeshLab's name for confidence)."""
    dtype = [(k, "<f4") for k in ("x", "y", "z", "nx", "ny", "nz")]
    dtype += [(k, "u1") for k in ("red", "green", "blue")] + [("quality", "<f4")]
    rows = np.empty(len(cloud.points_world), dtype)
    for columns, values in (
        (("x", "y", "z"), cloud.points_world),
        (("nx", "ny", "nz"), cloud.normals_world),
        (("red", "green", "blue"), cloud.rgb),
    ):
        for i, column in enumerate(columns):
            rows[column] = values[:, i]
    rows["quality"] = cloud.confidence
    kinds = {"<f4": "float", "u1": "uchar"}
    header = "ply\nformat binary_little_endian 1.0\n" + f"element vertex {len(rows)}\n"
    header += "".join(f"property {kinds[kind]} {name}\n" for name, kind in dtype) + "end_header\n"
    path.write_bytes(header.encode() + rows.tobytes())


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


def check_triangles(vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]) -> None:
    """Raise ValueError unless a triangle list is finite, indexed in range and not empty."""
    require(len(faces) > 0, "a mesh has no triangles")
    require(bool(np.isfinite(vertices).all()), "a vertex is not finite")
    require(int(faces.min()) >= 0 and int(faces.max()) < len(vertices), "a face names no vertex")


@dataclass(frozen=True)
class Mesh:
    """A cleaned, simplified triangle mesh in world; faces are counter-clockwise seen from outside."""

    vertices_world: Float64[np.ndarray, "n_vertices 3"]
    faces: Int[np.ndarray, "n_faces 3"]
    stats: dict[str, Any] = field(default_factory=dict)
    dense_vertices_world: Float32[np.ndarray, "n_dense_vertices 3"] = field(
        default_factory=lambda: np.zeros((0, 3), np.float32)
    )
    """The same surface before it was simplified, with all detail that was extracted; empty where it was not kept."""
    dense_faces: Int32[np.ndarray, "n_dense_faces 3"] = field(default_factory=lambda: np.zeros((0, 3), np.int32))

    def save(self, folder: Path) -> None:
        arrays = ("vertices_world", "faces", "dense_vertices_world", "dense_faces")
        np.savez(folder / "mesh.npz", **{k: getattr(self, k) for k in arrays})
        write_json(folder / "mesh.json", {"stats": self.stats})

    @staticmethod
    def load(folder: Path) -> Mesh:
        with np.load(folder / "mesh.npz") as arrays:
            return Mesh(stats=read_json(folder / "mesh.json")["stats"], **arrays)

    def check(self) -> None:
        check_triangles(self.vertices_world, self.faces)
        if len(self.dense_faces):
            check_triangles(self.dense_vertices_world, self.dense_faces)


@dataclass(frozen=True)
class UvMesh:
    """A mesh cut into charts: vertices on chart borders are doubled, each with its own uv."""

    vertices_world: Float64[np.ndarray, "n_vertices 3"]
    faces: Int[np.ndarray, "n_faces 3"]
    """In the same order as the faces of the mesh it came from."""
    uv: Float64[np.ndarray, "n_vertices 2"]
    """0..1, origin at the texture's BOTTOM left, v up (OBJ's convention; glTF's flip is at its border)."""
    mesh_vertex_idx: Int[np.ndarray, " n_vertices"]
    """Which vertex of the uncut mesh each vertex is."""
    texture_size_px: int
    stats: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        arrays = ("vertices_world", "faces", "uv", "mesh_vertex_idx")
        np.savez(folder / "uv_mesh.npz", **{k: getattr(self, k) for k in arrays})
        write_json(folder / "uv_mesh.json", {"texture_size_px": self.texture_size_px, "stats": self.stats})

    @staticmethod
    def load(folder: Path) -> UvMesh:
        j = read_json(folder / "uv_mesh.json")
        with np.load(folder / "uv_mesh.npz") as arrays:
            return UvMesh(texture_size_px=j["texture_size_px"], stats=j["stats"], **arrays)

    def check(self) -> None:
        check_triangles(self.vertices_world, self.faces)
        require(bool(((self.uv >= 0) & (self.uv <= 1)).all()), "a texture coordinate is outside 0..1")


OPTIONAL_MAPS = ("normal_map", "occlusion_roughness_metallic")
"""Maps that an Asset may have besides its base colour, in the order of its fields; each is saved as NAME.png."""


@dataclass(frozen=True)
class Asset:
    """A textured mesh in world, before it is placed and written by the exporter."""

    uv_mesh: UvMesh
    base_colour: UInt8[np.ndarray, "t t 3"]
    """sRGB, row 0 is the top of the texture (v = 1)."""
    seen: UInt8[np.ndarray, "t t"]
    """255 where a photo saw the texel, 128 where it was filled in, 0 outside every chart."""
    stats: dict[str, Any] = field(default_factory=dict)
    normal_map: UInt8[np.ndarray, "t t 3"] | None = None
    """Tangent space as glTF has it (green is +v, up in the texture): the dense surface's normals on this mesh."""
    occlusion_roughness_metallic: UInt8[np.ndarray, "t t 3"] | None = None
    """glTF's packing, linear: R ambient occlusion (255 is open), G roughness, B metallic."""

    def save(self, folder: Path) -> None:
        self.uv_mesh.save(folder)
        Image.fromarray(self.base_colour).save(folder / "base_colour.png")
        Image.fromarray(self.seen).save(folder / "seen.png")
        for name in OPTIONAL_MAPS:
            if getattr(self, name) is not None:
                Image.fromarray(getattr(self, name)).save(folder / f"{name}.png")
        write_json(folder / "asset.json", {"stats": self.stats})

    @staticmethod
    def load(folder: Path) -> Asset:
        return Asset(
            UvMesh.load(folder),
            read_rgb(folder / "base_colour.png"),
            read_mask(folder / "seen.png"),
            read_json(folder / "asset.json")["stats"],
            *(read_rgb(path) if path.exists() else None for path in (folder / f"{n}.png" for n in OPTIONAL_MAPS)),
        )

    def check(self) -> None:
        self.uv_mesh.check()
        require(self.base_colour.shape[:2] == self.seen.shape, "texture and its seen-map differ in size")
        for name in OPTIONAL_MAPS:
            made = getattr(self, name)
            require(made is None or made.shape == self.base_colour.shape, f"{name} and base colour differ in size")
        require(bool((self.seen > 0).any()), "no texel of the texture is used")
