"""The file that is written of an internal error: everything a report of it needs, but no pixels and no weights."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from analyzer.version import __version__

LARGEST = 1 << 28  # bytes of a model file that are read for it


def write_crash_file(error: BaseException) -> Path | None:
    """The file in the system's folder of temporary files; None where it cannot be written."""
    with suppress(Exception):
        number, name = tempfile.mkstemp(".txt", "onnx-analyzer-crash-")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            for section in (_program, lambda: traceback.format_exception(error), _models):
                with suppress(Exception):  # a broken environment may be the reason
                    file.writelines(f"{line.rstrip()}\n" for line in section())
                file.write("\n")
        return Path(name)
    return None


def _program() -> Iterator[str]:
    yield f"onnx-analyzer {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield f"command: {shlex.join(['onnx-analyzer', *sys.argv[1:]])}"
    from analyzer.runtime.installed import versions

    yield ", ".join(f"{name} {version}" for name, version in sorted(versions().items()))


def _models() -> Iterator[str]:
    """What the models of the command line are made of: types and sizes of tensors, not their values."""
    from analyzer.graph.structure import structure

    for word in sys.argv[1:]:
        if not word.endswith(".onnx") or not os.path.isfile(word) or os.path.getsize(word) > LARGEST:
            continue
        yield f"model {word}: {os.path.getsize(word)} bytes"
        with suppress(Exception):
            yield from structure(word)
