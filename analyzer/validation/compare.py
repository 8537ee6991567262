"""Two builds of a model over the same pictures: do they say the same, see the same, and look at the same?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analyzer.errors import AnalyzerError, InputError
from analyzer.validation.matching import Match, match_by_activations, match_by_name
from analyzer.validation.metrics import Drift, energy_inside, maximum_shift, spearman, top_iou
from analyzer.validation.side import Side
from analyzer.validation.weights import saturated_share, weight_differences

METHODS = ("grad-cam", "gradient")
Map = tuple[np.ndarray, str]  # heatmap (H, W), diagnosis


@dataclass
class Picture:
    """A picture's name, its tensors for both sides, and what is known of it.

    Attributes:
        reference, candidate: (1, …) as each side takes it.
        label: true class, None where unknown.
        boxes: (n, 4), x0 y0 x1 y1 in pixels of the reference's input.
    """

    name: str
    reference: np.ndarray
    candidate: np.ndarray
    label: int | None = None
    boxes: np.ndarray | None = None


@dataclass
class Comparison:
    """Everything that was measured; `report` is the same as plain data.

    `maps` holds {picture: {method: (reference, candidate)}} heatmaps (H, W) of the pictures kept for the eye.
    """

    report: dict[str, Any]
    maps: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)


def compare(
    reference: Side,
    candidate: Side,
    pictures: Iterable[Picture],
    methods: Sequence[str] = METHODS,
    keep: int = 6,
    step: Callable[[], None] = lambda: None,
) -> Comparison:
    """Compares outputs, layers and evidence, one picture in memory at a time.

    The target of every map is the reference's top class. Layers are matched by name, those left over by their
    activations on the first picture; `rule` says how.

    Args:
        keep: how many of the pictures with the least agreement keep their maps.
        step: called after each picture.

    Raises:
        InputError: there is no picture, or the models' scores do not have as many classes.
    """
    run = _Run(reference, candidate, tuple(methods), keep)
    for picture in pictures:
        run.add(picture)
        step()
    if not run.rows:
        raise InputError("there is no picture to compare on", "give --data a folder of pictures")
    return run.result()


class _Run:
    """A comparison under way."""

    def __init__(self, reference: Side, candidate: Side, methods: tuple[str, ...], keep: int) -> None:
        self.sides = (reference, candidate)
        self.methods, self.keep = methods, keep
        self.matches: list[Match] = []
        self.drifts: dict[str, Drift] = {}
        self.watched: dict[str, str] = {}
        self.saturation: dict[str, list[float]] = {}
        self.rows: list[dict[str, Any]] = []
        self.maps: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
        self.agreement: dict[str, float] = {}
        self.unavailable: dict[str, str] = {}
        self.contract: dict[str, Any] | None = None

    def add(self, picture: Picture) -> None:
        reference, candidate = self.sides
        if not self.matches:
            self._match(picture)
            self.contract = input_difference(picture.reference, picture.candidate)
        outputs = [reference.output(picture.reference), candidate.output(picture.candidate)]
        if outputs[0].shape != outputs[1].shape:
            raise InputError(
                f"{reference.name} has {outputs[0].size} scores and {candidate.name} has {outputs[1].size}",
                "compare two builds of the same model",
            )
        top = [int(o.argmax()) for o in outputs]
        row: dict[str, Any] = {
            "picture": picture.name,
            "top": top,
            "agree": reference.labels(outputs[0]) == reference.labels(outputs[1]),
            "score_drift": float(np.abs(outputs[0] - outputs[1]).max() / (np.abs(outputs[0]).max() or 1.0)),
        }
        if picture.label is not None:
            row["label"] = picture.label
            row["right"] = [t == picture.label for t in top]
        self._features(picture)
        row["evidence"] = self._evidence(picture, top[0])
        self.rows.append(row)

    # ---- Layers ----

    def _match(self, picture: Picture) -> None:
        reference, candidate = self.sides
        matches = match_by_name(reference.layers, candidate.graph)
        left = [n for n in reference.layers if n not in {m.reference for m in matches}]
        right = [n for n in candidate.layers if n not in {m.candidate for m in matches}]
        if left and right:
            reference.tap(left)
            candidate.tap(right)
            found = reference.features(picture.reference), candidate.features(picture.candidate)
            matches += match_by_activations(*found, reference.shapes, candidate.shapes)
        order = {name: i for i, name in enumerate(reference.layers)}
        self.matches = sorted(matches, key=lambda m: order[m.reference])
        self.drifts = {m.reference: Drift() for m in self.matches}
        quantised = match_by_name(reference.rectified, candidate.graph)
        self.watched = {m.reference: m.candidate for m in quantised if m.rule == "name, dequantised"}
        reference.tap([*(m.reference for m in self.matches), *self.watched])
        candidate.tap([m.candidate for m in self.matches])

    def _features(self, picture: Picture) -> None:
        reference, candidate = self.sides
        ours, theirs = reference.features(picture.reference), candidate.features(picture.candidate)
        for match in self.matches:
            a, b = ours[match.reference], theirs[match.candidate]
            if math.prod(reference.shapes[match.reference]) == math.prod(candidate.shapes[match.candidate]):
                self.drifts[match.reference].add(a, b.reshape(a.shape))
        for name, twin in [*((m.reference, m.candidate) for m in self.matches), *self.watched.items()]:
            values = np.maximum(ours[name], 0) if name in self.watched else ours[name]
            share = saturated_share(candidate.graph, twin, values)
            if share is not None:
                self.saturation.setdefault(name, []).append(share)

    # ---- Evidence ----

    def _evidence(self, picture: Picture, target: int) -> dict[str, Any]:
        reference, _candidate = self.sides
        layers = (reference.layer, self._twin(reference.layer))
        found: dict[str, Any] = {}
        for method in self.methods:
            maps = []
            for side, array, layer in zip(self.sides, (picture.reference, picture.candidate), layers, strict=True):
                try:
                    maps.append(side.heatmap(array, method, target, layer or "auto"))
                except AnalyzerError as error:
                    self.unavailable[method] = f"{side.name}: {error.message}"
                    break
            if len(maps) == 2:
                found[method] = self._agreement(picture, method, *maps)
        return found

    def _agreement(self, picture: Picture, method: str, ours: Map, theirs: Map) -> dict[str, Any]:
        heats = (ours[0], theirs[0])
        result: dict[str, Any] = {}
        if heats[0].shape == heats[1].shape:
            result = {
                "rank_correlation": spearman(*heats),
                "top_iou": top_iou(*heats),
                "maximum_shift": maximum_shift(*heats),
            }
        if picture.boxes is not None and len(picture.boxes):
            result["energy_in_boxes"] = [energy_inside(h, picture.boxes) for h in heats]
        if theirs[1]:
            result["diagnosis"] = theirs[1]
        self._keep_maps(picture.name, method, result, heats)
        return result

    def _keep_maps(self, name: str, method: str, agreement: dict[str, Any], heats: tuple[np.ndarray, ...]) -> None:
        """Keeps the maps of the pictures that agree least by the first method."""
        if method != self.methods[0]:
            if name in self.maps:
                self.maps[name][method] = (heats[0], heats[1])
            return
        self.agreement[name] = agreement.get("rank_correlation", -1.0)
        self.maps[name] = {method: (heats[0], heats[1])}
        if len(self.maps) > self.keep:
            del self.maps[max(self.maps, key=lambda n: self.agreement[n])]

    def _twin(self, layer: str) -> str | None:
        return next((m.candidate for m in self.matches if m.reference == layer), None)

    # ---- Result ----

    def result(self) -> Comparison:
        reference, candidate = self.sides
        layers = [
            {"layer": m.reference, "candidate": m.candidate, "rule": m.rule, **self.drifts[m.reference].summary()}
            for m in self.matches
            if self.drifts[m.reference].pictures
        ]
        report = {
            "reference": reference.about,
            "candidate": candidate.about,
            "pictures": len(self.rows),
            "outputs": _outputs(self.rows),
            "input": self.contract,
            "layers": layers,
            "ranges": [{"layer": n, "saturated": float(np.mean(s))} for n, s in self.saturation.items()],
            "unmatched": [n for n in reference.layers if n not in self.drifts],
            "largest_jump": _largest_jump(layers),
            "weights": weight_differences(reference.graph, candidate.graph),
            "plan": {"reference": reference.plan(), "candidate": candidate.plan()},
            "evidence": _evidence_summary(self.rows, self.methods),
            "unavailable": self.unavailable,
            "rows": self.rows,
        }
        return Comparison(report, self.maps)


def _outputs(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "label_agreement": float(np.mean([r["agree"] for r in rows])),
        "score_drift_mean": float(np.mean([r["score_drift"] for r in rows])),
        "score_drift_max": float(max(r["score_drift"] for r in rows)),
    }
    known = [r["right"] for r in rows if "right" in r]
    if known:
        result["accuracy"] = [float(np.mean([r[i] for r in known])) for i in (0, 1)]
    return result


def _largest_jump(layers: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Where the noise grows most from one layer to the next: the layer, and SQNR before and at it, dB."""
    if not layers:
        return None
    before = [200.0, *(row["sqnr_db"] for row in layers)]
    drops = [before[i] - row["sqnr_db"] for i, row in enumerate(layers)]
    worst = int(np.argmax(drops))
    return {"layer": layers[worst]["layer"], "before_db": before[worst], "at_db": layers[worst]["sqnr_db"]}


