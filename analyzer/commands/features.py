"""`features`: feature maps as grids and arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyzer.commands import complete
from analyzer.commands.common import each_picture, note, print_json, say_written, table, tell_remark
from analyzer.commands.options import (
    WRITE_FOLDER,
    Channel,
    Given,
    IntRange,
    Pictures,
    Setup,
    colormap_option,
    format_option,
    group,
    model_argument,
    option,
    several,
)
from analyzer.files import Places, make_folder

if TYPE_CHECKING:
    from analyzer.attribution.features import Taps
    from analyzer.data import Sample


class Features(Given):
    model: str = model_argument
    inputs: Pictures = group(Pictures)
    layers: tuple[str, ...] = several(
        "-l --layer",
        "Tensor or node name, or a glob. Repeatable.",
        required=True,
        metavar="LAYER",
        shell_complete=complete.layers,
    )
    out: str | None = option(
        "-o --out", "Folder for the grids (.png) and arrays (.npz).", type=WRITE_FOLDER, metavar="FOLDER"
    )
    max_channels: int = option(
        "--max-channels", "Maximum number of channels in a grid.", type=IntRange(1), default=64, metavar="N"
    )
    chosen: tuple[int, ...] = several(
        "-u --unit",
        "Unit to draw: a channel of every layer, by number. Repeatable. Default: as many as --max-channels.",
        type=Channel(0),
        metavar="CHANNEL",
    )
    strongest: bool = option("--strongest", "Draw the channels with the highest values, in order.", is_flag=True)
    colormap: str = colormap_option("Color map.", default="viridis")
    setup: Setup = group(Setup)
    form: str = format_option


@Features.command("features")
def command(given: Features) -> int:
    """Print statistics of a layer's channels on PICTURES; write the feature maps as grids and arrays.

    \b
    Example:
      onnx-analyzer features model.onnx cat.jpg -l conv1 -l 'layer4*' -o maps/
    """
    from analyzer.attribution.features import Taps, chosen_tensors
    from analyzer.attribution.finite import say_not_finite
    from analyzer.report import features

    samples = given.inputs.samples()
    explainer, card = given.setup.load(given.model)
    samples, _ = given.inputs.opened(samples, card.feeds)
    places = Places(make_folder(given.out)) if given.out else None
    drawing = features.ChannelDrawing(given.chosen, given.max_channels, given.strongest, given.colormap)
    taps: Taps | None = None

    def work(sample: Sample) -> dict[str, Any]:
        nonlocal taps
        fed = card.feeds.feed(sample.source)
        tell_remark(sample.id, fed.remark)
        feeds = explainer.batch([explainer.feeds(fed.feeds)])
        if taps is None:
            graph = explainer.graph_of(feeds)
            taps = Taps(explainer, graph, chosen_tensors(graph, given.layers))
        fixed = explainer.fixed_batch or 1
        found = {n: a[: len(a) // fixed] if a.ndim and len(a) % fixed == 0 else a for n, a in taps.run(feeds).items()}
        said = say_not_finite(explainer, feeds, found.values(), list(found))
        if said:
            note(f"warning: {sample.id}: {said}")
        seen = card.feeds.seen(fed) if places else None
        rows = features.report(found, taps.layouts, Path(sample.id).stem, places, drawing, seen)
        return {"picture": sample.id, "diagnosis": said or None, "layers": rows}

    results, failed = each_picture("features", samples, work, strict=lambda: taps is None)
    if given.form == "json":
        print_json("features", {"model": given.model, "results": results, "failed": failed})
    else:
        print_results(results)
    return 5 if failed else 0


def print_results(results: list[dict[str, Any]]) -> None:
    """A line per layer and picture."""
    rows = []
    for result in results:
        for e in result["layers"]:
            shape = "×".join(map(str, e["shape"]))
            dead, values = "", ""
            if "channels" in e:
                dead = f"{len(e['dead'])}/{e['channels']}"
                values = "{:.3g} … {:.3g}".format(*e["range"])
            rows.append((result["picture"], e["tensor"], shape, dead, values))
    click.echo(table(rows, ("picture", "tensor", "shape", "dead channels", "range")))
    written = sorted({e[k] for r in results for e in r["layers"] for k in ("grid", "arrays") if k in e})
    for place in written:
        say_written(place)
