"""`mine`: the pictures that drive each channel most."""

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


@click.command(name="mine")
@model_argument
@click.argument("pictures", nargs=-1, required=True, type=InputPath())
@click.option("-l", "--layer", "layers", multiple=True, help="Tensor, node or glob; may be repeated.  [auto]")
@click.option("-o", "--out", required=True, type=OutputPath(file_okay=False), help="Folder for state and results.")
@click.option("-k", type=click.IntRange(1, 100), default=9, show_default=True, help="How many per channel.")
@click.option("-u", "--channel", "chosen", multiple=True, type=click.IntRange(0), help="Channels to draw.")
@click.option("--draw", type=click.IntRange(0), default=16, show_default=True, help="Or how many, the strongest.")
@click.option(
    "--policy", type=click.Choice(["deconvnet", "guided", "gradient", "none"]), default="deconvnet", show_default=True
)
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Pictures per run.")
@click.option("--shard", default="1/1", show_default=True, metavar="I/N", help="Only every N-th picture from the I-th.")
@stacked(preprocess_options)
@provider_option
@with_session
@format_option
def command(
    model: str,
    pictures: tuple[str, ...],
    layers: tuple[str, ...],
    out: str,
    k: int,
    chosen: tuple[int, ...],
    draw: int,
    policy: str,
    batch: int,
    shard: str,
    provider: str,
    session: dict[str, Any],
    form: str,
    **preprocess: Any,
) -> int:
    """Find the k strongest activations of every channel over PICTURES: files, folders, or lists of files.

    Per layer a figure of patches and projections as in Zeiler & Fergus 2014, an HTML gallery, and everything as JSON.
    A run that was interrupted goes on where it was. With --shard, several processes share the work; a call without
    merges what they found.

    \b
    onnx-analyzer mine model.onnx photos/ -l conv5 -o mined
    """
    from analyzer.attribution import Explainer
    from analyzer.commands.pictures import read_card
    from analyzer.mining import Manifest, mine
    from analyzer.mining.patches import check_projectable

    part = parse_shard(shard)
    explainer = Explainer(model, provider, **session)
    card = read_card(explainer, None, preprocess)
    wanted = layers or (card.default_layer or "auto",)
    if policy != "none":
        check_projectable(explainer, wanted, policy)
    manifest = Manifest.read(pictures)
    progress = Progress(len(range(part[0] - 1, len(manifest), part[1])), "mine")
    result = mine(
        explainer,
        manifest,
        wanted,
        card.preprocess,
        k,
        out,
        batch,
        part,
        progress=progress.step,
    )
    for number, why in sorted(result.failed.items()):
        note(f"error: {manifest.paths[number]}: {why}")
    for number, why in sorted(result.not_finite.items()):
        note(f"warning: {manifest.paths[number]} is left out: {why}")
    if part != (1, 1):
        click.echo(f"shard {shard}: {progress.total} pictures done; mine all of them without --shard to merge")
        return 5 if result.failed else 0
    written = write(explainer, model, card, result, Path(out), chosen, draw, None if policy == "none" else policy)
    rows = [summary(layer, result) for layer in result.rankings]
    if form == "json":
        document = {"model": model, "layers": rows, "pictures": len(manifest), "resumed": result.resumed}
        counts = {"failed": len(result.failed), "not_finite": len(result.not_finite)}
        print_json("mine", {**document, **counts, "written": written})
    else:
        header = ("layer", "channels", "dead", "correlated pairs", "strongest")
        click.echo(table([[r[h] for h in header] for r in rows], header))
        for place in written:
            click.echo(f"written: {place}")
    return 5 if result.failed else 0


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) from "i/n"."""
    from analyzer.errors import InputError

    first, _, count = text.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise InputError(f"--shard {text!r} is no share of the pictures", "write it as 1/4 … 4/4")
    return int(first), int(count)


def write(
    explainer: Any,
    model: str,
    card: Any,
    result: Any,
    folder: Path,
    chosen: tuple[int, ...],
    count: int,
    policy: str | None,
) -> list[str]:
    """Figures, gallery and data; the names of the files."""
    from analyzer.commands.features import file_name
    from analyzer.errors import NotFoundError
    from analyzer.files import Places
    from analyzer.images import write_png
    from analyzer.mining.gallery import describe, write_gallery
    from analyzer.mining.journal import write_json
    from analyzer.mining.patches import collect_patches, strongest_channels

    for layer, ranking in result.rankings.items():
        if chosen and max(chosen) >= len(ranking.values):
            raise NotFoundError(f"{layer!r} has no channel {max(chosen)}", f"it has {len(ranking.values)}")
    drawn = {layer: list(chosen) or strongest_channels(result, layer, count) for layer in result.rankings}
    layers = collect_patches(explainer, result, card.preprocess, {n: c for n, c in drawn.items() if c}, policy)
    written, places = list[str](), Places(folder)
    for patches in layers:
        if patches.channels:
            place = places.place(file_name(patches.layer), ".png")
            write_png(place, patches.figure())
            written.append(str(place))
    write_gallery(folder / "index.html", Path(model).name, result, layers)
    write_json(folder / "top.json", describe(result))
    return [*written, str(folder / "index.html"), str(folder / "top.json")]


def summary(layer: str, result: Any) -> dict[str, Any]:
    """A layer in one row."""
    statistics = result.statistics[layer]
    return {
        "layer": layer,
        "channels": len(statistics.mean),
        "dead": int(statistics.dead.sum()),
        "correlated pairs": len(statistics.correlated()),
        "strongest": float(f"{statistics.highest.max():.4g}") if statistics.count else None,
    }
