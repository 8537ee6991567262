"""`filters`: convolution kernels as pictures, and their spectra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click import Choice

from analyzer.commands import complete
from analyzer.commands.common import finish, table
from analyzer.commands.options import (
    READ,
    READ_MODEL,
    WRITE_FILE,
    Channel,
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
    from analyzer.analysis.filters import FilterBank
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
        "PNG file to write, or - for stdout: the kernels of every layer.",
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
    chosen: tuple[int, ...] = several(
        "-u --unit",
        "Filter to draw, by number. Repeatable. Default: as many as --max-filters.",
        type=Channel(0),
        metavar="FILTER",
    )
    strongest: bool = option("--strongest", "Draw the filters of the largest norm, in order.", is_flag=True)
    beside: str | None = option(
        "--beside", "Second model, drawn beside the first, with spectra.", type=READ_MODEL, metavar="MODEL"
    )
    data: tuple[str, ...] = several(
        "-d --data",
        "Pictures: also draw what the strongest channels of every layer respond to in them. Repeatable.",
        type=READ,
        metavar="PATH",
    )
    raw: str | None = option(
        "--raw",
        "Write kernels and power spectra as .npz, under LAYER/kernels and LAYER/power; with --beside, after the name "
        "of the model.",
        type=WRITE_FILE,
        metavar="FILE",
    )
    resources: Resources = group(Resources)
    form: str = format_option


@Filters.command("filters")
def command(given: Filters) -> None:
    """Draw convolution kernels and measure their frequencies.

    Prints the share of energy in low (below 1/6 cycles per pixel), middle, and high (above 1/3) frequencies, the
    share that the stride aliases ("folded"), and the dead and duplicate filters. Kernels that read an RGB picture
    are drawn in color, others as one slice per input channel. To choose between architectures as Zeiler & Fergus
    2014 (figure 6) did, put two models side by side with --beside.

    \b
    Examples:
      onnx-analyzer filters model.onnx -o filters.png
      onnx-analyzer filters a.onnx --beside b.onnx -d photos/ -o both.png
    """
    from analyzer.attribution import Explainer
    from analyzer.images import write_npz, write_png
    from analyzer.images.mosaic import stacked
    from analyzer.report.filters import FilterDrawing, architecture, describe, projected, remarks

    explainers = [Explainer(name) for name in (given.model, given.beside) if name]
    banks = [_banks(explainer, given.layers) for explainer in explainers]
    if given.out:
        order = given.channels or _channels(explainers[0])
        drawing = FilterDrawing(order, given.chosen, given.max_filters, given.max_slices, given.strongest)
        names = _titles(given)
        projections = None
        if given.data:
            found = [projected(e, b, given.data, given.chosen) for e, b in zip(explainers, banks, strict=True)]
            projections = dict(zip(names, found, strict=True))
        if given.beside or given.data:
            write_png(given.out, architecture(dict(zip(names, banks, strict=True)), drawing, projections))
        else:
            write_png(given.out, stacked([drawing.picture(bank) for bank in banks[0]]))
    if given.raw:
        write_npz(given.raw, _arrays(_titles(given), banks))
    rows = [[describe(bank) for bank in each] for each in banks]
    header = ("filters", "kernel", "stride", "low", "middle", "high", "folded", "dead", "duplicates", "layer")
    lines = [table([_cells(row) for each in rows for row in each], header)]
    lines += [line for each in banks for bank in each for line in remarks(bank)]
    document: dict[str, Any] = {"model": given.model, "layers": rows[0]}
    if given.beside:
        document["beside"] = {"model": given.beside, "layers": rows[1]}
    finish(given.form, "filters", document, lines, [place for place in (given.out, given.raw) if place])


def _banks(model: Model, layers: Sequence[str]) -> list[FilterBank]:
    """The kernels of the layers that names and globs choose; of the others, the model has none."""
    from analyzer.analysis.filters import filter_bank
    from analyzer.analysis.linear import CONVOLUTIONS
    from analyzer.graph.query import find_tensors

    graph, names = model.plain, list[str]()
    for layer in layers or ("auto",):
        found = [v.name for v in find_tensors(graph, layer)] if any(c in layer for c in "*?[") else [layer]
        if len(found) > 1:
            found = [n for n in found if (p := graph.producer(graph[n])) is not None and p.op in CONVOLUTIONS] or found
        names += found
    return [filter_bank(graph, name) for name in names]


def _arrays(names: Sequence[str], banks: Sequence[Sequence[FilterBank]]) -> dict[str, Any]:
    """Kernels and their spectra; of two models with their names before."""
    prefixes = [f"{name}/" for name in names] if len(names) > 1 else [""]
    return {
        f"{prefix}{bank.layer}/{key}": array
        for prefix, each in zip(prefixes, banks, strict=True)
        for bank in each
        for key, array in (("kernels", bank.weights), ("power", bank.power))
    }


def _titles(given: Filters) -> list[str]:
    """Of the models: the names of their files, numbered where they are the same."""
    names = [Path(name).name for name in (given.model, given.beside) if name]
    return names if len(set(names)) == len(names) else [f"{i + 1}: {name}" for i, name in enumerate(names)]


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
