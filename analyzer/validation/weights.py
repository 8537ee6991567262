"""What the files themselves say: weights that differ, and quantised tensors that ran out of range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analyzer.graph import Graph
from analyzer.graph.through import constant
from analyzer.metrics.similarity import norm
from analyzer.validation.matching import match_by_activations, undecorated

CHUNK = 4 << 20  # elements of a weight that are in double precision at a time
SUFFIXES = ("", "_DequantizeLinear_Output", "_dequantized")


def weight_differences(
    reference: Graph, candidate: Graph, layers: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """‖W − W′‖ / ‖W‖ of every weight of the reference and its twin in the candidate, dequantised where quantised.

    Twins lead to the same layer: there they have the same name, or nearly the same values in the order of both graphs,
    or are the only ones of their shape. Names alone mean nothing: exporters number them. Where only one of the files
    has BatchNormalization nodes, factors per output channel are fitted away first: they are folded there.

    Args:
        layers: {tensor of the reference: its twin}, in the order of the graph.

    Returns:
        {"weight", "node", "layer", "rule", "relative_error", "words"} per weight, the largest first; equal ones are
        left out. `layer` is the nearest of `layers` after the weight, "" where there is none.
    """
    layers = layers or {}
    ours, theirs = _weights(reference), _weights(candidate)
    places = nearest_layers(reference, list(layers)), nearest_layers(candidate, list(layers.values()))
    pairs: dict[str, tuple[str, str]] = {}
    for place in sorted(set(places[0].values()) | {len(layers)}):
        sides = [
            {n: a for n, a in weights.items() if at.get(n, len(layers)) == place}
            for weights, at in zip((ours, theirs), places, strict=True)
        ]
        pairs |= _twins(*sides)
    used = {twin for twin, _ in pairs.values()}
    left = [{n: a for n, a in side.items() if n not in known} for side, known in ((ours, pairs), (theirs, used))]
    pairs |= {m.reference: (m.candidate, "values") for m in match_by_activations(left[0], left[1])}
    names = [*layers, ""]
    folded = _normalizations(reference) != _normalizations(candidate)
    found = []
    for name, (twin, rule) in pairs.items():
        a, b = ours[name], theirs[twin]
        error = _relative(a, b, folded)
        if error > 1e-9:
            users = reference.consumers(reference[name])
            found.append(
                {
                    "weight": name,
                    "node": users[0].name if users else "",
                    "layer": names[places[0].get(name, -1)],
                    "rule": rule,
                    "relative_error": error,
                    "words": _permuted(a, b) if error > 0.1 else "",
                }
            )
    return sorted(found, key=lambda row: (-row["relative_error"], row["weight"]))


def _twins(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, tuple[str, str]]:
    """{weight: (its twin, the rule)} among the weights that lead to one layer."""
    plain = {undecorated(name): name for name in reversed(list(theirs))}
    pairs = {}
    for name, array in ours.items():
        twin = next((t for s in SUFFIXES if (t := name + s) in theirs), plain.get(undecorated(name)))
        if twin is not None and theirs[twin].shape == array.shape:
            pairs[name] = (twin, "name")
    used = {twin for twin, _ in pairs.values()}
    left = {n: a for n, a in ours.items() if n not in pairs}
    others = {n: a for n, a in theirs.items() if n not in used}
    pairs |= {m.reference: (m.candidate, "values") for m in match_by_activations(left, others)}
    used = {twin for twin, _ in pairs.values()}
    for name in [n for n in left if n not in pairs]:
        same = [[n for n, a in side.items() if a.shape == left[name].shape] for side in (left, others)]
        alone, twins = ([n for n in names if n not in taken] for names, taken in zip(same, (pairs, used), strict=True))
        if len(alone) == len(twins) == 1:
            pairs[name] = (twins[0], "place")
    return pairs


def nearest_layers(graph: Graph, layers: Sequence[str]) -> dict[str, int]:
    """{tensor: the number of the first of `layers` that it leads to}; those that lead to none are left out."""
    number = {name: at for at, name in enumerate(layers)}
    found: dict[str, int] = {}
    for node in reversed(list(graph.forward_nodes())):
        ahead = [number.get(o.name, found.get(o.name)) for o in node.outputs if o.name]
        nearest = min((at for at in ahead if at is not None), default=None)
        if nearest is not None:
            for value in node.inputs:
                found[value.name] = min(nearest, found.get(value.name, nearest))
    return found


def _weights(graph: Graph) -> dict[str, np.ndarray]:
    """Floating-point constants with two axes or more, as nodes read them: dequantised, or cast from half precision."""
    found: dict[str, np.ndarray] = {}
    given = {v.name for v in graph.inputs}
    for node in graph.forward_nodes():
        for value in node.inputs if node.op not in ("DequantizeLinear", "Cast") else ():
            if value.name and value.name not in found and value.name not in given:
                array = constant(graph, value)
                if array is not None and array.dtype.kind == "f" and array.ndim >= 2:
                    found[value.name] = array
    return found


def _normalizations(graph: Graph) -> bool:
    return any(n.op == "BatchNormalization" for n in graph.forward_nodes())


def _relative(a: np.ndarray, b: np.ndarray, folded: bool) -> float:
    """‖a − b‖ / ‖a‖ in double precision, a few rows at a time; with `folded`, of `a` rescaled to `b`."""
    norms, differences, highest = [], [], 0.0
    step = max(1, CHUNK * len(a) // max(1, a.size)) if a.shape == b.shape else len(a)
    for start in range(0, len(a), step):
        rows = slice(start, start + step) if step < len(a) else slice(None)
        x, y = a[rows].astype(np.float64), b[rows].astype(np.float64)
        x = _rescaled(x, y) if folded else x
        norms.append(norm(x))
        highest = max(highest, float(np.abs(y).max(initial=0)))
        differences.append(norm(x - y))
    whole = math.hypot(*norms)
    return math.hypot(*differences) / whole if whole else highest


def _rescaled(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a` with each output channel (axis 0) times the factor that brings it closest to `b`."""
    rows, others = a.reshape(len(a), -1), b.reshape(len(b), -1)
    factors = (rows * others).sum(1) / np.maximum((rows * rows).sum(1), 1e-300)
    return (rows * factors[:, None]).reshape(a.shape)


