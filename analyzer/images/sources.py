"""Where a picture comes from if that is not a file of its own: a frame of a video, a row of an array, several files."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyzer.errors import AnalyzerError
from analyzer.files import content_hash


class Stored(ABC):
    """A picture file in an archive, in a table or at an address, read where it is needed; `str` gives its name."""

    __slots__ = ()

    @abstractmethod
    def read(self) -> bytes:
        """The file.

        Raises:
            InputError: it cannot be read.
        """

    @property
    def content(self) -> str:
        return hashlib.sha256(self.read()).hexdigest()


@dataclass(frozen=True, slots=True)
class Held(Stored):
    """One that was read."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class _Part:
    """Part `index` of a file, from 0."""

    path: Path
    index: int

    @property
    def content(self) -> str:
        return f"{_content(self.path)} {type(self).__name__.lower()} {self.index}"


class Frame(_Part):
    """A frame of a video."""


class Row(_Part):
    """A row of an array that holds a batch of inputs."""


@dataclass(frozen=True)
class Together:
    """Files that make one clip or volume, in order."""

    parts: tuple[Any, ...]

    @property
    def content(self) -> str:
        return " ".join(map(_content, self.parts))


def _content(source: Any) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        if not isinstance(source, Path):
            return str(source.content)
        about = source.stat()
        return _hashed(source, about.st_mtime_ns, about.st_size)
    except (OSError, AnalyzerError):
        return ""


@functools.lru_cache(maxsize=256)  # a video has many frames
def _hashed(path: Path, changed: int, size: int) -> str:
    return content_hash(path)


def evenly(count: int, wanted: int) -> Sequence[int]:
    """`wanted` of `count` indices, evenly spaced from the first to the last."""
    if wanted >= count:
        return range(count)
    return [round(at * (count - 1) / max(1, wanted - 1)) for at in range(wanted)]
