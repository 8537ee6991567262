"""`export`: a deployable model with a heatmap output."""

from __future__ import annotations

import click

from analyzer.commands.common import (
    InputPath,
    OutputPath,
    format_option,
    layer_option,
    model_argument,
    parse_shapes,
    print_json,
    shape_option,
)


@click.command(name="export")
@model_argument
@click.option("-o", "--out", required=True, type=OutputPath(dir_okay=False), help="Where to write the .onnx file.")
@click.option("-m", "--method", default="grad-cam", show_default=True, help="See `methods`.")
@click.option("-t", "--target", default="top1", show_default=True, help="top1, class, label or expression.")
@click.option("--labels", type=InputPath(dir_okay=False), help="Class names, one per line.")
@click.option("--output", help="Which output holds the scores.")
@click.option("--runtime", default="onnxruntime", show_default=True, help="tensorrt: operators that its parser takes.")
@layer_option
@shape_option
@format_option
def command(
    model: str,
    out: str,
    method: str,
    target: str,
    labels: str | None,
    output: str | None,
    runtime: str,
    layer: str | None,
    shapes: tuple[str, ...],
    form: str,
) -> None:
    """Write a model with an added `heatmap` output, (N, H, W) in [0, 1], that any onnxruntime runs without us."""
    from analyzer.attribution import Explainer
    from analyzer.attribution.export import OUTPUT, export
    from analyzer.images import load_labels

    names = load_labels(labels) if labels else None
    sizes = parse_shapes(shapes, Explainer(model).plain.inputs) if shapes else None
    path = export(model, out, method, target, layer or "auto", names, sizes, output, runtime)
    import json

    import onnx

    written = onnx.load(path, load_external_data=False)
    record = json.loads(next(p.value for p in written.metadata_props if p.key == "onnx-analyzer"))
    if form == "json":
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
