"""`-o -`: a result that is a file goes to stdout, and everything else to stderr."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import click


class ToStdout(str):
    """The path of a temporary file whose bytes go to stdout when the command ends."""


def to_stdout(context: click.Context) -> ToStdout:
    """A file for the one result that goes to stdout.

    Raises:
        UsageError: there is one already.
    """
    if "stdout" in context.meta:
        raise click.UsageError("only one result can go to stdout; name a file for the others", context)
    folder = tempfile.mkdtemp(prefix="onnx-analyzer-")
    context.call_on_close(lambda: shutil.rmtree(folder, ignore_errors=True))
    context.meta["stdout"] = found = ToStdout(Path(folder) / "stdout.png")
    return found


def is_stdout(place: str | Path) -> bool:
    """Whether a file is the one that goes to stdout."""
    context = click.get_current_context(silent=True)
    return context is not None and str(place) == context.meta.get("stdout")


def through_stdout(work: Callable[[], int | None], form: str) -> int | None:
    """Run a command; where one of its results goes to stdout, what it prints goes to stderr.

    Raises:
        UsageError: a document was asked for on stdout as well.
    """
    place = click.get_current_context().meta.get("stdout")
    if place is None:
        return work()
    if form != "text":
        raise click.UsageError(f"--format {form} and - both write to stdout; name a file for one of them")
    with redirect_stdout(sys.stderr):
        code = work()
    if Path(place).exists():
        sys.stdout.flush()
        try:
            sys.stdout.buffer.write(Path(place).read_bytes())
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            pass  # nobody reads any more
    return code
