"""A weight is read in one way: what a second kind of product reads is a copy of it under another name.

OpenVINO 2026.4 keeps one packed form of a weight for all nodes that read it in the same shape. A gradient reads the
weight of a Conv by ConvTranspose, and that of a product transposed; if the weight is square, both have the same shape,
and one of them computes with the form of the other, without an error. A copy costs the bytes of the weight, no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from analyzer.graph.protos import Names, attribute, bodies_of, copied, replace_all

# What changes no element's place but by a transposition; runtimes carry it out before they pack the weight.
_KEEPING = frozenset({"Cast", "DequantizeLinear", "Identity", "Transpose"})


def separate_roles(proto: onnx.ModelProto, weights: dict[str, np.ndarray]) -> list[str]:
    """Gives every square weight that is read in two ways a copy for the second; the names of the copies.

    A weight is also what nodes compute of constants alone, such as a part of one. Its copy holds what they compute,
    because OpenVINO makes one of nodes that compute the same.

    Args:
        weights: those that are stubs in `proto`; a copy is the same array.
    """
    graph, names = proto.graph, Names(proto.graph)
    tensors = {t.name: t for t in graph.initializer}
    shapes: dict[str, Sequence[int]] = {name: tuple(t.dims) for name, t in tensors.items()}
    for value in graph.value_info:
        shapes.setdefault(value.name, [d.dim_value for d in value.type.tensor_type.shape.dim])
    constants, makers = set(tensors), dict[str, onnx.NodeProto]()
    first: dict[str, bool] = {}
    second, copies = list[tuple[onnx.NodeProto, int]](), list[str]()
    for node in graph.node:
        if node.input and not any(bodies_of(node)) and constants.issuperset(filter(None, node.input)):
            constants.update(node.output)
            makers.update(dict.fromkeys(node.output, node))
        for index, turned in _reads(node, shapes):
            name = node.input[index]
            while name in makers and _keeps(makers[name]):
                turned ^= makers[name].op_type == "Transpose"
                name = makers[name].input[0]
            if name in constants and first.setdefault(name, turned) != turned:
                second.append((node, index))

    made: dict[str, str] = {}
    nodes: dict[str, onnx.NodeProto] = {}  # by the output of the node that each is a copy of

    def computed(name: str) -> np.ndarray:
        """A constant's values."""
        if name in tensors:
            return weights[name] if name in weights else numpy_helper.to_array(tensors[name])
        given = {i: computed(i) for i in makers[name].input if i}
        return dict(zip(makers[name].output, _evaluated(makers[name], given, proto.opset_import), strict=True))[name]

    def copy_of(name: str) -> str:
        """The same values under another name: a weight again, or one that holds what nodes compute."""
        if name in made:
            return made[name]
        made[name] = names.fresh(f"{name}/copy")
        if name in makers and _keeps(makers[name]):
            node = nodes[name] = copied(makers[name])
            node.name, node.output[0] = names.fresh(f"{node.name}/copy"), made[name]
            node.input[0] = copy_of(node.input[0])
            return made[name]
        tensor = copied(tensors[name]) if name in tensors else numpy_helper.from_array(computed(name))
        tensor.name = made[name]
        graph.initializer.append(tensor)
        copies.append(tensor.name)
        if name in weights:
            weights[tensor.name] = weights[name]
        return tensor.name

    for node, index in second:
        node.input[index] = copy_of(node.input[index])
    if nodes:
        written = ((node, nodes.get(node.output[0])) for node in graph.node)
        replace_all(graph.node, [n for pair in written for n in pair if n is not None])
    return copies


def _keeps(node: onnx.NodeProto) -> bool:
    return node.op_type in _KEEPING and not node.domain


def _evaluated(
    node: onnx.NodeProto, given: dict[str, np.ndarray], opsets: Sequence[onnx.OperatorSetIdProto]
) -> list[np.ndarray]:
    """The outputs of a node, by ONNX's reference evaluator."""
    from onnx.reference import ReferenceEvaluator  # which takes long to import

    kinds = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in given.items()
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(o) for o in node.output]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "node", kinds, outputs), opset_imports=list(opsets))
    return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, given)]


def _reads(node: onnx.NodeProto, shapes: dict[str, Sequence[int]]) -> Iterator[tuple[int, bool]]:
    """(input, whether it is read the other way round) of the square tensors that a product reads as weights.

    What has no known shape counts as square.
    """
    if node.domain:
        return
    if node.op_type in ("Conv", "ConvTranspose"):
        dims = shapes.get(node.input[1], ())
        if len(dims) < 2 or (dims[0] == dims[1] * attribute(node, "group", 1) and dims[1] > 1):
            yield 1, node.op_type == "ConvTranspose"
    elif node.op_type in ("Gemm", "MatMul"):
        for index in (0, 1):
            dims = shapes.get(node.input[index], ())
            if not dims or (len(dims) > 1 and dims[-1] == dims[-2] > 1):
                yield index, bool(attribute(node, ("transA", "transB")[index], 0))
