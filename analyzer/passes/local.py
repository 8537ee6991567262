"""The engine of one machine: threads of this process, which share the model and its sessions."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from itertools import chain, islice
from typing import Any, TypeAlias

from analyzer import heartbeat
from analyzer.data import Sample
from analyzer.errors import AnalyzerError, OutputError, UnsupportedError
from analyzer.passes.base import Loaded, Pass
from analyzer.passes.tree import Block, chained
from analyzer.plain import as_json

_Loading: TypeAlias = "tuple[str, Any, AnalyzerError | None]"
_Coming: TypeAlias = "tuple[int, Future[list[_Loading]]]"  # a batch that is being loaded
AHEAD = 2  # batches that are loaded ahead of those at work
TURN = 0.1  # seconds of work, at most, whose batches are done at once


class Steps:
    """Batches become blocks in this process: the next ones are loaded in threads meanwhile.

    Args:
        batch: the samples of a batch, by its number.
        kept: blocks hold a hash of what their samples hold, for a journal.
        alone: there is one sample only, and its error is raised.
    """

    def __init__(self, work: Pass[Any], batch: Callable[[int], Sequence[Sample]], kept: bool, alone: bool) -> None:
        self.work, self.batch, self.kept, self.alone = work, batch, kept, alone
        self.together = 1  # batches that are done at once: as many as a turn allows

    def blocks(self, left: Iterable[int], workers: int) -> Iterator[Block]:
        """Blocks of one batch each, about in their order."""
        if heartbeat.past.careful:
            yield from map(self._carefully, left)
            return
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
        return [self.loaded(sample) for sample in self.batch(index)]

    def loaded(self, sample: Sample) -> _Loading:
        """(a hash of what the sample holds, what `load` made of it, or why there is nothing)"""
        content = ""
        try:
            sample = sample.fetched()
            content = sample.content if self.kept else ""
            if why := heartbeat.past.lost.get(name_of(sample)):
                raise UnsupportedError(*why)
            with self.at_work([Loaded(sample, None)]):
                return content, self.work.load(sample), None
        except AnalyzerError as error:
            return content, None, error

    def at_work(self, batch: Iterable[Loaded]) -> AbstractContextManager[None]:
        """Inside, a crash is one of these samples."""
        return heartbeat.at_work(*(name_of(each.sample) for each in batch if not self.alone))

    def _carefully(self, index: int) -> Block:
        """A batch with nothing else at work, after its samples were tried one by one: one of them ends this process."""
        ready = _Ready(self.batch(index), self._load(index))
        for each in ready.batch if len(ready.batch) > 1 else ():
            with self.at_work([each]), suppress(AnalyzerError):
                self.work.step([each])
        with self.at_work(ready.batch):
            block = self._block(index, ready, None)
        heartbeat.done(*(name_of(each.sample) for each in ready.batch))
        return block

    def _blocks(self, group: Sequence[_Coming]) -> list[Block]:
        """Batches, done: all at once, or one by one where there is an error among them."""
        ready = [_Ready(self.batch(index), coming.result()) for index, coming in group]
        batches = [one.batch for one in ready if one.batch]
        start = time.perf_counter()
        partials: Iterator[Any] | None = None
        with self.at_work(chain.from_iterable(batches)):
            if len(batches) > 1:
                with suppress(AnalyzerError):
                    partials = iter(self.work.step_all(batches))
            blocks = [self._block(index, one, partials) for (index, _), one in zip(group, ready, strict=True)]
        heartbeat.done(*(name_of(each.sample) for batch in batches for each in batch))
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
        if errors and self.alone:
            raise next(iter(errors.values()))
        failed = {number: (error.message, error.hint) for number, error in errors.items()}
        return Block(0, index, partial, failed, ready.content if self.kept else "")


def name_of(sample: Sample) -> str:
    """The same in another process that does the same."""
    return f"{sample.number} {sample.id}"


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
        return content_of(self._samples, [content for content, _, _ in self._loaded])


def content_of(samples: Sequence[Sample], contents: Sequence[str]) -> str:
    """A hash of a batch: what its samples are called, what they hold, and what is known of them."""
    known = [[s.id, content, as_json(s.annotations)] for s, content in zip(samples, contents, strict=True)]
    return chained(as_json(known))
