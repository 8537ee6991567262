"""Long work in the background, one piece after the other, with its progress."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from analyzer.errors import AnalyzerError, NotFoundError

Progress = Callable[[int, int], None]  # (done, of how many)


@dataclass
class Job:
    """A piece of work. state: "waiting", "running", "done", "stopped" or "failed". number: by which it is stopped."""

    work: Callable[[Progress], Any]
    number: int = 0
    state: str = "waiting"
    done: int = 0
    total: int = 0
    result: Any = None
    error: str = ""
    finished: threading.Event = field(default_factory=threading.Event)

    def as_data(self) -> dict[str, Any]:
        known = {"state": self.state, "done": self.done, "total": self.total, "error": self.error}
        return known | {"number": self.number}


class StoppedError(Exception):
    """What is under way is left: somebody stopped it, or the explorer ends."""


class ObsoleteError(Exception):
    """A later question of the same view came: nobody waits for the answer."""


obsolete: ContextVar[Callable[[], bool]] = ContextVar("obsolete", default=lambda: False)  # of the question at work


def still_asked(*step: Any) -> None:
    """To be called between the steps of long work.

    Raises:
        ObsoleteError: the question is obsolete.
    """
    if obsolete.get()():
        raise ObsoleteError


class Jobs:
    """Jobs by key; what was asked for last is done first."""

    def __init__(self) -> None:
        self._jobs: dict[Hashable, Job] = {}
        self._waiting: queue.LifoQueue[Job] = queue.LifoQueue()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def get(self, key: Hashable, work: Callable[[Progress], Any]) -> Job:
        """The job of a key, started if there is none."""
        with self._lock:
            found = self._jobs.get(key)
            if found is not None:
                return found
            found = self._jobs[key] = Job(work, len(self._jobs))
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

    def set_running(self, number: int, on: bool) -> Job:
        """The job of a number, stopped at its next step, or started again where it was stopped or failed.

        Raises:
            NotFoundError: there is none.
        """
        with self._lock:
            found = next((job for job in self._jobs.values() if job.number == number), None)
            if found is None:
                raise NotFoundError(f"there is no job {number}")
            if not on and found.state in ("waiting", "running"):
                if found.state == "waiting":
                    found.finished.set()
                found.state = "stopped"
            elif on and found.state in ("stopped", "failed"):
                found.state, found.done, found.error = "waiting", 0, ""
                found.finished.clear()
                self._waiting.put(found)
        return found

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                job = self._waiting.get(timeout=0.5)
            except queue.Empty:
                continue
            with self._lock:
                if job.state != "waiting":
                    continue
                job.state = "running"
            try:
                job.result = job.work(lambda done, total, job=job: self._note(job, done, total))  # type: ignore[misc]
                job.state = "done"
            except StoppedError:
                job.state = "stopped"
            except AnalyzerError as error:
                job.state, job.error = "failed", error.message
            except Exception as error:  # of this job alone: the next one is worked out
                job.state, job.error = "failed", f"{type(error).__name__}: {error}"
            finally:
                job.finished.set()

    def _note(self, job: Job, done: int, total: int) -> None:
        job.done, job.total = done, total
        if self._stopping.is_set() or job.state == "stopped":
            raise StoppedError
