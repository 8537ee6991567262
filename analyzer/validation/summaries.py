"""Figures of a comparison, from what its pictures showed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analyzer.metrics.intervals import bootstrap, mcnemar, paired_difference, wilson
from analyzer.validation.truths import accuracy_of

CONFIDENCE = 0.95


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
    """Rates with their 95 % intervals over pictures; of each group of pictures too, where they have groups."""
    drifts = [r["score_drift"] for r in rows if r["score_drift"] is not None]
    result: dict[str, Any] = {
        "judged": len(drifts),
        "label_agreement": None,
        "score_drift_mean": float(np.mean(drifts)) if drifts else None,
        "score_drift_max": float(max(drifts)) if drifts else None,
        "score_drift_interval": list(bootstrap(drifts)[1:]) if len(drifts) > 1 else None,
    }
    result |= _rates(rows, CONFIDENCE)
    groups = sorted({r["group"] for r in rows if r.get("group")})
    if groups:
        confidence = 1 - (1 - CONFIDENCE) / len(groups)  # Bonferroni's: of all groups together
        members = {g: [r for r in rows if r.get("group") == g] for g in groups}
        result["slices"] = [{"group": g, "pictures": len(of)} | _rates(of, confidence) for g, of in members.items()]
    return result


def _rates(rows: Sequence[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """Label agreement, and accuracy where true classes are known."""
    found: dict[str, Any] = {}
    labels = [bool(r["agree"]) for r in rows if r["agree"] is not None]
    if labels:
        rate = wilson(sum(labels), len(labels), confidence)
        found |= {"label_agreement": rate.value, "labels": len(labels), "label_interval": list(rate[1:])}
    known = [r["right"] for r in rows if "right" in r]
    if known:
        found["accuracy"] = [float(np.mean([r[i] for r in known])) for i in (0, 1)]
        lost, won = (sum(r[i] and not r[1 - i] for r in known) for i in (0, 1))
        loss = paired_difference(lost, won, len(known), confidence)
        found["accuracy_loss"] = {
            "value": loss.value,
            "interval": list(loss[1:]),
            "pictures": len(known),
            "only_reference": lost,
            "only_candidate": won,
            "p": mcnemar(lost, won),
        }
    return found | accuracy_of(rows, confidence)


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
        "interval": list(bootstrap([found["value"] for found, _ in known])[1:]) if len(known) > 1 else None,
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


def evidence_summary(rows: Sequence[dict[str, Any]], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Medians over the pictures of each method's agreement."""
    result: dict[str, dict[str, Any]] = {}
    for method in methods:
        found = [r["evidence"][method] for r in rows if r["evidence"].get(method)]
        keys = [k for k in ("rank_correlation", "top_iou", "maximum_shift") if any(k in f for f in found)]
        if keys:
            result[method] = {k: float(np.median([f[k] for f in found if k in f])) for k in keys}
            values = [f["rank_correlation"] for f in found]
            if len(values) > 1:
                result[method]["rank_correlation_interval"] = list(bootstrap(values, np.median)[1:])
            result[method]["rank_correlation_low"] = float(min(values))
    return result
