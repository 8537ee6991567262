"""Normalisations with known statistics."""

from __future__ import annotations

import numpy as np

from analyzer.gradient.registry import Builder, Primal, Value, idiom
from analyzer.gradient.rules.normalization import factors, per_channel


@idiom(factors)
def factors_in_the_file(op: Builder, node: Primal, ct: Value) -> tuple[Value, Value]:
    """Known parameters of a BatchNormalization become one factor per channel, computed in float64 beforehand."""
    scale, variance = node.const(1), node.const(4)
    if scale is None or variance is None:
        return NotImplemented
    exact = scale / np.sqrt(variance.astype(np.float64) + node.attr("epsilon"))
    s = op.cast(op.constant(exact.astype(scale.dtype)), ct.dtype)
    known = op.const(s)
    shape = [1, -1] + [1] * (op.rank(node.x) - 2)
    return s, per_channel(op, s, node.x) if known is None else op.constant(known.reshape(shape))
