"""`receptive-field`: which pixels a unit can see, and how much each of them matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click import Choice

from analyzer.commands import complete
from analyzer.commands.common import (
    Progress,
    failed_as_data,
    note,
    parse_shapes,
    print_json,
    say_written,
    table,
    tell_left_out,
)
from analyzer.commands.options import (
    WRITE_FILE,
    DataSet,
    Given,
    IntRange,
    OverPictures,
    Setup,
    format_option,
    group,
    model_argument,
    option,
    seed_option,
    shape_option,
)

if TYPE_CHECKING:
    from analyzer.analysis import ReceptiveFields
    from analyzer.analysis.effective_field import EffectiveField
    from analyzer.attribution import Explainer
    from analyzer.data import Sample
    from analyzer.graph import Graph
    from analyzer.images import Feeding
    from analyzer.passes import Outcome


class Place(click.ParamType):
    """A position in a feature map: `Y,X`."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a position; write Y,X, such as 6,6", param, ctx)


class ReceptiveField(Given):
    model: str = model_argument
    inputs: DataSet = group(DataSet)
    layer: str | None = option(
        "-l --layer",
        "Show only these: tensor or node name, or a glob.",
        metavar="LAYER",
        shell_complete=complete.layers,
    )
    everything: bool = option("--all", "List all tensors, not only the last of each receptive field.", is_flag=True)
    verify: bool = option("--verify", "Verify each receptive field against the support of a gradient.", is_flag=True)
    effective: bool = option(
        "--effective",
        "Measure the effective receptive field on the pictures: the mean gradient of units. Default layers: up to 12, "
        "evenly over the depth.",
        is_flag=True,
    )
    at: tuple[int, ...] | None = option(
        "--at",
        "Position of the unit in its layer. Default: the middle one; with --effective, see --positions.",
        type=Place(),
        metavar="Y,X",
    )
    positions: int = option(
        "--positions",
        "Units measured per layer and picture, drawn from those that see all of their field.",
        type=IntRange(1),
        default=4,
        metavar="N",
    )
    measure: str = option("--measure", "Gradient to average.", type=Choice(["squared", "absolute"]), default="squared")
    seed: int = seed_option
    out: str | None = option(
        "-o --out",
        "PNG file to write, or - for stdout: the fields on the first picture, or with --effective the measured ones.",
        type=WRITE_FILE,
        metavar="FILE",
    )
    raw: str | None = option(
        "--raw", "Also write the maps of --effective as .npz, one per layer.", type=WRITE_FILE, metavar="FILE"
    )
    shapes: tuple[str, ...] = shape_option
    over: OverPictures = group(OverPictures)
    setup: Setup = group(Setup)
    form: str = format_option


@ReceptiveField.command("receptive-field")
def command(given: ReceptiveField) -> int:
    """Show the size, effective stride and effective padding of each feature map's receptive field; draw it.

    With --effective, measure which part of it matters (Luo et al. 2016): the mean gradient of units over PICTURES,
    its width 4σ, and its share inside the middle of the theoretical field.

    \b
    Examples:
      onnx-analyzer receptive-field model.onnx
      onnx-analyzer receptive-field model.onnx cat.jpg -l conv4 -o field.png
      onnx-analyzer receptive-field model.onnx --effective photos/ -o f.png
    """
    from analyzer.analysis import receptive_field
    from analyzer.attribution import Explainer
    from analyzer.errors import InputError

    if given.effective and given.verify:
        raise InputError("--verify checks theoretical receptive fields, --effective measures them", "give one of both")
    if given.raw and not given.effective:
        raise InputError("--raw writes effective receptive fields", "add --effective")
    samples, feeding = list[Any](), None
    if given.inputs.sources or given.effective:
        samples = given.inputs.samples()
        explainer, card = given.setup.load(given.model, many=given.effective and len(samples) > 1)
        feeding = card.feeds
        samples = given.inputs.opened(samples, feeding)
        sizes = _sizes(samples, feeding)
    else:
        explainer = Explainer(given.model, given.setup.provider, **given.setup.session.keywords(given.setup.provider))
        sizes = parse_shapes(given.shapes, explainer.plain.inputs)
    graph = explainer.graph(sizes)
    fields = receptive_field(graph)
    if given.effective:
        assert feeding is not None
        done = _measured(given, explainer, feeding, samples, sizes)
        names, failed = list(done.result), done.failed
    else:
        done, failed, names = None, {}, _names(given, graph, fields)
    rows = _rows(given, explainer, fields, names, {} if done is None else done.result)
    used = [s for s in samples if s.id not in failed]
    written = _written(given, explainer, graph, fields, used, feeding, {} if done is None else done.result)
    if given.form == "json":
        document = {"model": given.model, "input": fields.input, "tensors": rows, "unknown": fields.unknown}
        print_json("receptive-field", {**document, "failed": failed_as_data(failed), "written": written})
    elif given.effective:
        click.echo(f"effective receptive fields, mean {given.measure} gradient of units, pixels of {fields.input!r}")
        _print_effective(rows)
    else:
        _print_theoretical(given, rows, fields)
    if given.form != "json":
        for place in written:
            say_written(place)
    return given.over.engine.code(len(failed), len(samples))


def _names(given: ReceptiveField, graph: Graph, fields: ReceptiveFields) -> list[str]:
    """The tensors to list."""
    from analyzer.analysis.receptive_field import changes
    from analyzer.graph.query import find_tensors

    if given.layer:
        return [v.name for v in find_tensors(graph, given.layer) if v.name in fields]
    return list(fields) if given.everything else changes(fields, list(fields))


