"""`methods`: the method table."""

from __future__ import annotations

import click

from analyzer.commands import complete
from analyzer.commands.common import print_json, table
from analyzer.commands.options import Given, argument, format_option


class Methods(Given):
    names: tuple[str, ...] = argument(nargs=-1, shell_complete=complete.methods)
    form: str = format_option


@Methods.command("methods")
def command(given: Methods) -> None:
    """List methods with their formulas, papers and options.

    NAMES are methods, such as grad-cam. Default: all.
    """
    from analyzer.attribution.methods import METHODS, find_method

    found = [find_method(name, {}) for name in given.names] or list(METHODS.values())
    rows = [(m.name, m.kind, m.formula, m.paper) for m in found]
    if given.form == "json":
        names = ("name", "kind", "formula", "paper")
        entries = [dict(zip(names, r, strict=True)) for r in rows]
        print_json("methods", {"methods": [e | {"options": m.options} for e, m in zip(entries, found, strict=True)]})
        return
    click.echo(table(rows, ("method", "kind", "formula", "paper")))
    options = [(m.name, ", ".join(f"{name}={value}" for name, value in m.options.items())) for m in found if m.options]
    if options:
        click.echo("\n" + table(options, ("method", "options, with their defaults")))
