"""The command line runs in a child process: what crashes there, or takes too much, ends in a sentence and exit code 3.

Models are untrusted, and what reads them (protobuf, onnx, onnxruntime) is native code that a malformed file can crash,
or make fill the memory. The parent forks before anything heavy is imported, waits, and passes signals on. If a command
works through many pictures, a second child leaves out the one that the first crashed on. A server is started again in
its place. Where there is no fork (Windows), or with --no-sandbox, the command runs in this process.
"""

from __future__ import annotations

import atexit
import itertools
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from analyzer.heartbeat import Past, report_to
from analyzer.limits import (
    MALFORMED,
    POLL,
    SANDBOX_VARIABLE,
    become_expendable,
    bytes_allowed,
    crashed,
    resident,
    too_much,
)

if TYPE_CHECKING:
    from typing import NoReturn

CRASHED = 3  # exit code, that of models that are not supported
BARREN = 2  # children in a row that may crash without having finished a further sample
SHORT, RESTARTS = 60.0, 5  # a server that lives shorter, in seconds, is started again so many times in a row
ENDING = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n))
TWICE = 0.2  # seconds within which the same signal is one that was sent to all processes of a group


def supervised(run: Callable[[], int]) -> int:
    """What `run` gives: the exit code of the command, in a child process where there can be one."""
    if "--no-sandbox" in sys.argv[1:]:
        sys.argv.remove("--no-sandbox")
        os.environ[SANDBOX_VARIABLE] = "0"
        return run()
    if not hasattr(os, "fork") or not hasattr(signal, "sigtimedwait") or "numpy" in sys.modules:
        return run()  # who has imported that calls us from a program of their own, which must not be doubled
    return watched(run, _number("--memory-limit"), _number("--time-limit"))


