"""`mine`: the pictures that drive each channel most."""

from __future__ import annotations

from pathlib import Path

import click

from analyzer.commands.common import Progress, command_line, finish, note, table, tell_left_out
from analyzer.commands.options import (
    WRITE_FOLDER,
    DataSet,
    Engine,
    Given,
    IntRange,
    Setup,
    channels_option,
    format_option,
    group,
    layers_option,
    model_argument,
    option,
    policy_option,
    shard_option,
)


class Mine(Given):
    model: str = model_argument
    data: DataSet = group(DataSet)
    layers: tuple[str, ...] = layers_option
    out: str = option(
        "-o --out", "Folder for the results and for resuming.", required=True, type=WRITE_FOLDER, metavar="FOLDER"
    )
    k: int = option("-k", "Number of activations per channel.", type=IntRange(1, 100), default=9, metavar="N")
    chosen: tuple[int, ...] = channels_option
    draw: int = option(
        "--draw", "Channels to draw, strongest first, if none are named.", type=IntRange(0), default=16, metavar="N"
    )
    policy: str = policy_option
    batch: int = option("--batch", "Pictures per run of the model.", type=IntRange(1), default=8, metavar="N")
    engine: Engine = group(Engine)
    shard: str = shard_option
    setup: Setup = group(Setup)
    form: str = format_option


@Mine.command("mine")
def command(given: Mine) -> int:
    """Find the pictures that activate each channel most.

    PICTURES (or --data) are files, folders, glob patterns, or text files with one path per line.

    Writes a figure of patches and projections per layer (as in Zeiler & Fergus 2014), an HTML gallery, and all
    results as JSON. An interrupted run resumes. To share the work between processes, run each with its own --shard
    and the same -o, then run once without --shard to merge.

    \b
    Example:
      onnx-analyzer mine model.onnx photos/ -l conv5 -o mined/
    """
    from analyzer.errors import InputError
    from analyzer.mining import mine
    from analyzer.mining.patches import check_projectable
    from analyzer.report.gallery import write_results

    part = parse_shard(given.shard)
    samples = given.data.samples()
    explainer, card = given.setup.load(given.model, many=True)
    samples = given.data.opened(samples, card.feeds)
    wanted = given.layers or (card.default_layer or "auto",)
    policy = None if given.policy == "none" else given.policy
    if policy:
        check_projectable(explainer, wanted, policy)
    progress = Progress(len(samples) // part[1], "mine")
    how = card.feeds, given.k, given.out, given.batch, part, given.engine.workers
    result = mine(explainer, samples, wanted, *how, progress=progress.step)
    tell_left_out(result)
    for picture, why in result.not_finite.items():
        note(f"warning: {picture} is skipped: {why}")
    if part != (1, 1):
        click.echo(f"shard {given.shard}: {progress.done} pictures done; run again without --shard to merge")
        return given.engine.code(len(result.failed), len(samples))
    if len(result.failed) == len(samples):
        raise InputError("no pictures to mine", "none of the given pictures can be read")
    title = Path(given.model).name
    drawn = given.chosen, given.draw, policy
    written = write_results(explainer, result, card.feeds, Path(given.out), title, *drawn, command_line())
    rows = [result.summary(layer) for layer in result.rankings]
    document = {"model": given.model, "layers": rows, "pictures": len(samples), "resumed": result.resumed}
    document |= {"failed": len(result.failed), "not_finite": len(result.not_finite)}
    header = ("layer", "channels", "dead", "correlated pairs", "strongest")
    finish(given.form, "mine", document, [table([[r[h] for h in header] for r in rows], header)], written)
    return given.engine.code(len(result.failed), len(samples))


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) from "i/n"."""
    from analyzer.errors import InputError

    first, _, count = text.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise InputError(f"--shard {text!r} is not I/N", "for example: 1/4, 2/4, 3/4 and 4/4 for four processes")
    return int(first), int(count)
