"""Targets as people write them: a class, a label, or an expression over tensors of the graph."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from analyzer.errors import InputError, NotFoundError, suggest
from analyzer.gradient.reverse import is_float
from analyzer.graph import Builder, Value
from analyzer.tasks.base import TOP1

# ---- Labels ----


def resolve_class(given: Any, labels: Sequence[str] | None) -> int:
    """A class index from "top1", an index, or a label.

    Raises:
        NotFoundError: no such label. InputError: not an index, or out of range.
    """
    if isinstance(given, bool) or not isinstance(given, int | np.integer | str):
        raise InputError(f"a target is 'top1', a class index, a label or an expression, not {given!r}")
    if isinstance(given, int | np.integer):
        if given < 0:
            raise InputError(f"class {given} is negative; indices start at 0", "pass an index ≥ 0, or 'top1'")
        return int(given)
    if given in ("top1", "top-1"):
        return TOP1
    if given.isdigit():
        return int(given)
    if labels is None:
        raise NotFoundError(
            f"no label {given!r}: the labels of this model are not known",
            "pass a class index, or the labels with --labels FILE",
        )
    exact = [i for i, label in enumerate(labels) if label.lower() == given.lower()]
    part = [i for i, label in enumerate(labels) if given.lower() in [p.strip().lower() for p in label.split(",")]]
    if exact or part:
        return (exact or part)[0]
    raise NotFoundError(f"no label {given!r}", suggest(given, labels) or _some(labels))


def _some(labels: Sequence[str]) -> str:
    """A hint with the first labels."""
    more = f" … ({len(labels)} in all)" if len(labels) > 10 else ""
    return f"the labels are {', '.join(labels[:10])}{more}; a class index works too"


# ---- Expressions ----

_REDUCTIONS = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin"}
_ARITHMETIC = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Div: "Div"}
_COMPARISONS = {
    ast.Eq: "Equal",
    ast.NotEq: "",
    ast.Lt: "Less",
    ast.LtE: "LessOrEqual",
    ast.Gt: "Greater",
    ast.GtE: "GreaterOrEqual",
}
_NAMED = re.compile(r'"([^"]+)"')

Arrays = Mapping[str, "np.ndarray | Callable[[Value], np.ndarray]"]


def is_expression(target: Any) -> bool:
    """Whether a target is more than a class: `boxes[:, 4:].max()`, `"output:0"[0, 3] - "output:0"[0, 5]`."""
    if not isinstance(target, str) or target in ("top1", "top-1") or _FOUND.fullmatch(target):
        return False
    return bool(re.search(r"[\[\]().\"]", target))


_FOUND = re.compile(r"(detection|instance):\d+(\.\w+)?|keypoint:[\w .-]+")  # what a detector finds


_WORD = re.compile(r"positive|all|text|character:\d+|(?P<output>.+):(?P<target>[^:]*)")


def is_word(target: Any, labels: Sequence[str] | None = None) -> bool:
    """Whether a target means what the model says of a picture: `positive`, `all`, `text`, `character:3`, or
    `OUTPUT:TARGET`, a target of another output. A label that is called so is a class."""
    if not isinstance(target, str) or is_expression(target) or not _WORD.fullmatch(target):
        return False
    return labels is None or target.lower() not in (name.lower() for name in labels)


def tensors_named(text: str) -> list[str]:
    """Every name in an expression that can be a tensor's."""
    return [quoted or word for quoted, word in re.findall(r'"([^"]+)"|([A-Za-z_]\w*)', text)]


