"""The options of the surface's training."""

from __future__ import annotations

from dataclasses import dataclass, field

from recon.errors import UserError
from recon.stage import NOT_IN_KEY
from recon.surface.baked import Placing
from recon.surface.corrections import CameraConfig
from recon.surface.engine import Engine, Precision
from recon.surface.field import FieldConfig
from recon.surface.importance import ImportanceConfig
from recon.surface.losses import LossConfig
from recon.surface.pace import PaceConfig
from recon.surface.patches import PatchConfig
from recon.surface.pyramid import PyramidConfig
from recon.surface.trust import TrustConfig
from recon.surface.viewer import ViewConfig
from recon.surface.watch import WatchConfig


@dataclass(frozen=True)
class SurfaceConfig:
    """How the surface is trained."""

    engine: Engine = Engine.auto
    """What evaluates the hash grid: cpu (numba kernels), triton or tcnn (tiny-cuda-nn) on a CUDA device, or reference
    (plain torch, slow, anywhere); auto takes the fastest that is here."""
    precision: Precision = Precision.auto
    """What the colour network is evaluated in: half or single; auto is half on a CUDA device that has bfloat16."""
    n_steps: int = 2400
    """Training steps; the time of the stage is in proportion."""
    n_rays: int = 1024
    """Rays a step."""
    n_samples: int = 10
    """Sections a ray; they are concentrated at the surface, so that few do."""
    object_share: float = 0.8
    """Share of the rays through the object; the others pass just beside it, or the shape would swell."""
    ring_share: float = 0.06
    """Width of the ring of pixels around the object, as a share of its size in the photo."""
    max_pixels: int = 16_000_000
    """Pixels kept of all photos together; more are thinned at random. 2,400 steps look at 2.5 million."""
    n_levels: int = 12
    """Levels of the hash grid; more hold finer detail and cost time in proportion."""
    log2_rows: int = 17
    """Rows of a level as a power of two."""
    finest_resolution: int = 1024
    """Cells along the object's longest side at the finest level."""
    hidden: int = 64
    """Width of the networks' hidden layers."""
    split_colour: bool = True
    """Explain colour as paint under diffuse light plus surroundings that the whole surface mirrors (Ref-NeRF), so that
    highlights cannot be painted onto a wrong shape; for metal and gloss."""
    open_share: float = 0.4
    """Share of the steps after which all levels are open (coarse to fine); the photos' scales and the prior points'
    reach go with them. 0: at once."""
    first_levels: int = 4
    """Levels open at the start."""
    first_inv_s: float = 400.0
    """Sharpness 1/s of the NeuS density at the start, per edge of the unit cube, at most: it starts blunter where the
    prior points lie far inside the visual hull. A sharper density reaches less far to either side
    of the surface."""
    start_inside: float = 3.0
    """How far inside the visual hull the surface starts where no prior point is near and the hull may bridge a hollow,
    in cells of the first baked grid; less where a part is too thin for it, not at all where the hull bulges. A surface
    grows out to the masks more readily than it digs in: higher finds deeper concavities, and leaves flat parts too
    deep."""
    hold_share: float = 0.4
    """Share of the steps over which photos do not move the shape from where it starts, while its colours are learnt:
    wrong colours would dissolve it, and masks swell it again, over every hollow. 0: it is never held."""
    release_share: float = 0.1
    """Share of the steps over which the pull of colours and masks on the shape then grows to its full size, and the
    hold falls to what is left of it."""
    last_inv_s: float = 2500.0
    """Sharpness from four fifths of the steps on; higher lets the surface follow finer detail, and noise."""
    support_share: float = 0.1
    """Points a step that close the underside, besides the prior points, as a share of these."""
    support_confidence: float = 0.5
    """Confidence of the points on the support plane that close the underside, 0 to leave it open."""
    cosine_share: float = 0.0
    """Share of the steps over which the entering cosine turns from forgiving to exact (NeuS); 0: exact at once."""
    n_free: int = 1024
    """Points a step that lie outside the visual hull or in what prior points are seen through."""
    n_held: int = 1024
    """Points a step that hold the start."""
    n_hidden: int = 512
    """Points a step that no camera sees past the current surface."""
    n_curvature: int = 512
    """Rays a step whose normal at the surface is compared with a neighbour's."""
    learning_rate: float = 1e-2
    """Of the hash grid, at its highest; the networks take a quarter of it."""
    bake_resolution: int = 96
    """Cells along the object's longest side of the baked SDF that places the samples, in the first half."""
    bake_resolution_late: int = 160
    """The same in the second half."""
    bake_every: int = 50
    """Steps between refreshes of the baked SDF."""
    placing: Placing = Placing.baked
    """Where the samples of a ray go: where an SDF baked into a grid puts NeuS's weights, or evenly (to compare)."""
    n_points: int = 1024
    """Prior points a step."""
    first_point_reach: float = 0.1
    """Distance from the surface at which a prior point counts half, at the start, in edges of the unit cube."""
    last_point_reach: float = 0.03
    """The same once all levels are open; higher trusts far prior points more, wrong ones among them."""
    seed: int = 0
    """Of all randomness in the fit."""
    checkpoint_s: float = field(default=30.0, metadata=NOT_IN_KEY)
    """Seconds between checkpoints, which an interrupted run goes on from."""
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    """From blurred photos to sharp ones."""
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    """Which pixels are drawn more often."""
    trust: TrustConfig = field(default_factory=TrustConfig)
    """Photos that disagree with all others."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the loss's terms."""
    patches: PatchConfig = field(default_factory=PatchConfig)
    """Patches that must agree between photos."""
    cameras: CameraConfig = field(default_factory=CameraConfig)
    """Correcting the cameras."""
    watch: WatchConfig = field(default_factory=WatchConfig)
    """Noticing that the training breaks down."""
    pace: PaceConfig = field(default_factory=PaceConfig)
    """Ending early where the surface no longer moves."""
    view: ViewConfig = field(default_factory=ViewConfig, metadata=NOT_IN_KEY)
    """The live view of `view=true`."""

    def check(self) -> None:
        """Raise UserError for counts of which there must be one at least."""
        for name in ("n_steps", "n_rays", "n_samples", "n_levels"):
            if getattr(self, name) < 1:
                raise UserError(f"surface.{name}={getattr(self, name)} cannot be used: it must be at least 1.")
        if self.hold_share + self.release_share > 1:
            raise UserError(
                f"surface.hold_share={self.hold_share} and surface.release_share={self.release_share} cannot be used "
                "together: the shape must be free before the last step, so they may add up to 1 at most."
            )

    def field_config(self) -> FieldConfig:
        return FieldConfig(
            n_levels=self.n_levels,
            log2_rows=self.log2_rows,
            finest_resolution=self.finest_resolution,
            hidden=self.hidden,
            split_colour=self.split_colour,
        )
