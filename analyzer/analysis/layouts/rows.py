"""What the rows of both tables of layouts share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analyzer.analysis.interpreter import Site, Table, Transfer, transfer
from analyzer.graph.nodes import Shape, known_shape


def of_data(*ops: str, table: Table[Any]) -> Callable[[Transfer], Transfer]:
    """As `transfer`, of a row that is asked only where its first input is known."""

    def register(row: Transfer) -> Transfer:
        transfer(*ops, table=table)(lambda op, x=None, *others: None if x is None else row(op, x, *others))
        return row

    return register


def before(op: Site, index: int = 0) -> Shape:
    """The shape of an input whose rank is known."""
    return known_shape(op.node.inputs[index])


def after(op: Site) -> Shape:
    """The shape of the output that is asked for, whose rank is known."""
    return known_shape(op.output)


def reduced(op: Site, rank: int) -> set[int]:
    """The axes that a reduction names, counted from the front; all where it names none."""
    given = op.const(1)
    axes = given.ravel().tolist() if given is not None else op.attr("axes")
    return {int(a) % rank for a in axes or range(rank)}
