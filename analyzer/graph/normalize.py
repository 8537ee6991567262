"""One form for every model: the passes, in order, each with what it needs and what holds afterwards.

The passes see a `Source`, whose large weights are stubs, so all of them are cheap for a model of any size.
Names of inputs, outputs and intermediate tensors survive; only nodes change.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter
from onnx import numpy_helper

from analyzer.errors import AnalyzerError, InputError, UnsupportedError
from analyzer.graph import unfuse_attention, unfuse_packed
from analyzer.graph.blocked import NCHWC, unblock
from analyzer.graph.bodies import Names, all_nodes, bodies_of, lift_body_constants, unroll
from analyzer.graph.legacy import modernize
from analyzer.graph.load import Source, captured, detach, lift_constants, load
from analyzer.graph.newer import OPSET, lower, retype
from analyzer.graph.sequences import resolve_sequences
from analyzer.graph.unfuse import TABLE as FUSED
from analyzer.graph.unfuse import unfuse_model

IR_VERSION = 10  # the IR that opset 21 was released with; before IR 4, initializers had to be inputs too
UNFUSED_IN = (unfuse_attention, unfuse_packed)  # the chapters that fill the table of what is taken apart
NEWEST_IR = 13  # the newest that onnxruntime 1.31 loads


@dataclass(frozen=True)
class Pass:
    """A rewrite of the model in place, and the check of what holds after it (a sentence per offence)."""

    name: str
    run: Callable[[Source, Request], None]
    holds: Callable[[Source], Iterable[str]] = lambda source: ()


@dataclass(frozen=True)
class Request:
    """What the caller wants normalised: operators to inline by their function body, and known input shapes."""

    inline: frozenset[str] = frozenset()
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()


def normalize(model: Any, inline: Iterable[str] = (), input_shapes: dict[str, tuple[int, ...]] | None = None) -> Source:
    """Rewrite `model` into the one form the rules know; outputs stay what they were.

    Args:
        model: anything `load` takes.
        inline: operators to replace by the function body of their schema.
        input_shapes: sizes to fix for inputs whose dimensions are symbolic in the file.

    Raises:
        UnsupportedError: a node cannot be brought to opset 21, or a pass broke its promise.
    """
    given = load(model)
    proto = onnx.ModelProto()
    proto.CopyFrom(given.proto)
    source = replace(given, proto=proto, weights=dict(given.weights))
    request = Request(frozenset(inline), tuple((input_shapes or {}).items()))
    for step in PASSES:
        try:
            step.run(source, request)
        except AnalyzerError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:400]
            raise UnsupportedError(
                f"{source.name}: the pass {step.name!r} cannot handle this model: {reason}"
            ) from error
        broken = list(step.holds(source))
        if broken:
            sizes = ", ".join(f"{name!r} of {'×'.join(map(str, shape))}" for name, shape in request.input_shapes)
            raise UnsupportedError(
                f"{source.name}: after the pass {step.name!r}: " + "; ".join(broken[:5]),
                f"it was read for {sizes}; if that is not a size it takes, give one (--size, --shape)" if sizes else "",
            )
    return source


# ---- Initializers ----


def fold_initializer_inputs_pass(source: Source, request: Request) -> None:
    """Removes from the graph inputs those that an initializer already gives a value (IR < 4 lists them all)."""
    graph = source.proto.graph
    source.proto.ir_version = min(max(source.proto.ir_version, IR_VERSION), NEWEST_IR)
    constant = {t.name for t in graph.initializer}
    _replace(graph.input, [i for i in graph.input if i.name not in constant])
    declared = {v.name for v in [*graph.input, *graph.output]}
    if any(v.name in declared for v in graph.value_info):  # a converter's leftovers, of another type
        _replace(graph.value_info, [v for v in graph.value_info if v.name not in declared])


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
                raise InputError(f"input {name!r} has the shape {_shape_text(dims)} in the file, not {list(shape)}")
            dim.dim_value = size


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


def _unnamed_sizes(source: Source) -> list[str]:
    return [
        f"input {v.name!r} has a size of {d.dim_value if d.HasField('dim_value') else d.dim_param}"
        for v in source.proto.graph.input
        for d in v.type.tensor_type.shape.dim
        if (d.HasField("dim_value") and d.dim_value <= 0) or (d.HasField("dim_param") and d.dim_param in _UNNAMED)
    ]


# ---- Functions and opset ----


def _write_defaults(nodes: Iterable[onnx.NodeProto], versions: dict[str, int]) -> None:
    """Writes out each attribute that a node leaves to its schema's default: function bodies refer to them."""
    for node in nodes:
        present = {a.name for a in node.attribute}
        schema = _schema(node, versions)
        if schema is not None:
            node.attribute.extend(
                a for name, a in defaults(schema.name, schema.since_version, schema.domain) if name not in present
            )


