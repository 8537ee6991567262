"""`litert:model.tflite`: a file of LiteRT's (TensorFlow Lite) in its interpreter.

Options: `threads`, and `delegates=none` for the built-in kernels instead of XNNPACK's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.errors import InputError
from analyzer.runtime.host import processor
from analyzer.runtime.runners.base import Address, FileRunner, Port, Runner, required

_SQUASHING = {"SOFTMAX": "Softmax", "LOG_SOFTMAX": "LogSoftmax", "LOGISTIC": "Sigmoid"}


def open_model(address: Address, like: Sequence[Port]) -> Runner:
    return LiteRt(address)


class LiteRt(FileRunner):
    """An interpreter for every thread. Layers are read from a second one, which keeps all tensors and therefore runs
    the built-in kernels."""

    channels_last = True

    def __init__(self, address: Address) -> None:
        address.check_options("threads", "delegates")
        self.address, self.file = address, Path(address.file)
        if address.options.get("delegates", "none") != "none":
            raise InputError(f"{address.text}: delegates must be none", "leave it out for XNNPACK")
        try:
            from ai_edge_litert import interpreter
        except ImportError:
            raise required(address, "ai-edge-litert", "litert") from None
        self._library, self._mine = interpreter, threading.local()
        first = self._interpreter(False)
        self.inputs = tuple(_port(d) for d in first.get_input_details())
        made = _operators(first)
        self.outputs = tuple(_port(d, made.get(d["index"], "")) for d in first.get_output_details())
        self._tensors = _layers(first, made, {p.name for p in [*self.inputs, *self.outputs]})
        self.layers = tuple(_port(d) for d in self._tensors.values())
        self.where = {"runtime": f"LiteRT {_version()}", "kernels": self._kernels, "processor": processor()}

    @property
    def _kernels(self) -> str:
        return "built-in kernels" if "delegates" in self.address.options else "XNNPACK"

    @property
    def layers_by(self) -> str:
        return "" if "delegates" in self.address.options else "layers are read by the built-in kernels, not XNNPACK's"

    def run(self, feeds: Mapping[str, np.ndarray], layers: Sequence[str] = ()) -> dict[str, np.ndarray]:
        return self.guarded(lambda: self._run(feeds, layers))

    def _run(self, feeds: Mapping[str, np.ndarray], layers: Sequence[str]) -> dict[str, np.ndarray]:
        interpreter = self._interpreter(bool(layers))
        inputs = interpreter.get_input_details()
        if any(tuple(d["shape"]) != feeds[d["name"]].shape for d in inputs):
            for d in inputs:
                interpreter.resize_tensor_input(d["index"], feeds[d["name"]].shape)
            interpreter.allocate_tensors()
        for d in inputs:
            interpreter.set_tensor(d["index"], np.ascontiguousarray(feeds[d["name"]]))
        interpreter.invoke()
        found = {d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()}
        for name in layers:
            details = self._tensors[name]
            port = _port(details)
            found[name] = (interpreter.get_tensor(details["index"]).astype(np.float32) - port.zero) * port.scale
        return found

    def _interpreter(self, keeps: bool) -> Any:
        """This thread's; with `keeps`, that which keeps all tensors."""
        known = self._mine.__dict__.setdefault("of", {})
        if keeps not in known:
            known[keeps] = self.guarded(lambda: self._made(keeps), "LiteRT cannot load it")
        return known[keeps]

    def _made(self, keeps: bool) -> Any:
        kinds = self._library.OpResolverType
        plain = keeps or "delegates" in self.address.options
        made = self._library.Interpreter(
            model_path=str(self.file),
            num_threads=self.address.option("threads", 1, int),
            experimental_op_resolver_type=kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if plain else kinds.AUTO,
            experimental_preserve_all_tensors=keeps,
        )
        made.allocate_tensors()
        return made


def _port(details: Mapping[str, Any], operator: str = "") -> Port:
    """Of what the interpreter says of a tensor, and the operator that makes it."""
    signature = details.get("shape_signature")
    shape = details["shape"] if signature is None or not len(signature) else signature
    scale, zero = details["quantization"]
    dtype = np.dtype(details["dtype"])
    is_quantised = scale and dtype.kind in "iu"
    return Port(
        details["name"],
        tuple(None if d < 0 else int(d) for d in shape),
        dtype.name,
        float(zero) if is_quantised else 0.0,
        float(scale) if is_quantised else 1.0,
        _SQUASHING.get(operator, ""),
    )


def _operators(interpreter: Any) -> dict[int, str]:
    """{tensor: the operator that makes it}, in order; {} where the interpreter does not say.

    What only converts an output's numbers is passed through.
    """
    details: Callable[[], list[dict[str, Any]]] = getattr(interpreter, "_get_ops_details", list)
    found: dict[int, str] = {}
    for op in details():
        kind = op["op_name"]
        if kind in ("QUANTIZE", "DEQUANTIZE", "RESHAPE"):
            kind = found.get(int(op["inputs"][0]), kind)
        found |= {int(index): kind for index in op["outputs"]}
    return found


def _layers(interpreter: Any, made: Mapping[int, str], known: set[str]) -> dict[str, Mapping[str, Any]]:
    """{name: details} of the maps that an operator makes of the input, in order."""
    details = {d["index"]: d for d in interpreter.get_tensor_details()}
    found = {}
    for index in made:
        one = details.get(index)
        if one is None or len(one["shape"]) not in (2, 3, 4) or made[index] == "DELEGATE":
            continue
        is_number = np.dtype(one["dtype"]).kind == "f" or bool(one["quantization"][0])
        if is_number and one["name"] and one["name"] not in known and one["name"] not in found:
            found[one["name"]] = one
    return found


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ai-edge-litert")
    except PackageNotFoundError:
        return "unknown"
