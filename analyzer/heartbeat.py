"""What a process that supervises this one hears of it: that something was finished, and temporary files."""

from __future__ import annotations

import os
from contextlib import suppress

_channel: int | None = None  # a pipe


def report_to(channel: int) -> None:
    """From now on."""
    global _channel
    _channel = channel


def alive() -> None:
    """Something was finished, such as a picture."""
    _say(b".")


def made(path: str | os.PathLike[str]) -> None:
    """A temporary file is there, which is to be removed if this process crashes."""
    _say(b"+" + os.fsencode(path))


def gone(path: str | os.PathLike[str]) -> None:
    """It is there no longer."""
    _say(b"-" + os.fsencode(path))


def _say(word: bytes) -> None:
    if _channel is not None:
        with suppress(OSError):
            os.write(_channel, word + b"\0")
