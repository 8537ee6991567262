"""Normalisations: batch, layer, group, instance, local response, Lp; softmax."""

from __future__ import annotations

from collections.abc import Sequence

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, part, readers, vjp


def per_channel(op: Builder, value: Value, x: Value) -> Value:
    """A vector over the channels, (C), shaped (1, C, 1, …) to go with x."""
    return op.Reshape(value, [1, -1] + [1] * (op.rank(x) - 2))


def _over_others(op: Builder, value: Value, x: Value) -> Value:
    """Σ over all axes but the channels': (C)"""
    return op.ReduceSum(value, [0, *range(2, op.rank(x))], keepdims=0)


def _standardized(op: Builder, x: Value, axes: Sequence[int], epsilon: float) -> tuple[Value, Value]:
    """x̂ = (x − mean x) r and r = 1 / √(var x + ε), both over `axes`."""
    centred = op.Sub(x, op.ReduceMean(x, list(axes), keepdims=1))
    variance = op.ReduceMean(op.Mul(centred, centred), list(axes), keepdims=1)
    r = op.Reciprocal(op.Sqrt(op.Add(variance, epsilon)))
    return op.Mul(centred, r), r


def _standardized_vjp(op: Builder, ct: Value, x_hat: Value, r: Value, axes: Sequence[int]) -> Value:
    """x̄ = r (g − mean g − x̂ mean(g x̂)), g the cotangent of x̂"""
    mean = op.ReduceMean(ct, list(axes), keepdims=1)
    slope = op.ReduceMean(op.Mul(ct, x_hat), list(axes), keepdims=1)
    return op.Mul(r, op.Sub(op.Sub(ct, mean), op.Mul(x_hat, slope)))


@vjp("BatchNormalization", since=14)
def batch_normalization_vjp(op: Builder, node: Primal, ct: Value, *statistics: Cotangent) -> tuple[Cotangent, ...]:
    """y = s (x − m) + b, s = scale/√(var + ε)   ⇒   x̄ = s ȳ, b̄ = Σ ȳ, m̄ = −s Σ ȳ, and through s: scale, var"""
    x, _, _, mean, variance = node.inputs
    if node.attr("training_mode"):
        return _batch_statistics_vjp(op, node, ct, statistics)
    s, wide = factors(op, node, ct)
    x_bar = op.Mul(ct, wide)
    if not any(node.needs(i) for i in range(1, 5)):
        return x_bar, None, None, None, None
    b_bar = _over_others(op, ct, x)
    centred = op.Sub(x, op.cast(per_channel(op, mean, x), x.dtype))
    s_bar = _over_others(op, op.Mul(ct, centred), x)
    root = op.Sqrt(op.Add(variance, node.attr("epsilon")))
    scale_bar = op.Div(s_bar, op.cast(root, ct.dtype))
    variance_bar = op.Mul(op.Mul(s_bar, s), op.Div(-0.5, op.cast(op.Mul(root, root), ct.dtype)))
    return x_bar, scale_bar, b_bar, op.Neg(op.Mul(b_bar, s)), variance_bar


@part("BatchNormalization")
def factors(op: Builder, node: Primal, ct: Value) -> tuple[Value, Value]:
    """s = scale/√(var + ε), (C), and the same to go with x"""
    x, scale, _, _, variance = node.inputs
    s = op.Div(scale, op.cast(op.Sqrt(op.Add(variance, node.attr("epsilon"))), scale.dtype))
    s = op.cast(s, ct.dtype)
    return s, per_channel(op, s, x)


def _batch_statistics_vjp(
    op: Builder, node: Primal, ct: Cotangent, statistics: Sequence[Cotangent]
) -> tuple[Cotangent, ...]:
    """y = γ x̂ + β as of InstanceNormalization, over the batch too; running = momentum running + (1 − momentum) batch"""
    x, gamma, *_ = node.inputs
    axes, momentum = [0, *range(2, op.rank(x))], node.attr("momentum")
    x_hat, r = _standardized(op, x, axes, node.attr("epsilon"))
    mean_ct, variance_ct = (*statistics, None, None)[:2]
    scaled = [None if s is None else per_channel(op, op.cast(s, x.dtype), x) for s in (mean_ct, variance_ct)]
    share = op.Div(op.scalar(1 - momentum, x), op.size(x, axes))
    parts = []
    if ct is not None:
        parts.append(_standardized_vjp(op, op.Mul(ct, per_channel(op, gamma, x)), x_hat, r, axes))
    if scaled[0] is not None:
        parts.append(op.Mul(scaled[0], share))
    if scaled[1] is not None:
        parts.append(op.Mul(op.Mul(scaled[1], share), op.Mul(op.Div(x_hat, r), 2.0)))
    x_bar = op.expand_like(parts[0] if len(parts) == 1 else op.Sum(*parts), x)
    return (
        x_bar,
        None if ct is None else _over_others(op, op.Mul(ct, x_hat), x),
        None if ct is None else _over_others(op, ct, x),
        mean_ct and op.Mul(mean_ct, momentum),
        variance_ct and op.Mul(variance_ct, momentum),
    )


