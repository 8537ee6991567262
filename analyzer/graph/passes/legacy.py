"""Operators of older opsets that the converter refuses or gets wrong, rewritten to what they mean today.

The new nodes are put in a domain that the converter leaves alone; attributes that became inputs become initializers.
`OLDER` says of every attribute that opset 21 has not, or has with another default, what becomes of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.helper
from onnx import numpy_helper

from analyzer.graph.passes.unfuse import TABLE
from analyzer.graph.passes.unfuse.table import Emit, Fused, replace_outputs
from analyzer.graph.protos import Names, bodies_of, replace_all

# What an old node means today: the name of its output or several; None for the node itself, changed or not;
# NotImplemented to leave it to the converter.
Rewrite = Callable[[Emit, Fused], Any]


def modernize(graph: onnx.GraphProto, version: int, aside: str) -> None:
    """Rewrites the nodes of `graph` and of its bodies that mean something else than today at opset `version`."""
    _modernize(graph, version, aside, Names(graph))


def _modernize(graph: onnx.GraphProto, version: int, aside: str, names: Names) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for body in bodies_of(node):
            _modernize(body, version, aside, names)
        before, rewrite = _TABLE.get(node.op_type, (0, _as_it_is))
        if node.domain or (version >= before and _is_standard(node.op_type, version)):
            nodes.append(node)
        else:
            nodes += _rewritten(node, rewrite, aside, names)
    replace_all(graph.node, nodes)


def _rewritten(node: onnx.NodeProto, rewrite: Rewrite, aside: str, names: Names) -> list[onnx.NodeProto]:
    emit = Emit(names.fresh(f"{node.output[0]}/{node.op_type}"))
    results = rewrite(emit, Fused(node))
    if results is NotImplemented:
        return [node]
    if results is None:
        emit.nodes = [node]
    else:
        replace_outputs(emit, results, node)
    for made in emit.nodes:
        made.domain = aside
    names.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in emit.constants.items())
    return emit.nodes


@functools.cache
def _is_standard(op: str, version: int) -> bool:
    return bool(onnx.defs.has(op, version, ""))


def _batch_normalization(e: Emit, f: Fused) -> Any:
    """y = g (x − m) / √(v + ε) + b, with a statistic per element where `spatial` is 0."""
    if f.attr("spatial", 1):
        return NotImplemented
    x, gain, bias, mean, variance = f.node.input
    root = e.Sqrt(e.Add(variance, e.scalar_like(f.attr("epsilon", 1e-5), variance)))
    return e.Add(e.Mul(e.Sub(x, mean), e.Div(gain, root)), bias)


def _cast(e: Emit, f: Fused) -> None:
    """The type used to be written out."""
    to = f.attr("to")
    kind = onnx.TensorProto.DataType.Value(to) if isinstance(to, str) else to
    replace_all(f.node.attribute, [onnx.helper.make_attribute("to", kind)])


def _pad(e: Emit, f: Fused) -> str:
    """`paddings` are today's pads."""
    pads = np.asarray(f.attr("paddings"), np.int64)
    return e.Pad(f[0], pads, e.scalar_like(f.attr("value", 0.0), f[0]), mode=f.attr("mode", "constant"))


def _split(e: Emit, f: Fused) -> list[str]:
    """In equal parts where no sizes are given."""
    inputs, count, attrs = list[Any](f.node.input), len(f.node.output), {"axis": f.attr("axis", 0)}
    if f.attr("split") is not None:
        inputs = [f[0], np.asarray(f.attr("split"), np.int64)]
    elif len(inputs) == 1:
        attrs["num_outputs"] = count
    return e.node("Split", inputs, count, **attrs)


def _hardmax(e: Emit, f: Fused) -> str:
    """One 1 among all axes from `axis` on, as Softmax used to be."""
    return e.Reshape(e.Hardmax(e.Flatten(f[0], axis=f.attr("axis", 1)), axis=-1), e.Shape(f[0]))


def _group_normalization(e: Emit, f: Fused) -> str:
    """Scale and bias used to be one per group; each is repeated for the channels of its group."""
    groups = [f.attr("num_groups")]
    wide = e.Concat(groups, e.Div(e.Shape(f[0], start=1, end=2), groups), axis=0)
    columns = [e.Reshape(parameter, [*groups, 1]) for parameter in f.node.input[1:]]
    repeated = [e.Reshape(e.Expand(column, wide), [-1]) for column in columns]
    return e.GroupNormalization(f[0], *repeated, **f.attrs)


def _recurrent(e: Emit, f: Fused) -> None:
    """`output_sequence` said whether the first output is wanted, and a default direction was misspelt."""
    replace_all(f.node.attribute, [a for a in f.node.attribute if a.name != "output_sequence" and a.s != b"foward"])


# ---- Experimental operators, which ONNX dropped and onnxruntime still runs up to opset 9; others are in `unfuse` ----


