"""Reverse mode: rules (`@vjp`), the one loop that applies them, and policies that replace rows of the table."""

from __future__ import annotations

import os
from collections.abc import Sequence

import onnx

from analyzer.gradient.policies import GRADIENT, find_policy
from analyzer.gradient.policy import Policy
from analyzer.gradient.registry import Rule, Table, vjp
from analyzer.gradient.reverse import Vjp, append_vjp_to, pullback
from analyzer.graph import Graph
from analyzer.graph.schemas import function_operators


def append_vjp(
    model: onnx.ModelProto | str | os.PathLike,
    outputs: Sequence[str],
    wrt: Sequence[str],
    policy: str | Policy | dict[str, Rule] | Table = "gradient",
) -> Vjp:
    """v ↦ Jᵀv: the model with its vector-Jacobian product appended, in standard ONNX operators.

    Args:
        model: the model or its path; it is converted to opset 21 and otherwise unchanged.
        outputs: tensors to differentiate (outputs, or any floating-point tensor of the file).
        wrt: tensors to differentiate with respect to: inputs, initializers or intermediate tensors of the file.
        policy: "gradient", "guided", "deconvnet", a `Policy`, or {operator: rule} to replace rows of the gradient's
            table.

    Raises:
        InputError: the model cannot be read, or a tensor is not of floating-point type.
        NotFoundError: there is no tensor or policy of that name.
        UnsupportedError: operators between `wrt` and `outputs` have no rule; the message lists all of them.
    """
    chosen = find_policy(policy)
    graph = Graph.read(model, inline=inlined_operators(chosen))
    outputs = [outputs] if isinstance(outputs, str) else list(outputs)
    wrt = [wrt] if isinstance(wrt, str) else list(wrt)
    return append_vjp_to(graph, outputs, wrt, chosen)


def inlined_operators(policy: Policy = GRADIENT) -> frozenset[str]:
    """Operators that have a function body in their schema, and no rule in the gradient's table nor in the policy."""
    return frozenset(op for op in function_operators() if ("", op) not in {**GRADIENT.table, **policy.rows})
