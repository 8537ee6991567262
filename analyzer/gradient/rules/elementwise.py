"""Operators that act on each element, and the broadcasting arithmetic of two or more."""

from __future__ import annotations

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, vjp

# ---- Arithmetic; the pass sums over broadcast axes ----


@vjp("Identity")
def identity_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x   ⇒   x̄ = ȳ"""
    return ct


@vjp("Neg")
def neg_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = −x   ⇒   x̄ = −ȳ"""
    return op.Neg(ct)


@vjp("Add", since=7)
def add_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = a + b   ⇒   ā = ȳ, b̄ = ȳ"""
    return ct, ct


@vjp("Mul", since=7)
def mul_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = a ⊙ b   ⇒   ā = ȳ ⊙ b, b̄ = ȳ ⊙ a"""
    a, b = node.inputs
    return op.Mul(ct, b), op.Mul(ct, a)


# ---- Rectifiers ----


@vjp("Relu", since=6)
def relu_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = max(x, 0)   ⇒   x̄ = ȳ ⊙ 1[y > 0]"""
    return op.Mul(ct, op.cast(op.Greater(node.y, 0.0), ct.dtype))


@vjp("Clip", since=11)
def clip_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = min(max(x, lo), hi)   ⇒   x̄ = ȳ ⊙ 1[lo ≤ x ≤ hi], bounds included"""
    x, lo, hi = node.inputs
    inside = ct
    if lo is not None:
        inside = op.Where(op.GreaterOrEqual(x, lo), inside, 0.0)
    if hi is not None:
        inside = op.Where(op.LessOrEqual(x, hi), inside, 0.0)
    return inside, None, None


@vjp("Max", since=8)
def max_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = max(x₁, x₂, …)   ⇒   x̄ᵢ = ȳ ⊙ 1[xᵢ = y] / number of ties"""
    return tuple(op.Mul(ct, op.cast(op.Equal(x, node.y), ct.dtype)) for x in node.inputs)
