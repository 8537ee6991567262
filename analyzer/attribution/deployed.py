"""A model that another runtime runs: seen from outside, it is a graph of one node.

What is known of its ends is written into that graph: a DequantizeLinear after an input and a QuantizeLinear before an
output of integers, the Softmax or Sigmoid that makes an output. So cards, tasks and scores are read as of any file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from analyzer.attribution.explainer import Explainer
from analyzer.attribution.model import Model
from analyzer.errors import UnsupportedError
from analyzer.graph.query import image_input
from analyzer.images import ModelCard, Preprocess
from analyzer.runtime.runners import Port, Runner, address_of, open_runner

DOMAIN = "deployed"
UNKNOWN = (Port("output", ()),)  # the outputs of what has not run yet


class Facade(Explainer):
    """A model of which only the ends are known: its ports."""

    def __init__(self, inputs: Sequence[Port], outputs: Sequence[Port], layers: Sequence[Port] = ()) -> None:
        super().__init__(facade(inputs, outputs, layers), sandbox=False)

    def _types(self, sizes: dict[str, tuple[int, ...]]) -> tuple[onnx.ValueInfoProto, ...]:
        return tuple(self.loaded.proto.graph.value_info)


class Deployed(Facade):
    """The facade of a runner: its inputs, its outputs and where it runs. It can be compared and recorded."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.inputs, runner.outputs or UNKNOWN)
        self.runner = runner
        self.loaded.path, self.loaded.sha256 = runner.file, runner.identity

    def __reduce__(self) -> tuple[Any, ...]:
        return open_model, (self.runner.address.text,)

    @property
    def environment(self) -> dict[str, Any]:
        return dict(self.runner.where)

    def session(self, *given: Any, **options: Any) -> Any:
        raise UnsupportedError(
            f"{self.runner.address.text} is not run by onnxruntime's sessions, so its inside cannot be explained",
            "compare it with another model, or use the ONNX file that it was made from",
        )


def open_model(
    model: Any, provider: str = "cpu", like: tuple[Explainer, ModelCard] | None = None, **options: Any
) -> Explainer:
    """`model` as an `Explainer`, if it is an address as a `Deployed`.

    Args:
        like: the model that it is compared with, and its card: a runner has its preprocessing unless it has its own,
            and its inputs if it does not know them.
        provider, options: as for `Explainer`; a runner has its own.
    """
    address = address_of(model)
    if address is None:
        return Explainer(model, provider, **options)
    found = Deployed(open_runner(address, _ports(like[0]) if like is not None else ()))
    if like is not None:
        found.usual = "the other model", _keys(like[1].preprocess, found)
    return found


def open_both(
    models: tuple[Any, Any], open_one: Callable[[int, tuple[Explainer, ModelCard] | None], tuple[Explainer, ModelCard]]
) -> list[tuple[Explainer, ModelCard]]:
    """Two models with their cards, a runner after the file that it is compared with.

    Args:
        open_one: given the number of a model, and the other one where that is open.
    """
    first = 1 if address_of(models[0]) is not None and address_of(models[1]) is None else 0
    one = open_one(first, None)
    other = open_one(1 - first, one)
    return [other, one] if first else [one, other]


def _keys(how: Preprocess, model: Model) -> dict[str, Any]:
    """A preprocessing as keys of a card, without what the inputs of `model` say themselves."""
    keys: dict[str, Any] = {
        "mean": list(how.mean),
        "std": list(how.std),
        "scale": how.scale,
        "channels": how.channels,
        "resize": how.resize,
        "crop-fraction": how.crop_fraction,
        "interpolation": how.interpolation,
        "antialias": how.antialias,
        "pad-value": how.pad_value,
    }
    shape = image_input(model.plain).shape or ()
    is_open = not all(isinstance(d, int) for d in shape[1:])
    return keys | ({"size": list(how.size)} if is_open and how.size is not None else {})


def _ports(model: Model) -> list[Port]:
    """The inputs of a model."""
    return [
        Port(i.name, tuple(d if isinstance(d, int) and d > 0 else None for d in i.shape or ()), str(i.dtype))
        for i in model.plain.inputs
    ]


def facade(inputs: Sequence[Port], outputs: Sequence[Port], layers: Sequence[Port] = ()) -> onnx.ModelProto:
    """A graph with these ends, and one node that no runtime knows between them."""
    made = _Ends()
    before = [made.real(port) for port in inputs]
    after = [made.source(port) for port in outputs]
    names = [*after, *(port.name for port in layers)]
    made.nodes.append(helper.make_node("Model", before, names, domain=DOMAIN))
    inner = [
        _info(name, port.shape, port.dtype if name == port.name else "float32")
        for name, port in zip(names, [*outputs, *layers], strict=True)
    ]
    graph = helper.make_graph(
        made.nodes,
        "deployed",
        [_info(p.name, p.shape, p.dtype) for p in inputs],
        [_info(p.name, p.shape, p.dtype) for p in outputs],
        made.weights,
        value_info=inner,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)])


class _Ends:
    """The nodes, in any order, and the weights of what is known of inputs and outputs."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def real(self, port: Port) -> str:
        """The tensor of the real numbers that an input stands for."""
        if not _is_quantised(port):
            return port.name
        return self._node("DequantizeLinear", [port.name, *self._step(port)], f"{port.name}/real")

    def source(self, port: Port) -> str:
        """The tensor that an output is made from by what it is known to end with."""
        name = port.name
        if _is_quantised(port):
            self._node("QuantizeLinear", [f"{name}/real", *self._step(port)], name)
            name = f"{name}/real"
        if port.squashed:
            self._node(port.squashed, [f"{port.name}/logits"], name)
            name = f"{port.name}/logits"
        return name

    def _node(self, op: str, inputs: Sequence[str], output: str) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output]))
        return output

    def _step(self, port: Port) -> tuple[str, str]:
        scale = numpy_helper.from_array(np.array(port.scale, np.float32), f"{port.name}/scale")
        zero = numpy_helper.from_array(np.array(port.zero, port.dtype), f"{port.name}/zero")
        self.weights += [scale, zero]
        return scale.name, zero.name


def _is_quantised(port: Port) -> bool:
    return np.dtype(port.dtype).kind in "iu" and (port.zero, port.scale) != (0.0, 1.0)


def _info(name: str, shape: Sequence[int | None], dtype: str) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    sizes = [("batch" if not axis else f"{name}/{axis}") if d is None else d for axis, d in enumerate(shape)]
    return helper.make_tensor_value_info(name, kind, sizes)
