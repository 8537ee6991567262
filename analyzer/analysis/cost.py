"""Cost of a model: multiply–accumulates by operator, and parameters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from analyzer.analysis.interpreter import HiddenError, Shape, Site, Table, transfer
from analyzer.graph import Graph
from analyzer.graph.nodes import count


@dataclass(frozen=True)
class Cost:
    """`macs` per forward of the graph's own batch, `by_operator` the same by operator, `parameters` its weights.

    `open` names operators that multiply matrices but whose shapes are not known, so that they are not counted.
    """

    macs: int
    parameters: int
    by_operator: dict[str, int] = field(default_factory=dict)
    open: tuple[str, ...] = ()


def cost(graph: Graph) -> Cost:
    """Multiply–accumulates of convolutions and matrix products; everything else counts as nothing."""
    counted: Counter[str] = Counter()
    unknown: set[str] = set()
    for node in graph.forward_nodes():
        try:
            macs = MACS.at(graph, node)
        except HiddenError:
            unknown.add(node.op)
        else:
            counted.update({} if macs is None else {node.op: macs})
    parameters = sum(p.size for p in graph.parameters())
    return Cost(sum(counted.values()), parameters, dict(counted.most_common()), tuple(sorted(unknown)))


# ---- Multiply–accumulates of a node ----

MACS: Table[int] = Table("multiply–accumulates")


def _count(shape: Shape) -> int:
    found = count(shape)
    if found is None:
        raise HiddenError("sizes known only at run time")
    return found


@transfer("Conv", "ConvInteger", table=MACS)
def convolution_transfer(op: Site) -> int:
    """Elements of the result × weights that each is made of"""
    return _count(op.out()) * _count((op.shape(1) or [None, None])[1:])


@transfer("ConvTranspose", table=MACS)
def transposed_transfer(op: Site) -> int:
    """Elements of the input × weights that each is spread by"""
    return _count(op.shape()) * _count((op.shape(1) or [None, None])[1:])


@transfer("Gemm", "MatMul", "MatMulInteger", table=MACS)
def product_transfer(op: Site) -> int:
    """Elements of the result × the length that is summed over"""
    shape = op.shape() or [None]
    inner = shape[0] if op.node.op == "Gemm" and op.attr("transA") else shape[-1]
    return _count(op.out()) * _count([inner])
