"""Sums, means, products, extrema and norms over axes."""

from __future__ import annotations

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, vjp
from analyzer.gradient.rules.elementwise import masked, where


def axes_of(op: Builder, node: Primal) -> list[int] | None:
    """The axes that are reduced, counted from the front; None where the file does not say."""
    rank, given = op.rank(node.x), node.const(1)
    if node.inputs[1] is not None and given is None:
        return None
    if given is None or not given.size:
        return [] if node.attr("noop_with_empty_axes") else list(range(rank))
    return sorted(int(a) % rank for a in given.ravel())


def kept(op: Builder, node: Primal, value: Value) -> Value:
    """`value`, shaped as the result, with the reduced axes kept at size 1."""
    if node.attr("keepdims"):
        return value
    axes = axes_of(op, node)
    if axes is not None:
        return op.Unsqueeze(value, axes) if axes else value
    noop = node.attr("noop_with_empty_axes")
    shape = op.shape(op.ReduceSum(node.x, node.inputs[1], keepdims=1, noop_with_empty_axes=noop))
    return op.Reshape(value, shape)


def total(op: Builder, node: Primal, value: Value) -> Value:
    """Σ value over the axes of `node`, kept at size 1."""
    return op.ReduceSum(value, node.inputs[1], keepdims=1, noop_with_empty_axes=node.attr("noop_with_empty_axes"))


def spread(op: Builder, node: Primal, ct: Value) -> Value:
    """ȳ at every element that was reduced into it."""
    return op.expand_like(kept(op, node, ct), node.x)


@vjp("ReduceSum", since=13)
def reduce_sum_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = Σ x   ⇒   x̄ = ȳ at every element"""
    return spread(op, node, ct)


@vjp("ReduceMean", since=18)
def reduce_mean_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = Σ x / n   ⇒   x̄ = ȳ / n at every element"""
    axes = axes_of(op, node)
    count = op.size(node.x, axes) if axes is not None else op.Div(op.size(node.x), op.size(node.y))
    return spread(op, node, op.Div(ct, count))


@vjp("ReduceMax", "ReduceMin", since=18)
def reduce_extremum_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = max x or min x   ⇒   x̄ = ȳ ⊙ 1[x = y] / number of ties"""
    chosen = op.Equal(node.x, kept(op, node, node.outcome(op)))
    share = op.Div(kept(op, node, ct), total(op, node, op.cast(chosen, ct.dtype)))
    return masked(op, node, chosen, share)


@vjp("ReduceProd", since=18)
def reduce_prod_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = Π x   ⇒   x̄ᵢ = ȳ Πⱼ≠ᵢ xⱼ, also where elements are 0"""
    is_zero = op.Equal(node.x, 0.0)
    zero = op.cast(is_zero, ct.dtype)
    rest = op.Where(is_zero, op.scalar(1, node.x), node.x)
    product = op.ReduceProd(rest, node.inputs[1], keepdims=1, noop_with_empty_axes=node.attr("noop_with_empty_axes"))
    alone = op.Equal(op.Sub(total(op, node, zero), zero), 0.0)
    return op.Mul(kept(op, node, ct), where(op, alone, op.Div(product, rest)))


@vjp("ReduceL1", since=18)
def reduce_l1_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = Σ |x|   ⇒   x̄ = ȳ ⊙ sign x"""
    return op.Mul(kept(op, node, ct), op.Sign(node.x))


@vjp("ReduceL2", since=18)
def reduce_l2_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = √(Σ x²)   ⇒   x̄ = ȳ ⊙ x / y, 0 where y = 0"""
    scaled = where(op, op.Greater(node.y, 0.0), op.Div(ct, node.y))
    return op.Mul(node.x, kept(op, node, scaled))


@vjp("ReduceSumSquare", since=18)
def reduce_sum_square_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = Σ x²   ⇒   x̄ = 2 ȳ ⊙ x"""
    return op.Mul(node.x, kept(op, node, op.Mul(ct, 2.0)))


@vjp("ReduceLogSum", since=18, pole=True)
def reduce_log_sum_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = log Σ x   ⇒   x̄ = ȳ / Σ x at every element"""
    return spread(op, node, op.Div(ct, op.Exp(node.y)))


@vjp("ReduceLogSumExp", since=18)
def reduce_log_sum_exp_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = log Σ eˣ   ⇒   x̄ = ȳ ⊙ e^(x − y)"""
    return op.Mul(kept(op, node, ct), op.Exp(op.Sub(node.x, kept(op, node, node.y))))


@vjp("CumSum")
def cumsum_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """yᵢ = Σⱼ≤ᵢ xⱼ   ⇒   x̄ⱼ = Σᵢ≥ⱼ ȳᵢ"""
    exclusive, reverse = node.attr("exclusive"), node.attr("reverse")
    return op.CumSum(ct, node.inputs[1], exclusive=exclusive, reverse=1 - reverse), None


@vjp("CumProd")
def cumprod_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """yᵢ = Πⱼ≤ᵢ xⱼ   ⇒   x̄ⱼ = Σᵢ≥ⱼ ȳᵢ yᵢ / xⱼ; for the first xⱼ = 0, with y for xⱼ = 1; 0 after it"""
    x, axis = node.inputs
    exclusive, reverse = node.attr("exclusive"), node.attr("reverse")

    def behind(values: Value) -> Value:
        return op.CumSum(op.Mul(ct, values), axis, exclusive=exclusive, reverse=1 - reverse)

    is_zero = op.Equal(x, 0.0)
    nth = op.CumSum(op.cast(is_zero, np.dtype(np.float32)), axis, exclusive=0, reverse=reverse)
    first = op.And(is_zero, op.Equal(nth, 1.0))
    without = op.CumProd(op.Where(first, op.scalar(1, x), x), axis, exclusive=exclusive, reverse=reverse)
    divided = op.Div(behind(node.y), op.Where(is_zero, op.scalar(1, x), x))
    return op.Where(first, behind(without), divided), None


@vjp("Range", since=11)
def range_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """yᵢ = start + i δ   ⇒   start̄ = Σ ȳ, δ̄ = Σ i ȳ; none for the limit, which only sets the count"""
    count = op.Squeeze(op.Shape(ct), [0])
    steps = op.cast(op.Range(np.int64(0), count, np.int64(1)), ct.dtype)
    return op.ReduceSum(ct, keepdims=0), None, op.ReduceSum(op.Mul(ct, steps), keepdims=0)
