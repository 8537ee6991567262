"""Runs the explorer until it is stopped."""

from __future__ import annotations

import asyncio
import errno
import secrets
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from analyzer import heartbeat
from analyzer.errors import InputError
from analyzer.explorer.answers import Explorer
from analyzer.explorer.server import application

try:
    import uvicorn
except ImportError as error:  # pragma: no cover
    raise ImportError("uvicorn") from error

LOCAL = ("127.0.0.1", "localhost", "[::1]")


class _Server(uvicorn.Server):
    """Ends in order at a signal, without raising it again: that is how an explorer is meant to end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _end(server: uvicorn.Server, stop: threading.Event) -> None:
    stop.wait()
    server.should_exit = True


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any free one.

    Raises:
        InputError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: asyncio then sends at once
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(128)
    except (OSError, OverflowError) as error:
        found.close()
        reason = getattr(error, "strerror", None) or str(error)
        taken = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        hint = "choose another --port; 0 is any free one" if taken else "choose another --host, such as 127.0.0.1"
        raise InputError(f"{host}:{port}: {reason}", hint) from None
    return found


def serve(
    explorer: Explorer,
    host: str = "127.0.0.1",
    port: int = 0,
    ready: Callable[[str], None] | None = None,
    browser: bool = False,
    ancestors: str = "'none'",
    stop: threading.Event | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or `stop`; in the place of a process that crashed, with its port and token.

    Args:
        ready: called with the URL as soon as it can be opened, by the first process.
        browser: open it, the same.
        ancestors: who may show the page in a frame.
    """
    before = heartbeat.past.serving
    listening = bound(host, int(before.partition(" ")[0]) if before else port)
    number = listening.getsockname()[1]
    token = before.partition(" ")[2] or secrets.token_urlsafe(24)
    heartbeat.serving(f"{number} {token}")
    shown = f"[{host}]" if ":" in host else host
    hosts = frozenset(f"{name}:{number}" for name in {shown, *LOCAL})
    url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else shown}:{number}/?token={token}"
    config: Any = uvicorn.Config(
        application(explorer, token, hosts, ancestors), log_level="error", access_log=False, lifespan="off",
        server_header=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = _Server(config)
    if stop is not None:
        threading.Thread(target=_end, args=(server, stop), daemon=True).start()
    if ready is not None and not before:
        ready(url)
    if browser and not before:
        webbrowser.open(url)
    try:
        asyncio.run(server.serve(sockets=[listening]))
    finally:
        explorer.cards.jobs.stop()
