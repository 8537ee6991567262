"""Policies: the gradient table with the rows of the rectifiers replaced.

A rectifier is what computes max(x, 0), whichever operator an exporter wrote it with: Relu, Clip from 0 (ReLU6 too)
and Max with 0. Everything else keeps its gradient; MaxPool's gradient already is unpooling with the switches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from analyzer.errors import NotFoundError, suggest
from analyzer.gradient.registry import Builder, Primal, Rule, Table, Value, load_rules, override
from analyzer.graph import Graph, Node


def rectified_input(graph: Graph, node: Node) -> int | None:
    """Which input of `node` it rectifies; None where `node` is no rectifier.

    Halves of a PRelu that an exporter wrote as max(x, 0) − α max(−x, 0) are none, nor is what only keeps the argument
    of a root from being negative.
    """
    if node.domain or _guards_a_root(node) or _half_of_prelu(node):
        return None
    if node.op == "Relu":
        return 0
    if node.op == "Clip":
        low = graph.constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else None
        return 0 if low is not None and low.size == 1 and float(low.item()) == 0 else None
    if node.op == "Max" and len(node.inputs) == 2:
        for index in (0, 1):
            known = graph.constant(node.inputs[1 - index])
            if known is not None and not np.any(known):
                return index
    return None


def _half_of_prelu(node: Node) -> bool:
    """Whether both max(x, 0) and max(−x, 0) are computed, this node being one of them."""
    if node.op != "Relu":
        return False
    x = node.inputs[0]
    negated = [n.outputs[0] for n in x.outputs if n.op == "Neg"]
    if x.inputs and x.inputs[0].op == "Neg":
        negated.append(x.inputs[0].inputs[0])
    return any(n.op == "Relu" for v in negated for n in v.outputs)


def _guards_a_root(node: Node) -> bool:
    """Whether all that reads the output is a root, perhaps after an Add (√(max(var, 0) + ε))."""
    following = list(node.outputs[0].outputs)
    following = [m for n in following for m in (n.outputs[0].outputs if n.op == "Add" else [n])]
    return bool(following) and all(n.op == "Sqrt" for n in following)


def _on_rectifiers(rule: Callable[[Builder, Primal, Rule, Value, int], Any]) -> dict[str, Rule]:
    """Rows for Relu, Clip and Max that apply `rule` where the node is a rectifier, and the gradient elsewhere."""
    gradient = load_rules()

    def row(name: str) -> Rule:
        plain = gradient["", name].rule

        def rectifier_vjp(op: Builder, node: Primal, ct: Value) -> Any:
            index = rectified_input(node.graph, node.node)
            if index is None:
                return plain(op, node, ct)
            return (None,) * index + (rule(op, node, plain, ct, index),)

        rectifier_vjp.__doc__ = rule.__doc__
        return rectifier_vjp

    return {name: row(name) for name in ("Relu", "Clip", "Max")}


def _guided_vjp(op: Builder, node: Primal, plain: Rule, ct: Value, index: int) -> Any:
    """x̄ = 1[x > 0] ⊙ 1[ȳ > 0] ⊙ ȳ   (Springenberg et al. 2014, 1412.6806, section 3.4)"""
    result = plain(op, node, op.Relu(ct))
    return result[index] if isinstance(result, tuple | list) else result


def _deconvnet_vjp(op: Builder, node: Primal, plain: Rule, ct: Value, index: int) -> Any:
    """x̄ = max(ȳ, 0)   (Zeiler & Fergus 2014, 1311.2901, section 2.1)"""
    return op.Relu(ct)


def _redirected_vjp(op: Builder, node: Primal, plain: Rule, ct: Value, index: int) -> Any:
    """x̄ = ȳ ⊙ 1[x > 0 or ȳ > 0]   (lucid, Olah et al. 2017)"""
    open_ = op.Or(op.Greater(node.inputs[index], 0.0), op.Greater(ct, 0.0))
    return op.Where(open_, ct, op.scalar(0, ct))


def gradient() -> Table:
    """The true gradient."""
    return load_rules()


def guided() -> Table:
    """Guided backpropagation."""
    return override(load_rules(), _on_rectifiers(_guided_vjp))


def deconvnet() -> Table:
    """The deconvolutional network."""
    return override(load_rules(), _on_rectifiers(_deconvnet_vjp))


def redirected() -> Table:
    """The gradient through rectifiers that it would open: for gradient ascent where all of them block."""
    return override(load_rules(), _on_rectifiers(_redirected_vjp))


POLICIES: dict[str, Callable[[], Table]] = {
    "gradient": gradient,
    "guided": guided,
    "deconvnet": deconvnet,
    "redirected": redirected,
}


def table_of(policy: str | dict[str, Rule] | Table) -> Table:
    """The rule table of a policy: its name, a full table, or {operator: rule} over the gradient's."""
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise NotFoundError(
                f"no policy {policy!r}", suggest(policy, POLICIES) or f"choose one of {', '.join(POLICIES)}"
            )
        return POLICIES[policy]()
    if all(isinstance(key, tuple) for key in policy):
        return policy  # type: ignore[return-value]
    return override(load_rules(), policy)  # type: ignore[arg-type]


def with_switches(table: Table, switches: Mapping[str, Value]) -> Table:
    """`table` with MaxPool undone by given switches: those of the pooled tensor's name, its own where it has none."""
    from analyzer.gradient.rules.pooling import unpool

    plain = table["", "MaxPool"].rule

    def switched_max_pool_vjp(op: Builder, node: Primal, ct: Value, *rest: Any) -> Any:
        """x̄[switches] = Σ ȳ, 0 elsewhere"""
        given = switches.get(node.y.name)
        return plain(op, node, ct, *rest) if given is None else unpool(op, given, ct, node.x)

    return override(table, {"MaxPool": switched_max_pool_vjp})


def overridden(graph: Graph, nodes: list[Node]) -> list[Node]:
    """Those of `nodes` that guided backpropagation and deconvnet treat in their own way."""
    return [n for n in nodes if rectified_input(graph, n) is not None]
