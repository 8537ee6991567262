"""Long work in the background, one piece after the other, with its progress."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from analyzer.errors import AnalyzerError

Progress = Callable[[int, int], None]  # (done, of how many)


@dataclass
class Job:
    """A piece of work. state: "waiting", "running", "done" or "failed"."""

    work: Callable[[Progress], Any]
    state: str = "waiting"
    done: int = 0
    total: int = 0
    result: Any = None
    error: str = ""
    finished: threading.Event = field(default_factory=threading.Event)

    def as_data(self) -> dict[str, Any]:
        return {"state": self.state, "done": self.done, "total": self.total, "error": self.error}


class StoppedError(Exception):
    """The explorer ends: what is under way is left."""


class Jobs:
    """Jobs by key; what was asked for last is done first."""

    def __init__(self) -> None:
        self._jobs: dict[Hashable, Job] = {}
        self._waiting: queue.LifoQueue[Job] = queue.LifoQueue()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def get(self, key: Hashable, work: Callable[[Progress], Any]) -> Job:
        """The job of a key, started if there is none, and again where it failed."""
        with self._lock:
            found = self._jobs.get(key)
            if found is not None:
                return found
            found = self._jobs[key] = Job(work)
            self._waiting.put(found)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="explorer-jobs", daemon=True)
                self._thread.start()
            return found

    def has(self, key: Hashable) -> bool:
        return key in self._jobs

    def stop(self) -> None:
        """Leave what is under way at its next step."""
        self._stopping.set()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                job = self._waiting.get(timeout=0.5)
            except queue.Empty:
                continue
            job.state = "running"
            try:
                job.result = job.work(lambda done, total, job=job: self._note(job, done, total))  # type: ignore[misc]
                job.state = "done"
            except StoppedError:
                job.state = "failed"
            except AnalyzerError as error:
                job.state, job.error = "failed", error.message
            finally:
                job.finished.set()

    def _note(self, job: Job, done: int, total: int) -> None:
        job.done, job.total = done, total
        if self._stopping.is_set():
            raise StoppedError
