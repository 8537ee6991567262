"""Partial results as bytes and back, exactly: no code is run, so a file of strangers does no harm."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np

_LENGTH = struct.Struct("<Q")
_PLAIN = (str, bool, int, float, type(None))


def encode(value: Any) -> bytes:
    """Dictionaries (keys: texts and whole numbers), lists, tuples, texts, numbers and arrays.

    Raises:
        TypeError: anything else.
    """
    arrays: list[np.ndarray] = []
    text = json.dumps(_described(value, arrays)).encode()
    stream = io.BytesIO()
    stream.write(_LENGTH.pack(len(text)) + text)
    for array in arrays:
        np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def decode(data: bytes) -> Any:
    """What `encode` was given.

    Raises:
        ValueError: the bytes are none of ours.
    """
    (length,) = _LENGTH.unpack_from(data)
    described = json.loads(data[_LENGTH.size : _LENGTH.size + length])
    stream = io.BytesIO(data)
    stream.seek(_LENGTH.size + length)
    return _restored(described, stream)


def _described(value: Any, arrays: list[np.ndarray]) -> Any:
    """As JSON: what JSON does not tell apart is a list that begins with its kind."""
    if isinstance(value, np.ndarray | np.generic):
        arrays.append(np.asarray(value, order="C"))
        return ["array" if isinstance(value, np.ndarray) else "number"]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _described(entry, arrays) for key, entry in value.items()}
        return ["map", *([_described(key, arrays), _described(entry, arrays)] for key, entry in value.items())]
    if type(value) in (list, tuple):
        return [type(value).__name__, *(_described(entry, arrays) for entry in value)]
    if type(value) in _PLAIN:
        return value
    raise TypeError(f"a partial result contains a {type(value).__name__}, which cannot be saved")


def _restored(value: Any, stream: io.BytesIO) -> Any:
    if isinstance(value, dict):
        return {key: _restored(entry, stream) for key, entry in value.items()}
    if not isinstance(value, list):
        return value
    kind, entries = value[0], value[1:]
    if kind in ("array", "number"):
        array = np.lib.format.read_array(stream, allow_pickle=False)
        return array if kind == "array" else array[()]
    if kind == "map":
        return {_restored(key, stream): _restored(entry, stream) for key, entry in entries}
    found = [_restored(entry, stream) for entry in entries]
    return tuple(found) if kind == "tuple" else found
