"""Operators that act on each element, and the broadcasting arithmetic of two or more."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, vjp
from analyzer.gradient.rules.poles import divides_by_zero, is_of_zero, is_root_of_zero


def where(op: Builder, condition: Value, ct: Value) -> Value:
    """ȳ where the condition holds, 0 elsewhere; also where ȳ is not finite."""
    return op.Where(condition, ct, 0.0)


def masked(op: Builder, node: Primal, condition: Value, ct: Value) -> Value:
    """ȳ where the condition holds, 0 elsewhere: by a product, which is cheaper, where ȳ is finite for certain."""
    return op.Mul(ct, op.cast(condition, ct.dtype)) if node.finite else where(op, condition, ct)


def masked_at_kinks(op: Builder, node: Primal, passes: Value, is_kink: Value, ct: Value) -> Value:
    """ȳ where it passes, 0 elsewhere; a ȳ that is not finite does not pass at a kink, where 0 is as true."""
    if node.finite:
        return masked(op, node, passes, ct)
    return where(op, op.And(passes, op.Or(op.Not(is_kink), is_finite(op, ct))), ct)


def is_finite(op: Builder, value: Value) -> Value:
    """Whether an element is neither infinite nor NaN."""
    return op.Equal(op.Sub(value, value), 0.0)


def confined(op: Builder, node: Primal, ct: Value, product: Callable[..., Value], *weights: Value) -> Value:
    """product(ȳ, *weights), linear in each: NaN where a ȳ that is not finite has a weight, and nowhere else.

    For weights among which are zeros: the product alone would make NaN of 0 · ∞ too.
    """
    if node.finite:
        return product(ct, *weights)
    finite = is_finite(op, ct)
    reached = op.Greater(product(op.cast(op.Not(finite), ct.dtype), *(op.Abs(w) for w in weights)), 0.0)
    return op.Where(reached, op.scalar(float("nan"), ct), product(where(op, finite, ct), *weights))


# ---- Arithmetic; the pass sums over broadcast axes ----


@vjp("Identity")
def identity_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x   ⇒   x̄ = ȳ"""
    return ct


@vjp("Dropout")
def dropout_vjp(op: Builder, node: Primal, ct: Value, *_: Cotangent) -> Cotangent:
    """y = x (inference)   ⇒   x̄ = ȳ"""
    training = node.const(2)
    if node.inputs[2] is not None and (training is None or training.any()):
        raise node.refuse("it is in training mode (random)", "export the model for inference")
    return ct


@vjp("Neg")
def neg_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = −x   ⇒   x̄ = −ȳ"""
    return op.Neg(ct)


@vjp("Add", since=7)
def add_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = a + b   ⇒   ā = ȳ, b̄ = ȳ"""
    return ct, ct


@vjp("Sub", since=7)
def sub_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = a − b   ⇒   ā = ȳ, b̄ = −ȳ"""
    return ct, op.Neg(ct) if node.needs(1) else None


@vjp("Mul", since=7)
def mul_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = a ⊙ b   ⇒   ā = ȳ ⊙ b, b̄ = ȳ ⊙ a"""
    a, b = node.inputs
    return op.Mul(ct, b), op.Mul(ct, a)


@vjp("Div", since=7, pole=divides_by_zero)
def div_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = a / b   ⇒   ā = ȳ / b, b̄ = −ȳ ⊙ y / b"""
    share = op.Div(ct, node.inputs[1])
    return share, op.Neg(op.Mul(share, node.y)) if node.needs(1) else None


@vjp("Mod", since=10)
def mod_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = a − ⌊a / b⌋ b (towards zero with fmod)   ⇒   ā = ȳ, b̄ = −ȳ ⊙ (a − y) / b"""
    a, b = node.inputs
    return ct, op.Neg(op.Mul(ct, op.Div(op.Sub(a, node.y), b))) if node.needs(1) else None


@vjp("Pow", since=7, pole=is_root_of_zero)
def pow_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = aᵇ   ⇒   ā = ȳ ⊙ b aᵇ⁻¹ (0 where b = 0), b̄ = ȳ ⊙ y log a (0 where a ≤ 0)"""
    a, b = node.inputs
    power = op.cast(b, node.x.dtype)
    slope = op.Mul(power, op.Pow(a, op.Sub(power, 1.0)))
    a_bar = where(op, op.Not(op.Equal(op.Expand(power, op.shape(ct)), 0.0)), op.Mul(ct, slope))
    if not node.needs(1):
        return a_bar, None
    is_positive = op.Greater(a, 0.0)
    log = op.Log(op.Where(is_positive, a, 1.0))
    return a_bar, where(op, is_positive, op.Mul(ct, op.Mul(node.y, log)))


@vjp("Sum", since=8)
def sum_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = x₁ + x₂ + …   ⇒   x̄ᵢ = ȳ"""
    return (ct,) * len(node.inputs)


