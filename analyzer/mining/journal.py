"""What is kept on disk while mining: a state file, written whole, and a journal of what came after it.

A record is appended to the journal for every finished batch, so a kill costs the batch in flight and nothing else: on
the next start the state is read and the journal replayed. A record that was cut off is recognised by its checksum and
dropped. When the state is written, the journal starts anew; records that the state already holds are skipped.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from analyzer.errors import InputError, OutputError
from analyzer.files import check_output, write_text
from analyzer.images import write_npz
from analyzer.mining.ranking import Ranking
from analyzer.mining.reduction import Peaks
from analyzer.mining.statistics import PeakStatistics
from analyzer.plain import as_json

_HEADER = struct.Struct("<4sIIQQ")  # magic, CRC-32 and length of the payload, first and last picture of the batch + 1
_MAGIC = b"mine"


@dataclass
class State:
    """How far a shard is, and what was found.

    Attributes:
        run: what was asked for: model, layers, k, preprocessing, pictures, shard.
        done: pictures of the shard that are finished, from its first.
        rankings, statistics: per layer.
        failed: {number of the picture: why it could not be read}.
        not_finite: {number of the picture: where NaN or ∞ first appears}; layers that it reaches leave the picture out.
        content: a hash of all that the finished pictures' files held, batch by batch.
    """

    run: dict[str, Any]
    done: int
    rankings: dict[str, Ranking]
    statistics: dict[str, PeakStatistics]
    failed: dict[int, str]
    not_finite: dict[int, str] = field(default_factory=dict)
    content: str = ""

    def take(self, batch: Batch) -> None:
        """Take in a finished batch."""
        for layer, peaks in batch.peaks.items():
            kept = peaks.finite
            finite = peaks.rows(kept)
            self.rankings[layer].update(finite.values, finite.places, batch.images[kept])
            self.statistics[layer].update(finite.values, finite.means)
        self.failed |= batch.failed
        self.not_finite |= batch.not_finite
        self.content = chained(self.content, batch.content)
        self.done = batch.stop

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        about = {"run": self.run, "done": self.done, "failed": self.failed, "not finite": self.not_finite}
        about |= {"content": self.content}
        arrays = {"about": np.frombuffer(as_json(about, sort_keys=True).encode(), np.uint8)}
        for at, layer in enumerate(self.rankings):
            for kind, part in (("ranking", self.rankings[layer]), ("statistics", self.statistics[layer])):
                arrays |= {f"{at}/{kind}/{f.name}": getattr(part, f.name) for f in fields(part)}
        write_npz(path, arrays)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read what `save` wrote.

        Raises:
            InputError: the file is none of ours.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                about = json.loads(archive["about"].tobytes())
                rankings, statistics = {}, {}
                for at, layer in enumerate(about["run"]["layers"]):
                    rankings[layer] = Ranking(*(archive[f"{at}/ranking/{f.name}"] for f in fields(Ranking)))
                    parts = (archive[f"{at}/statistics/{f.name}"] for f in fields(PeakStatistics))
                    statistics[layer] = PeakStatistics(*parts)
                failed, not_finite = _by_number(about["failed"]), _by_number(about.get("not finite", {}))
                return cls(about["run"], about["done"], rankings, statistics, failed, not_finite, about["content"])
        except Exception as error:
            raise InputError(f"{path}: is no state of `mine` ({error})", "remove it to start anew") from None


@dataclass(frozen=True)
class Batch:
    """Pictures start … stop − 1 of a shard, finished: numbers of those that could be read, their peaks, and a hash of
    what the files of all of them held."""

    start: int
    stop: int
    images: np.ndarray
    peaks: dict[str, Peaks]
    failed: dict[int, str]
    not_finite: dict[int, str]
    content: str


def chained(*hashes: str) -> str:
    """The hash of hashes."""
    return hashlib.sha256("\0".join(hashes).encode()).hexdigest()


class Journal:
    """Finished batches since the last state, one file per shard; one process at a time may write it."""

    def __init__(self, path: Path, layers: Sequence[str]) -> None:
        self.path, self.layers = path, layers
        self._file: IO[bytes] | None = None

    def read(self) -> Iterator[Batch]:
        """The whole records, in order."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            while len(header := file.read(_HEADER.size)) == _HEADER.size:
                magic, checksum, length, start, stop = _HEADER.unpack(header)
                payload = file.read(length) if magic == _MAGIC else b""
                if magic != _MAGIC or len(payload) < length or zlib.crc32(payload) != checksum:
                    return
                yield self._unpack(start, stop, payload)

    def open(self) -> None:
        """Keep the journal for this process.

        Raises:
            InputError: another process is at work here.
        """
        check_output(self.path)
        try:
            self._file = self.path.open("ab")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror or error})") from error
        if not _lock(self._file):
            self._file.close()
            self._file = None
            raise InputError(f"{self.path}: another process is mining here", "wait for it, or use another folder")

    def clear(self) -> None:
        """Start anew: the state holds what was finished."""
        assert self._file is not None
        self._file.truncate(0)

    def append(self, batch: Batch) -> None:
        """Add a finished batch."""
        assert self._file is not None
        payload = self._pack(batch)
        header = _HEADER.pack(_MAGIC, zlib.crc32(payload), len(payload), batch.start, batch.stop)
        self._file.write(header + payload)
        self._file.flush()

    def close(self) -> None:
        """Give the journal up, and remove it: the state holds everything."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _pack(self, batch: Batch) -> bytes:
        stream = io.BytesIO()
        about = {"failed": batch.failed, "not finite": batch.not_finite, "content": batch.content}
        parts = [np.frombuffer(as_json(about).encode(), np.uint8), batch.images]
        for layer in self.layers:
            peaks = batch.peaks[layer]
            parts += [peaks.values, peaks.places, peaks.means]
        for part in parts:
            np.lib.format.write_array(stream, np.ascontiguousarray(part), allow_pickle=False)
        return stream.getvalue()

    def _unpack(self, start: int, stop: int, payload: bytes) -> Batch:
        stream = io.BytesIO(payload)
        parts = [np.lib.format.read_array(stream, allow_pickle=False) for _ in range(2 + 3 * len(self.layers))]
        about = json.loads(parts[0].tobytes())
        failed, not_finite = _by_number(about["failed"]), _by_number(about["not finite"])
        peaks = {layer: Peaks(*parts[2 + 3 * at : 5 + 3 * at]) for at, layer in enumerate(self.layers)}
        return Batch(start, stop, parts[1], peaks, failed, not_finite, about["content"])


def _by_number(words: Mapping[str, str]) -> dict[int, str]:
    return {int(number): text for number, text in words.items()}


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


def merge_states(states: Sequence[State]) -> State:
    """The state of all shards together.

    Raises:
        InputError: they are not finished shards of one run.
    """
    first = states[0]
    common = {key: value for key, value in first.run.items() if key != "shard"}
    if any({k: v for k, v in s.run.items() if k != "shard"} != common for s in states):
        raise InputError("these shards are of different runs", "mine them with the same model, layers and pictures")
    count = first.run["shard"][1]
    present = sorted(s.run["shard"][0] for s in states)
    if present != list(range(1, count + 1)):
        missing = sorted(set(range(1, count + 1)) - set(present))
        raise InputError(f"of {count} shards {', '.join(map(str, missing)) or 'some'} are missing")
    merged = State({**common, "shard": [1, 1]}, first.done, dict(first.rankings), dict(first.statistics), {})
    for state in states[1:]:
        merged.done += state.done
        for layer in merged.rankings:
            merged.rankings[layer] = merged.rankings[layer].merge(state.rankings[layer])
            merged.statistics[layer] = merged.statistics[layer].merge(state.statistics[layer])
    merged.failed = {i: why for s in states for i, why in s.failed.items()}
    merged.not_finite = {i: why for s in states for i, why in s.not_finite.items()}
    return merged


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """The document as a file, whole or not at all."""
    write_text(path, as_json(content, indent=1, ensure_ascii=False) + "\n")
