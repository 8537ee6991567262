"""`python:package.module:function`: a function of arrays, such as a whole serving pipeline.

The function is given one array per input, in order, and returns an array, a sequence of arrays or {name: array}. Its
attribute `inputs`, {name: (shape, dtype)}, says what it takes; without it, what the model takes that it is compared
with.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.errors import InputError
from analyzer.files import content_hash
from analyzer.runtime.runners.base import Address, Port, Runner


def open_model(address: Address, like: Sequence[Port]) -> Runner:
    address.check_options("threads")
    return Function(address, _found(address), like)


class Function(Runner):
    """A function; unless `threads` says that several may, one thread at a time calls it."""

    def __init__(self, address: Address, function: Callable[..., Any], like: Sequence[Port]) -> None:
        self.address, self.function = address, function
        declared = getattr(function, "inputs", None)
        self.inputs = tuple(like) if declared is None else _ports(address, declared)
        if not self.inputs:
            raise InputError(
                f"{address.text}: the inputs of the function are not known",
                'set its attribute inputs, for example predict.inputs = {"image": ((None, 3, 224, 224), "float32")}',
            )
        self.outputs = ()
        self.where = {"runtime": f"Python {'.'.join(map(str, sys.version_info[:3]))}"}
        self._calls = threading.Semaphore(max(1, address.option("threads", 1, int)))

    @functools.cached_property
    def identity(self) -> str:
        """Of the file that the function is in, and of its name: what it imports may change unseen."""
        file = inspect.getsourcefile(inspect.unwrap(self.function)) if callable(self.function) else None
        source = content_hash(file) if file is not None and Path(file).is_file() else ""
        return hashlib.sha256(f"{self.address.text}\0{source}".encode()).hexdigest()

    def run(self, feeds: Mapping[str, np.ndarray], layers: Sequence[str] = ()) -> dict[str, np.ndarray]:
        given = [feeds[port.name] for port in self.inputs]
        with self._calls:
            found = self.guarded(lambda: self.function(*given), "the function failed")
        if isinstance(found, Mapping):
            named = {str(name): np.asarray(array) for name, array in found.items()}
        elif isinstance(found, tuple | list):
            named = {f"output_{i}": np.asarray(array) for i, array in enumerate(found)}
        else:
            named = {"output": np.asarray(found)}
        for name, array in named.items():
            if array.dtype.kind not in "fiub":
                raise InputError(f"{self.address.text}: the function returned {array.dtype} as {name!r}, not numbers")
        return named


def _found(address: Address) -> Callable[..., Any]:
    """The function; modules are searched as by `python -m`, the current folder first."""
    module_name, _, name = address.target.partition(":")
    if not module_name or not name:
        raise InputError(
            f"{address.text} is not python:package.module:function", "for example python:serving.app:predict"
        )
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise InputError(f"{address.text}: {error}", "run in the folder that has the package, or install it") from None
    except AttributeError:
        raise InputError(f"{address.text}: the module {module_name} has no {name!r}") from None
    except Exception as error:
        raise InputError(f"{address.text}: importing {module_name} failed: {error}") from error
    if not callable(found):
        raise InputError(f"{address.text}: {name} is no function")
    return found


def _ports(address: Address, declared: Any) -> tuple[Port, ...]:
    try:
        return tuple(
            Port(str(name), tuple(None if d is None else int(d) for d in shape), np.dtype(dtype).name)
            for name, (shape, dtype) in declared.items()
        )
    except (AttributeError, TypeError, ValueError):
        raise InputError(
            f"{address.text}: its attribute inputs is not {{name: (shape, dtype)}}",
            'for example {"image": ((None, 3, 224, 224), "float32")}',
        ) from None
