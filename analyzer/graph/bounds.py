"""What a file may ask for: checks before native code reads it, since some numbers crash it or fill the memory.

onnx and onnxruntime trust a model's numbers: a Slice step of 2⁶³ − 1, a dimension of −2³¹ or a list that a chain of
Concat doubles forty times end in a crash or in gigabytes, from a file of a few hundred bytes.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, cast

import onnx
from onnx import AttributeProto, numpy_helper

from analyzer.errors import InputError, UnsupportedError
from analyzer.graph.protos import all_nodes, opsets
from analyzer.graph.schemas import lookup

NAME = 4096  # characters of a tensor's or node's name
KERNEL = 1 << 24  # positions of a kernel
STEP = 1 << 31  # magnitude of strides, dilations, pads and steps
COUNTED = 1 << 16  # elements of shape arithmetic that are worth following
CONSTANT = 1 << 29  # elements of a tensor that depends on no input, beside sixteen times the bytes of the weights
RANGE = 1 << 26  # numbers of a Range
TRIPS = 10_000_000  # steps of a Loop whose number is written in the file
EXPANDED = 20_000, 100  # nodes of functions written out; times the nodes that the file has


def check_numbers(proto: onnx.ModelProto, where: str) -> None:
    """Names, dimensions, attributes and arities against what can be meant at all.

    Raises:
        InputError: naming the node.
    """
    graph, versions = proto.graph, opsets(proto)
    constants = {t.name: t for t in graph.initializer if math.prod(t.dims) <= COUNTED}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and (dim.dim_value < -1 or dim.dim_value > STEP):
                raise InputError(f"{where}: {value.name!r} has a dimension of {dim.dim_value}")
    for tensor in graph.initializer:
        if any(d < 0 for d in tensor.dims):
            raise InputError(f"{where}: weight {tensor.name!r} has a dimension of {min(tensor.dims)}")
    for node in all_nodes(graph):
        name = node.name or (node.output[0] if node.output else node.op_type)
        if any(len(n) > NAME or "\0" in n for n in [node.name, *node.input, *node.output]):
            raise InputError(f"{where}: a {node.op_type} node has a name that is too long, or contains a zero byte")
        checks = _unlike_schema(node, versions), _odd_attributes(node), _odd_steps(node, constants)
        for problem in itertools.chain(*checks):  # each relies on those before
            raise InputError(f"{where}: node {name[:200]!r} ({node.op_type}): {problem}")


def _odd_attributes(node: onnx.NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        values, name = list(attribute.ints) if attribute.type == AttributeProto.INTS else [], attribute.name
        odd = {
            "kernel_shape": any(v < 1 for v in values) or math.prod(values) > KERNEL,
            **dict.fromkeys(("strides", "dilations"), any(not 0 < v <= STEP for v in values)),
            **dict.fromkeys(("pads", "output_padding", "output_shape"), any(abs(v) > STEP for v in values)),
        }
        if odd.get(name):
            yield f"{name} is {values}"


def _unlike_schema(node: onnx.NodeProto, versions: dict[str, int]) -> Iterator[str]:
    """Of ONNX's own operators: how many inputs and outputs there are, and of what type attributes are."""
    schema = lookup(node.op_type, versions.get("", 1)) if not node.domain else None
    if schema is None:
        return
    for kind, count, least, most in (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("outputs", len(node.output), 0, schema.max_output),  # the first schemas ask for more than the runtime does
    ):
        if not least <= count <= most:
            yield f"{count} {kind}; it takes {least if least == most else f'{least} to {most}'}"
    known = _attributes(node.op_type, versions.get("", 1))
    for attribute in node.attribute:
        wanted = known.get(attribute.name)
        if wanted is not None and attribute.type not in (wanted, AttributeProto.UNDEFINED):
            found = AttributeProto.AttributeType.Name(attribute.type)
            yield f"the attribute {attribute.name} is of type {found}, not {AttributeProto.AttributeType.Name(wanted)}"


