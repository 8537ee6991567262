"""`ops`: the operator table."""

from __future__ import annotations

import click

from analyzer.commands import complete
from analyzer.commands.common import print_json, table
from analyzer.commands.options import Given, argument, format_option


class Ops(Given):
    names: tuple[str, ...] = argument(nargs=-1, shell_complete=complete.operators)
    form: str = format_option


@Ops.command("ops")
def command(given: Ops) -> None:
    """Show how each ONNX operator is differentiated: by a rule, by its function body, or not at all.

    NAMES are operators, such as Conv. Default: all."""
    from analyzer.errors import NotFoundError, suggest
    from analyzer.gradient.catalog import catalog

    rows = catalog()
    for name in given.names:
        if name not in {r.op for r in rows}:
            raise NotFoundError(f"no operator {name!r}", suggest(name, [r.op for r in rows]))
    rows = [r for r in rows if not given.names or r.op in given.names]
    if given.form == "json":
        print_json("ops", {"operators": [vars(r) for r in rows]})
        return
    label = [(f"{r.domain}::{r.op}" if r.domain else r.op, r.status, r.detail) for r in rows]
    click.echo(table(label, ("operator", "status", "")))
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    click.echo("\n" + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
