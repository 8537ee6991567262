"""A policy: which rule each operator is differentiated by. A value, so that variants of a gradient are data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from analyzer.gradient.idioms import idioms_for
from analyzer.gradient.registry import RUNTIMES, Entry, Idioms, Rule, Table
from analyzer.gradient.rules import GRADIENT
from analyzer.graph import Graph, Node
from analyzer.graph.schemas import lookup

Default = Literal["gradient", "refuse"]


@dataclass(frozen=True)
class Policy:
    """Rules by (domain, operator), what holds for all other operators, and parameters that the rules read.

    Attributes:
        name: what `plan`, captions and errors call it.
        about: what it is, in a sentence.
        rows: the policy's own rows; see `row` for writing one.
        default: "gradient": any other operator keeps its row of the gradient's table. "refuse": it has none, and a
            pullback through it is an error that names all such nodes.
        parameters: numbers and words that rules read as `node.parameter("epsilon")`.
        idioms: what is asked before the equations: onnxruntime's; see `on`.
        treats: which nodes the policy has a say in, where a row looks at more than the operator; all of `rows` if None.
    """

    name: str
    about: str = ""
    rows: Table = field(default_factory=dict)
    default: Default = "gradient"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    treats: Callable[[Graph, Node], bool] | None = None
    idioms: Idioms = field(default_factory=lambda: idioms_for(RUNTIMES[0]))

    @cached_property
    def table(self) -> Table:
        """Every row: the policy's own over those of the default."""
        return {**GRADIENT, **self.rows} if self.default == "gradient" else dict(self.rows)

    def replacing(self, rules: Mapping[str, Rule]) -> Policy:
        """This policy with other rules for standard operators."""
        return replace(self, rows={**self.rows, **rows(rules)}) if rules else self

    def on(self, runtime: str) -> Policy:
        """This policy with the idioms of a runtime.

        Raises:
            NotFoundError: there is no runtime of that name.
        """
        return replace(self, idioms=idioms_for(runtime))

    def entry(self, graph: Graph, node: Node) -> Entry | None:
        """The row for `node` at the operator-set version of the graph; None where there is none."""
        domain = node.domain or ""
        found = self.table.get((domain, node.op))
        if found is None:
            return None
        schema = lookup(node.op, graph.versions.get(domain, 1), domain)
        return found if schema is None or schema.since_version >= found.since else None

    def has_its_own(self, graph: Graph, node: Node) -> bool:
        """Whether the policy treats `node` in another way than the gradient does."""
        if self.treats is not None:
            return self.treats(graph, node)
        return (node.domain or "", node.op) in self.rows


def rows(rules: Mapping[str, Rule]) -> Table:
    """{operator: rule} as rows; versions and whether integers carry gradients as in the gradient's row."""
    return {
        ("", op): replace(GRADIENT.get(("", op)) or Entry(op, "", 1, rule), rule=rule) for op, rule in rules.items()
    }
