"""`features`: feature maps as grids and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyzer.commands import complete
from analyzer.commands.common import (
    Progress,
    each_picture,
    failed_as_data,
    note,
    print_json,
    say_written,
    table,
    tell_left_out,
    tell_remark,
)
from analyzer.commands.options import (
    WRITE_FOLDER,
    Channel,
    Given,
    IntRange,
    OverPictures,
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
    from analyzer.attribution import Model
    from analyzer.attribution.features import Taps
    from analyzer.data import Sample
    from analyzer.images import Feeding


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
    summary: bool = option(
        "--summary",
        "Print statistics over all pictures together, instead of those of each picture; with --out, write them as "
        "statistics.csv, a row per channel.",
        is_flag=True,
    )
    over: OverPictures = group(OverPictures)
    setup: Setup = group(Setup)
    form: str = format_option


@Features.command("features")
def command(given: Features) -> int:
    """Print statistics of a layer's channels on PICTURES; write the feature maps as grids and arrays.

    With --summary, the statistics are those of all pictures together: which channels are dead in a whole data set.

    \b
    Examples:
      onnx-analyzer features model.onnx cat.jpg -l conv1 -l 'layer4*' -o maps/
      onnx-analyzer features model.onnx photos/ -l 'layer4*' --summary
    """
    from analyzer.attribution.features import Taps, chosen_tensors
    from analyzer.attribution.finite import say_not_finite
    from analyzer.errors import InputError
    from analyzer.report import features

    if given.over.is_given and not given.summary:
        raise InputError("--workers, --engine, --address and --store are for --summary", "add --summary")
    samples = given.inputs.samples()
    explainer, card = given.setup.load(given.model, many=given.summary)
    samples, _ = given.inputs.opened(samples, card.feeds)
    if given.summary:
        return _summed(given, explainer, card.feeds, samples)
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
    return given.over.engine.code(len(failed), len(samples))


def _summed(given: Features, model: Model, feeding: Feeding, samples: Sequence[Sample]) -> int:
    """Statistics over all pictures."""
    from analyzer.files import write_text
    from analyzer.passes import run
    from analyzer.passes.channels import MeasuringChannels
    from analyzer.report import features

    folder = make_folder(given.out) if given.out else None
    progress = Progress(len(samples), "features")
    work = MeasuringChannels(model, feeding, given.layers)
    done = run(work, samples, **given.over.keywords(given.out, progress))
    tell_left_out(done)
    rows = features.summary(done.result)
    written = []
    if folder is not None and rows:
        written.append(str(folder / "statistics.csv"))
        write_text(written[0], features.as_csv(rows))
    if given.form == "json":
        failed = failed_as_data(done.failed)
        print_json(
            "features", {"model": given.model, "results": [], "summary": rows, "failed": failed, "written": written}
        )
        return given.over.engine.code(len(failed), len(samples))
    cells = [
        (r["tensor"], r["pictures"], f"{len(r['dead'])}/{r['channels']}", "{:.3g} … {:.3g}".format(*r["range"]))
        for r in rows
    ]
    click.echo(table(cells, ("tensor", "pictures", "dead channels", "range")))
    for place in written:
        say_written(place)
    return given.over.engine.code(len(done.failed), len(samples))


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
