"""Where a result is from: all that it depends on besides the model and its inputs."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from analyzer.runtime.custom_ops import identities
from analyzer.runtime.providers import NAMES, resolve, runtime_version
from analyzer.runtime.threads import bounded


def environment(provider: str = "cpu", **options: Any) -> dict[str, Any]:
    """The runtime and its version, the provider and its device, the kind of processor, threads and session options.

    Raises:
        ProviderError: as `resolve`.
    """
    name, device = resolve(provider)[0]
    if options.get("custom_ops"):
        options["custom_ops"] = identities(options["custom_ops"])
    threads = bounded(options.get("threads")) or f"as the runtime chooses for {cores()} cores"
    return {
        "provider": name,
        "onnxruntime": runtime_version(),
        "machine": platform.machine(),
        "processor": processor(),
        "device": "" if name == NAMES["cpu"] else _gpu(int(device.get("device_id", 0))),
        "threads": str(threads),
        "options": {k: v for k, v in sorted(options.items()) if k != "threads" and v not in (None, False)},
    }


@functools.cache
def processor() -> str:
    """The kind of CPU, as it calls itself."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        keys = ("model name", "CPU implementer", "CPU part", "cpu", "uarch")
        found = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        named = [found[k] for k in keys if k in found]
        if named:
            return " ".join(named)
    if platform.system() == "Darwin":
        with suppress(OSError):
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The GPUs that CUDA may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for part in named.split(",") if (name := part.strip()) and name != "-1"]
    count = ctypes.c_int()
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
        if not (driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))):
            return [str(index) for index in range(count.value)]
    return []


@functools.cache
def _gpu(index: int) -> str:
    """The name of a CUDA device, as its driver gives it; its number where that is not known."""
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
        name, device = ctypes.create_string_buffer(256), ctypes.c_int()
        if not (driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index)):
            driver.cuDeviceGetName(name, len(name), device)
            return name.value.decode(errors="replace")
    return str(index)
