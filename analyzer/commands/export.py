"""`export`: a deployable model with a heatmap output."""

from __future__ import annotations

import click

from analyzer.commands.common import parse_shapes, print_json, tell_doubt
from analyzer.commands.options import (
    METHOD,
    WRITE_REPORT,
    Given,
    IntRange,
    Resources,
    format_option,
    group,
    labels_option,
    layer_option,
    model_argument,
    option,
    output_option,
    placement_option,
    shape_option,
)


class Export(Given):
    model: str = model_argument
    out: str = option("-o --out", "ONNX file to write.", required=True, type=WRITE_REPORT, metavar="FILE")
    method: str | None = option(
        "-m --method",
        "Method, see the methods command. Default: grad-cam; for text, detections and keypoints, layer-cam.",
        **METHOD,
    )
    target: str = option(
        "-t --target", "top1, a class index or label, or an expression.", default="top1", metavar="TARGET"
    )
    labels: str | None = labels_option
    output: str | None = output_option
    runtime: str = option(
        "--runtime",
        "Runtime the file is for: onnxruntime, web, openvino, opencv, tract, or tensorrt for only operators that its "
        "parser supports.",
        default="onnxruntime",
        metavar="NAME",
    )
    check: bool = option("--check", "Also run the file in that runtime, if it is installed.", is_flag=True)
    opset: int | None = option(
        "--opset",
        "Operator set version. Default: the model's, or the first newer one that has all operators needed.",
        type=IntRange(9, 28),
        metavar="N",
    )
    layer: str | None = layer_option
    placement: str = placement_option
    shapes: tuple[str, ...] = shape_option
    resources: Resources = group(Resources)
    form: str = format_option


@Export.command("export")
def command(given: Export) -> None:
    """Write MODEL with an added `heatmap` output of shape (N, H, W), in [0, 1].

    The new file runs in plain onnxruntime, without onnx-analyzer. It is run and compared with the original before it
    is saved.

    \b
    Example:
      onnx-analyzer export model.onnx -m grad-cam -o with_heatmap.onnx
    """
    from analyzer.attribution import Model
    from analyzer.attribution.export import OUTPUT, export, read_record
    from analyzer.images import load_labels

    path = export(
        given.model,
        given.out,
        given.method,
        given.target,
        given.layer or "auto",
        load_labels(given.labels) if given.labels else None,
        parse_shapes(given.shapes, Model(given.model).plain.inputs) if given.shapes else None,
        given.output,
        given.runtime,
        placement=given.placement,
        opset=given.opset,
        check=given.check,
    )
    record = read_record(path)
    tell_doubt(record.get("doubt", ""))
    if given.form == "json":
        print_json("export", {"path": str(path), "output": OUTPUT, **record})
    else:
        method, layer = record["method"], record["layer"] or "none"
        click.echo(f"{path}: output {OUTPUT!r} added ({method} of {record['target']}, layer {layer})")
        needs = f" ({record['needs'][-1]})" if "needs" in record else ""
        click.echo(f"opset {record['opset']}{needs}")
        click.echo(f"original outputs, largest relative difference on random input: {_number(record['receipt'])}")
        click.echo(f"heatmap, relative distance from the result of explain: {_number(record['heatmap_difference'])}")
        if "checked" in record:
            click.echo(
                f"heatmap in {given.runtime}, relative distance from onnxruntime's: {_number(record['checked'])}"
            )
        runs = "; ".join(", ".join("×".join(map(str, s)) for s in run.values()) for run in record["executed"])
        click.echo(f"run by onnxruntime with inputs of {runs}" if runs else "not run on this machine")


def _number(measured: float | str) -> str:
    return measured if isinstance(measured, str) else f"{measured:.2g}"
