"""The pictures of an explorer: those it was started with, and those that were dropped on it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analyzer.data import Sample
from analyzer.errors import InputError, NotFoundError
from analyzer.images import decode

DROPPED = 64  # pictures that are kept besides those of the start
FITS = "resize", "crop", "letterbox"
FRAMES = 8  # of a webcam that are kept until they are obsolete
LARGEST = 32 << 20  # bytes of one


@dataclass(frozen=True)
class Picture:
    """A picture by its key: what it is of in URLs, and in caches.

    Attributes:
        fit: how it is brought to the input's size, as `Preprocess.resize`; "" as the model's card says.
        frame: whether it is one of many of a camera, of which little is asked.
    """

    key: str
    name: str
    source: Any
    fit: str = ""
    frame: bool = False


class Pictures:
    """All of them by key, in order.

    Args:
        samples: those of the start; their keys are their places, so that links work again after a restart.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._given = {str(at): Picture(str(at), sample.id, sample.source) for at, sample in enumerate(samples)}
        self._dropped: dict[str, Picture] = {}
        self._frames: dict[str, Picture] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._given)

    def __iter__(self) -> Iterator[Picture]:
        """Those of the start."""
        return iter(self._given.values())

    @property
    def first(self) -> Picture:
        return next(iter(self._given.values()))

    def __getitem__(self, given: str) -> Picture:
        """By key, or by key~fit."""
        key, _, fit = given.partition("~")
        found = self._given.get(key) or self._dropped.get(key) or self._frames.get(key)
        if found is None:
            raise NotFoundError(
                f"there is no picture {key[:80]!r}", "drop it again: dropped pictures end with the explorer"
            )
        if fit and fit not in FITS:
            raise NotFoundError(f"pictures cannot be fitted by {fit[:40]!r}", f"by {', '.join(FITS)}")
        return replace(found, key=given, fit=fit) if fit else found

    def add(self, data: bytes, name: str = "dropped", frame: bool = False) -> Picture:
        """A picture that was dropped, pasted, or taken by a camera.

        Args:
            frame: one of many of a camera: soon forgotten, and not in `as_data`.

        Raises:
            InputError: it is none, or too large.
        """
        if len(data) > LARGEST:
            raise InputError(f"a picture of {len(data)} bytes is larger than {LARGEST >> 20} MiB")
        decode(data)
        key = "d" + hashlib.sha256(data).hexdigest()[:16]
        made = Picture(key, name[:120], data, frame=frame)
        kept, most = (self._frames, FRAMES) if frame else (self._dropped, DROPPED)
        with self._lock:
            kept.pop(key, None)
            kept[key] = made
            while len(kept) > most:
                del kept[next(iter(kept))]
        return made

    def as_data(self) -> list[dict[str, str]]:
        """{"key", "name", "path": as it was given, "" of a picture that is no file} of each."""
        return [
            {"key": p.key, "name": Path(p.name).name, "path": str(p.source) if isinstance(p.source, Path) else ""}
            for p in (*self._given.values(), *self._dropped.values())
        ]
