"""`compare`: does the deployed build still say, see and look at the same?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import Choice

from analyzer.commands.common import Progress, note, print_json, table, tell_left_out
from analyzer.commands.options import (
    READ,
    READ_FILE,
    WRITE_FILE,
    Given,
    OverPictures,
    Preprocessing,
    SessionOptions,
    argument,
    group,
    limit_option,
    option,
    several,
)

if TYPE_CHECKING:
    from analyzer.images import Preprocess

MODES = {"as-shipped": None, "semantics": "disable"}  # graph optimisation of both sides; see `runtime.Session`


class Compare(Given):
    reference: str | None = argument(type=READ_FILE, required=False)
    candidate: str | None = argument(type=READ_FILE, required=False)
    data: tuple[str, ...] = several("-d --data", "Pictures, or folders of them.", type=READ)
    limit: int | None = limit_option
    boxes: str | None = option("--boxes", "JSON {picture: [[x0, y0, x1, y1], …]}.", type=READ_FILE)
    methods: tuple[str, ...] = several("-m --method", "Maps to compare.  [grad-cam, gradient]")
    thresholds: str | None = option("--thresholds", "TOML file with limits; see docs/compare.md.", type=READ_FILE)
    limits: tuple[str, ...] = several("--limit-of", "A single threshold.", metavar="NAME=VALUE")
    report: str | None = option(
        "--report", "Write the report: .html, .md, .xml (JUnit), .sarif or .json.", type=WRITE_FILE
    )
    judge: str | None = option("--judge", "Judge this saved .json again; nothing is run.", type=READ_FILE)
    provider: str = option("-p --provider", "Of the reference.", default="cpu")
    candidate_provider: str | None = option("--candidate-provider", "Of the candidate.  [as the reference's]")
    session: SessionOptions = group(SessionOptions)
    mode: str = option(
        "--mode",
        "Run both as the runtime optimises them, or operator by operator as the files say.",
        type=Choice(list(MODES)),
        default="as-shipped",
    )
    over: OverPictures = group(OverPictures)
    preprocess: Preprocessing = group(Preprocessing)
    form: str = option(
        "--format",
        "Form of what is printed.",
        type=Choice(["text", "json", "junit", "sarif", "markdown"]),
        default="text",
        show_default=False,
    )


@Compare.command("compare")
def command(given: Compare) -> int:
    """Compare CANDIDATE with REFERENCE over pictures: outputs, layers, and what both look at. Exit code 1 on findings.

    \b
    onnx-analyzer compare fp32.onnx int8.onnx --data photos/ --report report.html

    Preprocessing flags hold for both sides; without them each model's own card is used. With --judge nothing is run,
    and no model is given.
    """
    from analyzer.errors import InputError
    from analyzer.validation import as_data, judge, read_thresholds

    allowed = read_thresholds(given.thresholds, parse_limits(given.limits))
    figures: list[tuple[str, bytes]] = []
    left_out = 0
    if given.judge:
        document = saved(given.judge)
    elif given.reference is None or given.candidate is None or not given.data:
        raise InputError("two models and pictures are compared", "give REFERENCE CANDIDATE --data FOLDER")
    else:
        document, figures, left_out = run(given.reference, given.candidate, given)
    document["findings"] = as_data(judge(document["comparison"], allowed))
    if given.report:
        write_report(Path(given.report), document, figures)
    show(document, given.form)
    return 1 if document["findings"] else left_out


def run(reference: str, candidate: str, given: Compare) -> tuple[dict[str, Any], list[tuple[str, bytes]], int]:
    """The comparison as data, figures of the pictures that agree least, and 5 where some could not be read, else 0."""
    from analyzer.attribution import Explainer
    from analyzer.commands.pictures import first_shapes, read_card
    from analyzer.data import find_pictures
    from analyzer.validation import EVIDENCE, SAMPLE, Side, Store, compare

    samples = find_pictures(given.data, given.limit, {n: {"boxes": b} for n, b in boxes_of(given.boxes).items()})
    options = given.session.keywords(many=True) | {"level": MODES[given.mode]}
    asked = (reference, given.provider), (candidate, given.candidate_provider or given.provider)
    explainers = [Explainer(model, provider, **options) for model, provider in asked]
    cards = [read_card(e, None, vars(given.preprocess)) for e in explainers]
    shapes = first_shapes(samples, cards)
    store = Store(given.over.store) if given.over.store else None
    ours, theirs = (Side(e, shape, store=store) for e, shape in zip(explainers, shapes, strict=True))
    progress = Progress(len(samples), "compare")
    done = compare(
        ours,
        theirs,
        samples,
        given.methods or EVIDENCE,
        preprocess=(cards[0].preprocess, cards[1].preprocess),
        folder=given.over.store,
        workers=given.over.workers,
        progress=progress.step,
    )
    tell_left_out(done)
    document = {
        "comparison": rounded(done.report),
        "run": {
            "reference ran on": ran_on(ours.receipt),
            "candidate ran on": ran_on(theirs.receipt),
            "optimisation": options["level"] or "all",
            "threads": str(options["threads"]),
            "TF32": "off",
            "layers": f"at most {SAMPLE} elements of each"
            if ours.is_recorded or theirs.is_recorded
            else "every element",
            "preprocessing": " and ".join(dict.fromkeys(card.description for card in cards)),
        },
    }
    return document, drawn(done.maps, cards[0].preprocess), 5 if done.failed else 0


def ran_on(receipt: dict[str, Any]) -> str:
    """A side's receipt in words."""
    fell = ", ".join(receipt["fell to the CPU"]) or "nothing"
    scores = f"; scores of {receipt['scores']}" if "scores" in receipt else ""
    where = f"{receipt['provider']} of onnxruntime {receipt['onnxruntime']}"
    return f"{where}, {receipt['machine']}, Python {receipt['python']}; fell to the CPU: {fell}{scores}"


