"""`openvino:model.xml`: a file of OpenVINO's (or an ONNX file) on one of its devices.

Options: `device` (CPU unless given), `precision` (f32, f16, bf16; the device's own unless given), `threads`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.files import content_hash
from analyzer.runtime.host import processor
from analyzer.runtime.runners.base import Address, FileRunner, Port, Runner, required

_SQUASHING = {"Softmax": "Softmax", "LogSoftmax": "LogSoftmax", "Sigmoid": "Sigmoid"}


def open_model(address: Address, like: Sequence[Port]) -> Runner:
    return OpenVino(address)


class OpenVino(FileRunner):
    """A compiled model; each thread has a request of its own. Layers are read from one that has them as outputs."""

    def __init__(self, address: Address) -> None:
        address.check_options("device", "precision", "threads")
        self.address, self.file = address, Path(address.file)
        try:
            import openvino
        except ImportError:
            raise required(address, "openvino", "openvino") from None
        self._core = openvino.Core()
        self._options: dict[str, Any] = {"INFERENCE_NUM_THREADS": address.option("threads", 1, int)}
        if "precision" in address.options:
            self._options["INFERENCE_PRECISION_HINT"] = address.options["precision"]
        self._device = address.options.get("device", "CPU")
        self._model = self.guarded(lambda: self._core.read_model(str(self.file)), "OpenVINO cannot read it")
        self._plain = self._compiled(self._model)
        self.inputs = tuple(_port(given, f"input_{i}") for i, given in enumerate(self._model.inputs))
        self.outputs = tuple(_port(given, f"output_{i}", ends=True) for i, given in enumerate(self._model.outputs))
        self._layers = _tensors(self._model, {p.name for p in self.outputs})
        self.layers = tuple(_port(value, name) for name, value in self._layers.items())
        self._tapped: dict[tuple[str, ...], Any] = {}
        self._lock, self._requests = threading.Lock(), threading.local()
        self.where = {
            "runtime": f"OpenVINO {openvino.__version__.split('-')[0]} on {self._device}",
            "precision": _precision(self._plain),
            "processor": processor(),
        }

    @cached_property
    def identity(self) -> str:
        """Of the file, and of the weights beside it."""
        files = [self.file, *(f for f in [self.file.with_suffix(".bin")] if self.file.suffix == ".xml" and f.is_file())]
        return hashlib.sha256(" ".join(map(content_hash, files)).encode()).hexdigest()

    def run(self, feeds: Mapping[str, np.ndarray], layers: Sequence[str] = ()) -> dict[str, np.ndarray]:
        return self.guarded(lambda: self._run(feeds, tuple(layers)))

    def _run(self, feeds: Mapping[str, np.ndarray], layers: tuple[str, ...]) -> dict[str, np.ndarray]:
        request = self._request(layers)
        given = [np.ascontiguousarray(feeds[port.name]) for port in self.inputs]
        found = list(request.infer(given, share_inputs=True, share_outputs=False).values())
        return dict(zip([*(o.name for o in self.outputs), *layers], map(np.asarray, found), strict=True))

    def _request(self, layers: tuple[str, ...]) -> Any:
        """This thread's, with these layers as further outputs."""
        known = self._requests.__dict__.setdefault("of", {})
        if layers not in known:
            known[layers] = self._with(layers).create_infer_request()
        return known[layers]

    def _with(self, layers: tuple[str, ...]) -> Any:
        if not layers:
            return self._plain
        with self._lock:
            if layers not in self._tapped:
                model = self._core.read_model(str(self.file))
                tensors = _tensors(model, {p.name for p in self.outputs})
                model.add_outputs([tensors[name] for name in layers])
                self._tapped[layers] = self._compiled(model)
            return self._tapped[layers]

    def _compiled(self, model: Any) -> Any:
        return self.guarded(
            lambda: self._core.compile_model(model, self._device, self._options), f"{self._device} cannot compile it"
        )


def _port(value: Any, name: str, ends: bool = False) -> Port:
    """Of an input, output or tensor; it has the first of its names."""
    partial = value.get_partial_shape()
    shape = tuple(None if d.is_dynamic else d.get_length() for d in partial) if partial.rank.is_static else ()
    producer = value.get_node().input_value(0).get_node().get_type_name() if ends else ""
    names = sorted(value.get_names())
    dtype = np.dtype(value.get_element_type().to_dtype()).name
    return Port(names[0] if names else name, shape, dtype, squashed=_SQUASHING.get(producer, ""))


def _tensors(model: Any, known: set[str]) -> dict[str, Any]:
    """{name: tensor} of the maps that depend on an input, in the order in which they are computed."""
    found: dict[str, Any] = {}
    alive: set[str] = set()
    for node in model.get_ordered_ops():
        kind, sources = node.get_type_name(), [given.get_node().get_friendly_name() for given in node.input_values()]
        if kind != "Parameter" and not alive & set(sources):
            continue
        alive.add(node.get_friendly_name())
        for value in node.outputs() if kind not in ("Parameter", "Result") else ():
            names = sorted(value.get_names())
            is_map = value.get_partial_shape().rank.is_static and len(value.get_partial_shape()) in (2, 3, 4)
            if names and is_map and names[0] not in known and value.get_element_type().is_real():
                found[names[0]] = value
    return found


def _precision(compiled: Any) -> str:
    """That the device computes in, as it says itself."""
    try:
        return str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
    except Exception:  # devices that have no such property
        return "unknown"
