"""`filters`: convolution kernels as pictures, and their spectra."""

from __future__ import annotations

from typing import Any

from click import Choice, IntRange

from analyzer.commands.common import finish, table
from analyzer.commands.options import WRITE_FILE, Given, format_option, model_argument, option, several


class Filters(Given):
    model: str = model_argument
    layers: tuple[str, ...] = several("-l --layer", "Convolution, its output or a glob; repeatable.  [first]")
    out: str | None = option("-o --out", "PNG of the kernels; of the first layer given.", type=WRITE_FILE)
    max_filters: int = option("--max-filters", "Filters in the picture.", type=IntRange(1), default=256)
    max_slices: int = option("--max-slices", "Input channels per filter.", type=IntRange(1), default=16)
    channels: str | None = option("--channels", "Order of the input's channels.", type=Choice(["RGB", "BGR"]))
    form: str = format_option


@Filters.command("filters")
def command(given: Filters) -> None:
    """Show convolution kernels as pictures, and what their spectra say about the architecture.

    Kernels that read an RGB image are drawn in its colours, others a slice per input channel. Shares of low (below
    1/6 cycles per pixel), middle and high (above 1/3) frequencies; dead and duplicate filters; and how much of the
    energy the stride folds onto lower frequencies.

    \b
    onnx-analyzer filters model.onnx -o filters.png
    """
    from analyzer.analysis.filters import filter_bank
    from analyzer.analysis.linear import CONVOLUTIONS
    from analyzer.attribution import Explainer
    from analyzer.graph.query import find_tensors
    from analyzer.images import write_png

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
    lines = [table([_cells(row) for row in rows], header), *(line for bank in banks for line in _remarks(bank))]
    document = {"model": given.model, "layers": rows}
    finish(given.form, "filters", document, lines, [given.out] if given.out else [])


def _channels(explainer: Any) -> str:
    """The order of the model's input channels, by its card."""
    from analyzer.commands.pictures import read_card
    from analyzer.errors import AnalyzerError

    try:
        return str(read_card(explainer, None, {}).preprocess.channels)
    except AnalyzerError:
        return "RGB"


def picture(bank: Any, channels: str, max_filters: int, max_slices: int) -> Any:
    """The kernels as one picture: (H, W, 3)."""
    from analyzer.images import colourise, signed_view
    from analyzer.images.mosaic import BEYOND, Block, mosaic

    weights = bank.weights[:max_filters]
    kind = "×".join(map(str, bank.weights.shape))
    title = f"{bank.layer} — {kind}"
    if len(weights) < len(bank.weights):
        title += f", {len(weights)} filters shown"
    if bank.reads_image and weights.shape[1] == 3:
        kernels = weights.transpose(0, 2, 3, 1)[..., :: -1 if channels == "BGR" else 1]
        tiles = [signed_view(kernel, "normalised") for kernel in kernels]
        columns = max(1, round(len(tiles) ** 0.5 * 1.4))
        return mosaic([Block("", [tiles])], title, max(48, 7 * weights.shape[2]), columns)
    scales = abs(weights).max(axis=(1, 2, 3))
    slices = weights[:, :max_slices]
    tiles_of = [[colourise(s, signed=True, vmax=float(m)) for s in f] for f, m in zip(slices, scales, strict=True)]
    side = max(18, 5 * weights.shape[2])
    if slices.shape[1] == 1:
        flat = [tile for tiles in tiles_of for tile in tiles]
        return mosaic([Block("", [flat])], title, side, max(1, round(len(flat) ** 0.5 * 1.4)), BEYOND)
    if slices.shape[1] < weights.shape[1]:
        title += f", {slices.shape[1]} slices of each"
    return mosaic([Block(str(k), [tiles]) for k, tiles in enumerate(tiles_of)], title, side, 0, BEYOND)


def describe(bank: Any) -> dict[str, Any]:
    """A bank as plain data."""
    live = ~bank.dead
    flat = bank.is_pointwise or not live.any()
    bands = None if flat else [round(float(b), 4) for b in bank.bands[live].mean(axis=0)]
    return {
        "layer": bank.layer,
        "node": bank.name,
        "shape": list(bank.weights.shape),
        "strides": list(bank.strides),
        "groups": bank.groups,
        "reads_image": bank.reads_image,
        "bands": bands,
        "folded": None if flat else round(float(bank.aliased[live].mean()), 4),
        "dead": bank.dead.nonzero()[0].tolist(),
        "duplicates": [{"filters": [i, j], "cosine": c} for i, j, c in bank.duplicates],
        "per_filter": {
            "norm": bank.norms.tolist(),
            "bands": bank.bands.tolist(),
            "folded": bank.aliased.tolist(),
        },
    }


def _cells(row: dict[str, Any]) -> list[str]:
    low, middle, high = (f"{b:.0%}" for b in row["bands"]) if row["bands"] else ("–", "–", "–")
    folded = "–" if row["folded"] is None else f"{row['folded']:.0%}"
    kernel = "×".join(map(str, row["shape"][2:])) + (f", {row['groups']} groups" if row["groups"] > 1 else "")
    counts = [str(len(row["dead"])), str(len(row["duplicates"]))]
    stride = "×".join(map(str, row["strides"]))
    return [str(row["shape"][0]), kernel, stride, low, middle, high, folded, *counts, row["layer"]]


def _remarks(bank: Any) -> list[str]:
    """What Zeiler & Fergus (2014, section 4.1) looked for in AlexNet's first layer, where it is there."""
    lines = []
    live = ~bank.dead
    if bank.dead.any():
        lines.append(f"{bank.layer}: dead filters {', '.join(map(str, bank.dead.nonzero()[0][:12]))}")
    if bank.duplicates:
        pairs = ", ".join(f"{i}≈{'−' if c < 0 else ''}{j}" for i, j, c in bank.duplicates[:8])
        lines.append(f"{bank.layer}: duplicate filters {pairs}{' …' if len(bank.duplicates) > 8 else ''}")
    if bank.is_pointwise or not live.any():
        return lines
    if bank.aliased[live].mean() > 0.5:
        share = f"{bank.aliased[live].mean():.0%}"
        lines.append(
            f"{bank.layer}: stride {max(bank.strides)} folds {share} of the energy: aliasing, try a smaller one"
        )
    if bank.reads_image and bank.bands[live].mean(axis=0)[1] < 0.15:
        lines.append(f"{bank.layer}: hardly any middle frequencies: a smaller kernel or stride may help")
    return lines
