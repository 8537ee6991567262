"""Runs a pass: what is done is kept and merged here, whoever does the batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

from analyzer.data import Sample
from analyzer.errors import AnalyzerError, InputError
from analyzer.passes.base import Loaded, Pass
from analyzer.passes.journal import Journal
from analyzer.passes.local import Steps, content_of
from analyzer.passes.processes import Processes, suggested
from analyzer.passes.ray import Ray
from analyzer.passes.tree import Block, Tree, chained
from analyzer.runtime.host import cores

READERS = 16  # samples that are read at a time to see whether they still are what was done
LOOKED_AT = 64  # batches of which that is seen at once
Workers: TypeAlias = int | Processes | Ray | None  # steps at a time on this machine, or who does them


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
    workers: Workers = None,
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
        workers: steps that are at work at the same time on this machine, one per CPU when None; in threads of this
            process, or in several processes (see `Processes`) where there are several GPUs or many CPUs. Or an engine.
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
    about = running.identity, shard, len(samples), work.batch
    journal = Journal(Path(folder), work.name, *about) if folder is not None else None
    doubt = journal.doubt() if journal else ""
    try:
        resumed = running.resume(journal) if journal else 0
        if journal:
            journal.resumed(resumed)
        running.do(journal, workers)
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
        self.alone = len(samples) == 1
        self.steps = Steps(work, self.batch, kept, self.alone)
        self.first = next(self._loadable(), None) if work.anchored else None

    @property
    def identity(self) -> dict[str, Any]:
        """The pass's, and what the first sample holds where that matters."""
        anchor = {"first picture": self.first.sample.content} if self.first else {}
        return dict(self.work.identity) | anchor

    def _loadable(self) -> Iterator[Loaded]:
        for sample in self.samples:
            _, item, error = self.steps.loaded(sample)
            if error is None:
                yield Loaded(sample, item)

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
        """What a block's samples hold now; several are read at a time, as they may be far away."""
        hashes = list[str]()
        with ThreadPoolExecutor(READERS, "hash") as readers:
            for first in range(block.start, block.stop, LOOKED_AT):
                batches = [self.batch(i) for i in range(first, min(first + LOOKED_AT, block.stop))]
                contents = readers.map(lambda sample: sample.content, chain.from_iterable(batches))
                hashes += [content_of(batch, list(islice(contents, len(batch)))) for batch in batches]
        while len(hashes) > 1:
            hashes = [chained(*pair) for pair in zip(hashes[::2], hashes[1::2], strict=True)]
        return hashes[0]

    # ---- Doing the rest ----

    def do(self, journal: Journal | None, workers: Workers) -> None:
        """Every batch that is not done."""
        left = [index for index in self.wanted if index not in self.done]
        if not left:
            return
        for block in self._blocks(left, workers):
            if journal:
                journal.append(block)
            self.take(block)
            if journal:
                journal.save(self.tree, now=False)
            self.progress(sum(len(self.batch(index)) for index in range(block.start, block.stop)))

    def _blocks(self, left: Sequence[int], workers: Workers) -> Iterator[Block]:
        count = workers or cores()
        engine = suggested(self.work, len(left), count) if isinstance(count, int) else count
        if engine is not None:
            first = self.first.sample if self.first else None
            return engine.blocks(self.work, [(i, self.batch(i)) for i in left], first, self.kept, self.alone)
        assert isinstance(count, int)
        with self.steps.at_work([self.first] if self.first else []):
            self.work.setup(self.first)
        return self.steps.blocks(left, min(count, len(left)))
