"""What a pass keeps on disk, so that one that was cut off goes on.

Two files for every run and shard: the state, written whole, and a journal of what came after it. A record is appended
for every finished batch, so a kill costs the batches in flight and nothing else. A record that was cut off is
recognised by its checksum and dropped, with all that follows. When the state is written, the journal starts anew.

Their names hold a key: the hash of everything that results depend on besides the samples. What samples hold is kept
with each block. So nothing here is ever stale, and any file can be deleted at any time.
"""

from __future__ import annotations

import os
import re
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from analyzer.errors import InputError, OutputError
from analyzer.files import atomic_write, check_output, make_folder
from analyzer.passes.codec import decode, encode
from analyzer.passes.tree import Block
from analyzer.store import key_of

_HEADER = struct.Struct("<4sIQ")  # magic, CRC-32 and length of the payload
_MAGIC = b"pass"
KEEP_EVERY = 30.0  # seconds between two writings of the state


unfinished: set[Path] = set()  # folders from which a run of this process can be continued


class Journal:
    """The files of one run and shard. One process at a time may write them.

    Args:
        name: of the pass.
        identity: see `Pass.identity`.
        shard: (i, n).
        samples, batch: of the whole run; for `states`.

    Raises:
        InputError: another process is at work on the same. OutputError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        identity: Mapping[str, Any],
        shard: tuple[int, int] = (1, 1),
        samples: int = 0,
        batch: int = 1,
    ) -> None:
        self.folder, self.name, self.identity = make_folder(folder), name, dict(identity)
        self._stem = f"{name}-{key_of(name, self.identity)[:16]}"
        self._state = self.folder / f"{self._stem}.{shard[0]}-of-{shard[1]}.state"
        self._log = self._state.with_suffix(".journal")
        self._whole = shard == (1, 1)
        self._file = self._opened()
        self._begun = self._log.stat().st_size > 0
        self._saved = time.monotonic()
        self._head = {"identity": self.identity, "samples": samples, "batch": batch, "begun": time.time(), "had": 0}

    def _opened(self) -> IO[bytes]:
        check_output(self._log)
        while True:
            try:
                file = self._log.open("ab")
            except OSError as error:
                raise OutputError(f"{self._log}: cannot be written ({error.strerror or error})") from error
            if not (_lock(file) or _lock_soon(file)):
                file.close()
                raise InputError(
                    f"{self._log}: another process is using this folder", "wait for it, or use another folder"
                )
            if self._log.exists() and os.path.samestat(self._log.stat(), os.fstat(file.fileno())):
                return file
            file.close()  # it was removed between opening and locking

    def blocks(self) -> list[Block]:
        """Whatever was kept of this run: by shard (1, 1) also what other shards did.

        Raises:
            InputError: another shard is still being done.
        """
        found = [*_records(self._state), *_records(self._log)]
        for path in sorted(self.folder.glob(f"{self._stem}.*")) if self._whole else ():
            if path in (self._state, self._log):
                continue
            if path.suffix == ".journal":
                with path.open("rb") as file:
                    if not _lock(file):
                        raise InputError(f"{path}: another process is working on this shard", "wait until it finishes")
            found += _records(path)
        return [Block(**record) for record in found if "level" in record]

    def doubt(self) -> str:
        """Says that the folder holds nothing of this run, but others of its kind, and how these differ; else ""."""
        states = {path: path.name.startswith(f"{self._stem}.") for path in self.folder.glob(f"{self.name}-*.state")}
        if self._begun or not states or any(states.values()):
            return ""
        last = max(states, key=lambda path: path.stat().st_mtime)
        other: dict[str, Any] = next((record["identity"] for record in _records(last)), {})
        differing = [name for name, value in self.identity.items() if other.get(name) != value]
        return f"{self.folder} has results of a run with different {', '.join(differing) or 'code'}; starting over"

    def resumed(self, samples: int) -> None:
        """So many were done when this process began: from now on `states` shows it.

        Raises:
            OutputError: the system refuses.
        """
        self._head["had"] = samples
        self._write(self._head)

    def append(self, block: Block) -> None:
        """Add a finished batch.

        Raises:
            OutputError: the system refuses.
        """
        self._write(*([] if self._begun else [self._head]), vars(block))
        self._begun = True

    def _write(self, *records: dict[str, Any]) -> None:
        try:
            self._file.write(b"".join(map(_packed, records)))
            self._file.flush()
        except OSError as error:
            hint = "make room and run again: it resumes after what is finished"
            raise OutputError(f"{self._log}: cannot be written ({error.strerror or error})", hint) from error

    def save(self, blocks: Iterable[Block], now: bool = True) -> None:
        """Write the state; unless `now`, only where that has not been done for a while."""
        if not now and time.monotonic() - self._saved < KEEP_EVERY:
            return
        records = [self._head, *map(vars, blocks)]
        atomic_write(self._state, b"".join(map(_packed, records)))
        self._file.truncate(0)
        self._begun = False
        self._saved = time.monotonic()

    def close(self, finished: bool = False) -> None:
        """Give the files up; where the state holds everything, there is no journal any more."""
        if finished:
            self._log.unlink(missing_ok=True)
        elif self._begun:
            unfinished.add(self.folder)
        self._file.close()

    def remove(self) -> None:
        """Remove what was kept of this run and shard."""
        for path in (self._state, self._log):
            path.unlink(missing_ok=True)


def _packed(record: dict[str, Any]) -> bytes:
    payload = encode(record)
    return _HEADER.pack(_MAGIC, zlib.crc32(payload), len(payload)) + payload


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a file, in order."""
    if not path.exists():
        return
    with path.open("rb") as file:
        most = os.fstat(file.fileno()).st_size
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            magic, checksum, length = _HEADER.unpack(header)
            payload = file.read(min(length, most)) if magic == _MAGIC else b""
            if magic != _MAGIC or len(payload) < length or zlib.crc32(payload) != checksum:
                return
            yield decode(payload)


