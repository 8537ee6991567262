"""`evolution`: features over the checkpoints of a training."""

from __future__ import annotations

from analyzer.commands.common import Progress, finish, note, table, tell_card
from analyzer.commands.options import (
    READ,
    READ_MODEL,
    WRITE_FILE,
    Given,
    IntRange,
    OtherInputs,
    Preprocessing,
    Resources,
    argument,
    channels_option,
    format_option,
    group,
    layer_option,
    limit_option,
    option,
    policy_option,
    provider_option,
    several,
)


class Evolution(Given):
    checkpoints: tuple[str, ...] = argument(nargs=-1, required=True, type=READ_MODEL)
    data: tuple[str, ...] = several(
        "-d --data",
        "Pictures: a file, folder, glob pattern or text file with one path per line. Repeatable.",
        old="-i --pictures",
        required=True,
        type=READ,
        metavar="PATH",
    )
    limit: int | None = limit_option
    layer: str | None = layer_option
    chosen: tuple[int, ...] = channels_option
    draw: int = option(
        "--draw",
        "Channels to draw if none are named: of the strongest in the last checkpoint, those that differ most.",
        type=IntRange(1),
        default=6,
        metavar="N",
    )
    policy: str = policy_option
    out: str = option("-o --out", "PNG file to write, or - for stdout.", required=True, type=WRITE_FILE, metavar="FILE")
    raw: str | None = option(
        "--raw",
        "Also write patches and projections as .npz, under CHANNEL/CHECKPOINT/patch and …/projection.",
        type=WRITE_FILE,
        metavar="FILE",
    )
    provider: str = provider_option
    preprocess: Preprocessing = group(Preprocessing)
    others: OtherInputs = group(OtherInputs)
    resources: Resources = group(Resources)
    form: str = format_option


@Evolution.command("evolution")
def command(given: Evolution) -> None:
    """Show how the features of a layer change over CHECKPOINTS: ONNX files of one network, in training order.

    Each row is a channel. Each column shows its strongest activation at one checkpoint, projected back to pixels,
    with a red frame where it comes from a different picture than before (Zeiler & Fergus 2014, figure 4).

    \b
    Example:
      onnx-analyzer evolution epoch*.onnx --data photos/ -l conv5 -o evolution.png
    """
    from analyzer.attribution import Explainer
    from analyzer.attribution.cards import read_card
    from analyzer.data import find_pictures
    from analyzer.images import write_npz, write_png
    from analyzer.mining.evolution import evolution

    checkpoints = given.checkpoints
    last = Explainer(checkpoints[-1])
    card = read_card(last, None, given.preprocess.flags(), given.others.given)
    tell_card(last, card)
    samples = find_pictures(given.data, given.limit)
    progress = Progress(len(samples) * len(checkpoints), "evolution")
    found = evolution(
        checkpoints,
        samples,
        given.layer or card.default_layer or "auto",
        card.feeds,
        given.chosen or None,
        given.draw,
        None if given.policy == "none" else given.policy,
        given.provider,
        progress.step,
    )
    for checkpoint, why_of in found.not_finite.items():
        for picture, why in why_of.items():
            note(f"warning: {checkpoint}: {picture} is skipped: {why}")
    if not found.patches:
        note(f"warning: no picture activates a channel of {found.layer!r}: the strip is empty")
    write_png(given.out, found.figure())
    if given.raw:
        write_npz(given.raw, found.arrays)
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
    lines.append("*: the strongest activation comes from a different picture than at the checkpoint before")
    finish(given.form, "evolution", document, lines, [place for place in (given.out, given.raw) if place])