@vjp("LayerNormalization", since=17)
def layer_normalization_vjp(
    op: Builder, node: Primal, ct: Cotangent, mean_ct: Cotangent = None, r_ct: Cotangent = None
) -> tuple[Cotangent, ...]:
    """y = γ x̂ + β, x̂ = (x − mean x) r, r = 1/√(var x + ε)   ⇒   x̄ = r (g − mean g − x̂ mean(g x̂)), g = γ ȳ

    Through its other results: of the mean x̄ = m̄ / n, of r x̄ = −r̄ r² x̂ / n.
    """
    x, gamma, beta = node.inputs
    rank = op.rank(x)
    axes = list(range(node.attr("axis") % rank, rank))
    x_hat, r = _standardized(op, x, axes, node.attr("epsilon"))
    x_bar = None if ct is None else _standardized_vjp(op, op.Mul(ct, gamma), x_hat, r, axes)
    if mean_ct is not None or r_ct is not None:
        wide = [None if s is None else op.Div(op.cast(s, x.dtype), op.size(x, axes)) for s in (mean_ct, r_ct)]
        parts = [x_bar, wide[0], wide[1] and op.Neg(op.Mul(op.Mul(wide[1], op.Mul(r, r)), x_hat))]
        x_bar = op.expand_like(op.Sum(*(p for p in parts if p is not None)), x)
    if ct is None:
        return x_bar, None, None
    return x_bar, op.Mul(ct, x_hat) if node.needs(1) else None, ct if beta is not None else None


@vjp("InstanceNormalization", since=6)
def instance_normalization_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = γ x̂ + β, x̂ standardized over each picture and channel   ⇒   x̄ = r (g − mean g − x̂ mean(g x̂)), g = γ ȳ"""
    x, gamma, _ = node.inputs
    axes = list(range(2, op.rank(x)))
    x_hat, r = _standardized(op, x, axes, node.attr("epsilon"))
    x_bar = _standardized_vjp(op, op.Mul(ct, per_channel(op, gamma, x)), x_hat, r, axes)
    gamma_bar = _over_others(op, op.Mul(ct, x_hat), x) if node.needs(1) else None
    return x_bar, gamma_bar, _over_others(op, ct, x) if node.needs(2) else None


@vjp("LRN")
def lrn_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x s^−β, s = k + α/n Σ x² over n channels   ⇒   x̄ = ȳ s^−β − 2αβ/n x Σ' ȳ x s^(−β−1), Σ' mirrored"""
    x, size = node.x, node.attr("size")
    alpha, beta = node.attr("alpha"), node.attr("beta")
    before = (size - 1) // 2
    after = size - 1 - before
    s = op.Add(op.Mul(_channel_mean(op, op.Mul(x, x), size, before, after), alpha), node.attr("bias"))
    power = op.Pow(s, op.scalar(-beta, x))
    straight = op.Mul(ct, power)
    neighbours = _channel_mean(op, op.Div(op.Mul(straight, x), s), size, after, before)
    return op.Sub(straight, op.Mul(op.Mul(x, 2 * alpha * beta), neighbours))


def _channel_mean(op: Builder, x: Value, size: int, before: int, after: int) -> Value:
    """Σ x / size over a window of channels, zeros beyond the first and the last."""
    flat = op.Reshape(x, op.Concat(op.value([0, 1]), op.shape(x, 1, 2), op.value([-1]), axis=0))
    mean = op.AveragePool(flat, kernel_shape=[size, 1], pads=[before, 0, after, 0], strides=[1, 1], count_include_pad=1)
    return op.reshape_like(mean, x)


@vjp("LpNormalization", pole=True)
def lp_normalization_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = x / n, n = Σ|x| or √(Σx²) along `axis`   ⇒   x̄ = (ȳ − n′ Σ ȳ y) / n, n′ = sign x or y; 0 where n = 0"""
    axis, x = [node.attr("axis")], node.x
    norm = op.ReduceL1(x, axis, keepdims=1) if node.attr("p") == 1 else op.ReduceL2(x, axis, keepdims=1)
    slope = op.Sign(x) if node.attr("p") == 1 else node.y
    along = op.ReduceSum(op.Mul(ct, node.y), axis, keepdims=1)
    inverse = op.Where(op.Greater(norm, 0.0), op.Reciprocal(norm), 0.0)
    return op.Mul(op.Sub(ct, op.Mul(slope, along)), inverse)


@vjp("Softmax", since=13)
def softmax_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = softmax(x)   ⇒   x̄ = y ⊙ (ȳ − Σ ȳ ⊙ y), the sum over `axis`"""
    y = node.y
    if _is_guarded(node):
        # Rows that are masked completely are NaN, and replaced afterwards: no gradient flows there.
        y = op.Where(op.IsNaN(y), op.scalar(0, y), y)
    along = op.ReduceSum(op.Mul(ct, y), [node.attr("axis")], keepdims=1)
    return op.Mul(y, op.Sub(ct, along))


def _is_guarded(node: Primal) -> bool:
    """Whether what reads the result chooses between it and something else."""
    return any(n.op in ("Where", "IsNaN") for n in readers(node.node.outputs[0]))


@vjp("LogSoftmax", since=13)
def log_softmax_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = log softmax(x)   ⇒   x̄ = ȳ − eʸ ⊙ Σ ȳ, the sum over `axis`"""
    along = op.ReduceSum(ct, [node.attr("axis")], keepdims=1)
    return op.Sub(ct, op.Mul(op.Exp(node.y), along))
