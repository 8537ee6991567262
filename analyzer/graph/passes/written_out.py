"""Operators that a file writes out by their function bodies, made whole again where others look for them by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.helper
from onnx import numpy_helper

from analyzer.graph.passes.contract import Request
from analyzer.graph.protos import attribute
from analyzer.graph.source import Source

Producers = Mapping[str, onnx.NodeProto]
Axes = Mapping[str, np.ndarray]  # of the weights with one number


def softmax_pass(source: Source, request: Request) -> None:
    """Replaces e / Σ e, e = exp(x − max x), with Softmax(x), and (x − max x) − log Σ e with LogSoftmax(x).

    onnxruntime writes both out where it has no kernel for their type (float16 on a CPU). Only the last node changes:
    the others keep their names, and are not run where nothing else reads them.
    """
    graph = source.proto.graph
    made = {o: n for n in graph.node for o in n.output}
    axes = {t.name: numpy_helper.to_array(t) for t in graph.initializer if list(t.dims) in ([], [1])}
    for node in graph.node:
        found = _softmax(node, made, axes)
        if found is not None:
            op, x, axis = found
            node.op_type = op
            node.input[:] = [x]
            node.attribute.append(onnx.helper.make_attribute("axis", axis))


def _softmax(node: onnx.NodeProto, made: Producers, axes: Axes) -> tuple[str, str, int] | None:
    """(Softmax or LogSoftmax, x, axis) of the last node of one."""
    if node.op_type == "Div" and not node.domain:
        op, (e, total) = "Softmax", node.input
    elif node.op_type == "Sub" and not node.domain and (log := _made_by("Log", node.input[1], made)):
        op, e, total = "LogSoftmax", "", log.input[0]
    else:
        return None
    summed = _made_by("ReduceSum", total, made)
    exponential = _made_by("Exp", summed.input[0], made) if summed else None
    shifted = _made_by("Sub", exponential.input[0], made) if exponential else None
    highest = _made_by("ReduceMax", shifted.input[1], made) if shifted else None
    if not (summed and exponential and shifted and highest) or highest.input[0] != shifted.input[0]:
        return None
    if node.input[0] != (exponential if e else shifted).output[0]:
        return None
    axis = _only_axis(summed, axes)
    return None if axis is None or axis != _only_axis(highest, axes) else (op, shifted.input[0], axis)


def _made_by(op: str, name: str, made: Producers) -> onnx.NodeProto | None:
    node = made.get(name)
    return node if node is not None and node.op_type == op and not node.domain else None


def _only_axis(node: onnx.NodeProto, axes: Axes) -> int | None:
    """The axis of a reduction over one axis that stays, with size 1; None of others."""
    known = axes.get(node.input[1]) if len(node.input) > 1 else None
    return int(known.item()) if known is not None and attribute(node, "keepdims", 1) else None
