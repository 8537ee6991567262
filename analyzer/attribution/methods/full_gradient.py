"""FullGrad: the gradient of the image and of every bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from analyzer.analysis.feature_maps import FeatureMap
from analyzer.analysis.layouts import layouts, merged_layouts
from analyzer.attribution.postprocess import FLOAT32, resize_to_image
from analyzer.attribution.registry import Context, method
from analyzer.graph import Node, Value
from analyzer.graph.query import ancestors, descendants, image_input


@method("full-grad", "map", "Srinivas & Fleuret 2019, 1905.00780")
def full_grad(ctx: Context) -> Value:
    """R = ψ(x ⊙ ∂y/∂x) + Σ_l ψ(b_l ⊙ ∂y/∂b_l per position), ψ = Σ_c U(s(|·|)), s to [0, 1] over the whole tensor

    The biases are those of Conv, ConvTranspose, Gemm, BatchNormalization (β − μ γ / √(σ² + ε)), other normalisations,
    and tensors that do not depend on the image where they are added or subtracted; those without space enter the sum
    below only. Where everything else is linear or rectifies at 0 (ReLU, max-pooling; not ReLU6, SiLU, softmax)
    y = Σ x ⊙ ∂y/∂x + Σ_l Σ b_l ⊙ ∂y/∂b_l: `details["completeness"]` is the right side less the left,
    `details["difference"]` y.
    """
    op, graph = ctx.op, ctx.graph
    biases = _biases(ctx)
    gradient, *flows = ctx.pull_all([ctx.image, *(output for output, _ in biases)])
    product = op.cast(op.Mul(ctx.image, ctx.gradient(ctx.image) if gradient is None else gradient), FLOAT32)
    total = _sum(ctx, product)
    known, merged = layouts(graph), merged_layouts(graph)
    size = [i for i, a in enumerate(ctx.image_axes) if a in "DHW"]
    axis = ctx.image_axes.index("C")
    result = op.ReduceSum(_psi(ctx, product), [axis], keepdims=0)
    for (output, bias), flowing in zip(biases, flows, strict=True):
        if flowing is None:
            continue
        part = op.cast(op.Mul(flowing, op.cast(bias, flowing.dtype)), FLOAT32)
        total = op.Add(total, _sum(ctx, part))
        layout = known.get(output.name)
        if layout is None and output.name in merged:
            layout = merged[output.name]
            part = op.Reshape(part, [-1, layout.count, op.dim(part, 1)])
        if layout is None or not layout.is_map or layout.axes[0] != "N" or len(layout.grid) != len(size):
            continue
        inner = replace(ctx, feature=FeatureMap(output, layout, graph.producer(output)), _pulled={})
        spread = resize_to_image(ctx, inner.channel_sum(inner._only_grid(_psi(ctx, part))))
        result = op.Add(result, spread)
    score = _score(ctx)
    ctx.details["difference"] = score
    ctx.details["completeness"] = op.Sub(total, score)
    return result


def _biases(ctx: Context) -> list[tuple[Value, Value]]:
    """(output of the node, its bias broadcastable to it) for every bias between the image and the target."""
    graph = ctx.graph
    reach = descendants(graph, [image_input(graph).name], graph.forward_nodes())
    needed = ancestors(graph, ctx.seeds)
    found = []
    for node in graph.forward_nodes():
        output = node.outputs[0] if node.outputs else None
        if output is None or output.name not in reach or output.name not in needed or node.domain:
            continue
        rule = _BIAS.get(node.op)
        bias = rule(ctx, node, reach) if rule else None
        if bias is not None:
            found.append((output, bias))
    return found


def _convolution(ctx: Context, node: Node, reach: set[str]) -> Value | None:
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return None
    return _per_channel(ctx, node.inputs[2], node)


def _batch_norm(ctx: Context, node: Node, reach: set[str]) -> Value | None:
    op = ctx.op
    scale, shift, mean, variance = node.inputs[1:5]
    deviation = op.Sqrt(op.Add(variance, float(node.attrs.get("epsilon", 1e-5))))
    return _per_channel(ctx, op.Sub(shift, op.Div(op.Mul(mean, scale), deviation)), node)


def _layer_norm(ctx: Context, node: Node, reach: set[str]) -> Value | None:
    return node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None


def _per_channel(ctx: Context, bias: Value, node: Node) -> Value:
    return ctx.op.Reshape(bias, [-1, *[1] * (ctx.op.rank(node.outputs[0]) - 2)])


def _gemm(ctx: Context, node: Node, reach: set[str]) -> Value | None:
    if len(node.inputs) < 3 or not node.inputs[2].name or node.inputs[2].name in reach:
        return None
    return ctx.op.Mul(node.inputs[2], float(node.attrs.get("beta", 1.0)))


def _sum_with(ctx: Context, node: Node, reach: set[str]) -> Value | None:
    left, right = node.inputs
    if left.name not in reach:
        return left
    if right.name in reach:
        return None
    return ctx.op.Neg(right) if node.op == "Sub" else right


_BIAS: dict[str, Callable[[Context, Node, set[str]], Value | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _convolution,
    "GroupNormalization": _convolution,
    "LayerNormalization": _layer_norm,
    "Gemm": _gemm,
    "Add": _sum_with,
    "Sub": _sum_with,
}


def _psi(ctx: Context, part: Value) -> Value:
    """(|x| − min) / (max − min) over all axes but the first."""
    op = ctx.op
    size = op.Abs(part)
    axes = list(range(1, op.rank(size)))
    low = op.ReduceMin(size, axes, keepdims=1)
    reach = op.Sub(op.ReduceMax(size, axes, keepdims=1), low)
    return op.Div(op.Sub(size, low), op.Where(op.Equal(reach, 0.0), op.ones_like(reach), reach))


def _sum(ctx: Context, part: Value) -> Value:
    """(N,); the pictures may be cut into windows along the first axis, one after the other."""
    op = ctx.op
    rows = op.Reshape(part, op.Concat(op.shape(ctx.image, 0, 1), op.value([-1]), axis=0))
    return op.ReduceSum(rows, [1], keepdims=0)


def _score(ctx: Context) -> Value:
    """y: (N,) float32"""
    op = ctx.op
    ((name, cotangent),) = ctx.seeds.items()
    score = op.Mul(ctx.graph[name], cotangent)
    rank = op.rank(score)
    score = op.ReduceSum(score, list(range(1, rank)), keepdims=0) if rank > 1 else score
    return op.cast(score, np.dtype(np.float32))
