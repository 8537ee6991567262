"""Abstract interpretation: one walk over the graph, one table per question.

A `Table` gives each operator a transfer function, which maps abstract values of the inputs to abstract values of the
outputs; a new question about a model is a new table, not a new walk. Questions that concern a node alone are tables,
too, read by `Table.at`: what it costs, whether it rectifies. What an operator without a transfer function hides is
reported by name and never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from analyzer.errors import UnsupportedError, refusing
from analyzer.graph import Graph, Node, Value
from analyzer.graph.nodes import reads

T = TypeVar("T")
Transfer: TypeAlias = Callable[..., Any]
Shape: TypeAlias = Sequence[int | str | None] | None


class HiddenError(UnsupportedError):
    """Raised by a transfer function that cannot tell what its operator does here; the message says why."""


@dataclass(frozen=True, eq=False)
class Hidden:
    """A node that hides the values of its outputs; `reason` is empty where its operator has no transfer function."""

    node: Node
    reason: str = ""

    @property
    def label(self) -> str:
        op = f"{self.node.domain}::{self.node.op}" if self.node.domain else self.node.op
        return f"{op} (node {self.node.name!r})"

    def __str__(self) -> str:
        return f"{self.label}: {self.reason}" if self.reason else self.label


@dataclass
class Table(Generic[T]):
    """The transfer functions of one question, by (domain, operator).

    Attributes:
        default: the transfer function of all other operators; None where such an operator hides what follows.
        everywhere: a walk also meets the nodes that do not depend on its start.
        apart: transfer functions are asked for one output at a time, `Site.index`.
    """

    name: str
    rows: dict[tuple[str, str], Transfer] = field(default_factory=dict)
    default: Transfer | None = None
    everywhere: bool = False
    apart: bool = False

    def of(self, node: Node) -> Transfer | None:
        """The transfer function of `node`, or None."""
        return self.rows.get((node.domain or "", node.op), self.default)

    def tell(self, op: Site, *inputs: Any) -> T | None:
        """What the row of a node makes of its inputs; None where it has no row."""
        rule = self.of(op.node)
        return None if rule is None else rule(op, *inputs)

    def at(self, graph: Graph, node: Node) -> T | None:
        """What the table says of a node by itself; None where it has no row.

        Raises:
            UnsupportedError: the node does not fit its row.
        """
        with refusing(f"{graph.name}: node {node.name!r} ({node.op}) does not fit the table {self.name!r}"):
            return self.tell(Site(node, graph))


def transfer(*ops: str, table: Table[Any], domain: str = "") -> Callable[[Transfer], Transfer]:
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


@dataclass(slots=True)
class Site:
    """A node as a transfer function sees it.

    Attributes:
        values: what is known of the tensors before it.
        memory: what the walk was given to remember.
        index: which output is asked for.
    """

    node: Node
    graph: Graph
    values: Mapping[str, Any] = field(default_factory=dict)
    memory: Any = None
    index: int = 0

    @property
    def output(self) -> Value:
        """The output that is asked for."""
        return self.node.outputs[self.index]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute; the schema's default where the file leaves it out."""
        value = self.node.attrs.get(name)
        return default if value is None else value

    def const(self, index: int) -> np.ndarray | None:
        """The array that input `index` holds before the model runs, else None."""
        return self.graph.constant(self.node.inputs[index]) if self.given(index) else None

    def given(self, index: int) -> bool:
        """Whether input `index` is not omitted."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index].name)

    def shape(self, index: int = 0) -> Shape:
        """The shape of input `index`: ints, symbols or None per axis; None where not even the rank is known."""
        return self.node.inputs[index].shape if self.given(index) else None

    def out(self, index: int | None = None) -> Shape:
        """The shape of output `index`, of the one that is asked for when None."""
        return self.node.outputs[self.index if index is None else index].shape

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
        unknown: tensor → the nodes that hide its value, in the order of the graph.
    """

    values: dict[str, T]
    unknown: dict[str, tuple[Hidden, ...]]


def interpret(graph: Graph, table: Table[T], start: Mapping[str, T], memory: Any = None) -> Interpretation[T]:
    """values[y] = table[op](values[x₁], values[x₂], …), node by node in topological order.

    Args:
        start: abstract values of the tensors to start from; what does not depend on them is not visited, unless the
            table is one for `everywhere`.
        memory: what transfer functions find as `Site.memory`: what they go by beside values, and may add to.
    """
    values: dict[str, T] = dict(start)
    unknown: dict[str, tuple[Hidden, ...]] = {}
    for node in graph.forward_nodes():
        blame: tuple[Hidden, ...] = ()
        if unknown or not table.everywhere:
            read = reads(node)
            blame = tuple(dict.fromkeys(b for name in sorted(read & unknown.keys()) for b in unknown[name]))
            if not blame and not table.everywhere and read.isdisjoint(values):
                continue
        results: Sequence[Any] = ()
        if not blame:
            results, blame = _apply(table, Site(node, graph, values, memory), [values.get(i.name) for i in node.inputs])
        for index, output in enumerate(node.outputs):
            if not output.name or output.name in start:
                continue
            if blame:
                unknown[output.name] = blame
            if index < len(results) and results[index] is not None:
                values[output.name] = results[index]
    return Interpretation(values, unknown)


def _apply(table: Table[Any], site: Site, inputs: Sequence[Any]) -> tuple[Sequence[Any], tuple[Hidden, ...]]:
    """The values of the outputs, and whom to blame where there are none."""
    rule = table.of(site.node)
    if rule is None:
        return (), (Hidden(site.node),)
    try:
        if table.apart:
            return [rule(replace(site, index=k) if k else site, *inputs) for k in range(len(site.node.outputs))], ()
        result = rule(site, *inputs)
    except HiddenError as reason:
        return (), (Hidden(site.node, str(reason)),)
    except Exception as error:  # shapes that contradict each other, attributes that are missing: one node, not the walk
        return (), (Hidden(site.node, f"{type(error).__name__}: {error}"),)
    return (result if isinstance(result, tuple) else (result,)), ()
