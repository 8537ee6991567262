"""Targets: which number the explanation is of, as cotangents of tensors of the graph."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.errors import InputError, NotFoundError, UnsupportedError, suggest
from analyzer.gradient.reverse import is_float
from analyzer.graph import Builder, Graph, Value
from analyzer.graph.query import layouts, logits

TOP1 = -1  # in the run-time input `target`: the class with the highest score


@dataclass(frozen=True)
class Scores:
    """The classes of a model.

    Attributes:
        output: the model's output.
        logits: the tensor behind it, before a squashing function.
        stripped: what was left out between the two (operator names).
        batched: whether the first axis of `logits` counts images.
        space: axes of `logits` that carry space (a segmenter); a class is then scored by its mean over them.
    """

    output: Value
    logits: Value
    stripped: tuple[str, ...]
    batched: bool
    space: tuple[int, ...] = ()

    def flat(self, op: Builder) -> Value:
        """The logits as (N, classes), appended."""
        value = op.ReduceMean(self.logits, list(self.space), keepdims=0) if self.space else self.logits
        return op.Reshape(value, [0, -1] if self.batched else [1, -1], allowzero=0)

    @property
    def classes(self) -> int | None:
        """Number of classes, where it is fixed."""
        shape = self.logits.shape
        if shape is None:
            return None
        sizes = [d for i, d in enumerate(shape) if i not in self.space and (i or not self.batched)]
        return math.prod(sizes) if all(isinstance(d, int) for d in sizes) else None


def find_scores(graph: Graph, output: str | None = None) -> Scores:
    """The output that holds the scores: the one named, else the first floating-point one that looks like classes.

    Raises:
        UnsupportedError: no output can be a score.
    """
    candidates = [graph[output]] if output is not None else sorted(graph.outputs, key=_unlike_classes)
    for value in candidates:
        found = logits(graph, value)
        if is_float(found.value) and found.value.dtype is not None:
            batch = graph.inputs[0].shape[0] if graph.inputs and graph.inputs[0].shape else None
            shape = found.value.shape
            batched = shape is None or (len(shape) > 1 and (shape[0] == batch or not isinstance(shape[0], int)))
            layout = layouts(graph).get(found.value.name)
            space = layout.spatial if layout is not None and layout.is_map and layout.axes in _SEGMENTER else ()
            space = () if all(shape[a] == 1 for a in space) else space
            return Scores(value, found.value, found.stripped, batched, space)
    names = ", ".join(f"{v.name!r} ({v.dtype})" for v in candidates)
    raise UnsupportedError(
        f"{graph.name}: no output is a differentiable score: {names}", "name a floating-point tensor as the target"
    )


_SEGMENTER = ("NCHW", "NHWC")


def _unlike_classes(value: Value) -> int:
    """0 for (N, classes), 1 for (N, classes, 1, 1), 2 for anything else."""
    shape = value.shape or []
    wide = [d for d in shape[1:] if d != 1]
    return 2 if len(wide) != 1 else int(len(shape) > 2)


def seed(op: Builder, scores: Scores, classes: Value) -> tuple[Value, Value, Value]:
    """(scores as (N, classes), their cotangent, the classes chosen): one-hot rows; TOP1 is resolved by ArgMax.

    Args:
        classes: (N,) int64.
    """
    flat = scores.flat(op)
    top = op.ArgMax(flat, axis=1, keepdims=0)
    chosen = op.Where(op.Less(classes, np.int64(0)), top, classes)
    width = op.dim(flat, 1)
    if width is not None:
        indices = op.constant(np.arange(width, dtype=np.int64)[None], "classes")
    else:
        limit = op.Squeeze(op.shape(flat, 1, 2), [0])
        indices = op.Range(np.int64(0), limit, np.int64(1))
    return flat, op.cast(op.Equal(indices, op.Unsqueeze(chosen, [1])), flat.dtype), chosen


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
            raise InputError(f"class {given} is negative", "give an index from 0, or 'top1'")
        return int(given)
    if given in ("top1", "top-1"):
        return TOP1
    if given.isdigit():
        return int(given)
    if labels is None:
        raise NotFoundError(
            f"no label {given!r}: the labels of this model are not known",
            "give a class index, or the labels with --labels FILE",
        )
    exact = [i for i, label in enumerate(labels) if label.lower() == given.lower()]
    part = [i for i, label in enumerate(labels) if given.lower() in [p.strip().lower() for p in label.split(",")]]
    if exact or part:
        return (exact or part)[0]
    raise NotFoundError(f"no label {given!r}", suggest(given, labels) or "see the labels file")


# ---- Expressions ----

_REDUCTIONS = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin"}
_ARITHMETIC = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Div: "Div"}
_NAMED = re.compile(r'"([^"]+)"')


def is_expression(target: Any) -> bool:
    """Whether a target is more than a class: `boxes[:, 4:].max()`, `"output:0"[0, 3] - "output:0"[0, 5]`."""
    return isinstance(target, str) and bool(re.search(r"[\[\]().\"]", target)) and target not in ("top1", "top-1")


def expression(op: Builder, text: str) -> Value:
    """The (N,) score that `text` says, appended to the graph: a sum over all axes but the first is taken at the end.

    A name is a tensor of the file (in double quotes where it is no identifier); `[…]` slices with integers and
    slices, the first axis being the batch; `.sum() .mean() .max() .min()` reduce over all axes but the first;
    + − × ÷ and numbers combine.

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
    value = _Expression(op, text, names).visit(tree)
    if not hasattr(value, "name"):
        raise InputError(f"target {text!r} is a number; name a tensor of the model")
    rank = op.rank(value)
    if rank == 0:
        return op.Reshape(value, [1])
    return op.ReduceSum(value, list(range(1, rank)), keepdims=0) if rank > 1 else value


class _Expression:
    def __init__(self, op: Builder, text: str, names: list[str]) -> None:
        self.op, self.text, self.names = op, text, names

    def visit(self, tree: ast.expr) -> Any:
        handler: Callable[[Any], Any] | None = getattr(self, f"_{type(tree).__name__.lower()}", None)
        if handler is None:
            raise InputError(f"target {self.text!r}: {type(tree).__name__} is not allowed in a target")
        return handler(tree)

    def _name(self, tree: ast.Name) -> Value:
        if tree.id.startswith("_tensor_"):
            return self.op.graph[self.names[int(tree.id[8:])]]
        return self.op.graph[tree.id]

    def _constant(self, tree: ast.Constant) -> Any:
        if not isinstance(tree.value, int | float):
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
        left, right = self.visit(tree.left), self.visit(tree.right)
        if isinstance(left, int | float) and not isinstance(right, int | float):
            left = self.op.scalar(left, right)
        return getattr(self.op, name)(left, right)

    def _call(self, tree: ast.Call) -> Value:
        if not isinstance(tree.func, ast.Attribute) or tree.func.attr not in _REDUCTIONS or tree.args:
            raise InputError(f"target {self.text!r}: only .sum() .mean() .max() .min() can be called")
        value = self.visit(tree.func.value)
        axes = list(range(1, self.op.rank(value)))
        return getattr(self.op, _REDUCTIONS[tree.func.attr])(value, axes, keepdims=0) if axes else value

    def _subscript(self, tree: ast.Subscript) -> Value:
        value, op = self.visit(tree.value), self.op
        parts = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        if len(parts) > op.rank(value):
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
                    raise InputError(f"target {self.text!r}: index {index} is outside axis {axis} of size {size}")
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
