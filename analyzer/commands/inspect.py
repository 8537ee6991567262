"""`inspect`: what a model is, and which layers and targets it offers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from analyzer.commands.common import (
    parse_shapes,
    print_json,
    shape_text,
    table,
)
from analyzer.commands.options import Given, format_option, model_argument, option, shape_option


class Inspect(Given):
    model: str = model_argument
    everything: bool = option("--all", "List every feature map, not one per size.", is_flag=True)
    shapes: tuple[str, ...] = shape_option
    form: str = format_option


@Inspect.command("inspect")
def command(given: Inspect) -> None:
    """Show inputs, outputs, operators, feature maps, the default layer and what a target can be."""
    from analyzer.attribution import Explainer

    explainer = Explainer(given.model)
    sizes = parse_shapes(given.shapes, explainer.plain.inputs)
    report = describe(explainer, sizes)
    if given.form == "json":
        print_json("inspect", report)
        return
    click.echo(f"{report['file']}  sha256 {report['sha256'][:16]}…")
    click.echo(
        f"produced by {report['producer'] or 'an unnamed exporter'}; IR {report['ir']}; opsets {report['opsets']}"
    )
    click.echo(f"{report['nodes']} nodes, {report['parameters']:,} parameters\n")
    ports = [("input", i["name"], i["type"], shape_text(i["shape"])) for i in report["inputs"]]
    ports += [("output", o["name"], o["type"], shape_text(o["shape"])) for o in report["outputs"]]
    click.echo(table(ports, ("", "name", "type", "shape")))
    click.echo("\noperators: " + ", ".join(f"{op} ×{n}" for op, n in report["operators"].items()))
    maps = report["feature_maps"]
    shown = maps if given.everything else _one_per_size(maps)
    if shown:
        rows = [
            (m["name"], m["layout"], "×".join(str(s or "?") for s in m["size"]), m["channels"] or "?") for m in shown
        ]
        left = f" (last of each size; all {len(maps)} with --all)" if len(shown) < len(maps) else ""
        click.echo(f"\nfeature maps{left}\n" + table(rows, ("tensor", "layout", "size", "channels")))
    click.echo(f"\ndefault layer: {report['default_layer'] or 'none: ' + report['no_layer']}")
    click.echo(f"target: {report['target'] or 'none: ' + report['no_target']}")
    if report["doubt"]:
        click.echo(f"note: {report['doubt']}")
    if report["stripped"]:
        click.echo(f"left out in front of the target: {', '.join(report['stripped'])}")


def describe(explainer: Any, sizes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The report as plain data."""
    from analyzer.analysis.feature_maps import feature_maps
    from analyzer.attribution import Question
    from analyzer.attribution.compiler import choose_layer
    from analyzer.attribution.targets import find_scores
    from analyzer.errors import UnsupportedError

    graph = explainer.graph(sizes)
    original = explainer.loaded.proto
    report: dict[str, Any] = {
        "file": str(explainer.loaded.path or explainer.loaded.name),
        "sha256": explainer.loaded.sha256,
        "producer": f"{original.producer_name} {original.producer_version}".strip(),
        "ir": original.ir_version,
        "opsets": {o.domain or "ai.onnx": o.version for o in original.opset_import},
        "nodes": len(original.graph.node),
        "parameters": sum(p.size for p in graph.parameters()),
        "inputs": [{"name": v.name, "type": str(v.dtype), "shape": v.shape} for v in explainer.plain.inputs],
        "outputs": [{"name": v.name, "type": str(v.dtype), "shape": v.shape} for v in explainer.plain.outputs],
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
        report["default_layer"] = choose_layer(explainer, Question(), "auto", graph, scores.logits, shapes=sizes).name
    except UnsupportedError as error:
        report["no_layer" if report["target"] else "no_target"] = error.message
    return report


def _one_per_size(maps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = {(tuple(m["size"]), m["layout"]): m for m in maps}
    return [m for m in maps if last[tuple(m["size"]), m["layout"]] is m]
