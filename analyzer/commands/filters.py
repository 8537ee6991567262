"""`filters`: convolution kernels as pictures, and their spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from click import Choice

from analyzer.commands import complete
from analyzer.commands.common import finish, table
from analyzer.commands.options import (
    WRITE_FILE,
    Given,
    IntRange,
    Resources,
    format_option,
    group,
    model_argument,
    option,
    several,
)

if TYPE_CHECKING:
    from analyzer.attribution import Model


class Filters(Given):
    model: str = model_argument
    layers: tuple[str, ...] = several(
        "-l --layer",
        "Convolution, its output, or a glob. Repeatable. Default: the first convolution.",
        metavar="LAYER",
        shell_complete=complete.layers,
    )
    out: str | None = option(
        "-o --out",
        "PNG file to write, or - for stdout: the kernels of the first layer given.",
        type=WRITE_FILE,
        metavar="FILE",
    )
    max_filters: int = option(
        "--max-filters", "Maximum number of filters in the picture.", type=IntRange(1), default=256, metavar="N"
    )
    max_slices: int = option(
        "--max-slices", "Maximum number of input channels drawn per filter.", type=IntRange(1), default=16, metavar="N"
    )
    channels: str | None = option(
        "--channels",
        "Channel order of the model's input. Default: from the model's TOML file, or RGB.",
        type=Choice(["RGB", "BGR"]),
    )
    resources: Resources = group(Resources)
    form: str = format_option


@Filters.command("filters")
def command(given: Filters) -> None:
    """Draw convolution kernels and measure their frequencies.

    Prints the share of energy in low (below 1/6 cycles per pixel), middle, and high (above 1/3) frequencies, the
    share that the stride aliases ("folded"), and the dead and duplicate filters. Kernels that read an RGB picture
    are drawn in color, others as one slice per input channel.

    \b
    Example:
      onnx-analyzer filters model.onnx -o filters.png
    """
    from analyzer.analysis.filters import filter_bank
    from analyzer.analysis.linear import CONVOLUTIONS
    from analyzer.attribution import Explainer
    from analyzer.graph.query import find_tensors
    from analyzer.images import write_png
    from analyzer.report.filters import describe, picture, remarks

    explainer = Explainer(given.model)
    graph = explainer.plain
    names = []
    for layer in given.layers or ("auto",):
        found = [v.name for v in find_tensors(graph, layer)] if any(c in layer for c in "*?[") else [layer]
        if len(found) > 1:
            found = [n for n in found if (p := graph.producer(graph[n])) is not None and p.op in CONVOLUTIONS] or found
        names += found
    banks = [filter_bank(graph, name) for name in names]
    if given.out:
        order = given.channels or _channels(explainer)
        write_png(given.out, picture(banks[0], order, given.max_filters, given.max_slices))
    rows = [describe(bank) for bank in banks]
    header = ("filters", "kernel", "stride", "low", "middle", "high", "folded", "dead", "duplicates", "layer")
    lines = [table([_cells(row) for row in rows], header), *(line for bank in banks for line in remarks(bank))]
    document = {"model": given.model, "layers": rows}
    finish(given.form, "filters", document, lines, [given.out] if given.out else [])


def _channels(model: Model) -> str:
    """The order of the model's input channels, by its card."""
    from analyzer.attribution.cards import picture_card
    from analyzer.errors import AnalyzerError

    try:
        return str(picture_card(model).preprocess.channels)
    except AnalyzerError:
        return "RGB"


def _cells(row: dict[str, Any]) -> list[str]:
    low, middle, high = (f"{b:.0%}" for b in row["bands"]) if row["bands"] else ("–", "–", "–")
    folded = "–" if row["folded"] is None else f"{row['folded']:.0%}"
    kernel = "×".join(map(str, row["shape"][2:])) + (f", {row['groups']} groups" if row["groups"] > 1 else "")
    counts = [str(len(row["dead"])), str(len(row["duplicates"]))]
    stride = "×".join(map(str, row["strides"]))
    return [str(row["shape"][0]), kernel, stride, low, middle, high, folded, *counts, row["layer"]]