@vjp("Mean", since=8)
def mean_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = (x₁ + … + xₙ) / n   ⇒   x̄ᵢ = ȳ / n"""
    return (op.Mul(ct, 1.0 / len(node.inputs)),) * len(node.inputs)


@vjp("Max", "Min", since=8)
def extremum_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = max(x₁, x₂, …) or min   ⇒   x̄ᵢ = ȳ ⊙ 1[xᵢ = y] / number of ties"""
    if len(node.inputs) == 1:
        return (ct,)
    y = node.outcome(op)
    chosen = [op.Equal(x, y) for x in node.inputs]
    ties = op.cast(chosen[0], ct.dtype)
    for other in chosen[1:]:
        ties = op.Add(ties, op.cast(other, ct.dtype))
    share, is_tie = op.Div(ct, ties), op.Greater(ties, 1.0)
    return tuple(masked_at_kinks(op, node, mask, is_tie, share) for mask in chosen)


@vjp("Where", since=9)
def where_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = a where c, else b   ⇒   ā = ȳ where c, else 0; b̄ = 0 where c, else ȳ"""
    condition = node.inputs[0]
    b_bar = op.Where(condition, op.zeros_like(op.scalar(0, ct)), ct) if node.needs(2) else None
    return None, where(op, condition, ct) if node.needs(1) else None, b_bar


@vjp("Cast", "CastLike", since=6)
def cast_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x as another type   ⇒   x̄ = ȳ as x's type"""
    return ct


# ---- Powers, exponentials, circular and hyperbolic functions ----


@vjp("Abs", since=6)
def abs_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = |x|   ⇒   x̄ = ȳ ⊙ sign x"""
    return op.Mul(ct, op.Sign(node.x))


@vjp("Reciprocal", since=6, pole=is_of_zero)
def reciprocal_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = 1 / x   ⇒   x̄ = −ȳ ⊙ y²"""
    return op.Neg(op.Mul(ct, op.Mul(node.y, node.y)))


@vjp("Sqrt", since=6)
def sqrt_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = √x   ⇒   x̄ = ȳ / 2y, 0 where y = 0"""
    return where(op, op.Greater(node.y, 0.0), op.Div(op.Mul(ct, 0.5), node.y))


@vjp("Exp", since=6)
def exp_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = eˣ   ⇒   x̄ = ȳ ⊙ y"""
    return op.Mul(ct, node.y)


@vjp("Log", since=6, pole=is_of_zero)
def log_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = log x   ⇒   x̄ = ȳ / x"""
    return op.Div(ct, node.x)


@vjp("Erf")
def erf_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = erf x   ⇒   x̄ = ȳ ⊙ 2/√π e^(−x²)"""
    return op.Mul(op.Mul(ct, 2 / math.sqrt(math.pi)), op.Exp(op.Neg(op.Mul(node.x, node.x))))


@vjp("Sin")
def sin_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = sin x   ⇒   x̄ = ȳ ⊙ cos x"""
    return op.Mul(ct, op.Cos(node.x))


@vjp("Cos")
def cos_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = cos x   ⇒   x̄ = −ȳ ⊙ sin x"""
    return op.Neg(op.Mul(ct, op.Sin(node.x)))


@vjp("Tan")
def tan_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = tan x   ⇒   x̄ = ȳ ⊙ (1 + y²)"""
    return op.Mul(ct, op.Add(op.Mul(node.y, node.y), 1.0))


@vjp("Asin", pole=True)
def asin_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = asin x   ⇒   x̄ = ȳ / √(1 − x²)"""
    return op.Div(ct, op.Sqrt(op.Sub(1.0, op.Mul(node.x, node.x))))


@vjp("Acos", pole=True)
def acos_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = acos x   ⇒   x̄ = −ȳ / √(1 − x²)"""
    return op.Neg(op.Div(ct, op.Sqrt(op.Sub(1.0, op.Mul(node.x, node.x)))))


@vjp("Atan")
def atan_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = atan x   ⇒   x̄ = ȳ / (1 + x²)"""
    return op.Div(ct, op.Add(op.Mul(node.x, node.x), 1.0))


