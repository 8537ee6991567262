"""Where the program meets its environment: streams that cannot be written to, errors, interrupts, exit codes.

A crash is never a verdict: no exception of any kind ends in 1, which means that something was found.
"""

from __future__ import annotations

import codecs
import errno
import io
import itertools
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from analyzer import heartbeat, native

if TYPE_CHECKING:
    from typing import NoReturn

TRACEBACK = "ONNX_ANALYZER_TRACEBACK"  # environment variable: show where an error was raised, and native warnings


def run() -> int:
    """Run the command line of this process; its exit code. Every error becomes one sentence on stderr."""
    open_streams()
    if is_own_process() and not os.environ.get(TRACEBACK):
        native.silence()
    handled: list[int] = []
    try:
        handled = _end_in_order()
        code = _guarded()
        sys.stdout.flush()
    except BaseException as error:
        # What is being imported can make another error of it.
        code = tell(_asked_to_end() or error)
    if is_own_process():  # all is said: an interrupt leaves no traceback now
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in handled:
        signal.signal(number, _usual(number))
    _abandon_unwritten()
    return code


def is_own_process() -> bool:
    """Whether nothing but the command line runs in this process."""
    return isinstance(sys.stdout, Stream)


def _guarded() -> int:
    from analyzer.commands.group import cli
    from analyzer.commands.uploads import upload, upload_kept
    from analyzer.files import guard

    with guard():
        try:
            code = cli.main(prog_name="onnx-analyzer", standalone_mode=False)
        except BaseException:
            upload_kept()
            raise
        upload()
    return code if isinstance(code, int) else 0


# ---- Signals ----

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))  # Windows: no SIGHUP


CLEANING = 5.0  # seconds in which more such signals (a terminal's and its shell's) do not cut the cleaning short
_received: list[tuple[float, int]] = []  # when, and which


class Ended(BaseException):
    """A signal asks us to end. As an interrupt, it passes every `finally` on its way: no temporary file is left."""


def _end_in_order() -> list[int]:
    """Signals to end raise `Ended` or KeyboardInterrupt; one that our parent had ignored (`nohup`) is still ignored.

    Gives those that had their usual handler.
    """
    if threading.current_thread() is not threading.main_thread():  # it may not set handlers
        return []
    _received.clear()
    handled = [number for number in (signal.SIGINT, *ENDING) if signal.getsignal(number) is _usual(number)]
    for number in handled:
        signal.signal(number, _end)
    return handled


def _usual(number: int) -> Any:
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def _end(number: int, frame: object) -> None:
    now = time.monotonic()
    if number == signal.SIGINT:
        _received.append((now, number))
        raise KeyboardInterrupt
    if not _received or now - _received[-1][0] > CLEANING:
        _received.append((now, number))
        raise Ended


def _asked_to_end() -> BaseException | None:
    """What the last signal to end raised."""
    if not _received:
        return None
    return KeyboardInterrupt() if _received[-1][1] == signal.SIGINT else Ended()


# ---- Errors ----


def tell(error: BaseException) -> int:
    """Says what went wrong, in a sentence; the exit code. Where JSON is asked for, stdout gets a document of it too."""
    import click

    from analyzer.commands.uploads import addressed

    text, code = _explained(error)
    text = addressed(text)
    said = error.format_message() if isinstance(error, click.ClickException) else text.removeprefix("error: ")
    if os.environ.get(TRACEBACK):
        import traceback

        text = "".join(traceback.format_exception(error)) + text
    if text:
        with suppress(Exception):
            from analyzer.commands.common import end_bar

            end_bar()
            print(text, file=sys.stderr, flush=True)
    if code in (2, 3, 4, 70) and (_wants_json("json") or _wants_json("jsonl")):
        with suppress(Exception):  # stdout may be what cannot be written to
            _print_error(*said.partition("\n  hint: ")[::2], code, _wants_json("jsonl"))
    return code


def _wants_json(form: str) -> bool:
    """Whether the command line asks for JSON, or for lines of it, however it is wrong otherwise."""
    words = sys.argv[1:]
    return f"--format={form}" in words or ("--format", form) in itertools.pairwise(words)


def _print_error(message: str, hint: str, code: int, in_a_line: bool) -> None:
    from analyzer.commands.common import print_json

    print_json("error", {"error": message, "hint": hint, "exit_code": code}, None if in_a_line else 2)
    sys.stdout.flush()


def _continued() -> str:
    """What to do after an interrupt where the work that is done was kept."""
    journal = sys.modules.get("analyzer.passes.journal")
    return "; run the same command again to continue" if journal is not None and journal.unfinished else ""


def _explained(error: BaseException) -> tuple[str, int]:
    """(what to say, exit code) of anything that can be raised."""
    import click

    from analyzer.errors import AnalyzerError

    match error:
        case SystemExit():
            return "", error.code if isinstance(error.code, int) else 70 if error.code else 0
        case KeyboardInterrupt() | click.Abort():
            return f"interrupted{_continued()}", 130
        case Ended():
            return f"terminated{_continued()}", 128 + _received[-1][1]
        case click.ClickException():
            with suppress(Exception):
                error.show(sys.stderr)
            return "", error.exit_code
        case AnalyzerError():
            return f"error: {error}", error.exit_code
        case MemoryError():
            return "error: out of memory\n  hint: use a smaller batch or picture, or fix the input's --shape", 4
        case RecursionError():
            return "error: nested too deeply: the model or a file has more levels than can be followed", 3
        case ImportError() | AttributeError() if broken := _broken():
            return f"error: {broken}", 2
        case ImportError():
            hint = "python -m pip install --force-reinstall onnx-analyzer; see `onnx-analyzer doctor`"
            return f"error: a package cannot be imported: {_line(error)}\n  hint: {hint}", 2
        case OSError():
            return f"error: the system refuses: {_refusal(error)}", 2
    return f"internal error: {type(error).__name__}: {_line(error)}\n  hint: {_report_it(error)}", 70


