"""Writes a model so that OpenCV's dnn module computes what it says.

The rewrites are exact up to rounding, and each answers one fault that was measured in OpenCV 5.0.0.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from analyzer.graph.protos import Names, all_nodes, attribute, copied, replace_all, second_numbers

# Operators that may be applied to some axes first, and then to the others.
_REDUCTIONS = frozenset(f"Reduce{kind}" for kind in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum"))
_AXES = 2  # at a time


def avoid_faults(proto: onnx.ModelProto) -> None:
    """Rewrites the graph in place: see the functions below. OpenCV runs no bodies."""
    names, constants = Names(proto.graph), {t.name: t for t in proto.graph.initializer}
    _reduce_few_axes(proto.graph, names, constants)
    _hold_gelus(proto.graph, names, constants)
    _double_single_rows(proto.graph, names, constants)
    _hold_norms(proto.graph, names)


def _reduce_few_axes(graph: onnx.GraphProto, names: Names, constants: dict[str, onnx.TensorProto]) -> None:
    """Replaces Reduce over three axes or more, which gives wrong numbers for tensors of five axes, with a chain."""
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        axes = second_numbers(node, constants) if node.op_type in _REDUCTIONS else ()
        if len(axes) <= _AXES or min(axes) < 0 <= max(axes):
            written.append(node)
            continue
        # From the outer end that the axes are counted from, so that no axis moves where sizes are dropped.
        axes = sorted(axes, reverse=axes[0] >= 0)
        x = node.input[0]
        for start in range(0, len(axes), _AXES):
            step, some = copied(node), axes[start : start + _AXES]
            if start + _AXES < len(axes):
                step.name = names.fresh(f"{node.name}/some")
                step.output[0] = names.fresh(f"{node.output[0]}/some")
            step.input[0] = x
            x = step.output[0]
            if len(node.input) > 1:
                step.input[1] = names.constant(np.array(some), f"{node.name}/axes")
            else:
                next(a for a in step.attribute if a.name == "axes").ints[:] = some
            written.append(step)
    if len(written) > len(graph.node):
        before = {node.input[1] for node in graph.node if node.op_type in _REDUCTIONS and len(node.input) > 1}
        replace_all(graph.node, written)
        unused = before.difference(*(node.input for node in all_nodes(graph)))
        replace_all(graph.initializer, [t for t in graph.initializer if t.name not in unused])


def _hold_gelus(graph: onnx.GraphProto, names: Names, constants: dict[str, onnx.TensorProto]) -> None:
    """Puts constants second in x / c → Erf → Add(c) → Mul → Mul, and an Identity before an Add whose reader multiplies
    by a constant first.

    OpenCV's fusion of GELU matches these in any order and then crashes, except for one: Mul(Mul(x, Add(…, c)), c).
    """
    makers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def constants_last(node: onnx.NodeProto) -> bool:
        """Whether the node adds or multiplies a constant, which is then its second input."""
        if node.op_type not in ("Add", "Mul") or not constants.keys() & set(node.input):
            return False
        node.input[:] = sorted(node.input, key=constants.__contains__)
        return True

    written: list[onnx.NodeProto] = []
    for node in graph.node:
        written.append(node)
        divided = makers.get(node.input[0]) if node.op_type == "Erf" else None
        if divided is None or divided.op_type != "Div" or divided.input[1] not in constants:
            continue
        for add in filter(constants_last, readers.get(node.output[0], ())):
            products = [n for n in readers.get(add.output[0], ()) if n.op_type == "Mul"]
            for last in (n for product in products for n in readers.get(product.output[0], ())):
                constants_last(last)
            if any(map(constants_last, products)):
                held = names.fresh(f"{node.output[0]}/held")
                written.append(onnx.helper.make_node("Identity", [node.output[0]], [held], f"{held}/Identity"))
                add.input[0] = held
    if len(written) > len(graph.node):
        replace_all(graph.node, written)


def _double_single_rows(graph: onnx.GraphProto, names: Names, constants: dict[str, onnx.TensorProto]) -> None:
    """Puts a row twice before a linear Resize of pictures of one row, which reads memory behind it."""
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.value_info, *graph.input]}
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        linear = node.op_type == "Resize" and attribute(node, "mode") == b"linear" and not attribute(node, "axes")
        scales = constants.get(node.input[2]) if linear and len(node.input) > 2 else None
        sized = linear and len(node.input) > 3 and bool(node.input[3])
        shape = shapes.get(node.input[0], []) if sized or scales is not None else []
        if len(shape) == 4 and shape[2] == 1:
            x, twice = node.input[0], names.fresh(f"{node.input[0]}/twice")
            written.append(onnx.helper.make_node("Concat", [x, x], [twice], f"{twice}/Concat", axis=2))
            node.input[0] = twice
            if not sized and scales is not None:
                halved = numpy_helper.to_array(scales) / np.array([1, 1, 2, 1], np.float32)
                node.input[2] = names.constant(halved, f"{node.name}/scales")
        written.append(node)
    if len(written) > len(graph.node):
        replace_all(graph.node, written)


def _hold_norms(graph: onnx.GraphProto, names: Names) -> None:
    """Puts an Identity behind ReduceL2.

    OpenCV's fusion takes z / ReduceL2(x) for x / ReduceL2(x), whatever z is, and raises for more than one axis.
    """
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        written.append(node)
        if node.op_type == "ReduceL2":
            y = node.output[0]
            node.output[0] = names.fresh(f"{y}/held")
            written.append(onnx.helper.make_node("Identity", [node.output[0]], [y], f"{node.output[0]}/Identity"))
    if len(written) > len(graph.node):
        replace_all(graph.node, written)
