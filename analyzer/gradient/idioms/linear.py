"""Products with weights."""

from __future__ import annotations

import numpy as np

from analyzer.gradient.registry import Builder, Primal, Value, idiom
from analyzer.gradient.rules.linear import left_bar


@idiom(left_bar)
def by_turned_squares(op: Builder, node: Primal, ct: Value) -> Value:
    """Square weights are transposed in the file instead of in the graph: OpenVINO 2026.4 confuses B and Bᵀ
    if both are read and have the same shape. This costs a copy of these weights, but no time."""
    b, known = node.inputs[1], _weights(op, node)
    if known is None or known.shape[0] != known.shape[1]:
        return NotImplemented
    return op.MatMul(ct, op.constant(known.T, f"{b.name}/transposed"))


@idiom(left_bar)
def by_gemm(op: Builder, node: Primal, ct: Value) -> Value:
    """Ȳ Bᵀ with weights B is a Gemm, which packs B as it is: no transposed copy is stored."""
    a, b = node.inputs
    if _weights(op, node) is None or op.rank(a) == 1:
        return NotImplemented
    rows = ct if op.rank(ct) == 2 else op.Reshape(ct, [-1, b.shape[1]])
    return op.reshape_like(op.Gemm(rows, b, transB=1), a)


def _weights(op: Builder, node: Primal) -> np.ndarray | None:
    """B, where it is a matrix in the file."""
    b = node.inputs[1]
    return op.const(b) if op.rank(b) == 2 else None