def expression(op: Builder, text: str, arrays: Arrays | None = None) -> Value:
    """The (N,) score that `text` says, appended to the graph: a sum over all axes but the first is taken at the end.

    A name is a tensor of the file (in double quotes where it is no identifier), or one of `arrays`; `[…]` slices with
    integers, slices and `…`, the first axis being the batch (or all of the answer, where the file has no batch);
    `.sum() .mean() .max() .min()` reduce over all axes but the first, or over those given; + − × ÷ and numbers
    combine. For detectors, segmenters and embeddings:

    - `.sigmoid()`, `.exp()`, `.softmax(axis)`, `.argmax(axis)`, and comparisons of what they give;
    - `.expectation()`: Σ k · softmaxₖ over the last axis, the mean of a distribution over 0, 1, 2… (DFL, 2006.04388);
    - `.where(condition)`: zero where it does not hold: `"out"[:, 8].where("out".argmax(1) == 8)` is class 8 over the
      pixels where it wins (Vinogradova et al. 2020, 2002.11434);
    - `.iou(x0, y0, x1, y1)`: of boxes (…, 4) given by their corners with the one given, to point at a box:
      `scores[:, :, 1].where(boxes.iou(0.2, 0.1, 0.4, 0.5) > 0.5)`; `.corners()` makes corners of centre and size;
    - `.cosine(reference)`: of an embedding with the one of a reference.

    Args:
        arrays: further names; a function is given the tensor that `.cosine` is asked of.

    Raises:
        InputError: not such an expression. NotFoundError: no such tensor.
    """
    names: list[str] = []

    def quoted(match: re.Match[str]) -> str:
        names.append(match[1])
        return f"_tensor_{len(names) - 1}"

    try:
        tree = ast.parse(_NAMED.sub(quoted, text), mode="eval").body
    except SyntaxError as error:
        raise InputError(f"target {text!r} is not an expression: {error.msg}") from None
    reader = _Expression(op, text, names, arrays or {})
    value = reader.visit(tree)
    if not hasattr(value, "name"):
        raise InputError(f"target {text!r} is a number; name a tensor of the model")
    if not is_float(value):
        raise InputError(f"target {text!r} has type {value.dtype}, which has no gradient", "use .where(condition)")
    rank = op.rank(value)
    if rank == 0:
        return op.Reshape(value, [1])
    if not reader.batched:
        return op.Reshape(op.ReduceSum(value, list(range(rank)), keepdims=1), [1])
    return op.ReduceSum(value, list(range(1, rank)), keepdims=0) if rank > 1 else value


