"""A weight is read in one way: what a second kind of product reads is a copy of it under another name.

OpenVINO 2026.4 keeps one packed form of a weight for all nodes that read it in the same shape. A gradient reads the
weight of a Conv by ConvTranspose, and that of a product transposed; if the weight is square, both have the same shape,
and one of them computes with the form of the other, without an error. A copy costs the bytes of the weight, no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx

from analyzer.graph.protos import Names, attribute, copied, replace_all

Readers: TypeAlias = Mapping[str, Sequence[tuple[onnx.NodeProto, int]]]
Path: TypeAlias = tuple[onnx.NodeProto, ...]
# What may be between a weight and a product; runtimes carry it out before they pack the weight.
_FOLDED = frozenset({"Cast", "DequantizeLinear", "Identity", "Transpose"})


def separate_roles(proto: onnx.ModelProto, weights: dict[str, np.ndarray]) -> list[str]:
    """Gives every square weight that is read in two ways a copy for the second; the names of the copies.

    Args:
        weights: those that are stubs in `proto`; a copy is the same array.
    """
    graph, names, copies = proto.graph, Names(proto.graph), list[str]()
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, index))
    constants, folded = {t.name for t in graph.initializer}, list[onnx.NodeProto]()
    for tensor in [t for t in graph.initializer if len(t.dims) > 1]:
        uses = list(_uses(tensor.dims, tensor.name, readers, constants))
        second = [use for use in uses if use[-1] != uses[0][-1]]
        if not second:
            continue
        copy = copied(tensor)
        copy.name = names.fresh(f"{tensor.name}/copy")
        graph.initializer.append(copy)
        copies.append(copy.name)
        if tensor.name in weights:
            weights[copy.name] = weights[tensor.name]
        made: dict[tuple[str, ...], str] = {(): copy.name}
        for path, node, index, _ in second:
            for length in range(1, len(path) + 1):
                done = tuple(n.output[0] for n in path[:length])
                if done not in made:
                    again = copied(path[length - 1])
                    again.input[0], again.name = made[done[:-1]], names.fresh(f"{again.name}/copy")
                    again.output[0] = made[done] = names.fresh(f"{done[-1]}/copy")
                    folded.append(again)
            node.input[index] = made[tuple(n.output[0] for n in path)]
    if folded:
        replace_all(graph.node, [*folded, *graph.node])
    return copies


def _uses(
    dims: Sequence[int], name: str, readers: Readers, constants: set[str], path: Path = ()
) -> Iterator[tuple[Path, onnx.NodeProto, int, bool]]:
    """(nodes between, reader, which of its inputs, whether it reads the weight the other way round) of each product
    that reads a weight of these sizes as a square."""
    for node, index in readers.get(name, ()):
        if node.domain:
            continue
        if node.op_type in _FOLDED and index == 0 and constants.issuperset(filter(None, node.input[1:])):
            yield from _uses(dims, node.output[0], readers, constants, (*path, node))
        elif node.op_type in ("Conv", "ConvTranspose") and index == 1:
            if dims[0] == dims[1] * attribute(node, "group", 1) and dims[1] > 1:
                yield path, node, index, node.op_type == "ConvTranspose"
        elif node.op_type in ("Gemm", "MatMul") and index < 2 and dims[-1] == dims[-2] > 1:
            turns = sum(n.op_type == "Transpose" for n in path) + attribute(node, ("transA", "transB")[index], 0)
            yield path, node, index, turns % 2 == 1
