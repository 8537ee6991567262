"""The engine of one machine that has several GPUs, or more CPUs than one Python keeps busy."""

from __future__ import annotations

import pickle
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from analyzer.child import started
from analyzer.data import Sample
from analyzer.errors import AnalyzerError, UnsupportedError
from analyzer.limits import killed
from analyzer.passes.actor import Numbered, blocks_of, parts_of, pickled, provider_of
from analyzer.passes.base import Pass
from analyzer.passes.local import name_of
from analyzer.passes.tree import Block
from analyzer.passes.worker import receive, send
from analyzer.runtime.host import cores, gpus
from analyzer.runtime.providers import cuda_problem

THREADS = 16  # of one process, at most: of every picture Python's lock takes a quarter of a millisecond or more
WORTH = 64  # batches for each process, from which its start pays
BARREN = 8  # processes in a row that may end without having finished anything
POLL = 0.1  # seconds between two looks at whether all is to end


@dataclass(frozen=True)
class Processes:
    """Processes of this machine that do the batches of a pass, instead of threads of this one.

    Each holds the model and its sessions. The results are those of threads, to the byte. A sample that crashes native
    code is left out, and another process does the rest.

    Attributes:
        count: processes. Default: one per GPU where the model runs on "cuda", else one per CPU.
        threads: steps at a time in each of them.
    """

    count: int | None = None
    threads: int = 1

    def blocks(
        self, work: Pass[Any], batches: Sequence[Numbered], first: Sample | None, kept: bool, alone: bool
    ) -> Iterator[Block]:
        """As `Ray.blocks`."""
        devices = _devices(work)
        count = min(self.count or len(devices) or cores(), len(batches))
        start = pickle.dumps((pickled(work), first, kept, alone, self.threads))
        run = _Run(start, parts_of(batches, count * self.threads), count)
        workers = [_Worker(run, devices[at % len(devices)] if devices else None) for at in range(count)]
        threads = [threading.Thread(target=each.work, daemon=True, name="onnx-analyzer-worker") for each in workers]
        for thread in threads:
            thread.start()
        try:
            left = len(batches)
            while left:
                for block in blocks_of(run.next()):
                    left -= 1 << block.level
                    yield block
        finally:
            run.stopped.set()
            for each in workers:
                each.end()
            for thread in threads:
                thread.join()


def suggested(work: Pass[Any], batches: int, workers: int) -> Processes | None:
    """What suits this machine: a process per GPU where there are several, or several where there are many CPUs; None
    for threads of this process.

    Args:
        workers: steps at a time, over all.
    """
    devices = _devices(work)
    count = len(devices) if len(devices) > 1 else -(-workers // THREADS)
    if count < 2 or batches < count * WORTH:
        return None
    with suppress(AnalyzerError):
        pickled(work)
        return Processes(count, -(-workers // count))
    return None  # other processes cannot make it anew


def _devices(work: Pass[Any]) -> list[str]:
    """The GPUs that a pass may use; none where one is named, or the model runs elsewhere."""
    provider = provider_of(work)
    return gpus() if provider == "cuda" or (provider == "auto" and cuda_problem() is None) else []


class _Run:
    """What the threads share that talk to processes.

    Attributes:
        stopped: nothing more is to be done.
    """

    def __init__(self, start: bytes, parts: Sequence[Sequence[Numbered]], count: int) -> None:
        self.start, self._parts = start, deque(parts)
        self._done: queue.Queue[bytes | BaseException] = queue.Queue(2 * count)
        self.stopped = threading.Event()

    def part(self) -> Sequence[Numbered] | None:
        """What is to be done next; None when there is nothing left."""
        with suppress(IndexError):
            return None if self.stopped.is_set() else self._parts.popleft()
        return None

    def put(self, found: bytes | BaseException) -> None:
        """An answer of an actor, or what `next` is to raise."""
        while not self.stopped.is_set():
            with suppress(queue.Full):
                self._done.put(found, timeout=POLL)
                return

    def next(self) -> bytes:
        found = self._done.get()
        if isinstance(found, BaseException):
            raise found
        return found


class _Worker:
    """A process that does parts, and others in its place where it ends."""

    def __init__(self, run: _Run, device: str | None) -> None:
        self._run, self._device = run, device
        self._process: subprocess.Popen[bytes] | None = None
        self._lost: dict[str, tuple[str, str]] = {}  # samples on which a process ends: why, and a hint
        self._barren = 0
        self._code = 0  # of the process that ended last

    def work(self) -> None:
        """In a thread of its own: on Linux a process ends with the thread that started it."""
        try:
            while (part := self._run.part()) is not None:
                self._do(part)
        except BaseException as error:
            self._run.put(error)
        finally:
            self.end()

    def end(self) -> None:
        """Ends the process at once."""
        if self._process is not None:
            with suppress(OSError):
                self._process.kill()

    def _do(self, part: Sequence[Numbered], again: bool = True) -> None:
        """A part; where a process ends on it, its batches one by one; of a batch it ends on, all but that sample."""
        answer = self._ask(part)
        if answer is not None:
            self._run.put(answer)
        elif self._run.stopped.is_set():
            return
        elif len(part) > 1:
            for batch in part:
                self._do([batch])
        elif again:
            self._do(part, again=False)
        else:
            ((index, samples),) = part
            for sample in samples:
                if len(samples) == 1 or self._ask([(index, [sample])]) is None:
                    self._lost[name_of(sample)] = killed(self._code)
            self._do(part)

    def _ask(self, part: Sequence[Numbered]) -> bytes | None:
        """The answer of an actor; None where the process ended.

        Raises:
            UnsupportedError: one process after the other ends.
        """
        process = self._process = self._process or self._started()
        assert process.stdin is not None and process.stdout is not None
        if self._run.stopped.is_set():
            self.end()
        with suppress(OSError, EOFError):
            send(process.stdin, pickle.dumps((part, self._lost)))
            answer = receive(process.stdout)
            if any(name_of(sample) not in self._lost for _, samples in part for sample in samples):
                self._barren = 0
            return answer
        self._process = None
        with suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        self._code = process.wait()
        self._barren += 1
        if self._barren > BARREN and not self._run.stopped.is_set():
            why, hint = killed(self._code)
            raise UnsupportedError(f"{self._barren} processes ended, one after the other: {why}", hint)
        return None

    def _started(self) -> subprocess.Popen[bytes]:
        seen = {} if self._device is None else {"CUDA_VISIBLE_DEVICES": self._device}
        process = started("analyzer.passes.worker", **seen)
        assert process.stdin is not None
        with suppress(OSError):
            send(process.stdin, self._run.start)
        return process
