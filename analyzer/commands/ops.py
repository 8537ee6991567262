"""`ops`: the operator table."""

from __future__ import annotations

import click

from analyzer.commands.common import format_option, print_json, table


@click.command(name="ops")
@click.argument("names", nargs=-1)
@format_option
def command(names: tuple[str, ...], form: str) -> None:
    """Show how operators are differentiated: by a rule, by their function body, or not at all and why."""
    from analyzer.errors import NotFoundError, suggest
    from analyzer.gradient.catalog import catalog

    rows = catalog()
    for name in names:
        if name not in {r.op for r in rows}:
            raise NotFoundError(f"no operator {name!r}", suggest(name, [r.op for r in rows]))
    rows = [r for r in rows if not names or r.op in names]
    if form == "json":
        print_json("ops", {"operators": [vars(r) for r in rows]})
        return
    label = [(f"{r.domain}::{r.op}" if r.domain else r.op, r.status, r.detail) for r in rows]
    click.echo(table(label, ("operator", "status", "")))
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    click.echo("\n" + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
