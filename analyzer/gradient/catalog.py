"""The operator table: how each standard operator is differentiated. It is generated from the rules."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from analyzer.gradient.registry import NOT_DIFFERENTIABLE
from analyzer.gradient.rules import GRADIENT
from analyzer.graph.passes.newer import OPSET
from analyzer.graph.passes.sequences import FOLLOWED
from analyzer.graph.passes.unfuse import LEFT, MS
from analyzer.graph.passes.unfuse import TABLE as FUSED
from analyzer.graph.passes.unfuse.blocked import NCHWC
from analyzer.graph.passes.unfuse.blocked import OPERATORS as BLOCKED
from analyzer.graph.schemas import function_operators


@dataclass(frozen=True)
class Row:
    """`status`: "rule", "function body", "un-fused", "followed", "nothing flows" or "no rule"; `detail`: the equation
    or the reason."""

    op: str
    domain: str
    status: str
    detail: str


def catalog() -> list[Row]:
    """A row for every operator of ai.onnx, and for those of other domains that have a rule."""
    names = sorted({s.name for s in onnx.defs.get_all_schemas() if not s.domain})
    rows = [_row(name) for name in names]
    rows += [Row(op, domain, "rule", entry.equation) for (domain, op), entry in sorted(GRADIENT.items()) if domain]
    rows += [_unfused(op, domain) for domain, op in sorted(FUSED) if op not in names or domain]
    rows += [_unfused(op, NCHWC) for op in sorted(BLOCKED)]
    return rows + [Row(op, MS, "no rule", why) for op, why in sorted(LEFT.items())]


def _unfused(op: str, domain: str) -> Row:
    return Row(op, domain, "un-fused", "decomposed into standard operators, then differentiated")


def _row(name: str) -> Row:
    if ("", name) in GRADIENT:
        return Row(name, "", "rule", GRADIENT["", name].equation)
    if ("", name) in FUSED:
        return _unfused(name, "")
    if name in FOLLOWED:
        return Row(name, "", "followed", "replaced by its tensors, where they are known before the model runs")
    if ("", name) in NOT_DIFFERENTIABLE:
        return Row(name, "", "nothing flows", NOT_DIFFERENTIABLE["", name])
    if name in function_operators():
        return Row(name, "", "function body", "replaced by its schema's function body, then differentiated")
    schema = onnx.defs.get_schema(name)
    if schema.deprecated:
        return Row(name, "", "function body", f"deprecated; converted to opset {OPSET}, then differentiated")
    return Row(name, "", "no rule", "")
