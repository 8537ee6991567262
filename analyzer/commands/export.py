"""`export`: a deployable model with a heatmap output."""

from __future__ import annotations

import click

from analyzer.commands.common import parse_shapes, print_json
from analyzer.commands.options import (
    READ_FILE,
    WRITE_FILE,
    Given,
    format_option,
    layer_option,
    method_option,
    model_argument,
    option,
    shape_option,
)


class Export(Given):
    model: str = model_argument
    out: str = option("-o --out", "Where to write the .onnx file.", required=True, type=WRITE_FILE)
    method: str = method_option
    target: str = option("-t --target", "top1, class, label or expression.", default="top1")
    labels: str | None = option("--labels", "Class names, one per line.", type=READ_FILE)
    output: str | None = option("--output", "Which output holds the scores.")
    runtime: str = option("--runtime", "tensorrt: operators that its parser takes.", default="onnxruntime")
    layer: str | None = layer_option
    shapes: tuple[str, ...] = shape_option
    form: str = format_option


@Export.command("export")
def command(given: Export) -> None:
    """Write a model with an added `heatmap` output, (N, H, W) in [0, 1], that any onnxruntime runs without us."""
    import json

    import onnx

    from analyzer.attribution import Explainer
    from analyzer.attribution.export import OUTPUT, export
    from analyzer.images import load_labels

    model, method, layer = given.model, given.method, given.layer or "auto"
    names = load_labels(given.labels) if given.labels else None
    sizes = parse_shapes(given.shapes, Explainer(model).plain.inputs) if given.shapes else None
    path = export(model, given.out, method, given.target, layer, names, sizes, given.output, given.runtime)
    written = onnx.load(path, load_external_data=False)
    record = json.loads(next(p.value for p in written.metadata_props if p.key == "onnx-analyzer"))
    if given.form == "json":
        print_json("export", {"path": str(path), "output": OUTPUT, **record})
    else:
        click.echo(
            f"{path}: output {OUTPUT!r} added ({method} of {record['target']}, layer {record['layer'] or 'none'})"
        )
        click.echo(f"original outputs, largest relative difference on random input: {_number(record['receipt'])}")
        click.echo(f"heatmap, relative distance from that of explain: {_number(record['heatmap_difference'])}")
        runs = "; ".join(", ".join("×".join(map(str, s)) for s in run.values()) for run in record["executed"])
        click.echo(f"executed by onnxruntime at {runs}" if runs else "not executed on this machine")


def _number(measured: float | str) -> str:
    return measured if isinstance(measured, str) else f"{measured:.2g}"
