"""Operators that mix along whole axes: pooling, reductions, statistics, recurrences and products."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from analyzer.analysis.interpreter import HiddenError, Site
from analyzer.analysis.intervals import Field, axis_of, union
from analyzer.analysis.spatial.table import (
    Maybe,
    alone,
    axes_of,
    everywhere,
    parametrised,
    pooled,
    size_of,
    spatial,
    with_all,
)


@spatial("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool_transfer(op: Site, x: Maybe) -> Field:
    """o ← all of its channel"""
    x = alone(x)
    return pooled(x, range(2, x.rank), True)


@spatial(
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceSumSquare",
)  # fmt: skip
def reduce_transfer(op: Site, x: Maybe, axes: Maybe = None) -> Field:
    """o ← all along `axes`"""
    x = alone(x, axes)
    chosen = axes_of(op, x.rank)
    if chosen is None:
        if op.attr("noop_with_empty_axes", 0):
            return x
        chosen = list(range(x.rank))
    return pooled(x, chosen, bool(op.attr("keepdims", 1)))


@spatial("ArgMax", "ArgMin")
def arg_transfer(op: Site, x: Maybe) -> Field:
    """o ← all along `axis`"""
    x = alone(x)
    return pooled(x, [op.attr("axis", 0) % x.rank], bool(op.attr("keepdims", 1)))


@spatial("TopK")
def top_k_transfer(op: Site, x: Maybe, k: Maybe = None) -> tuple[Field, Field]:
    """o ← all along `axis`"""
    x = alone(x, k)
    axis = op.attr("axis", -1) % x.rank
    y = x.collapse([axis]).fresh(axis, size_of(op.out(), axis))
    return y, y


@spatial("Softmax", "LogSoftmax", "Hardmax", "CumSum", "LpNormalization")
def along_transfer(op: Site, x: Maybe, given: Maybe = None) -> Field:
    """o ← all along `axis`"""
    x = alone(x, given)
    axis = int(op.need(1, "axis").item()) if op.node.op == "CumSum" else op.attr("axis", -1)
    y = x.collapse([axis % x.rank])
    return replace(y, exact=y.exact and (op.node.op != "CumSum" or y is x))


@spatial("InstanceNormalization", "MeanVarianceNormalization", "GroupNormalization")
def statistics_transfer(op: Site, x: Maybe, *rest: Maybe) -> Field:
    """i ← {i}, and the statistics of the whole image: a gate"""
    x = parametrised(op, x, rest)
    axes: Iterable[int] = range(2, x.rank)
    if op.node.op == "MeanVarianceNormalization":
        axes = [a % x.rank for a in op.attr("axes", [0, 2, 3])]
    if op.node.op == "GroupNormalization":
        axes = range(1, x.rank)
    return union(x, x.collapse(axes).gated())


@spatial("LayerNormalization")
def layer_normalization_transfer(op: Site, x: Maybe, *rest: Maybe) -> tuple[Field, ...]:
    """i ← {i}, and the statistics along the axes from `axis` on: a gate where they are space"""
    x = parametrised(op, x, rest)
    axes = range(op.attr("axis", -1) % x.rank, x.rank)
    statistic = x.collapse(axes)
    return union(x, statistic.gated()), pooled(statistic, axes, True), pooled(statistic, axes, True)


@spatial("DynamicQuantizeLinear")
def dynamic_quantize_transfer(op: Site, x: Maybe) -> tuple[Field, Field, Field]:
    """i ← {i}, and the range of the whole tensor: a gate"""
    x = alone(x)
    scale = everywhere(x)
    assert scale is not None
    return union(x, scale.gated()), scale, scale


@spatial("LSTM", "GRU", "RNN")
def recurrent_transfer(op: Site, x: Maybe, *rest: Maybe) -> tuple[Field, ...]:
    """t ← all steps; exact where the network reads in both directions"""
    x = alone(x, *rest)
    steps = 1 if op.attr("layout", 0) else 0
    y = x.collapse([steps, 2])
    y = replace(y, exact=y.exact and (op.attr("direction", "forward") == "bidirectional" or y is x))
    hidden, directions = op.attr("hidden_size"), axis_of(2 if op.attr("direction") == "bidirectional" else 1)
    seq, batch, _ = (*y.axes[:2], ()) if steps == 0 else (y.axes[1], y.axes[0], ())
    units = axis_of(hidden)
    outs = (seq, directions, batch, units) if steps == 0 else (batch, seq, directions, units)
    state = (directions, batch, units) if steps == 0 else (batch, directions, units)
    return replace(y, axes=outs), replace(y, axes=state), replace(y, axes=state)


# ---- Products ----


def _matmul(op: Site, a: Maybe, b: Maybe) -> Field:
    """(…, i, j) ← all k of (…, i, k) and (…, k, j)."""
    parts = []
    if a is not None:
        a = a.insert([0]) if a.rank == 1 else a
        parts.append(a.collapse([a.rank - 1]).fresh(a.rank - 1, 1))
    if b is not None:
        b = b.insert([1]) if b.rank == 1 else b
        parts.append(b.collapse([b.rank - 2]).fresh(b.rank - 2, 1))
    return with_all(None, *parts)


@spatial("MatMul", "MatMulInteger")
def matmul_transfer(op: Site, a: Maybe, b: Maybe, *points: Maybe) -> Field:
    """(i, j) ← all k of (i, k) and (k, j)"""
    if any(p is not None for p in points):
        raise HiddenError("its zero points depend on the pixels")
    y = _matmul(op, a, b)
    for index, axis in ((0, -2), (1, -1)):
        shape = op.shape(index)
        if shape is not None and len(shape) == 1:
            y = y.drop([y.rank + axis])
    return y.fit(op.out())


@spatial("Gemm")
def gemm_transfer(op: Site, a: Maybe, b: Maybe = None, c: Maybe = None) -> Field:
    """(i, j) ← all k of (i, k) and (k, j)"""
    a = a.permute([1, 0]) if a is not None and op.attr("transA", 0) else a
    b = b.permute([1, 0]) if b is not None and op.attr("transB", 0) else b
    y = _matmul(op, a, b) if a is not None or b is not None else None
    return with_all(y, c).fit(op.out())


@spatial("Einsum")
def einsum_transfer(op: Site, *inputs: Maybe) -> Field:
    """output labels ← all values of the labels that are summed"""
    equation = op.attr("equation")
    equation = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if "..." in left or any(len(set(t)) < len(t) for t in terms):
        raise HiddenError(f"the equation {equation!r}")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    parts = []
    for term, x in zip(terms, inputs, strict=True):
        if x is not None:
            summed = [i for i, c in enumerate(term) if c not in right]
            x, kept = x.collapse(summed).drop(summed), [c for c in term if c in right]
            x = x.permute([kept.index(c) for c in right if c in kept])
            parts.append(x.insert([i for i, c in enumerate(right) if c not in kept]))
    return with_all(None, *parts).fit(op.out())
