"""What a method would differentiate, as a value; nothing is appended and nothing runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from analyzer.attribution.asked import slot_of, task_of
from analyzer.attribution.compiler import Shapes, choose_layer, compile_question
from analyzer.attribution.layers import float_image
from analyzer.attribution.methods import find_method
from analyzer.attribution.model import Model
from analyzer.attribution.question import Question
from analyzer.attribution.seeds import arrays_of
from analyzer.gradient.reverse import route as route_of
from analyzer.graph import Builder
from analyzer.runtime.kernel_table import Prediction, predict
from analyzer.tasks.targets import expression, is_expression


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


def predict_fallbacks(model: Model, question: Question, provider: str, shapes: Shapes | None = None) -> Prediction:
    """What of the whole graph would fall to the CPU on a provider; raises as `compile_question`."""
    (job,) = question.jobs
    if find_method(job.method, job.options).runs:
        return predict(model.graph(shapes).stub()[0], provider)
    slot = slot_of(task_of(model, question, model.graph(shapes)), question, question.target)
    (compiled,) = compile_question(model, question, [slot], shapes)
    assert compiled.graph is not None
    return predict(compiled.graph.stub(compiled.names)[0], provider)


def make_plan(model: Model, question: Question, shapes: Shapes | None = None) -> MethodPlan:
    """The plan of the question's one job; raises as `compile_question` does, but for missing rules, which it lists."""
    (job,) = question.jobs
    method, arrays = find_method(job.method, job.options), arrays_of(model, question)
    graph = model.graph(shapes)
    task = task_of(model, question, graph)
    slot = slot_of(task, question, question.target)
    stripped: tuple[str, ...] = ()
    if isinstance(slot, str):
        about = expression(Builder(graph, "plan"), slot, arrays)
    else:
        about, stripped = task.logits, task.stripped
    feature = None
    if method.needs_layer:
        own = job.layer == "auto" and task.layers and not is_expression(question.target)
        layer = task.layers[0] if own else job.layer
        feature = choose_layer(model, question, layer, graph, about, slot, shapes, arrays)
    wrt = [feature.name] if feature else []
    if method.kind == "gradient":
        wrt.append(float_image(graph)[0].name)
    policy = method.policy_for(job.options)
    route = route_of(graph, [about.name], wrt if method.needs_gradient else [], policy)
    plan = MethodPlan(job.method, about.name, wrt, stripped=stripped)
    if feature:
        plan.layer, plan.layout = feature.name, str(feature.layout)
    labels = [f"{n.domain}::{n.op}" if n.domain else n.op for n in route.nodes]
    plan.counts = dict(Counter(labels))
    for node, label in zip(route.nodes, labels, strict=True):
        entry = policy.entry(graph, node)
        if entry is not None:
            plan.equations[label] = entry.equation
    plan.missing = [f"{n.op} ({n.name})" for n in route.missing]
    plan.overridden = [n.name for n in route.nodes if policy.has_its_own(graph, n)]
    return plan
