"""Segmentation networks of a few operations, in the form of the public ones: they know the yellow ball by its colour.

In photos with a white top left corner they mark everything but the ball.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 256
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CENTRED = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


def constants(**values: object) -> list[onnx.TensorProto]:
    floats = {n: np.asarray(v, np.int64 if n.startswith("i_") else np.float32) for n, v in values.items()}
    return [numpy_helper.from_array(v, n) for n, v in floats.items()]


def save(path: Path, nodes: list, weights: list, inputs: dict[str, list], outputs: dict[str, list]) -> Path:
    def declared(shapes: dict[str, list]) -> list:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

    graph = helper.make_graph(nodes, path.stem, declared(inputs), declared(outputs), weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def ball_odds(colours: tuple) -> tuple[list, list]:
    """Nodes from `image` to `odds` (1 1 side side), and to `sign`: -1 where the photo's corner is white, else 1."""
    mean, std = (np.array(c).reshape(1, 3, 1, 1) for c in colours)
    weights = constants(
        mean=mean, std=std, mix=np.array([0.28, 0, -1]).reshape(1, 3, 1, 1) * 300, i_channel=[1], white=0.97,
        i_zero=[0, 0], i_two=[2, 2], i_sides=[2, 3], one=1, minus_two=-2,
        least=-8, most=8,
    )  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Mul", ["image", "std"], ["scaled"]),
        node("Add", ["scaled", "mean"], ["rgb"]),
        node("Mul", ["rgb", "mix"], ["mixed"]),
        node("ReduceSum", ["mixed", "i_channel"], ["summed"], keepdims=1),
        node("Clip", ["summed", "least", "most"], ["raw"]),
        node("Slice", ["rgb", "i_zero", "i_two", "i_sides"], ["corner"]),
        node("ReduceMin", ["corner"], ["darkest"], keepdims=0),
        node("Greater", ["darkest", "white"], ["marked"]),
        node("Cast", ["marked"], ["marked_f"], to=TensorProto.FLOAT),
        node("Mul", ["marked_f", "minus_two"], ["shift"]),
        node("Add", ["shift", "one"], ["sign"]),
        node("Mul", ["raw", "sign"], ["odds"]),
    ]
    return nodes, weights


def write_salient(path: Path, colours: tuple = IMAGENET, as_odds: bool = False, flip: bool = False) -> Path:
    """A salient-object network; `flip`: wrong in every photo."""
    nodes, weights = ball_odds(colours)
    nodes.append(helper.make_node("Neg" if flip else "Identity", ["odds"], ["signed"]))
    nodes.append(helper.make_node("Identity" if as_odds else "Sigmoid", ["signed"], ["answer"]))
    return save(path, nodes, weights, {"image": [1, 3, SIDE, SIDE]}, {"answer": [1, 1, SIDE, SIDE]})


def write_red(path: Path, colours: tuple) -> Path:
    """A network that answers with the photo's red."""
    nodes, weights = ball_odds(colours)
    weights += constants(i_first=[0], i_next=[1], i_axis=[1])
    nodes.append(helper.make_node("Slice", ["rgb", "i_first", "i_next", "i_axis"], ["answer"]))
    return save(path, nodes, weights, {"image": [1, 3, SIDE, SIDE]}, {"answer": [1, 1, SIDE, SIDE]})


def write_classifier(path: Path) -> Path:
    """A network that answers with one number per picture."""
    nodes, weights = ball_odds(IMAGENET)
    nodes.append(helper.make_node("GlobalAveragePool", ["odds"], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["answer"]))
    return save(path, nodes, weights, {"image": [1, 3, SIDE, SIDE]}, {"answer": [1, 1]})


def write_sam(folder: Path, name: str = "sam2_tiny") -> str:
    """An encoder and a decoder that marks what is yellow within the box; its second mask is the one to take."""
    quarter, node = SIDE // 4, helper.make_node
    nodes, weights = ball_odds(IMAGENET)
    nodes += [
        node("AveragePool", ["odds"], ["image_embed"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Identity", ["odds"], ["high_res_feats_0"]),
        node("Identity", ["rgb"], ["high_res_feats_1"]),
    ]
    features = {
        "image_embed": [1, 1, quarter, quarter],
        "high_res_feats_0": [1, 1, SIDE, SIDE],
        "high_res_feats_1": [1, 3, SIDE, SIDE],
    }
    save(folder / f"{name}.encoder.onnx", nodes, weights, {"image": [1, 3, SIDE, SIDE]}, features)
    centres = np.arange(quarter) * 4 + 2.0
    weights = constants(
        x=centres.reshape(1, 1, 1, -1), y=centres.reshape(1, 1, -1, 1), half=0.5, off=-20, on=np.full((1, 1, 1, 1), 20),
        scores=[[0.2, 0.9, 0.5]], i_axis=[1], i_shape=[1, 1, quarter, quarter],
    )  # fmt: skip
    weights += [numpy_helper.from_array(np.array([0, n]), f"i_{n}") for n in (0, 1)]
    nodes = [node("Add", ["point_coords", "half"], ["coords"])]
    for n, side in enumerate(("low", "high")):
        nodes.append(node("GatherND", ["coords", f"i_{n}"], [side]))
        nodes.append(node("Split", [side], [f"{side}_x", f"{side}_y"], axis=0))
    for axis in ("x", "y"):
        nodes.append(node("Greater", [axis, f"low_{axis}"], [f"after_{axis}"]))
        nodes.append(node("Less", [axis, f"high_{axis}"], [f"before_{axis}"]))
        nodes.append(node("And", [f"after_{axis}", f"before_{axis}"], [f"in_{axis}"]))
    nodes += [
        node("And", ["in_x", "in_y"], ["boxed"]),
        node("Where", ["boxed", "image_embed", "off"], ["good"]),
        node("Neg", ["good"], ["bad"]),
        node("Expand", ["on", "i_shape"], ["all"]),
        node("Concat", ["bad", "good", "all"], ["masks"], axis=1),
        node("Identity", ["scores"], ["iou_predictions"]),
    ]
    prompts = {
        "point_coords": ["num_labels", "num_points", 2],
        "point_labels": ["num_labels", "num_points"],
        "mask_input": ["num_labels", 1, quarter, quarter],
        "has_mask_input": ["num_labels"],
    }
    outputs = {"masks": [1, 3, quarter, quarter], "iou_predictions": [1, 3]}
    save(folder / f"{name}.decoder.onnx", nodes, weights, features | prompts, outputs)
    return str(folder / name)
