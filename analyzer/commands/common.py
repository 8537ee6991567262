"""Options and printing that commands share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from analyzer.files import claim, protect

SCHEMA_VERSION = 1


class InputPath(click.Path):
    """A file or folder that the command reads: none of its outputs may replace it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        protect(value)
        return super().convert(value, param, ctx)


class OutputPath(click.Path):
    """A file that the command writes, or a folder for such files: `file_okay`, `dir_okay`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("the name is empty", param, ctx)
        if self.dir_okay and self.file_okay:
            return value  # which of the two shows later: `destinations` claims the files
        path = super().convert(value, param, ctx)
        if self.file_okay:
            claim(path)
        return path


model_argument = click.argument("model", type=InputPath(dir_okay=False))
format_option = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", help="What stdout holds."
)
layer_option = click.option(
    "-l", "--layer", default=None, help="Tensor or node of the file, or a glob; found by itself when left out."
)
provider_option = click.option("-p", "--provider", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or auto.")
session_options = (
    click.option("--allow-fallback", is_flag=True, help="Let nodes without a GPU kernel run on the CPU."),
    click.option("--threads", type=click.IntRange(1), help="Threads of the CPU provider."),
    click.option(
        "--memory-limit", type=click.FloatRange(0, min_open=True), help="GiB of GPU memory for a session (CUDA)."
    ),
)
store_option = click.option(
    "--store", type=OutputPath(file_okay=False), help="Folder that keeps results: a run that was cut off goes on."
)
shape_option = click.option(
    "--shape", "shapes", multiple=True, metavar="[NAME:]1x3x224x224", help="Fixes the symbolic sizes of an input."
)
preprocess_options = (
    click.option("--preset", help="Pixel normalisation: imagenet, 0-1, -1-1, caffe, raw or clip."),
    click.option("--mean", help="Means per channel, comma-separated, after scaling."),
    click.option("--std", help="Standard deviations per channel, comma-separated."),
    click.option("--scale", type=float, help="What pixels (0–255) are multiplied by first."),
    click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="Order of the input's axes."),
    click.option("--channels", type=click.Choice(["RGB", "BGR", "GRAY"]), help="Order of the input's channels."),
    click.option("--size", help="Height and width, as 224x224, where the file leaves them open."),
    click.option("--resize", type=click.Choice(["resize", "crop", "letterbox"]), help="How pictures are fitted."),
)


def stacked(options: Sequence[Callable]) -> Callable:
    """All of `options` as one decorator, shown in their order."""

    def decorate(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def with_session(command: Callable) -> Callable:
    """Adds `session_options`; the command gets them as `session`, keyword arguments for an Explainer.

    These name the user's cache of rewritten graphs as well.
    """

    @functools.wraps(command)
    def given(*args: Any, allow_fallback: bool, threads: int | None, memory_limit: float | None, **others: Any) -> Any:
        from analyzer.store import user_cache

        limit = None if memory_limit is None else int(memory_limit * 2**30)
        session = {"allow_fallback": allow_fallback, "threads": threads, "memory_limit": limit, "cache": user_cache()}
        return command(*args, session=session, **others)

    return stacked(session_options)(given)


def parse_shapes(shapes: Sequence[str], inputs: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    """{input: sizes} from `NAME:1x3x224x224`; the name may be left out for the first input.

    An input of which only the batch is open, and that is not named, has a batch of 1.
    """
    from analyzer.errors import InputError
    from analyzer.graph.query import single_batch

    found = single_batch(inputs)
    for text in shapes:
        name, _, sizes = text.rpartition(":")
        parts = sizes.lower().replace(",", "x").split("x")
        if not all(p.isdigit() and int(p) > 0 for p in parts):
            raise InputError(f"--shape {text!r} is not a list of sizes", "write it as input:1x3x224x224")
        found[name or inputs[0].name] = tuple(int(p) for p in parts)
    return found


def parse_options(given: Sequence[str]) -> dict[str, Any]:
    """{name: value} from `NAME=VALUE`; numbers and true/false are read as such."""
    from analyzer.errors import InputError

    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"-O {text!r} is not NAME=VALUE", "write for example -O patch=32; see docs/methods.md")
        found[name.strip().replace("-", "_")] = _plain_value(value.strip())
    return found


def _plain_value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def print_json(kind: str, content: dict[str, Any]) -> None:
    """One document on stdout."""
    from analyzer import __version__
    from analyzer.plain import as_json

    document = {"schema_version": SCHEMA_VERSION, "kind": kind, "onnx_analyzer": __version__, **content}
    escaped = "utf" not in (getattr(sys.stdout, "encoding", None) or "").lower()
    click.echo(as_json(document, indent=2, sort_keys=True, ensure_ascii=escaped))


def note(text: str) -> None:
    """A line for the person, on stderr."""
    click.echo(text, err=True)


def tell_doubt(doubt: str, told: str) -> str:
    """Warns that a class may be none, unless that was told of the picture before; what has been told."""
    if doubt and doubt != told:
        note(f"warning: {doubt}")
    return doubt or told


def table(rows: Sequence[Sequence[Any]], header: Sequence[str] = ()) -> str:
    """Columns padded to their widest cell."""
    cells = [[str(c) for c in row] for row in ([header, *rows] if header else rows)]
    if not cells:
        return ""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    if header:
        lines.insert(1, "  ".join("─" * w for w in widths))
    return "\n".join(lines)


def shape_text(shape: Sequence[Any] | None) -> str:
    """[N, 3, 224, 224], with ? for what is not known."""
    if shape is None:
        return "unknown"
    return "[" + ", ".join("?" if d is None or str(d).startswith("unk__") else str(d) for d in shape) + "]"


class Progress:
    """A bar on stderr where that is a terminal, nothing elsewhere."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what, self.done = total, what, 0
        self.terminal = sys.stderr.isatty()

    def step(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        if count and self.total > 1 and self.terminal:
            draw_bar(self.what, self.done, self.total)


def draw_bar(what: str, done: int, total: int) -> None:
    """Over the bar before it, on stderr; the line ends with the last one."""
    filled = 24 * done // total
    click.echo(f"\r{what} {'█' * filled}{'·' * (24 - filled)} {done}/{total}", nl=done == total, err=True)


def each_picture(
    what: str, pictures: Sequence[str], work: Callable[[str], Any], strict: Callable[[], bool] = lambda: False
) -> tuple[list[Any], list[dict[str, str]]]:
    """What `work` gives for every picture, and those that could not be used, which are told on stderr as they come.

    A single picture's error is raised, so is any while `strict()` holds, and that of an output that cannot be written.
    """
    from analyzer.errors import AnalyzerError, OutputError

    results, failed = [], []
    progress = Progress(len(pictures), what)
    for picture in pictures:
        try:
            results.append(work(picture))
        except AnalyzerError as error:
            if len(pictures) == 1 or strict() or isinstance(error, OutputError):
                raise
            failed.append({"picture": picture, "error": error.message})
            note(f"error: {picture}: {error}")
        progress.step()
    return results, failed


class RunProgress:
    """A bar on stderr, where that is a terminal, for methods that run the model for more than a second."""

    PATIENCE = 1.0

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.start = 0.0
        self.shown = False

    def __call__(self, method: str, done: int, total: int) -> None:
        if not self.terminal:
            return
        import time

        if not done:
            self.start, self.shown = time.monotonic(), False
        if time.monotonic() - self.start > self.PATIENCE and total > 1:
            self.shown = True
        if self.shown:
            draw_bar(method, done, total)