def _crop(e: Emit, f: Fused) -> str:
    """(N, C, H, W) without `border` (left, top, right, bottom); `scale`, if any, is the height and width that stay."""
    left, top, right, bottom = f.attr("border")
    height, width = f.attr("scale", (0, 0))
    to_the_end = np.iinfo(np.int64).max
    ends = [top + height if height else -bottom or to_the_end, left + width if width else -right or to_the_end]
    return e.Slice(f[0], [top, left], ends, [2, 3])


def _mean_variance_normalization(e: Emit, f: Fused) -> Any:
    """y = (x − mean) / √var over each picture's (H, W), or (C, H, W) where `across_channels`."""
    if f.attr("axes") is not None:
        return NotImplemented
    axes = e.constant([1, 2, 3] if f.attr("across_channels", 0) else [2, 3])
    centred = e.Sub(f[0], e.ReduceMean(f[0], axes))
    if not f.attr("normalize_variance", 1):
        return centred
    return e.Div(centred, e.Sqrt(e.ReduceMean(e.Mul(centred, centred), axes)))


def _as_it_is(e: Emit, f: Fused) -> None:
    """onnxruntime had it, or wrote it (LayerNormalization), before it became a standard operator of that meaning."""


_TABLE: dict[str, tuple[int, Rewrite]] = {
    "BatchNormalization": (9, _batch_normalization),
    "Cast": (6, _cast),
    "Crop": (10, _crop),
    "GRU": (7, _recurrent),
    "GroupNormalization": (21, _group_normalization),
    "Hardmax": (13, _hardmax),
    "LSTM": (7, _recurrent),
    "MeanVarianceNormalization": (9, _mean_variance_normalization),
    "Pad": (2, _pad),
    "RNN": (7, _recurrent),
    "Split": (2, _split),
    **{op: (10, TABLE["", op]) for op in ("Affine", "ImageScaler", "ParametricSoftplus", "Scale", "ScaledTanh")},
}

ARITHMETIC = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_BY_CONVERTER = "an input today: by the converter"
# (attribute, operators or () for all, what becomes of it)
OLDER: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("consumed_inputs", (), "which inputs may be overwritten: dropped by the converter"),
    ("broadcast", ARITHMETIC, "set aside in `normalize`, which aligns the second operand"),
    ("axis", ARITHMETIC, "set aside in `normalize`, which aligns the second operand"),
    ("broadcast", ("Gemm",), "dropped by the converter: operands align at their last axes"),
    ("is_test", ("BatchNormalization", "Dropout"), "dropped: everything is read in its inference form"),
    ("spatial", ("BatchNormalization",), "`_batch_normalization`"),
    ("ratio", ("Dropout",), "dropped: nothing is dropped in inference"),
    ("to", ("Cast",), "`_cast` reads the name of a type"),
    ("min", ("Clip",), _BY_CONVERTER),
    ("max", ("Clip",), _BY_CONVERTER),
    ("axis", ("Concat",), "always written out today: by the converter"),
    ("value", ("Constant",), "lifted to an initializer, whichever attribute holds it"),
    ("axis", ("DFT",), _BY_CONVERTER),
    ("output_sequence", ("GRU", "LSTM", "RNN"), "`_recurrent`"),
    ("direction", ("GRU",), "`_recurrent`"),
    ("p", ("GlobalLpPool", "LpPool"), "a float that holds a whole number"),
    ("kernel_shape", ("LpPool",), "always written out today; without it there was no window"),
    ("mode", ("GridSample",), "(bi)linear and (bi)cubic: renamed by the converter"),
    ("axis", ("Hardmax",), "`_hardmax`"),
    ("axis", ("LogSoftmax", "Softmax"), "over all axes from there on: flattened by the converter"),
    ("paddings", ("Pad",), "`_pad`"),
    ("pads", ("Pad",), _BY_CONVERTER),
    ("value", ("Pad",), _BY_CONVERTER),
    ("axes", (*_REDUCTIONS, "Squeeze", "Unsqueeze"), _BY_CONVERTER),
    ("shape", ("Reshape",), _BY_CONVERTER),
    ("directions", ("Scan",), "refused: it ran over a batch then"),
    ("alpha", ("Selu",), "the first default had fewer digits: written out by the converter"),
    ("gamma", ("Selu",), "the first default had fewer digits: written out by the converter"),
    ("starts", ("Slice",), _BY_CONVERTER),
    ("ends", ("Slice",), _BY_CONVERTER),
    ("axes", ("Slice",), _BY_CONVERTER),
    ("axis", ("Split",), "`_split`"),
    ("split", ("Split",), "`_split`, and the converter from opset 2 on"),
    ("k", ("TopK",), _BY_CONVERTER),
    ("coordinate_transformation_mode", ("Resize", "RoiAlign"), "written out: set aside, and by the converter"),
    ("nearest_mode", ("Resize",), "written out where Resize-10 is set aside"),
)
