"""Products of matrices: MatMul, Gemm, Einsum; determinants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, part, vjp
from analyzer.gradient.rules.elementwise import where


def transposed(op: Builder, matrix: Value) -> Value:
    """Last two axes swapped."""
    rank = op.rank(matrix)
    return op.Transpose(matrix, perm=[*range(rank - 2), rank - 1, rank - 2])


@vjp("MatMul", since=9)
def matmul_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """Y = A B   ⇒   Ā = Ȳ Bᵀ, B̄ = Aᵀ Ȳ; summed over broadcast axes"""
    a, b = node.inputs
    row, column = op.rank(a) == 1, op.rank(b) == 1
    ct = op.Unsqueeze(ct, [-1]) if column else ct
    ct = op.Unsqueeze(ct, [-2]) if row else ct
    a_bar = b_bar = None
    if node.needs(0):
        a_bar = left_bar(op, node, ct)
        a_bar = op.Squeeze(a_bar, [-2]) if row else a_bar
    if node.needs(1):
        b_bar = op.MatMul(op.Unsqueeze(a, [1]) if row else transposed(op, a), ct)
        b_bar = op.Squeeze(b_bar, [-1]) if column else b_bar
    return a_bar, b_bar


@part("MatMul")
def left_bar(op: Builder, node: Primal, ct: Value) -> Value:
    """Ā = Ȳ Bᵀ; a vector b is a column"""
    b = node.inputs[1]
    return op.MatMul(ct, op.Unsqueeze(b, [0]) if op.rank(b) == 1 else transposed(op, b))


@vjp("Gemm", since=7)
def gemm_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """Y = α A B + β C   ⇒   Ā = α Ȳ Bᵀ, B̄ = α Aᵀ Ȳ, C̄ = β Ȳ; A, B possibly transposed"""
    a, b, c = node.inputs
    alpha, ta, tb = node.attr("alpha"), node.attr("transA"), node.attr("transB")
    a_bar = b_bar = None
    if node.needs(0):
        if ta:
            a_bar = op.Gemm(b, ct, alpha=alpha, transA=tb, transB=1)
        else:
            a_bar = op.Gemm(ct, b, alpha=alpha, transA=0, transB=1 - tb)
    if node.needs(1):
        if tb:
            b_bar = op.Gemm(ct, a, alpha=alpha, transA=1, transB=ta)
        else:
            b_bar = op.Gemm(a, ct, alpha=alpha, transA=1 - ta, transB=0)
    return a_bar, b_bar, op.Mul(ct, node.attr("beta")) if c is not None and node.needs(2) else None


@vjp("Einsum")
def einsum_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = einsum("a,b→y", a, b)   ⇒   ā = einsum("y,b→a", ȳ, b), repeated over axes that only a has"""
    terms, result = _labels(op, node)
    return tuple(_operand_bar(op, node, ct, terms, result, i) if node.needs(i) else None for i in range(len(terms)))


def _labels(op: Builder, node: Primal) -> tuple[list[str], str]:
    """The labels of every operand and of the result, the ellipsis spelled out and the result explicit."""
    equation = node.attr("equation").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    counts = [op.rank(x) - len(t.replace("...", "")) for t, x in zip(terms, node.inputs, strict=True)]
    free = [c for c in map(chr, [*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1)]) if c not in equation]
    dots = "".join(free[: max([c for c, t in zip(counts, terms, strict=True) if "..." in t], default=0)])
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        result = ("..." if "..." in left else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    spelled = [t.replace("...", dots[len(dots) - c :] if c else "") for t, c in zip(terms, counts, strict=True)]
    return spelled, result.replace("...", dots)


def _operand_bar(op: Builder, node: Primal, ct: Value, terms: Sequence[str], result: str, index: int) -> Value:
    """ā of one operand."""
    others = [(t, x) for i, (t, x) in enumerate(zip(terms, node.inputs, strict=True)) if i != index]
    term, x = terms[index], node.inputs[index]
    seen = set(result).union(*(t for t, _ in others))
    once = "".join(dict.fromkeys(term))
    found = "".join(c for c in once if c in seen)
    value = op.Einsum(ct, *(v for _, v in others), equation=",".join([result, *(t for t, _ in others)]) + "->" + found)
    if found == term:
        return value
    # Axes that were summed are repeated; a label that occurs twice selected the diagonal.
    value = op.Unsqueeze(value, [i for i, c in enumerate(once) if c not in seen]) if found != once else value
    value = value if once == term else _on_diagonals(op, node, value, term, x)
    return op.Expand(value, op.shape(x))


def _on_diagonals(op: Builder, node: Primal, value: Value, term: str, x: Value) -> Value:
    """`value`, with an axis per label, laid on the diagonals of x whose axes have the same label; 0 beside them."""
    places = [i for i, c in enumerate(term) if c in term[:i]]
    value = op.Unsqueeze(value, places)
    for place in places:
        size = op.Gather(op.shape(x), np.int64(place))
        line = op.Range(np.int64(0), size, np.int64(1))
        others = [i for i in range(len(term)) if i not in (term.index(term[place]), place)]
        eye = op.cast(op.Equal(op.Unsqueeze(line, [1]), op.Unsqueeze(line, [0])), value.dtype)
        eye = op.Unsqueeze(eye, others) if others else eye
        value = op.Mul(value, eye) if node.finite else where(op, op.Greater(eye, 0.0), value)
    return value


@vjp("Det")
def det_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = det X   ⇒   X̄ = ȳ cof X: determinants of X without row i and column j, with alternating signs"""
    x, rank = node.x, op.rank(node.x)
    wide = op.Unsqueeze(ct, [-2, -1])
    if op.dim(x, rank - 1) == 1:
        return wide
    size = op.Squeeze(op.shape(x, rank - 1), [0])
    every, fewer = (op.Range(np.int64(0), n, np.int64(1)) for n in (size, op.Sub(size, np.int64(1))))
    row = op.Unsqueeze(every, [1])
    kept = op.Add(fewer, op.cast(op.GreaterOrEqual(op.Unsqueeze(fewer, [0]), row), np.dtype(np.int64)))
    minors = op.Gather(op.Gather(x, kept, axis=rank - 2), kept, axis=rank)
    minors = op.Transpose(minors, perm=[*range(rank - 2), rank - 2, rank, rank - 1, rank + 1])
    odd = op.Mod(op.Add(row, op.Unsqueeze(every, [0])), np.int64(2))
    sign = op.Sub(1.0, op.Mul(op.cast(odd, x.dtype), 2.0))
    return op.Mul(wide, op.Mul(op.Det(minors), sign))
