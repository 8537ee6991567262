"""`occlusion`: what a feature map and the output say while a square hides part of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyzer.commands.common import Progress, finish, note, table
from analyzer.commands.options import (
    READ,
    WRITE_FILE,
    Channel,
    FloatRange,
    Given,
    IntRange,
    Pictures,
    Setup,
    format_option,
    group,
    labels_option,
    layer_option,
    model_argument,
    option,
    policy_option,
    several,
)

if TYPE_CHECKING:
    from analyzer.attribution import Explainer
    from analyzer.attribution.occlusion import Occlusion
    from analyzer.images import Feeding


class OcclusionOptions(Given):
    model: str = model_argument
    inputs: Pictures = group(Pictures)
    target: str = option(
        "-t --target",
        "True class, as index or label, or a detection: detection:N. Default: the prediction with the highest score.",
        default="top1",
        show_default=False,
        metavar="TARGET",
    )
    layer: str | None = layer_option
    channel: int | None = option(
        "-u --unit",
        "Feature map: a channel of the layer. Default: the one with the highest total activation.",
        type=Channel(0),
        metavar="CHANNEL",
    )
    data: tuple[str, ...] = several(
        "-d --data",
        "Pictures in which the feature map's strongest activations are looked for. Repeatable. Default: none.",
        type=READ,
        metavar="PATH",
    )
    side: int | None = option(
        "--side",
        "Side of the square in the network's pixels. Default: a fifth of the picture's shorter side.",
        type=IntRange(1),
        metavar="N",
    )
    stride: int | None = option(
        "--stride", "Step of the square. Default: a third of its side.", type=IntRange(1), metavar="N"
    )
    fill: float = option(
        "--fill", "Gray value (0 to 255) of the square.", type=FloatRange(0, 255), default=127.0, metavar="GRAY"
    )
    policy: str = policy_option
    out: str | None = option("-o --out", "PNG file for the figure, or - for stdout.", type=WRITE_FILE, metavar="FILE")
    raw: str | None = option(
        "--raw",
        "Also write the maps as .npz: activation, probability and label of every picture.",
        type=WRITE_FILE,
        metavar="FILE",
    )
    labels: str | None = labels_option
    setup: Setup = group(Setup)
    form: str = format_option


@OcclusionOptions.command("occlusion")
def command(given: OcclusionOptions) -> None:
    """Hide parts of PICTURES with a gray square, and show what a feature map and the output say.

    A row per picture (Zeiler & Fergus 2014, figure 7): the picture, the total activation of the feature map for each
    place of the square, its projection, the probability of the class, and the most probable label. If the activation
    falls where the projection has the object, the feature map responds to the object.

    \b
    Example:
      onnx-analyzer occlusion model.onnx dog.jpg --data photos/ -o occlusion.png
    """
    from analyzer.attribution.occlusion import Occlusion, occlusion
    from analyzer.attribution.unit_views import view_units
    from analyzer.images import decode, write_npz, write_png
    from analyzer.report.occlusion import as_data, figure

    samples = given.inputs.samples()
    explainer, card = given.setup.load(given.model, given.labels)
    layer = given.layer or card.default_layer or "auto"
    progress = Progress(len(samples), "occlusion")
    how = given.side, given.stride, given.fill
    found, projected = dict[str, Occlusion](), {}
    for sample in samples:
        one = occlusion(explainer, decode(sample.source), card.feeds, given.target, layer, given.channel, *how)
        found[sample.id] = one
        if one.diagnosis:
            note(f"warning: {sample.id}: {one.diagnosis}")
        if given.out and given.policy != "none":
            feeds = card.feeds.feed(sample.source).feeds
            views = view_units(explainer, feeds, card.feeds, one.layer, [str(one.channel)], given.policy)
            projected[sample.id] = views.units[0]
        progress.step()
    patches = _patches(explainer, card.feeds, found, given) if given.data else None
    if given.out:
        titled = {Path(name).name: one for name, one in found.items()}
        views_of = {Path(name).name: unit for name, unit in projected.items()}
        write_png(given.out, figure(titled, views_of or None, patches))
    if given.raw:
        write_npz(given.raw, _arrays(found))
    rows = [as_data(name, one) for name, one in found.items()]
    written = [place for place in (given.out, given.raw) if place]
    finish(given.form, "occlusion", {"model": given.model, "pictures": rows}, [table(_cells(rows), _HEADER)], written)


_HEADER = ("picture", "target", "probability", "lowest", "labels", "channel", "activation", "lowest", "layer")


def _cells(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    keys = ("picture", "label", "probability", "lowest_probability", "labels", "channel", "activation")
    return [
        tuple(_text(row[key]) for key in (*keys, "lowest_activation", "layer"))
        for row in rows
    ]  # fmt: skip


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return str(len(value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _arrays(found: dict[str, Occlusion]) -> dict[str, Any]:
    """All maps; of several pictures with their names before."""
    prefix = (lambda name: "") if len(found) == 1 else (lambda name: f"{name}/")
    return {f"{prefix(name)}{key}": array for name, one in found.items() for key, array in one.arrays.items()}


def _patches(
    explainer: Explainer, feeding: Feeding, found: dict[str, Occlusion], given: OcclusionOptions
) -> dict[int, Any]:
    """{channel: its strongest activations in other pictures}"""
    from analyzer.data import find_pictures
    from analyzer.mining import mine
    from analyzer.mining.patches import collect_patches

    samples = find_pictures(given.data)
    progress = Progress(len(samples), "strongest activations")
    layers = {one.layer: sorted({o.channel for o in found.values() if o.layer == one.layer}) for one in found.values()}
    result = mine(explainer, samples, list(layers), feeding, 9, progress=progress.step)
    policy = None if given.policy == "none" else given.policy
    known = dict[int, Any]()
    for each in collect_patches(explainer, result, feeding, layers, policy):
        known |= each.channels
    return known