def drawn(maps: dict[str, Any], preprocess: Preprocess) -> list[tuple[str, bytes]]:
    """Reference and candidate side by side, a row per method."""
    from analyzer.images import ColourBar, decode, encode, grid, overlay

    figures = []
    for name, by_method in maps.items():
        image, tiles, titles = decode(name), [], []
        placement = preprocess.apply(image)[1]
        for method, pair in by_method.items():
            for who, heat in zip(("reference", "candidate"), pair, strict=True):
                tiles.append(overlay(image, placement.map_to_image(heat), colorbar=False))
                titles.append(f"{method}: {who}")
        figures.append((name, encode(grid(tiles, titles, 2, bar=ColourBar()))))
    return figures


def boxes_of(path: str | None) -> dict[str, Any]:
    """{picture's file name: (n, 4) boxes} from JSON."""
    import numpy as np

    from analyzer.errors import InputError

    if path is None:
        return {}
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        found = {}
        for name, given in content.items():
            given = given.get("boxes", list(given.values())) if isinstance(given, dict) else given
            found[name] = np.array(given, float).reshape(-1, 4)
        return found
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: no boxes: {error}", "write {picture: {boxes: [[x0, y0, x1, y1], …]}}") from None


def parse_limits(limits: tuple[str, ...]) -> dict[str, float]:
    """{name: value} from NAME=VALUE."""
    from analyzer.errors import InputError

    found = {}
    for text in limits:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise InputError(f"--limit-of {text!r} is not NAME=VALUE") from None
    return found


def saved(path: str) -> dict[str, Any]:
    """A document that `--report …json` wrote."""
    from analyzer.errors import InputError

    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        return {"comparison": document["comparison"], "run": document.get("run", {})}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no saved comparison: {error}", "write one with --report result.json") from None


def rounded(value: Any) -> Any:
    """Plain data with floats to six significant digits, so that equal runs give equal text."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value


def write_report(path: Path, document: dict[str, Any], figures: list[tuple[str, bytes]]) -> None:
    """The form follows from the name's ending."""
    from analyzer import report
    from analyzer.errors import InputError
    from analyzer.files import write_text
    from analyzer.plain import as_json

    if path.suffix in (".html", ".htm"):
        text = report.html(document, figures)
    elif path.suffix == ".md":
        text = report.markdown(document)
    elif path.suffix == ".xml":
        text = report.junit(document)
    elif path.suffix == ".sarif":
        text = report.sarif(document)
    elif path.suffix == ".json":
        text = as_json(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    else:
        raise InputError(
            f"a report cannot be written as {path.suffix or path.name!r}", "end it in .html, .md, .xml, .sarif or .json"
        )
    write_text(path, text)
    note(f"written: {path}")


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
    from analyzer.report.comparison import coverage, percent, verdict

    comparison, findings = document["comparison"], document["findings"]
    outputs = comparison["outputs"]
    lines = [verdict(findings, comparison), ""]
    if findings:
        rows = [(f["code"], f"{f['value']:.4g}", f"{f['limit']:.4g}", f["words"]) for f in findings]
        lines += [table(rows, ("code", "value", "limit", "what it means")), ""]
    judged = outputs.get("judged", comparison["pictures"])  # missing in early saved reports
    lines.append(
        f"outputs: {percent(outputs['label_agreement'])} of {judged} labels agree, "
        f"scores drift by {percent(outputs['score_drift_mean'], 2)}"
    )
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
    for side, plan in comparison.get("plan", {}).items():
        if not plan["same"]:
            lines.append(f"reading the layers changes the {side}'s kernels: {plan['words']}")
    lines += [f"{method}: not available: {why}" for method, why in comparison["unavailable"].items()]
    return "\n".join(lines)
