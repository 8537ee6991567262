"""What the files themselves say: weights that differ, and quantised tensors that ran out of range."""

from __future__ import annotations

from typing import Any

import numpy as np

from analyzer.graph import Graph

SUFFIXES = ("", "_DequantizeLinear_Output", "_dequantized")


def weight_differences(reference: Graph, candidate: Graph) -> list[dict[str, Any]]:
    """‖W − W′‖ / ‖W‖ of every weight of the reference with a twin of its name (dequantised where it is quantised).

    Returns:
        {"weight", "node", "relative_error", "words"} per weight, the largest first; equal ones are left out.
    """
    found = []
    inputs = {v.name for v in reference.inputs}
    for name, value in reference.values.items():
        array = None if value.inputs or name in inputs else _array(reference, value)
        if array is None or array.dtype.kind != "f" or array.ndim < 2:
            continue
        twin = _twin(candidate, name)
        if twin is None or twin.shape != array.shape:
            continue
        a, b = array.astype(np.float64), twin.astype(np.float64)
        norm = float(np.linalg.norm(a))
        error = float(np.linalg.norm(a - b)) / norm if norm else float(np.abs(b).max(initial=0))
        if error > 1e-9:
            users = reference.consumers(reference[name])
            found.append(
                {
                    "weight": name,
                    "node": users[0].name if users else "",
                    "relative_error": error,
                    "words": _permuted(a, b) if error > 0.1 else "",
                }
            )
    return sorted(found, key=lambda row: (-row["relative_error"], row["weight"]))


def _twin(graph: Graph, name: str) -> np.ndarray | None:
    for suffix in SUFFIXES:
        value = graph.values.get(name + suffix)
        if value is None:
            continue
        node = graph.producer(value)
        if node is None:
            return _array(graph, value)
        if node is not None and node.op == "DequantizeLinear":
            return _dequantized(graph, node)
        if node is not None and node.op == "Cast":
            return _array(graph, node.inputs[0])
    return None


def _array(graph: Graph, value: Any) -> np.ndarray | None:
    return graph.weights[value.name] if value.name in graph.weights else graph.constant(value)


def _dequantized(graph: Graph, node: Any) -> np.ndarray | None:
    """(q − z) s of a DequantizeLinear over a weight, per tensor or per axis."""
    q, scale = (_array(graph, v) for v in node.inputs[:2])
    zero = _array(graph, node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2].name else np.zeros(())
    if q is None or scale is None or zero is None or node.attrs.get("block_size"):
        return None
    wide = [1] * q.ndim
    if scale.size > 1:
        wide[node.attrs.get("axis", 1)] = -1
    spread = [x.astype(np.float64).reshape(wide if x.size > 1 else [1] * q.ndim) for x in (zero, scale)]
    return (q.astype(np.float64) - spread[0]) * spread[1]


def _permuted(a: np.ndarray, b: np.ndarray) -> str:
    """Says so where the two differ by the order of their input channels."""
    if a.ndim == 4 and a.shape[1] == 3 and np.allclose(a[:, ::-1], b, atol=1e-3 * np.abs(a).max()):
        return "its input channels are in the opposite order (RGB, BGR)"
    return ""


def saturated_share(graph: Graph, name: str, values: np.ndarray, reference: np.ndarray) -> float | None:
    """Share of a quantised layer's elements that lie at the end of its range while the reference's lie beyond it.

    None where the layer is not behind a DequantizeLinear.
    """
    node = graph.producer(graph[name]) if name in graph else None
    if node is None or node.op != "DequantizeLinear":
        return None
    quantize = graph.producer(node.inputs[0])
    scale = graph.constant(node.inputs[1])
    zero = graph.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2].name else None
    if quantize is None or quantize.op != "QuantizeLinear" or scale is None or scale.size != 1 or zero is None:
        return None
    if values.size != reference.size or zero.dtype.kind not in "iu":
        return None
    limits = np.iinfo(zero.dtype)
    step, z = float(scale.item()), int(zero.item())
    low, high = (limits.min - z) * step, (limits.max - z) * step
    flat = reference.ravel()
    beyond = flat > high + step
    if low < 0:
        beyond |= flat < low - step
    return float(beyond.mean())
