"""`project`: what a unit responds to, carried back to pixels."""

from __future__ import annotations

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
    picture: str | None = argument(type=READ, required=False)
    layer: str | None = layer_option
    chosen: tuple[str, ...] = several(
        "-u --unit",
        "Unit to project: a channel (at its strongest position), CHANNEL@y,x, CHANNEL@all, or max for the strongest "
        "activation of the layer. Repeatable. Default: max.",
        metavar="UNIT",
    )
    policy: str = option(
        "--policy", "How to project activations back to pixels.", type=Choice(POLICIES), default="deconvnet"
    )
    out: str | None = option(
        "-o --out",
        "PNG file to write, or - for stdout: the picture, its projections, and both close up.",
        type=WRITE_FILE,
        metavar="FILE",
    )
    raw: str | None = option(
        "--raw", "Also write the projections as .npy, with shape (units, H, W, C).", type=WRITE_FILE, metavar="FILE"
    )
    switches: str | None = option(
        "--switches",
        "Reverse max-pooling with the switches of another picture, the mean ones of a folder, or a saved .npz file.",
        type=READ,
        metavar="FILE",
    )
    save_switches: str | None = option(
        "--save-switches", "Save the picture's max-pooling switches as .npz.", type=WRITE_FILE, metavar="FILE"
    )
    setup: Setup = group(Setup)
    form: str = format_option


@Project.command("project")
def command(given: Project) -> None:
    """Show which pixels of PICTURE activate a unit, by a deconvnet or guided backpropagation.

    Without PICTURE, a deconvnet shows what the weights alone say of a unit (Springenberg et al. 2014, section 4), if
    no max-pooling lies before it, or with --switches.

    \b
    Examples:
      onnx-analyzer project model.onnx cat.jpg -l conv5 -u 17 -o projection.png
      onnx-analyzer project model.onnx -u 17 --switches photos/ -o unit.png
    """
    from analyzer.attribution.projection import Switches, read_switches
    from analyzer.attribution.unit_views import switches_from, view_units
    from analyzer.data import find_pictures
    from analyzer.errors import InputError
    from analyzer.images import write_npy, write_png

    samples = find_pictures([given.picture]) if given.picture else []
    if len(samples) > 1:
        raise InputError(
            f"{given.picture}: {len(samples)} pictures, project takes a single one", "give the name of one picture"
        )
    model, card = given.setup.load(given.model)
    array = card.feeds.feed(samples[0].source).feeds if samples else None
    layer = given.layer or card.default_layer or "auto"
    switches = switches_from(model, card.feeds, given.switches, layer) if given.switches else None
    found = view_units(model, array, card.feeds, layer, given.chosen or ("max",), given.policy, switches)
    if given.save_switches:
        own = (switches or Switches({})) if array is None else read_switches(model, array, layer)
        own.save(given.save_switches)
    if found.diagnosis:
        note(f"warning: {samples[0].id}: {found.diagnosis}")
    if given.out:
        write_png(given.out, found.figure())
    if given.raw:
        write_npy(given.raw, found.pixels)
    written = [place for place in (given.out, given.raw, given.save_switches) if place]
    units = [
        {
            "channel": u.channel,
            "position": "all" if u.position is None else u.position,
            "activation": u.activation,
            "receptive_field": u.field,
        }
        for u in found.units
    ]
    document: dict[str, object] = {"model": given.model, "picture": samples[0].id if samples else None}
    rows = [(u.channel, u.place, f"{u.activation:.4g}", " ".join(map(str, u.field))) for u in found.units]
    shown = table(rows, ("channel", "y, x", "activation", "receptive field (x0 y0 x1 y1)"))
    document |= {"layer": found.layer, "policy": found.policy, "units": units, "diagnosis": found.diagnosis or None}
    finish(given.form, "project", document, [f"{found.policy} of {found.layer}", shown], written)
