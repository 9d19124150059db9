"""The options of a whole run: one frozen dataclass, composed of every stage's own config.

Hydra reads presets and the command line into it; `recon --help` prints it. Nothing here has a default that a stage
does not state itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import DictConfig, OmegaConf

from pose.estimate import PosesConfig
from recon.capture.read import CaptureConfig
from recon.failures import UsageError
from recon.isolate.isolate import IsolateConfig
from recon.mesh.extract import MeshConfig
from recon.prior.estimate import PriorConfig
from recon.surface.config import SurfaceConfig
from texturing.bake import TextureConfig
from texturing.export import ExportConfig
from texturing.materials import MaterialsConfig
from texturing.unwrap import UnwrapConfig


@dataclass(frozen=True)
class Config:
    """Every option of `recon`, by stage."""

    capture: str = ""
    """The folder of photos of one object, or a video file."""
    captures: str = ""
    """`recon batch` only: a folder whose subfolders and videos are captures."""
    preset: str = "standard"
    """How much time to spend: draft, standard or fine."""
    out: str = ""
    """Where the asset goes; by default `assets_out/<capture name>` below the current folder."""
    workspace: str = ""
    """Where finished stages are kept, in a folder for each capture; by default `assets_out/.work`."""
    view: bool = False
    """Show the training of the surface live in a browser (needs `pip install viser`); it changes no result."""
    read: CaptureConfig = field(default_factory=CaptureConfig)
    """Reading photos or video frames."""
    poses: PosesConfig = field(default_factory=PosesConfig)
    """Finding where each photo was taken from."""
    isolate: IsolateConfig = field(default_factory=IsolateConfig)
    """Separating the object from its surroundings."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """Dense points from multi-view stereo."""
    surface: SurfaceConfig = field(default_factory=SurfaceConfig)
    """Fitting the neural surface."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Turning the surface into clean triangles."""
    unwrap: UnwrapConfig = field(default_factory=UnwrapConfig)
    """Cutting the mesh flat for its texture."""
    texture: TextureConfig = field(default_factory=TextureConfig)
    """Painting the texture from the photos."""
    materials: MaterialsConfig = field(default_factory=MaterialsConfig)
    """Baking normals, occlusion, roughness and metal."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """Placing and writing the asset."""


def writable_schema() -> DictConfig:
    """Config as a typed Hydra node; OmegaConf makes frozen dataclasses read-only, so that flag is cleared all over."""
    node = OmegaConf.structured(Config)
    pending = [node]
    while pending:
        current = pending.pop()
        OmegaConf.set_readonly(current, None)
        pending += [child for key in current if OmegaConf.is_config(child := current._get_node(key))]
    return node


def frozen(node: DictConfig) -> Config:
    """The composed options as frozen dataclasses. Raises UsageError for what a dataclass itself refuses."""
    try:
        cfg = OmegaConf.to_object(node)
    except ValueError as error:
        raise UsageError(f"The options cannot be used: {str(error).splitlines()[0].rstrip('.')}.") from error
    if not isinstance(cfg, Config):
        raise TypeError(f"the composed configuration is a {type(cfg).__name__}, not a Config")
    return cfg
