"""Which channels and which regions make the Grad-CAMs of two builds differ.

The map of a side is L = ReLU(S), S = Σ_k C_k, C_k = w_k A_k. With D = L' − L (candidate − reference) and the multiplier
m = D / (S' − S), which is 1 where both sums are positive, channel k contributes m (C'_k − C_k). These add up to D, as
DeepLIFT's rescale rule divides a difference (Shrikumar et al. 2017, 1704.02685, section 3.5). Its share is the sum of
sign(D) times that, over Σ |D|; the shares of all channels add up to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analyzer.data import Sample
from analyzer.errors import InputError, UnsupportedError
from analyzer.gradient.policies import GRADIENT
from analyzer.gradient.reverse import pullback
from analyzer.graph import Builder
from analyzer.images import Feeding
from analyzer.images.components import connected_components
from analyzer.validation.side import Inputs, Side

CHANNELS = 5  # named of a picture
DRAWN, LEAST = 3, 0.01  # of them are drawn, if their share is at least so much
REGIONS = 3

Maps = dict[str, np.ndarray]  # {title: (h, w)}


class Terms:
    """The terms C_k of one side's Grad-CAM at a layer."""

    def __init__(self, side: Side, layer: str) -> None:
        task = side.task
        if not task.by_class or task.per_picture or not task.classes:
            raise UnsupportedError(
                f"{side.name}: --evidence-difference needs one score per class, not {task.kind}",
                "compare the maps without it",
            )
        graph = side._fresh()
        op = Builder(graph, "difference")
        self.classes, self.side, self.layer = task.classes, side, layer
        chosen = graph.add_input("difference/chosen", np.float32, [side.explainer.fixed_batch or 1, task.classes])
        tensor, cotangent = side.task.spread(op, chosen)
        gradient = pullback(op, {tensor.name: cotangent}, [layer], GRADIENT, narrow=False)[layer]
        if gradient is None:
            raise UnsupportedError(f"{side.name}: no score depends on {layer!r} by a gradient")
        self.chosen = chosen.name
        self.names = [graph.outputs_for([layer])[layer], graph.add_output(gradient, "difference/gradient").name]
        self.session = side.explainer.session(graph, self.names)

    def of(self, given: Inputs, target: int) -> np.ndarray:
        """(K, h, w) w_k A_k of one picture, for the score of class `target`."""
        wanted = np.zeros((self.side.explainer.fixed_batch or 1, self.classes), np.float32)
        wanted[:, target] = 1
        found = self.session.run(self.side._fed(given) | {self.chosen: wanted}, self.names)
        arrays = (self.side.channels_first(self.layer, self.side._first(found[n])) for n in self.names)
        activations, gradient = (np.asarray(a[0], np.float64) for a in arrays)
        return np.asarray(gradient.mean(axis=(1, 2), keepdims=True) * activations)


def contributions(reference: np.ndarray, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D (h, w), what each channel contributes to it (K, h, w)); the sum over channels is D.

    Args:
        reference, candidate: (K, h, w) the terms of both sides.
    """
    before, after = reference.sum(0), candidate.sum(0)
    difference = np.maximum(after, 0) - np.maximum(before, 0)
    moved = after - before
    scale = np.divide(difference, moved, out=np.zeros_like(moved), where=moved != 0)
    return difference, scale * (candidate - reference)


def regions(difference: np.ndarray) -> list[dict[str, Any]]:
    """The connected places where |D| is at least half of its maximum, the largest share of Σ |D| first.

    `box`: x0, y0, x1, y1 as shares of the width and height of the network's input.
    """
    size, total = np.abs(difference), float(np.abs(difference).sum())
    height, width = difference.shape
    found: list[dict[str, Any]] = []
    for sign, name in ((1, "gained"), (-1, "lost")):
        labels, boxes = connected_components((sign * difference >= size.max() / 2) & (size > 0))
        for label, (x0, y0, x1, y1, _) in enumerate(boxes.tolist(), 1):
            share = float(size[labels == label].sum()) / total
            box = [x0 / width, y0 / height, x1 / width, y1 / height]
            found.append({"change": name, "box": box, "share": share})
    return sorted(found, key=lambda row: -row["share"])[:REGIONS]


def evidence_difference(
    reference: Side,
    candidate: Side,
    report: Mapping[str, Any],
    samples: Sequence[Sample],
    feeds: tuple[Feeding, Feeding],
) -> tuple[dict[str, Any], dict[str, Maps]]:
    """What makes the Grad-CAMs of the reference's top class differ at the reference's layer.

    Args:
        report: of the comparison: its layers and the top classes of its rows.
        samples: the pictures.

    Returns:
        ({"layer", "candidate", "channels", "pictures"}, {picture: {title: map}}, to be drawn).

    Raises:
        UnsupportedError: the task has no classes, or the candidate has no such layer with as many channels.
    """
    twin = next((r["candidate"] for r in report["layers"] if r["layer"] == reference.layer), None)
    if twin is None:
        raise UnsupportedError(f"{candidate.name}: it has no layer that is {reference.layer!r} of the reference")
    sides = Terms(reference, reference.layer), Terms(candidate, twin)
    tops = {row["picture"]: row["top"][0] for row in report["rows"]}
    rows: list[dict[str, Any]] = []
    drawn: dict[str, Maps] = {}
    sums: np.ndarray | None = None
    for sample in samples:
        try:
            fed = [how.feed(sample.source) for how in feeds]
        except InputError:
            continue
        given = [dict(f.feeds) if len(f.feeds) > 1 else f.main.array for f in fed]
        ours, theirs = (side.of(g, tops[sample.id]) for side, g in zip(sides, given, strict=True))
        if ours.shape != theirs.shape:
            shapes = " and ".join("×".join(map(str, a.shape)) for a in (ours, theirs))
            raise UnsupportedError(f"{reference.layer!r} is {shapes} (channels, height, width) in the two builds")
        difference, parts = contributions(ours, theirs)
        total = float(np.abs(difference).sum())
        shares = (np.sign(difference) * parts).sum(axis=(1, 2)) / (total or 1.0)
        first = np.argsort(-np.abs(shares), kind="stable")[:CHANNELS].tolist()
        rows.append(
            {
                "picture": sample.id,
                "target": tops[sample.id],
                "size": total / max(float(np.maximum(ours.sum(0), 0).sum()), 1e-30),
                "channels": [{"channel": k, "share": float(shares[k])} for k in first],
                "regions": regions(difference) if total else [],
            }
        )
        seen = [k for k in first[:DRAWN] if abs(shares[k]) >= LEAST]
        titles = {f"channel {k}: {shares[k]:.0%} of the difference": parts[k] for k in seen}
        drawn[sample.id] = {"candidate − reference": difference} | titles
        sums = shares * total + (0 if sums is None else sums)
    whole = sum(row["size"] for row in rows)
    mean = np.zeros(0) if sums is None else sums / (np.abs(sums.sum()) or 1.0)
    order = np.argsort(-np.abs(mean), kind="stable")[:CHANNELS].tolist() if whole else []
    channels = [{"channel": k, "share": float(mean[k])} for k in order]
    return {"layer": reference.layer, "candidate": twin, "channels": channels, "pictures": rows}, drawn
