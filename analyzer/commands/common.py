"""Parsing and printing that commands share."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from analyzer.commands.stdout import is_stdout
from analyzer.commands.uploads import addressed
from analyzer.heartbeat import alive
from analyzer.plain import visible
from analyzer.version import JSON_SCHEMA, __version__

if TYPE_CHECKING:
    from analyzer.attribution import Model
    from analyzer.data import Sample
    from analyzer.errors import AnalyzerError
    from analyzer.graph import Value
    from analyzer.images import ModelCard

T = TypeVar("T")


class LeftOut(Protocol):
    """What is said of every outcome of a pass."""

    @property
    def failed(self) -> Mapping[str, AnalyzerError]: ...
    @property
    def doubt(self) -> str: ...


def parse_shapes(shapes: Sequence[str], inputs: Sequence[Value]) -> dict[str, tuple[int, ...]]:
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
            raise InputError(f"--shape {text!r} is not a list of sizes", "write it as 1x3x224x224 or NAME:1x3x224x224")
        found[name or inputs[0].name] = tuple(int(p) for p in parts)
    return found


def parse_options(given: Sequence[str]) -> dict[str, Any]:
    """{name: value} from `NAME=VALUE`; numbers and true/false are read as such."""
    from analyzer.errors import InputError

    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"-O {text!r} is not NAME=VALUE", "for example: -O patch=32")
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


def print_json(kind: str, content: dict[str, Any], indent: int | None = 2) -> None:
    """One document on stdout; with an indent of None in one line."""
    from analyzer.plain import as_json

    end_bar()
    document = {"schema_version": JSON_SCHEMA, "kind": kind, "onnx_analyzer": __version__, **content}
    escaped = "utf" not in (getattr(sys.stdout, "encoding", None) or "").lower()
    click.echo(addressed(as_json(document, indent=indent, sort_keys=True, ensure_ascii=escaped)))


def finish(form: str, kind: str, document: dict[str, Any], lines: Iterable[str], written: Sequence[str] = ()) -> None:
    """What a command found on stdout, as a JSON document or as lines; the files that it wrote come last."""
    if form == "json":
        print_json(kind, {**document, "written": list(written)})
        return
    for line in lines:
        click.echo(line)
    for place in written:
        say_written(place)


def say_written(place: str | Path) -> None:
    """A line per file; none for the one that goes to stdout. Once, what could not be drawn in it as it is."""
    fonts = sys.modules.get("analyzer.images.fonts")
    if fonts is not None and fonts.missing:
        shown = " ".join(sorted(fonts.missing)[:10])
        note(f"note: no font of this machine has {shown}; install Noto or another font, or use other labels")
        fonts.missing.clear()
    if not is_stdout(place):
        click.echo(f"written: {addressed(str(place))}")


def is_quiet() -> bool:
    """Whether --quiet was given."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get("quiet"))


def note(text: str) -> None:
    """A line for the person, on stderr, unless --quiet was given."""
    if not is_quiet():
        end_bar()
        click.echo(text, err=True)


def command_line() -> str:
    """The command as it was called, for a report."""
    return shlex.join(["onnx-analyzer", *sys.argv[1:]])