@functools.cache
def _attributes(op: str, version: int) -> dict[str, int]:
    schema = lookup(op, version)
    return {} if schema is None else {name: int(cast(Any, a.type)) for name, a in schema.attributes.items()}


def _odd_steps(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Iterator[str]:
    """Steps of a Slice, trips of a Loop, and numbers of a Range, that are written in the file."""
    if node.domain:
        return
    if node.op_type == "Range" and all(name in constants for name in node.input):
        start, limit, delta = (float((_numbers(constants[name]) or [0])[0]) for name in node.input)
        if delta and (count := (limit - start) / delta) > RANGE:
            yield f"a range of {count:,.0f} numbers"
    if node.op_type == "Slice" and len(node.input) > 4 and node.input[4] in constants:
        steps = _values(constants[node.input[4]])
        if any(not 0 < abs(s) <= STEP for s in steps):
            yield f"steps are {steps}"
    if node.op_type == "Loop" and node.input and node.input[0] in constants:
        trips = _values(constants[node.input[0]])
        if trips and trips[0] > TRIPS:
            yield f"{trips[0]} steps of a loop"


def _values(tensor: onnx.TensorProto) -> list[int]:
    return [int(v) for v in _numbers(tensor) if math.isfinite(v)]


def _numbers(tensor: onnx.TensorProto) -> list[float]:
    """The first of those in a small tensor; none of what is no number."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return []
    try:
        return [v for v in numpy_helper.to_array(tensor).ravel()[:16].tolist() if isinstance(v, int | float)]
    except (ValueError, OverflowError, TypeError):
        return []


def check_expansion(proto: onnx.ModelProto, where: str) -> None:
    """How many nodes functions that call functions are written out to.

    Raises:
        UnsupportedError: too many for the file that they come from, or a function calls itself.
    """
    bodies = {(f.domain, f.name): f for f in proto.functions}
    total: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable[onnx.NodeProto], calling: frozenset[tuple[str, str]]) -> int:
        found = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in calling:
                raise UnsupportedError(f"{where}: the function {node.op_type!r} calls itself")
            if key in bodies and key not in total:
                total[key] = count(bodies[key].node, calling | {key})
            found += total.get(key, 1)
        return found

    written = len(proto.graph.node) + sum(len(f.node) for f in proto.functions)
    nodes, (most, times) = count(proto.graph.node, frozenset()), EXPANDED
    if nodes > max(most, times * written):
        raise UnsupportedError(f"{where}: its {len(bodies)} functions expand to {nodes:,} nodes, over the limit")


def propagates_little(proto: onnx.ModelProto) -> bool:
    """Whether shape inference may follow the numbers of small tensors: a chain of Concat can double them at will."""
    counts = {t.name: math.prod(t.dims) for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Concat" and not node.domain:
            counts[node.output[0]] = sum(counts.get(name, 1) for name in node.input)
            if counts[node.output[0]] > COUNTED and all(counts.get(n, 0) <= COUNTED for n in node.input):
                return False
        elif node.input and node.op_type in ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Slice"):
            counts[node.output[0]] = counts.get(node.input[0], 1)
    return True


def too_large(proto: onnx.ModelProto, weights: int) -> Iterator[str]:
    """Tensors that depend on no input and are out of proportion to the weights, a sentence each."""
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*proto.graph.value_info, *proto.graph.output]
        if v.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in v.type.tensor_type.shape.dim)
    }
    dependent = {v.name for v in proto.graph.input} - {t.name for t in proto.graph.initializer}
    limit = CONSTANT + 16 * weights
    for node in proto.graph.node:
        if dependent.intersection(node.input):
            dependent.update(node.output)
            continue
        for name in node.output:
            size = math.prod(shapes.get(name, [0]))
            if size > limit:
                yield f"{name!r} ({node.op_type}) is a constant of {size:,} elements"
