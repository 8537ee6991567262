"""`localize`: boxes around what a heatmap lights up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click import IntRange

from analyzer.commands.common import (
    Progress,
    RunProgress,
    failed_as_data,
    note,
    parse_options,
    print_json,
    table,
    tell_doubt,
    tell_left_out,
)
from analyzer.commands.explain import destinations, options_of
from analyzer.commands.options import (
    READ,
    WRITE_FOLDER,
    Given,
    OverPictures,
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
    pictures_argument,
    pictures_out_option,
    several,
)


class Localize(Given):
    model: str = model_argument
    pictures: tuple[str, ...] = pictures_argument
    out: str | None = pictures_out_option
    method: str = method_option
    targets: tuple[str, ...] = several("-t --target", "As for `explain`.  [the labels of --boxes, else top1]")
    boxes: str | None = option("--boxes", 'JSON: {"cat.jpg": {"cat": [x0, y0, x1, y1]}} to compare with.', type=READ)
    threshold: float = option("--threshold", "Share of the highest heat.", type=float, default=0.2)
    several: bool = option("--several", "A box for every connected part, not only for the largest.", is_flag=True)
    masks: str | None = option("--masks", "Folder for the masks (PNG, white inside).", type=WRITE_FOLDER)
    units: int = option(
        "--units",
        "Print that many channels that speak for the target.",
        type=IntRange(0),
        default=0,
        show_default=False,
    )
    options: tuple[str, ...] = options_option
    layer: str | None = layer_option
    output: str | None = output_option
    labels: str | None = labels_option
    over: OverPictures = group(OverPictures)
    setup: Setup = group(Setup)
    form: str = format_option


@Localize.command("localize")
def command(given: Localize) -> int:
    """Draw boxes around what MODEL looks at in PICTURES: the connected parts of the heat above a threshold.

    With --boxes they are compared: intersection over union, whether the hottest pixel lies inside (pointing game), the
    share of the heat inside, and the threshold that would have been best.

    \b
    onnx-analyzer localize model.onnx cat.jpg -t 281 -o boxes.png
    onnx-analyzer localize models/digits_cnn.onnx examples/*.png --boxes examples/boxes.json -o boxes/
    """
    from analyzer.attribution import Job, Question
    from analyzer.data import find_pictures
    from analyzer.files import make_folder
    from analyzer.passes import run
    from analyzer.passes.localizing import Localizing, beginnings

    method = given.method
    asked = options_of((method,), parse_options(given.options))[method]
    samples = find_pictures(given.pictures, annotations=read_boxes(given.boxes))
    names = tuple(sample.id for sample in samples)
    drawn = destinations(given.out, given.pictures, names, ".png")
    masks = beginnings(make_folder(given.masks), names) if given.masks else {}
    model, card = given.setup.load(given.model, given.labels, many=len(samples) > 1)
    layer = given.layer or card.default_layer or "auto"
    question = Question((Job(method, layer, asked),), output=given.output, labels=card.labels)
    single = RunProgress() if len(samples) == 1 else None
    how = given.threshold, given.several, given.units, single
    work = Localizing(model, question, card, given.targets, drawn, masks, *how)
    progress = Progress(len(samples), "localize")
    done = run(work, samples, **given.over.keywords(given.out or given.masks, progress))
    results, summary = done.result
    tell_left_out(done)
    doubt = ""
    for result in results:
        doubt = tell_doubt(result.pop("doubt"), doubt)
        for t in result["targets"]:
            if t["diagnosis"]:
                note(f"warning: {result['picture']}: {t['target']}: {t['diagnosis']}")
    if given.form == "json":
        document = {"model": given.model, "method": method, "results": results}
        print_json("localize", document | {"summary": summary, "failed": failed_as_data(done)})
    else:
        print_results(results, summary)
    return 5 if done.failed else 0


def read_boxes(path: str | None) -> dict[str, dict[str, list[float]]]:
    """{file name: {label: [x0, y0, x1, y1]}} from JSON.

    Raises:
        InputError: not readable, or not of that form.
    """
    from analyzer.errors import InputError

    if path is None:
        return {}
    hint = 'write {"cat.jpg": {"cat": [x0, y0, x1, y1]}}, in pixels of the picture'
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"cannot read boxes from {path}: {error}", hint) from None
    for name, entry in given.items() if isinstance(given, dict) else [("the file", given)]:
        fits = isinstance(entry, dict) and all(
            isinstance(b, list) and len(b) == 4 and all(isinstance(v, int | float) for v in b) for b in entry.values()
        )
        if not fits:
            raise InputError(f"{path}: {name!r} does not hold labelled boxes", hint)
    return given


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
    header = ("picture", "target", "box", "heat in it", "IoU", "heat in given", "pointing")
    wide = len(header) if any(r[4] for r in rows) else 4
    click.echo(table([r[:wide] for r in rows], header[:wide]))
    for result in results:
        for t in result["targets"]:
            if "units" in t:
                u = t["units"]
                pairs = ", ".join(f"{c} ({v:+.3g})" for c, v in zip(u["channels"], u["contributions"], strict=True))
                click.echo(f"{Path(result['picture']).name}: {t['target']}: channels of {u['layer']}: {pairs}")
        if "written" in result:
            click.echo(f"written: {result['written']}")
    if summary:
        s = summary
        click.echo(
            f"{s['compared']} boxes: mean IoU {s['mean_iou']:.3f}, {s['iou_above_half']:.0%} at least ½; "
            f"pointing game {s['pointing']:.0%}; heat inside {s['energy_inside']:.0%}\n"
            f"best threshold {s['best_threshold']:g}: mean IoU {s['mean_iou_at_best']:.3f}, "
            f"{s['iou_above_half_at_best']:.0%} at least ½"
        )
