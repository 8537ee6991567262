"""`correspondence`: whether a layer notices the same part missing from different pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyzer.commands.common import Progress, finish, note, table
from analyzer.commands.options import (
    READ_FILE,
    WRITE_FILE,
    FloatRange,
    Given,
    IntRange,
    Setup,
    argument,
    format_option,
    group,
    layers_option,
    model_argument,
    option,
    seed_option,
)

if TYPE_CHECKING:
    from analyzer.attribution.correspondence import Consistency


class Correspondence(Given):
    model: str = model_argument
    boxes: str = argument(type=READ_FILE)
    layers: tuple[str, ...] = layers_option
    out: str | None = option(
        "-o --out",
        "PNG file for the chart and the occluded pictures, or - for stdout.",
        type=WRITE_FILE,
        metavar="FILE",
    )
    fill: float = option(
        "--fill", "Gray value (0 to 255) of the occluder.", type=FloatRange(0, 255), default=127.0, metavar="GRAY"
    )
    repeats: int = option("--repeats", "Number of random boxes per picture.", type=IntRange(1), default=10, metavar="N")
    seed: int = seed_option
    setup: Setup = group(Setup)
    form: str = format_option


@Correspondence.command("correspondence")
def command(given: Correspondence) -> None:
    """Measure whether hiding the same part changes a layer in the same way in different pictures.

    BOXES is a JSON file that marks parts in pictures; paths are relative to it:

    \b
      {"a.jpg": {"left eye": [x0, y0, x1, y1], …}, "b.jpg": …}

    The result is the share of features whose change has different signs in two pictures (Zeiler & Fergus 2014,
    section 4.3). If it is lower than for random boxes of the same size, the layer recognizes the part in different
    pictures.
    """
    from analyzer.attribution.correspondence import correspondence, read_boxes
    from analyzer.images import decode, write_png
    from analyzer.report.correspondence import figure

    marked = read_boxes(given.boxes)
    explainer, card = given.setup.load(given.model)
    pictures = {name: decode(name) for name in marked}
    progress = Progress(len(pictures), "correspondence")
    layers = given.layers or (card.default_layer or "auto",)
    how = card.feeds, given.fill, given.repeats, given.seed
    found = correspondence(explainer, pictures, marked, layers, *how, progress.step)
    for name, why in found.left_out.items():
        note(f"warning: {name} is skipped: {why}")
    if given.out:
        write_png(given.out, figure(found))
    rows = [{**vars(row), "error": row.error if row.pictures > 2 else None} for row in found.rows]
    names = list(dict.fromkeys(row.layer for row in found.rows))
    parts = list(dict.fromkeys(row.part for row in found.rows))
    at = {(row.part, row.layer): row for row in found.rows}
    cells = [(part, at[part, names[0]].pictures, *(_value(at[part, name]) for name in names)) for part in parts]
    title = "share of features whose change differs in sign between pictures, mean ± standard error"
    lines = [title, table(cells, ("occluded", "pictures", *names))]
    document = {"model": given.model, "rows": rows, "left_out": found.left_out}
    finish(given.form, "correspondence", document, lines, [given.out] if given.out else [])


def _value(row: Consistency) -> str:
    return f"{row.mean:.4f} ± {row.error:.4f}" if row.pictures > 2 else f"{row.mean:.4f}"