def _evidence_summary(rows: Sequence[dict[str, Any]], methods: Sequence[str]) -> dict[str, dict[str, float]]:
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
        return {"kind": "shape", "words": f"the inputs have sizes {list(a.shape)} and {list(b.shape)}"}
    scale = float(np.abs(a).max()) or 1.0
    if np.abs(a - b).max() <= 1e-3 * scale:
        return None
    if a.shape[0] == 3 and np.abs(a[::-1] - b).max() <= 1e-3 * scale:
        return {"kind": "channels", "words": "the channels are in the opposite order (RGB, BGR)"}
    slopes = [np.polyfit(x.ravel(), y.ravel(), 1) for x, y in zip(a, b, strict=True)]
    rest = max(float(np.abs(np.polyval(s, x.ravel()) - y.ravel()).max()) for s, x, y in zip(slopes, a, b, strict=True))
    if rest <= 1e-2 * (float(np.abs(b).max()) or 1.0):
        words = ", ".join(f"× {s[0]:.3g} {'+' if s[1] >= 0 else '−'} {abs(s[1]):.3g}" for s in slopes)
        return {
            "kind": "scale",
            "words": f"the candidate's pixels are the reference's {words}: another mean, std or scale",
        }
    return {"kind": "values", "words": "the two sides are fed different pixels (size, crop or interpolation)"}


def _channels_first(array: np.ndarray) -> np.ndarray:
    """(C, H, W), float64, of one picture in either layout."""
    picture = array[0].astype(np.float64)
    return (
        np.moveaxis(picture, -1, 0) if picture.shape[-1] in (1, 3, 4) and picture.shape[0] not in (1, 3, 4) else picture
    )


__all__ = ["METHODS", "Comparison", "Picture", "compare", "input_difference"]
