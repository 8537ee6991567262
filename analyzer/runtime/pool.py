"""Things that are made once, used by several threads and kept within a bound: above all live sessions."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
SESSIONS = 24  # kept alive in this process, over all models


class Pool:
    """The most recently used values; each is made by one thread while others that want it wait.

    Args:
        limit: how many values are kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[tuple[Hashable, Hashable], _Made] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, owner: Hashable, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made at the first call for this owner and key; where it raises, nothing is kept."""
        with self._lock:
            entry = self._kept.setdefault((owner, key), _Made())
            self._kept.move_to_end((owner, key))
        with entry.lock:
            if not entry.done:
                try:
                    entry.value, entry.done = make(), True
                except BaseException:
                    self._forget((owner, key), entry)
                    raise
        with self._lock:
            while len(self._kept) > self.limit:
                self._kept.popitem(last=False)
        value: T = entry.value
        return value

    def drop(self, owner: Hashable) -> None:
        """Forgets all values of an owner; what is in use lives on until it is let go."""
        with self._lock:
            for key in [k for k in self._kept if k[0] is owner]:
                del self._kept[key]

    def _forget(self, key: tuple[Hashable, Hashable], entry: _Made) -> None:
        with self._lock:
            if self._kept.get(key) is entry:
                del self._kept[key]


class _Made:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.done = False
        self.value: Any = None


LIVE = Pool(SESSIONS)
