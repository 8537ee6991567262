"""What the process does that tries models for another one; see `trial`."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from analyzer.attribution.model import Model
from analyzer.attribution.trial import READY, identity
from analyzer.child import channel
from analyzer.store import Cache

IDLE = 300.0  # seconds without a model after which the process ends
SIDE = 64  # of a size that is open, but for the first, which is 1
PICTURE = (1, 3, SIDE, SIDE)  # of an input of which the file tells no shape


def main() -> None:
    """Answers requests on stdin until that ends: {"path", "size", "options", "cache"} as JSON, then `size` bytes."""
    answers = channel()
    asked: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, asked), daemon=True).start()
    answers.write(READY)
    answers.flush()
    while True:
        try:
            request, data = asked.get(timeout=IDLE)
        except queue.Empty:
            os._exit(0)
        answers.write(f"{tried(request, data)}\n".encode())
        answers.flush()


def _listen(stdin: BinaryIO, asked: queue.SimpleQueue[tuple[dict[str, Any], bytes]]) -> None:
    """Ends this process when the other one has ended, whatever is running."""
    while line := stdin.readline():
        request = json.loads(line)
        asked.put((request, stdin.read(request["size"])))
    os._exit(0)


def tried(request: dict[str, Any], data: bytes) -> str:
    """The identity of the model; "" if it cannot be loaded. What is raised here is raised to the caller as well."""
    with suppress(Exception):
        cache = Cache(request["cache"]) if request.get("cache") else None
        model = Model(request.get("path") or data, cache=cache, sandbox=False, **request["options"])
        for step in (_rewritten, _as_it_is):
            with suppress(Exception):
                step(model)
        return identity(model.loaded)
    return ""


def _rewritten(model: Model) -> None:
    feeds = _feeds(model)
    model.session(model.graph_of(feeds)).run(feeds)


def _as_it_is(model: Model) -> None:
    session = model.deployed
    if session is not None:
        session.run(_feeds(model))


def _feeds(model: Model) -> dict[str, np.ndarray]:
    """Ones for each input, not zeros: native code may divide by them."""
    feeds = {}
    for given in model.plain.inputs:
        shape = PICTURE if given.shape is None else given.shape
        sizes = [d if isinstance(d, int) and d > 0 else (SIDE if axis else 1) for axis, d in enumerate(shape)]
        feeds[given.name] = np.ones(sizes, given.dtype)
    return feeds
