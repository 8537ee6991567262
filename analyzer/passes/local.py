"""The engine of one machine: threads of this process, which share the model and its sessions."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from analyzer.data import Sample
from analyzer.errors import AnalyzerError, InputError, OutputError
from analyzer.passes.base import Loaded, Pass
from analyzer.passes.journal import Journal
from analyzer.passes.tree import Block, Tree, chained
from analyzer.plain import as_json

_Loading: TypeAlias = "tuple[str, Any, AnalyzerError | None]"
_Coming: TypeAlias = "tuple[int, Future[list[_Loading]]]"  # a batch that is being loaded
AHEAD = 2  # batches that are loaded ahead of those at work
TURN = 0.05  # seconds of work, at most, whose batches are done at once


@dataclass
class Outcome:
    """What a pass gave.

    Attributes:
        result: what `Pass.finish` made of it; None for a share of the samples.
        failed: {id of the sample: the error that kept it out}, in their order.
        resumed: samples that an earlier run had finished.
        doubt: what to tell of the folder; see `Journal.doubt`.
    """

    result: Any
    failed: dict[str, AnalyzerError]
    resumed: int = 0
    doubt: str = ""


def run(
    work: Pass[Any],
    samples: Sequence[Sample],
    folder: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    shard: tuple[int, int] = (1, 1),
    progress: Callable[[int], None] | None = None,
    forget: bool = False,
    each: Callable[[Any, dict[str, AnalyzerError]], None] | None = None,
) -> Outcome:
    """Runs a pass over samples; the next ones are loaded meanwhile.

    The outcome is the same for any number of workers and shards, and however often a run was cut off, as long as
    sessions have the same number of threads on the same kind of CPU.

    Args:
        folder: where what is finished is kept, so that a run that was killed goes on where it was. Shards may be done
            by different processes into one folder; a run of the whole takes what they did, and does what is left.
        workers: steps that are at work at the same time; one per CPU when None.
        shard: (i, n): only the i-th of n equal parts.
        progress: called with the number of samples after each batch.
        forget: remove what was kept once all is done.
        each: called in this thread with every partial result (None where no sample could be used) and the errors of
            its samples, as soon as those before it are done: in the order of the samples, whatever is done first.

    Raises:
        InputError: there is no sample; the folder is in use; no such shard.
        AnalyzerError: what `step` raises, unless the pass is tolerant.
    """
    if not samples:
        raise InputError("no pictures found", "pass pictures, folders or a list file")
    if not 1 <= shard[0] <= shard[1]:
        raise InputError(f"no shard {shard[0]} of {shard[1]}", "write it as 1/4 … 4/4")
    running = _Running(work, samples, shard, progress or (lambda count: None), folder is not None, each)
    journal = Journal(Path(folder), work.name, running.identity, shard) if folder is not None else None
    doubt = journal.doubt() if journal else ""
    try:
        resumed = running.resume(journal) if journal else 0
        running.do(journal, workers or default_workers())
        if journal:
            journal.save(running.tree)
    except BaseException:
        if journal:
            journal.close()
        raise
    if journal:
        journal.close(finished=True)
    failed = running.errors(running.tree.failed)
    result = work.finish(running.tree.total()) if shard == (1, 1) else None
    if journal and forget:
        journal.remove()
    return Outcome(result, failed, resumed, doubt)


def default_workers() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Running:
    """A pass under way over a share of the samples."""

    def __init__(
        self,
        work: Pass[Any],
        samples: Sequence[Sample],
        shard: tuple[int, int],
        progress: Callable[[int], None],
        kept: bool,
        each: Callable[[Any, dict[str, AnalyzerError]], None] | None = None,
    ) -> None:
        self.work, self.samples, self.progress = work, samples, progress
        count = -(-len(samples) // work.batch)
        self.wanted = range(count * (shard[0] - 1) // shard[1], count * shard[0] // shard[1])
        self.tree, self.kept = Tree(work.merge), kept
        self.done: set[int] = set()
        self.each, self.waiting, self.next = each, dict[int, Block](), self.wanted.start
        self.first = next(self._loadable(), None) if work.anchored else None
        self.together = 1  # batches that are done at once: as many as a turn allows

    @property
    def identity(self) -> dict[str, Any]:
        """The pass's, and what the first sample holds where that matters."""
        anchor = {"first picture": self.first.sample.content} if self.first else {}
        return dict(self.work.identity) | anchor

    def _loadable(self) -> Iterator[Loaded]:
        for sample in self.samples:
            with suppress(AnalyzerError):
                yield Loaded(sample, self.work.load(sample))

    def batch(self, index: int) -> Sequence[Sample]:
        return self.samples[index * self.work.batch : (index + 1) * self.work.batch]

    def errors(self, failed: Mapping[int, tuple[str, str]]) -> dict[str, AnalyzerError]:
        """{id of the sample: why it could not be used}."""
        return {self.samples[number].id: InputError(*why) for number, why in failed.items()}

    def take(self, block: Block) -> None:
        """Adds what is done, and reports all blocks that follow without a gap."""
        if self.each is not None:
            self.waiting[block.start] = block
            while (first := self.waiting.pop(self.next, None)) is not None:
                self.each(first.partial, self.errors(first.failed))
                self.next = first.stop
        self.tree.add(block)

    # ---- What an earlier run did ----

    def resume(self, journal: Journal) -> int:
        """Takes in what was kept and still holds; how many samples that are."""
        for block in sorted(journal.blocks(), key=lambda b: -b.level):
            covered = range(block.start, block.stop)
            inside = self.wanted.start <= covered.start and covered.stop <= self.wanted.stop
            if not inside or not self.done.isdisjoint(covered) or block.content != self._content(block):
                continue
            if block.partial is None or self.work.holds(block.partial):
                self.take(block)
                self.done |= set(covered)
        resumed = sum(len(self.batch(index)) for index in self.done)
        if resumed:
            self.progress(resumed)
        return resumed

    def _content(self, block: Block) -> str:
        """What a block's samples hold now."""
        hashes = [
            _content_of(self.batch(i), [s.content for s in self.batch(i)]) for i in range(block.start, block.stop)
        ]
        while len(hashes) > 1:
            hashes = [chained(*pair) for pair in zip(hashes[::2], hashes[1::2], strict=True)]
        return hashes[0]

    # ---- Doing the rest ----

    def do(self, journal: Journal | None, workers: int) -> None:
        """Every batch that is not done."""
        left = [index for index in self.wanted if index not in self.done]
        if not left:
            return
        self.work.setup(self.first)
        for block in self._finished(left, min(workers, len(left))):
            if journal:
                journal.append(block)
            self.take(block)
            if journal:
                journal.save(self.tree, now=False)
            self.progress(len(self.batch(block.index)))

    def _finished(self, left: Sequence[int], workers: int) -> Iterator[Block]:
        """Blocks of one batch each, about in their order."""
        loaders, coming = ThreadPoolExecutor(workers, "load"), iter(left)
        steppers = ThreadPoolExecutor(workers, "step")
        loading: deque[_Coming] = deque()
        stepping: set[Future[list[Block]]] = set()

        def fetch() -> None:
            for index in islice(coming, max(0, AHEAD + workers * self.together - len(loading))):
                loading.append((index, loaders.submit(copy_context().run, self._load, index)))

        def group() -> list[_Coming]:
            """The next batch, and those after it that are loaded already."""
            found = [loading.popleft()]
            while loading and len(found) < self.together and loading[0][1].done():
                found.append(loading.popleft())
            fetch()
            return found

        try:
            fetch()
            while loading or stepping:
                while loading and len(stepping) < workers:
                    if workers == 1:
                        yield from self._blocks(group())
                    else:
                        stepping.add(steppers.submit(copy_context().run, self._blocks, group()))
                ready, stepping = wait(stepping, return_when=FIRST_COMPLETED)
                for future in sorted(ready, key=lambda f: f.exception() is not None):
                    yield from future.result()
        finally:
            for pool in (loaders, steppers):
                pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, index: int) -> list[_Loading]:
        return [self._loaded(sample) for sample in self.batch(index)]

    def _loaded(self, sample: Sample) -> _Loading:
        """(a hash of what the sample holds, what `load` made of it, or why there is nothing)"""
        content = sample.content if self.kept else ""
        try:
            return content, self.work.load(sample), None
        except AnalyzerError as error:
            return content, None, error

    def _blocks(self, group: Sequence[_Coming]) -> list[Block]:
        """Batches, done: all at once, or one by one where there is an error among them."""
        ready = [_Ready(self.batch(index), coming.result()) for index, coming in group]
        batches = [one.batch for one in ready if one.batch]
        start = time.perf_counter()
        partials: Iterator[Any] | None = None
        if len(batches) > 1:
            with suppress(AnalyzerError):
                partials = iter(self.work.step_all(batches))
        blocks = [self._block(index, one, partials) for (index, _), one in zip(group, ready, strict=True)]
        each = (time.perf_counter() - start) / len(group)
        self.together = max(1, min(self.work.together, int(TURN / max(each, 1e-9))))
        return blocks

    def _block(self, index: int, ready: _Ready, partials: Iterator[Any] | None) -> Block:
        """A batch, done, its partial result the next of those given."""
        batch, errors, partial = ready.batch, ready.errors, None
        try:
            if batch:
                partial = self.work.step(batch) if partials is None else next(partials)
        except OutputError:
            raise
        except AnalyzerError as error:
            if not self.work.tolerant or len(batch) > 1:
                raise
            errors[batch[0].sample.number] = error
        if errors and len(self.samples) == 1:
            raise next(iter(errors.values()))
        failed = {number: (error.message, error.hint) for number, error in errors.items()}
        return Block(0, index, partial, failed, ready.content if self.kept else "")


class _Ready:
    """A batch that is loaded.

    Attributes:
        batch: the samples that could be loaded.
        errors: {number of the sample: why it could not}.
    """

    def __init__(self, samples: Sequence[Sample], loaded: Sequence[_Loading]) -> None:
        self._samples, self._loaded = samples, loaded
        self.batch = [Loaded(s, item) for s, (_, item, error) in zip(samples, loaded, strict=True) if not error]
        self.errors = {s.number: error for s, (_, _, error) in zip(samples, loaded, strict=True) if error}

    @property
    def content(self) -> str:
        """A hash of what the samples hold."""
        return _content_of(self._samples, [content for content, _, _ in self._loaded])


def _content_of(samples: Sequence[Sample], contents: Sequence[str]) -> str:
    """A hash of a batch: what its samples are called, what they hold, and what is known of them."""
    known = [[s.id, content, as_json(s.annotations)] for s, content in zip(samples, contents, strict=True)]
    return chained(as_json(known))
