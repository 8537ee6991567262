"""Attention of transformers, multiplied through the blocks.

A_b is the softmax of block b, (N, heads, tokens, tokens), found in the graph. All blocks must attend over the same
tokens: windows (Swin) and reduced keys (PVT) have no such product.
"""

from __future__ import annotations

import numpy as np

from analyzer.analysis.attention import Attention, attentions
from analyzer.analysis.layouts import Layout, layouts
from analyzer.attribution.postprocess import FLOAT32
from analyzer.attribution.registry import Context, method
from analyzer.errors import UnsupportedError
from analyzer.graph import Value
from analyzer.graph.nodes import known_shape
from analyzer.graph.query import ancestors, descendants, image_input


@method("attention-rollout", "map", "Abnar & Zuidema 2020, 2005.00928, eq. 1", needs_gradient=False)
def attention_rollout(ctx: Context) -> Value:
    """R = Π_b (½ mean_heads A_b + ½ I), read at the class token, or averaged over all tokens if there is none"""
    op = ctx.op
    found, layout = _attention(ctx)
    rollout = None
    for attention in found:
        weights = _by_head(ctx, op.cast(attention.weights, FLOAT32))
        mixed = op.Mul(op.ReduceMean(weights, [1], keepdims=0), 0.5)
        mixed = op.Add(mixed, op.Mul(_identity(ctx, layout), 0.5))
        rollout = mixed if rollout is None else op.MatMul(mixed, rollout)
    assert rollout is not None
    return _read(ctx, rollout, layout)


@method("gradient-rollout", "map", "Chefer et al. 2021, 2103.15679, eq. 5–6")
def gradient_rollout(ctx: Context) -> Value:
    """R ← R + Ā_b R from R = I, Ā_b = mean_heads ReLU(∂y/∂A_b ⊙ A_b), read at the class token (if none, averaged)"""
    op = ctx.op
    found, layout = _attention(ctx)
    relevance = _identity(ctx, layout)
    for attention, gradient in zip(found, ctx.pull_all([a.read for a in found]), strict=True):
        if gradient is None:
            continue
        product = _by_head(ctx, op.Relu(op.cast(op.Mul(gradient, attention.read), FLOAT32)))
        relevance = op.Add(relevance, op.MatMul(op.ReduceMean(product, [1], keepdims=0), relevance))
    return _read(ctx, relevance, layout)


def _attention(ctx: Context) -> tuple[list[Attention], Layout]:
    """The attention of every block in order, and the layout of their tokens.

    Raises:
        UnsupportedError: there is none, or their sizes differ.
    """
    graph = ctx.graph
    needed = ancestors(graph, ctx.seeds)
    reach = descendants(graph, [image_input(graph).name], graph.forward_nodes())
    tokens: dict[int | str | None, Layout] = {}  # by their number
    for layout in layouts(graph).values():
        if "L" in layout.axes and len(layout.grid) == 2 and all(isinstance(g, int) for g in layout.grid):
            tokens.setdefault(layout.count, layout)
    found: list[Attention] = []
    sizes: set[tuple[int | str | None, ...]] = set()
    for attention in attentions(graph, reach, needed):
        shape = attention.weights.shape or []
        if shape[-1] in (1, None):
            continue
        sizes.add(tuple(shape[-2:]))
        if shape[-1] == shape[-2]:
            found.append(attention)
    if len(sizes) != 1 or not found or next(iter(sizes))[0] not in tokens:
        why = (
            "the target depends on no softmax over tokens" if not sizes
            else f"its blocks have different numbers of tokens: {sorted(map(str, sizes))}" if len(sizes) > 1
            else f"the spatial layout of its {next(iter(sizes))[0]} tokens is not known"
        )  # fmt: skip
        raise UnsupportedError(f"{graph.name}: no attention rollout: {why}", "use grad-cam")
    return found, tokens[next(iter(sizes))[0]]


def _by_head(ctx: Context, value: Value) -> Value:
    """(N, heads, L, L), where batch and heads share an axis or heads have several."""
    shape = known_shape(value)
    if len(shape) == 4:
        return value
    batch = (image_input(ctx.graph).shape or [None])[0]
    if not isinstance(batch, int):
        raise UnsupportedError(
            f"{ctx.graph.name}: batch and heads share the first axis of {value.name!r}, and the batch size is open",
            "fix the batch size with --shape",
        )
    return ctx.op.Reshape(value, [batch, -1, *shape[-2:]])


def _identity(ctx: Context, layout: Layout) -> Value:
    return ctx.op.constant(np.eye(layout.count, dtype=np.float32)[None], "identity")


def _read(ctx: Context, rollout: Value, layout: Layout) -> Value:
    """(N, h, w): the row of the class token, or the mean of all rows, over the tokens of the grid."""
    op = ctx.op
    rows = op.Slice(rollout, [0], [1], [1]) if layout.prefix else op.ReduceMean(rollout, [1], keepdims=1)
    end = layout.tokens.stop or np.iinfo(np.int64).max
    grid = op.Slice(rows, [layout.prefix], [end], [2])
    return op.Reshape(grid, [-1, *layout.grid])
