"""Pictures of functions about data sets: what `find_pictures` takes, or pictures in memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from analyzer.attribution.cards import opened
from analyzer.data import Sample, find_pictures
from analyzer.errors import InputError
from analyzer.images import Feeding
from analyzer.images.objects import pixels_of

Pictures: TypeAlias = "str | os.PathLike[str] | bytes | np.ndarray | Iterable[Any] | Any"
Annotations: TypeAlias = "Mapping[str, Mapping[str, Any]]"
File: TypeAlias = "str | os.PathLike[str]"


def samples_of(pictures: Pictures, limit: int | None = None, known: Annotations | None = None) -> list[Sample]:
    """Samples of a file, folder, pattern or list, of a picture in memory, or of several of these.

    Args:
        limit: use at most this many, evenly spread.
        known: {file name: annotations}; a picture in memory is called picture-0, picture-1, …

    Raises:
        InputError: there are none, or something is no picture.
    """
    given = listed(pictures)
    if all(isinstance(each, Sample) for each in given):
        return given
    if all(isinstance(each, str | os.PathLike) for each in given):
        return find_pictures(given, limit, known)
    found: list[Sample] = []
    for each in given:
        if isinstance(each, str | os.PathLike):
            found += find_pictures([each], None, known)
        else:
            name = f"picture-{len(found)}"
            found.append(Sample(name, 0, _stored(each), (known or {}).get(name, {})))
    if limit and limit < len(found):
        found = [found[at * len(found) // limit] for at in range(limit)]
    return [Sample(each.id, number, each.source, each.annotations) for number, each in enumerate(found)]


def opened_samples(samples: Sequence[Sample], pictures: Pictures, feeding: Feeding, every: int) -> list[Sample]:
    """Frames of videos, rows of arrays, clips; see `cards.opened`."""
    sources = [os.fspath(each) for each in listed(pictures) if isinstance(each, str | os.PathLike)]
    return opened(samples, sources, feeding, every)[0]


def listed(pictures: Pictures) -> list[Any]:
    """One picture, or several, as a list."""
    one = isinstance(pictures, str | os.PathLike | bytes | np.ndarray) or pixels_of(pictures) is not None
    return [pictures] if one else list(cast(Iterable[Any], pictures))


def _stored(picture: Any) -> bytes:
    """The bytes of a file: a sample has a content that can be hashed."""
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    pixels = pixels_of(picture)
    if pixels is None:
        raise InputError(
            f"{type(picture).__name__} is not a picture",
            "give files, bytes, PIL images or (height, width, 3) uint8 pixels",
        )
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()
