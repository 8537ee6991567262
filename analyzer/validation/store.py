"""What a model gave for a picture, kept in a folder by everything it depends on.

A run that was cut off goes on where it stopped, and one side of a comparison can be run on another machine: the folder
is all that has to travel. Nothing in it is ever stale, since a key is the hash of the model, the picture as the model
takes it, and the settings; it can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analyzer import __version__
from analyzer.errors import InputError
from analyzer.images import write_npz

SAMPLE = 1 << 14  # elements of a layer that are kept


class Store:
    """A folder of results, a file each; several processes may write to it.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: no folder can be made here: {error.strerror}") from None

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays kept under `key`; None where there are none, or the file is damaged."""
        try:
            with np.load(self._path(key), allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            return None
        except Exception:  # cut off, or none of ours: it is made anew
            return None

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        write_npz(self._path(key), arrays)

    def kept(self, key: str, make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """What is kept under `key`, made by `make` where nothing is."""
        found = self.get(key)
        if found is not None:
            return found
        made = make()
        self.put(key, made)
        return made

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"


def key_of(*parts: Any) -> str:
    """A file name for what depends on `parts`: arrays by their bytes, all else by its JSON; and on our version."""
    digest = hashlib.sha256(__version__.encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:40]


def packed(data: Any) -> np.ndarray:
    """Plain data as an array."""
    return np.frombuffer(json.dumps(data).encode(), np.uint8)


def unpacked(array: np.ndarray) -> Any:
    return json.loads(array.tobytes())


def sampled(array: np.ndarray) -> np.ndarray:
    """At most `SAMPLE` elements, flat, at places that depend on the size alone."""
    flat = array.ravel()
    if flat.size <= SAMPLE:
        return flat
    return flat[np.sort(np.random.default_rng(flat.size).choice(flat.size, SAMPLE, replace=False))]


__all__ = ["SAMPLE", "Store", "key_of", "packed", "sampled", "unpacked"]
