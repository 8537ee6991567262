"""An audit's report, assembled from the results of its pictures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analyzer.analysis import receptive_field
from analyzer.analysis.cost import cost
from analyzer.analysis.layouts import layouts
from analyzer.images import Preprocess
from analyzer.validation.checks import SATURATED, answered, checked, maxima_together, why_not
from analyzer.validation.preprocessings import contract, mean_of_finite
from analyzer.validation.side import Side

CLASSES = 8  # whose mean maps are kept


def assembled(
    side: Side, preprocess: Preprocess, method: str, answers: str, total: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The report and the mean maps, from what `Auditing` gave for all pictures."""
    rows, loaded = total["rows"], side.explainer.loaded
    judged = answered(rows)
    used = cost(side.graph)
    proto = loaded.proto
    report: dict[str, Any] = {
        "identity": {
            "model": side.name,
            "sha256": loaded.sha256,
            "identity": loaded.identity,
            "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
            "ir": proto.ir_version,
            "opsets": {o.domain or "ai.onnx": o.version for o in proto.opset_import},
            "operators": dict(Counter(n.op_type for n in proto.graph.node).most_common()),
            "parameters": used.parameters,
            "macs": used.macs,
            "layer": side.layer,
            "method": method,
            "task": side.task.kind,
            "answers": answers,
        },
        "pictures": len(rows),
        "contract": contract(preprocess, total["contract"]),
        "layers": _layer_rows(side, total["channels"]),
        "summary": _summary(judged, answers) if judged else {},
        "rows": rows,
    }
    report["summary"]["not_finite"] = sum("not_finite" in row for row in rows)
    if total["mean"] is None:
        return report | {"checks": checked(report)}, {"all pictures": np.zeros(preprocess.size or (1, 1))}
    maps = {"all pictures": total["mean"] / len(judged)}
    for label, (count, heat) in sorted(total["classes"].items(), key=lambda c: (-c[1][0], c[0]))[:CLASSES]:
        maps[f"class {label} ({count})"] = heat / count
    report["summary"]["peak_of_mean_map"] = float(maps["all pictures"].max())
    return report | {"checks": checked(report)}, maps


def _layer_rows(side: Side, channels: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    fields: Any = receptive_field(side.graph)
    known = layouts(side.graph)
    rows = []
    for name, (low, high, full) in channels.items():
        reach = fields.get(name)
        everywhere = reach is None or reach.is_global
        row: dict[str, Any] = {
            "layer": name,
            "size": [d for d in known[name].grid if isinstance(d, int)],
            "channels": len(low),
            "dead": int((low == high).sum()),
            "saturated": int(((full > SATURATED) & (low < high)).sum()),
            "field": "all" if reach is None or everywhere else ["all" if s is None else int(s) for s in reach.size],
        }
        if reach is not None and not everywhere and reach.padding and None not in (*reach.padding, *reach.size):
            shares = [max(0.0, float(p)) / float(s) for p, s in zip(reach.padding, reach.size, strict=True)]
            row["corner_on_padding"] = 1 - math.prod(1 - s for s in shares)
        rows.append(row)
    return rows


def _summary(rows: Sequence[Mapping[str, Any]], answers: str) -> dict[str, Any]:
    """Means over the pictures, of what is finite; without the figures that no picture gives, or that do not apply."""
    placed = [row for row in rows if "maximum_y" in row]
    result: dict[str, Any] = {
        "confidence": mean_of_finite(r.get("confidence") for r in rows),
        "label_kept_when_shifted": mean_of_finite(r["shift"]["label_kept"] for r in rows if "shift" in r),
        "change_when_shifted": mean_of_finite(r["shift"]["change"] for r in rows if "shift" in r),
        "own_region": mean_of_finite(r.get("own_region") for r in rows),
        "border": mean_of_finite(r.get("border") for r in rows),
        "corners": mean_of_finite(r.get("corners") for r in rows),
        "maxima_together": maxima_together(placed)[0] if placed else None,
        "degenerate_maps": sum(bool(r["diagnosis"]) for r in rows),
        "saturated_scores": mean_of_finite(float(r["tied"] > 1) for r in rows if "tied" in r),
    }
    for key in ("faithfulness", "sanity", "steady"):
        probed = [r[key] for r in rows if key in r]
        for name in sorted({n for p in probed for n in p}):
            result[name] = mean_of_finite(p[name] for p in probed if name in p)
    for key, name in (("right", "accuracy"), ("energy_in_boxes", "energy_in_boxes"), ("pointing_hit", "pointing_game")):
        known = [float(r[key]) for r in rows if key in r]
        if known:
            result[name] = mean_of_finite(known)
    return {name: value for name, value in result.items() if value is not None and not why_not(name, answers)}
