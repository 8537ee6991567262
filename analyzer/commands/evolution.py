"""`evolution`: features over the checkpoints of a training."""

from __future__ import annotations

from typing import Any

import click

from analyzer.commands.common import (
    InputPath,
    OutputPath,
    Progress,
    format_option,
    layer_option,
    note,
    preprocess_options,
    print_json,
    provider_option,
    stacked,
    table,
)


@click.command(name="evolution")
@click.argument("checkpoints", nargs=-1, required=True, type=InputPath(dir_okay=False))
@click.option("-i", "--pictures", multiple=True, required=True, type=InputPath(), help="Pictures, folders or lists.")
@layer_option
@click.option("-u", "--channel", "channels", multiple=True, type=click.IntRange(0), help="Channels; repeatable.")
@click.option(
    "--draw", type=click.IntRange(1), default=6, show_default=True, help="Or how many, the strongest at last."
)
@click.option(
    "--policy", type=click.Choice(["deconvnet", "guided", "gradient", "none"]), default="deconvnet", show_default=True
)
@click.option("-o", "--out", required=True, type=OutputPath(dir_okay=False), help="PNG to write.")
@provider_option
@stacked(preprocess_options)
@format_option
def command(
    checkpoints: tuple[str, ...],
    pictures: tuple[str, ...],
    layer: str | None,
    channels: tuple[int, ...],
    draw: int,
    policy: str,
    out: str,
    provider: str,
    form: str,
    **preprocess: Any,
) -> None:
    """Show how features of a layer evolve over CHECKPOINTS, ONNX files of one network in the order of training.

    Per channel the strongest activation over the pictures at each checkpoint, projected back to pixels, as a strip;
    framed in red where it suddenly comes from another picture (Zeiler & Fergus 2014, figure 4).

    \b
    onnx-analyzer evolution step1.onnx step2.onnx step3.onnx -i photos/ -l conv5 -o evolution.png
    """
    from analyzer.attribution import Explainer
    from analyzer.commands.pictures import read_card
    from analyzer.images import write_png
    from analyzer.mining import Manifest
    from analyzer.mining.evolution import evolution

    card = read_card(Explainer(checkpoints[-1]), None, preprocess)
    manifest = Manifest.read(pictures)
    progress = Progress(len(manifest) * len(checkpoints), "evolution")
    found = evolution(
        checkpoints,
        manifest,
        layer or card.default_layer or "auto",
        card.preprocess,
        channels or None,
        draw,
        None if policy == "none" else policy,
        provider,
        progress.step,
    )
    for checkpoint, why_of in found.not_finite.items():
        for number, why in sorted(why_of.items()):
            note(f"warning: {checkpoint}: {manifest.paths[number]} is left out: {why}")
    if not found.patches:
        note(f"warning: no picture activates a channel of {found.layer!r}: the strip is empty")
    write_png(out, found.figure())
    rows = [
        {
            "channel": channel,
            "values": [None if p is None else p.value for p in patches],
            "pictures": [None if p is None else str(manifest.paths[p.picture]) for p in patches],
            "jumps": found.jumps(channel),
        }
        for channel, patches in found.patches.items()
    ]
    if form == "json":
        document = {"checkpoints": list(checkpoints), "layer": found.layer, "channels": rows}
        print_json("evolution", {**document, "written": [out]})
        return
    cells = []
    for channel, patches in found.patches.items():
        values = ["–" if p is None else f"{p.value:.3g}" for p in patches]
        marks = ["*" if jump else "" for jump in found.jumps(channel)]
        cells.append([channel, *(f"{v} {m}".strip() for v, m in zip(values, marks, strict=True))])
    click.echo(table(cells, ("channel", *found.checkpoints)))
    click.echo("*: the strongest activation comes from another picture than before")
    click.echo(f"written: {out}")
