"""`ort:model.onnx?provider=NAME` and `.ort` files: the file as it is in a session of any provider of onnxruntime."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.errors import InputError, ProviderError, suggest
from analyzer.graph import load
from analyzer.runtime.host import processor
from analyzer.runtime.providers import ALIASES, NAMES, runtime_version
from analyzer.runtime.runners.base import Address, FileRunner, Port, Runner
from analyzer.runtime.threads import plain_options

_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool"}


def open_model(address: Address, like: Sequence[Port]) -> Runner:
    return OrtFile(address)


class OrtFile(FileRunner):
    """A file in a plain session: what the runtime does of itself, nothing switched off."""

    def __init__(self, address: Address) -> None:
        import onnxruntime as ort

        address.check_options("provider", "threads")
        self.address, self.file = address, Path(address.file)
        provider = _provider(address, ort.get_available_providers())
        options = plain_options(address.option("threads", 1, int))
        wanted = [provider] if provider == NAMES["cpu"] else [provider, NAMES["cpu"]]
        session = self.guarded(
            lambda: ort.InferenceSession(str(self.file), options, wanted),
            f"onnxruntime {ort.__version__} cannot load it",
        )
        if session.get_providers()[0] != provider:
            raise ProviderError(
                f"{address.text}: {provider} cannot be created; onnxruntime fell back to {session.get_providers()[0]}",
                "onnx-analyzer doctor shows why",
            )
        self._session = session
        self.inputs = tuple(_port(i) for i in session.get_inputs())
        self.outputs = tuple(_port(o) for o in session.get_outputs())
        self.where = {"runtime": f"{provider} of onnxruntime {runtime_version()}", "processor": processor()}

    @functools.cached_property
    def identity(self) -> str:
        """With the external data of an ONNX file."""
        return super().identity if self.file.suffix.lower() == ".ort" else load(self.file).identity

    def run(self, feeds: Mapping[str, np.ndarray], layers: Sequence[str] = ()) -> dict[str, np.ndarray]:
        names = [o.name for o in self.outputs]
        found = self.guarded(lambda: self._session.run(names, dict(feeds)))
        return dict(zip(names, map(np.asarray, found), strict=True))


def _provider(address: Address, available: Sequence[str]) -> str:
    """The provider's full name, from that or a short one."""
    asked = address.options.get("provider", "cpu")
    name = NAMES.get(ALIASES.get(asked.lower(), asked.lower()), asked)
    if name not in available:
        hint = suggest(name, available) or f"it has {', '.join(available)}"
        raise InputError(f"{address.text}: the installed onnxruntime has no provider {asked!r}", hint)
    return name


def _port(value: Any) -> Port:
    """Of an input or output of a session."""
    sizes = tuple(d if isinstance(d, int) and d > 0 else None for d in value.shape)
    return Port(value.name, sizes, _TYPES.get(value.type, value.type[7:-1]))
