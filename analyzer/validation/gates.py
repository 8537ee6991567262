"""A model some of whose tensors are mixed with exact ones: t′ = t + α (t* − t), each α an element of one input."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx.helper
from onnx import TensorProto, numpy_helper

from analyzer.graph import Source
from analyzer.graph.protos import Names, copied, replace_all

GATES = "gates"


@dataclass(frozen=True)
class Site:
    """A tensor that is rounded, and what it would be without.

    Attributes:
        tensor: the rounded tensor; with `halves`, an exact one that is to be rounded to half precision.
        exact: the exact tensor of the same graph, or its values.
        layers: the nodes that have to be kept exact for the tensor to be so.
        halves: whether `tensor` itself is exact.
        low, high: bounds of the exact tensor, where a quantizer's range took the place of an activation function.
    """

    tensor: str
    exact: str | np.ndarray
    layers: frozenset[str]
    halves: bool = False
    low: float = -np.inf
    high: float = np.inf

    @property
    def kind(self) -> str:
        return "weight" if isinstance(self.exact, np.ndarray) else "activation"

    @property
    def bounded(self) -> bool:
        return (self.low, self.high) != (-np.inf, np.inf)


def gated(source: Source, sites: Sequence[Site]) -> tuple[Source, dict[str, str]]:
    """The model with an input `gates`, (sites,) float32: at 0 a site's tensor is the rounded one, at 1 the exact one.

    Returns:
        The model, and {tensor of a site: the mixture that is read in its place}.
    """
    proto, detached = copied(source.proto), dict(source.detached)
    graph, names = proto.graph, Names(proto.graph)
    gates = names.fresh(GATES)
    graph.input.append(onnx.helper.make_tensor_value_info(gates, TensorProto.FLOAT, [len(sites)]))
    mixed = {site.tensor: names.fresh(f"{site.tensor}/mixed") for site in sites}
    added: dict[str, list[onnx.NodeProto]] = {}
    for index, site in enumerate(sites):
        exact = site.exact
        if not isinstance(exact, str):
            name = names.fresh(f"{site.tensor}/exact")
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(exact), name))
            exact = name
        gate = names.constant(np.array(index, np.int64), f"{site.tensor}/index")
        added[site.tensor] = list(_mixture(site, exact, gates, gate, mixed[site.tensor], names))
    _read_instead(graph, mixed, added)
    return replace(source, proto=proto, detached=detached, path=None, sha256="", inlined=""), mixed


def halved(source: Source, sites: Sequence[Site]) -> tuple[Source, dict[str, str]]:
    """The model with all gates closed, without gates: the tensors of sites with `halves` are rounded.

    Returns:
        The model, and {tensor of a site: the rounded one}.
    """
    proto, detached = copied(source.proto), dict(source.detached)
    names = Names(proto.graph)
    rounded = {site.tensor: names.fresh(f"{site.tensor}/rounded") for site in sites if site.halves}
    _read_instead(proto.graph, rounded, {name: _rounding(name, names, to) for name, to in rounded.items()})
    source = replace(source, proto=proto, detached=detached, path=None, sha256="", inlined="")
    return source, {site.tensor: rounded.get(site.tensor, site.tensor) for site in sites}


def _read_instead(
    graph: onnx.GraphProto, others: Mapping[str, str], added: Mapping[str, Sequence[onnx.NodeProto]]
) -> None:
    """Let every node read other tensors, which added nodes make from the ones before."""
    own = {t.name for t in graph.initializer} | {i.name for i in graph.input}
    nodes = [new for name in others if name in own for new in added[name]]
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = others.get(name, name)
        nodes += [node, *(new for name in node.output if name in others for new in added[name])]
    replace_all(graph.node, nodes)


def _made(names: Names, tensor: str, op: str, *inputs: str, output: str = "", **attributes: Any) -> onnx.NodeProto:
    output = output or names.fresh(f"{tensor}/{op}")
    return onnx.helper.make_node(op, inputs, [output], f"{output}/node", **attributes)


def _rounding(tensor: str, names: Names, result: str = "") -> list[onnx.NodeProto]:
    half = _made(names, tensor, "Cast", tensor, to=TensorProto.FLOAT16)
    return [half, _made(names, tensor, "Cast", half.output[0], output=result, to=TensorProto.FLOAT)]


def _mixture(site: Site, exact: str, gates: str, index: str, result: str, names: Names) -> Iterator[onnx.NodeProto]:
    made = functools.partial(_made, names, site.tensor)
    rounded = site.tensor
    if site.halves:
        nodes = _rounding(site.tensor, names)
        yield from nodes
        rounded = nodes[-1].output[0]
    if site.bounded:
        bounds = [names.constant(np.array(b, np.float32), f"{site.tensor}/bound") for b in (site.low, site.high)]
        clip = made("Clip", exact, *bounds)
        yield clip
        exact = clip.output[0]
    gate = made("Gather", gates, index)
    error = made("Sub", exact, rounded)
    part = made("Mul", error.output[0], gate.output[0])
    yield from (gate, error, part, made("Add", rounded, part.output[0], output=result))


def opened(sites: Sequence[Site], layers: frozenset[str] | set[str]) -> np.ndarray:
    """(sites,) the gates that keep these layers exact: 1 for every site all of whose layers are among them."""
    return np.array([float(bool(site.layers) and site.layers <= layers) for site in sites], np.float32)