class Warnings:
    """Warnings about pictures as they come; one that many pictures share is said once, and counted."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], tuple[str, int]] = {}

    def tell(self, kind: str, picture: str, text: str) -> None:
        """`kind` is "warning" or "note". Texts that differ only in their numbers are the same."""
        text = text.removeprefix(f"{picture}: ")
        alike = kind, re.sub(r"\d+(\.\d+)?", "0", text)
        first, count = self._counts.get(alike, (text, 0))
        self._counts[alike] = first, count + 1
        if not count:
            note(f"{kind}: {picture}: {text}")

    def sum_up(self) -> None:
        """Says of how many more pictures each is true."""
        for (kind, _), (text, count) in self._counts.items():
            if count > 1:
                more = f"{count - 1} more picture{'s' * (count > 2)}"
                note(f"{kind}: {more}, the same: {text}")
        self._counts.clear()


def tell_card(model: Model, card: ModelCard) -> None:
    """Says what an input of whole numbers is given in place of the normalization of its float model."""
    if card.remark:
        note(f"{model.plain.name}: {card.remark}")


def tell_doubt(doubt: str, last: str = "") -> str:
    """Prints a result's doubt as a warning, unless it repeats the last one.

    Returns:
        The last doubt that was printed, to be passed as `last` with the next result.
    """
    if doubt and doubt != last:
        note(f"warning: {doubt}")
    return doubt or last


def tell_remark(picture: str, remark: str | None) -> None:
    """Says what should be known of how a picture was read."""
    if remark:
        note(f"note: {remark}" if remark.startswith(picture) else f"note: {picture}: {remark}")


def tell_left_out(outcome: LeftOut) -> None:
    """Says what of a pass could not be used, and what its folder held: `failed` and `doubt`."""
    if outcome.doubt:
        note(f"note: {outcome.doubt}")
    for picture, error in outcome.failed.items():
        tell_failed(picture, error)


def tell_failed(picture: str, error: AnalyzerError) -> None:
    """Says on stderr why a picture could not be used."""
    end_bar()
    click.echo(f"error: {error}" if str(error).startswith(picture) else f"error: {picture}: {error}", err=True)


def failed_as_data(failed: Mapping[str, AnalyzerError]) -> list[dict[str, str]]:
    """The same for JSON."""
    return [{"picture": picture, "error": error.message} for picture, error in failed.items()]


def table(rows: Sequence[Sequence[Any]], header: Sequence[str] = ()) -> str:
    """Columns padded to their widest cell."""
    cells = [[visible(str(c)).replace("\n", "\\n") for c in row] for row in ([header, *rows] if header else rows)]
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


def shows_progress() -> bool:
    """Whether stderr is a terminal and --quiet was not given."""
    return sys.stderr.isatty() and not is_quiet()


class Progress:
    """A bar on stderr where that is a terminal, nothing elsewhere."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what, self.done = total, what, 0
        self.terminal = shows_progress()

    def step(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        alive()
        if count and self.total > 1 and self.terminal:
            draw_bar(self.what, self.done, self.total)


def draw_bar(what: str, done: int, total: int) -> None:
    """Over the bar before it, on stderr; the line ends with the last one."""
    global _bar
    filled = 24 * done // total
    line = f"{what} {'█' * filled}{'·' * (24 - filled)} {done}/{total}"
    _overwrite(f"\r{line}" + "\n" * (done == total))
    _bar = 0 if done == total else len(line)


_bar = 0  # length of the bar that is on the last line of the terminal


def end_bar() -> None:
    """Clears a bar that is on the terminal's last line, so that what is printed next has a line of its own."""
    global _bar
    if _bar:
        _overwrite(f"\r{' ' * _bar}\r")
        _bar = 0


def _overwrite(text: str) -> None:
    """Control characters of ours, which a `Stream` would show."""
    getattr(sys.stderr, "overwrite", sys.stderr.write)(text)
    sys.stderr.flush()


def each_picture(
    what: str, samples: Sequence[Sample], work: Callable[[Sample], T], strict: Callable[[], bool] = lambda: False
) -> tuple[list[T], list[dict[str, str]]]:
    """What `work` gives for every picture, and those that could not be used, which are reported on stderr as they come.

    A single picture's error is raised, so is any while `strict()` holds, and that of an output that cannot be written.
    """
    from analyzer.errors import AnalyzerError, OutputError

    results, failed = list[T](), dict[str, AnalyzerError]()
    progress = Progress(len(samples), what)
    for sample in samples:
        try:
            results.append(work(sample))
        except AnalyzerError as error:
            if len(samples) == 1 or strict() or isinstance(error, OutputError):
                raise
            failed[sample.id] = error
            tell_failed(sample.id, error)
        progress.step()
    return results, failed_as_data(failed)


class RunProgress:
    """A bar on stderr, where that is a terminal, for methods that run the model for more than a second."""

    PATIENCE = 1.0

    def __init__(self) -> None:
        self.terminal = shows_progress()
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
