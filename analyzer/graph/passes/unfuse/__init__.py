"""What onnxruntime's optimizers and quantisers fused, taken apart: one row per operator (`TABLE`), by chapters."""

from __future__ import annotations

from collections.abc import Iterable

from analyzer.graph.passes.contract import Request
from analyzer.graph.passes.unfuse import attention, layers, packed, quantized, suppression
from analyzer.graph.passes.unfuse.blocked import NCHWC, unblock
from analyzer.graph.passes.unfuse.pairs import pair
from analyzer.graph.passes.unfuse.table import LEFT, MS, TABLE, unfuse_model
from analyzer.graph.protos import captured, own_names, replace_all
from analyzer.graph.source import Source

CHAPTERS = (layers, quantized, attention, packed, suppression)  # they fill the table

__all__ = ["CHAPTERS", "LEFT", "MS", "TABLE", "fused_left", "unfuse_pass"]


def unfuse_pass(source: Source, request: Request) -> None:
    """Replaces the fused operators of onnxruntime's own domains with the standard operators they stand for."""
    graph = source.proto.graph
    if not any(n.domain == NCHWC or (n.domain, n.op_type) in TABLE for n in graph.node):
        return
    own = set(own_names(graph))
    unblock(source)
    unfuse_model(source)
    pair(graph, own)
    read = {o.name for o in graph.output} | {n for node in graph.node for n in [*node.input, *captured(node)]}
    replace_all(graph.initializer, [t for t in graph.initializer if t.name in read])
    for name in source.detached.keys() - read:
        del source.detached[name]


def fused_left(source: Source) -> Iterable[str]:
    return (f"{n.op_type} ({n.name}) is still fused" for n in source.proto.graph.node if (n.domain, n.op_type) in TABLE)
