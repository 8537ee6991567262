"""`doctor`: what is installed, which providers work, what to do where one does not."""

from __future__ import annotations

import click

from analyzer.commands.common import print_json, table
from analyzer.commands.options import Formatted


@Formatted.command("doctor")
def command(given: Formatted) -> int:
    """Show what is installed, which execution providers work, and how to fix CUDA if it does not."""
    from analyzer.errors import ProviderError
    from analyzer.runtime import diagnose
    from analyzer.runtime.installed import reinstall

    report = diagnose()
    if given.form == "json":
        print_json("doctor", vars(report))
    else:
        click.echo(table(sorted(report.versions.items()), ("package", "version")))
        if report.limits:
            click.echo(f"\nonnxruntime loads opset ≤ {report.limits['opset']} and IR ≤ {report.limits['ir']}\n")
        click.echo(table(list(report.providers.items()), ("execution provider", "state")))
        for problem in report.problems:
            click.echo(f"\nproblem: {problem}")
        for advice in report.advice:
            click.echo(f"\nadvice: {advice}")
    if report.problems:
        return 2
    if "works" not in report.providers.values():
        raise ProviderError("no execution provider works", reinstall("onnxruntime"))
    return 0
