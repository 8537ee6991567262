"""`inspect`: what a model is, and which layers and targets it offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from analyzer.commands.common import (
    parse_shapes,
    print_json,
    shape_text,
    table,
)
from analyzer.commands.options import Given, Resources, format_option, group, model_argument, option, shape_option


class Inspect(Given):
    model: str = model_argument
    everything: bool = option("--all", "List all feature maps, not only the last of each size.", is_flag=True)
    shapes: tuple[str, ...] = shape_option
    resources: Resources = group(Resources)
    form: str = format_option


@Inspect.command("inspect")
def command(given: Inspect) -> None:
    """Show a model's inputs, outputs, operators, feature maps, default layer and default target."""
    from analyzer.attribution import Explainer
    from analyzer.attribution.cards import read_task
    from analyzer.attribution.inspection import describe

    explainer = Explainer(given.model)
    sizes = parse_shapes(given.shapes, explainer.plain.inputs)
    labels = read_task(explainer, None)
    report = describe(explainer, sizes, explainer.declared, labels)
    if given.form == "json":
        print_json("inspect", report)
        return
    click.echo(f"{report['file']}  sha256 {report['sha256'][:16]}…")
    click.echo(
        f"produced by {report['producer'] or 'an unknown exporter'}; IR {report['ir']}; opsets {report['opsets']}"
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
    _say_task(report)
    click.echo(f"\ndefault layer: {report['default_layer'] or 'none: ' + report['no_layer']}")
    click.echo(f"target: {report['target'] or 'none: ' + report['no_target']}")
    if report["doubt"]:
        click.echo(f"note: {report['doubt']}")
    if report["stripped"]:
        click.echo(f"operators skipped after the target: {', '.join(report['stripped'])}")


def _say_task(report: dict[str, Any]) -> None:
    """What kind of model it is, why, and what to write if that is wrong."""
    task = report["task"]
    if task is None:
        return
    click.echo(f"\ntask: {task['kind']}, by output {task['output']} ({task['role']}): {task['evidence']}")
    for head in report["heads"]:
        click.echo(f"output {head['output']}: {head['role']}")
    click.echo(f"targets: {', '.join(task['words'])}, a class, or an expression (docs/targets.md)")
    place = str(Path(report["file"]).with_suffix(".toml"))
    click.echo(f'if this is wrong, write task = "…" to {place}, or choose an output with --output')


def _one_per_size(maps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = {(tuple(m["size"]), m["layout"]): m for m in maps}
    return [m for m in maps if last[tuple(m["size"]), m["layout"]] is m]
