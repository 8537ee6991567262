"""`compare`: does the deployed build still say, see and look at the same?"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import Choice

from analyzer.commands.common import Progress, command_line, note, print_json, table, tell_card, tell_left_out
from analyzer.commands.options import (
    BOXES,
    CLASSES,
    METHOD,
    PROVIDER,
    READ,
    READ_ANY_MODEL,
    READ_FILE,
    WRITE_REPORT,
    DataSet,
    Given,
    IntRange,
    Limits,
    OtherInputs,
    OverPictures,
    Preprocessing,
    SessionOptions,
    argument,
    exit_zero_option,
    group,
    labels_option,
    option,
    several,
)

if TYPE_CHECKING:
    from analyzer.attribution import Explainer
    from analyzer.images import ModelCard
    from analyzer.report.page import Shot

MODES = ("as-shipped", "semantics")  # see `api.comparing.MODES`


class Compare(Given):
    reference: str | None = argument(type=READ_ANY_MODEL, required=False, metavar="REFERENCE")
    candidate: str | None = argument(type=READ_ANY_MODEL, required=False, metavar="CANDIDATE")
    data: DataSet = group(DataSet)
    labels: str | None = labels_option
    classes: str | None = option(
        "--classes",
        f"{CLASSES} Compares accuracy.",
        type=READ_FILE,
        metavar="FILE",
    )
    slice: str | None = option(
        "--slice",
        "Column of the CSV file of --classes. Pictures with the same entry are a group that is also judged separately.",
        metavar="COLUMN",
    )
    boxes: str | None = option(
        "--boxes",
        f"{BOXES} Compares the mAP of detectors, and the share of the heat inside the boxes.",
        type=READ_FILE,
        metavar="FILE",
    )
    masks: str | None = option(
        "--masks",
        'True masks: a folder of PNG files, named like the pictures, whose pixels are class numbers; or "dataset". '
        "Compares mIoU.",
        type=READ,
        metavar="FOLDER",
    )
    methods: tuple[str, ...] = several(
        "-m --method",
        "Methods whose maps are compared. Repeatable. Default: grad-cam and gradient; if a model is in another "
        "runtime, rise or d-rise.",
        **METHOD,
    )
    allowed: Limits = group(Limits)
    sensitivity: bool = option(
        "--sensitivity",
        "Rank the layers of a quantized or half-precision candidate by what each contributes to the drift, and list "
        "those to keep in float.",
        is_flag=True,
    )
    evidence_difference: bool = option(
        "--evidence-difference",
        "Show which channels and regions make the Grad-CAMs differ, for the pictures that agree least.",
        is_flag=True,
    )
    reports: tuple[str, ...] = several(
        "--report",
        "Report to write: .html, .md, .xml (JUnit), .sarif, .json, or a folder (FOLDER/) of all of them. Repeatable.",
        type=WRITE_REPORT,
        metavar="FILE",
    )
    draw: int = option(
        "--draw", "Pictures in the report, those that agree least.", type=IntRange(0), default=6, metavar="N"
    )
    judge: str | None = option(
        "--judge", "Re-evaluate a saved .json report without running models.", type=READ_FILE, metavar="FILE"
    )
    provider: str = option(
        "-p --provider",
        "Execution provider of the reference: cpu, cuda, cuda:1, tensorrt or auto.",
        default="cpu",
        **PROVIDER,
    )
    candidate_provider: str | None = option(
        "--candidate-provider", "Execution provider of the candidate. Default: the same.", **PROVIDER
    )
    session: SessionOptions = group(SessionOptions)
    mode: str = option(
        "--mode",
        "as-shipped: with the runtime's graph optimizations. semantics: without, operator by operator.",
        type=Choice(MODES),
        default="as-shipped",
    )
    over: OverPictures = group(OverPictures)
    strict: bool = option("--strict", "Exit with 1 if the result is inconclusive.", is_flag=True)
    exit_zero: bool = exit_zero_option
    preprocess: Preprocessing = group(Preprocessing)
    others: OtherInputs = group(OtherInputs)
    form: str = option(
        "--format", "Output format.", type=Choice(["text", "json", "junit", "sarif", "markdown"]), default="text"
    )


@Compare.command("compare")
def command(given: Compare) -> int:
    """Compare two builds of a model on pictures: their outputs, their layers, and what they look at.

    PICTURES (or --data) are files, folders, glob patterns, or text files with one path per line. Preprocessing
    options apply to both models; without them, each model's TOML file is used. With --judge, no models or pictures
    are needed.

    A model can also be one in another runtime or behind a server, such as openvino:model.xml, litert:model.tflite or
    http://localhost:8000/v2/models/NAME (docs/runners.md).

    Exit code: 1 if there are findings, or with --strict if the pictures are too few to tell, unless --exit-zero is
    given; otherwise 5 if some pictures could not be processed, else 0.

    \b
    Example:
      onnx-analyzer compare fp32.onnx int8.onnx photos/ --report report.html
    """
    from analyzer.errors import InputError
    from analyzer.report.files import check_endings, write_comparison
    from analyzer.validation import as_data, doubts, judge, read_thresholds

    check_endings(given.reports)
    allowed = read_thresholds(given.allowed.file("compare"), given.allowed.single)
    pictures: list[Shot] = []
    shot: Callable[[str], Shot | None] | None = None
    left_out = 0
    if given.judge:
        document = saved(given.judge)
    elif given.reference is None or given.candidate is None:
        raise InputError("compare needs two models", "run: onnx-analyzer compare REFERENCE CANDIDATE --data FOLDER")
    else:
        document, pictures, shot, left_out = run(given.reference, given.candidate, given)
    document["findings"] = as_data(judge(document["comparison"], allowed))
    document["inconclusive"] = as_data(doubts(document["comparison"], allowed))
    for path in given.reports:
        write_comparison(path, document, pictures, command_line(), shot)
        note(f"written: {path}")
    show(document, given.form)
    failed = document["findings"] or (given.strict and document["inconclusive"])
    return 1 if failed and not given.exit_zero else left_out


def run(
    reference: str, candidate: str, given: Compare
) -> tuple[dict[str, Any], list[Shot], Callable[[str], Shot | None], int]:
    """The comparison as data, the pictures that agree least, what draws others, and the exit code without findings."""
    from analyzer.api.comparing import FOLDERS, MODES, compared, shot_of, shots_of
    from analyzer.attribution.cards import read_card
    from analyzer.attribution.deployed import open_both, open_model
    from analyzer.data import annotated, as_said, read_classes, read_masks, read_true_boxes, with_classes
    from analyzer.report.files import shows_maps

    by_folder = given.classes == FOLDERS
    classes = read_classes(None if by_folder else given.classes, given.slice)
    boxes, masks = read_true_boxes(given.boxes), read_masks(given.masks)
    samples = as_said(annotated(given.data.samples(), boxes, classes, masks), given.classes, given.boxes, given.masks)
    models = reference, candidate
    providers = given.provider, given.candidate_provider or given.provider
    others = given.others.given, given.others.explain_input

    def opened(at: int, like: tuple[Explainer, ModelCard] | None) -> tuple[Explainer, ModelCard]:
        options = given.session.keywords(providers[at], many=True) | {"level": MODES[given.mode]}
        explainer = open_model(models[at], providers[at], like, **options)
        return explainer, read_card(explainer, given.labels, given.preprocess.flags(), *others)

    both = open_both(models, opened)
    for explainer, card in both:
        tell_card(explainer, card)
    sides, cards = [(e.about(card.feeds.explained), card) for e, card in both], [card for _, card in both]
    samples = with_classes(given.data.opened(samples, cards[0].feeds), cards[0].labels, by_folder)
    over = given.over.store, given.over.engine.workers, Progress(len(samples), "compare").step
    done = compared(sides, samples, given.methods, *over, given.sensitivity, given.evidence_difference)
    tell_left_out(done)
    document = {"comparison": done.report, "run": done.run}
    shots = shots_of(done, samples, cards[0].feeds, given.draw) if shows_maps(given.reports) else []
    return document, shots, functools.partial(shot_of, done), given.over.engine.code(len(done.failed), len(samples))


def saved(path: str) -> dict[str, Any]:
    """A document that `--report …json` wrote."""
    from analyzer.errors import InputError

    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        return {"comparison": document["comparison"], "run": document.get("run", {})}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a saved comparison: {error}", "save one with --report result.json") from None


def show(document: dict[str, Any], form: str) -> None:
    from analyzer import report

    if form == "json":
        print_json("compare", document)
    elif form in ("junit", "sarif", "markdown"):
        click.echo(getattr(report, form)(document), nl=False)
    else:
        click.echo(text_of(document))


def text_of(document: dict[str, Any]) -> str:
    """What a terminal shows: the verdict, findings, the three levels."""
    from analyzer.report import sensitivity
    from analyzer.report.comparison import coverage, percent, placed, verdict

    comparison, findings = document["comparison"], document["findings"]
    outputs = comparison["outputs"]
    lines = [verdict(findings, comparison, document["inconclusive"]), ""]
    if findings:
        rows = [(f["code"], f["where"], f"{f['value']:.4g}", f"{f['limit']:.4g}", f["words"]) for f in findings]
        lines += [table(rows, ("code", "where", "value", "limit", "explanation")), ""]
    lines += [f"inconclusive: {placed(doubt)}" for doubt in document["inconclusive"][0 if findings else 1 :]]
    judged = outputs.get("judged", comparison["pictures"])  # missing in early saved reports
    rate = outputs["label_agreement"]  # None of what has no labels, such as detections
    agree = "" if rate is None else f"{percent(rate)} of {judged} labels agree, "
    lines.append(f"outputs: {agree}scores drift by {percent(outputs['score_drift_mean'], 2)}")
    lines += coverage(comparison)
    if comparison["layers"]:
        worst = min(comparison["layers"], key=lambda r: r["cosine"])
        jump = comparison["largest_jump"]
        lines.append(
            f"layers: {len(comparison['layers'])} compared, least cosine {worst['cosine']:.4f} at {worst['layer']}"
        )
        lines.append(f"        noise grows most at {jump['layer']} ({jump['before_db']:.1f} → {jump['at_db']:.1f} dB)")
    for method, row in comparison["evidence"].items():
        lines.append(f"{method}: rank correlation {row['rank_correlation']:.3f}, top IoU {row['top_iou']:.3f}")
    if comparison.get("sensitivity"):
        lines += sensitivity.lines(comparison["sensitivity"])
    for side, plan in comparison.get("plan", {}).items():
        if not plan["same"]:
            lines.append(f"reading the layers changes the {side}'s kernels: {plan['words']}")
    lines += [f"{method}: not available: {why}" for method, why in comparison["unavailable"].items()]
    return "\n".join(lines)
