"""Known indices at which nothing has to be added."""

from __future__ import annotations

import numpy as np

from analyzer.gradient.registry import Builder, Primal, Value, idiom
from analyzer.gradient.rules.indexing import place_along


@idiom(place_along)
def one_place(op: Builder, node: Primal, ct: Value, indices: Value, axis: int) -> Value:
    """A single known index: ȳ is padded with zeros instead of added to them, which needs no kernel for adding."""
    known = op.const(indices)
    if known is None or known.size != 1:
        return NotImplemented
    if known.ndim == 0:
        ct = op.Unsqueeze(ct, [axis])
    elif known.ndim > 1:
        ct = op.Squeeze(ct, list(range(axis + 1, axis + known.ndim)))
    size, one = op.shape(node.x, axis, axis + 1), op.value([int(known.item())])
    before = one if known.item() >= 0 else op.Add(size, one)
    after = op.Sub(op.Sub(size, before), op.value([1]))
    return op.shaped_as(op.Pad(ct, op.Concat(before, after, axis=0), 0.0, [axis]), node.x)


@idiom(place_along)
def permuted_places(op: Builder, node: Primal, ct: Value, indices: Value, axis: int) -> Value:
    """Every index once: x̄ is ȳ gathered by the inverse permutation."""
    known, size = op.const(indices), op.dim(node.x, axis)
    if known is None or known.ndim != 1 or size != known.size or len(set((known % size).tolist())) != size:
        return NotImplemented
    return op.Gather(ct, np.argsort(known % size), axis=axis)
