"""What a process of ours may take that runs native code on files of strangers, and what is said when it is ended."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

SANDBOX_VARIABLE = "ONNX_ANALYZER_SANDBOX"  # 0 where files are trusted: nothing is tried in a process of its own first
POLL = 0.05  # seconds between two looks at a process
RESERVE = 0.05  # share of the machine's free memory that is left to others
MALFORMED = "the file may be malformed: check it with `python -m onnx.checker`, or report it with the file"


def bytes_allowed(gibibytes: float | None = None) -> int | None:
    """Bytes that another process may hold: what is asked for, else what is free; None where that is not known."""
    if gibibytes:
        return int(gibibytes * 2**30)
    free = _free_memory()
    return None if free is None else int(free * (1 - RESERVE))


def resident(pid: int) -> int:
    """Bytes of memory that a process holds for itself, 0 where that is not known."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, pages, shared, *_ = file.read().split()
    except (OSError, ValueError):
        return 0
    return (int(pages) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def too_much(allowed: int, used: int) -> str:
    """Why a process is ended that holds more than it may."""
    return f"more than {allowed / 2**30:.1f} GiB of memory is needed ({used / 2**30:.1f} GiB so far)"


def killed(code: int) -> tuple[str, str]:
    """Why a process ended, whose exit code is not one of its own, and a hint."""
    if code == -getattr(signal, "SIGKILL", 9):
        return "the process was killed (SIGKILL)", "was the machine out of memory?"
    return crashed(code), MALFORMED


def crashed(code: int) -> str:
    """Why a process ended whose exit code, as `subprocess` gives it, is not one of its own."""
    with suppress(ValueError):
        return f"native code crashed ({signal.Signals(-code).name})"
    return f"native code crashed (exit code {code:#x})"  # Windows has no signals


def become_expendable() -> None:
    """No core files of this process; on Linux it ends with the thread that started it, whatever native code does."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _free_memory() -> int | None:
    """Bytes that can be had: of the machine, and of the control group; None where that is not known."""
    found = []
    with suppress(OSError, ValueError, IndexError), open("/proc/meminfo", "rb") as file:
        found += [int(line.split()[1]) * 1024 for line in file if line.startswith(b"MemAvailable")]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError), open(limit, "rb") as most, open(used, "rb") as now:
            found.append(int(most.read()) - int(now.read()))
    return min(found, default=None)
