"""Appends nodes to a graph: `op.Mul(a, b)` is a Mul node, typed, shaped and constant-folded on the way.

Rules and recipes write maths with it. What they would all repeat lives here: the type of a constant, a shape that
is known only when the model runs, an operation that would do nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast, overload

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import dtype_to_onnx

from analyzer.errors import refusing
from analyzer.graph.inference import BFLOAT16, infer
from analyzer.graph.ir import Graph
from analyzer.graph.nodes import Node, Value, fixed_sizes, known_shape
from analyzer.graph.scope import Scope
from analyzer.graph.values import evaluate

FLOATS = (np.float16, np.float32, np.float64)


class Builder:
    """`builder.<Operator>(*inputs, outputs=1, **attributes)` appends a node and returns its output(s).

    An input may be a Value, None (an omitted optional input), a NumPy array or scalar (a constant as it is), a list
    or tuple of ints (an int64 constant), or a Python number (a constant of the first non-boolean Value's type).

    What was already computed is not computed again: equal nodes are one node, so that methods, layers and targets
    over one graph share whatever they have in common.
    """

    def __init__(self, graph: Scope, prefix: str = "vjp") -> None:
        self.graph = cast(Graph, graph)  # what is built in a body sees no more of it than of a Scope
        self.prefix = prefix
        self._constants: dict[Any, gs.Constant] = {}
        self._shared: dict[Any, Any] = {}
        self._count = 0

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if not op[:1].isupper():
            raise AttributeError(op)
        return functools.partial(self.node, op)

    def node(self, op: str, *inputs: Any, outputs: int = 1, **attrs: Any) -> Any:
        """Append a node; a Value, or a tuple of them where `outputs` is above 1.

        Raises:
            UnsupportedError: the inputs do not fit the operator.
        """
        with refusing(f"{self.graph.name}: a node {op} of {_named(inputs)} cannot be appended"):
            return self._appended(op, inputs, outputs, attrs)

    def _appended(self, op: str, inputs: Sequence[Any], outputs: int, attrs: dict[str, Any]) -> Any:
        like = next((i for i in inputs if isinstance(i, gs.Tensor) and i.dtype != np.dtype(bool)), None)
        values = [self.value(i, like) for i in inputs]
        if op == "Pad" and attrs.get("mode", "constant") == "constant" and not self._is_positive(values[1]):
            return self._pad_and_cut(*values)
        if op == "Pad" and len(values) == 4 and values[3] is not None:
            values = self._over_all_axes(values)
        while values and values[-1] is None:
            values.pop()
        if outputs == 1:
            done = self._simplify(op, values, attrs) or self._fold(op, values, attrs)
            if done is not None:
                return done
        key = _key(op, outputs, values, attrs)
        if key is not None and key in self._shared:
            return self._shared[key]
        name = self._name(op)
        names = [name] if outputs == 1 else [f"{name}:{i}" for i in range(outputs)]
        results = [gs.Variable(n) for n in names]
        given = [gs.Variable.empty() if v is None else v for v in values]
        node = Node(op, name, attrs, given, results)
        for result, (dtype, shape) in zip(results, self._infer(node), strict=False):
            result.dtype, result.shape = dtype, shape
        self.graph.append(node)
        found = results[0] if outputs == 1 else tuple(results)
        if key is not None:
            self._shared[key] = found
        return found

    def control(
        self, op: str, inputs: Sequence[Value | None], kinds: Sequence[tuple[Any, Any]], **attrs: Any
    ) -> list[Value]:
        """Append a node with bodies; its outputs, of the types and shapes `kinds`."""
        name = self._name(op)
        results: list[Value] = [gs.Variable(f"{name}:{i}" if i else name, *kind) for i, kind in enumerate(kinds)]
        given = [gs.Variable.empty() if v is None else v for v in inputs]
        self.graph.append(Node(op, name, attrs, given, results))
        return results

    def _name(self, op: str) -> str:
        self._count += 1
        while f"{self.prefix}/{op}_{self._count}:0" in self.graph.values:
            self._count += 1
        return self.graph.fresh(f"{self.prefix}/{op}_{self._count}")

    # ---- Constants ----

    @overload
    def value(self, given: None, like: Value | None = None) -> None: ...

    @overload
    def value(self, given: object, like: Value | None = None) -> Value: ...

    def value(self, given: Any, like: Value | None = None) -> Value | None:
        """`given` as a Value: see the class."""
        if given is None or isinstance(given, gs.Tensor):
            return given
        if isinstance(given, np.ndarray | np.generic):
            return self.constant(np.asarray(given))
        if isinstance(given, list | tuple):
            return self.constant(np.asarray(given, np.int64))
        return self.scalar(given, like)

    def constant(self, array: np.ndarray, name: str = "constant") -> Value:
        """A constant tensor; equal small ones, and equal ones of one name, are shared. A view stays one."""
        small = array.nbytes <= 1024
        key = (array.dtype.str, array.shape, array.tobytes() if small else name)
        known = self._constants.get(key)
        if known is not None and (small or np.array_equal(known.values, array)):
            return known
        self._constants[key] = self.graph.add_weight(self.graph.fresh(f"{self.prefix}/{name}"), array)
        return self._constants[key]

    def scalar(self, number: float, like: Value | None = None) -> Value:
        """A constant scalar of the element type of `like` (float32 without one)."""
        dtype = np.dtype(np.float32) if like is None else like.dtype
        if dtype == BFLOAT16:
            return self.cast(self.constant(np.asarray(number, np.float32)), BFLOAT16)
        return self.constant(np.asarray(number, dtype))

    def const(self, value: Value | None) -> np.ndarray | None:
        """The array that `value` is known to hold before the model runs, else None."""
        return None if value is None else self.graph.constant(value)

    # ---- Shapes that may be known only when the model runs ----

    def rank(self, value: Value) -> int:
        """Number of axes; UnsupportedError where not even that is known."""
        return len(known_shape(value))

    def dim(self, value: Value, axis: int) -> int | None:
        """Size of an axis where it is fixed, else None."""
        size = None if value.shape is None else value.shape[axis]
        return size if isinstance(size, int) else None

    def static(self, value: Value) -> tuple[int, ...] | None:
        """The shape where all of it is fixed, else None."""
        return fixed_sizes(value.shape)

    def shape(self, value: Value, start: int | None = None, end: int | None = None) -> Value:
        """The shape as an int64 vector: a constant where it is fixed, else computed at run time."""
        if value.shape is not None:
            part = value.shape[slice(start, end)]
            if all(isinstance(d, int) for d in part):
                return self.constant(np.asarray(part, np.int64))
        return self.node("Shape", value, **{k: v for k, v in (("start", start), ("end", end)) if v is not None})

    def size(self, value: Value, axes: Sequence[int] | None = None) -> Value:
        """Number of elements along `axes` (all when None), as a scalar of the value's own type."""
        if axes is None and value.shape is None:
            return self.cast(self.ReduceProd(self.Shape(value), keepdims=0), value.dtype)
        axes = range(self.rank(value)) if axes is None else axes
        sizes = fixed_sizes([self.dim(value, a) for a in axes])
        if sizes is not None:
            return self.scalar(math.prod(sizes), value)
        picked = self.Gather(self.shape(value), np.asarray([a % self.rank(value) for a in axes], np.int64), axis=0)
        return self.cast(self.ReduceProd(picked, keepdims=0), value.dtype)

    def same_shape(self, a: Value, b: Value) -> bool:
        """Whether both are known to have the same shape, symbols included."""
        return a.shape is not None and b.shape is not None and list(a.shape) == list(b.shape) and None not in a.shape

    def reshape_like(self, value: Value, model: Value) -> Value:
        """`value` with the shape of `model`, which has as many elements."""
        if self.same_shape(value, model):
            return value
        empty = model.shape is not None and 0 in model.shape
        return self.shaped_as(self.Reshape(value, self._reshape_target(model), allowzero=int(empty)), model)

    def _reshape_target(self, model: Value) -> Value:
        """The shape of `model`; one unknown axis can be written as -1, which saves the Shape node."""
        if model.shape is not None:
            unknown = [i for i, d in enumerate(model.shape) if not isinstance(d, int)]
            if len(unknown) == 1 and 0 not in model.shape:
                return self.constant(np.array([d if isinstance(d, int) else -1 for d in model.shape], np.int64))
        return self.shape(model)

    def expand_like(self, value: Value, model: Value) -> Value:
        """`value` broadcast to the shape of `model`."""
        if self.same_shape(value, model):
            return value
        return self.shaped_as(self.Expand(value, self.shape(model)), model)

    def shaped_as(self, value: Value, model: Value) -> Value:
        """`value`, of which the caller knows that it has the shape of `model`."""
        if model.shape is not None and not self.static(value):
            value.shape = model.shape
        return value

    def zeros_like(self, model: Value, like: Value | None = None) -> Value:
        """Zeros shaped as `model` and typed as `like` (as `model` without one)."""
        return self.expand_like(self.scalar(0, model if like is None else like), model)

    def ones_like(self, model: Value) -> Value:
        """Ones shaped and typed as `model`."""
        return self.expand_like(self.scalar(1, model), model)

    def sum_to(self, value: Value, model: Value) -> Value:
        """The adjoint of broadcasting `model` to the shape of `value`: sum over the axes that were stretched."""
        if self.same_shape(value, model):
            return value
        if value.shape is None or model.shape is None:
            return self._sum_to_at_run_time(value, model)
        lead = len(value.shape) - len(model.shape)
        axes, unsure = list(range(lead)), list[int]()
        for axis, size in enumerate(model.shape):
            other = value.shape[lead + axis]
            if size == 1 and other != 1:
                axes.append(lead + axis)
            elif not isinstance(size, int) and (size is None or size != other):
                unsure.append(lead + axis)
        if axes:
            value = self.ReduceSum(value, axes, keepdims=1)
        if unsure:
            return self._sum_where_stretched(value, model, lead, unsure)
        return self.reshape_like(value, model) if lead else value

    def _sum_where_stretched(self, value: Value, model: Value, lead: int, axes: Sequence[int]) -> Value:
        """Sums over those axes that the model's size, known only when it runs, says were stretched from 1: an axis of n
        that was m is one of n / m, over which is summed, and one of m."""
        wide, narrow = self.shape(value), self.shape(model)
        parts, over = list[Value](), list[int]()
        for axis in range(lead, self.rank(value)):
            size = self.Slice(narrow, [axis - lead], [axis - lead + 1])
            if axis in axes:
                over.append(len(parts))
                parts.append(self.Div(self.Slice(wide, [axis], [axis + 1]), self.Max(size, [1])))
            parts.append(size)
        split = self.Reshape(value, self.Concat(*parts, axis=0), allowzero=1)
        return self.shaped_as(self.ReduceSum(split, over, keepdims=0), model)

    def _sum_to_at_run_time(self, value: Value, model: Value) -> Value:
        """Sums over the axes where `model`, its shape padded with leading ones, has 1 and `value` has not."""
        wide, narrow = self.shape(value), self.shape(model)
        missing = self.Sub(self.Shape(wide), self.Shape(narrow))
        padded = self.Concat(self.Expand(np.array([1], np.int64), missing), narrow, axis=0)
        stretched = self.Not(self.Equal(padded, wide))
        axes = self.Squeeze(self.NonZero(stretched), [0])
        result = self.Reshape(self.ReduceSum(value, axes, keepdims=1, noop_with_empty_axes=1), narrow)
        result.shape, result.dtype = model.shape, value.dtype
        return result

    # ---- Types ----

    def cast(self, value: Value, dtype: Any) -> Value:
        """`value` as `dtype`; itself where it already is."""
        if value.dtype == dtype:
            return value
        known = self.const(value)
        if known is not None and known.size <= 64 and dtype != BFLOAT16 and not isinstance(dtype, int):
            return self.constant(known.astype(dtype))
        result = self.node("Cast", value, to=dtype_to_onnx(dtype))
        result.dtype, result.shape = dtype, value.shape
        return result

    # ---- Inference and folding ----

    def _simplify(self, op: str, values: list[Value | None], attrs: dict[str, Any]) -> Value | None:
        """The result of an operation that would do nothing, else None."""
        first = values[0] if values else None
        if first is None:
            return None
        if op in ("Mul", "Div") and self._is(values[1], 1):
            return first if _keeps_shape(first, values[1]) else None
        if op == "Mul" and self._is(first, 1):
            return values[1] if _keeps_shape(values[1], first) else None
        if op in ("Add", "Sub") and self._is(values[1], 0):
            return first if _keeps_shape(first, values[1]) else None
        if op == "Transpose" and list(attrs.get("perm", ())) == list(range(len(first.shape or ()))):
            return first if first.shape is not None else None
        if op == "Reshape":
            target = self.const(values[1])
            if target is not None and self.static(first) == tuple(target.tolist()):
                return first
        if op == "Pad":
            pads = self.const(values[1])
            if pads is not None and not pads.any():
                return first
        if op == "Concat" and len(values) == 1:
            return first
        if op == "ReduceMean" and attrs.get("keepdims", 1):
            return self._unrepeated(first, self.const(values[1]) if len(values) > 1 else None)
        if op == "Identity":
            return first
        return None

    def _unrepeated(self, value: Value, axes: np.ndarray | None) -> Value | None:
        """The mean over `axes` of what an Expand repeated along these alone: what it repeated."""
        producer = self.graph.producer(value)
        if axes is None or producer is None or producer.op != "Expand" or producer.domain:
            return None
        source, wide = self.static(producer.inputs[0]), self.static(value)
        if source is None or wide is None or len(source) != len(wide):
            return None
        over = {int(a) % len(wide) for a in axes}
        return (
            producer.inputs[0]
            if all(s == (1 if i in over else w) for i, (s, w) in enumerate(zip(source, wide, strict=True)))
            else None
        )

    def _fold(self, op: str, values: list[Value | None], attrs: dict[str, Any]) -> Value | None:
        """A constant where small constants or known sizes are all that is read, else None."""
        if op == "Cast":
            return None
        for value in values:
            if value is None:
                continue
            if isinstance(value, gs.Constant):
                if value.name in self.graph.detached or value.values.nbytes > 1024:
                    return None
            elif value.dtype not in _INDICES:
                return None
        given = [gs.Variable.empty() if v is None else v for v in values]
        found = evaluate(
            SimpleNamespace(op=op, domain="", attrs=attrs, inputs=given, outputs=[None]),
            self.graph.constant_in_part,
            [v.shape for v in given],
        )
        if not found or found[0].dtype == object or found[0].nbytes > 1024:
            return None
        return self.constant(found[0])

    # ---- Padding ----

    def _pad_and_cut(self, value: Value, pads: Value, number: Value | None = None, axes: Value | None = None) -> Value:
        """A Pad of the amounts that are not negative, and a Slice for the others: few runtimes take those in a Pad."""
        padded, less, named = self.Pad(value, self.Max(pads, [0]), number, axes), self.Min(pads, [0]), self.const(axes)
        known = self.const(less)
        if known is not None:
            starts, ends = known.reshape(2, -1)
            places = np.arange(len(starts)) if named is None else named
            cut = (starts < 0) | (ends < 0)
            ends = np.where(ends < 0, ends, np.iinfo(np.int64).max)
            return self.Slice(padded, -starts[cut], ends[cut], places[cut].astype(np.int64))
        half = self.Div(self.Shape(pads), [2])
        sizes = self.shape(padded) if axes is None else self.Gather(self.shape(padded), axes, axis=0)
        starts, ends = (
            self.Neg(self.Slice(less, [0], half)),
            self.Add(sizes, self.Slice(less, half, [np.iinfo(np.int64).max])),
        )
        return self.Slice(padded, starts, ends, axes)

    def _is_positive(self, value: Value | None) -> bool:
        """Whether no element of an integer vector can be negative, as far as the shape arithmetic shows."""
        known = None if value is None else self.graph.constant_in_part(value)
        if known is not None and all(v is not None for v in known.flat):
            return bool((known >= 0).all())
        producer = None if value is None else self.graph.producer(value)
        if producer is None or producer.domain:
            return False
        if producer.op == "Shape":
            return True
        if producer.op == "Max":
            return any(self._is_positive(v) for v in producer.inputs)
        if producer.op in ("Concat", "Add", "Mul"):
            return all(self._is_positive(v) for v in producer.inputs)
        return producer.op in ("Gather", "Slice") and self._is_positive(producer.inputs[0])

    def _over_all_axes(self, inputs: list[Value | None]) -> list[Value | None]:
        """The inputs of a Pad that names its axes, for one that names none.

        onnxruntime 1.31 fails when it moves a Transpose through a Pad with axes.
        """
        value, pads, number, axes = inputs
        chosen, shape = self.const(axes), value.shape if value is not None else None
        if chosen is None or shape is None:
            return inputs
        rank, count = len(shape), len(chosen)
        places = np.zeros(2 * rank, np.int64)  # 0 where nothing is padded, else one more than the place in `pads`
        places[np.concatenate([chosen % rank, chosen % rank + rank])] = np.arange(1, 2 * count + 1)
        return [value, self.Gather(self.Concat([0], pads, axis=0), places, axis=0), number]

    def _is(self, value: Value | None, number: float) -> bool:
        if not isinstance(value, gs.Constant) or math.prod(fixed_sizes(value.shape) or (0,)) != 1:
            return False  # by shape only: the values of large weights are not loaded here
        known = self.const(value)
        return known is not None and known.item() == number

    def _infer(self, node: Node) -> list[tuple[Any, Any]]:
        """(dtype, shape) per output: broadcasting is quick to tell, the rest by the operator's own function."""
        if node.op == "Cast":
            return [(None, node.inputs[0].shape)]  # the caller knows the type
        if node.op in _ELEMENTWISE and node.inputs:
            shape = _broadcast([i.shape for i in node.inputs if i.name])
            if shape is not None:
                like = node.inputs[1 if node.op == "Where" else 0]
                return [(np.dtype(bool) if node.op in _LOGICAL else like.dtype, shape)]
        return infer(node, self.graph.opset, self.graph.constant)


def _named(inputs: Sequence[Any]) -> str:
    return ", ".join(repr(i.name) for i in inputs if isinstance(i, gs.Tensor)) or "constants"


def _key(op: str, outputs: int, values: Sequence[Value | None], attrs: dict[str, Any]) -> Any:
    """Equal for nodes that compute the same; None where that is not known."""
    if op.startswith("Random") or op in ("Bernoulli", "Multinomial", "Dropout"):
        return None
    plain = []
    for name, value in sorted(attrs.items()):
        kept = tuple(value) if isinstance(value, list | tuple) else value
        if not isinstance(kept, str | int | float | bool | tuple | type(None)):
            return None
        plain.append((name, kept))
    return op, outputs, tuple(None if v is None else v.name for v in values), tuple(plain)


_INDICES = frozenset({np.dtype(np.int64), np.dtype(np.int32), np.dtype(bool)})
_LOGICAL = frozenset({"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Not"})
_ELEMENTWISE = _LOGICAL | {
    "Add", "Sub", "Mul", "Div", "Where", "Neg", "Exp", "Sigmoid", "Sqrt", "Relu", "Sign", "Abs", "Log", "Pow", "Max",
    "Min", "Tanh", "Erf", "Reciprocal", "Sin", "Cos", "HardSigmoid", "Clip", "Softplus", "Identity",
}  # fmt: skip


def _keeps_shape(value: Value | None, other: Value | None) -> bool:
    """Whether broadcasting `value` with the one-element `other` leaves its shape."""
    return (
        value is not None
        and other is not None
        and value.shape is not None
        and len(known_shape(other)) <= len(value.shape)
    )


def _broadcast(shapes: Sequence[Sequence[Any] | None]) -> list[Any] | None:
    """The common shape of broadcast operands; None where it is not known."""
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes):
        return None
    rank = max(len(s) for s in known)
    result: list[Any] = []
    for axis in range(-rank, 0):
        sizes = [s[axis] for s in known if len(s) >= -axis]
        wide = [d for d in sizes if d != 1]
        fixed = next((d for d in wide if isinstance(d, int)), None)
        if not wide:
            result.append(1)
        elif fixed is not None:
            result.append(fixed)
        elif all(d == wide[0] for d in wide):
            result.append(wide[0])
        else:
            result.append(None)
    return result