@vjp("Sinh")
def sinh_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = sinh x   ⇒   x̄ = ȳ ⊙ cosh x"""
    return op.Mul(ct, op.Mul(op.Add(op.Exp(node.x), op.Exp(op.Neg(node.x))), 0.5))


@vjp("Cosh")
def cosh_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = cosh x   ⇒   x̄ = ȳ ⊙ sinh x"""
    return op.Mul(ct, op.Mul(op.Sub(op.Exp(node.x), op.Exp(op.Neg(node.x))), 0.5))


@vjp("Tanh", since=6)
def tanh_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = tanh x   ⇒   x̄ = ȳ ⊙ (1 − y²)"""
    return op.Mul(ct, op.Sub(1.0, op.Mul(node.y, node.y)))


@vjp("Asinh")
def asinh_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = asinh x   ⇒   x̄ = ȳ / √(x² + 1)"""
    return op.Div(ct, op.Sqrt(op.Add(op.Mul(node.x, node.x), 1.0)))


@vjp("Acosh", pole=True)
def acosh_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = acosh x   ⇒   x̄ = ȳ / √(x² − 1)"""
    return op.Div(ct, op.Sqrt(op.Sub(op.Mul(node.x, node.x), 1.0)))


@vjp("Atanh", pole=True)
def atanh_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = atanh x   ⇒   x̄ = ȳ / (1 − x²)"""
    return op.Div(ct, op.Sub(1.0, op.Mul(node.x, node.x)))


# ---- Activations ----


@vjp("Relu", since=6)
def relu_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = max(x, 0)   ⇒   x̄ = ȳ ⊙ 1[y > 0]"""
    return masked(op, node, op.Greater(node.y, 0.0), ct)


@vjp("Clip", since=11)
def clip_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = min(max(x, lo), hi)   ⇒   x̄ = ȳ ⊙ 1[lo ≤ x ≤ hi]; l̄o = Σ ȳ where x < lo ≤ hi, h̄i = Σ ȳ where x or lo > hi"""
    x, lo, hi = node.inputs
    bounds = [(op.GreaterOrEqual, lo)] * (lo is not None) + [(op.LessOrEqual, hi)] * (hi is not None)
    x_bar = ct
    if bounds:
        inside = functools.reduce(op.And, [compare(x, bound) for compare, bound in bounds])
        is_bound = functools.reduce(op.Or, [op.Equal(x, bound) for _, bound in bounds])
        x_bar = masked_at_kinks(op, node, inside, is_bound, ct)
    lo_bar = hi_bar = None
    if lo is not None and node.needs(1):
        below = op.Less(x, lo)
        lo_bar = where(op, below if hi is None else op.And(below, op.LessOrEqual(lo, hi)), ct)
    if hi is not None and node.needs(2):
        above = op.Greater(x, hi)
        hi_bar = where(op, above if lo is None else op.Or(above, op.Greater(lo, hi)), ct)
    return x_bar, lo_bar, hi_bar


@vjp("LeakyRelu", since=6)
def leaky_relu_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x where x > 0, else α x   ⇒   x̄ = ȳ where x > 0, else α ȳ"""
    return op.Where(op.Greater(node.x, 0.0), ct, op.Mul(ct, node.attr("alpha")))


@vjp("PRelu", since=9)
def prelu_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = x where x > 0, else s x   ⇒   x̄ = ȳ where x > 0, else s ȳ; s̄ = Σ ȳ min(x, 0)"""
    x, slope = node.inputs
    x_bar = op.Where(op.Greater(x, 0.0), ct, op.Mul(ct, slope))
    return x_bar, op.Mul(ct, op.Neg(op.Relu(op.Neg(x)))) if node.needs(1) else None


@vjp("ThresholdedRelu")
def thresholded_relu_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x where x > α, else 0   ⇒   x̄ = ȳ ⊙ 1[x > α]"""
    return masked(op, node, op.Greater(node.x, node.attr("alpha")), ct)


@vjp("Shrink")
def shrink_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x ∓ bias where |x| > λ, else 0   ⇒   x̄ = ȳ ⊙ 1[|x| > λ]"""
    return masked(op, node, op.Greater(op.Abs(node.x), node.attr("lambd")), ct)


