"""The command line: one command per file. A command parses, makes one call and prints.

stdout is data, stderr everything else. Exit codes: 0 ok, 1 findings, 2 usage, bad input or an environment that refuses
(a full disk, no temporary folder), 3 unsupported, 4 provider or runtime failure, 5 partial, 70 a bug of ours, 130
interrupted, 143 and 129 ended by SIGTERM and SIGHUP.
"""

from __future__ import annotations

import sys
from typing import Any

from analyzer.commands.names import COMMANDS


def main() -> None:
    """Run the command line, whatever happens: see `supervisor` and `boundary.run`."""
    try:
        if sys.argv[1:2] == ["run"]:  # the limits of the job are the supervisor's
            from analyzer.commands.run import expand

            expand()
        from analyzer.commands.supervisor import supervised

        code = supervised(_run)
    except KeyboardInterrupt:  # while that was imported, or a second one
        code = 130
    raise SystemExit(code)


def _run() -> int:
    from analyzer.commands.boundary import run

    return run()


def __getattr__(name: str) -> Any:
    """`cli`, imported when it is asked for: what is imported before `main` runs cannot be interrupted in order."""
    if name != "cli":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from analyzer.commands.group import cli

    return cli


__all__ = ["COMMANDS", "main"]
