"""The border to public segmentation networks in ONNX: files that the user has, run by onnxruntime.

Understood are salient-object networks in one file as rembg uses them (U2-Net, Silueta, IS-Net, BiRefNet), and SAM 2 as
samexporter writes it (NAME.encoder.onnx beside NAME.decoder.onnx).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from recon.device import has_package
from recon.errors import UserError

ENCODER, DECODER = ".encoder.onnx", ".decoder.onnx"
FEATURES = {"image_embed", "high_res_feats_0", "high_res_feats_1"}
"""What SAM 2's encoder hands to its decoder."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of colours that most networks were trained with."""
CENTRED = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
"""The same for general-use IS-Net, whose input looks like BiRefNet's: only the file's name tells them apart."""
BOX_CORNERS = (2, 3)
"""SAM 2's labels for the top left and bottom right corner of a box."""
WANTED = (
    "isolate.model names a salient-object network as rembg uses them (such as u2netp.onnx or isnet-general-use.onnx), "
    f"or SAM 2 as samexporter writes it (NAME{ENCODER} and NAME{DECODER})."
)


@dataclass(frozen=True)
class Prompt:
    """What a promptable network is told about one photo."""

    points: Float64[np.ndarray, "n 2"]
    """In shares of the photo's width and height from its top left corner."""
    labels: Int64[np.ndarray, " n"]
    """1 on the object, 0 beside it, BOX_CORNERS for the corners of a box around it."""


