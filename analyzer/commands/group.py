"""The group of all commands."""

from __future__ import annotations

import importlib

import click

from analyzer.commands.names import COMMANDS
from analyzer.commands.renamed import command_instead
from analyzer.docstrings import docstring
from analyzer.version import __version__


class Commands(click.Group):
    """Loads a command's module when it is asked for, so that `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"analyzer.commands.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`help COMMAND` is `COMMAND --help`, and `version` is `--version`."""
        if args[:1] == ["help"]:
            args = [*args[1:2], "--help"]
        try:
            return super().parse_args(ctx, ["--version"] if args == ["version"] else args)
        except click.NoSuchOption as error:
            raise command_instead(error, ctx) from None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from analyzer.errors import suggest

            hint = suggest(args[0], COMMANDS).capitalize()
            if args[0].lower().endswith(".onnx"):
                hint = f"Name a command first: onnx-analyzer explain {' '.join(args)}"
            raise click.UsageError(f"{error.message}{' ' + hint if hint else ''}", ctx) from None


# Color: click removes control sequences from what is no terminal; our streams show them (`plain.visible`).
@click.command(
    cls=Commands, context_settings={"color": True, "help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, "-V", "--version", prog_name="onnx-analyzer")
def cli() -> None:
    """Show what an ONNX vision model looks at, with no training framework.

    \b
    Shell completion for bash (for zsh: zsh_source), and for fish:
      eval "$(_ONNX_ANALYZER_COMPLETE=bash_source onnx-analyzer)"
      _ONNX_ANALYZER_COMPLETE=fish_source onnx-analyzer | source

    Commands run in a child process, so that a malformed model cannot crash the calling process or exhaust the
    machine's memory. For files you trust, --no-sandbox turns this off.

    \b
    Exit codes: 0 success, 1 findings (audit, compare), 2 bad usage or input,
    3 unsupported model or method, 4 provider or runtime failure, 5 some pictures
    failed, 70 internal error, 130 interrupted.
    """


if cli.callback:
    cli.help = docstring(cli.callback)