@functools.cache
def defaults(op: str, version: int, domain: str) -> tuple[tuple[str, onnx.AttributeProto], ...]:
    """(name, attribute) of each attribute that the schema gives a default."""
    schema = onnx.defs.get_schema(op, version, domain)
    return tuple(
        (name, a.default_value) for name, a in schema.attributes.items() if a.default_value and a.default_value.name
    )


@functools.cache
def implied_attributes(op: str, opset: int, domain: str) -> dict[str, Any]:
    """The attributes that a node without them has at `opset`, by its schema."""
    schema = lookup(op, opset, domain)
    if schema is None:
        return {}
    values = {n: onnx.helper.get_attribute_value(a) for n, a in defaults(op, schema.since_version, domain)}
    return {n: v.decode() if isinstance(v, bytes) else v for n, v in values.items()}


def inline_functions_pass(source: Source, request: Request) -> None:
    """Replaces calls of the model's own functions with their bodies."""
    if source.proto.functions:
        source.proto = onnx.inliner.inline_local_functions(source.proto, True)
        lift_constants(source.proto.graph)
        detach(source)


def inline_newer_pass(source: Source, request: Request) -> None:
    """Replaces operators born after opset 21, and those in `inline`, with the function body of their schema."""
    versions = _opsets(source.proto)
    if versions.get("", 0) <= OPSET and not request.inline:
        return
    for _ in range(_NESTED):  # bodies call operators with bodies
        wanted = [n for n in source.proto.graph.node if _has_wanted_body(n, versions, request)]
        if not wanted:
            return
        _write_defaults(wanted, versions)
        _annotate_initializers(source.proto)
        proto = onnx.shape_inference.infer_shapes(source.proto, data_prop=True)
        names = {n.output[0] for n in wanted}
        if _make_local(proto, [n for n in proto.graph.node if n.output and n.output[0] in names]):
            proto = onnx.inliner.inline_local_functions(proto, True)
        else:
            operators = list({("", n.op_type) for n in wanted})
            proto = onnx.inliner.inline_selected_functions(
                proto, operators, exclude=False, inline_schema_functions=True
            )
        source.proto = proto
        del source.proto.graph.value_info[:]
        lift_constants(source.proto.graph)


_NESTED = 8
_BODY = "analyzer.body"  # a domain for bodies that depend on the types of what is given


def _has_wanted_body(node: onnx.NodeProto, versions: dict[str, int], request: Request) -> bool:
    schema = _schema(node, versions)
    if schema is None or node.domain or not (schema.has_function or schema.has_context_dependent_function):
        return False
    return node.op_type in request.inline or not _known_at(node.op_type, OPSET)


