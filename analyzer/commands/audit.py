"""`audit`: the report a reviewer signs."""

from __future__ import annotations

import textwrap
from typing import Any

import click
from click import Choice

from analyzer.commands.common import Progress, command_line, note, print_json, table, tell_left_out
from analyzer.commands.options import (
    BOXES,
    CLASSES,
    METHOD,
    READ_FILE,
    WRITE_FILE,
    WRITE_REPORT,
    DataSet,
    Given,
    IntRange,
    Limits,
    OverPictures,
    Setup,
    exit_zero_option,
    group,
    labels_option,
    model_argument,
    option,
    placement_option,
    seed_option,
    several,
)


class Audit(Given):
    model: str = model_argument
    data: DataSet = group(DataSet)
    labels: str | None = labels_option
    classes: str | None = option(
        "--classes",
        f"{CLASSES} Adds accuracy to the report.",
        type=READ_FILE,
        metavar="FILE",
    )
    boxes: str | None = option(
        "--boxes",
        f"{BOXES} Adds the pointing game to the report.",
        type=READ_FILE,
        metavar="FILE",
    )
    method: str | None = option(
        "-m --method",
        "Method whose maps are audited. Default: grad-cam; for text, detections and keypoints layer-cam.",
        **METHOD,
    )
    probes: int = option(
        "--probes",
        "Number of pictures for the slow checks (faithfulness and sanity).",
        type=IntRange(1),
        default=16,
        metavar="N",
    )
    allowed: Limits = group(Limits)
    placement: str = placement_option
    seed: int = seed_option
    reports: tuple[str, ...] = several(
        "--report",
        "Report to write: .html, .md, .xml (JUnit), .sarif, .json, or a folder (FOLDER/) of all of them. Repeatable.",
        type=WRITE_REPORT,
        metavar="FILE",
    )
    draw: int = option(
        "--draw",
        "Pictures in the report besides those of findings, those with the least confidence.",
        type=IntRange(0),
        default=6,
        metavar="N",
    )
    maps: str | None = option(
        "--maps", "Write the mean maps as a picture: .png, .jpg or .webp.", type=WRITE_FILE, metavar="FILE"
    )
    fp16: bool = option(
        "--fp16",
        "Instead of the audit, list the tensors of a float32 model that overflow or vanish in half precision.",
        is_flag=True,
    )
    over: OverPictures = group(OverPictures)
    exit_zero: bool = exit_zero_option
    strict: bool = option("--strict", is_flag=True, hidden=True)
    setup: Setup = group(Setup)
    form: str = option(
        "--format", "Output format.", type=Choice(["text", "json", "junit", "sarif", "markdown"]), default="text"
    )


@Audit.command("audit")
def command(given: Audit) -> int:
    """Audit MODEL on pictures: preprocessing, dead channels, robustness, and how faithful its maps are.

    PICTURES (or --data) are files, folders, glob patterns, or text files with one path per line.

    Exit code: 1 if there are findings, unless --exit-zero is given; otherwise 5 if some pictures could not be
    processed, else 0.

    \b
    Example:
      onnx-analyzer audit model.onnx photos/ --report audit.html
    """
    from analyzer.api.comparing import FOLDERS, audit_shots, audited, audited_half
    from analyzer.attribution.methods import find_method
    from analyzer.data import annotated, as_said, read_classes, read_true_boxes, with_classes
    from analyzer.images import write_png
    from analyzer.report.files import check_endings, shows_maps, write_audit
    from analyzer.validation.checks import read_limits

    if given.strict:
        note("note: --strict is deprecated and has no effect: audit exits with 1 if there are findings")
    check_endings(given.reports)
    limits = read_limits(given.allowed.file("audit"), given.allowed.single)
    if given.method:
        find_method(given.method, {})
    by_folder = given.classes == FOLDERS
    classes = read_classes(None if by_folder else given.classes)
    samples = annotated(given.data.samples(), read_true_boxes(given.boxes), classes)
    samples = as_said(samples, given.classes, given.boxes)
    explainer, card = given.setup.load(given.model, given.labels, many=True)
    samples = with_classes(given.data.opened(samples, card.feeds), card.labels, by_folder)
    progress = Progress(len(samples), "audit")
    over = given.setup.provider, given.over.store, given.over.engine.workers, progress.step
    if given.fp16:
        if limits:
            note("note: thresholds have no effect with --fp16")
        done = audited_half(explainer, card, samples, *over)
    else:
        done = audited(explainer, card, samples, given.method, given.probes, given.seed, *over, given.placement, limits)
    tell_left_out(done)
    document = done.as_data()
    shown = (
        audit_shots(done, explainer, card, samples, given.placement, given.draw)
        if shows_maps(given.reports)
        else ([], {})
    )
    for path in given.reports:
        write_audit(path, document, shown[0], command_line(), shown[1])
        note(f"written: {path}")
    if given.maps and done.maps:
        write_png(given.maps, done.figure())
        note(f"written: {given.maps}")
    show(document, given.form)
    if document["findings"] and not given.exit_zero:
        return 1
    return given.over.engine.code(len(done.failed), len(samples))


def show(document: dict[str, Any], form: str) -> None:
    from analyzer.report import audit as pages

    if form == "json":
        print_json("audit", document)
    elif form in ("junit", "sarif", "markdown"):
        click.echo(getattr(pages, form)(document), nl=False)
    else:
        found = document["findings"]
        rows = [(f["code"], f"{f['value']:.3g}", f["where"], f["words"]) for f in found]
        click.echo(table(rows, ("code", "value", "where", "explanation")) if rows else "nothing found")
        click.echo()
        summary = document["audit"]["summary"]
        click.echo(table([(k.replace("_", " "), f"{v:.4g}") for k, v in summary.items()]))
        left_out = pages.left_out(document["audit"])
        if left_out:
            click.echo()
            click.echo("not measured:")
            for why, titles in left_out:
                click.echo(
                    textwrap.fill(f"{', '.join(titles)}: {why}", 100, initial_indent="- ", subsequent_indent="  ")
                )