@dataclass(frozen=True)
class SalientNetwork:
    """A network that marks whatever stands out in a picture."""

    path: Path
    session: Any
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]

    def share(self, rgb: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
        """How surely each pixel belongs to what stands out, 0..1, from a photo in 0..1.

        Not stretched to the full range: a photo where nothing stands out may say so. Raises UserError where the answer
        is no such map.
        """
        answer = self.session.run(None, {self.session.get_inputs()[0].name: picture(self.session, rgb, self.colours)})
        found = np.asarray(answer[0])
        if found.ndim != 4 or found.shape[:2] != (1, 1) or not np.isfinite(found).all():
            raise UserError(f"{self.path} answers with no map of what stands out in a photo; {WANTED}")
        share = found[0, 0].astype(np.float32)
        if share.min() < -1e-3 or share.max() > 1 + 1e-3:  # log odds: BiRefNet leaves the last step to its user
            share = 1 / (1 + np.exp(-np.clip(share, -30, 30)))
        return resized(np.clip(share, 0, 1), rgb.shape[:2])


@dataclass(frozen=True)
class PromptedNetwork:
    """SAM 2: a network that finds the thing it is shown by points and a box."""

    path: Path
    encoder: Any
    decoder: Any

    def mask(self, rgb: Float32[np.ndarray, "h w 3"], prompt: Prompt) -> Bool[np.ndarray, "h w"]:
        """The best of its masks by its own prediction, for a photo in 0..1.

        Raises UserError where the answer is no mask.
        """
        image = picture(self.encoder, rgb, IMAGENET)
        names = [o.name for o in self.encoder.get_outputs()]
        inputs = dict(zip(names, self.encoder.run(names, {"image": image}), strict=True))
        h, w = image.shape[2:]
        # The exported decoder adds half a pixel itself.
        inputs["point_coords"] = (prompt.points * (w, h) - 0.5).astype(np.float32)[None]
        inputs["point_labels"] = prompt.labels.astype(np.float32)[None]
        inputs["mask_input"] = np.zeros((1, 1, h // 4, w // 4), np.float32)
        inputs["has_mask_input"] = np.zeros(1, np.float32)
        masks, scores = self.decoder.run(["masks", "iou_predictions"], inputs)
        if masks.ndim != 4 or scores.shape != masks.shape[:2] or not np.isfinite(masks).all():
            raise UserError(f"{self.path} answers with no masks; {WANTED}")
        best = masks[0, int(np.argmax(scores[0]))].astype(np.float32)
        found: np.ndarray = resized(best, rgb.shape[:2]) > 0
        return found


def resized(image: Float32[np.ndarray, "_ _ *c"], shape: tuple[int, ...]) -> Float32[np.ndarray, "_ _ *c"]:
    """An image brought to (height, width)."""
    smaller = shape[0] < image.shape[0]
    return cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def picture(
    session: Any, rgb: Float32[np.ndarray, "h w 3"], colours: tuple[tuple[float, ...], tuple[float, ...]]
) -> Float32[np.ndarray, "1 3 h_net w_net"]:
    """A photo as a network wants it: squeezed to its input's size, colours shifted and scaled."""
    mean, std = (np.array(c, np.float32) for c in colours)
    image = (resized(rgb, tuple(session.get_inputs()[0].shape[2:])) - mean) / std
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


def model_files(model: str) -> tuple[Path, ...]:
    """The file of a salient-object network, or the encoder and decoder of SAM 2, that `model` names.

    model: a file, a folder that holds one encoder and its decoder, or the part of their path before `.encoder.onnx`.
    Raises UserError where one is missing.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        encoders = sorted(path.glob(f"*{ENCODER}"))
        if len(encoders) != 1:
            raise UserError(
                f"isolate.model={model} is a folder with {len(encoders)} files *{ENCODER}; name one of them."
            )
        path = encoders[0]
    prefix = path.with_name(path.name.removesuffix(ENCODER).removesuffix(DECODER))
    pair = (Path(f"{prefix}{ENCODER}"), Path(f"{prefix}{DECODER}"))
    if prefix == path and path.is_file():
        return (path,)
    missing = [p for p in pair if not p.is_file()]
    if len(missing) == 1:
        other = pair[1 - pair.index(missing[0])]
        raise UserError(f"isolate.model={model}: {missing[0]} is missing beside {other.name}; SAM 2 needs both files.")
    if missing:
        raise UserError(f"isolate.model={model}: there is no such file; {WANTED}")
    return pair


def files_read(model: str) -> tuple[Path, ...]:
    """All files that a model's answers depend on: its graphs, and weights that lie beside them as NAME.onnx*."""
    graphs = model_files(model)
    return tuple(p for g in graphs for p in sorted(g.parent.iterdir()) if p.name.startswith(g.name) and p.is_file())


def fingerprints(model: str) -> dict[str, str]:
    """The first 12 hex digits of each file's SHA-256, by file name."""
    found = {}
    for path in files_read(model):
        with path.open("rb") as handle:
            found[path.name] = hashlib.file_digest(handle, "sha256").hexdigest()[:12]
    return found


def load_network(model: str) -> SalientNetwork | PromptedNetwork:
    """The network that `model` names (see `model_files`).

    Raises UserError where a file or onnxruntime is missing, or a file is not such a network.
    """
    paths = model_files(model)
    sessions = [open_session(p) for p in paths]
    if len(paths) == 2:
        check_names(paths[0], sessions[0], {"image"}, FEATURES)
        prompts = {"point_coords", "point_labels", "mask_input", "has_mask_input"}
        check_names(paths[1], sessions[1], FEATURES | prompts, {"masks", "iou_predictions"})
        check_picture(paths[0], sessions[0])
        return PromptedNetwork(paths[1], sessions[0], sessions[1])
    check_picture(paths[0], sessions[0])
    colours = CENTRED if "isnet" in paths[0].name.lower() else IMAGENET
    return SalientNetwork(paths[0], sessions[0], colours)


def require_runtime(model: str) -> None:
    """Raise UserError where the package that runs networks is missing."""
    if not has_package("onnxruntime"):
        raise UserError(f"isolate.model={model} needs one more package: pip install 'onnxruntime'")


def open_session(path: Path) -> Any:
    """A network ready to run; raises UserError where onnxruntime is missing or cannot read the file."""
    require_runtime(str(path))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings about how it was exported help no user
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no base class
        raise UserError(f"{path} cannot be read as an ONNX file; fetch or export it again.") from error


def check_picture(path: Path, session: Any) -> None:
    """Raise UserError unless a network takes one colour picture of a fixed size."""
    inputs = session.get_inputs()
    shape = inputs[0].shape
    fixed = len(shape) == 4 and shape[1] == 3 and all(isinstance(n, int) for n in shape[2:])
    if len(inputs) != 1 or not fixed or inputs[0].type != "tensor(float)":
        raise UserError(f"{path} does not take one colour picture of a fixed size in 32-bit numbers; {WANTED}")


def check_names(path: Path, session: Any, inputs: set[str], outputs: set[str]) -> None:
    """Raise UserError unless a network's inputs and outputs are called as SAM 2's are."""
    if {i.name for i in session.get_inputs()} != inputs or {o.name for o in session.get_outputs()} != outputs:
        raise UserError(f"{path} is not the part of SAM 2 that its name says; {WANTED}")
