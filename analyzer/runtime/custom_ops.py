"""Libraries of custom operators, which sessions register when a caller names them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyzer.errors import InputError
from analyzer.files import content_hash, protect

EXTENSIONS = "onnxruntime-extensions"
Libraries = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def libraries(given: Libraries | None) -> tuple[str, ...]:
    """The paths of libraries given by path, or as "onnxruntime-extensions": the installed package of that name.

    Raises:
        InputError: there is no such file, or the package is not installed.
    """
    names = [given] if isinstance(given, str | os.PathLike) else list(given or ())
    return tuple(dict.fromkeys(_path(os.fspath(name)) for name in names))


def _path(name: str) -> str:
    if name == EXTENSIONS:
        try:
            from onnxruntime_extensions import get_library_path
        except ImportError as error:
            raise InputError(
                f"{EXTENSIONS} cannot be imported ({error})", f"install it: pip install {EXTENSIONS}"
            ) from None
        return str(get_library_path())
    if not Path(name).is_file():
        raise InputError(
            f"{name}: no such library of custom operators", f"give a .so, .dylib or .dll file, or {EXTENSIONS}"
        )
    protect(name)
    return os.path.abspath(name)


def register(options: Any, paths: Sequence[str]) -> None:
    """Adds the operators of these libraries to a session's options.

    Raises:
        InputError: a file is not a library that onnxruntime can load.
    """
    for path in paths:
        try:
            options.register_custom_ops_library(path)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{path}: onnxruntime cannot load this library of custom operators: {reason}") from None


def identities(paths: Sequence[str]) -> list[str]:
    """A hash of each library."""
    return [content_hash(path) for path in paths]
