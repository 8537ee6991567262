"""The operator table: how each standard operator is differentiated. It is generated, never kept by hand."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from analyzer.gradient.registry import NOT_DIFFERENTIABLE, load_rules
from analyzer.graph.blocked import NCHWC
from analyzer.graph.blocked import OPERATORS as BLOCKED
from analyzer.graph.newer import OPSET
from analyzer.graph.normalize import function_operators
from analyzer.graph.sequences import FOLLOWED
from analyzer.graph.unfuse import LEFT, MS
from analyzer.graph.unfuse import TABLE as FUSED


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
    table = load_rules()
    names = sorted({s.name for s in onnx.defs.get_all_schemas() if not s.domain})
    rows = [_row(name) for name in names]
    rows += [Row(op, domain, "rule", entry.equation) for (domain, op), entry in sorted(table.items()) if domain]
    rows += [_unfused(op, domain) for domain, op in sorted(FUSED) if op not in names or domain]
    rows += [_unfused(op, NCHWC) for op in sorted(BLOCKED)]
    return rows + [Row(op, MS, "no rule", why) for op, why in sorted(LEFT.items())]


def _unfused(op: str, domain: str) -> Row:
    return Row(op, domain, "un-fused", "taken apart into standard operators, then differentiated")


def _row(name: str) -> Row:
    table = load_rules()
    if ("", name) in table:
        return Row(name, "", "rule", table["", name].equation)
    if ("", name) in FUSED:
        return _unfused(name, "")
    if name in FOLLOWED:
        return Row(
            name, "", "followed", "a sequence or optional known before the model runs is replaced by its tensors"
        )
    if ("", name) in NOT_DIFFERENTIABLE:
        return Row(name, "", "nothing flows", NOT_DIFFERENTIABLE["", name])
    if name in function_operators():
        return Row(name, "", "function body", "inlined by its schema's function body, then differentiated")
    schema = onnx.defs.get_schema(name)
    if schema.deprecated:
        return Row(name, "", "function body", f"deprecated; converted when the model is brought to opset {OPSET}")
    return Row(name, "", "no rule", "")
