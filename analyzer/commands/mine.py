"""`mine`: the pictures that drive each channel most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click import Choice, IntRange

from analyzer.commands.common import Progress, finish, note, table, tell_left_out
from analyzer.commands.options import (
    POLICIES,
    WRITE_FOLDER,
    Given,
    Setup,
    format_option,
    group,
    layers_option,
    model_argument,
    option,
    pictures_argument,
    several,
    shard_option,
    workers_option,
)


class Mine(Given):
    model: str = model_argument
    pictures: tuple[str, ...] = pictures_argument
    layers: tuple[str, ...] = layers_option
    out: str = option("-o --out", "Folder for state and results.", required=True, type=WRITE_FOLDER)
    k: int = option("-k", "How many per channel.", type=IntRange(1, 100), default=9)
    chosen: tuple[int, ...] = several("-u --channel", "Channels to draw.", type=IntRange(0))
    draw: int = option("--draw", "Or how many, the strongest.", type=IntRange(0), default=16)
    policy: str = option("--policy", type=Choice([*POLICIES, "none"]), default="deconvnet")
    batch: int = option("--batch", "Pictures per run.", type=IntRange(1), default=8)
    workers: int | None = workers_option
    shard: str = shard_option
    setup: Setup = group(Setup)
    form: str = format_option


@Mine.command("mine")
def command(given: Mine) -> int:
    """Find the k strongest activations of every channel over PICTURES: files, folders, or lists of files.

    Per layer a figure of patches and projections as in Zeiler & Fergus 2014, an HTML gallery, and everything as JSON.
    A run that was interrupted goes on where it was. With --shard, several processes share the work; a call without
    takes what they found, and does what is left.

    \b
    onnx-analyzer mine model.onnx photos/ -l conv5 -o mined
    """
    from analyzer.data import find_pictures
    from analyzer.mining import mine
    from analyzer.mining.patches import check_projectable

    part = parse_shard(given.shard)
    explainer, card = given.setup.load(given.model, many=True)
    wanted = given.layers or (card.default_layer or "auto",)
    policy = None if given.policy == "none" else given.policy
    if policy:
        check_projectable(explainer, wanted, policy)
    samples = find_pictures(given.pictures)
    progress = Progress(len(samples) // part[1], "mine")
    how = card.preprocess, given.k, given.out, given.batch, part, given.workers
    result = mine(explainer, samples, wanted, *how, progress=progress.step)
    tell_left_out(result)
    for picture, why in result.not_finite.items():
        note(f"warning: {picture} is left out: {why}")
    if part != (1, 1):
        click.echo(f"shard {given.shard}: {progress.done} pictures done; mine all of them without --shard to merge")
        return 5 if result.failed else 0
    written = write(explainer, given, card, result, policy)
    rows = [summary(layer, result) for layer in result.rankings]
    document = {"model": given.model, "layers": rows, "pictures": len(samples), "resumed": result.resumed}
    document |= {"failed": len(result.failed), "not_finite": len(result.not_finite)}
    header = ("layer", "channels", "dead", "correlated pairs", "strongest")
    finish(given.form, "mine", document, [table([[r[h] for h in header] for r in rows], header)], written)
    return 5 if result.failed else 0


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) from "i/n"."""
    from analyzer.errors import InputError

    first, _, count = text.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise InputError(f"--shard {text!r} is no share of the pictures", "write it as 1/4 … 4/4")
    return int(first), int(count)


def write(explainer: Any, given: Mine, card: Any, result: Any, policy: str | None) -> list[str]:
    """Figures, gallery and data; the names of the files."""
    from analyzer.commands.features import file_name
    from analyzer.errors import NotFoundError
    from analyzer.files import Places, write_text
    from analyzer.images import write_png
    from analyzer.mining.gallery import describe, write_gallery
    from analyzer.mining.patches import collect_patches, strongest_channels
    from analyzer.plain import as_json

    folder, chosen = Path(given.out), given.chosen
    for layer, ranking in result.rankings.items():
        if chosen and max(chosen) >= len(ranking.values):
            raise NotFoundError(f"{layer!r} has no channel {max(chosen)}", f"it has {len(ranking.values)}")
    drawn = {layer: list(chosen) or strongest_channels(result, layer, given.draw) for layer in result.rankings}
    layers = collect_patches(explainer, result, card.preprocess, {n: c for n, c in drawn.items() if c}, policy)
    written, places = list[str](), Places(folder)
    for patches in layers:
        if patches.channels:
            place = places.place(file_name(patches.layer), ".png")
            write_png(place, patches.figure())
            written.append(str(place))
    write_gallery(folder / "index.html", Path(given.model).name, result, layers)
    write_text(folder / "top.json", as_json(describe(result), indent=1, ensure_ascii=False) + "\n")
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
