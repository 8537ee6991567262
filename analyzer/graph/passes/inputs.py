"""The inputs of a model: without initializers among them, of the sizes asked for, open sizes named."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import onnx

from analyzer.errors import InputError
from analyzer.graph.passes.contract import Request
from analyzer.graph.protos import replace_all
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
