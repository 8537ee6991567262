"""`methods`: the method table."""

import click

from analyzer.commands.common import format_option, print_json, table


@click.command(name="methods")
@format_option
def command(form: str) -> None:
    """List the methods with their formula and the paper they are from."""
    from analyzer.attribution.methods import METHODS

    found = METHODS.values()
    rows = [(m.name, m.kind, m.formula, m.paper) for m in found]
    if form == "json":
        names = ("name", "kind", "formula", "paper")
        entries = [dict(zip(names, r, strict=True)) for r in rows]
        print_json("methods", {"methods": [e | {"options": m.options} for e, m in zip(entries, found, strict=True)]})
    else:
        click.echo(table(rows, ("method", "kind", "formula", "paper")))
