"""What a process and the one that supervises it say to each other: what is done, at work, and given up.

The supervisor hears what was finished, which temporary files there are, and which samples are at work. If the process
crashes on one of them, another process leaves it out (`Past`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple


class Past(NamedTuple):
    """What the processes before this one, which crashed, have left.

    Attributes:
        lost: {name of a sample: what went wrong with it, and a hint}.
        careful: one sample at a time, as it is not known which of several the last process crashed on.
        written: bytes that are on stdout already.
        serving: where the last process served, see `serving`; "" if it did not.
    """

    lost: Mapping[str, tuple[str, str]] = {}
    careful: bool = False
    written: int = 0
    serving: str = ""


past = Past()
_channel: int | None = None  # a pipe


def report_to(channel: int, before: Past) -> None:
    """From now on."""
    global _channel, past
    _channel, past = channel, before


def is_watched() -> bool:
    """Whether somebody hears."""
    return _channel is not None


def alive() -> None:
    """Something was finished, such as a picture."""
    _say(b".")


def done(*names: str) -> None:
    """These samples were finished."""
    for name in names:
        _say(b"=" + name.encode(errors="surrogateescape"))


def made(path: str | os.PathLike[str]) -> None:
    """A temporary file is there, or about to be, which is to be removed if this process crashes."""
    _say(b"+" + os.fsencode(path))


def gone(path: str | os.PathLike[str]) -> None:
    """It is there no longer."""
    _say(b"-" + os.fsencode(path))


def wrote(count: int) -> None:
    """So many bytes were written to stdout."""
    _say(b"w%d" % count)


def serving(where: str) -> None:
    """This process is a server and answers there: if it crashes, another one goes on in its place."""
    _say(b"s" + where.encode())


@contextmanager
def at_work(*names: str) -> Iterator[None]:
    """Inside, a crash is one of these samples."""
    for name in names:
        _say(b">" + name.encode(errors="surrogateescape"))
    try:
        yield
    finally:
        for name in names:
            _say(b"<" + name.encode(errors="surrogateescape"))


def _say(word: bytes) -> None:
    if _channel is not None:
        with suppress(OSError):
            os.write(_channel, word + b"\0")
