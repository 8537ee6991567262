"""The inputs of a model: without initializers among them, of the sizes asked for, open sizes named."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx.helper

from analyzer.errors import InputError
from analyzer.graph.passes.contract import Request
from analyzer.graph.passes.newer import OPSET
from analyzer.graph.protos import Names, all_nodes, opsets, replace_all, second_numbers
from analyzer.graph.source import Source

IR_VERSION = 10  # the IR that opset 21 was released with; before IR 4, initializers had to be inputs too


NEWEST_IR = 13  # the newest that onnxruntime 1.31 loads


def fold_initializer_inputs_pass(source: Source, request: Request) -> None:
    """Removes from the graph inputs those that an initializer already gives a value (IR < 4 lists them all)."""
    graph = source.proto.graph
    source.proto.ir_version = min(max(source.proto.ir_version, IR_VERSION), NEWEST_IR)
    constant = {t.name for t in graph.initializer}
    replace_all(graph.input, [i for i in graph.input if i.name not in constant])
    declared = {v.name for v in [*graph.input, *graph.output]}
    if any(v.name in declared for v in graph.value_info):  # a converter's leftovers, of another type
        replace_all(graph.value_info, [v for v in graph.value_info if v.name not in declared])


def batch_axis_pass(source: Source, request: Request) -> None:
    """Gives a picture without a batch axis, (3, H, W) or (H, W, 3), such an axis of size 1, where that is wanted."""
    for value in pictures_without_batch(source.proto) if request.batch else ():
        _with_batch(source.proto, value)


def _with_batch(proto: onnx.ModelProto, value: onnx.ValueInfoProto) -> None:
    graph, names = proto.graph, Names(proto.graph)
    inner = names.fresh(f"{value.name}/picture")
    for node in all_nodes(graph):
        node.input[:] = [inner if name == value.name else name for name in node.input]
    dims = value.type.tensor_type.shape.dim
    dims.insert(0, onnx.TensorShapeProto.Dimension(dim_value=1))
    squeeze = onnx.helper.make_node("Squeeze", [value.name], [inner], inner)
    if opsets(proto).get("", OPSET) < 13:
        squeeze.attribute.append(onnx.helper.make_attribute("axes", [0]))
    else:
        squeeze.input.append(names.constant(np.array([0]), f"{inner}/axes"))
    graph.node.insert(0, squeeze)


_PER_PIXEL = ("Add", "Cast", "Clip", "Div", "Gather", "Identity", "Max", "Min", "Mul", "Sub", "Transpose")


def pictures_without_batch(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs (3, H, W) or (H, W, 3) that get a batch axis of size 1 after operators on single pixels; none where
    an input has four or more axes, or where there are several."""
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.input}
    if any(len(shape) > 3 for shape in sizes.values()):
        return []
    known = {t.name: t for t in proto.graph.initializer}
    given = [v for v in proto.graph.input if len(sizes[v.name]) == 3 and 3 in (sizes[v.name][0], sizes[v.name][2])]
    found = [v for v in given if _gets_batch(proto.graph, v.name, known)]
    return found if len(found) == 1 else []


def _gets_batch(graph: onnx.GraphProto, name: str, known: dict[str, onnx.TensorProto]) -> bool:
    reached = {name}
    for node in graph.node:
        if not node.input or node.domain or reached.isdisjoint(node.input):
            continue
        if node.op_type in _PER_PIXEL:
            reached.update(node.output)
        elif node.op_type in ("Unsqueeze", "Reshape", "Expand") and node.input[0] in reached:
            numbers = list(second_numbers(node, known))
            if numbers == [0] if node.op_type == "Unsqueeze" else len(numbers) == 4 and numbers[0] == 1:
                return True
    return False


def input_shapes_pass(source: Source, request: Request) -> None:
    """Writes the known sizes over the symbolic dimensions of the inputs."""
    shapes = dict(request.input_shapes)
    inputs = {i.name: i for i in source.proto.graph.input}
    for name, shape in shapes.items():
        if name not in inputs:
            raise InputError(f"the model has no input {name!r}; it has {', '.join(map(repr, inputs))}")
        tensor_type = inputs[name].type.tensor_type
        dims = tensor_type.shape.dim
        if tensor_type.HasField("shape") and len(dims) != len(shape):
            raise InputError(f"input {name!r} has {len(dims)} dimensions, not the {len(shape)} of {list(shape)}")
        if not tensor_type.HasField("shape"):
            dims.extend(onnx.TensorShapeProto.Dimension() for _ in shape)
        for dim, size in zip(dims, shape, strict=True):
            if dim.HasField("dim_value") and dim.dim_value > 0 and dim.dim_value != size:
                raise InputError(f"input {name!r} has the fixed shape {_shape_text(dims)}, not {list(shape)}")
            dim.dim_value = size


def _shape_text(dims: Iterable[onnx.TensorShapeProto.Dimension]) -> str:
    return "[" + ", ".join(str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in dims) + "]"


_UNNAMED = frozenset({"", "?", "-1", "None"})  # what exporters write for a size of which nothing is known


def open_sizes_pass(source: Source, request: Request) -> None:
    """Names each open size of an input; sizes written as −1, 0 (of inputs) or "?" are open, and not all the same."""
    graph = source.proto.graph
    taken = {d.dim_param for v in graph.input for d in v.type.tensor_type.shape.dim}
    for value in graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            fixed = dim.dim_value > 0 or dim.dim_param not in _UNNAMED
            if not fixed and (dim.HasField("dim_value") or dim.HasField("dim_param")):
                dim.dim_param = next(n for n in _numbered(f"{value.name}_{axis}") if n not in taken)
                taken.add(dim.dim_param)
    for value in [*graph.output, *graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0 or (dim.HasField("dim_param") and dim.dim_param in _UNNAMED):
                dim.Clear()


def _numbered(name: str) -> Iterator[str]:
    """name, name_2, name_3…"""
    yield name
    yield from (f"{name}_{n}" for n in itertools.count(2))


def unnamed_sizes(source: Source) -> list[str]:
    return [
        f"input {v.name!r} has a size of {d.dim_value if d.HasField('dim_value') else d.dim_param}"
        for v in source.proto.graph.input
        for d in v.type.tensor_type.shape.dim
        if (d.HasField("dim_value") and d.dim_value <= 0) or (d.HasField("dim_param") and d.dim_param in _UNNAMED)
    ]
