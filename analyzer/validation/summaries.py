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
