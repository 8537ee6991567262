"""`correspondence`: whether a layer notices the same part missing from different pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from analyzer.commands.common import (
    InputPath,
    OutputPath,
    Progress,
    format_option,
    model_argument,
    note,
    preprocess_options,
    print_json,
    provider_option,
    stacked,
    table,
    with_session,
)


@click.command(name="correspondence")
@model_argument
@click.argument("boxes", type=InputPath(dir_okay=False))
@click.option("-l", "--layer", "layers", multiple=True, help="Tensor, node or glob; may be repeated.  [auto]")
@click.option("-o", "--out", type=OutputPath(dir_okay=False), help="PNG of the occluded pictures.")
@click.option("--fill", type=click.FloatRange(0, 255), default=127.0, show_default=True, help="Grey of the occluder.")
@click.option("--repeats", type=click.IntRange(1), default=10, show_default=True, help="Random boxes per picture.")
@click.option("--seed", type=int, default=0, show_default=True)
@stacked(preprocess_options)
@provider_option
@with_session
@format_option
def command(
    model: str,
    boxes: str,
    layers: tuple[str, ...],
    out: str | None,
    fill: float,
    repeats: int,
    seed: int,
    provider: str,
    session: dict[str, Any],
    form: str,
    **preprocess: Any,
) -> None:
    """Measure whether occluding the same part changes a layer in the same way in different pictures.

    BOXES is a JSON file: {"picture.jpg": {"left eye": [x0, y0, x1, y1], …}, …}. Zeiler & Fergus 2014, section 4.3:
    the share of features whose change has different signs in two pictures, lower where the layer finds corresponding
    parts, against random boxes of the same sizes.
    """
    from analyzer.attribution import Explainer
    from analyzer.attribution.correspondence import correspondence, read_boxes
    from analyzer.commands.pictures import read_card
    from analyzer.images import decode, write_png

    marked = read_boxes(boxes)
    explainer = Explainer(model, provider, **session)
    card = read_card(explainer, None, preprocess)
    pictures = {name: decode(name) for name in marked}
    progress = Progress(len(pictures), "correspondence")
    layers = layers or (card.default_layer or "auto",)
    found = correspondence(explainer, pictures, marked, layers, card.preprocess, fill, repeats, seed, progress.step)
    for name, why in found.left_out.items():
        note(f"warning: {name} is left out: {why}")
    if out:
        write_png(out, figure(found))
    if form == "json":
        rows = [{**vars(row), "error": row.error if row.pictures > 2 else None} for row in found.rows]
        print_json(
            "correspondence",
            {"model": model, "rows": rows, "left_out": found.left_out, "written": [out] if out else []},
        )
        return
    names = list(dict.fromkeys(row.layer for row in found.rows))
    parts = list(dict.fromkeys(row.part for row in found.rows))
    at = {(row.part, row.layer): row for row in found.rows}
    cells = [(part, at[part, names[0]].pictures, *(_value(at[part, name]) for name in names)) for part in parts]
    click.echo("share of features whose change differs in sign between pictures, mean ± standard error")
    click.echo(table(cells, ("occluded", "pictures", *names)))
    if out:
        click.echo(f"written: {out}")


def _value(row: Any) -> str:
    return f"{row.mean:.4f} ± {row.error:.4f}" if row.pictures > 2 else f"{row.mean:.4f}"


def figure(found: Any) -> Any:
    """A row per picture, a column per part."""
    import numpy as np

    from analyzer.images.mosaic import Block, strip

    parts = list(dict.fromkeys(row.part for row in found.rows))
    blank = np.full((8, 8, 3), 255, np.uint8)
    rows = [
        Block(Path(name).stem, [[versions.get(part, blank)] for part in parts])
        for name, versions in found.occluded.items()
    ]
    return strip(rows, parts, "What was occluded")
