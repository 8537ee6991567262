"""A cache with a memory budget, shared by threads; its main use is live sessions."""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

T = TypeVar("T")
KEPT = 32  # sessions and rewritten graphs, however small
SHARE = 0.5  # of the memory that is available when the first is kept
UNKNOWN = 4 << 30  # the budget where the system does not say what is available
TRIMMED = 64 << 20  # bytes forgotten after which the C library is asked to give memory back


class Pool:
    """The most recently used values; each is made by one thread while others that want it wait.

    Args:
        limit: how many values are kept.
        budget: how many bytes they hold together, by `weigh`; a share of the available memory when None. The value
            asked for last is kept whatever it weighs.
    """

    def __init__(self, limit: int, budget: int | None = None) -> None:
        self.limit, self.budget = limit, budget
        self._kept: OrderedDict[tuple[Hashable, Hashable], _Made] = OrderedDict()
        self._lock = threading.Lock()
        self._dropped = 0

    def get(self, owner: Hashable, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made at the first call for this owner and key; where it raises, nothing is kept."""
        with self._lock:
            entry = self._kept.get((owner, key))
            if entry is None:
                entry = self._kept[owner, key] = _Made()
            self._kept.move_to_end((owner, key))
        with entry.lock:
            if not entry.done:
                try:
                    entry.value = make()
                    entry.bytes, entry.done = weigh(entry.value), True
                except BaseException:
                    self._forget((owner, key), entry)
                    raise
                self._shrink(entry)
        value: T = entry.value
        return value

    def limit_bytes(self, budget: int) -> None:
        """From now on the values hold no more than that, save the last."""
        self.budget = budget
        self._shrink()

    @property
    def bytes(self) -> int:
        """What the values hold together."""
        return sum(entry.bytes for entry in self._kept.values())

    def drop(self, owner: Hashable) -> None:
        """Forgets all values of an owner; what is in use lives on until it is let go."""
        with self._lock:
            dropped = [self._kept.pop(key) for key in [k for k in self._kept if k[0] is owner]]
        self._let_go(dropped)

    def _shrink(self, used: _Made | None = None) -> None:
        """Forgets the values that were not used for longest, until the others are within the limits."""
        with self._lock:
            if self.budget is None:
                self.budget = int(available() * SHARE)
            used = used or next(reversed(self._kept.values()), None)
            total, dropped = self.bytes, list[_Made]()
            for key, entry in list(self._kept.items()):
                if len(self._kept) <= self.limit and total <= self.budget:
                    break
                if entry is not used:
                    dropped.append(self._kept.pop(key))
                    total -= entry.bytes
        self._let_go(dropped)

    def _let_go(self, dropped: list[_Made]) -> None:
        self._dropped += sum(entry.bytes for entry in dropped)
        dropped.clear()
        if self._dropped > TRIMMED:
            self._dropped = 0
            give_back()

    def _forget(self, key: tuple[Hashable, Hashable], entry: _Made) -> None:
        with self._lock:
            if self._kept.get(key) is entry:
                del self._kept[key]


class _Made:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.done = False
        self.value: Any = None
        self.bytes = 0


def weigh(value: Any) -> int:
    """The `nbytes` of a value, of its `session`, or of the different ones in a list or tuple."""
    return sum({id(part): part.nbytes for part in _parts(value)}.values())


def _parts(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [part for item in value for part in _parts(item)]
    part = getattr(value, "session", value)
    return [part] if hasattr(part, "nbytes") else []


def limit_memory(budget: int) -> None:
    """Limit the total memory of the cached sessions of this process, in bytes. Sessions in use stay alive.

    The default is half of the memory that is available when the first session is cached.
    """
    LIVE.limit_bytes(budget)


LIVE = Pool(KEPT)


# ---- The machine ----


def available(root: Path = Path("/")) -> int:
    """Bytes that this process can still take: of the machine, and of its control groups."""
    found = [UNKNOWN]
    with suppress(OSError, ValueError, IndexError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")] or found
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            base, limit, used = ("", "memory.max", "memory.current")
            if controllers:
                base, limit, used = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            if not controllers or "memory" in controllers.split(","):
                # Inside a container the group's own folder may not be shown; that of the container is the mount itself.
                for folder in (PurePosixPath(group), *PurePosixPath(group).parents):
                    place = root / "sys/fs/cgroup" / base / str(folder).lstrip("/")
                    with suppress(OSError, ValueError):
                        room = int((place / limit).read_text()) - int((place / used).read_text())
                        found.append(max(0, room + _cached(place)))
    return min(found)


def _cached(group: Path) -> int:
    """Bytes of a control group's usage that are files' contents, which are dropped when memory is short."""
    with suppress(OSError):
        rows = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
        return sum(int(number) for name, number in rows if name in ("inactive_file", "active_file"))
    return 0


def give_back() -> None:
    """Asks the C library to return freed memory to the system, where it can."""
    with suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no library without a name
        ctypes.CDLL(None).malloc_trim(0)
