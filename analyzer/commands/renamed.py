"""Options under their earlier names, and under the names that other tools give them."""

from __future__ import annotations

from collections.abc import Mapping

import click

# What other tools call an option, and what is typed here: the first whose option the command has is suggested.
ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("--class", "--class-id", "--cls", "--category", "--label"), ("--target",)),
    **dict.fromkeys(("--topk", "--top-k"), ("--top",)),
    **dict.fromkeys(("--device", "--gpu", "--cuda"), ("--provider",)),
    **dict.fromkeys(("--output-dir", "--outdir", "--out-dir", "--save", "--show", "-o"), ("--out", "--report")),
    **dict.fromkeys(("--imgsz", "--img-size", "--image-size", "--input-size"), ("--size",)),
    **dict.fromkeys(("--batch-size", "-b"), ("--batch", "--workers")),
    **dict.fromkeys(("--jobs", "-j"), ("--workers",)),
    **dict.fromkeys(("--json", "--csv"), ("--format json",)),
    **dict.fromkeys(("--output-format", "-f"), ("--format",)),
    "--html": ("--report FILE.html",),
    "--cmap": ("--colormap",),
    "--opacity": ("--alpha",),
    "--limit-of": ("--threshold",),
    "--dataset": ("--data",),
}
# What other tools have as an option and is a command here.
COMMANDS = {
    "--version": "onnx-analyzer --version",
    "-V": "onnx-analyzer --version",
    "--list-methods": "onnx-analyzer methods",
    "--list-layers": "onnx-analyzer inspect MODEL --all",
    "--layers": "onnx-analyzer inspect MODEL --all",
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
        if name in COMMANDS:
            return command_instead(error, ctx)
        for typed in ELSEWHERE.get(name, ()):
            if typed.split()[0] in mine:
                return click.UsageError(f"No such option: {name}. Use {typed} instead.", ctx)
        if name in POSITIONAL:
            order = " ".join(arguments_of(ctx))
            return click.UsageError(f"No such option: {name}. Give files as arguments: {order}.", ctx)
        return error


def command_instead(error: click.NoSuchOption, ctx: click.Context) -> click.UsageError:
    """The error, with the command that does what the option does in other tools."""
    name = error.option_name
    return click.UsageError(f"No such option: {name}. Run '{COMMANDS[name]}'.", ctx) if name in COMMANDS else error
