"""In the library, a model is tried in another process first: what crashes native code there does not end the caller's.

A worker loads it, creates sessions over it as it is and rewritten, and runs them once, on the CPU. It is a new process
(not a fork: the caller may have threads), is kept for the next models, and ends with this process. A model that went
well is remembered by its content, in this process and in the user's cache, and not tried again.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import onnx

from analyzer import heartbeat
from analyzer.child import started
from analyzer.errors import InputError, UnsupportedError
from analyzer.graph import Source
from analyzer.limits import POLL, SANDBOX_VARIABLE, bytes_allowed, killed, resident, too_much
from analyzer.runtime import runtime_version
from analyzer.runtime.custom_ops import identities
from analyzer.store import Cache, key_of, user_cache

READY = b"ready\n"  # what a worker says first
_OPTIONS = ("threads", "level", "custom_ops")
_TRUSTING = "if you trust the file, sandbox=False leaves this out"
_KNOWN = 4096  # models that are remembered
_STARTS = 3  # workers for one model: one that nobody needed for long may end just when it is asked

_lock = threading.Lock()
_known: set[str] = set()
_worker: _Worker | None = None


def check(loaded: Source, sandbox: bool | float, cache: Cache | None, options: Mapping[str, Any]) -> None:
    """Tries a model that is not known yet.

    Nothing is tried where a command is supervised already, or the environment has ONNX_ANALYZER_SANDBOX=0.

    Args:
        sandbox: False to try nothing; a number: for at most so many seconds.
        cache: where the worker keeps the graph that it has rewritten, for this process to read.
        options: of the session.

    Raises:
        UnsupportedError: native code crashes on it, or takes too much memory or time.
        InputError: its file has changed since it was loaded.
    """
    if sandbox is False or os.environ.get(SANDBOX_VARIABLE) == "0" or heartbeat.is_watched() or not sys.executable:
        return
    path = loaded.path if loaded.path is not None and loaded.path.is_file() else None
    data = b"" if path is not None else loaded.serialized()
    content = identity(loaded) if path is not None else key_of(np.frombuffer(data, np.uint8))
    given = {name: options[name] for name in _OPTIONS if options.get(name)}
    libraries = identities(given.get("custom_ops", ()))
    key = key_of("tried", content, onnx.__version__, runtime_version(), given.get("level"), libraries)
    kept = cache or user_cache()
    with _lock:
        if key in _known:
            return
        if kept is None or kept.get(key) is None:
            request: dict[str, Any] = {"size": len(data), "options": given}
            if path is not None:
                request |= {"path": os.path.abspath(path), "cache": cache and str(cache.folder)}
            limit = None if sandbox is True else float(sandbox)
            found = _answer(loaded.name, json.dumps(request).encode() + b"\n" + data, limit)
            if found is None:
                return
            if path is not None and found != content:
                raise InputError(f"{path}: the file changed while it was read", "try again when the file is complete")
            if kept is not None and all(loaded.files[path].settled for path in loaded.mapped):
                kept.put(key, {"tried": np.ones(1, np.uint8)})
        if len(_known) >= _KNOWN:
            _known.clear()
        _known.add(key)


def identity(loaded: Source) -> str:
    """What tells a model from others: its bytes, and the state of the files that weights are mapped from."""
    mapped = [loaded.files[path] for path in sorted(loaded.mapped)]
    states = [(state.size, state.modified, state.changed, state.identity) for state in mapped]
    return key_of(loaded.sha256, loaded.inlined, states)


def _answer(name: str, request: bytes, seconds: float | None) -> str | None:
    """What the worker says of the model that it was asked to try; None where there can be no worker."""
    global _worker
    for _ in range(_STARTS):
        worker, _worker = _worker or _Worker(), None  # kept again once it has answered
        try:
            ended = worker.ask(request, seconds)
        except BaseException:  # we are interrupted, and the next answer would be that to this
            worker.end()
            raise
        if isinstance(ended, str):
            _worker = worker
            return ended
        if not worker.ready:
            break
        why, hint = ended if isinstance(ended, tuple) else _death(ended)
        if why:
            raise UnsupportedError(f"{name}: {why}, when it was tried in a process of its own", hint)
    warnings.warn(
        "models are not tried in a process of their own first, as Python cannot be started again",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _death(code: int) -> tuple[str, str]:
    """Why a worker ended, and a hint; "" if it was just that nobody needed it."""
    return killed(code) if code else ("", "")


class _Worker:
    """A process that tries models.

    Attributes:
        ready: whether it has imported what it needs.
    """

    def __init__(self) -> None:
        self.ready = False
        self._process: subprocess.Popen[bytes] | None = None
        self._said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # lines; None first and last
        threading.Thread(target=self._live, daemon=True, name="onnx-analyzer-trial").start()
        self._said.get()

    def _live(self) -> None:
        """Starts the process in a thread that lives as long: Linux ends it with the thread that started it."""
        try:
            with suppress(OSError):
                self._process = started("analyzer.attribution.tried")
            self._said.put(None)
            if self._process is not None and self._process.stdout is not None:
                for line in self._process.stdout:
                    self._said.put(line)
                self._process.wait()
        finally:
            self._said.put(None)

    def ask(self, request: bytes, seconds: float | None) -> str | tuple[str, str] | int:
        """Its answer; why it was ended, and a hint; or its exit code."""
        process = self._process
        if process is None or process.stdin is None:
            return 1
        allowed, start = bytes_allowed(), time.monotonic()
        with suppress(OSError, ValueError):  # it has ended
            process.stdin.write(request)
            process.stdin.flush()
        while True:
            try:
                line = self._said.get(timeout=POLL)
            except queue.Empty:
                if allowed is not None and (used := resident(process.pid)) > allowed:
                    self.end()
                    return too_much(allowed, used), _TRUSTING
                if seconds is not None and self.ready and time.monotonic() - start > seconds:
                    self.end()
                    return f"loading it and one run take more than {seconds:g} s", _TRUSTING
                continue
            if line is None:
                return process.returncode
            if line != READY:
                return line.decode().strip()
            self.ready, start = True, time.monotonic()

    def end(self) -> None:
        if self._process is not None:
            with suppress(OSError):
                self._process.kill()
                self._process.wait()


def _end() -> None:
    if _worker is not None:
        _worker.end()


def _forget() -> None:
    """In a fork, the worker is that of the process it was forked from."""
    global _lock, _worker
    _lock, _worker = threading.Lock(), None


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
