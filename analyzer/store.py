"""Results cached in a folder under a hash of everything they depend on: outputs for pictures, and rewritten graphs.

Because of the hash, nothing in such a folder is ever stale. Files are written atomically, a damaged one counts as
missing, any of them can be deleted at any time, and processes can share a folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.errors import InputError
from analyzer.files import make_folder
from analyzer.images import write_npz
from analyzer.plain import as_json
from analyzer.version import __version__

CACHE_VARIABLE = "ONNX_ANALYZER_CACHE"
CACHE_BYTES = 512 << 20
ABANDONED = 3600.0  # seconds after which a temporary file is abandoned


class Store:
    """A folder with one file per result.

    Raises:
        OutputError: the folder cannot be created.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = make_folder(folder)

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays stored under `key`; None if there are none or the file is damaged."""
        file = self._path(key)
        if not file.is_file():  # a pipe would block
            return None
        try:
            with np.load(file, allow_pickle=False) as archive:
                if any(entry.compress_type for entry in archive.zip.infolist()):  # not ours: could be of any size
                    return None
                return {name: archive[name] for name in archive.files} or None
        except Exception:  # truncated or foreign: it is created again
            return None

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        write_npz(self._path(key), arrays)

    def kept(self, key: str, make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """The value stored under `key`; if there is none, `make` creates it."""
        found = self.get(key)
        if found is not None:
            return found
        made = make()
        self.put(key, made)
        return made

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"


class Cache(Store):
    """A store of at most `limit` bytes that drops the least recently used entries. It never raises an error.

    The folder is listed at the first write and whenever a sixteenth of the limit has been written since, by this
    process: others may share it.
    """

    def __init__(self, folder: str | Path, limit: int = CACHE_BYTES) -> None:
        super().__init__(folder)
        self.limit = limit
        self._room = 0  # bytes to be written before the folder is listed again

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        found = super().get(key)
        if found is not None:
            with suppress(OSError):
                os.utime(self._path(key))
        return found

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the arrays, where they take no more than an eighth of the limit and the folder can be written."""
        if sum(a.nbytes for a in arrays.values()) > self.limit / 8 or self._path(key).is_fifo():
            return
        with suppress(InputError, OSError):
            super().put(key, arrays)
            self._room -= self._path(key).stat().st_size
            if self._room < 0:
                self._trim()

    def _trim(self) -> None:
        """Removes what is too much, and what a process that was killed left unfinished."""
        files = []
        for file in [*self.folder.glob("*.npz"), *self.folder.glob(".*.part")]:
            with suppress(OSError):  # another process may have removed it
                status = file.stat()
                unfinished = file.suffix == ".part" and time.time() - status.st_mtime > ABANDONED
                files.append((not unfinished, status.st_mtime, status.st_size, file))
        total = sum(size for _, _, size, _ in files)
        for finished, _, size, file in sorted(files):
            if finished and total <= self.limit - self.limit // 16:
                break
            with suppress(OSError):
                file.unlink()
            total -= size
        self._room = self.limit // 16


def user_cache() -> Cache | None:
    """This user's cache: the folder ONNX_ANALYZER_CACHE (none if that is set but empty), else the system's cache
    folder."""
    folder = os.environ.get(CACHE_VARIABLE)
    with suppress(InputError, RuntimeError):  # RuntimeError: this user has no home
        if folder is None:
            base = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
            folder = str(Path(base or Path.home() / ".cache") / "onnx-analyzer")
        return Cache(folder) if folder else None
    return None


@functools.cache
def code_stamp() -> str:
    """A hash of onnx-analyzer's source files; it changes with the code, also between releases."""
    folder = Path(__file__).parent
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    digest = hashlib.sha256(__version__.encode())
    for file in files:
        digest.update(
            f"{file.relative_to(folder).as_posix()}\0{hashlib.sha256(file.read_bytes()).hexdigest()}".encode()
        )
    return digest.hexdigest()


def key_of(*parts: Any) -> str:
    """A file name for what depends on `parts`, arrays by their bytes, all else by its JSON; and on our code.

    The one definition of sameness for everything that is kept. A part names all that a result depends on: of a model
    `Source.identity`, of a run `runtime.environment`, pictures and preprocessing by the tensor they become.
    """
    digest = hashlib.sha256(code_stamp().encode())
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
    return np.frombuffer(as_json(data).encode(), np.uint8)


def unpacked(array: np.ndarray) -> Any:
    return json.loads(array.tobytes())


__all__ = ["Cache", "Store", "code_stamp", "key_of", "packed", "unpacked", "user_cache"]
