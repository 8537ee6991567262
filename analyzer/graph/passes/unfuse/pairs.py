"""Whole numbers lie between a QuantizeLinear and a DequantizeLinear alone, as in a file of the QDQ form."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx.helper

from analyzer.graph.protos import Names, replace_all

Step = tuple[str, ...]  # names of the weights that hold a scale and a zero point, or the scale alone

# One output, with the numbers of the first input at other places; some are left out.
_MOVING = ("Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def pair(graph: onnx.GraphProto, own: Collection[str]) -> None:
    """Replaces f(q) with Q(f(D(q))) where f only moves numbers, and the D(q) of all that read q with one.

    Then the map that a quantised tensor stands for is one tensor, on which all that follows depends. Its name is that
    of the file's own D(q), or else the one that onnxruntime's quantiser gives: q's with "_DequantizeLinear_Output".

    Args:
        own: names of the file's tensors, which survive.
    """
    names, weights = Names(graph), {t.name for t in graph.initializer}
    steps, dequantized = dict[str, Step](), dict[str, str]()
    renamed, nodes = dict[str, str](), list[onnx.NodeProto]()
    given = {
        (n.input[0], tuple(n.input[1:])): n.output[0]
        for n in reversed(graph.node)
        if n.op_type == "DequantizeLinear" and n.output[0] in own
    }

    def quantised(q: str, step: Step) -> None:
        """Notes what q means, and dequantises it where anything reads it."""
        steps[q] = step
        name = given.get((q, step)) or names.fresh(f"{q}_DequantizeLinear_Output")
        nodes.append(onnx.helper.make_node("DequantizeLinear", [q, *step], [name], name))
        dequantized[q] = name

    for node in graph.node:
        node.input[:] = [renamed.get(i, i) for i in node.input]
        q, step = node.input[0] if node.input else "", tuple(node.input[1:])
        if node.op_type == "DequantizeLinear" and steps.get(q) == step:
            if node.output[0] not in own:
                renamed[node.output[0]] = dequantized[q]
            elif node.output[0] != dequantized[q]:
                nodes.append(node)
            continue
        nodes.append(node)
        if node.op_type == "QuantizeLinear" and weights.issuperset(step):
            quantised(node.output[0], step)
        elif node.op_type in _MOVING and not node.domain and q in steps:
            moved = node.output[0]
            node.input[0] = dequantized[q]
            node.output[0] = names.fresh(f"{moved}_QuantizeLinear_Input")
            nodes.append(
                onnx.helper.make_node("QuantizeLinear", [node.output[0], *steps[q]], [moved], f"{moved}_QuantizeLinear")
            )
            quantised(moved, steps[q])
    read = {i for n in nodes for i in n.input} | {o.name for o in graph.output}
    kept = [n for n in nodes if n.op_type != "DequantizeLinear" or n.output[0] in read or n.output[0] in own]
    replace_all(graph.node, kept)
