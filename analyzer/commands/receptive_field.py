"""`receptive-field`: which pixels a unit can see."""

from __future__ import annotations

from typing import Any

import click

from analyzer.commands.common import parse_shapes, print_json, table
from analyzer.commands.options import Given, format_option, layer_option, model_argument, option, shape_option


class ReceptiveField(Given):
    model: str = model_argument
    layer: str | None = layer_option
    everything: bool = option("--all", "Every tensor, not one per size of the receptive field.", is_flag=True)
    verify: bool = option("--verify", "Prove it: compare with the support of a gradient.", is_flag=True)
    shapes: tuple[str, ...] = shape_option
    form: str = format_option


@ReceptiveField.command("receptive-field")
def command(given: ReceptiveField) -> None:
    """Show size, effective stride and effective padding of the receptive field of each feature map."""
    from analyzer.analysis import receptive_field
    from analyzer.attribution import Explainer
    from analyzer.attribution.support import verify_receptive_field
    from analyzer.graph.query import find_tensors

    explainer = Explainer(given.model)
    sizes = parse_shapes(given.shapes, explainer.plain.inputs)
    graph = explainer.graph(sizes)
    fields = receptive_field(graph)
    names = list(fields)
    if given.layer:
        names = [v.name for v in find_tensors(graph, given.layer) if v.name in fields]
    elif not given.everything:
        names = _changes(fields, names)
    rows = [row(name, fields[name]) for name in names]
    proofs = {n: verify_receptive_field(explainer, n, fields[n]) for n in names} if given.verify else {}
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
        click.echo(f"pixels of {fields.input!r} that a unit depends on")
        click.echo(table(cells, header))
        if any("unaligned" in r["remark"] for r in rows):
            click.echo("unaligned: branches met, there or before, whose strides or centres differ")
        for line in _unknown_lines(fields.unknown):
            click.echo(line)


def _unknown_lines(unknown: dict[str, tuple[str, ...]]) -> list[str]:
    """One line per operator that hides receptive fields."""
    hidden: dict[str, list[str]] = {}
    for tensor, operators in unknown.items():
        for operator in operators:
            hidden.setdefault(operator, []).append(tensor)
    return [f"unknown: {op} hides {len(t)} tensors, {t[0]!r} first" for op, t in list(hidden.items())[:10]]


def row(name: str, field: Any) -> dict[str, Any]:
    """A receptive field as plain data."""
    remarks = []
    if field.is_global:
        remarks.append("global")
    elif not field.exact:
        remarks.append("upper bound")
    if not field.is_global and not field.aligned:
        remarks.append("unaligned")
    return {
        "tensor": name,
        "size": None if field.size is None else [_number(s) for s in field.size],
        "stride": None if field.stride is None else [_number(s) for s in field.stride],
        "padding": None if field.padding is None else [_number(p) for p in field.padding],
        "is_global": field.is_global,
        "remark": ", ".join(remarks),
    }


def _number(value: Any) -> Any:
    return None if value is None else int(value) if value == int(value) else str(value)


def _text(values: Any, none: str = "all") -> str:
    if not values:
        return "–" if none != "all" else none
    return "×".join(none if v is None else str(v) for v in values) if set(values) != {None} else none


def _changes(fields: Any, names: list[str]) -> list[str]:
    """The last tensor of each run with the same receptive field."""
    kept = []
    for i, name in enumerate(names):
        following = fields[names[i + 1]] if i + 1 < len(names) else None
        now = fields[name]
        if following is None or (now.size, now.stride, now.is_global) != (
            following.size,
            following.stride,
            following.is_global,
        ):
            kept.append(name)
    return kept
