"""The pass over the pictures: decode ahead, reduce in the graph, rank, keep what is done."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution import Explainer
from analyzer.errors import AnalyzerError, InputError
from analyzer.files import content_hash, guard, make_folder, protect
from analyzer.images import Preprocess, decode
from analyzer.mining.journal import Batch, Journal, State, chained, merge_states
from analyzer.mining.manifest import Manifest
from analyzer.mining.ranking import Ranking
from analyzer.mining.reduction import Reduction
from analyzer.mining.statistics import PeakStatistics
from analyzer.store import code_stamp

AHEAD = 2  # batches that are decoded ahead of the one that runs
KEEP_EVERY = 30.0  # seconds between two writings of the state


@dataclass
class MiningResult:
    """What was found.

    Attributes:
        manifest: the pictures; `rankings[layer].images` are numbers into it.
        rankings, statistics: per layer.
        failed: {number of the picture: why it could not be read}.
        resumed: pictures that an earlier run had finished.
        not_finite: {number of the picture: where NaN or ∞ first appears}; layers that it reaches leave the picture out.
    """

    manifest: Manifest
    rankings: dict[str, Ranking]
    statistics: dict[str, PeakStatistics]
    failed: dict[int, str]
    resumed: int = 0
    not_finite: dict[int, str] = field(default_factory=dict)


@guard()
def mine(
    explainer: Explainer,
    pictures: Manifest | Iterable[str | os.PathLike[str]],
    layers: Sequence[str],
    preprocess: Preprocess,
    k: int = 9,
    folder: str | os.PathLike[str] | None = None,
    batch: int = 8,
    shard: tuple[int, int] = (1, 1),
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> MiningResult:
    """The k strongest activations of every channel of `layers` over all pictures, one position per picture.

    Memory does not grow with the number of pictures. With a `folder`, what is finished is kept there: a run that was
    killed goes on where it was, and gives what it would have given. Shards can be mined by different processes into
    one folder; a call for the whole then merges them.

    Args:
        pictures: a manifest, or files, folders and lists.
        preprocess: picture to input tensor; of a fixed size.
        batch: pictures per run; the model's own where it is fixed.
        shard: (i, n): only pictures i − 1, i − 1 + n, …
        workers: threads that decode.
        progress: called with the number of pictures after each batch.

    Raises:
        InputError: the folder holds another run, or is in use; no picture; preprocessing without a size.
        NotFoundError, UnsupportedError: a layer does not exist or has no channels.
    """
    manifest = pictures if isinstance(pictures, Manifest) else Manifest.read(pictures)
    protect(*explainer.loaded.files, *manifest.paths)
    if preprocess.size is None:
        raise InputError("mining needs pictures of one size", "fix it, for example with --size 224x224")
    if k < 1 or not 1 <= shard[0] <= shard[1]:
        raise InputError(f"shard {shard[0]} of {shard[1]} with the {k} strongest: all must be 1 or more")
    sizes = preprocess.shape(explainer.fixed_batch or batch)
    reduction = Reduction(explainer, layers, {explainer.image: sizes})
    about = {
        "model": explainer.loaded.identity,
        "environment": explainer.environment,
        "code": code_stamp(),
        "layers": list(reduction.units),
        "k": k,
        "preprocess": repr(preprocess),
        "pictures": len(manifest),
        "batch": sizes[0],
    }
    miner = Miner(reduction, explainer.image, manifest, preprocess, sizes[0], about, workers)
    state, resumed = miner.run(shard, Path(folder) if folder else None, progress)
    return MiningResult(manifest, state.rankings, state.statistics, state.failed, resumed, state.not_finite)


@dataclass(frozen=True)
class Miner:
    """One run over the pictures of a shard."""

    reduction: Reduction
    image: str
    manifest: Manifest
    preprocess: Preprocess
    batch: int
    about: dict[str, Any]
    workers: int = 1

    def run(
        self, shard: tuple[int, int], folder: Path | None, progress: Callable[[int], None] | None
    ) -> tuple[State, int]:
        """(the finished state, how many pictures were finished before)."""
        numbers = np.arange(shard[0] - 1, len(self.manifest), shard[1])
        run = {**self.about, "shard": list(shard)}
        if folder is None:
            state = self._begin(run)
            for batch in self._batches(numbers, 0):
                state.take(batch)
                if progress:
                    progress(batch.stop - batch.start)
            return state, 0
        make_folder(folder)
        merged = self._merged(folder, run) if shard == (1, 1) else None
        if merged is not None:
            return merged, merged.done
        return self._resumable(folder, numbers, run, progress)

    def _resumable(
        self, folder: Path, numbers: np.ndarray, run: dict[str, Any], progress: Callable[[int], None] | None
    ) -> tuple[State, int]:
        path = state_path(folder, run["shard"])
        journal = Journal(path.with_suffix(".journal"), run["layers"])
        if path.exists() and not journal.path.exists():
            state = State.load(path)
            _same_run(path, state.run, run)
            self._check_pictures(path, state, numbers)
            if state.done == len(numbers):
                if progress:
                    progress(state.done)
                return state, state.done
        journal.open()
        state = State.load(path) if path.exists() else self._begin(run)
        _same_run(path, state.run, run)
        for batch in journal.read():
            if batch.start >= state.done:
                state.take(batch)
        self._check_pictures(path, state, numbers)
        resumed = state.done
        if progress and resumed:
            progress(resumed)
        state.save(path)
        journal.clear()
        kept = time.monotonic()
        for batch in self._batches(numbers, state.done):
            journal.append(batch)
            state.take(batch)
            if time.monotonic() - kept > KEEP_EVERY:
                state.save(path)
                journal.clear()
                kept = time.monotonic()
            if progress:
                progress(batch.stop - batch.start)
        state.save(path)
        journal.close()
        return state, resumed

    def _begin(self, run: dict[str, Any]) -> State:
        channels = {name: units.channels for name, units in self.reduction.units.items()}
        rankings = {name: Ranking.empty(n, run["k"]) for name, n in channels.items()}
        return State(run, 0, rankings, {name: PeakStatistics.empty(n) for name, n in channels.items()}, {})

    def _merged(self, folder: Path, run: dict[str, Any]) -> State | None:
        """All shards of this run together, where they lie in the folder and are finished; else None."""
        states = [State.load(path) for path in sorted(folder.glob("state.*-of-*.npz")) if path.stem != "state.1-of-1"]
        if not states:
            return None
        for state in states:
            _same_run(folder, {**state.run, "shard": None}, {**run, "shard": None})
            i, n = state.run["shard"]
            numbers = np.arange(i - 1, len(self.manifest), n)
            if state.done < len(numbers):
                raise InputError(f"{folder}: shard {i} of {n} is not finished: {state.done} of {len(numbers)} pictures")
            self._check_pictures(folder, state, numbers)
        return merge_states(states)

    def _check_pictures(self, path: Path, state: State, numbers: np.ndarray) -> None:
        """The pictures that are finished hold what they held.

        Raises:
            InputError: they do not.
        """
        content, done = "", numbers[: state.done].tolist()
        for start in range(0, len(done), self.batch):
            content = chained(content, chained(*map(self._content, done[start : start + self.batch])))
        if content != state.content:
            raise InputError(
                f"{path}: holds a run over other pictures: some have been changed, replaced or reordered since",
                "use another folder, or remove this one",
            )

    def _content(self, number: int) -> str:
        """A hash of what a picture's file holds; "" where it cannot be read."""
        try:
            return content_hash(self.manifest.paths[number])
        except OSError:
            return ""

    # ---- Decoding ahead ----

    def _batches(self, numbers: np.ndarray, done: int) -> Iterator[Batch]:
        """Finished batches from picture `done` of the shard on; the next ones are decoded meanwhile."""
        starts = range(done, len(numbers), self.batch)
        with ThreadPoolExecutor(self.workers, "decode") as pool:
            waiting: deque[list[Future[tuple[str, np.ndarray | str]]]] = deque()
            coming = iter(starts)

            def fetch() -> None:
                start = next(coming, None)
                if start is not None:
                    chosen = numbers[start : start + self.batch]
                    waiting.append([pool.submit(self._tensor, int(number)) for number in chosen])

            try:
                for _ in range(AHEAD):
                    fetch()
                for start in starts:
                    tensors = waiting.popleft()
                    fetch()
                    yield self._reduced(start, numbers[start : start + self.batch], tensors)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _tensor(self, number: int) -> tuple[str, np.ndarray | str]:
        """The hash of a picture's file, and its tensor or why there is none."""
        content = self._content(number)
        try:
            return content, self.preprocess.apply(decode(self.manifest.paths[number]))[0]
        except AnalyzerError as error:
            return content, error.message

    def _reduced(
        self, start: int, numbers: np.ndarray, tensors: Sequence[Future[tuple[str, np.ndarray | str]]]
    ) -> Batch:
        failed, arrays, kept, contents = dict[int, str](), list[np.ndarray](), list[int](), list[str]()
        for number, tensor in zip(numbers.tolist(), tensors, strict=True):
            content, found = tensor.result()
            contents.append(content)
            if isinstance(found, str):
                failed[number] = found
            else:
                arrays.append(found)
                kept.append(number)
        arrays += [np.zeros_like(_sample(self.preprocess))] * (self.batch - len(arrays))
        feeds = {self.image: np.concatenate(arrays)}
        reduced = self.reduction.run(feeds)
        rows = np.arange(len(kept))
        peaks = {layer: peaks.rows(rows) for layer, peaks in reduced.items()}
        bad = [row for row in rows.tolist() if not all(p.finite[row] for p in peaks.values())]
        words = self.reduction.why_not_finite(feeds, bad) if bad else []
        not_finite = {kept[row]: why for row, why in zip(bad, words, strict=True)}
        images = np.array(kept, np.int64)
        return Batch(start, start + len(numbers), images, peaks, failed, not_finite, chained(*contents))


def state_path(folder: Path, shard: Sequence[int]) -> Path:
    """Where the state of a shard is kept."""
    return folder / f"state.{shard[0]}-of-{shard[1]}.npz"


def _same_run(path: Path, kept: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = [key for key in wanted if kept.get(key) != wanted[key]]
    if differing:
        raise InputError(
            f"{path}: holds a run with other {', '.join(differing)}", "use another folder, or remove this one"
        )


def _sample(preprocess: Preprocess) -> np.ndarray:
    return preprocess.apply(np.zeros((8, 8, 3), np.uint8))[0]
