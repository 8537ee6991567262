"""Exceptions that say what went wrong, where, and what to do.

Every error a user can cause is an `AnalyzerError`; the command line prints it as one sentence and exits with its
`exit_code`. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class AnalyzerError(Exception):
    """Base of all errors that a user can cause. `hint` says what to do."""

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class InputError(AnalyzerError):
    """A file, flag or array that cannot be used: unreadable, truncated, of the wrong shape or type."""


class OutputError(InputError):
    """An output cannot be written: the system refuses, or it would replace an input."""


class NotFoundError(InputError):
    """A tensor, node, layer, class or method of that name does not exist."""


class UnsupportedError(AnalyzerError):
    """The model, an operator or a method is not supported: no rule, no kernel, no such structure."""

    exit_code = 3


class ProviderError(AnalyzerError):
    """The runtime failed, or the requested execution provider cannot be used."""

    exit_code = 4


@contextmanager
def refusing(what: str, hint: str = "") -> Iterator[None]:
    """Inside, an exception that nothing foresees is an `UnsupportedError`: the model breaks a promise of its format.

    Args:
        what: the sentence so far, such as "model.onnx: node 'conv1' (Conv) does not fit its gradient rule".
    """
    try:
        yield
    except (AnalyzerError, MemoryError, RecursionError, OSError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:400]
        raise UnsupportedError(f"{what}: {reason or type(error).__name__}", hint) from error


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def suggest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """«did you mean …?» for the nearest of `known`, or an empty string where none is near.

    A name that differs only by case, hyphens and underscores (GradCAM, grad_cam) is the nearest alone.
    """
    names = list(known)
    near = [k for k in names if _letters(k) == _letters(name)] or difflib.get_close_matches(name, names, limit, 0.5)
    near += [k for k in names if name and name.lower() in k.lower() and k not in near][: limit - len(near)]
    return f"did you mean {', '.join(repr(n) for n in near)}?" if near else ""