def _permuted(a: np.ndarray, b: np.ndarray) -> str:
    """Says so where the two differ by the order of their input channels."""
    if a.ndim != 4 or a.shape[1] != 3:
        return ""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if np.allclose(a[:, ::-1], b, atol=1e-3 * np.abs(a).max()):
        return "its input channels are in reverse order (RGB or BGR)"
    return ""


def saturated_share(graph: Graph, name: str, reference: np.ndarray) -> float | None:
    """Share of the reference's elements that lie beyond the range of the candidate's quantised layer `name`.

    None if no DequantizeLinear makes the layer.
    """
    found = _quantizer(graph, name)
    if found is None:
        return None
    step, zero = found
    limits = np.iinfo(zero.dtype)
    low, high = ((limit - int(zero.item())) * step for limit in (limits.min, limits.max))
    flat = reference.ravel()
    beyond = flat > high + step
    if low < 0:
        beyond |= flat < low - step
    return float(beyond.mean())


def single_scale(graph: Graph, name: str) -> float | None:
    """The one scale that all elements of a tensor are quantized with; None if no DequantizeLinear makes it."""
    found = _quantizer(graph, name)
    return None if found is None else found[0]


def _quantizer(graph: Graph, name: str) -> tuple[float, np.ndarray] | None:
    """(scale, zero point) of a tensor that is quantized and dequantized with one of each."""
    node = graph.producer(graph[name]) if name in graph else None
    if node is None or node.op != "DequantizeLinear":
        return None
    quantize = graph.producer(node.inputs[0])
    scale = graph.constant(node.inputs[1])
    zero = graph.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2].name else None
    if quantize is None or quantize.op != "QuantizeLinear" or scale is None or scale.size != 1 or zero is None:
        return None
    return None if zero.dtype.kind not in "iu" else (float(scale.item()), zero)