def _lock_soon(file: IO[bytes]) -> bool:
    """`states` holds a file for a moment."""
    time.sleep(0.1)
    return _lock(file)


def _lock(file: IO[bytes]) -> bool:
    """Whether the file is now this process's alone; always on systems without such locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class State:
    """What a folder holds of one shard of a run.

    Attributes:
        name: of the pass. shard: "1/1".
        done, failed, of: pictures.
        running: whether a process is at work on it. changed: when it was last written, in seconds since 1970.
        rate: pictures per second since that process began; None where it is not known.
    """

    name: str
    shard: str
    done: int
    failed: int
    of: int
    running: bool
    changed: float
    rate: float | None


def states(folder: str | os.PathLike[str]) -> list[State]:
    """The runs of a folder, the last first; nothing is written, so it may be called while they are at work."""
    found: dict[str, list[Path]] = {}
    for path in _shards(Path(folder)):
        found.setdefault(path.stem, []).append(path)
    return sorted((_state(paths) for paths in found.values()), key=lambda state: -state.changed)


def _state(paths: Sequence[Path]) -> State:
    match = _SHARD.fullmatch(paths[0].name)
    assert match is not None
    records = [record for path in sorted(paths, reverse=True) for record in _records(path)]  # the state, the journal
    heads = [record for record in records if "samples" in record]
    head: dict[str, Any] = heads[-1] if heads else {"samples": 0, "batch": 1, "begun": 0.0, "had": 0}
    batch, count = head["batch"], head["samples"]
    blocks = [Block(**record) for record in records if "level" in record]
    done = sum(min(block.stop * batch, count) - min(block.start * batch, count) for block in blocks)
    index, parts, batches = int(match["index"]), int(match["count"]), -(-count // batch)
    of = min(count, batches * index // parts * batch) - min(count, batches * (index - 1) // parts * batch)
    changed = max(path.stat().st_mtime for path in paths)
    seconds = changed - head["begun"]
    rate = (done - head["had"]) / seconds if heads and seconds > 0 and done > head["had"] else None
    failed = sum(len(block.failed) for block in blocks)
    running = any(_in_use(path) for path in paths if path.suffix == ".journal")
    return State(match["name"], f"{index}/{parts}", done, failed, of, running, changed, rate)


def _in_use(path: Path) -> bool:
    with path.open("rb") as file:
        return not _lock(file)


_SHARD = re.compile(r"(?P<run>(?P<name>.+)-\w{16})\.(?P<index>\d+)-of-(?P<count>\d+)\.(state|journal)")


def merge(folders: Iterable[str | os.PathLike[str]], into: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Brings the shards of one run together that were done in several folders.

    A run of the whole into that folder then takes what they did, and does what is left.

    Returns:
        {name of the pass: shards that no folder holds, as "3/4"}.

    Raises:
        InputError: a folder holds no shard, or one is still being done; the folders are of different runs.
        OutputError: `into` cannot be written.
    """
    found = {folder: _shards(folder) for folder in map(Path, folders)}
    runs = {folder: {match["run"] for match in shards.values()} for folder, shards in found.items()}
    for folder, shards in found.items():
        if not shards:
            raise InputError(f"{folder} has no shard", "pass folders that runs with --shard wrote to")
        if runs[folder].isdisjoint(runs[next(iter(found))]):
            raise InputError(
                f"{next(iter(found))} and {folder} have shards of different runs",
                "all shards need the same model, preprocessing, options and kind of processor",
            )
    target = make_folder(Path(into))
    for path in (path for shards in found.values() for path in shards):
        place = target / path.name
        with path.open("rb") as file:
            if not _lock(file):
                raise InputError(f"{path}: another process is working on this shard", "wait for it")
            if not place.exists() or not place.samefile(path):
                atomic_write(place, file.read())
                os.utime(place, ns=(path.stat().st_mtime_ns,) * 2)  # from which `states` has the rate
    missing: dict[str, set[str]] = {}
    for match in _shards(target).values():
        every = {f"{i}/{match['count']}" for i in range(1, int(match["count"]) + 1)}
        missing[match["name"]] = missing.get(match["name"], every) - {f"{match['index']}/{match['count']}"}
    return {name: sorted(left) for name, left in missing.items()}


def _shards(folder: Path) -> dict[Path, re.Match[str]]:
    """The files of shards in a folder."""
    return {path: match for path in sorted(folder.glob("*")) if (match := _SHARD.fullmatch(path.name))}
