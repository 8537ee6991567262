"""Options under their earlier names, and under the names that other tools give them."""

from __future__ import annotations

from collections.abc import Mapping

import click

# What other tools call an option, and what it is here; only what the command has is suggested.
ELSEWHERE = {
    "--class": "--target",
    "--class-id": "--target",
    "--cls": "--target",
    "--category": "--target",
    "--label": "--target",
    "--topk": "--top",
    "--top-k": "--top",
    "--device": "--provider",
    "--gpu": "--provider",
    "--cuda": "--provider",
    "--cmap": "--colormap",
    "--opacity": "--alpha",
    "--output-dir": "--out",
    "--outdir": "--out",
    "--out-dir": "--out",
    "--save": "--out",
    "--imgsz": "--size",
    "--img-size": "--size",
    "--image-size": "--size",
    "--input-size": "--size",
    "--batch-size": "--batch",
    "--jobs": "--workers",
    "-j": "--workers",
    "--json": "--format",
    "--output-format": "--format",
    "--limit-of": "--threshold",
    "--dataset": "--data",
}
POSITIONAL = ("--image", "--images", "--picture", "--pictures", "--img", "-i", "--model", "--source")


def arguments_of(context: click.Context) -> list[str]:
    """The positional arguments of the command, as its usage line has them."""
    return context.command.collect_usage_pieces(context)[1:]


class Command(click.Command):
    """A command whose options may have earlier names, `renamed`: {earlier: name}."""

    renamed: Mapping[str, str] = {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, self._current(args))
        except click.NoSuchOption as error:
            raise self._explained(error, ctx) from None

    def _current(self, args: list[str]) -> list[str]:
        """The arguments with today's names."""
        found = list(args)
        for place, text in enumerate(args):
            if text == "--":
                break
            name, equals, value = text.partition("=")
            if len(name) > 2 and name[0] == "-" != name[1] and name[:2] in self.renamed:  # -iVALUE
                name, equals, value = text[:2], "=", text[2:]
            if name in self.renamed:
                now = self.renamed[name]
                found[place] = now + equals + value
                click.echo(f"note: {name} is deprecated, use {now}", err=True)
        return found

    def _explained(self, error: click.NoSuchOption, ctx: click.Context) -> click.UsageError:
        """The error with a suggestion for a name that other tools use."""
        name = error.option_name
        mine = {flag for parameter in self.params for flag in parameter.opts}
        if name == "--version":
            return click.UsageError(f"No such option: {name}. Run 'onnx-analyzer --version'.", ctx)
        if ELSEWHERE.get(name) in mine:
            value = " json" if name == "--json" else ""
            return click.UsageError(f"No such option: {name}. Use {ELSEWHERE[name]}{value} instead.", ctx)
        if name in POSITIONAL:
            order = " ".join(arguments_of(ctx))
            return click.UsageError(f"No such option: {name}. Give files as arguments: {order}.", ctx)
        return error
