"""Figures of a comparison, from what its pictures showed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def output_row(ours: str, theirs: str, kind: str, errors: np.ndarray, part: str, count: int) -> dict[str, Any]:
    mean = float(errors.mean()) if count else None
    return {
        "output": ours,
        "candidate": theirs,
        "kind": kind,
        "part": part,
        "pictures": count,
        "error_mean": mean,
        "error_max": float(errors.max()) if count else None,
        "sqnr_db": None if mean is None else 200.0 if mean <= 1e-10 else float(-20 * np.log10(mean)),
    }


def labels_and_drifts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    labels = [r["agree"] for r in rows if r["agree"] is not None]
    drifts = [r["score_drift"] for r in rows if r["score_drift"] is not None]
    result: dict[str, Any] = {
        "judged": len(drifts),
        "label_agreement": float(np.mean(labels)) if labels else None,
        "score_drift_mean": float(np.mean(drifts)) if drifts else None,
        "score_drift_max": float(max(drifts)) if drifts else None,
    }
    known = [r["right"] for r in rows if "right" in r]
    if known:
        result["accuracy"] = [float(np.mean([r[i] for r in known])) for i in (0, 1)]
    return result


def prediction_summary(rows: Sequence[dict[str, Any]], outputs: Sequence[str]) -> dict[str, Any] | None:
    """How far the predictions agree by the task's own measure, over pictures; None where it was not asked."""
    known = [(row["predictions"], row["picture"]) for row in rows if "predictions" in row]
    if not known:
        return None
    lowest, picture = min(((found["value"], name) for found, name in known), key=lambda pair: pair[0])
    return {
        "measure": known[0][0]["measure"],
        "outputs": list(outputs),
        "pictures": len(known),
        "mean": float(np.mean([found["value"] for found, _ in known])),
        "lowest": lowest,
        "lowest_picture": picture,
    }


def largest_jump(layers: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Where the noise grows most from one layer to the next: the layer, and SQNR before and at it, dB."""
    if not layers:
        return None
    before = [200.0, *(row["sqnr_db"] for row in layers)]
    drops = [before[i] - row["sqnr_db"] for i, row in enumerate(layers)]
    worst = int(np.argmax(drops))
    return {"layer": layers[worst]["layer"], "before_db": before[worst], "at_db": layers[worst]["sqnr_db"]}


def evidence_summary(rows: Sequence[dict[str, Any]], methods: Sequence[str]) -> dict[str, dict[str, float]]:
    """Medians over the pictures of each method's agreement."""
    result = {}
    for method in methods:
        found = [r["evidence"][method] for r in rows if r["evidence"].get(method)]
        keys = [k for k in ("rank_correlation", "top_iou", "maximum_shift") if any(k in f for f in found)]
        if keys:
            result[method] = {k: float(np.median([f[k] for f in found if k in f])) for k in keys}
            result[method]["rank_correlation_low"] = float(min(f["rank_correlation"] for f in found))
    return result


def input_difference(reference: np.ndarray, candidate: np.ndarray) -> dict[str, Any] | None:
    """How the two sides' tensors of one picture differ; None where they hold the same values.

    Returns:
        {"kind": "channels" | "scale" | "values" | "shape", "words": a sentence}.
    """
    a, b = (_channels_first(x) for x in (reference, candidate))
    if a.shape != b.shape:
        return {"kind": "shape", "words": f"the inputs have different shapes: {list(a.shape)} and {list(b.shape)}"}
    scale = float(np.abs(a).max()) or 1.0
    if np.abs(a - b).max() <= 1e-3 * scale:
        return None
    if a.shape[0] == 3 and np.abs(a[::-1] - b).max() <= 1e-3 * scale:
        return {"kind": "channels", "words": "the channels are in reverse order (RGB or BGR)"}
    slopes = [np.polyfit(x.ravel(), y.ravel(), 1) for x, y in zip(a, b, strict=True)]
    rest = max(float(np.abs(np.polyval(s, x.ravel()) - y.ravel()).max()) for s, x, y in zip(slopes, a, b, strict=True))
    if rest <= 1e-2 * (float(np.abs(b).max()) or 1.0):
        words = ", ".join(f"× {s[0]:.3g} {'+' if s[1] >= 0 else '−'} {abs(s[1]):.3g}" for s in slopes)
        return {
            "kind": "scale",
            "words": f"the candidate's input is the reference's {words}: mean, std or scale differ",
        }
    return {"kind": "values", "words": "the two sides get different input pixels: check size, crop and interpolation"}


def _channels_first(array: np.ndarray) -> np.ndarray:
    """(C, H, W), float64, of one picture in either layout."""
    picture = array[0].astype(np.float64)
    return (
        np.moveaxis(picture, -1, 0) if picture.shape[-1] in (1, 3, 4) and picture.shape[0] not in (1, 3, 4) else picture
    )
