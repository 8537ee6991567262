"""`receptive-field`: which pixels a unit can see."""

from __future__ import annotations

from collections.abc import Sequence

import click

from analyzer.commands import complete
from analyzer.commands.common import Progress, parse_shapes, print_json, table
from analyzer.commands.options import Given, format_option, model_argument, option, shape_option


class ReceptiveField(Given):
    model: str = model_argument
    layer: str | None = option(
        "-l --layer",
        "Show only these: tensor or node name, or a glob.",
        metavar="LAYER",
        shell_complete=complete.layers,
    )
    everything: bool = option("--all", "List all tensors, not only the last of each receptive field.", is_flag=True)
    verify: bool = option("--verify", "Verify each receptive field against the support of a gradient.", is_flag=True)
    shapes: tuple[str, ...] = shape_option
    form: str = format_option


@ReceptiveField.command("receptive-field")
def command(given: ReceptiveField) -> None:
    """Show the size, effective stride and effective padding of each feature map's receptive field."""
    from analyzer.analysis import receptive_field
    from analyzer.attribution import Explainer
    from analyzer.attribution.support import verify_receptive_field
    from analyzer.graph.query import find_tensors
    from analyzer.report.receptive_field import changes, row

    explainer = Explainer(given.model)
    sizes = parse_shapes(given.shapes, explainer.plain.inputs)
    graph = explainer.graph(sizes)
    fields = receptive_field(graph)
    names = list(fields)
    if given.layer:
        names = [v.name for v in find_tensors(graph, given.layer) if v.name in fields]
    elif not given.everything:
        names = changes(fields, names)
    rows = [row(name, fields[name]) for name in names]
    proofs, progress = {}, Progress(len(names), "verify")
    for name in names if given.verify else ():
        proofs[name] = verify_receptive_field(explainer, name, fields[name])
        progress.step()
    for r in rows:
        if r["tensor"] in proofs:
            r["verified"] = proofs[r["tensor"]]
    if given.form == "json":
        print_json("receptive-field", {"input": fields.input, "tensors": rows, "unknown": fields.unknown})
    else:
        header = ["size", "stride", "padding", *(["verified"] if given.verify else []), "", "tensor"]
        cells = [
            [_text(r["size"]), _text(r["stride"], "varies"), _text(r["padding"], "varies")]
            + ([r.get("verified", "")] if given.verify else [])
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
