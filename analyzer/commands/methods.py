"""`methods`: the method table."""

from __future__ import annotations

import click

from analyzer.commands.common import print_json, table
from analyzer.commands.options import Formatted


@Formatted.command("methods")
def command(given: Formatted) -> None:
    """List the methods with their formula and the paper they are from."""
    from analyzer.attribution.methods import METHODS

    found = METHODS.values()
    rows = [(m.name, m.kind, m.formula, m.paper) for m in found]
    if given.form == "json":
        names = ("name", "kind", "formula", "paper")
        entries = [dict(zip(names, r, strict=True)) for r in rows]
        print_json("methods", {"methods": [e | {"options": m.options} for e, m in zip(entries, found, strict=True)]})
    else:
        click.echo(table(rows, ("method", "kind", "formula", "paper")))
