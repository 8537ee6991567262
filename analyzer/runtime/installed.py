"""Which packages are installed, and what is wrong with them: missing, broken, or two builds in one folder.

Several distributions install the same module. Two of them side by side overwrite each other's files; when one is
removed, it takes files of the other with it, and what remains is an empty module.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterator
from contextlib import suppress

GPU_WHEELS = (platform.system(), platform.machine()) in {("Linux", "x86_64"), ("Windows", "AMD64")}
RUNTIMES = (
    *(("onnxruntime-gpu", "onnxruntime") if GPU_WHEELS else ("onnxruntime",)),
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
)
OPENCVS = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
# Module: the distributions that bring it, the usual one first.
BUILDS = {
    "click": ("click",),
    "cv2": OPENCVS,
    "ml_dtypes": ("ml-dtypes",),
    "numpy": ("numpy",),
    "onnx": ("onnx",),
    "onnx_graphsurgeon": ("onnx-graphsurgeon",),
    "onnxruntime": RUNTIMES,
}


def installed(module: str) -> dict[str, str]:
    """{distribution: version} of those that bring the module."""
    found = {}
    for name in BUILDS[module]:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def versions() -> dict[str, str]:
    """{distribution: version} of what is installed; "not installed" by the usual name where nothing brings a module."""
    found: dict[str, str] = {}
    for module, names in BUILDS.items():
        found |= installed(module) or {names[0]: "not installed"}
    return found


def problems() -> Iterator[tuple[str, str]]:
    """(problem, advice) of each module that cannot be imported, is empty or has two builds side by side."""
    for module in BUILDS:
        builds = installed(module)
        if len(builds) > 1:
            yield f"{_and(builds)} are builds of {module} in one folder: the last one installed wins", reinstall(module)
    empty = dict(empty_packages())
    yield from empty.items()
    if empty:  # what imports them fails as well
        return
    for module in BUILDS:
        try:
            importlib.import_module(module)
        except Exception as error:
            yield f"{module} cannot be imported: {' '.join(str(error).split())[:300]}", reinstall(module)


def empty_packages() -> Iterator[tuple[str, str]]:
    """(problem, advice) of each module of which only a folder is left."""
    for module in BUILDS:
        spec = None
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is None:
            yield f"the package {module} is empty: another build of it was removed", reinstall(module)


def reinstall(module: str) -> str:
    """The commands that leave one working build of the module."""
    builds = installed(module)
    keep = next(iter(builds), BUILDS[module][0])
    if len(builds) > 1:
        return f"python -m pip uninstall -y {' '.join(builds)}, then python -m pip install {keep}"
    return f"python -m pip install --force-reinstall --no-deps {keep}" if builds else f"python -m pip install {keep}"


def _and(names: dict[str, str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"
