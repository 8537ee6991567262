"""`audit`: the report a reviewer signs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click import Choice, IntRange

from analyzer.commands.common import Progress, note, print_json, table, tell_left_out
from analyzer.commands.compare import boxes_of, rounded
from analyzer.commands.options import (
    READ_FILE,
    WRITE_FILE,
    Given,
    OverPictures,
    Setup,
    data_option,
    group,
    limit_option,
    model_argument,
    option,
    seed_option,
)


class Audit(Given):
    model: str = model_argument
    data: tuple[str, ...] = data_option
    limit: int | None = limit_option
    labels: str | None = option("--labels", "Class names: one per line, or JSON.", type=READ_FILE)
    classes: str | None = option("--classes", "JSON {picture: class index}, the true classes.", type=READ_FILE)
    boxes: str | None = option("--boxes", "JSON {picture: [[x0, y0, x1, y1], …]}.", type=READ_FILE)
    method: str = option("-m --method", "The map that is audited.", default="grad-cam")
    probes: int = option("--probes", "Pictures for costly checks.", type=IntRange(1), default=16)
    seed: int = seed_option
    report: str | None = option("--report", "Write the report: .html, .md or .json.", type=WRITE_FILE)
    maps: str | None = option("--maps", "Write the mean maps as a picture: .png, .jpg or .webp.", type=WRITE_FILE)
    over: OverPictures = group(OverPictures)
    strict: bool = option("--strict", "Exit with 1 where something is found.", is_flag=True)
    setup: Setup = group(Setup)
    form: str = option(
        "--format",
        "Form of what is printed.",
        type=Choice(["text", "json", "markdown"]),
        default="text",
        show_default=False,
    )


@Audit.command("audit")
def command(given: Audit) -> int:
    """Audit MODEL over pictures: input contract, layers, robustness, sanity and faithfulness of its maps, shortcuts.

    \b
    onnx-analyzer audit model.onnx --data photos/ --report audit.html
    """
    from analyzer.attribution import find_method
    from analyzer.data import find_pictures
    from analyzer.errors import InputError
    from analyzer.images import write_png
    from analyzer.validation.audit import audit
    from analyzer.validation.findings import findings
    from analyzer.validation.verdict import as_data

    report, method, probes, seed = given.report, given.method, given.probes, given.seed
    if report and Path(report).suffix not in (".html", ".md", ".json"):
        raise InputError(
            f"a report cannot be written as {Path(report).suffix or report!r}", "end it in .html, .md or .json"
        )
    find_method(method, {})
    boxes, classes = boxes_of(given.boxes), classes_of(given.classes)
    known = {name: {"boxes": boxes.get(name), "label": classes.get(name)} for name in boxes | classes}
    samples = find_pictures(given.data, given.limit, known)
    explainer, card = given.setup.load(given.model, given.labels, many=True)
    progress = Progress(len(samples), "audit")
    over = given.over.store, given.over.workers, progress.step
    done = audit(explainer, card.preprocess, samples, method, probes, seed, *over)
    tell_left_out(done)
    content = rounded(done.report)
    document = {"audit": content, "findings": rounded(as_data(findings(content)))}
    ran = {"provider": given.setup.provider, "preprocessing": card.description, "seed": seed, "probes": probes}
    document["run"] = ran
    if report:
        write(Path(report), document, done.maps, card)
    if given.maps:
        write_png(given.maps, mean_maps(done.maps, card))
        note(f"written: {given.maps}")
    show(document, given.form)
    return 1 if given.strict and document["findings"] else 5 if done.failed else 0


def classes_of(path: str | None) -> dict[str, int]:
    """{picture's file name: class} from JSON."""
    from analyzer.errors import InputError

    if path is None:
        return {}
    try:
        return {str(n): int(v) for n, v in json.loads(Path(path).read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no classes: {error}", "write {picture: class index}") from None


def write(path: Path, document: dict[str, Any], maps: dict[str, Any], card: Any) -> None:
    from analyzer.files import write_text
    from analyzer.images import encode
    from analyzer.plain import as_json
    from analyzer.report import audit as pages

    if path.suffix == ".html":
        figure = encode(mean_maps(maps, card))
        text = pages.html(document, [("mean maps: of all pictures, and of the classes seen most", figure)])
    elif path.suffix == ".md":
        text = pages.markdown(document)
    else:
        text = as_json(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_text(path, text)
    note(f"written: {path}")


def mean_maps(maps: dict[str, Any], card: Any) -> Any:
    """The mean maps side by side, coloured from 0 to 1: (H, W, 3) uint8."""
    from analyzer.images import ColourBar, colourise, grid

    return grid([colourise(m) for m in maps.values()], [named(title, card) for title in maps], bar=ColourBar())


def named(title: str, card: Any) -> str:
    """`class 3 (5)` by its label."""
    parts = title.split()
    return f"{card.label(int(parts[1]))} {parts[2]}" if parts[0] == "class" else title


def show(document: dict[str, Any], form: str) -> None:
    from analyzer.report import audit as pages

    if form == "json":
        print_json("audit", document)
    elif form == "markdown":
        click.echo(pages.markdown(document), nl=False)
    else:
        found = document["findings"]
        rows = [(f["code"], f"{f['value']:.3g}", f["where"], f["words"]) for f in found]
        click.echo(table(rows, ("code", "value", "where", "what it means")) if rows else "nothing found")
        click.echo()
        summary = document["audit"]["summary"]
        click.echo(table([(k.replace("_", " "), f"{v:.4g}") for k, v in summary.items()]))
