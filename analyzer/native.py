"""Whether native libraries may write warnings to stderr, past the stream that escapes foreign text.

What fails is raised as an exception, and said in any case.
"""

from __future__ import annotations

_silent = False


def silence() -> None:
    """From now on they may not. Only for a process of our own: it holds for all sessions of onnxruntime."""
    global _silent
    _silent = True


def is_silent() -> bool:
    """Whether `silence` was called."""
    return _silent
