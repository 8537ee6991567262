"""A model of opset 21 said in an older opset, one row per operator that was written otherwise then.

`passes/newer` and `passes/legacy` go the other way. What no row changes stays as it is, if the older schema has the
operator, its attributes (or the node has their defaults), its inputs and their types. Everything else is refused by
name, with the opset that has it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.helper
from onnx import TensorProto, numpy_helper

from analyzer.errors import UnsupportedError
from analyzer.graph.nodes import fixed_sizes
from analyzer.graph.passes.newer import MEANINGS
from analyzer.graph.passes.unfuse.table import Emit, replace_outputs
from analyzer.graph.protos import Names, bodies_of, copied, opsets, replace_all
from analyzer.graph.schemas import implied_attributes, lookup

LOWEST = 9  # the first with Where, which every heatmap has
_LAST = np.iinfo(np.int64).max
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})


Size: TypeAlias = int | str | None


class RefusedError(Exception):
    """What of a node an older opset cannot say."""


@dataclass
class Tensors:
    """Element types, shapes (a symbol or None per open size) and small constants of a model, by name."""

    kinds: dict[str, int]
    shapes: dict[str, list[Size]]
    constants: dict[str, np.ndarray]

    @classmethod
    def of(cls, graph: onnx.GraphProto, stubs: Container[str], outer: Tensors | None = None) -> Tensors:
        """Those of a graph, and of the graph around it."""
        found = cls({}, {}, {}) if outer is None else cls(dict(outer.kinds), dict(outer.shapes), dict(outer.constants))
        for value in [*graph.value_info, *graph.input, *graph.output]:
            kind = value.type.tensor_type
            found.kinds[value.name] = kind.elem_type
            if kind.HasField("shape"):
                found.shapes[value.name] = [
                    d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim
                ]
        for tensor in graph.initializer:
            found.kinds[tensor.name], found.shapes[tensor.name] = tensor.data_type, list(tensor.dims)
            if tensor.name not in stubs:
                found.constants[tensor.name] = numpy_helper.to_array(tensor)
        return found


class Older:
    """A node to be said at `version`; the node is a copy that a row may change."""

    def __init__(self, node: onnx.NodeProto, version: int, tensors: Tensors) -> None:
        self.node, self.version, self.tensors = node, version, tensors
        self.attrs: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def __getitem__(self, index: int) -> str:
        return self.node.input[index] if index < len(self.node.input) else ""

    def attr(self, name: str) -> Any:
        """An attribute, by default that of opset 21."""
        found = self.attrs.get(name, implied_attributes(self.node.op_type, 21, "").get(name))
        return found.decode() if isinstance(found, bytes) else found

    def set(self, **attrs: Any) -> None:
        """Attributes of the node; None to drop one."""
        kept = [a for a in self.node.attribute if a.name not in attrs]
        new = [onnx.helper.make_attribute(name, value) for name, value in attrs.items() if value is not None]
        replace_all(self.node.attribute, [*kept, *new])

    def drop_inputs(self, start: int) -> None:
        del self.node.input[start:]

    def kind(self, index: int) -> int:
        """The element type of an input, 0 where it is not known."""
        return self.tensors.kinds.get(self[index], 0)

    def shape(self, index: int) -> list[Size] | None:
        return self.tensors.shapes.get(self[index])

    def rank(self, index: int = 0) -> int:
        shape = self.shape(index)
        if shape is None:
            raise RefusedError(f"the number of axes of {self[index]!r} is not known")
        return len(shape)

    def known(self, index: int, what: str) -> np.ndarray:
        """The constant that an input holds."""
        if self[index] not in self.tensors.constants:
            raise RefusedError(f"{what} computed when the model runs")
        return self.tensors.constants[self[index]]

    def number(self, value: float, index: int = 0) -> np.ndarray:
        """A scalar of the type of an input."""
        return np.asarray(value, onnx.helper.tensor_dtype_to_np_dtype(self.kind(index) or TensorProto.FLOAT))

    def axes(self, given: Sequence[Any], rank: int | None = None) -> list[int]:
        """Axes as the version takes them: negative ones came with opset 11."""
        if self.version >= 11 or min(given, default=0) >= 0:
            return [int(a) for a in given]
        rank = self.rank() if rank is None else rank
        return [int(a) % rank for a in given]


# The outputs that replace a node's; None for the node itself, changed or not.
Result: TypeAlias = str | list[str] | None
Row: TypeAlias = Callable[[Emit, Older], Result]
ROWS: dict[str, list[tuple[int, Row]]] = {}


def older(before: int, *ops: str) -> Callable[[Row], Row]:
    """Registers how `ops` are said in opsets before that one; of several rows the first that applies is taken."""

    def register(row: Row) -> Row:
        for op in ops:
            ROWS.setdefault(op, []).append((before, row))
            ROWS[op].sort(key=lambda entry: entry[0])
        return row

    return register


# ---- Inputs that were attributes ----


@older(18, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
       "ReduceProd", "ReduceSumSquare")  # fmt: skip
@older(13, "ReduceSum")
def _reduce(e: Emit, n: Older) -> Result:
    axes = n.known(1, "its axes are") if n[1] else np.zeros(0, np.int64)
    if not axes.size and n.attr("noop_with_empty_axes"):
        return e.Identity(n[0])
    n.drop_inputs(1)
    n.set(noop_with_empty_axes=None, axes=n.axes(axes.tolist()) if axes.size else None)
    return None


@older(13, "Squeeze", "Unsqueeze")
def _squeeze(e: Emit, n: Older) -> Result:
    if n[1]:
        axes = n.known(1, "its axes are").tolist()
        n.set(axes=n.axes(axes, None if n.node.op_type == "Squeeze" or min(axes) >= 0 else n.rank() + len(axes)))
    n.drop_inputs(1)
    return None


@older(18, "Split")
def _split(e: Emit, n: Older) -> Result:
    """Before opset 18 parts were equal where no sizes are given; before 13 the sizes are an attribute."""
    sizes, count, axis, shape = None, len(n.node.output), n.attr("axis"), n.shape(0)
    if n[1]:
        sizes = n.known(1, "its sizes are").tolist() if n.version < 13 else None
    elif shape is not None and isinstance(size := shape[axis], int) and size % count:
        part = -(-size // count)
        sizes = [min(part, size - part * i) for i in range(count)]
    n.set(num_outputs=None, axis=n.axes([axis])[0])
    if sizes is None:
        return None
    if n.version >= 13:
        return e.node("Split", [n[0], sizes], count, axis=axis)
    n.set(split=sizes)
    n.drop_inputs(1)
    return None


@older(11, "Slice")
def _slice(e: Emit, n: Older) -> Result:
    if n.version == 10:
        if n[3] and n.known(3, "its axes are").min() < 0:
            n.node.input[3] = e.constant(n.axes(n.known(3, "").tolist()))
        return None
    starts, ends = (n.known(i, "its bounds are").tolist() for i in (1, 2))
    if n[4] and set(n.known(4, "its steps are").tolist()) != {1}:
        raise RefusedError("its steps are not 1")
    axes = n.known(3, "its axes are").tolist() if n[3] else list(range(len(starts)))
    n.set(starts=starts, ends=ends, axes=n.axes(axes))
    n.drop_inputs(1)
    return None


@older(19, "Pad")
def _pad(e: Emit, n: Older) -> Result:
    """Before opset 18 every axis has its amounts; before 11 they are attributes."""
    if n.attr("mode") == "wrap":
        raise RefusedError("its mode is wrap")
    pads = n[1]
    if n[3] and n.version < 18:
        chosen = [a % n.rank() for a in n.known(3, "its axes are").tolist()]
        places = np.zeros(2 * n.rank(), np.int64)
        places[[*chosen, *(a + n.rank() for a in chosen)]] = np.arange(1, 2 * len(chosen) + 1)
        if pads in n.tensors.constants:
            pads = e.constant(np.concatenate([[0], n.tensors.constants[pads]])[places])
            n.tensors.constants[pads] = e.constants[pads]
        else:
            pads = e.Gather(e.Concat([0], pads, axis=0), places, axis=0)
        n.node.input[1] = pads
        n.drop_inputs(3)
    if n.version >= 11:
        return None
    value = float(n.known(2, "its value is")) if n[2] else 0.0
    n.set(pads=n.known(1, "its amounts are").tolist(), value=value)
    n.drop_inputs(1)
    return None


@older(11, "Clip")
def _clip(e: Emit, n: Older) -> Result:
    """Bounds that are computed are a Max and a Min."""
    bounds = [n.tensors.constants.get(n[i]) for i in (1, 2)]
    if n.kind(0) not in _FLOATS or any(n[i] and bounds[i - 1] is None for i in (1, 2)):
        return _clip_of_integers(e, n)
    n.set(**{name: float(b) for name, b in zip(("min", "max"), bounds, strict=True) if b is not None})
    n.drop_inputs(1)
    return None


@older(12, "Clip")
def _clip_of_integers(e: Emit, n: Older) -> Result:
    if n.version == 11 and n.kind(0) in _FLOATS:
        return None
    y = _like(n, e.Max(n[0], n[1])) if n[1] else n[0]
    return e.Min(y, n[2]) if n[2] else e.Identity(y)


@older(11, "TopK")
def _top_k(e: Emit, n: Older) -> Result:
    if n.version < 10:
        n.set(k=int(n.known(1, "its number is").item()))
        n.drop_inputs(1)
    return None


@older(20, "DFT")
def _dft(e: Emit, n: Older) -> Result:
    axis = int(n.known(2, "its axis is")) if n[2] else -2
    n.set(axis=axis % n.rank())
    n.drop_inputs(2)
    return None


# ---- Attributes that came later ----


@older(15, "Shape")
def _shape(e: Emit, n: Older) -> Result:
    start, end = n.attr("start"), n.attr("end")
    if not start and end is None:
        return None
    return e.Slice(e.Shape(n[0]), [start], [_LAST if end is None else end], [0])


@older(14, "Reshape")
def _reshape(e: Emit, n: Older) -> Result:
    """Which makes a difference only for tensors without elements."""
    n.set(allowzero=None)
    return None


@older(13, "Softmax", "LogSoftmax", "Hardmax")
def _softmax(e: Emit, n: Older) -> Result:
    """Used to be over all axes from `axis` on, so that axis has to be the last."""
    if n.attr("axis") == -1 and n.version >= 11:
        n.set(axis=-1)
        return None
    rank = n.rank()
    axis = n.attr("axis") % rank
    if axis == rank - 1:
        n.set(axis=axis)
        return None
    perm = [*(a for a in range(rank) if a != axis), axis]
    last = _like(n, e.Transpose(n[0], perm=perm), [n.shape(0)[a] for a in perm])  # type: ignore[index]
    result = getattr(e, n.node.op_type)(last, axis=rank - 1)
    return e.Transpose(result, perm=np.argsort(perm).tolist())


@older(13, "QuantizeLinear", "DequantizeLinear")
def _quantize(e: Emit, n: Older) -> Result:
    if set(n.shape(1) or [] if n.shape(1) is not None else [None]) - {1}:
        raise RefusedError("it has a scale per channel")
    n.set(axis=None)
    return None


@older(16, "RoiAlign")
def _roi_align(e: Emit, n: Older) -> Result:
    if n.attr("coordinate_transformation_mode") != "output_half_pixel":
        raise RefusedError("its coordinates are those of half pixels")
    n.set(coordinate_transformation_mode=None)
    return None


@older(20, "GridSample")
def _grid_sample(e: Emit, n: Older) -> Result:
    n.set(mode={"linear": "bilinear", "cubic": "bicubic"}.get(n.attr("mode"), n.attr("mode")))
    if n.rank() != 4:
        raise RefusedError("it samples volumes")
    return None


@older(19, "AveragePool")
@older(18, "LpPool")
@older(10, "MaxPool")
def _pool(e: Emit, n: Older) -> Result:
    if set(n.attrs.get("dilations", ())) <= {1}:
        n.set(dilations=None)
    return None


@older(11, "ArgMax", "ArgMin", "Concat", "Flatten")
def _axis(e: Emit, n: Older) -> Result:
    if n.attrs.get("axis", 0) < 0:
        n.set(axis=n.axes([n.attrs["axis"]])[0])
    return None


@older(11, "Gather")
def _gather(e: Emit, n: Older) -> Result:
    """Negative indices count from the end since opset 11."""
    axis, indices = n.attr("axis"), n.tensors.constants.get(n[1])
    n.set(axis=n.axes([axis])[0])
    if indices is not None and (indices < 0).any():
        size = (n.shape(0) or [None] * (abs(axis) + 1))[axis]
        if not isinstance(size, int):
            raise RefusedError("it counts from the end of an axis of open size")
        n.node.input[1] = e.constant(np.where(indices < 0, indices + size, indices))
    return None


@older(11, "OneHot")
def _one_hot(e: Emit, n: Older) -> Result:
    if n[0] in n.tensors.constants and (n.tensors.constants[n[0]] < 0).any():
        raise RefusedError("its indices count from the end")
    return None


@older(11, "ScatterElements")
def _scatter(e: Emit, n: Older) -> Result:
    if n.attr("reduction") != "none":
        return None
    return e.Scatter(n[0], n[1], n[2], axis=n.axes([n.attr("axis")])[0])


@older(11, "Gemm")
def _gemm(e: Emit, n: Older) -> Result:
    if not n[2]:
        n.node.input[2:] = [e.constant(n.number(0).reshape(1))]
    return None


# ---- Types that came later ----


@older(12, "Max", "Min")
def _extremum(e: Emit, n: Older) -> Result:
    """Of integers, pair by pair."""
    if n.kind(0) in _FLOATS or not n.kind(0):
        return None
    found = n[0]
    for other in n.node.input[1:]:
        chosen = e.Greater(found, other) if n.node.op_type == "Max" else e.Less(found, other)
        _like(n, chosen, kind=TensorProto.BOOL)
        found = _like(n, e.Where(chosen, found, other), ())
    return found if found != n[0] else e.Identity(found)


@older(11, "Equal")
def _equal(e: Emit, n: Older) -> Result:
    """Of numbers: neither is greater, and none is NaN."""
    if n.kind(0) not in _FLOATS:
        return None
    apart = [e.Greater(n[0], n[1]), e.Less(n[0], n[1]), e.IsNaN(n[0]), e.IsNaN(n[1])]
    return e.Not(functools.reduce(e.Or, apart))


@older(12, "GreaterOrEqual", "LessOrEqual")
def _or_equal(e: Emit, n: Older) -> Result:
    strictly = e.Greater if n.node.op_type == "GreaterOrEqual" else e.Less
    return e.Or(strictly(n[0], n[1]), e.Equal(n[0], n[1]))


@older(12, "Pow")
def _pow(e: Emit, n: Older) -> Result:
    if n.kind(0) and n.kind(1) != n.kind(0):
        return e.Pow(n[0], _like(n, e.Cast(n[1], to=n.kind(0)), n.shape(1)))
    return None


@older(15, "CastLike")
def _cast_like(e: Emit, n: Older) -> Result:
    if not n.kind(1):
        raise RefusedError("the type it imitates is not known")
    return e.Cast(n[0], to=n.kind(1))


# ---- Resize ----


@older(19, "Resize")
def _resize(e: Emit, n: Older) -> Result:
    """Without axes before opset 18; with a roi and scales, if empty, before 13; of scales alone before 11."""
    if n.attr("antialias") or n.attr("keep_aspect_ratio_policy") != "stretch":
        if n.version < 18:
            raise RefusedError("it filters against aliasing or keeps the aspect ratio")
        return None
    if n.version < 18 and n.attrs.get("axes") is not None:
        raise RefusedError("it names its axes")
    if n.version < 11:
        return _resize_by_scales(e, n)
    if n.version < 13:
        inputs = [n[i] for i in range(4 if n[3] else 3)]
        inputs[1:3] = [name or e.constant(np.zeros(0, np.float32)) for name in inputs[1:3]]
        replace_all(n.node.input, [])
        n.node.input.extend(inputs)
    return None


def _resize_by_scales(e: Emit, n: Older) -> Result:
    """A Resize or Upsample where x_out / scale is meant, else products with the weights of every axis."""
    scales = n.tensors.constants.get(n[2]) if n[2] else _scales(n)
    if scales is None or not scales.size:
        raise RefusedError("its sizes are computed when the model runs")
    mode, coordinates = n.attr("mode"), n.attr("coordinate_transformation_mode")
    whole = (scales == np.round(scales)).all()
    if coordinates == "asymmetric" and whole and (mode == "linear" or (mode, n.attr("nearest_mode")) == _FLOOR):
        op = "Resize" if n.version == 10 else "Upsample"
        return e.node(op, [n[0], scales.astype(np.float32)], mode=mode)[0]
    if coordinates == "tf_crop_and_resize" or mode == "cubic":
        raise RefusedError("it crops, or is cubic")
    return _resize_by_products(e, n, scales)


_FLOOR = ("nearest", "floor")


def _scales(n: Older) -> np.ndarray | None:
    """What the axes grow by, where the sizes are known or stay."""
    before, after = n.shape(0), n.tensors.shapes.get(n.node.output[0])
    if before is None or after is None:
        return None
    pairs = list(zip(before, after, strict=True))
    if any((a != b and not (isinstance(a, int) and isinstance(b, int))) or None in (a, b) for a, b in pairs):
        return None
    return np.array([b / a if isinstance(a, int) and isinstance(b, int) else 1.0 for a, b in pairs])


def _resize_by_products(e: Emit, n: Older, scales: np.ndarray) -> str:
    """Linear along each axis: a product with what the operator makes of a unit matrix."""
    found, before, after, rank = n[0], n.shape(0), n.tensors.shapes.get(n.node.output[0]), n.rank()
    for axis in (scales != 1).nonzero()[0].tolist():
        sizes = fixed_sizes((before[axis], after[axis])) if before is not None and after is not None else None
        if sizes is None:
            raise RefusedError("its sizes are open")
        weights = e.constant(_axis_weights(n, sizes, float(scales[axis])).astype(n.number(0).dtype))
        if axis == rank - 1:
            found = e.MatMul(found, weights)
        else:
            perm = [*(a for a in range(rank) if a != axis), axis]
            found = e.Transpose(e.MatMul(e.Transpose(found, perm=perm), weights), perm=np.argsort(perm).tolist())
    return found if found != n[0] else e.Identity(found)


def _axis_weights(n: Older, sizes: Sequence[int], scale: float) -> np.ndarray:
    """(size, new size): each row is what the operator makes of a picture that is 1 at one place."""
    from onnx.reference import ReferenceEvaluator

    names = ("mode", "coordinate_transformation_mode", "nearest_mode")
    by_scale = n[2] and n.attr("coordinate_transformation_mode") != "align_corners"  # which depends on sizes alone
    given = ["x", "", "scales"] if by_scale else ["x", "", "", "sizes"]
    node = onnx.helper.make_node("Resize", given, ["y"], **{name: n.attr(name) for name in names})
    x, y = (onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    constants: dict[str, np.ndarray] = {"scales": np.array([1, scale], np.float32), "sizes": np.array(sizes, np.int64)}
    graph = onnx.helper.make_graph(
        [node], "axis", [x], [y], [numpy_helper.from_array(array, name) for name, array in constants.items()]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    found: Any = ReferenceEvaluator(model).run(None, {"x": np.eye(sizes[0], dtype=np.float32)})
    return np.asarray(found[0])


# ---- Operators that came later ----


@older(11, "Range")
def _range(e: Emit, n: Older) -> Result:
    """From 0 in steps of 1: where a vector of ones is not 0."""
    if n.known(2, "its step is") != 1 or n.kind(0) != TensorProto.INT64:
        raise RefusedError("it does not count by one")
    count = n[1] if not n.known(0, "its start is").any() else e.Sub(n[1], n[0])
    one = numpy_helper.from_array(np.ones(1, np.int64))
    line = e.Squeeze(e.NonZero(e.ConstantOfShape(e.Unsqueeze(count, [0]), value=one)), [0])
    return line if count == n[1] else e.Add(line, n[0])


@older(17, "LayerNormalization")
def _layer_normalization(e: Emit, n: Older) -> Result:
    """y = (x − mean) / √(var + ε) g + b"""
    if any(n.node.output[1:]):
        raise RefusedError("its statistics are read")
    axes = list(range(n.attr("axis") % n.rank(), n.rank()))
    centered = e.Sub(n[0], e.ReduceMean(n[0], axes, keepdims=1))
    variance = e.ReduceMean(e.Mul(centered, centered), axes, keepdims=1)
    y = e.Mul(e.Div(centered, e.Sqrt(e.Add(variance, n.number(n.attr("epsilon"))))), n[1])
    return e.Add(y, n[2]) if n[2] else y


@older(18, "GroupNormalization")
def _group_normalization(e: Emit, n: Older) -> Result:
    """As LayerNormalization, over each group of channels; scale and bias are per channel."""
    rank = n.rank()
    grouped = e.Reshape(n[0], [0, n.attr("num_groups"), -1])
    centered = e.Sub(grouped, e.ReduceMean(grouped, [2], keepdims=1))
    variance = e.ReduceMean(e.Mul(centered, centered), [2], keepdims=1)
    y = e.Div(centered, e.Sqrt(e.Add(variance, n.number(n.attr("epsilon")))))
    scale, bias = (e.Reshape(n[i], [1, -1, *[1] * (rank - 2)]) for i in (1, 2))
    return e.Add(e.Mul(e.Reshape(y, e.Shape(n[0])), scale), bias)


@older(20, "Gelu")
def _gelu(e: Emit, n: Older) -> Result:
    """x Φ(x), Φ by erf or its approximation by tanh"""
    x = n[0]
    if n.attr("approximate") == "tanh":
        cube = e.Mul(e.Mul(x, x), e.Mul(x, n.number(0.044715)))
        inner = e.Tanh(e.Mul(e.Add(x, cube), n.number(np.sqrt(2 / np.pi))))
    else:
        inner = e.Erf(e.Mul(x, n.number(np.sqrt(0.5))))
    return e.Mul(e.Mul(x, n.number(0.5)), e.Add(inner, n.number(1)))


@older(14, "HardSwish")
def _hard_swish(e: Emit, n: Older) -> Result:
    return e.Mul(n[0], e.HardSigmoid(n[0], alpha=1 / 6, beta=0.5))


@older(18, "Mish")
def _mish(e: Emit, n: Older) -> Result:
    return e.Mul(n[0], e.Tanh(e.Softplus(n[0])))


@older(12, "Celu")
def _celu(e: Emit, n: Older) -> Result:
    """α Elu(x / α)"""
    alpha = n.number(n.attr("alpha"))
    return e.Mul(e.Elu(e.Div(n[0], alpha)), alpha)


@older(10, "ThresholdedRelu")
def _thresholded_relu(e: Emit, n: Older) -> Result:
    return e.Where(e.Greater(n[0], n.number(n.attr("alpha"))), n[0], n.number(0))


def _like(n: Older, name: str, shape: Sequence[Size] | None = None, kind: int | None = None) -> str:
    """A tensor that was made, of the type of the first input, and of its shape unless another is given."""
    n.tensors.kinds[name] = n.kind(0) if kind is None else kind
    known = n.shape(0) if shape is None else list(shape)
    if known is not None:
        n.tensors.shapes[name] = known
    return name


# ---- The versions of a file ----


def return_to(
    proto: onnx.ModelProto, opset: int, ir_version: int, stubs: Container[str] = (), exactly: bool = False
) -> list[Need]:
    """Rewrites a model of opset 21 in place for an opset and an IR version, or the first newer ones that can say it.

    A newer opset is only named: all that opset 21 has means the same there, with the exceptions in `newer`.

    Args:
        proto: with the types of its tensors.
        ir_version: that of a file of this opset; 0 for the first that has the opset.
        stubs: names of initializers whose values are elsewhere.
        exactly: no other opset will do.

    Returns:
        The nodes that need a newer opset than was asked for.

    Raises:
        UnsupportedError: with `exactly`, names the nodes that need a newer opset, and which one.
    """
    now, needs = opsets(proto)[""], list[Need]()
    if opset < now:
        wanted = max(opset, LOWEST) if not exactly else opset
        needs = lower(proto, wanted, stubs, exactly)
    elif changed := [node for node in proto.graph.node if _changed(node, now, opset)]:
        if exactly:
            raise UnsupportedError(f"{_called(changed[0])} means something else at opset {opset}", f"use --opset {now}")
    else:
        _import(proto, opset)
    least = onnx.helper.find_min_ir_version_for(list(proto.opset_import), True)
    ir_version = ir_version if ir_version and opsets(proto)[""] == opset else least
    kinds = {t.data_type for t in proto.graph.initializer}
    proto.ir_version = max(ir_version, _INITIALIZERS_ARE_NO_INPUTS, *(_NEWER_TYPES.get(kind, 0) for kind in kinds))
    return needs


_INITIALIZERS_ARE_NO_INPUTS = 4
_NEWER_TYPES = {
    **dict.fromkeys((TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2), 9),
    **dict.fromkeys((TensorProto.FLOAT8E5M2FNUZ,), 9),
    **dict.fromkeys((TensorProto.INT4, TensorProto.UINT4), 10),
}


def _changed(node: onnx.NodeProto, now: int, version: int) -> bool:
    """Whether an operator means something else in a newer opset."""
    rows = [(since, row) for (op, since), row in MEANINGS.items() if op == node.op_type and not node.domain]
    return any(now < since <= version and row.rewrite is not None for since, row in rows)


def _import(proto: onnx.ModelProto, version: int) -> None:
    for imported in proto.opset_import:
        if not imported.domain:
            imported.version = version


# ---- The walk ----


@dataclass(frozen=True)
class Need:
    """A node that an opset cannot say, and the first one after it that can."""

    opset: int
    node: str
    why: str

    def __str__(self) -> str:
        return f"{self.node} needs opset {self.opset}: {self.why}"


def lower(proto: onnx.ModelProto, version: int, stubs: Container[str] = (), exactly: bool = False) -> list[Need]:
    """Rewrites a model in place for an older opset, or the first after it that can say the model.

    Returns, raises: as `return_to`.
    """
    needs, wanted = list[Need](), version
    while (found := _Lowering(proto, version, stubs)).needs:
        version = max(need.opset for need in found.needs)
        needs = needs + found.needs
    if needs and exactly:
        listed = "; ".join(dict.fromkeys(map(str, needs)))
        raise UnsupportedError(f"opset {wanted} is too old for this model: {listed[:600]}", f"use --opset {version}")
    found.commit()
    return needs


class _Lowering:
    """The nodes of a model and its bodies at an opset; nothing is changed before `commit`."""

    def __init__(self, proto: onnx.ModelProto, version: int, stubs: Container[str]) -> None:
        self.proto, self.version = proto, version
        self.now = opsets(proto)[""]
        self.names, self.constants = Names(proto.graph), list[onnx.TensorProto]()
        self.needs: list[Need] = []
        self.nodes = self._graph(proto.graph, Tensors.of(proto.graph, stubs))

    def commit(self) -> None:
        replace_all(self.proto.graph.node, self.nodes)
        self.proto.graph.initializer.extend(self.constants)
        _import(self.proto, self.version)

    def _graph(self, graph: onnx.GraphProto, tensors: Tensors) -> list[onnx.NodeProto]:
        nodes = list[onnx.NodeProto]()
        for node in graph.node:
            try:
                nodes += self._said(node, tensors, self.version)
            except RefusedError as error:
                self.needs.append(self._need(node, tensors, str(error)))
        return nodes

    def _said(self, node: onnx.NodeProto, tensors: Tensors, version: int) -> list[onnx.NodeProto]:
        """The nodes that say the same at `version`."""
        node = copied(node)
        for body in bodies_of(node):
            replace_all(body.node, self._graph(body, Tensors.of(body, (), tensors)))
        if node.domain or version >= self.now:
            return [node]
        row = next((row for before, row in ROWS.get(node.op_type, ()) if version < before), None)
        emit, old = Emit(self.names.fresh(f"{node.output[0]}/{node.op_type}")), Older(node, version, tensors)
        results = None if row is None else row(emit, old)
        for name, array in emit.constants.items():
            tensor = numpy_helper.from_array(array, name)
            tensors.kinds[name], tensors.shapes[name] = tensor.data_type, list(array.shape)
            tensors.constants[name] = array
            self.constants.append(tensor)
        if results is None:
            _check(node, self.now, version, tensors)
            return [*emit.nodes, node]
        replace_outputs(emit, results, node)
        return [said for made in emit.nodes for said in self._said(made, tensors, version)]

    def _need(self, node: onnx.NodeProto, tensors: Tensors, why: str) -> Need:
        """The first opset that can say the node, and what the one before cannot."""
        version = self.version + 1
        while version < self.now:
            try:
                self._said(node, tensors, version)
                break
            except RefusedError as error:
                version, why = version + 1, str(error)
        return Need(version, _called(node), why)


def _called(node: onnx.NodeProto) -> str:
    return f"{node.op_type} ({node.name or node.output[0]})"


def _check(node: onnx.NodeProto, now: int, version: int, tensors: Tensors) -> None:
    """Drops attributes at their defaults that came later.

    Raises:
        RefusedError: the schema of `version` does not have what the node says.
    """
    schema = lookup(node.op_type, version)
    if schema is None or (schema.deprecated and node.op_type not in ("Scatter", "Upsample")):
        raise RefusedError("the operator came with it")
    defaults = implied_attributes(node.op_type, now, "")
    kept = []
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        value = value.decode() if isinstance(value, bytes) else value
        if attribute.name in schema.attributes:
            kept.append(attribute)
        elif defaults.get(attribute.name) != value:
            raise RefusedError(f"its attribute {attribute.name!r} came with it")
    replace_all(node.attribute, kept)
    if not schema.min_input <= len(node.input) <= schema.max_input or len(node.output) > schema.max_output:
        raise RefusedError("it had another number of inputs or outputs")
    for parameters, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for kind, formal in _typed(parameters, names, tensors):
            if not _allows(schema, formal, kind):
                raise RefusedError(f"{formal.name} of type {TensorProto.DataType.Name(kind).lower()} came with it")


def _typed(parameters: Any, names: Sequence[str], tensors: Tensors) -> Iterator[tuple[int, Any]]:
    """(element type, formal parameter) of those whose type is known."""
    for index, name in enumerate(names):
        if tensors.kinds.get(name):
            yield tensors.kinds[name], parameters[min(index, len(parameters) - 1)]


def _allows(schema: onnx.defs.OpSchema, formal: Any, kind: int) -> bool:
    named = next((c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == formal.type_str), None)
    return f"tensor({TensorProto.DataType.Name(kind).lower()})" in (named or [formal.type_str])
