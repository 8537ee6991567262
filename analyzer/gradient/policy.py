"""A policy: the rule by which each operator is differentiated. It is a value, so variants of a gradient are data."""

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
    """Rules by (domain, operator), what applies to all other operators, and parameters that the rules read.

    Attributes:
        name: name in `plan`, captions and errors.
        about: description, one sentence.
        rows: the policy's own rows; see `row` for writing one.
        default: "gradient": other operators use the gradient's table. "refuse": they have no rule, and a pullback
            through them is an error that lists all such nodes.
        parameters: numbers and strings that rules read as `node.parameter("epsilon")`.
        idioms: idioms that are tried before the equations, onnxruntime's by default; see `on`.
        treats: nodes to which the policy's rows apply, if that depends on more than the operator; None for all.
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
            NotFoundError: no runtime of that name.
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
