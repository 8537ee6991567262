"""Another Python process that works for this one: it is asked on its stdin, and answers on its stdout."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import BinaryIO

from analyzer import native
from analyzer.limits import SANDBOX_VARIABLE, become_expendable


def started(module: str, **environment: str) -> subprocess.Popen[bytes]:
    """A new process, not a fork (the caller may have threads), that calls `main` of a module; see `channel`.

    Linux ends it with the thread that calls this.

    Raises:
        OSError: the system refuses.
    """
    path = [entry for entry in sys.path if isinstance(entry, str)]
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; from {module} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's interrupt is for the process that started it
        env={**os.environ, SANDBOX_VARIABLE: "0", **environment},
    )


def channel() -> BinaryIO:
    """In such a process: where it answers. Native code, which may print, prints nothing from now on, and a crash leaves
    no core file."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    native.silence()
    become_expendable()
    return answers