def _sizes(samples: Sequence[Sample], feeding: Feeding) -> dict[str, tuple[int, ...]]:
    """{input: sizes} that the first picture gives."""
    from analyzer.attribution.cards import first_shapes

    return first_shapes(samples, [feeding])[0]


def _rows(
    given: ReceptiveField,
    explainer: Explainer,
    fields: ReceptiveFields,
    names: Sequence[str],
    effective: Mapping[str, EffectiveField],
) -> list[dict[str, Any]]:
    """A row per tensor, with what --verify and --effective found."""
    from analyzer.attribution.support import verify_receptive_field
    from analyzer.report.receptive_field import effective_row, row, unknown_row

    rows, progress = [], Progress(len(names), "verify")
    for name in names:
        made = row(name, fields[name]) if name in fields else unknown_row(name)
        if given.verify:
            made["verified"] = verify_receptive_field(explainer, name, fields[name])
            progress.step()
        if name in effective:
            made["effective"] = effective_row(effective[name])
        rows.append(made)
    return rows


def _measured(
    given: ReceptiveField,
    explainer: Explainer,
    feeding: Feeding,
    samples: Sequence[Sample],
    sizes: Mapping[str, tuple[int, ...]],
) -> Outcome:
    """The effective fields over all pictures."""
    from analyzer.passes import run
    from analyzer.passes.effective_fields import MeasuringFields

    layers = given.layer or ("*" if given.everything else None)
    how: Any = given.positions, given.measure, given.seed, given.at
    work = MeasuringFields(explainer, feeding, sizes, layers, *how)
    count = len(work.meter.layers)
    progress, pictures = Progress(len(samples) * count, "receptive-field"), 0

    def whole(more: int) -> None:
        """Pictures that were done before, or failed, count as well."""
        nonlocal pictures
        pictures += more
        progress.step(max(0, pictures * count - progress.done))

    work.progress = progress.step
    try:
        done = run(work, samples, **{**given.over.keywords(None, progress), "progress": whole})
    except KeyboardInterrupt:
        work.meter.stopped = True  # a picture may take minutes, and threads are waited for at the end
        raise
    tell_left_out(done)
    for name, field in done.result.items():
        if field.broken:
            note(f"warning: {name}: {field.broken} gradients with NaN or infinity were left out")
        elif field.empty:
            note(f"warning: {name}: every gradient is 0; choose another layer, or more --positions")
    return done


def _written(
    given: ReceptiveField,
    explainer: Explainer,
    graph: Graph,
    fields: ReceptiveFields,
    samples: Sequence[Sample],
    feeding: Feeding | None,
    effective: Mapping[str, EffectiveField],
) -> list[str]:
    """Files that were written."""
    from analyzer.api.fields import draw_layers
    from analyzer.attribution.field_views import EffectiveFields, picture_of
    from analyzer.images import write_npz, write_png

    if given.out and effective:
        write_png(given.out, EffectiveFields(effective).figure())
    elif given.out:
        size, seen = picture_of(explainer, graph, fields, feeding, samples[0].source if samples else None)
        write_png(given.out, draw_layers(graph, fields, given.layer, given.at, size, seen))
    if given.raw:
        write_npz(given.raw, {name: field.map for name, field in effective.items()})
    return [place for place in (given.out, given.raw) if place]


def _print_effective(rows: Sequence[dict[str, Any]]) -> None:
    """A line per layer: both sizes, their ratio, shares of the middle."""
    from analyzer.attribution.field_views import times

    cells = []
    for r in rows:
        e = r["effective"]
        shares = [f"{s:.0%}" for s in e["inside"].values()] if e["inside"] else []
        known = e["ratio"] == e["ratio"]
        size = times(e["size"]) if known else "–"
        cells.append(
            [times(e["window"]) + (" (whole)" if r["is_global"] else ""), size, f"{e['ratio']:.0%}" if known else "–"]
            + [s if known else "–" for s in shares]
            + [f"{e['units']}", f"{e['cut']}", r["tensor"]]
        )
    inside = [f"inside {f}" for f in rows[0]["effective"]["inside"]] if rows else []
    click.echo(table(cells, ["theoretical", "4σ", "ratio", *inside, "units", "cut", "tensor"]))
    click.echo("inside: share in the middle of the theoretical field; cut: units whose field leaves the picture")


def _print_theoretical(given: ReceptiveField, rows: Sequence[dict[str, Any]], fields: ReceptiveFields) -> None:
    header = ["size", "stride", "padding", *(["verified"] if given.verify else []), "", "tensor"]
    cells = [
        [_text(r["size"]), _text(r["stride"], "varies"), _text(r["padding"], "varies")]
        + ([r["verified"]] if given.verify else [])
        + [r["remark"], r["tensor"]]
        for r in rows
    ]
    click.echo(f"receptive fields in pixels of the input {fields.input!r}")
    click.echo(table(cells, header))
    if any("unaligned" in r["remark"] for r in rows):
        click.echo("unaligned: joins branches, here or before, whose strides or centers differ")
    for line in _unknown_lines(fields.unknown):
        click.echo(line)


def _unknown_lines(unknown: dict[str, tuple[str, ...]]) -> list[str]:
    """One line per operator that hides receptive fields."""
    hidden: dict[str, list[str]] = {}
    for tensor, operators in unknown.items():
        for operator in operators:
            hidden.setdefault(operator, []).append(tensor)
    return [f"unknown after {op}: {len(t)} tensors, from {t[0]!r} on" for op, t in list(hidden.items())[:10]]


def _text(values: Sequence[int | str | None] | None, none: str = "all") -> str:
    if not values:
        return "–" if none != "all" else none
    return "×".join(none if v is None else str(v) for v in values) if set(values) != {None} else none
