"""Activations in one pass, where the runtime has one, and the products that exporters write them with."""

from __future__ import annotations

import math

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Graph, Node, Primal, Value, idiom
from analyzer.gradient.rules.elementwise import (
    clip_vjp,
    gelu_vjp,
    mul_vjp,
    normal_density,
    pow_vjp,
    relu_vjp,
    sigmoid_vjp,
    where,
)

FLOAT32 = np.dtype(np.float32)
LARGEST = float(np.finfo(np.float32).max)


# ---- A power by a number ----


@idiom(pow_vjp)
def pow_by_number(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """A known exponent needs no mask for 0, and no Pow for 0, 1 and 2."""
    known = node.const(1)
    if known is None or known.size != 1 or node.needs(1):
        return NotImplemented
    a, exponent = node.x, float(known.item())
    if exponent in (0.0, 1.0):
        return (ct if exponent else None), None
    slope = a if exponent == 2 else op.Pow(a, op.scalar(exponent - 1, a))
    return op.Mul(ct, op.Mul(slope, exponent)), None


# ---- In one pass: HardSigmoid, min(max(α x + β, 0), 1), which onnxruntime computes in its blocked layout ----
#
# TensorRT has these as well: its parser was asked about them, and engines were built with them.


def complement(op: Builder, share: Value) -> Value:
    """1 − s for s in [0, 1]; in float32 in one pass."""
    if share.dtype == FLOAT32:
        return op.HardSigmoid(share, alpha=-1.0, beta=1.0)
    return op.Sub(1.0, share)


def one_more(op: Builder, sign: Value, k: float) -> Value:
    """k (1 + s) for s in [−1, 1]; in float32 in one pass where that is at most 1."""
    if sign.dtype == FLOAT32 and 0 < k <= 0.5:
        return op.HardSigmoid(sign, alpha=k, beta=k)
    return op.Mul(op.Add(sign, 1.0), k)


def is_positive(op: Builder, y: Value) -> Value:
    """1[y > 0] of a y ≥ 0 in float32: a HardSigmoid with the largest slope there is, exact for every normal number.

    Its offset is a negative nothing instead of 0, which OpenVINO 2026.4 reads as left out (½).
    """
    return op.HardSigmoid(y, alpha=LARGEST, beta=-1e-30)


@idiom(relu_vjp)
def relu_in_one_pass(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """The mask 1[y > 0] is a steep HardSigmoid, one pass in onnxruntime's blocked layout, not Greater and Cast."""
    if node.y.dtype != FLOAT32 or not node.finite:
        return NotImplemented
    return op.Mul(ct, is_positive(op, node.y))


@idiom(sigmoid_vjp)
def sigmoid_in_one_pass(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """1 − y is a HardSigmoid, one pass in onnxruntime's blocked layout, instead of Sub."""
    return op.Mul(ct, op.Mul(node.y, complement(op, node.y)))


@idiom(gelu_vjp)
def gelu_in_one_pass(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """Φ(x) = (1 + erf(x/√2)) / 2 is a HardSigmoid of erf, one pass, instead of Add and Mul."""
    if node.attr("approximate") == "tanh":
        return NotImplemented
    density = normal_density(op, node.x)
    distribution = one_more(op, op.Erf(op.Mul(node.x, math.sqrt(0.5))), 0.5)
    return op.Mul(ct, op.Add(distribution, op.Mul(node.x, density)))


@idiom(clip_vjp)
def relu6_behind_convolution(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """The mask of a ReLU6 directly after a convolution is read off y instead of x, so that onnxruntime still computes
    both in one pass and never stores x. Bounds are excluded, as in the frameworks' own ReLU6."""
    channels = _fused_relu6(node)
    if channels is None:
        return NotImplemented
    inside = _is_inside(op, node.y, channels, node.const(2).item())
    return (op.Mul(ct, inside) if node.finite else where(op, op.Greater(inside, 0.0), ct)), None, None


def _is_inside(op: Builder, y: Value, channels: int, hi: float) -> Value:
    """1[0 < y < hi] of a y in [0, hi]: where y − hi 1[y > 0] is negative, in float32 exactly.

    That difference is written as a BatchNormalization and an Add, which the runtime, in its blocked layout, makes one
    pass of together with the HardSigmoid after it.
    """
    scale, zero, one = (op.constant(np.full(channels, v, np.float32)) for v in (-hi, 0, 1))
    below = op.BatchNormalization(is_positive(op, y), scale, zero, zero, one, epsilon=0.0)
    return op.HardSigmoid(op.Add(below, y), alpha=-LARGEST, beta=-1e-30)


def _fused_relu6(node: Primal) -> int | None:
    """The channels of a ReLU6 directly after a convolution, None of other clips."""
    below, above, producer = node.const(1), node.const(2), node.graph.producer(node.x)
    shape = node.y.shape or ()
    channels = shape[1] if len(shape) > 1 else None
    is_fused = (
        node.y.dtype == FLOAT32
        and (below is not None and below.size == 1 and below.item() == 0)
        and (above is not None and above.size == 1 and 0 < above.item() < 1e6)
        and producer is not None
        and producer.op in ("Conv", "BatchNormalization")
        and node.is_between(node.x)
    )
    return channels if is_fused and isinstance(channels, int) else None


# ---- Products that are activations ----


@idiom(mul_vjp)
def silu_product(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """x σ(x) is differentiated as a whole, x̄ = ȳ ⊙ (σ + y (1 − σ)): fewer passes than by two rules."""
    for index, (x, gate) in enumerate((node.inputs, node.inputs[::-1])):
        sigmoid = _alone(node, gate, "Sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is x:
            total = op.Mul(ct, op.Add(gate, op.Mul(node.y, complement(op, gate))))
            return (None,) * index + (total,)
    return NotImplemented


@idiom(mul_vjp)
def gelu_product(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """x (1 + erf(c x)) is differentiated as a whole, x̄ = ȳ ⊙ (1 + erf(c x) + x 2c/√π e^(−c² x²)). The gradient reads
    only x, so that the runtime still fuses the GELU; the factor ½, in ȳ = k ȳ′, is merged into the constants."""
    for index, (x, gate) in enumerate((node.inputs, node.inputs[::-1])):
        c = _gelu_scale(node, x, gate)
        if c is not None:
            ct, k = _unscaled(op, ct)
            bell = op.Mul(op.Exp(op.Mul(op.Mul(x, x), -c * c)), 2 * k * c / math.sqrt(math.pi))
            bulk = one_more(op, op.Erf(op.Mul(x, c)), k)
            total = op.Mul(ct, op.Add(bulk, op.Mul(x, bell)))
            return (None,) * index + (total,)
    return NotImplemented


def _gelu_scale(node: Primal, x: Value, gate: Value) -> float | None:
    """c, where `gate` is 1 + erf(c x) or 1 + erf(x / (1/c)) and all of it serves this product only; else None."""
    add = _alone(node, gate, "Add")
    erf = None if add is None else _alone(node, _added_to_one(node.graph, add), "Erf")
    scaled = None if erf is None else _alone(node, erf.inputs[0], "Mul", "Div")
    if scaled is None or scaled.inputs[0] is not x:
        return None
    factor = node.graph.constant(scaled.inputs[1])
    if factor is None or factor.size != 1 or not float(factor.item()):
        return None
    return float(factor.item()) if scaled.op == "Mul" else 1 / float(factor.item())


def _alone(node: Primal, value: Value | None, *ops: str) -> Node | None:
    """The node that makes `value`, where it is one of `ops` and `value` is read by nothing but one node."""
    producer = None if value is None else node.graph.producer(value)
    if value is None or producer is None or producer.op not in ops or producer.domain or not node.is_between(value):
        return None
    return producer


def _added_to_one(graph: Graph, node: Node) -> Value | None:
    """u of an Add that is 1 + u; else None."""
    known = [graph.constant(i) for i in node.inputs]
    ones = [k is not None and k.size == 1 and float(k.item()) == 1 for k in known]
    return node.inputs[ones.index(False)] if sum(ones) == 1 else None


def _unscaled(op: Builder, ct: Value) -> tuple[Value, float]:
    """(ȳ′, k) of ȳ = k ȳ′, where ȳ was computed so; else (ȳ, 1)."""
    producer = op.graph.producer(ct)
    if producer is None or producer.op != "Mul" or producer.domain:
        return ct, 1.0
    for value, factor in (producer.inputs, producer.inputs[::-1]):
        known = op.graph.constant(factor)
        if known is not None and known.size == 1 and not known.ndim:
            return value, float(known.item())
    return ct, 1.0
