"""`evolution`: features over the checkpoints of a training."""

from __future__ import annotations

from click import Choice, IntRange

from analyzer.commands.common import Progress, finish, note, table
from analyzer.commands.options import (
    POLICIES,
    READ,
    READ_FILE,
    WRITE_FILE,
    Given,
    Preprocessing,
    argument,
    format_option,
    group,
    layer_option,
    option,
    provider_option,
    several,
)


class Evolution(Given):
    checkpoints: tuple[str, ...] = argument(nargs=-1, required=True, type=READ_FILE)
    pictures: tuple[str, ...] = several("-i --pictures", "Pictures, folders or lists.", required=True, type=READ)
    layer: str | None = layer_option
    channels: tuple[int, ...] = several("-u --channel", "Channels; repeatable.", type=IntRange(0))
    draw: int = option("--draw", "Or how many, the strongest at last.", type=IntRange(1), default=6)
    policy: str = option("--policy", type=Choice([*POLICIES, "none"]), default="deconvnet")
    out: str = option("-o --out", "PNG to write.", required=True, type=WRITE_FILE)
    provider: str = provider_option
    preprocess: Preprocessing = group(Preprocessing)
    form: str = format_option


@Evolution.command("evolution")
def command(given: Evolution) -> None:
    """Show how features of a layer evolve over CHECKPOINTS, ONNX files of one network in the order of training.

    Per channel the strongest activation over the pictures at each checkpoint, projected back to pixels, as a strip;
    framed in red where it suddenly comes from another picture (Zeiler & Fergus 2014, figure 4).

    \b
    onnx-analyzer evolution step1.onnx step2.onnx step3.onnx -i photos/ -l conv5 -o evolution.png
    """
    from analyzer.attribution import Explainer
    from analyzer.commands.pictures import read_card
    from analyzer.data import find_pictures
    from analyzer.images import write_png
    from analyzer.mining.evolution import evolution

    checkpoints = given.checkpoints
    card = read_card(Explainer(checkpoints[-1]), None, vars(given.preprocess))
    samples = find_pictures(given.pictures)
    progress = Progress(len(samples) * len(checkpoints), "evolution")
    found = evolution(
        checkpoints,
        samples,
        given.layer or card.default_layer or "auto",
        card.preprocess,
        given.channels or None,
        given.draw,
        None if given.policy == "none" else given.policy,
        given.provider,
        progress.step,
    )
    for checkpoint, why_of in found.not_finite.items():
        for picture, why in why_of.items():
            note(f"warning: {checkpoint}: {picture} is left out: {why}")
    if not found.patches:
        note(f"warning: no picture activates a channel of {found.layer!r}: the strip is empty")
    write_png(given.out, found.figure())
    rows = [
        {
            "channel": channel,
            "values": [None if p is None else p.value for p in patches],
            "pictures": [None if p is None else samples[p.picture].id for p in patches],
            "jumps": found.jumps(channel),
        }
        for channel, patches in found.patches.items()
    ]
    document = {"checkpoints": list(checkpoints), "layer": found.layer, "channels": rows}
    cells = []
    for channel, patches in found.patches.items():
        values = ["–" if p is None else f"{p.value:.3g}" for p in patches]
        marks = ["*" if jump else "" for jump in found.jumps(channel)]
        cells.append([channel, *(f"{v} {m}".strip() for v, m in zip(values, marks, strict=True))])
    lines = [table(cells, ("channel", *found.checkpoints))]
    lines.append("*: the strongest activation comes from another picture than before")
    finish(given.form, "evolution", document, lines, [given.out])