def _make_local(proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> bool:
    """Replaces operators that leave an input out with calls of their bodies as local functions; whether any did.

    The inliner wants the type of each input of a body that depends on types, those left out in the middle included.
    """
    types = {v.name: v.type for v in [*proto.graph.input, *proto.graph.value_info]}
    versions = _opsets(proto)
    found = False
    for node in nodes:
        schema = _schema(node, versions)
        if "" not in node.input or schema is None or not schema.has_context_dependent_function:
            continue
        kinds = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        body = onnx.FunctionProto.FromString(schema.get_context_dependent_function(node.SerializeToString(), kinds))
        body.domain, body.name = _BODY, f"{node.op_type}_{len(proto.functions)}"
        if not body.opset_import:
            body.opset_import.append(onnx.helper.make_opsetid("", versions[""]))
        proto.functions.append(body)
        node.domain, node.op_type = _BODY, body.name
        del node.attribute[:]
        found = True
    if found:
        proto.opset_import.append(onnx.helper.make_opsetid(_BODY, 1))
    return found


_CONTROL = ("If", "Loop", "SequenceConstruct", "SequenceEmpty", "SplitToSequence", "Optional", "OptionalGetElement")


def control_flow_pass(source: Source, request: Request) -> None:
    """Replaces an If whose condition is known with the branch taken, short Loops with their steps, and sequences of
    known length with their tensors."""
    graph, opset = source.proto.graph, _opsets(source.proto).get("", OPSET)
    while any(n.op_type in _CONTROL and not n.domain for n in graph.node):
        lift_constants(graph)
        lift_body_constants(graph)
        shapes = _shapes(_infer(source.proto))
        resolved = resolve_sequences(graph, shapes, opset)
        if not unroll(graph, shapes, opset) and not resolved:
            break
    detach(source)


_ASIDE = "analyzer.aside"  # a domain that the converter leaves alone
_LEGACY_BROADCAST = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")


def set_aside_pass(source: Source, request: Request) -> None:
    """Takes out of the converter's hands what it gets wrong, rewritten to what it means today.

    Upsample and Resize-10: the converter loses their output names and their coordinates. Arithmetic before opset 7:
    it misplaces the axes of the second operand, which used to be aligned at `axis`. What it refuses is in `legacy`.
    """
    version = _opsets(source.proto).get("", OPSET)
    if version >= OPSET:
        return
    batched = next((n for n in all_nodes(source.proto.graph) if n.op_type == "Scan" and version < 9), None)
    if batched is not None:
        raise UnsupportedError(
            f"{source.name}: Scan (node {batched.name!r}) runs over a batch, as before opset 9",
            "export the model again with opset 9 or newer",
        )
    source.proto.opset_import.append(onnx.helper.make_opsetid(_ASIDE, 1))
    for node in all_nodes(source.proto.graph) if version < 11 else ():
        if node.op_type in ("Upsample", "Resize") and not node.domain:
            _as_resize(source.proto.graph, node)
    if version < 7:
        _align_operands(source.proto.graph)
    modernize(source.proto.graph, version, _ASIDE)
    if version < 11:
        _bound_in_half_precision(source.proto)


def _bound_in_half_precision(proto: onnx.ModelProto) -> None:
    """Replaces the attributes of a float16 Clip with inputs, which the converter would write in float32."""
    clips = [n for n in proto.graph.node if n.op_type == "Clip" and not n.domain]
    if not clips:
        return
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    half = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    names = Names(proto.graph)
    for node in clips:
        if half.isdisjoint([*node.input, *node.output]):
            continue
        largest = float(np.finfo(np.float16).max)
        for bound in ("min", "max"):
            given = _attribute(node, bound, None)
            known = None if given is None else np.float16(np.clip(given, -largest, largest))
            node.input.append("" if known is None else names.constant(np.asarray(known), f"{node.output[0]}/{bound}"))
        del node.attribute[:]
        node.domain = _ASIDE


def _as_resize(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Replaces Upsample with the Resize that means the same: x_in = x_out / scale, nearest rounds down."""
    scales = _attribute(node, "scales", None)
    if _attribute(node, "height_scale", None) is not None:
        scales = [1, 1, _attribute(node, "height_scale", 1), _attribute(node, "width_scale", 1)]
    if scales is not None:
        name = f"{node.output[0]}/scales"
        graph.initializer.append(numpy_helper.from_array(np.asarray(scales, np.float32), name))
        node.input.append(name)
    mode = _attribute(node, "mode", b"nearest").decode()
    inputs = [node.input[0], "", node.input[1]]
    del node.input[:], node.attribute[:]
    node.op_type, node.domain = "Resize", _ASIDE
    node.input.extend(inputs)
    options = {
        "mode": "linear" if mode in ("linear", "bilinear") else mode,
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in options.items())


def _align_operands(graph: onnx.GraphProto) -> None:
    """Replaces b in `a + b (axis=k)` with b of shape (…b, 1, …, 1), so that trailing axes align; likewise the slope
    of a PRelu, which used to be one per channel."""
    ranks = {t.name: len(t.dims) for t in graph.initializer}
    ranks |= {i.name: len(i.type.tensor_type.shape.dim) for i in graph.input if i.name not in ranks}
    nodes = []
    for node in graph.node:
        legacy = node.op_type in _LEGACY_BROADCAST and not node.domain
        per_channel = node.op_type == "PRelu" and not node.domain and ranks.get(node.input[1]) == 1
        if per_channel or (legacy and _attribute(node, "broadcast", 0)):
            a, b = (ranks.get(name) for name in node.input)
            axis = 1 if per_channel else _attribute(node, "axis", None)
            missing = 0 if axis is None or a is None or b is None else a - (axis % a) - b
            if missing > 0 and b is not None:
                wide = f"{node.output[0]}/aligned"
                nodes.append(
                    onnx.helper.make_node("Unsqueeze", [node.input[1]], [wide], axes=[b + i for i in range(missing)])
                )
                node.input[1] = wide
        if legacy:
            del node.attribute[:]
            node.domain = _ASIDE
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
        rank = _rank_after(node, ranks)
        ranks.update({o: rank for o in node.output if rank is not None})
    del graph.node[:]
    graph.node.extend(nodes)


def _rank_after(node: onnx.NodeProto, ranks: dict[str, int]) -> int | None:
    """Rank of the outputs, as far as old exporters need it."""
    if node.op_type == "Reshape":
        shape = _attribute(node, "shape", None)
        return None if shape is None else len(shape)
    if node.op_type in ("Flatten", "Gemm"):
        return 2
    return ranks.get(node.input[0]) if node.input else None


def restore_pass(source: Source, request: Request) -> None:
    """Puts back, as standard operators, what had been set aside."""
    for node in all_nodes(source.proto.graph):
        if node.domain == _ASIDE:
            node.domain = ""
    _replace(source.proto.opset_import, [o for o in source.proto.opset_import if o.domain != _ASIDE])


def lower_pass(source: Source, request: Request) -> None:
    """Rewrites what opsets after 21 added; the model's opset is 21 then, or the first that has what `newer` keeps."""
    if _opsets(source.proto).get("", OPSET) <= OPSET:
        return
    lift_constants_pass(source, request)
    retype(source.proto.graph)
    source.proto = _infer(source.proto)
    needed = lower(source.proto)
    del source.proto.graph.value_info[:]
    for imported in source.proto.opset_import:
        if not imported.domain:
            imported.version = needed


def opset_pass(source: Source, request: Request) -> None:
    """Converts an older model to opset 21."""
    version = _opsets(source.proto).get("", OPSET)
    if version >= OPSET:
        return
    if all(n.domain for n in source.proto.graph.node):
        for imported in source.proto.opset_import:
            imported.version = OPSET if not imported.domain else imported.version
        return
    keep = _Kept(source.proto)
    try:
        converted = onnx.version_converter.convert_version(source.proto, OPSET)
    except Exception as error:
        if version > OPSET - 8 and all(n.domain != _ASIDE for n in all_nodes(source.proto.graph)):
            return  # rules name the versions they hold for, and say so where this one is not among them
        reason = " ".join(str(error).split())
        raise UnsupportedError(
            f"{source.name}: opset {version} cannot be converted to {OPSET}: {reason[-300:]}",
            "export the model again with opset 13 or newer",
        ) from None
    keep.restore(converted)
    source.proto = converted


class _Kept:
    """What the converter loses: metadata of the model, the graph and the nodes, and other operator domains."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.nodes = {n.output[0]: n for n in proto.graph.node if n.output}

    def restore(self, converted: onnx.ModelProto) -> None:
        for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
            setattr(converted, name, getattr(self.proto, name))
        _replace(converted.metadata_props, self.proto.metadata_props)
        converted.graph.name = self.proto.graph.name or "graph"
        converted.graph.doc_string = self.proto.graph.doc_string
        _replace(converted.graph.metadata_props, self.proto.graph.metadata_props)
        _replace(converted.graph.quantization_annotation, self.proto.graph.quantization_annotation)
        versions = _opsets(converted)
        converted.opset_import.extend(o for o in self.proto.opset_import if o.domain not in versions)
        for node in converted.graph.node:
            old = self.nodes.get(node.output[0]) if node.output else None
            if old is not None and old.op_type == node.op_type:
                _replace(node.metadata_props, old.metadata_props)
                node.name = node.name or old.name


def unfuse_pass(source: Source, request: Request) -> None:
    """Replaces the fused operators of onnxruntime's own domains with the standard operators they stand for."""
    graph = source.proto.graph
    if not any(n.domain == NCHWC or (n.domain, n.op_type) in FUSED for n in graph.node):
        return

    def shapes(proto: onnx.ModelProto) -> dict[str, list]:
        return _shapes(_infer(proto))

    unblock(source, shapes)
    unfuse_model(source, shapes)
    read = {o.name for o in graph.output} | {n for node in graph.node for n in [*node.input, *captured(node)]}
    _replace(graph.initializer, [t for t in graph.initializer if t.name in read])
    for name in source.weights.keys() - read:
        del source.weights[name]


def _fused_left(source: Source) -> Iterable[str]:
    return (f"{n.op_type} ({n.name}) is still fused" for n in source.proto.graph.node if (n.domain, n.op_type) in FUSED)


def lift_constants_pass(source: Source, request: Request) -> None:
    """Replaces Constant nodes with initializers, and moves those of bodies to the outermost graph."""
    lift_constants(source.proto.graph)
    if lift_body_constants(source.proto.graph):
        detach(source)


def _body_constants(source: Source) -> Iterable[str]:
    bodies = (b for n in source.proto.graph.node for b in bodies_of(n))
    return (f"a body of {b.name} has constants of its own" for b in bodies if b.initializer)


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
        elif node.op_type == "BatchNormalization" and not _attribute(node, "training_mode", 0):
            del node.output[1:]


# ---- Explicit pads ----

_WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "QLinearConv")


def explicit_pads_pass(source: Source, request: Request) -> None:
    """Replaces auto_pad with pads.

    SAME padding depends on the input size when the stride is above 1; where that size is not known the node
    keeps its auto_pad, and its rule computes the padding at run time.
    """
    windowed = [n for n in source.proto.graph.node if n.op_type in _WINDOWED and not n.domain]
    automatic = [n for n in windowed if _attribute(n, "auto_pad", b"NOTSET") not in (b"NOTSET", b"")]
    if not automatic:
        return
    shapes = _shapes(_infer(source.proto))
    for node in automatic:
        weight = shapes.get(node.input[3 if node.op_type == "QLinearConv" else 1]) if len(node.input) > 1 else None
        kernel = _attribute(node, "kernel_shape", None) or (weight and weight[2:])
        if not kernel or not all(isinstance(k, int) for k in kernel):
            continue
        strides = list(_attribute(node, "strides", None) or [1] * len(kernel))
        dilations = list(_attribute(node, "dilations", None) or [1] * len(kernel))
        auto = _attribute(node, "auto_pad", b"NOTSET").decode()
        pads = _same_pads(node, auto, shapes.get(node.input[0]), kernel, strides, dilations)
        if pads is not None:
            _replace(node.attribute, [a for a in node.attribute if a.name not in ("auto_pad", "pads")])
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
        if _attribute(node, "output_shape", None) is not None:
            return None
        extra = list(_attribute(node, "output_padding", None) or [0] * rank)
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


def plain_sizes_pass(source: Source, request: Request) -> None:
    """Says otherwise what onnx infers wrong sizes from.

    Drops ceil_mode where the window it would gain starts behind the picture: there is none. Writes out that STFT is
    one-sided where the file leaves it to the default.
    """
    _write_defaults((n for n in all_nodes(source.proto.graph) if n.op_type == "STFT"), _opsets(source.proto))
    pools = [n for n in source.proto.graph.node if _attribute(n, "ceil_mode", 0) and not n.domain]
    shapes = _shapes(_infer(source.proto)) if pools else {}
    for node in pools:
        shape, kernel = shapes.get(node.input[0]), _attribute(node, "kernel_shape", [])
        rank = len(kernel)
        if not shape or not all(isinstance(d, int) for d in shape[2:]):
            continue
        strides = _attribute(node, "strides", None) or [1] * rank
        dilations = _attribute(node, "dilations", None) or [1] * rank
        pads = _attribute(node, "pads", None) or [0] * 2 * rank
        if all(
            -(-(n + a + b - d * (k - 1) - 1) // s) * s >= n + a or (n + a + b - d * (k - 1) - 1) % s == 0
            for n, k, s, d, a, b in zip(shape[2:], kernel, strides, dilations, pads, pads[rank:], strict=False)
        ):
            _replace(node.attribute, [a for a in node.attribute if a.name != "ceil_mode"])


def _pads_left(source: Source) -> Iterable[str]:
    shapes = _shapes(source.proto)
    for node in source.proto.graph.node:
        if node.op_type in ("Conv", "MaxPool", "AveragePool") and not node.domain:
            auto = _attribute(node, "auto_pad", b"NOTSET")
            shape = shapes.get(node.input[0])
            if auto not in (b"NOTSET", b"") and shape and all(isinstance(d, int) for d in shape[2:]):
                yield f"{node.name} still has auto_pad={auto.decode()}"


# ---- Shapes and types ----


def shapes_pass(source: Source, request: Request) -> None:
    """Annotates every tensor with its element type and, as far as it is fixed, its shape."""
    source.proto = _infer(source.proto)


def _types_missing(source: Source) -> Iterable[str]:
    graph = source.proto.graph
    known = {v.name for v in [*graph.value_info, *graph.input, *graph.output] if v.type.WhichOneof("value")}
    known |= {t.name for t in graph.initializer} | {""}
    misfit = functools.cache(lambda: _misfit(source.proto))
    for node in graph.node:
        if not node.domain and known.issuperset(node.input):
            for name in node.output:
                if name not in known:
                    yield f"the type of {name!r} (node {node.name}, {node.op_type}) is not known{misfit()}"


def _misfit(proto: onnx.ModelProto) -> str:
    """What onnx says of the first node whose operands do not fit together, after a colon; "" where all do."""
    try:
        onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except Exception as error:
        return ": " + re.sub(r"^.*node name: .*?\): |\[\w+\] ", "", str(error).strip().splitlines()[0])
    return ""


_SHAPED_AS_INPUT = ("GroupNormalization", "MeanVarianceNormalization")  # onnx infers nothing for them


def _infer(proto: onnx.ModelProto) -> onnx.ModelProto:
    stripped = onnx.ModelProto()
    stripped.CopyFrom(proto)
    del stripped.graph.value_info[:]
    outputs = {o.name: o for o in stripped.graph.output}
    for output in outputs.values():
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    silent = [n for n in all_nodes(stripped.graph) if n.op_type in _SHAPED_AS_INPUT and not n.domain]
    originals = {n.output[0]: onnx.NodeProto.FromString(n.SerializeToString()) for n in silent}
    for node in silent:
        node.op_type = "Identity"
        del node.input[1:], node.attribute[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(stripped, strict_mode=False, data_prop=True)
    except Exception:
        inferred = onnx.shape_inference.infer_shapes(stripped, strict_mode=False, data_prop=False)
    for node in all_nodes(inferred.graph) if originals else ():
        if node.output and node.output[0] in originals:
            node.CopyFrom(originals[node.output[0]])
    declared = {o.name: o for o in proto.graph.output}
    for output in inferred.graph.output:
        if output.type.HasField("tensor_type") and not output.type.tensor_type.HasField("shape"):
            output.CopyFrom(declared[output.name])
    return inferred


# ---- The pipeline ----

PASSES: tuple[Pass, ...] = (
    Pass("fold initializer inputs", fold_initializer_inputs_pass),
    Pass("input shapes", input_shapes_pass),
    Pass("open sizes", open_sizes_pass, _unnamed_sizes),
    Pass("inline functions", inline_functions_pass, lambda s: [f.name for f in s.proto.functions]),
    Pass("inline newer operators", inline_newer_pass),
    Pass("control flow", control_flow_pass),
    Pass("lower", lower_pass),
    Pass("set aside", set_aside_pass),
    Pass("opset", opset_pass),
    Pass("restore", restore_pass),
    Pass("un-fuse", unfuse_pass, _fused_left),
    Pass("lift constants", lift_constants_pass, _body_constants),
    Pass("unique names", unique_names_pass),
    Pass("inference form", inference_form_pass),
    Pass("explicit pads", explicit_pads_pass, _pads_left),
    Pass("plain sizes", plain_sizes_pass),
    Pass("shapes", shapes_pass, _types_missing),
)


# ---- Helpers ----


def _replace(field: object, items: Iterable) -> None:
    copies = [type(i).FromString(i.SerializeToString()) for i in items]
    del field[:]  # type: ignore[attr-defined]
    field.extend(copies)  # type: ignore[attr-defined]


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    return {o.domain: o.version for o in proto.opset_import}


def _schema(node: onnx.NodeProto, versions: dict[str, int]) -> onnx.defs.OpSchema | None:
    return lookup(node.op_type, versions.get(node.domain, 1), node.domain)


@functools.cache
def lookup(op: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    """The schema of `op` in force at that version of its domain, or None."""
    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None


def _known_at(op: str, version: int) -> bool:
    return lookup(op, version, "") is not None


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def _shapes(proto: onnx.ModelProto) -> dict[str, list]:
    shapes: dict[str, list] = {t.name: list(t.dims) for t in proto.graph.initializer}
    for value in [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]:
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = [
                d.dim_value if d.HasField("dim_value") else (d.dim_param or None)
                for d in value.type.tensor_type.shape.dim
            ]
    return shapes


def _shape_text(dims: Iterable[onnx.TensorShapeProto.Dimension]) -> str:
    return "[" + ", ".join(str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in dims) + "]"


def _small_constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer if np.prod(t.dims) <= 16}


def _annotate_initializers(proto: onnx.ModelProto) -> None:
    known = {v.name for v in [*proto.graph.value_info, *proto.graph.input]}
    proto.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
        for t in proto.graph.initializer
        if t.name not in known
    )


@functools.cache
def function_operators() -> frozenset[str]:
    """Standard operators whose schema carries a function body, context-dependent ones included."""
    schemas = onnx.defs.get_all_schemas()
    return frozenset(s.name for s in schemas if not s.domain and (s.has_function or s.has_context_dependent_function))