def _report_it(error: BaseException) -> str:
    from analyzer.commands.crash import write_crash_file

    written = write_crash_file(error)
    what = f"the output that {TRACEBACK}=1 gives" if written is None else f"{written} (no pixels, no weights)"
    return f"this is a bug of onnx-analyzer; please report it with this command and {what}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def _broken() -> str:
    """A package that lost its files to the removal of another one: importing it works, and gives nothing."""
    with suppress(Exception):
        from analyzer.runtime.installed import empty_packages

        for problem, advice in empty_packages():
            return f"{problem}\n  hint: {advice}"
    return ""


def _refusal(error: OSError) -> str:
    """«No space left on device: 'heat.png'»"""
    said = error.strerror or _line(error) or type(error).__name__
    named = f": {os.fsdecode(error.filename)!r}" if isinstance(error.filename, str | bytes) else ""
    temporary = error.errno == errno.ENOENT and "temporary directory" in said
    if temporary:
        return said + named + "\n  hint: set TMPDIR to a folder that can be written to"
    return (
        said + named + ("" if _has_folder() else "\n  hint: the working directory was deleted; change to another one")
    )


def _has_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


# ---- Streams ----


PLAIN = str.maketrans({"─": "-", "–": "-", "×": "x", "·": ".", "≤": "<=", "≥": ">=", "→": "->", "…": "...", "±": "+-"})
SPELLED = "onnx-analyzer.spelled"  # the name of the error handler


def _spelled(error: UnicodeError) -> tuple[str | bytes, int]:
    """What an encoding cannot express: plain characters for common ones, escapes for all others."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(PLAIN)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error(SPELLED, _spelled)


class Stream(io.TextIOWrapper):
    """Text in the stream's encoding; what that cannot express is spelled plainly, or escaped.

    Nobody reading any more is no error.

    Raises:
        OutputError: the system refuses what is written.
    """

    def __init__(self, stream: TextIO, number: int) -> None:
        buffer = cast(Any, stream).buffer
        if number == 1 and heartbeat.is_watched():
            buffer = io.BufferedWriter(_Counted(number, "w", closefd=False))
        super().__init__(buffer, stream.encoding, SPELLED, line_buffering=stream.isatty() or number == 2)
        self.number = number
        self._keep = stream  # it would close the buffer that both write to

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Its name; click takes plain "ascii" for a mistake, and writes UTF-8 instead."""
        return super().encoding + ("+escapes" if super().encoding.lower().replace("-", "") in ASCII else "")

    def write(self, text: str) -> int:
        """`text` as what can be seen of it, see `plain.visible`."""
        from analyzer.plain import visible

        return self.overwrite(visible(text))

    def overwrite(self, text: str) -> int:
        """`text` as it is, such as a bar that begins at the start of the line."""
        try:
            return super().write(text)
        except OSError as error:
            self._refused(error)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._refused(error)

    def _refused(self, error: OSError) -> None:
        _to_nowhere(self.number)
        if self.number == 1 and error.errno not in (errno.EPIPE, errno.EINVAL):  # EINVAL: a closed pipe of Windows
            _raise_refused(error)


class _Counted(io.FileIO):
    """A file descriptor. What a process before this one has written there, before it crashed, is not written again."""

    _skipped = 0

    def write(self, data: Any) -> int:
        left = heartbeat.past.written - self._skipped
        if left > 0:
            self._skipped += min(left, len(data))
            return min(left, len(data))
        count = super().write(data) or 0
        heartbeat.wrote(count)
        return count


ASCII = ("ascii", "usascii", "646", "ansi_x3.41968")


def _raise_refused(error: OSError) -> NoReturn:
    from analyzer.errors import OutputError

    raise OutputError(f"stdout cannot be written to ({error.strerror})", "the result is lost; run again") from None


def _to_nowhere(number: int) -> None:
    """What is still buffered for a stream, and all that follows, is dropped."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def open_streams() -> None:
    """Makes the standard streams safe to write to.

    A stream that was closed before we started is opened: else the next file opened gets its number, and what a library
    prints would go into that file. A closed stderr is silent; a closed stdout refuses, as a result would be lost.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        if _is_real(stream, number):
            setattr(sys, name, Stream(stream, number))


def _is_real(stream: Any, number: int) -> bool:
    """Whether it is the process's own stream, not one that a test put there."""
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, Stream):
        return False
    try:
        return stream.fileno() == number
    except (OSError, ValueError):
        return False


def _abandon_unwritten() -> None:
    """The interpreter flushes at exit once more: whatever cannot be written by now must not change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Stream):
            try:
                super(Stream, stream).flush()
            except (OSError, ValueError):
                _to_nowhere(stream.number)