class _Expression:
    def __init__(self, op: Builder, text: str, names: list[str], arrays: Arrays) -> None:
        self.op, self.text, self.names, self.arrays = op, text, names, arrays
        self.batched = True  # whether the first axis counts images

    def visit(self, tree: ast.expr) -> Any:
        handler: Callable[[Any], Any] | None = getattr(self, f"_{type(tree).__name__.lower()}", None)
        if handler is None:
            raise InputError(f"target {self.text!r}: {type(tree).__name__} is not allowed in a target")
        return handler(tree)

    def _value(self, tree: ast.expr) -> Value:
        value = self.visit(tree)
        if not hasattr(value, "name"):
            raise InputError(f"target {self.text!r}: {ast.unparse(tree)} is not a tensor")
        return value

    def _name(self, tree: ast.Name) -> Value:
        name = self.names[int(tree.id[8:])] if tree.id.startswith("_tensor_") else tree.id
        given = self.arrays.get(name)
        if given is not None and name not in self.op.graph:
            if callable(given):
                raise InputError(f"target {self.text!r}: {name} can only be used in .cosine({name})")
            return self.op.constant(np.asarray(given), name)
        value = self.op.graph[name]
        self.batched = self.batched and self._counts_images(value)
        return value

    def _counts_images(self, value: Value) -> bool:
        batch = self.op.graph.inputs[0].shape[0] if self.op.graph.inputs and self.op.graph.inputs[0].shape else None
        if not isinstance(batch, int) or not value.shape:
            return True
        return bool(value.shape[0] == batch)

    def _constant(self, tree: ast.Constant) -> Any:
        if tree.value is not Ellipsis and not isinstance(tree.value, int | float):
            raise InputError(f"target {self.text!r}: {tree.value!r} is not a number")
        return tree.value

    def _unaryop(self, tree: ast.UnaryOp) -> Any:
        value = self.visit(tree.operand)
        if isinstance(tree.op, ast.USub):
            return -value if isinstance(value, int | float) else self.op.Neg(value)
        return value

    def _binop(self, tree: ast.BinOp) -> Any:
        name = _ARITHMETIC.get(type(tree.op))
        if name is None:
            raise InputError(f"target {self.text!r}: only + - * / are allowed")
        return getattr(self.op, name)(*self._pair(tree.left, tree.right))

    def _compare(self, tree: ast.Compare) -> Value:
        name = _COMPARISONS.get(type(tree.ops[0]))
        if name is None or len(tree.ops) > 1:
            raise InputError(f"target {self.text!r}: only a single == != < <= > >= is allowed")
        pair = self._pair(tree.left, tree.comparators[0])
        return getattr(self.op, name)(*pair) if name else self.op.Not(self.op.Equal(*pair))

    def _pair(self, left: ast.expr, right: ast.expr) -> tuple[Any, Any]:
        a, b = self.visit(left), self.visit(right)
        if isinstance(a, int | float) and not isinstance(b, int | float):
            a = self.op.scalar(a, b)
        return a, b

    def _call(self, tree: ast.Call) -> Value:
        known = sorted([*_REDUCTIONS, *_FUNCTIONS])
        if not isinstance(tree.func, ast.Attribute) or tree.func.attr not in known or tree.keywords:
            raise InputError(f"target {self.text!r}: only .{'() .'.join(known)}() can be called")
        value = self._value(tree.func.value)
        if tree.func.attr in _REDUCTIONS:
            rank = self.op.rank(value)
            axes = [self._axis(a, rank) for a in tree.args] or list(range(int(self.batched), rank))
            reduced = getattr(self.op, _REDUCTIONS[tree.func.attr])(value, axes, keepdims=1) if axes else value
            gone = [a for a in axes if a]  # the first axis stays, of size 1 where it was reduced
            return self.op.Squeeze(reduced, gone) if gone else reduced
        count, function = _FUNCTIONS[tree.func.attr]
        if len(tree.args) != count:
            raise InputError(f"target {self.text!r}: .{tree.func.attr}() takes {count} arguments, not {len(tree.args)}")
        return function(self, value, *tree.args)

    def _axis(self, tree: ast.expr, rank: int) -> int:
        axis = self._integer(tree)
        if axis is None or not -rank <= axis < rank:
            raise InputError(f"target {self.text!r}: axis {axis} is out of range for rank {rank}")
        return axis % rank

    # ---- What can be called ----

    def _sigmoid(self, value: Value) -> Value:
        return self.op.Sigmoid(value)

    def _exp(self, value: Value) -> Value:
        return self.op.Exp(value)

    def _expectation(self, value: Value) -> Value:
        op, last = self.op, self.op.rank(value) - 1
        count = op.dim(value, last)
        if not last or count is None:
            raise InputError(f"target {self.text!r}: .expectation() needs a last axis of known size after the first")
        steps = op.constant(np.arange(count).astype(value.dtype), "steps")
        return op.ReduceSum(op.Mul(op.Softmax(value, axis=last), steps), [last], keepdims=0)

    def _softmax(self, value: Value, axis: ast.expr) -> Value:
        return self.op.Softmax(value, axis=self._axis(axis, self.op.rank(value)))

    def _argmax(self, value: Value, axis: ast.expr) -> Value:
        return self.op.ArgMax(value, axis=self._axis(axis, self.op.rank(value)), keepdims=0)

    def _where(self, value: Value, condition: ast.expr) -> Value:
        found = self._value(condition)
        found = found if found.dtype == np.dtype(bool) else self.op.Not(self.op.Equal(found, 0))
        return self.op.Mul(value, self.op.cast(found, value.dtype))

    def _corners(self, value: Value) -> Value:
        op, last = self.op, self.op.rank(value) - 1
        centre, size = op.Slice(value, [0], [2], [last]), op.Mul(op.Slice(value, [2], [4], [last]), 0.5)
        return op.Concat(op.Sub(centre, size), op.Add(centre, size), axis=last)

    def _iou(self, value: Value, *corners: ast.expr) -> Value:
        op, last = self.op, self.op.rank(value) - 1
        if op.dim(value, last) != 4:
            raise InputError(f"target {self.text!r}: .iou() needs boxes, 4 numbers along the last axis")
        box = [float(self.visit(c)) for c in corners]
        x0, y0, x1, y1 = (op.Squeeze(op.Slice(value, [i], [i + 1], [last]), [last]) for i in range(4))
        numbers = [op.scalar(b, value) for b in box]
        wide = op.Relu(op.Sub(op.Min(x1, numbers[2]), op.Max(x0, numbers[0])))
        high = op.Relu(op.Sub(op.Min(y1, numbers[3]), op.Max(y0, numbers[1])))
        shared = op.Mul(wide, high)
        area = op.Mul(op.Sub(x1, x0), op.Sub(y1, y0))
        return op.Div(shared, op.Sub(op.Add(area, (box[2] - box[0]) * (box[3] - box[1])), shared))

    def _cosine(self, value: Value, reference: ast.expr) -> Value:
        op, name = self.op, ast.unparse(reference)
        given = self.arrays.get(name)
        if given is None:
            raise InputError(
                f"target {self.text!r}: no array {name!r} was passed", "pass a reference picture with --reference"
            )
        array = np.asarray(given(value) if callable(given) else given, np.float32).reshape(-1)
        flat = op.Reshape(value, [0, -1] if self.batched else [1, -1], allowzero=0)
        if op.dim(flat, 1) not in (None, array.size):
            raise InputError(f"target {self.text!r}: {name} has {array.size} numbers, the tensor {op.dim(flat, 1)}")
        unit = op.constant((array / max(float(np.linalg.norm(array)), 1e-12))[None], name)
        length = op.Sqrt(op.ReduceSum(op.Mul(flat, flat), [1], keepdims=1))
        return op.Div(op.ReduceSum(op.Mul(flat, op.cast(unit, flat.dtype)), [1], keepdims=1), length)

    # ---- Slices ----

    def _subscript(self, tree: ast.Subscript) -> Value:
        value, op = self._value(tree.value), self.op
        parts = list(tree.slice.elts) if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        dots = [i for i, p in enumerate(parts) if isinstance(p, ast.Constant) and p.value is Ellipsis]
        if dots:
            missing = op.rank(value) - len(parts) + 1
            parts[dots[0] : dots[0] + 1] = [ast.Slice() for _ in range(missing)]
        if len(parts) > op.rank(value) or len(dots) > 1:
            raise InputError(f"target {self.text!r}: {len(parts)} indices for a tensor of rank {op.rank(value)}")
        gone = []
        for axis, part in enumerate(parts):
            if isinstance(part, ast.Slice):
                start, stop, step = (self._integer(p) for p in (part.lower, part.upper, part.step))
                if (start, stop, step) != (None, None, None):
                    end = np.iinfo(np.int64).max if stop is None else stop
                    value = op.Slice(value, [start or 0], [end], [axis], [step or 1])
            else:
                index = self._integer(part)
                size = op.dim(value, axis)
                if index is None or (size is not None and not -size <= index < size):
                    raise InputError(f"target {self.text!r}: index {index} is out of range for axis {axis} ({size})")
                end = index + 1 if index != -1 else np.iinfo(np.int64).max
                value = op.Slice(value, [index], [end], [axis])
                # The batch axis stays: the score is one number per image.
                gone += [axis] if axis else []
        return op.Squeeze(value, gone) if gone else value

    def _integer(self, tree: ast.expr | None) -> int | None:
        if tree is None:
            return None
        value = self.visit(tree)
        if not isinstance(value, int):
            raise InputError(f"target {self.text!r}: an index must be an integer")
        return value


_FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "sigmoid": (0, _Expression._sigmoid),
    "exp": (0, _Expression._exp),
    "expectation": (0, _Expression._expectation),
    "softmax": (1, _Expression._softmax),
    "argmax": (1, _Expression._argmax),
    "where": (1, _Expression._where),
    "corners": (0, _Expression._corners),
    "iou": (4, _Expression._iou),
    "cosine": (1, _Expression._cosine),
}
