"""Whether both sides of a comparison get the same picture, each after the preprocessing inside its own file."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from analyzer.graph import Graph, Node, Value
from analyzer.graph.through import constant, is_transparent

SCALING = frozenset({"Add", "Sub", "Mul", "Div"})
EXACT, ROUNDED = 1e-3, 1e-2  # largest difference of equal inputs, as a share of their maximum; of 8-bit ones


class Prepared(NamedTuple):
    """One side's image: (1, …), whether 8-bit integers held it on the way, and whether the file itself prepared it."""

    array: np.ndarray
    rounded: bool
    inside: bool


def prepared(graph: Graph, image: Value) -> Value:
    """The image after the preprocessing in the file: casts, dequantization, constant factors and offsets, transposes.

    The chain ends at the first tensor that several nodes read, or that a node combines with anything else.
    """
    value = image
    while len(value.outputs) == 1 and value.name not in {o.name for o in graph.outputs}:
        node = value.outputs[0]
        if not _prepares(graph, node, value):
            break
        value = node.outputs[0]
    return value


def _prepares(graph: Graph, node: Node, value: Value) -> bool:
    if node.domain or (len(node.outputs) > 1 and node.op not in ("BatchNormalization", "Dropout")):
        return False
    if is_transparent(node, ("Transpose",)):
        return node.inputs[0] is value
    if node.op not in SCALING and node.op != "BatchNormalization":
        return False
    others = [given for given in node.inputs if given is not value]
    return len(others) == len(node.inputs) - 1 and all(constant(graph, given) is not None for given in others)


def input_difference(reference: Prepared, candidate: Prepared) -> dict[str, Any] | None:
    """How the images of both sides differ, (1, C, H, W) or (1, H, W, C) each; None where they hold the same values.

    Values of 8 bits are the same where they are a step apart.

    Returns:
        {"kind": "channels" | "scale" | "range" | "values" | "shape", "words": a sentence, "sqnr_db": of the images}.
    """
    a, b = (_channels_first(side.array) for side in (reference, candidate))
    if a.shape != b.shape:
        words = f"the inputs have different shapes: {list(a.shape)} and {list(b.shape)}"
        return {"kind": "shape", "words": words, "sqnr_db": None}
    known = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(known, a, 0), np.where(known, b, 0)
    highest = float(np.abs(a).max(initial=0)) or 1.0
    tolerance = highest * (ROUNDED if reference.rounded or candidate.rounded else EXACT)
    noise = float(((a - b) ** 2).sum())
    if not noise or np.abs(a - b).max() <= tolerance:
        return None
    found = _difference(a, b, tolerance)
    if reference.inside or candidate.inside:
        found["words"] = "after the preprocessing inside the files, " + found["words"]
    return found | {"sqnr_db": float(10 * np.log10(max(float((a**2).sum()), 1e-20 * noise) / noise))}


def _difference(a: np.ndarray, b: np.ndarray, tolerance: float) -> dict[str, Any]:
    if a.shape[0] == 3 and np.abs(a[::-1] - b).max() <= tolerance:
        return {"kind": "channels", "words": "the channels are in reverse order (RGB or BGR)"}
    cut = _cut_off(a, b, tolerance)
    if cut:
        return {"kind": "range", "words": cut}
    slopes = [np.polyfit(x.ravel(), y.ravel(), 1) for x, y in zip(a, b, strict=True)]
    rest = max(float(np.abs(np.polyval(s, x.ravel()) - y.ravel()).max()) for s, x, y in zip(slopes, a, b, strict=True))
    if rest <= 1e-2 * (float(np.abs(b).max()) or 1.0):
        words = ", ".join(dict.fromkeys(_line(slope, offset, tolerance) for slope, offset in slopes))
        return {
            "kind": "scale",
            "words": f"the candidate's input is the reference's {words}: mean, std or scale differ",
        }
    return {"kind": "values", "words": "the two sides get different input pixels: check size, crop and interpolation"}


def _cut_off(a: np.ndarray, b: np.ndarray, tolerance: float) -> str:
    """Says where b is a cut off at a lowest or a highest value, "" where it is not."""
    low, high = float(b.min()), float(b.max())
    if np.abs(np.clip(a, low, high) - b).max() > tolerance:
        return ""
    sides = {f"below {low:.3g}": a < low - tolerance, f"above {high:.3g}": a > high + tolerance}
    shares = [f"{beyond.mean():.1%} of the values are {where}" for where, beyond in sides.items() if beyond.any()]
    return f"the candidate cuts off its input: {' and '.join(shares)}" if shares else ""


def _line(slope: float, offset: float, tolerance: float) -> str:
    return f"× {slope:.3g}" + (f" {'+' if offset > 0 else '−'} {abs(offset):.3g}" if abs(offset) > tolerance else "")


def _channels_first(array: np.ndarray) -> np.ndarray:
    """(C, H, W), float64, of one picture in either layout."""
    picture = array[0].astype(np.float64)
    return (
        np.moveaxis(picture, -1, 0) if picture.shape[-1] in (1, 3, 4) and picture.shape[0] not in (1, 3, 4) else picture
    )
