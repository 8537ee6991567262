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

from analyzer.graph.bodies import Names, bodies_of

Rewrite = Callable[["_Old"], list[onnx.NodeProto]]


class _Old:
    """A node to rewrite."""

    def __init__(self, node: onnx.NodeProto, names: Names, aside: str) -> None:
        self.node, self.names, self.aside = node, names, aside
        self.attrs: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def constant(self, values: Any, dtype: Any, name: str) -> str:
        return self.names.constant(np.asarray(values, dtype), f"{self.node.output[0]}/{name}")

    def make(self, op: str, inputs: list[str], outputs: list[str] | None = None, **attrs: Any) -> onnx.NodeProto:
        """A node of today; its output gets a name of its own where none is given."""
        outputs = outputs or [self.names.fresh(f"{self.node.output[0]}/{op}")]
        name = self.node.name if outputs[0] in self.node.output else outputs[0]
        return onnx.helper.make_node(op, inputs, outputs, name, domain=self.aside, **attrs)


def modernize(graph: onnx.GraphProto, version: int, aside: str) -> None:
    """Rewrites the nodes of `graph` and of its bodies that mean something else than today at opset `version`."""
    _modernize(graph, version, aside, Names(graph))


def _modernize(graph: onnx.GraphProto, version: int, aside: str, names: Names) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for body in bodies_of(node):
            _modernize(body, version, aside, names)
        before, rewrite = _TABLE.get(node.op_type, (0, _as_it_is))
        if not node.domain and (version < before or not _is_standard(node.op_type, version)):
            nodes += rewrite(_Old(node, names, aside))
        else:
            nodes.append(node)
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)


@functools.cache
def _is_standard(op: str, version: int) -> bool:
    return bool(onnx.defs.has(op, version, ""))


def _batch_normalization(old: _Old) -> list[onnx.NodeProto]:
    """y = g (x − m) / √(v + ε) + b, with a statistic per element where `spatial` is 0."""
    if old.attrs.get("spatial", 1):
        return [old.node]
    x, gain, bias, mean, variance = old.node.input
    epsilon = old.constant(old.attrs.get("epsilon", 1e-5), np.float32, "epsilon")
    eps = old.make("CastLike", [epsilon, variance])
    centred = old.make("Sub", [x, mean])
    safe = old.make("Add", [variance, eps.output[0]])
    root = old.make("Sqrt", [safe.output[0]])
    scale = old.make("Div", [gain, root.output[0]])
    product = old.make("Mul", [centred.output[0], scale.output[0]])
    return [eps, centred, safe, root, scale, product, old.make("Add", [product.output[0], bias], [old.node.output[0]])]


def _cast(old: _Old) -> list[onnx.NodeProto]:
    """The type used to be written out."""
    to = old.attrs["to"]
    kind = onnx.TensorProto.DataType.Value(to.decode()) if isinstance(to, bytes) else to
    return [old.make("Cast", list(old.node.input), list(old.node.output), to=kind)]


def _pad(old: _Old) -> list[onnx.NodeProto]:
    """`paddings` are today's pads."""
    pads = old.constant(old.attrs["paddings"], np.int64, "pads")
    value = old.make("CastLike", [old.constant(old.attrs.get("value", 0.0), np.float32, "value"), old.node.input[0]])
    mode = old.attrs.get("mode", b"constant").decode()
    return [value, old.make("Pad", [old.node.input[0], pads, value.output[0]], list(old.node.output), mode=mode)]


def _split(old: _Old) -> list[onnx.NodeProto]:
    """In equal parts where no sizes are given."""
    inputs, attrs = list(old.node.input), {"axis": old.attrs.get("axis", 0)}
    if "split" in old.attrs:
        inputs = [inputs[0], old.constant(old.attrs["split"], np.int64, "split")]
    elif len(inputs) == 1:
        attrs["num_outputs"] = len(old.node.output)
    return [old.make("Split", inputs, list(old.node.output), **attrs)]


def _hardmax(old: _Old) -> list[onnx.NodeProto]:
    """One 1 among all axes from `axis` on, as Softmax used to be."""
    size = old.make("Shape", [old.node.input[0]])
    rows = old.make("Flatten", [old.node.input[0]], axis=old.attrs.get("axis", 1))
    ones = old.make("Hardmax", [rows.output[0]], axis=-1)
    return [size, rows, ones, old.make("Reshape", [ones.output[0], size.output[0]], list(old.node.output))]


def _group_normalization(old: _Old) -> list[onnx.NodeProto]:
    """Scale and bias used to be one per group; each is repeated for the channels of its group."""
    x, *parameters = old.node.input
    groups = old.attrs["num_groups"]
    channels = old.make("Shape", [x], start=1, end=2)
    share = old.make("Div", [channels.output[0], old.constant([groups], np.int64, "groups")])
    wide = old.make("Concat", [old.constant([groups], np.int64, "rows"), share.output[0]], axis=0)
    nodes, repeated = [channels, share, wide], []
    for parameter in parameters:
        column = old.make("Reshape", [parameter, old.constant([groups, 1], np.int64, "column")])
        copies = old.make("Expand", [column.output[0], wide.output[0]])
        flat = old.make("Reshape", [copies.output[0], old.constant([-1], np.int64, "flat")])
        nodes += [column, copies, flat]
        repeated.append(flat.output[0])
    return [*nodes, old.make("GroupNormalization", [x, *repeated], list(old.node.output), **old.attrs)]