def watched(run: Callable[[], int], gibibytes: float | None = None, seconds: float | None = None) -> int:
    """The exit code of `run` in a child process, or that of what it is ended for; the limits are of the child.

    Where the child works through many samples, one that crashes it is left out, and another child does the rest. A
    server that crashes is started again in its place.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*ENDING, signal.SIGCHLD})
    past, finished, barren, short = Past(), set[bytes](), 0, 0
    try:
        while True:
            try:
                reading, writing = _pipe()
                parent, child = os.getpid(), os.fork()
            except OSError:  # no more files or processes are to be had
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                return run()
            if child == 0:
                os.close(reading)
                report_to(writing, past)
                _become_child(parent)
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                _leave(run())
            os.close(writing)
            os.set_blocking(reading, False)
            try:
                watch = _Watch(child, reading, gibibytes, seconds)
                ended = watch.wait()
            finally:
                os.close(reading)
            if isinstance(ended, int):
                return ended
            if watch.serving:
                short = short + 1 if watch.lived < SHORT else 1
                if short > RESTARTS:
                    return _told(*ended)
                _warn(f"{ended[0]}; started again")
                past = Past(serving=watch.serving)
                continue
            barren = 0 if watch.finished - finished else barren + (not past.careful)
            finished |= watch.finished
            if not watch.at_work or barren > BARREN or (past.careful and len(watch.at_work) > 1):
                return _told(*ended)
            past = _after(past, watch, ended)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _after(past: Past, watch: _Watch, ended: tuple[str, str]) -> Past:
    """What the next child hears: the sample that was at work is lost; one of several has to be found."""
    names = [name.decode(errors="surrogateescape") for name in watch.at_work]
    written = past.written + watch.written
    if len(names) > 1:
        return Past(past.lost, True, written)
    return Past({**past.lost, names[0]: ended}, False, written)


def _pipe() -> tuple[int, int]:
    """Both ends, with other numbers than the standard streams, which may be closed."""
    import fcntl

    ends = os.pipe()
    kept = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends]
    for end in ends:
        os.close(end)
    return kept[0], kept[1]


def _leave(code: int) -> NoReturn:
    """Ends the child in order, however our caller would go on."""
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code)


def _number(option: str) -> float | None:
    """The value of an option of the command line, before it is parsed; None where it has none that is above 0."""
    words = sys.argv[1:]
    for word, following in itertools.pairwise([*words, ""]):
        if word == option or word.startswith(option + "="):
            try:
                value = float(following if word == option else word.partition("=")[2])
            except ValueError:
                return None
            return value if 0 < value < math.inf else None
    return None


def _become_child(parent: int) -> None:
    """Signals reach this process through its parent; it ends with it."""
    if not sys.stdin or not sys.stdin.isatty():  # else the terminal's interrupts reach both
        with suppress(OSError):
            os.setpgid(0, 0)
    become_expendable()
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


class _Watch:
    """What the parent does: waits, passes signals on, and looks after the child's memory and time."""

    def __init__(self, child: int, channel: int, gibibytes: float | None, seconds: float | None) -> None:
        self.child, self.channel = child, channel
        self.bytes = bytes_allowed(gibibytes)
        self.seconds = seconds
        self.start = self.alive = time.monotonic()  # when the child began, and when it last said something
        self.files: set[bytes] = set()
        self.rest = b""
        self.at_work: Counter[bytes] = Counter()  # samples that were begun and are not finished
        self.finished: set[bytes] = set()
        self.written = 0  # bytes, to stdout
        self.serving = ""
        self.passed: dict[int, float] = {}

    @property
    def lived(self) -> float:
        """Seconds since the child began."""
        return time.monotonic() - self.start

    def wait(self) -> int | tuple[str, str]:
        """Until the child ends: its exit code, or what it is ended for, and a hint."""
        while True:
            received = signal.sigtimedwait({*ENDING, signal.SIGCHLD}, POLL)
            if received is not None and received.si_signo in ENDING:
                self._pass_on(received)
            pid, status = os.waitpid(self.child, os.WNOHANG)
            self._listen()
            if pid:
                return self._ended(os.waitstatus_to_exitcode(status))
            if self.bytes is not None and (used := resident(self.child)) > self.bytes:
                return self._end(
                    too_much(self.bytes, used),
                    "use a smaller picture or model, or raise --memory-limit on a machine with more memory",
                )
            if self.seconds is not None and time.monotonic() - self.alive > self.seconds:
                return self._end(f"nothing was finished within {self.seconds:g} s", "raise --time-limit")

    def _pass_on(self, received: signal.struct_siginfo) -> None:
        now = time.monotonic()
        from_terminal = received.si_code > 0 and os.getpgid(self.child) == os.getpgid(0)
        if not from_terminal and now - self.passed.get(received.si_signo, -TWICE) >= TWICE:
            self.passed[received.si_signo] = now
            with suppress(ProcessLookupError):
                os.kill(self.child, received.si_signo)

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            while data := os.read(self.channel, 65536):
                self.alive = time.monotonic()
                *lines, self.rest = (self.rest + data).split(b"\0")
                for line in lines:
                    self._hear(line[:1], line[1:])

    def _hear(self, kind: bytes, said: bytes) -> None:
        match kind:
            case b"+":
                self.files.add(said)
            case b"-":
                self.files.discard(said)
            case b">":
                self.at_work[said] += 1
            case b"<":
                self.at_work -= Counter([said])
            case b"=":
                self.finished.add(said)
            case b"w":
                self.written += int(said)
            case b"s":
                self.serving = said.decode()

    def _end(self, why: str, hint: str) -> tuple[str, str]:
        with suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        self._listen()
        self._remove_files()
        return why, hint

    def _remove_files(self) -> None:
        """Those that were half written when the child ended, by any of its threads."""
        for file in self.files:
            _remove(file)

    def _ended(self, code: int) -> int | tuple[str, str]:
        self._remove_files()
        if code >= 0:
            return code
        if -code == signal.SIGKILL:  # by somebody who wants an end of it
            return _told("the command was killed (SIGKILL)", "was the machine out of memory?")
        return f"{crashed(code)} on this input", MALFORMED


def _told(why: str, hint: str) -> int:
    from analyzer.commands.boundary import open_streams, tell
    from analyzer.errors import UnsupportedError

    open_streams()
    tell(UnsupportedError(why, hint))
    return CRASHED


def _warn(what: str) -> None:
    from analyzer.commands.boundary import open_streams

    open_streams()
    print(f"warning: {what}", file=sys.stderr)


def _remove(path: bytes) -> None:
    """A temporary file or folder that a command left."""
    import shutil

    with suppress(OSError):
        shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else os.unlink(path)
