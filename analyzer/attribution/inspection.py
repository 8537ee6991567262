"""Inspection of a model: inputs, outputs, operators, feature maps, and the default layer and target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analyzer.analysis.feature_maps import feature_maps
from analyzer.attribution.asked import task_of
from analyzer.attribution.compiler import choose_layer
from analyzer.attribution.model import Model
from analyzer.attribution.question import Question
from analyzer.errors import UnsupportedError
from analyzer.graph import Builder, Graph, Value
from analyzer.tasks import Declared, Task
from analyzer.tasks.base import TOP1
from analyzer.tasks.recognise import NOTHING
from analyzer.tasks.targets import expression


def tensors(values: Iterable[Value]) -> list[dict[str, Any]]:
    """Name, element type and shape of each, as plain data."""
    return [{"name": v.name, "type": str(v.dtype), "shape": None if v.shape is None else list(v.shape)} for v in values]


def _default_layers(
    model: Model, question: Question, graph: Graph, task: Task, sizes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """The layer by which the default target is explained; several, where it is that of a detection's level."""
    if task.layers:
        return list(task.layers)
    slot, about = task.slot(TOP1), task.logits
    if isinstance(slot, str):
        graph = model.graph(sizes)
        about = expression(Builder(graph, "inspect"), slot)
    return [choose_layer(model, question, "auto", graph, about, slot if isinstance(slot, str) else None, sizes).name]


def describe(
    model: Model,
    sizes: Mapping[str, tuple[int, ...]],
    declared: Declared = NOTHING,
    labels: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Inputs, outputs, operators, feature maps, default layer and target, as plain data."""
    graph = model.graph(sizes)
    original = model.loaded.proto
    report: dict[str, Any] = {
        "file": str(model.loaded.path or model.loaded.name),
        "sha256": model.loaded.sha256,
        "producer": f"{original.producer_name} {original.producer_version}".strip(),
        "ir": original.ir_version,
        "opsets": {o.domain or "ai.onnx": o.version for o in original.opset_import},
        "nodes": len(original.graph.node),
        "parameters": sum(p.size for p in graph.parameters()),
        "inputs": tensors(model.plain.inputs),
        "outputs": tensors(model.plain.outputs),
        "operators": dict(
            Counter(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in original.graph.node).most_common()
        ),
        "stripped": [],
    }
    report |= dict.fromkeys(("default_layer", "no_layer", "target", "no_target", "doubt"), "")
    report |= {"task": None, "heads": [], "default_layers": []}
    maps = feature_maps(graph)
    report["feature_maps"] = [
        {
            "name": m.name,
            "node": m.node.name if m.node else "",
            "layout": str(m.layout),
            "size": list(m.size),
            "channels": m.channels,
        }
        for m in maps
    ]
    try:
        question = Question(declared=declared, labels=labels)
        task = task_of(model, question, graph)
        report["target"], report["stripped"] = task.logits.name, list(task.stripped)
        report["doubt"] = task.doubt
        report["task"] = {"kind": task.kind, "output": task.output.name, "role": task.role, "evidence": task.evidence}
        report["task"]["words"] = ["top1", *task.words]
        report["heads"] = [{"output": r.output, "role": r.role} for r in task.others]
        report["default_layers"] = _default_layers(model, question, graph, task, sizes)
        report["default_layer"] = ", ".join(report["default_layers"])
    except UnsupportedError as error:
        report["no_layer" if report["target"] else "no_target"] = error.message
    return report
