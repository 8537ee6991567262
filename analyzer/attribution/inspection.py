"""Inspection of a model: inputs, outputs, operators, feature maps, and the default layer and target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from analyzer.analysis.feature_maps import feature_maps
from analyzer.attribution.compiler import choose_layer
from analyzer.attribution.model import Model
from analyzer.attribution.question import Question
from analyzer.attribution.targets import find_scores
from analyzer.errors import UnsupportedError
from analyzer.graph import Value


def tensors(values: Iterable[Value]) -> list[dict[str, Any]]:
    """Name, element type and shape of each, as plain data."""
    return [{"name": v.name, "type": str(v.dtype), "shape": None if v.shape is None else list(v.shape)} for v in values]


def describe(model: Model, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
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
        scores = find_scores(graph)
        report["target"], report["stripped"] = scores.logits.name, list(scores.stripped)
        report["doubt"] = scores.doubt
        report["default_layer"] = choose_layer(model, Question(), "auto", graph, scores.logits, shapes=sizes).name
    except UnsupportedError as error:
        report["no_layer" if report["target"] else "no_target"] = error.message
    return report
