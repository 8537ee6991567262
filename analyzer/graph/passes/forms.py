"""One form for what schemas let a file write in several: names, inference mode, padding, rounding of sizes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx.helper
from onnx import numpy_helper

from analyzer.graph.passes.contract import Request
from analyzer.graph.passes.shapes import inferred_shapes, shapes_in
from analyzer.graph.protos import all_nodes, attribute, captured, opsets, replace_all
from analyzer.graph.schemas import write_defaults
from analyzer.graph.source import Source

# ---- Names ----


def unique_names_pass(source: Source, request: Request) -> None:
    """Gives every node a name of its own; tensor names are unique in valid ONNX and stay."""
    used: set[str] = set()
    for node in source.proto.graph.node:
        base = node.name or f"{node.op_type}_{node.output[0] if node.output else ''}"
        name, count = base, 1
        while name in used:
            count += 1
            name = f"{base}_{count}"
        used.add(name)
        node.name = name
    source.proto.graph.name = source.proto.graph.name or "graph"


# ---- Inference form ----


def inference_form_pass(source: Source, request: Request) -> None:
    """Replaces Dropout that drops nothing with Identity, and trims BatchNormalization to its inference form."""
    constants = _small_constants(source.proto.graph)
    used = {n for node in source.proto.graph.node for n in [*node.input, *captured(node)]}
    used |= {o.name for o in source.proto.graph.output}
    for node in source.proto.graph.node:
        if node.domain:
            continue
        if node.op_type == "Dropout":
            training = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.False_
            mask_used = len(node.output) > 1 and node.output[1] in used
            if training is not None and not training.any() and not mask_used:
                node.op_type = "Identity"
                del node.input[1:], node.output[1:], node.attribute[:]
        elif node.op_type == "BatchNormalization" and not attribute(node, "training_mode", 0):
            del node.output[1:]


def _small_constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer if np.prod(t.dims) <= 16}


# ---- Pads and sizes ----


_WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "QLinearConv")


def explicit_pads_pass(source: Source, request: Request) -> None:
    """Replaces auto_pad with pads.

    SAME padding depends on the input size when the stride is above 1; where that size is not known the node
    keeps its auto_pad, and its rule computes the padding at run time.
    """
    windowed = [n for n in source.proto.graph.node if n.op_type in _WINDOWED and not n.domain]
    automatic = [n for n in windowed if attribute(n, "auto_pad", b"NOTSET") not in (b"NOTSET", b"")]
    if not automatic:
        return
    shapes = inferred_shapes(source.proto)
    for node in automatic:
        weight = shapes.get(node.input[3 if node.op_type == "QLinearConv" else 1]) if len(node.input) > 1 else None
        kernel = attribute(node, "kernel_shape", None) or (weight and weight[2:])
        if not kernel or not all(isinstance(k, int) for k in kernel):
            continue
        strides = list(attribute(node, "strides", None) or [1] * len(kernel))
        dilations = list(attribute(node, "dilations", None) or [1] * len(kernel))
        auto = attribute(node, "auto_pad", b"NOTSET").decode()
        pads = _same_pads(node, auto, shapes.get(node.input[0]), kernel, strides, dilations)
        if pads is not None:
            replace_all(node.attribute, [a for a in node.attribute if a.name not in ("auto_pad", "pads")])
            node.attribute.append(onnx.helper.make_attribute("pads", pads))


def _same_pads(
    node: onnx.NodeProto,
    auto: str,
    shape: list | None,
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
) -> list[int] | None:
    """pads = max((⌈n/s⌉−1)·s + d(k−1)+1 − n, 0), the odd one at the end (SAME_UPPER) or the beginning."""
    rank = len(kernel)
    if auto == "VALID":
        return [0] * 2 * rank
    if node.op_type == "ConvTranspose":
        if attribute(node, "output_shape", None) is not None:
            return None
        extra = list(attribute(node, "output_padding", None) or [0] * rank)
        totals = [d * (k - 1) + 1 + e - s for k, s, d, e in zip(kernel, strides, dilations, extra, strict=True)]
        if any(t < 0 for t in totals):
            return None
    else:
        totals = []
        for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
            reach = d * (k - 1) + 1
            size = shape[2 + axis] if shape else None
            if s == 1:
                totals.append(reach - 1)
            elif isinstance(size, int):
                totals.append(max((-(-size // s) - 1) * s + reach - size, 0))
            else:
                return None
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    # ConvTranspose gives the odd one to the other side (operator specification, auto_pad).
    return small + large if auto == "SAME_UPPER" else large + small


def pads_left(source: Source) -> Iterable[str]:
    shapes = shapes_in(source.proto)
    for node in source.proto.graph.node:
        if node.op_type in ("Conv", "MaxPool", "AveragePool") and not node.domain:
            auto = attribute(node, "auto_pad", b"NOTSET")
            shape = shapes.get(node.input[0])
            if auto not in (b"NOTSET", b"") and shape and all(isinstance(d, int) for d in shape[2:]):
                yield f"{node.name} still has auto_pad={auto.decode()}"


def plain_sizes_pass(source: Source, request: Request) -> None:
    """Says otherwise what onnx infers wrong sizes from.

    Drops ceil_mode where the window it would gain starts beyond the picture: there is none. Writes out that STFT is
    one-sided where the file leaves it to the default.
    """
    write_defaults((n for n in all_nodes(source.proto.graph) if n.op_type == "STFT"), opsets(source.proto))
    pools = [n for n in source.proto.graph.node if attribute(n, "ceil_mode", 0) and not n.domain]
    shapes = inferred_shapes(source.proto) if pools else {}
    for node in pools:
        shape, kernel = shapes.get(node.input[0]), attribute(node, "kernel_shape", [])
        rank = len(kernel)
        if not shape or not all(isinstance(d, int) for d in shape[2:]):
            continue
        strides = attribute(node, "strides", None) or [1] * rank
        dilations = attribute(node, "dilations", None) or [1] * rank
        pads = attribute(node, "pads", None) or [0] * 2 * rank
        if all(
            -(-(n + a + b - d * (k - 1) - 1) // s) * s >= n + a or (n + a + b - d * (k - 1) - 1) % s == 0
            for n, k, s, d, a, b in zip(shape[2:], kernel, strides, dilations, pads, pads[rank:], strict=False)
        ):
            replace_all(node.attribute, [a for a in node.attribute if a.name != "ceil_mode"])
