"""`merge`: shards of a run that were done in several folders."""

from __future__ import annotations

import click

from analyzer.commands.options import WRITE_FOLDER, Given, RunPath, argument, option
from analyzer.commands.uploads import addressed


class Merge(Given):
    folders: tuple[str, ...] = argument(nargs=-1, required=True, type=RunPath(file_okay=False, exists=True))
    out: str = option("-o --out", "Folder for all shards; may be one of FOLDERS.", required=True, type=WRITE_FOLDER)


@Merge.command("merge")
def command(given: Merge) -> int:
    """Combine the shards of a run from several FOLDERS, for example from several machines.

    Then run the same command without --shard and with this output folder: it takes what the shards did, does what is
    left, and writes the results.

    \b
    onnx-analyzer mine model.onnx photos/ --shard 1/2 -o first   # one machine
    onnx-analyzer mine model.onnx photos/ --shard 2/2 -o second  # another
    onnx-analyzer merge first second -o mined
    onnx-analyzer mine model.onnx photos/ -o mined
    """
    from analyzer.passes import merge

    for name, missing in merge(given.folders, given.out).items():
        left = f"all but {', '.join(missing)}" if missing else "all shards"
        click.echo(f"{name}: {left} in {addressed(given.out)}; run {name} without --shard to write the results")
    return 0
