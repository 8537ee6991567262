"""Abstract interpretation: one walk over the graph, one table per question.

A `Table` gives each operator a transfer function, which maps abstract values of the inputs to abstract values of the
outputs. The receptive field is one table; a new question about a model is a new table, not a new walk. What an operator
without a transfer function hides is reported by name and never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from analyzer.graph import Graph, Node
from analyzer.graph.nodes import reads

T = TypeVar("T")
Transfer: TypeAlias = Callable[..., Any]
Shape: TypeAlias = Sequence[int | str | None] | None


class HiddenError(Exception):
    """Raised by a transfer function that cannot tell what its operator does here; the message says why."""


@dataclass
class Table(Generic[T]):
    """The transfer functions of one analysis, by (domain, operator)."""

    name: str
    rows: dict[tuple[str, str], Transfer] = field(default_factory=dict)

    def of(self, node: Node) -> Transfer | None:
        """The transfer function of `node`, or None."""
        return self.rows.get((node.domain or "", node.op))


def transfer(*ops: str, table: Table, domain: str = "") -> Callable[[Transfer], Transfer]:
    """Registers a transfer function `(op, *inputs) -> value | tuple` for `ops` in `table`.

    `op` is the `Site`; `inputs` holds one abstract value per input of the node, None where it is omitted or does not
    depend on the start. The result is the value of the first output, or a tuple with one per output.
    """

    def register(function: Transfer) -> Transfer:
        for op in ops:
            if (domain, op) in table.rows:
                raise ValueError(f"{op} has two transfer functions in the table {table.name!r}")
            table.rows[domain, op] = function
        return function

    return register


@dataclass(frozen=True)
class Site:
    """A node as a transfer function sees it; `values` holds what is known of the tensors before it."""

    node: Node
    graph: Graph
    values: Mapping[str, Any]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute; the schema's default where the file leaves it out."""
        value = self.node.attrs.get(name)
        return default if value is None else value

    def const(self, index: int) -> np.ndarray | None:
        """The array that input `index` holds before the model runs, else None."""
        inputs = self.node.inputs
        return self.graph.constant(inputs[index]) if index < len(inputs) and inputs[index].name else None

    def given(self, index: int) -> bool:
        """Whether input `index` is not omitted."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index].name)

    def shape(self, index: int = 0) -> Shape:
        """The shape of input `index`: ints, symbols or None per axis; None where not even the rank is known."""
        return self.node.inputs[index].shape if self.given(index) else None

    def out(self, index: int = 0) -> Shape:
        """The shape of output `index`."""
        return self.node.outputs[index].shape

    def need(self, index: int, what: str) -> np.ndarray:
        """`const(index)`, or HiddenError: `what` is known only when the model runs."""
        array = self.const(index)
        if array is None:
            raise HiddenError(f"{what} known only at run time")
        return array


@dataclass(frozen=True)
class Interpretation(Generic[T]):
    """What a walk found.

    Attributes:
        values: tensor → abstract value, for the tensors that depend on the start, in the order of the graph.
        unknown: tensor → the nodes that hide its value, as "Op (node 'name')", with the reason after a colon where
            there is one.
    """

    values: dict[str, T]
    unknown: dict[str, tuple[str, ...]]


def interpret(graph: Graph, table: Table[T], start: Mapping[str, T]) -> Interpretation[T]:
    """values[y] = table[op](values[x₁], values[x₂], …), node by node in topological order.

    Args:
        start: abstract values of the tensors to start from; what does not depend on them is not visited.
    """
    values: dict[str, T] = dict(start)
    unknown: dict[str, tuple[str, ...]] = {}
    for node in graph.forward_nodes():
        inputs: list[T | None] = [values.get(i.name) for i in node.inputs]
        blame = tuple(dict.fromkeys(b for name in sorted(reads(node) & unknown.keys()) for b in unknown[name]))
        if all(i is None for i in inputs) and not blame and reads(node).isdisjoint(values):
            continue
        outputs = [o.name for o in node.outputs]
        results: Sequence[Any] = ()
        if not blame:
            results, blame = _apply(table, Site(node, graph, values), inputs)
        for index, name in enumerate(outputs):
            if not name or name in start:
                continue
            if blame:
                unknown[name] = blame
            if index < len(results) and results[index] is not None:
                values[name] = results[index]
    return Interpretation(values, unknown)


def _apply(table: Table[Any], site: Site, inputs: Sequence[Any]) -> tuple[Sequence[Any], tuple[str, ...]]:
    """The values of the outputs, and whom to blame where there are none."""
    rule = table.of(site.node)
    label = f"{site.node.domain}::{site.node.op}" if site.node.domain else site.node.op
    label = f"{label} (node {site.node.name!r})"
    if rule is None:
        return (), (label,)
    try:
        result = rule(site, *inputs)
    except HiddenError as reason:
        return (), (f"{label}: {reason}",)
    except Exception as error:  # shapes that contradict each other, attributes that are missing: one node, not the walk
        return (), (f"{label}: {type(error).__name__}: {error}",)
    return (result if isinstance(result, tuple) else (result,)), ()
