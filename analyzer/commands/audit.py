"""`audit`: the report a reviewer signs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from analyzer.commands.common import (
    InputPath,
    OutputPath,
    Progress,
    model_argument,
    note,
    preprocess_options,
    print_json,
    provider_option,
    stacked,
    store_option,
    table,
    with_session,
)
from analyzer.commands.compare import boxes_of, pictures, rounded


@click.command(name="audit")
@model_argument
@click.option("-d", "--data", "data", multiple=True, required=True, type=InputPath(), help="Pictures, or folders.")
@click.option("--limit", type=click.IntRange(1), help="Use only so many pictures, evenly spread.")
@click.option("--labels", type=InputPath(dir_okay=False), help="Class names: one per line, or JSON.")
@click.option("--classes", type=InputPath(dir_okay=False), help="JSON {picture: class index}, the true classes.")
@click.option("--boxes", type=InputPath(dir_okay=False), help="JSON {picture: [[x0, y0, x1, y1], …]}.")
@click.option("-m", "--method", default="grad-cam", show_default=True, help="The map that is audited.")
@click.option("--probes", type=click.IntRange(1), default=16, show_default=True, help="Pictures for costly checks.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--report", type=OutputPath(dir_okay=False), help="Write the report: .html, .md or .json.")
@click.option("--maps", type=OutputPath(dir_okay=False), help="Write the mean maps as a picture: .png, .jpg or .webp.")
@store_option
@click.option("--strict", is_flag=True, help="Exit with 1 where something is found.")
@stacked(preprocess_options)
@provider_option
@with_session
@click.option("--format", "form", type=click.Choice(["text", "json", "markdown"]), default="text", help="On stdout.")
def command(
    model: str,
    data: tuple[str, ...],
    limit: int | None,
    labels: str | None,
    classes: str | None,
    boxes: str | None,
    method: str,
    probes: int,
    seed: int,
    report: str | None,
    maps: str | None,
    store: str | None,
    strict: bool,
    provider: str,
    session: dict[str, Any],
    form: str,
    **preprocess: Any,
) -> int:
    """Audit MODEL over pictures: input contract, layers, robustness, sanity and faithfulness of its maps, shortcuts.

    \b
    onnx-analyzer audit model.onnx --data photos/ --report audit.html
    """
    from analyzer.attribution import Explainer, find_method
    from analyzer.commands.pictures import read_card
    from analyzer.errors import InputError
    from analyzer.images import decode, write_png
    from analyzer.validation import Store
    from analyzer.validation.audit import Picture, audit, findings
    from analyzer.validation.verdict import as_data

    if report and Path(report).suffix not in (".html", ".md", ".json"):
        raise InputError(
            f"a report cannot be written as {Path(report).suffix or report!r}", "end it in .html, .md or .json"
        )
    find_method(method, {})
    names = pictures(data, limit)
    explainer = Explainer(model, provider, **session)
    card = read_card(explainer, labels, dict(preprocess))
    known, true = boxes_of(boxes), classes_of(classes)
    progress = Progress(len(names), "audit")
    given = (Picture(str(p), decode(str(p)), true.get(p.name), known.get(p.name)) for p in names)
    done = audit(
        explainer, card.preprocess, given, method, probes, seed, progress.step, Store(store) if store else None
    )
    content = rounded(done.report)
    document = {"audit": content, "findings": rounded(as_data(findings(content)))}
    document["run"] = {"provider": provider, "preprocessing": card.description, "seed": seed, "probes": probes}
    if report:
        write(Path(report), document, done.maps, card)
    if maps:
        write_png(maps, mean_maps(done.maps, card))
        note(f"written: {maps}")
    show(document, form)
    return 1 if strict and document["findings"] else 0


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
