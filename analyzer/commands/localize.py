"""`localize`: boxes around what a heatmap lights up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from analyzer.commands.common import (
    Progress,
    RunProgress,
    failed_as_data,
    note,
    parse_options,
    print_json,
    say_written,
    table,
    tell_doubt,
    tell_left_out,
)
from analyzer.commands.options import (
    READ,
    WRITE_FOLDER,
    FloatRange,
    Given,
    IntRange,
    OverPictures,
    Pictures,
    Setup,
    format_option,
    group,
    labels_option,
    layer_option,
    method_option,
    model_argument,
    option,
    options_option,
    output_option,
    pictures_out_option,
    placement_option,
    several,
)
from analyzer.commands.places import destinations


class Localize(Given):
    model: str = model_argument
    inputs: Pictures = group(Pictures)
    out: str | None = pictures_out_option
    method: str | None = method_option
    targets: tuple[str, ...] = several(
        "-t --target",
        "What to localize: top1, a class index or label, or an expression. Repeatable. Default: the labels in "
        "--boxes, or else top1.",
        metavar="TARGET",
    )
    boxes: str | None = option(
        "--boxes",
        'True boxes to compare with, as JSON: {"cat.jpg": {"cat": [x0, y0, x1, y1]}}.',
        type=READ,
        metavar="FILE",
    )
    threshold: float = option(
        "--threshold",
        "Heat threshold, as a fraction of the map's maximum.",
        type=FloatRange(),
        default=0.2,
        metavar="0..1",
    )
    several: bool = option("--several", "Draw a box around every connected region, not only the largest.", is_flag=True)
    masks: str | None = option(
        "--masks-out",
        "Folder to write masks to (PNG, white inside the region).",
        old="--masks",
        type=WRITE_FOLDER,
        metavar="FOLDER",
    )
    units: int = option(
        "--top-channels",
        "Print and draw the N channels that contribute most to the target.",
        old="--units",
        type=IntRange(0),
        default=0,
        show_default=False,
        metavar="N",
    )
    options: tuple[str, ...] = options_option
    layer: str | None = layer_option
    placement: str = placement_option
    output: str | None = output_option
    labels: str | None = labels_option
    over: OverPictures = group(OverPictures)
    setup: Setup = group(Setup)
    form: str = format_option


@Localize.command("localize")
def command(given: Localize) -> int:
    """Draw boxes around what MODEL looks at in PICTURES: the regions where the heatmap is above a threshold.

    With --boxes, the results are compared with true boxes: intersection over union, pointing game (is the maximum
    inside the true box?), the share of the heat inside it, and the threshold that fits best.

    \b
    Examples:
      onnx-analyzer localize model.onnx cat.jpg -t 281 -o boxes.png
      onnx-analyzer localize model.onnx photos/ --boxes boxes.json -o results/
    """
    from analyzer.attribution import Job, Question
    from analyzer.attribution.cards import default_method
    from analyzer.attribution.methods import options_of
    from analyzer.data import read_labelled_boxes
    from analyzer.files import make_folder
    from analyzer.passes import run
    from analyzer.passes.localizing import Localizing, beginnings

    samples = given.inputs.samples(read_labelled_boxes(given.boxes))
    model, card = given.setup.load(given.model, given.labels, many=len(samples) > 1)
    method = given.method or default_method(model, given.output)
    asked = options_of((method,), parse_options(given.options))[method]
    samples, sources = given.inputs.opened(samples, card.feeds)
    drawn = destinations(given.out, sources, samples, ".png")
    masks = beginnings(make_folder(given.masks), [sample.id for sample in samples]) if given.masks else {}
    layer = given.layer or card.default_layer or "auto"
    question = Question(
        (Job(method, layer, asked),),
        output=given.output,
        labels=card.labels,
        placement=given.placement,
        declared=model.declared,
    )
    single = RunProgress() if len(samples) == 1 else None
    how = given.threshold, given.several, given.units, single
    work = Localizing(model, question, card, given.targets, drawn, masks, *how)
    progress = Progress(len(samples), "localize")
    done = run(work, samples, **given.over.keywords(given.out or given.masks, progress))
    results, summary = done.result
    tell_left_out(done)
    doubt = ""
    for result in results:
        doubt = tell_doubt(result["doubt"] or "", doubt)
        for t in result["targets"]:
            if t["diagnosis"]:
                note(f"warning: {result['picture']}: {t['target']}: {t['diagnosis']}")
    if given.form == "json":
        document = {"model": given.model, "method": method, "results": results}
        print_json("localize", document | {"summary": summary, "failed": failed_as_data(done.failed)})
    else:
        print_results(results, summary)
    return given.over.engine.code(len(done.failed), len(samples))


def print_results(results: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """A line per box, then the means."""
    rows = []
    for result in results:
        for t in result["targets"]:
            fit = [f"{t[k]:.2f}" for k in ("iou", "energy_inside")] if "iou" in t else ["", ""]
            hit = {1.0: "hit", 0.0: "miss"}.get(t.get("pointing", -1.0), "")
            for box, energy in zip(t["boxes"] or [[]], t["energy"] or [0.0], strict=True):
                text = " ".join(f"{v:.0f}" for v in box) or "none"
                rows.append((Path(result["picture"]).name, t["target"], text, f"{energy:.2f}", *fit, hit))
    header = ("picture", "target", "box", "heat in box", "IoU", "heat in true box", "pointing")
    wide = len(header) if any(r[4] for r in rows) else 4
    click.echo(table([r[:wide] for r in rows], header[:wide]))
    for result in results:
        for t in result["targets"]:
            if "units" in t:
                u = t["units"]
                pairs = ", ".join(f"{c} ({v:+.3g})" for c, v in zip(u["channels"], u["contributions"], strict=True))
                name = Path(result["picture"]).name
                click.echo(f"{name}: {t['target']}: top channels of {u['layer']} (contribution): {pairs}")
        if "written" in result:
            say_written(result["written"])
    if summary:
        s = summary
        click.echo(
            f"{s['compared']} boxes: mean IoU {s['mean_iou']:.3f}, {s['iou_above_half']:.0%} with IoU ≥ 0.5; "
            f"pointing game {s['pointing']:.0%}; heat inside true box {s['energy_inside']:.0%}\n"
            f"best threshold {s['best_threshold']:g}: mean IoU {s['mean_iou_at_best']:.3f}, "
            f"{s['iou_above_half_at_best']:.0%} with IoU ≥ 0.5"
        )
