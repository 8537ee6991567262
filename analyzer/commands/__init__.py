"""The command line: one command per file. A command parses, makes one call and prints.

stdout is data, stderr everything else. Exit codes: 0 ok, 1 findings, 2 usage or bad input, 3 unsupported, 4 provider
or runtime failure, 5 partial, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

COMMANDS = (
    "doctor",
    "inspect",
    "plan",
    "explain",
    "localize",
    "features",
    "receptive-field",
    "filters",
    "project",
    "dream",
    "invariance",
    "correspondence",
    "mine",
    "evolution",
    "compare",
    "record",
    "audit",
    "export",
    "ops",
    "methods",
)


class Commands(click.Group):
    """Loads a command's module when it is asked for, so that `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"analyzer.commands.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from analyzer.errors import suggest

            hint = suggest(args[0], COMMANDS)
            raise click.UsageError(f"{error.message}{' ' + hint if hint else ''}", ctx) from None


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="onnx-analyzer", prog_name="onnx-analyzer")
def cli() -> None:
    """See what an exported ONNX vision model looks at. No training framework needed: the .onnx file is enough.

    Shell completion: eval "$(_ONNX_ANALYZER_COMPLETE=bash_source onnx-analyzer)" (or zsh_source, fish_source).
    """


def main() -> None:
    """Run the command line; every error a user can cause is one sentence and an exit code."""
    from analyzer.errors import AnalyzerError

    try:
        code = cli.main(prog_name="onnx-analyzer", standalone_mode=False)
    except AnalyzerError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except MemoryError:
        click.echo("error: out of memory\n  hint: use a smaller batch or picture, or fix the input's --shape", err=True)
        sys.exit(4)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)
