"""`methods`: the method table."""

import click

from analyzer.commands.common import format_option, print_json, table


@click.command(name="methods")
@format_option
def command(form: str) -> None:
    """List the methods with their formula and the paper they are from."""
    from analyzer.attribution.registry import all_methods

    rows = [(m.name, m.kind, m.formula, m.paper) for m in all_methods().values()]
    if form == "json":
        names = ("name", "kind", "formula", "paper")
        print_json("methods", {"methods": [dict(zip(names, r, strict=True)) for r in rows]})
    else:
        click.echo(table(rows, ("method", "kind", "formula", "paper")))
