"""Class activation maps: channels of a feature map, weighted and summed.

A is the feature map, g = ∂y/∂A the gradient of the target score y, k counts channels, (i, j) positions, Z positions
in all. Raw values are the paper's own; no normalisation.
"""

from __future__ import annotations

import numpy as np

from analyzer.attribution.linear_head import check_linear_head
from analyzer.attribution.registry import Context, method
from analyzer.errors import UnsupportedError
from analyzer.graph import Value


@method("cam", "cam", "Zhou et al. 2016, 1512.04150")
def cam(ctx: Context) -> Value:
    """M = Σ_k W_ck A_k, W the weights of the linear layer after global average pooling

    The head is checked to be linear: y = Σ_k W_ck mean_ij A_kij + b. Then ∂y/∂A_kij = W_ck / Z, so that the weights
    can be read off as W_ck = Σ_ij g_kij, in whatever way the exporter wrote pooling and layer.
    """
    check_linear_head(ctx)
    weights = ctx.op.ReduceSum(ctx.gradients, ctx.space, keepdims=1)
    return ctx.channel_sum(ctx.op.Mul(weights, ctx.activations))


@method("grad-cam", "cam", "Selvaraju et al. 2017, 1610.02391, eq. 1–2")
def grad_cam(ctx: Context) -> Value:
    """L = ReLU(Σ_k w_k A_k), w_k = mean_ij g_kij"""
    weights = ctx.op.ReduceMean(ctx.gradients, ctx.space, keepdims=1)
    return ctx.op.Relu(ctx.channel_sum(ctx.op.Mul(weights, ctx.activations)))


@method("grad-cam++", "cam", "Chattopadhay et al. 2018, 1710.11063, eq. 5 and 19")
def grad_cam_plus_plus(ctx: Context, eps: float = 1e-6) -> Value:
    """L = ReLU(Σ_k w_k A_k), w_k = Σ_ij α_kij ReLU(g_kij), α = g² / (2 g² + Σ_ab A_kab g³ + ε), 0 where g = 0

    With the paper's Y = exp(y) the second and third derivatives are exp(y) g² and exp(y) g³ for networks that are
    piecewise linear after the layer; the factor exp(y) cancels in α and scales all of w, so it is left out. α is
    not normalised. ε keeps positions with a tiny gradient, where the denominator may cross 0, from ruling the sum;
    its value is pytorch-grad-cam's.
    """
    op, g = ctx.op, ctx.gradients
    total = op.ReduceSum(ctx.activations, ctx.space, keepdims=1)
    square = op.Mul(g, g)
    denominator = op.Add(op.Mul(square, op.Add(op.Mul(total, g), 2.0)), eps)
    safe = op.Where(op.Equal(denominator, 0.0), op.ones_like(denominator), denominator)
    weights = op.ReduceSum(op.Mul(op.Div(square, safe), op.Relu(g)), ctx.space, keepdims=1)
    return op.Relu(ctx.channel_sum(op.Mul(weights, ctx.activations)))


@method("hires-cam", "cam", "Draelos & Carin 2020, 2011.08891")
def hires_cam(ctx: Context) -> Value:
    """L = ReLU(Σ_k g_k ⊙ A_k)"""
    return ctx.op.Relu(ctx.channel_sum(ctx.op.Mul(ctx.gradients, ctx.activations)))


@method("xgrad-cam", "cam", "Fu et al. 2020, 2008.02312, eq. 8")
def xgrad_cam(ctx: Context) -> Value:
    """L = ReLU(Σ_k w_k A_k), w_k = Σ_ij g_kij A_kij / Σ_ij A_kij, 0 for channels that sum to 0"""
    op = ctx.op
    total = op.ReduceSum(ctx.activations, ctx.space, keepdims=1)
    dead = op.Equal(total, 0.0)
    weighted = op.ReduceSum(op.Mul(ctx.gradients, ctx.activations), ctx.space, keepdims=1)
    weights = op.Where(dead, op.zeros_like(total), op.Div(weighted, op.Where(dead, op.ones_like(total), total)))
    return op.Relu(ctx.channel_sum(op.Mul(weights, ctx.activations)))


