"""onnxruntime's options of a session, and the threads that it runs in."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from analyzer import native

_SHARED: list[bool] = []  # holds something once `share_threads` was called


def plain_options(threads: int | None = None) -> Any:
    """onnxruntime's own options, quiet.

    Args:
        threads: for each session, at most one per CPU; the runtime's choice when None. Where this process shares its
            threads, those.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if native.is_silent():
        ort.set_default_logger_severity(4)  # kernels warn through the process's logger, not through the session's
    if _SHARED:
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = bounded(threads)
    return options


def share_threads(threads: int | None) -> None:
    """From now on all sessions of this process use one pool of so many threads; the runtime's choice when None.

    A pool for each session makes many idle threads, and those that have just run keep a core busy for a while. Only
    for a process of our own: onnxruntime then refuses sessions that bring their own threads.
    """
    import onnxruntime as ort

    if threads != 1 and not _SHARED:
        with suppress(Exception):  # there is one already
            ort.set_global_thread_pool_sizes(bounded(threads), 1)
            _SHARED.append(True)


def bounded(threads: int | None) -> int:
    """The number for onnxruntime, at most one thread per CPU; 0 leaves the choice to it."""
    return min(threads or 0, os.cpu_count() or 1)
