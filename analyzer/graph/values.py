"""What small integer tensors hold: shape arithmetic carried out before the model runs.

Exporters spell sizes as chains of Shape, Gather, Concat, Mul… Each operator here maps arrays to arrays. A tensor
that is known only in part is an object array with None where an element is not known; moving data keeps the known
elements, arithmetic on an unknown element is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper

LIMIT = 4096  # elements; what is larger is data, not a shape


def evaluate(node: Any, known: Callable[[Any], np.ndarray | None], shapes: Sequence[Any]) -> list[np.ndarray] | None:
    """The outputs of `node` where its inputs are known, else None."""
    if node.domain or node.op not in _RULES:
        return None
    if node.op in ("Shape", "Size"):
        return _RULES[node.op](node, shapes[0])
    read = node.inputs[:1] if node.op == "CastLike" else node.inputs
    arrays = [known(i) if i.name else None for i in read]
    if any(a is None for a, i in zip(arrays, read, strict=True) if i.name):
        return None
    if sum(a.size for a in arrays if a is not None) > LIMIT:
        return None
    try:
        with np.errstate(all="ignore"):
            result = _RULES[node.op](node, *arrays)
    except Exception:
        return None  # values that the operator does not allow; the runtime will report it
    results = result if isinstance(result, list) else [result]
    if any(r is None or np.size(r) > LIMIT for r in results):
        return None
    return [_tidy(np.asarray(r)) for r in results]


def moved(node: Any, arrays: Sequence[np.ndarray]) -> Any:
    """What a node that only moves numbers (`PLACING`) makes of arrays of any size: one array, or a list of them."""
    return _RULES[node.op](node, *arrays)


def _tidy(array: np.ndarray) -> np.ndarray:
    if array.dtype == object and all(v is not None for v in array.flat):
        return array.astype(np.int64)
    return array


def _shape(node: Any, shape: Any) -> list[np.ndarray] | None:
    if shape is None:
        return None
    dims = list(shape)[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
    return [_tidy(np.array([d if isinstance(d, int) else None for d in dims], dtype=object))]


def _size(node: Any, shape: Any) -> list[np.ndarray] | None:
    if shape is None or not all(isinstance(d, int) for d in shape):
        return None
    return [np.array(math.prod(shape), np.int64)]


def _elementwise(function: Callable) -> Callable:
    def rule(node: Any, *arrays: np.ndarray) -> np.ndarray:
        if not any(a.dtype == object for a in arrays):
            return np.asarray(function(*arrays))
        guarded = np.frompyfunc(lambda *v: None if any(x is None for x in v) else int(function(*v)), len(arrays), 1)
        return np.asarray(guarded(*arrays), dtype=object)

    return rule


def _divide(a: Any, b: Any) -> Any:
    """Integers divide towards zero in ONNX."""
    if isinstance(a, np.ndarray) and a.dtype.kind == "f":
        return a / b
    return np.trunc(np.true_divide(a, b)).astype(np.int64)


def _cast(node: Any, x: np.ndarray) -> np.ndarray | None:
    dtype = (
        np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(node.attrs["to"])))
        if isinstance(node.attrs["to"], int)
        else np.dtype(node.attrs["to"])
    )
    if x.dtype == object:
        return x if dtype.kind in "iu" else None
    return x.astype(dtype)


def _cast_like(node: Any, x: np.ndarray) -> np.ndarray | None:
    """As `_cast`, to a type that shape inference knows."""
    dtype = node.outputs[0].dtype
    return x.astype(dtype) if isinstance(dtype, np.dtype) and x.dtype != object else None


def _clip(node: Any, x: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None) -> np.ndarray | None:
    """The bounds are attributes before opset 11."""
    if object in (x.dtype, *(b.dtype for b in (low, high) if b is not None)):
        return None
    bounds = [node.attrs.get(n) if b is None else b.item() for n, b in (("min", low), ("max", high))]
    return np.asarray(x if bounds == [None, None] else np.clip(x, *bounds), x.dtype)


def _axes(node: Any, given: np.ndarray | None, rank: int) -> list[int]:
    axes = given.tolist() if given is not None else node.attrs.get("axes") or []
    return sorted(a % rank for a in axes)


def _unsqueeze(node: Any, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    given = axes.tolist() if axes is not None else node.attrs["axes"]
    return np.expand_dims(x, tuple(int(a) for a in given))


def _squeeze(node: Any, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    chosen = _axes(node, axes, x.ndim) or [i for i, d in enumerate(x.shape) if d == 1]
    return np.squeeze(x, tuple(chosen))


def _slice(node: Any, x: np.ndarray, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> np.ndarray:
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # A negative step that runs past the front ends there, not at the last element.
        stop = None if step < 0 and end < -x.shape[axis] else int(end)
        index[int(axis)] = slice(int(start), stop, int(step))
    return x[tuple(index)]


def _reshape(node: Any, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    dims = [x.shape[i] if d == 0 and not node.attrs.get("allowzero") else int(d) for i, d in enumerate(shape)]
    return x.reshape(dims)


def _flatten(node: Any, x: np.ndarray) -> np.ndarray:
    return x.reshape(math.prod(x.shape[: int(node.attrs.get("axis", 1))]), -1)


def _range(node: Any, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray | None:
    if (limit - start) / delta > LIMIT:
        return None
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _constant_of_shape(node: Any, shape: np.ndarray) -> np.ndarray | None:
    if math.prod(shape.tolist()) > LIMIT:
        return None
    value = node.attrs.get("value")
    fill = np.zeros(1, np.float32) if value is None else np.asarray(getattr(value, "values", value))
    return np.full(tuple(shape.tolist()), fill.item(), fill.dtype)


def _expand(node: Any, x: np.ndarray, shape: np.ndarray) -> np.ndarray | None:
    target = np.broadcast_shapes(x.shape, tuple(shape.tolist()))
    return np.broadcast_to(x, target) if math.prod(target) <= LIMIT else None


def _split(node: Any, x: np.ndarray, split: np.ndarray | None = None) -> list[np.ndarray]:
    count = len(node.outputs)
    if split is None:
        part = -(-x.shape[node.attrs.get("axis", 0)] // count)
        return np.split(x, [part * i for i in range(1, count)], axis=node.attrs.get("axis", 0))
    return np.split(x, np.cumsum(split)[:-1], axis=node.attrs.get("axis", 0))


def _reduce(function: Callable) -> Callable:
    def rule(node: Any, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray | None:
        if x.dtype == object:
            return None
        if axes is None and node.attrs.get("axes") is None and node.attrs.get("noop_with_empty_axes"):
            return x
        chosen = tuple(_axes(node, axes, x.ndim)) or None
        return np.asarray(function(x, axis=chosen, keepdims=bool(node.attrs.get("keepdims", 1)))).astype(x.dtype)

    return rule


_RULES: dict[str, Callable] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": lambda node, x: x,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_divide),
    "Neg": _elementwise(lambda a: -a),
    "Mod": lambda node, a, b: (
        None if object in (a.dtype, b.dtype) else (np.fmod if node.attrs.get("fmod") else np.mod)(a, b)
    ),
    "Max": _elementwise(lambda *v: np.maximum.reduce(np.broadcast_arrays(*v)) if len(v) > 1 else v[0]),
    "Min": _elementwise(lambda *v: np.minimum.reduce(np.broadcast_arrays(*v)) if len(v) > 1 else v[0]),
    "Clip": _clip,
    "Floor": lambda node, x: np.floor(x),
    "Ceil": lambda node, x: np.ceil(x),
    "Sqrt": lambda node, x: np.sqrt(x),
    "Equal": lambda node, a, b: None if object in (a.dtype, b.dtype) else np.equal(a, b),
    "Greater": lambda node, a, b: None if object in (a.dtype, b.dtype) else np.greater(a, b),
    "Less": lambda node, a, b: None if object in (a.dtype, b.dtype) else np.less(a, b),
    "Not": lambda node, x: np.logical_not(x),
    "Where": lambda node, c, a, b: np.where(c, a, b),
    "Gather": lambda node, x, i: None if i.dtype == object else np.take(x, i, axis=node.attrs.get("axis", 0)),
    "Concat": lambda node, *xs: np.concatenate(xs, axis=node.attrs["axis"]),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": lambda node, x: np.transpose(x, node.attrs.get("perm")),
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Tile": lambda node, x, repeats: (
        np.tile(x, repeats.tolist()) if math.prod(repeats.tolist()) * x.size <= LIMIT else None
    ),
    "Split": _split,
    "Flatten": _flatten,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
}

# Operators that give numbers other places, and do nothing else with them.
PLACING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Slice", "Split", "Gather")
