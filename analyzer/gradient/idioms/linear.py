"""Products with weights."""

from __future__ import annotations

from analyzer.gradient.registry import Builder, Primal, Value, idiom
from analyzer.gradient.rules.linear import left_bar


@idiom(left_bar)
def by_gemm(op: Builder, node: Primal, ct: Value) -> Value:
    """Ȳ Bᵀ with weights B is a Gemm, which packs B as it is: no transposed copy is stored."""
    a, b = node.inputs
    if op.rank(b) != 2 or op.const(b) is None or op.rank(a) == 1:
        return NotImplemented
    rows = ct if op.rank(ct) == 2 else op.Reshape(ct, [-1, b.shape[1]])
    return op.reshape_like(op.Gemm(rows, b, transB=1), a)
