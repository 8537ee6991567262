"""What a method would differentiate, as a value; nothing is appended and nothing runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from analyzer.attribution.engine import Explainer, float_image
from analyzer.attribution.registry import find_method
from analyzer.attribution.targets import expression, find_scores, is_expression, resolve_class
from analyzer.gradient import table_of
from analyzer.gradient.policies import overridden
from analyzer.gradient.reverse import plan as route_of
from analyzer.gradient.reverse import rule_for
from analyzer.graph import Builder
from analyzer.runtime.kernel_table import Prediction, predict

_POLICIES = {"guided-backprop": "guided", "guided-grad-cam": "guided", "deconvnet": "deconvnet"}


@dataclass
class MethodPlan:
    """What would be differentiated: nodes per operator with their rule, and those without one."""

    method: str
    target: str
    wrt: list[str]
    layer: str = ""
    layout: str = ""
    stripped: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    equations: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    overridden: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, int, str, str]]:
        """(operator, nodes, how, equation), the missing first."""
        rows = [
            (op, n, "rule" if op in self.equations else "NO RULE", self.equations.get(op, ""))
            for op, n in self.counts.items()
        ]
        return sorted(rows, key=lambda r: (r[2] == "rule", -r[1], r[0]))

    def to_dict(self) -> dict[str, Any]:
        return vars(self)


def predict_fallbacks(
    explainer: Explainer,
    provider: str,
    method: str,
    target: Any,
    layer: str,
    shapes: dict[str, tuple[int, ...]],
    output: str | None,
) -> Prediction:
    """What of the method's whole graph would fall to the CPU on a provider; raises as `Explainer.compile`."""
    if find_method(method, {}).runs:
        graph = explainer.graph(shapes)
        return predict(graph.stub()[0], provider)
    slot = target if is_expression(target) else resolve_class(target, explainer.labels)
    compiled = explainer.compile(method, layer, [slot], shapes, output)
    assert compiled.graph is not None
    return predict(compiled.graph.stub(compiled.names)[0], provider)


def make_plan(
    explainer: Explainer, method: str, target: Any, layer: str, shapes: dict[str, tuple[int, ...]], output: str | None
) -> MethodPlan:
    """The plan of `method`; raises as `Explainer.compile` does, but for missing rules, which it lists."""
    chosen = find_method(method, {})
    graph = explainer.graph(shapes)
    op = Builder(graph, "plan")
    stripped: tuple[str, ...] = ()
    if is_expression(target):
        about = expression(op, target, explainer.arrays)
    else:
        resolve_class(target, explainer.labels)
        scores = find_scores(graph, output)
        about, stripped = scores.logits, scores.stripped
    asked = (layer, graph, about, shapes, output, target if is_expression(target) else None)
    feature = explainer.choose_layer(*asked) if chosen.needs_layer else None
    wrt = [feature.name] if feature else []
    if chosen.kind == "gradient":
        wrt.append(float_image(graph)[0].name)
    table = table_of(_POLICIES.get(method, "gradient"))
    route = route_of(graph, [about.name], wrt if chosen.needs_gradient else [], table)
    plan = MethodPlan(method, about.name, wrt, stripped=stripped)
    if feature:
        plan.layer, plan.layout = feature.name, str(feature.layout)
    labels = [f"{n.domain}::{n.op}" if n.domain else n.op for n in route.nodes]
    plan.counts = dict(Counter(labels))
    for node, label in zip(route.nodes, labels, strict=True):
        entry = rule_for(graph, node, table)
        if entry is not None:
            plan.equations[label] = entry.equation
    plan.missing = [f"{n.op} ({n.name})" for n in route.missing]
    if method in _POLICIES:
        plan.overridden = [n.name for n in overridden(graph, route.nodes)]
    return plan
