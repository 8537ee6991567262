"""`methods`: the method table."""

from __future__ import annotations

import click

from analyzer.commands.common import print_json, table
from analyzer.commands.options import Formatted


@Formatted.command("methods")
def command(given: Formatted) -> None:
    """List all methods with their formulas, papers and options."""
    from analyzer.attribution.methods import METHODS

    found = METHODS.values()
    rows = [(m.name, m.kind, m.formula, m.paper) for m in found]
    if given.form == "json":
        names = ("name", "kind", "formula", "paper")
        entries = [dict(zip(names, r, strict=True)) for r in rows]
        print_json("methods", {"methods": [e | {"options": m.options} for e, m in zip(entries, found, strict=True)]})
    else:
        click.echo(table(rows, ("method", "kind", "formula", "paper")))
        options = [(m.name, ", ".join(f"{name}={value}" for name, value in m.options.items())) for m in found]
        click.echo("\n" + table([row for row in options if row[1]], ("method", "options, with their defaults")))