@method("layer-cam", "cam", "Jiang et al. 2021, LayerCAM, eq. 5–6")
def layer_cam(ctx: Context) -> Value:
    """L = ReLU(Σ_k ReLU(g_k) ⊙ A_k)"""
    return ctx.op.Relu(ctx.channel_sum(ctx.op.Mul(ctx.op.Relu(ctx.gradients), ctx.activations)))


@method("eigen-cam", "cam", "Muhammad & Yeasin 2020, 2008.00299", needs_gradient=False)
def eigen_cam(ctx: Context) -> Value:
    """L = Ā v, Ā the (Z × K) map centered per channel, v its first right singular vector, with the sign of mean_k A_k

    No class enters. The singular vector comes from repeated squaring of the smaller Gram matrix; its sign, which
    decomposition leaves open, is the one that agrees with the mean activation.
    """
    op = ctx.op
    flat = _positions_by_channels(ctx, ctx.activations)
    centred = op.Sub(flat, op.ReduceMean(flat, [1], keepdims=1))
    transposed = op.Transpose(centred, perm=[0, 2, 1])
    positions, channels = op.dim(flat, 1), op.dim(flat, 2)
    wide = positions is None or channels is None or channels <= positions
    gram = op.MatMul(transposed, centred) if wide else op.MatMul(centred, transposed)
    # The dominant eigenvector: (G/‖G‖)^(2^m) tends to λᵐ v vᵀ; its column sums against a fixed vector give v.
    for _ in range(10):
        scale = op.ReduceMax(op.Abs(gram), [1, 2], keepdims=1)
        gram = op.Div(gram, op.Where(op.Equal(scale, 0.0), op.ones_like(scale), scale))
        gram = op.MatMul(gram, gram)
    size = channels if wide else positions
    if size is None:
        raise UnsupportedError("eigen-cam needs the number of channels to be fixed", "fix it with --shape")
    start = np.random.default_rng(0).standard_normal((size, 1)).astype(np.float32)
    vector = op.MatMul(gram, start)
    projection = op.MatMul(centred, vector) if wide else op.MatMul(centred, op.MatMul(transposed, vector))
    norm = op.Sqrt(op.ReduceSum(op.Mul(projection, projection), [1, 2], keepdims=1))
    unit = op.Div(projection, op.Where(op.Equal(norm, 0.0), op.ones_like(norm), norm))
    length = op.Sqrt(op.ReduceSum(_square(ctx, op.MatMul(transposed, unit)), [1, 2], keepdims=1))
    mean = op.ReduceMean(centred, [2], keepdims=1)
    sign = op.Sign(op.ReduceSum(op.Mul(unit, mean), [1, 2], keepdims=1))
    sign = op.Where(op.Equal(sign, 0.0), op.ones_like(sign), sign)
    return _as_map(ctx, op.Mul(unit, op.Mul(length, sign)))


def _square(ctx: Context, value: Value) -> Value:
    return ctx.op.Mul(value, value)


def _positions_by_channels(ctx: Context, value: Value) -> Value:
    """(N, Z, K)"""
    rest = [i for i in range(len(ctx.layer.layout.axes)) if i not in ctx.space and i != ctx.channel]
    moved = ctx.op.Transpose(value, perm=[*rest, *ctx.space, ctx.channel])
    channels = ctx.layer.channels
    return ctx.op.Reshape(moved, [0, -1, channels] if channels else [0, -1, ctx.op.rank(value)], allowzero=0)


def _as_map(ctx: Context, flat: Value) -> Value:
    """(N, Z, 1) back to (N, …space)"""
    if "L" in ctx.layer.layout.axes:
        return ctx.op.Reshape(flat, [0, *ctx._grid()], allowzero=0)
    model = ctx.op.ReduceSum(ctx.activations, [ctx.channel], keepdims=0)
    return ctx.op.reshape_like(flat, model)
