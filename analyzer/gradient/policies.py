"""Policies: the gradient table with the rows of the rectifiers replaced.

`analysis.rectifiers` defines rectifiers. Everything else keeps its gradient; MaxPool's gradient already is unpooling
with the switches.

The papers and the frameworks' implementations define only that. The policies ending in "-all" extend the definition
(our choice) to other activations that approach x for large x (`ACTIVATIONS`). Guided backpropagation is then
x̄ = f′(x) ⊙ 1[x > 0] ⊙ max(ȳ, 0), deconvnet x̄ = max(ȳ, 0).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from analyzer.analysis.rectifiers import ACTIVATIONS, RECTIFIERS, gated_input, rectified_input
from analyzer.docstrings import docstring
from analyzer.errors import NotFoundError, suggest
from analyzer.gradient.policy import Policy
from analyzer.gradient.registry import Builder, Primal, Rule, Table, Value
from analyzer.gradient.rules import GRADIENT as GRADIENT_ROWS
from analyzer.gradient.rules.elementwise import masked
from analyzer.gradient.rules.pooling import unpool
from analyzer.gradient.rules.quantization import like_x
from analyzer.graph import Graph, Node

# ---- Rows ----


def _rectifier_rows(rule: Callable[[Builder, Primal, Rule, Value, int], Any]) -> dict[str, Rule]:
    """Rows for Relu, Clip, Max and QuantizeLinear: `rule` where the node is a rectifier, the gradient elsewhere."""

    def row(name: str) -> Rule:
        plain = GRADIENT_ROWS["", name].rule

        def rectifier_vjp(op: Builder, node: Primal, ct: Value) -> Any:
            index = rectified_input(node.graph, node.node)
            if index is None:
                return plain(op, node, ct)
            return (None,) * index + (rule(op, node, plain, ct, index),)

        rectifier_vjp.__doc__ = docstring(rule)
        return rectifier_vjp

    return {name: row(name) for _, name in RECTIFIERS.rows}


def _guided_vjp(op: Builder, node: Primal, plain: Rule, ct: Value, index: int) -> Any:
    """x̄ = 1[x > 0] ⊙ 1[ȳ > 0] ⊙ ȳ   (Springenberg et al. 2014, 1412.6806, section 3.4)"""
    result = plain(op, node, op.Relu(ct))
    return result[index] if isinstance(result, tuple | list) else result


def _deconvnet_vjp(op: Builder, node: Primal, plain: Rule, ct: Value, index: int) -> Any:
    """x̄ = max(ȳ, 0)   (Zeiler & Fergus 2014, 1311.2901, section 2.1)"""
    if node.op == "QuantizeLinear":
        return op.Div(op.Relu(ct), op.cast(like_x(op, node, node.inputs[1]), ct.dtype))
    return op.Relu(ct)


def _redirected_vjp(op: Builder, node: Primal, plain: Rule, ct: Value, index: int) -> Any:
    """x̄ = f′(x) ⊙ ȳ; where that is 0 everywhere, ȳ ⊙ 1[x > 0 or ȳ > 0]   (lucid, Olah et al. 2017)"""
    result = plain(op, node, ct)
    if node.op == "QuantizeLinear":
        return result
    given = result[index] if isinstance(result, tuple | list) else result
    blocked = op.Equal(op.ReduceMax(op.Abs(given), keepdims=0), op.scalar(0, given))
    open_ = op.Or(op.Greater(node.inputs[index], 0.0), op.Greater(ct, 0.0))
    return op.Where(blocked, op.Where(open_, ct, op.scalar(0, ct)), given)


def _activation_rows(guided: bool) -> dict[str, Rule]:
    """Rows for the activations that are no rectifiers."""

    def row(name: str) -> Rule:
        plain = GRADIENT_ROWS["", name].rule

        def activation_vjp(op: Builder, node: Primal, ct: Value) -> Any:
            """x̄ = f′(x) ⊙ 1[x > 0] ⊙ max(ȳ, 0), in a deconvnet max(ȳ, 0)"""
            gated = gated_input(node.graph, node.node)
            if name == "Mul" and gated is None:
                return plain(op, node, ct)
            index, x, limit = gated or (0, node.x, 1.0)
            positive = op.Relu(ct)
            if guided:
                return plain(op, node, masked(op, node, op.Greater(x, op.scalar(0, x)), positive))
            return (None,) * index + (op.Mul(positive, limit),)

        return activation_vjp

    return {name: row(name) for domain, name in ACTIVATIONS.rows if (domain, name) in GRADIENT_ROWS}


def _is_rectifier(graph: Graph, node: Node) -> bool:
    return rectified_input(graph, node) is not None


def _is_activation(graph: Graph, node: Node) -> bool:
    return _is_rectifier(graph, node) or ACTIVATIONS.at(graph, node) is not None


def _at_rectifiers(name: str, about: str, rule: Callable[[Builder, Primal, Rule, Value, int], Any]) -> Policy:
    return Policy(name, about, treats=_is_rectifier).replacing(_rectifier_rows(rule))


def _at_activations(policy: Policy, guided: bool) -> Policy:
    about = f"{policy.about.rstrip('.')}, extended to all activations."
    extended = replace(policy, name=f"{policy.name}-all", about=about, treats=_is_activation)
    return extended.replacing(_activation_rows(guided))


GRADIENT = Policy("gradient", "The true gradient.")
GUIDED = _at_rectifiers("guided", "Guided backpropagation.", _guided_vjp)
DECONVNET = _at_rectifiers("deconvnet", "The deconvolutional network.", _deconvnet_vjp)
REDIRECTED = _at_rectifiers(
    "redirected",
    "The gradient; a rectifier that blocks all of it passes what would open it. For ascent from inactive units.",
    _redirected_vjp,
)
GUIDED_ALL = _at_activations(GUIDED, guided=True)
DECONVNET_ALL = _at_activations(DECONVNET, guided=False)
POLICIES = {p.name: p for p in (GRADIENT, GUIDED, GUIDED_ALL, DECONVNET, DECONVNET_ALL, REDIRECTED)}


def find_policy(given: str | Policy | Mapping[str, Rule] | Table) -> Policy:
    """A policy as it is, by its name, by a full table, or by {operator: rule} over the gradient's table.

    Raises:
        NotFoundError: no policy of that name.
    """
    if isinstance(given, Policy):
        return given
    if isinstance(given, str):
        if given not in POLICIES:
            raise NotFoundError(
                f"no policy {given!r}", suggest(given, POLICIES) or f"choose one of {', '.join(POLICIES)}"
            )
        return POLICIES[given]
    if all(isinstance(key, tuple) for key in given):
        return Policy("given", rows=dict(given), default="refuse")  # type: ignore[arg-type]
    return Policy("given").replacing(given)  # type: ignore[arg-type]


def passing(policy: Policy, quantised: Collection[str]) -> Policy:
    """`policy` with the QuantizeLinear nodes that give these tensors passing the gradient where they saturate, too."""
    plain = policy.table["", "QuantizeLinear"].rule

    def unmasked_quantize_linear_vjp(op: Builder, node: Primal, ct: Value) -> Any:
        """x̄ = q̄ / s   (straight through)"""
        if node.node.outputs[0].name not in quantised:
            return plain(op, node, ct)
        return op.Div(ct, op.cast(like_x(op, node, node.inputs[1]), ct.dtype))

    return policy.replacing({"QuantizeLinear": unmasked_quantize_linear_vjp})


def with_switches(policy: Policy, switches: Mapping[str, Value]) -> Policy:
    """`policy` with MaxPool undone by given switches: those of the pooled tensor's name, its own where it has none."""
    plain = policy.table["", "MaxPool"].rule

    def switched_max_pool_vjp(op: Builder, node: Primal, ct: Value, *rest: Any) -> Any:
        """x̄[switches] = Σ ȳ, 0 elsewhere"""
        given = switches.get(node.y.name)
        return plain(op, node, ct, *rest) if given is None else unpool(op, given, ct, node.x)

    return policy.replacing({"MaxPool": switched_max_pool_vjp})
