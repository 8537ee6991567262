"""Models that our own sessions do not run; a file here per runtime.

A model is named by its address: `openvino:model.xml`, `litert:model.tflite`, `http://host/v2/models/NAME`,
`python:package.module:function` or `ort:model.onnx?provider=NAME`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from analyzer.runtime.runners.base import Address, Port, Runner

# {scheme: the file here that has its `open_model(address, like)`}
SCHEMES = {
    "http": "http",
    "https": "http",
    "litert": "litert",
    "openvino": "openvino",
    "ort": "ort",
    "python": "python",
}
SUFFIXES = {".ort": "ort", ".tflite": "litert", ".xml": "openvino"}


def address_of(model: Any) -> Address | None:
    """The address, if `model` is one; an existing file of that name wins unless only a runner reads such files."""
    if not isinstance(model, str | os.PathLike):
        return None
    text = os.fspath(model)
    scheme, colon, rest = str(text).partition(":")
    suffix = SUFFIXES.get(Path(text).suffix.lower())
    if Path(text).is_file():
        return Address(text, suffix, text) if suffix else None
    if not colon or scheme not in SCHEMES:
        return None
    return Address.of(text, scheme, text if scheme.startswith("http") else rest)


def open_runner(address: Address, like: Sequence[Port] = ()) -> Runner:
    """The model at an address.

    Args:
        like: the inputs of the model that it is compared with, for runners that do not know their own.

    Raises:
        InputError: there is no such model, or an option is wrong. ProviderError: its runtime is not installed or fails.
    """
    module = import_module(f"{__name__}.{SCHEMES[address.scheme]}")
    runner: Runner = module.open_model(address, tuple(like))
    return runner


__all__ = ["SCHEMES", "Address", "Port", "Runner", "address_of", "open_runner"]