@vjp("Elu", since=6)
def elu_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x where x > 0, else α (eˣ − 1)   ⇒   x̄ = ȳ where x > 0, else ȳ ⊙ (y + α)"""
    return op.Where(op.Greater(node.x, 0.0), ct, op.Mul(ct, op.Add(node.y, node.attr("alpha"))))


@vjp("Celu")
def celu_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = max(x, 0) + min(0, α (e^(x/α) − 1))   ⇒   x̄ = ȳ where x > 0, else ȳ ⊙ (y/α + 1)"""
    slope = op.Add(op.Div(node.y, node.attr("alpha")), 1.0)
    return op.Where(op.Greater(node.x, 0.0), ct, op.Mul(ct, slope))


@vjp("Selu", since=6)
def selu_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = γ x where x > 0, else γ α (eˣ − 1)   ⇒   x̄ = γ ȳ where x > 0, else ȳ ⊙ (y + γ α)"""
    alpha, gamma = node.attr("alpha"), node.attr("gamma")
    below = op.Mul(ct, op.Add(node.y, alpha * gamma))
    return op.Where(op.Greater(node.x, 0.0), op.Mul(ct, gamma), below)


@vjp("Sigmoid", since=6)
def sigmoid_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = σ(x)   ⇒   x̄ = ȳ ⊙ y (1 − y)"""
    return op.Mul(ct, op.Mul(node.y, op.Sub(1.0, node.y)))


@vjp("HardSigmoid", since=6)
def hard_sigmoid_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = min(max(α x + β, 0), 1)   ⇒   x̄ = α ȳ ⊙ 1[0 < y < 1]"""
    y = node.outcome(op)
    inside = op.And(op.Greater(y, 0.0), op.Less(y, 1.0))
    return where(op, inside, op.Mul(ct, node.attr("alpha")))


@vjp("HardSwish")
def hard_swish_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x h, h = min(max(x/6 + ½, 0), 1)   ⇒   x̄ = ȳ ⊙ (h + x/6 ⊙ 1[0 < h < 1])"""
    gate = op.Clip(op.Add(op.Mul(node.x, 1 / 6), 0.5), op.scalar(0, ct), op.scalar(1, ct))
    inside = op.And(op.Greater(gate, 0.0), op.Less(gate, 1.0))
    slope = op.Add(gate, where(op, inside, op.Mul(node.x, 1 / 6)))
    return op.Mul(ct, slope) if node.finite else where(op, op.Greater(gate, 0.0), op.Mul(ct, slope))


@vjp("Softplus")
def softplus_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = log(1 + eˣ)   ⇒   x̄ = ȳ ⊙ σ(x)"""
    return op.Mul(ct, op.Sigmoid(node.x))


@vjp("Softsign")
def softsign_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x / (1 + |x|)   ⇒   x̄ = ȳ / (1 + |x|)²"""
    size = op.Add(op.Abs(node.x), 1.0)
    return op.Div(ct, op.Mul(size, size))


@vjp("Mish")
def mish_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x t, t = tanh(log(1 + eˣ))   ⇒   x̄ = ȳ ⊙ (t + x (1 − t²) σ(x))"""
    t = op.Tanh(op.Softplus(node.x))
    slope = op.Mul(op.Mul(node.x, op.Sigmoid(node.x)), op.Sub(1.0, op.Mul(t, t)))
    return op.Mul(ct, op.Add(t, slope))


@vjp("Gelu")
def gelu_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x Φ(x)   ⇒   x̄ = ȳ ⊙ (Φ(x) + x φ(x)), φ and Φ the normal density and distribution, or by tanh"""
    x = node.x
    if node.attr("approximate") == "tanh":
        # Φ ≈ (1 + tanh u) / 2, u = √(2/π) (x + 0.044715 x³)
        square, scale = op.Mul(x, x), math.sqrt(2 / math.pi)
        t = op.Tanh(op.Mul(op.Mul(x, scale), op.Add(op.Mul(square, 0.044715), 1.0)))
        density = op.Mul(op.Sub(1.0, op.Mul(t, t)), op.Add(op.Mul(square, 3 * 0.044715 * scale / 2), scale / 2))
        distribution = op.Mul(op.Add(t, 1.0), 0.5)
    else:
        density = normal_density(op, x)
        distribution = op.Mul(op.Add(op.Erf(op.Mul(x, math.sqrt(0.5))), 1.0), 0.5)
    return op.Mul(ct, op.Add(distribution, op.Mul(x, density)))


def normal_density(op: Builder, x: Value) -> Value:
    """φ(x) = e^(−x²/2) / √(2π)"""
    return op.Mul(op.Exp(op.Mul(op.Mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