def _recurrent(old: _Old) -> list[onnx.NodeProto]:
    """`output_sequence` said whether the first output is wanted, and a default direction was misspelt."""
    attrs = {name: value for name, value in old.attrs.items() if name != "output_sequence" and value != b"foward"}
    return [old.make(old.node.op_type, list(old.node.input), list(old.node.output), **attrs)]


# ---- Experimental operators, which ONNX dropped and onnxruntime still runs up to opset 9 ----


def _affine(old: _Old) -> list[onnx.NodeProto]:
    """y = α x + β."""
    return _scaled(old, old.node.input[0], old.attrs.get("alpha", 1.0), old.attrs.get("beta", 0.0))


def _scale(old: _Old) -> list[onnx.NodeProto]:
    """y = s x."""
    return _scaled(old, old.node.input[0], old.attrs.get("scale", 1.0), 0.0)


def _image_scaler(old: _Old) -> list[onnx.NodeProto]:
    """y = s x + b, b one per channel of (N, C, H, W)."""
    bias = np.reshape(old.attrs.get("bias", [0.0]), (-1, 1, 1))
    return _scaled(old, old.node.input[0], old.attrs.get("scale", 1.0), bias)


def _around(op: str, old: _Old) -> list[onnx.NodeProto]:
    """y = α f(β x), f the operator `op`."""
    inner = _scaled(old, old.node.input[0], old.attrs.get("beta", 1.0), 0.0, "inner")
    node = old.make(op, [inner[-1].output[0]])
    return [*inner, node, *_scaled(old, node.output[0], old.attrs.get("alpha", 1.0), 0.0)]


def _scaled(old: _Old, x: str, factor: Any, offset: Any, name: str = "") -> list[onnx.NodeProto]:
    """Nodes of x · factor + offset; the last gives the output of the old node, or one called after `name`."""
    last = [old.names.fresh(f"{old.node.output[0]}/{name}")] if name else [old.node.output[0]]
    gain = old.make("CastLike", [old.constant(factor, np.float32, f"{name}factor"), x])
    if not np.any(offset):
        return [gain, old.make("Mul", [x, gain.output[0]], last)]
    shift = old.make("CastLike", [old.constant(offset, np.float32, f"{name}offset"), x])
    product = old.make("Mul", [x, gain.output[0]])
    return [gain, shift, product, old.make("Add", [product.output[0], shift.output[0]], last)]


def _crop(old: _Old) -> list[onnx.NodeProto]:
    """(N, C, H, W) without `border` (left, top, right, bottom); `scale`, if any, is the height and width that stay."""
    left, top, right, bottom = old.attrs["border"]
    height, width = old.attrs.get("scale", (0, 0))
    to_the_end = np.iinfo(np.int64).max
    ends = [top + height if height else -bottom or to_the_end, left + width if width else -right or to_the_end]
    operands = {"starts": [top, left], "ends": ends, "axes": [2, 3]}
    inputs = [old.constant(values, np.int64, name) for name, values in operands.items()]
    return [old.make("Slice", [old.node.input[0], *inputs], list(old.node.output))]


def _mean_variance_normalization(old: _Old) -> list[onnx.NodeProto]:
    """y = (x − mean) / √var over each picture's (H, W), or (C, H, W) where `across_channels`."""
    if "axes" in old.attrs:
        return [old.node]
    x, output = old.node.input[0], list(old.node.output)
    axes = old.constant([1, 2, 3] if old.attrs.get("across_channels", 0) else [2, 3], np.int64, "axes")
    mean = old.make("ReduceMean", [x, axes])
    if not old.attrs.get("normalize_variance", 1):
        return [mean, old.make("Sub", [x, mean.output[0]], output)]
    centred = old.make("Sub", [x, mean.output[0]])
    square = old.make("Mul", [centred.output[0], centred.output[0]])
    variance = old.make("ReduceMean", [square.output[0], axes])
    deviation = old.make("Sqrt", [variance.output[0]])
    return [
        mean,
        centred,
        square,
        variance,
        deviation,
        old.make("Div", [centred.output[0], deviation.output[0]], output),
    ]


def _as_it_is(old: _Old) -> list[onnx.NodeProto]:
    """onnxruntime had it, or wrote it (LayerNormalization), before it became a standard operator of that meaning."""
    return [old.make(old.node.op_type, list(old.node.input), list(old.node.output), **old.attrs)]


_TABLE: dict[str, tuple[int, Rewrite]] = {
    "Affine": (10, _affine),
    "BatchNormalization": (9, _batch_normalization),
    "Cast": (6, _cast),
    "Crop": (10, _crop),
    "GRU": (7, _recurrent),
    "GroupNormalization": (21, _group_normalization),
    "Hardmax": (13, _hardmax),
    "ImageScaler": (10, _image_scaler),
    "LSTM": (7, _recurrent),
    "MeanVarianceNormalization": (9, _mean_variance_normalization),
    "Pad": (2, _pad),
    "ParametricSoftplus": (10, functools.partial(_around, "Softplus")),
    "RNN": (7, _recurrent),
    "Scale": (10, _scale),
    "ScaledTanh": (10, functools.partial(_around, "Tanh")),
    "Split": (2, _split),
}

_ARITHMETIC = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_BY_CONVERTER = "an input today: by the converter"
# (attribute, operators or () for all, what becomes of it)
OLDER: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("consumed_inputs", (), "which inputs may be overwritten: dropped by the converter"),
    ("broadcast", _ARITHMETIC, "set aside in `normalize`, which aligns the second operand"),
    ("axis", _ARITHMETIC, "set aside in `normalize`, which aligns the second operand"),
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
