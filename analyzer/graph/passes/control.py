"""Control flow that is decided before the model runs, and constants moved to where all bodies share them."""

from __future__ import annotations

from collections.abc import Iterable

from analyzer.graph.passes.bodies import lift_body_constants, unroll
from analyzer.graph.passes.contract import Request
from analyzer.graph.passes.newer import OPSET
from analyzer.graph.passes.sequences import resolve_sequences
from analyzer.graph.passes.shapes import inferred_shapes
from analyzer.graph.protos import bodies_of, lift_constants, opsets
from analyzer.graph.source import Source, detach

_CONTROL = ("If", "Loop", "SequenceConstruct", "SequenceEmpty", "SplitToSequence", "Optional", "OptionalGetElement")


def control_flow_pass(source: Source, request: Request) -> None:
    """Replaces an If whose condition is known with the branch taken, short Loops with their steps, and sequences of
    known length with their tensors."""
    graph, opset = source.proto.graph, opsets(source.proto).get("", OPSET)
    while any(n.op_type in _CONTROL and not n.domain for n in graph.node):
        lift_constants(graph)
        lift_body_constants(graph)
        shapes = inferred_shapes(source.proto)
        resolved = resolve_sequences(graph, shapes, opset)
        if not unroll(graph, shapes, opset) and not resolved:
            break
    detach(source)


def lift_constants_pass(source: Source, request: Request) -> None:
    """Replaces Constant nodes with initializers, and moves those of bodies to the outermost graph."""
    lift_constants(source.proto.graph)
    if lift_body_constants(source.proto.graph):
        detach(source)


def body_constants(source: Source) -> Iterable[str]:
    bodies = (b for n in source.proto.graph.node for b in bodies_of(n))
    return (f"a body of {b.name} has constants of its own" for b in bodies if b.initializer)
