"""`project`: what a unit responds to, carried back to pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from click import Choice

from analyzer.commands.common import finish, note, table
from analyzer.commands.options import (
    POLICIES,
    READ,
    WRITE_FILE,
    Given,
    Setup,
    argument,
    format_option,
    group,
    layer_option,
    model_argument,
    option,
    several,
)


class Project(Given):
    model: str = model_argument
    picture: str = argument(type=READ)
    layer: str | None = layer_option
    chosen: tuple[str, ...] = several(
        "-u --unit",
        "A channel's strongest activation, a unit, CHANNEL@all, or max; may be repeated.  [max]",
        metavar="CHANNEL[@y,x]",
    )
    policy: str = option("--policy", type=Choice(POLICIES), default="deconvnet")
    out: str | None = option("-o --out", "PNG to write: picture, projections, both close up.", type=WRITE_FILE)
    raw: str | None = option("--raw", "Also write the projections as .npy, (units, H, W, C).", type=WRITE_FILE)
    switches: str | None = option(
        "--switches", "Undo max-pooling by those of another picture, or of a .npz file.", type=READ
    )
    save_switches: str | None = option("--save-switches", "Write the picture's switches as .npz.", type=WRITE_FILE)
    setup: Setup = group(Setup)
    form: str = format_option


@Project.command("project")
def command(given: Project) -> None:
    """Project units of a layer back to the pixels of PICTURE, by a deconvnet or guided backpropagation.

    \b
    onnx-analyzer project model.onnx cat.jpg -l conv5 -u 17 -u 42@3,5 -o projection.png
    """
    import numpy as np

    from analyzer.analysis import receptive_field
    from analyzer.attribution.finite import say_not_finite
    from analyzer.attribution.projection import Projector, read_switches
    from analyzer.attribution.units import WHOLE, clipped, parse_unit, rgb
    from analyzer.images import decode, write_npy, write_png

    explainer, card = given.setup.load(given.model)
    picture, policy, out = given.picture, given.policy, given.out
    array, _ = card.preprocess.apply(decode(picture))
    layer = given.layer or card.default_layer or "auto"
    feeds = explainer.feeds(array)
    shapes = {name: a.shape for name, a in feeds.items()}
    switches = _switches(explainer, card, given.switches, layer) if given.switches else None
    projector = Projector(explainer, shapes, layer, policy, switches is not None)
    units = projector.units
    places = [parse_unit(units, text) for text in given.chosen or ("max",)]
    if given.save_switches:
        read_switches(explainer, array, layer).save(given.save_switches)
    fields = receptive_field(explainer.graph(shapes))
    seen = card.preprocess.undo(array[0])
    pixels, results, tiles, labels = [], [], [], []
    said = ""
    for channel, position in places:
        found = projector.run(feeds, channel, position, switches)
        said = said or say_not_finite(explainer, feeds, (found.pixels, found.activation), [units.name])
        pixels.append(rgb(found.pixels, found.axes, card.preprocess.channels)[0])
        unit, at = int(found.channel[0]), int(found.position[0])
        size = (seen.shape[0], seen.shape[1])
        window = tuple((0, s) for s in size) if at == WHOLE else units.window(fields, unit, at, size)
        rows, columns = clipped(window, size)
        result = {
            "channel": unit,
            "position": "all" if at == WHOLE else units.place(at),
            "activation": float(found.activation[0]),
            "receptive_field": [columns[0], rows[0], columns[1], rows[1]],
        }
        results.append(result)
        drawn, names = views(seen, pixels[-1], rows, columns, result)
        tiles += drawn
        labels += names
    if said:
        note(f"warning: {picture}: {said}")
    if out:
        from analyzer.images import grid

        write_png(out, grid(tiles, labels, 5, f"{policy} of {units.name}"))
    if given.raw:
        write_npy(given.raw, np.stack(pixels))
    written = [place for place in (out, given.raw, given.save_switches) if place]
    document: dict[str, Any] = {"model": given.model, "picture": picture}
    rows_text = [
        (r["channel"], _place(r["position"]), f"{r['activation']:.4g}", _box(r["receptive_field"])) for r in results
    ]
    shown = table(rows_text, ("channel", "y, x", "activation", "receptive field (x0 y0 x1 y1)"))
    document |= {"layer": units.name, "policy": policy, "units": results, "diagnosis": said or None}
    finish(given.form, "project", document, [f"{policy} of {units.name}", shown], written)


def _place(position: Any) -> str:
    return position if isinstance(position, str) else ", ".join(map(str, position))


def _box(box: Any) -> str:
    return " ".join(map(str, box))


def _switches(explainer: Any, card: Any, source: str, layer: str) -> Any:
    """The switches of a file, or of another picture."""
    from analyzer.attribution.projection import Switches, read_switches
    from analyzer.images import decode

    if Path(source).suffix == ".npz":
        return Switches.load(source)
    return read_switches(explainer, card.preprocess.apply(decode(source))[0], layer)


def views(seen: Any, pixels: Any, rows: Any, columns: Any, unit: dict[str, Any]) -> tuple[list[Any], list[str]]:
    """The picture with the unit's receptive field, the projection in colours and signed, and both close up."""
    from analyzer.images import draw_boxes, signed_view

    close = slice(*rows), slice(*columns)
    name = f"channel {unit['channel']}" + ("" if unit["position"] == "all" else f" at {_place(unit['position'])}")
    tiles = [
        draw_boxes(seen, [unit["receptive_field"]], [""]),
        signed_view(pixels, "normalised"),
        signed_view(pixels, "signed"),
        seen[close],
        signed_view(pixels[close], "normalised"),
    ]
    return tiles, [name, "projection", "signed sum", "close up", "close up"]
