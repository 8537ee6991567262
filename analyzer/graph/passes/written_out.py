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
Numbers = Mapping[str, np.ndarray]  # the weights with one element


def squashing_pass(source: Source, request: Request) -> None:
    """Replaces e / Σ e, e = exp(x − max x), with Softmax(x); (x − max x) − log Σ e with LogSoftmax(x);
    1 / (1 + exp(−x)) with Sigmoid(x).

    onnxruntime writes the first two out where it has no kernel for their type (float16 on a CPU). Only the last node
    changes: the others keep their names, and are not run where nothing else reads them.
    """
    graph = source.proto.graph
    made = {o: n for n in graph.node for o in n.output}
    numbers = {t.name: numpy_helper.to_array(t) for t in graph.initializer if list(t.dims) in ([], [1])}
    for node in graph.node:
        found = _softmax(node, made, numbers)
        if found is not None:
            op, x, axis = found
            node.op_type = op
            node.input[:] = [x]
            node.attribute.append(onnx.helper.make_attribute("axis", axis))
        elif x := _of_sigmoid(node, made, numbers):
            node.op_type = "Sigmoid"
            node.input[:] = [x]


def _softmax(node: onnx.NodeProto, made: Producers, numbers: Numbers) -> tuple[str, str, int] | None:
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
    axis = _only_axis(summed, numbers)
    return None if axis is None or axis != _only_axis(highest, numbers) else (op, shifted.input[0], axis)


def _of_sigmoid(node: onnx.NodeProto, made: Producers, numbers: Numbers) -> str:
    """x of the last node of 1 / (1 + exp(−x)), "" of any other."""
    if node.domain or node.op_type not in ("Div", "Reciprocal"):
        return ""
    if node.op_type == "Div" and not _is_one(node.input[0], numbers):
        return ""
    total = _made_by("Add", node.input[-1], made)
    if total is None or not any(_is_one(name, numbers) for name in total.input):
        return ""
    exponential = next((n for name in total.input if (n := _made_by("Exp", name, made))), None)
    negative = _made_by("Neg", exponential.input[0], made) if exponential else None
    return str(negative.input[0]) if negative else ""


def _is_one(name: str, numbers: Numbers) -> bool:
    return name in numbers and numbers[name].item() == 1


def _made_by(op: str, name: str, made: Producers) -> onnx.NodeProto | None:
    node = made.get(name)
    return node if node is not None and node.op_type == op and not node.domain else None


def _only_axis(node: onnx.NodeProto, numbers: Numbers) -> int | None:
    """The axis of a reduction over one axis that stays, with size 1; None of others."""
    known = numbers.get(node.input[1]) if len(node.input) > 1 else None
    return int(known.item()) if known is not None and attribute(node, "keepdims", 1) else None
