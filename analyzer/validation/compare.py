"""Two builds of a model over the same pictures: do they say the same, see the same, and look at the same?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analyzer.errors import AnalyzerError, InputError
from analyzer.validation.matching import POOR, Match, match_by_activations, match_by_name, without_shifted_names
from analyzer.validation.metrics import (
    Drift,
    OutputError,
    cosine_of,
    energy_inside,
    finite_in_both,
    maximum_shift,
    one_sided,
    spearman,
    top_iou,
)
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
        candidate.score_by(reference.scores.output.name)
        self.scores = (reference.scores.output.name, candidate.scores.output.name)
        self.pairs, self.not_compared = paired_outputs(reference, candidate)
        self.errors = {ours: OutputError() for ours, _ in self.pairs}
        self.not_finite: list[dict[str, Any]] = []

    def add(self, picture: Picture) -> None:
        reference, candidate = self.sides
        if not self.rows:
            self._match(picture)
            self.contract = input_difference(picture.reference, picture.candidate)
        outputs = reference.all_outputs(picture.reference), candidate.all_outputs(picture.candidate)
        scores = self._common_scores(outputs[0][self.scores[0]], outputs[1][self.scores[1]])
        row = {"picture": picture.name} | self._scored(picture, *scores)
        self._features(picture)
        self._values(picture, *outputs)
        judged = all(np.isfinite(values).all() for values in scores) or row["score_drift"] is not None
        row["evidence"] = self._evidence(picture, row["top"][0]) if judged else {}
        self.rows.append(row)

    # ---- Outputs ----

    @property
    def squashed_as(self) -> str:
        """The squashing function that only one of the files ends with, "" where both or none do."""
        found = [side.scores.stripped[:1] for side in self.sides]
        return "" if all(found) or not any(found) else str((found[0] or found[1])[0])

    def _common_scores(self, ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both sides' scores, flat, logits turned to probabilities where the other side gives these."""
        reference, candidate = self.sides
        if ours.size != theirs.size:
            raise InputError(
                f"{reference.name} has {ours.size} scores and {candidate.name} has {theirs.size}",
                "compare two builds of the same model",
            )
        if self.squashed_as:
            with np.errstate(invalid="ignore"):  # of scores that are not finite
                if reference.scores.stripped:
                    theirs = candidate.squashed(theirs, self.squashed_as)
                else:
                    ours = reference.squashed(ours, self.squashed_as)
        return ours, theirs

    def _scored(self, picture: Picture, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
        """The row's figures: None where scores that are not finite, or no vector of classes, do not give them."""
        classes = [side.classes_of(given) for side, given in zip(self.sides, (ours, theirs), strict=True)]
        row: dict[str, Any] = {"top": [int(c.argmax()) for c in classes], "agree": None, "score_drift": None}
        ours, theirs = ours.ravel(), theirs.ravel()
        poisoned = any(np.isnan(o).any() or np.isposinf(o).any() for o in (ours, theirs))
        if poisoned or any(one_sided(ours, theirs)):
            return row
        a, b = finite_in_both(ours, theirs)
        row["score_drift"] = float(np.abs(a - b).max(initial=0) / (np.abs(a).max(initial=0) or 1.0))
        if not self.sides[0].scores.doubt:
            judge = self.sides[1] if self.sides[1].scores.stripped else self.sides[0]
            row["agree"] = judge.labels(classes[0]) == judge.labels(classes[1])
        if picture.label is not None:
            row["label"] = picture.label
            row["right"] = [t == picture.label for t in row["top"]]
        return row

    def _values(self, picture: Picture, *outputs: dict[str, np.ndarray]) -> None:
        """Takes in the outputs that are no vector of classes, and what is not finite in any of them."""
        sided: dict[str, str] = {}
        for ours, theirs in [self.scores, *(p for p in self.pairs if p[0] != self.scores[0])]:
            a, b = outputs[0][ours], outputs[1][theirs]
            if a.shape != b.shape:
                arranged = self.sides[0].channels_first(ours, a), self.sides[1].channels_first(theirs, b)
                a, b = arranged if arranged[0].shape == arranged[1].shape else (a, b)
            if a.shape == b.shape:
                for side, there in zip(("reference", "candidate"), one_sided(a, b), strict=True):
                    if there:
                        sided.setdefault(side, ours)
                if not (np.isfinite(a) | np.isfinite(b)).all():
                    sided.setdefault("both", ours)
                if (ours, theirs) in self.pairs:
                    self.errors[ours].add(a, b)
            elif (ours, theirs) in self.pairs:
                self.pairs.remove((ours, theirs))
                why = f"its shape is {list(a.shape)} in the reference and {list(b.shape)} in the candidate"
                self.not_compared.append({"output": ours, "side": "both", "why": why})
        for side, where in sided.items():
            self._not_finite(picture, side, where, "")

    def _not_finite(self, picture: Picture, side: str, where: str, layer: str) -> None:
        """Notes where a side, or both, are not finite for a picture, unless that is known."""
        if any(row["picture"] == picture.name and row["side"] in (side, "both") for row in self.not_finite):
            return
        whose = self.sides[1], picture.candidate
        if side == "reference":
            whose = self.sides[0], picture.reference
        self.not_finite.append(
            {"picture": picture.name, "side": side, "where": where, "why": whose[0].why_not_finite(whose[1], layer)}
        )

    # ---- Layers ----

    def _match(self, picture: Picture) -> None:
        reference, candidate = self.sides
        matches = self._named(picture)
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

    def _named(self, picture: Picture) -> list[Match]:
        """The matches by name, where names are to be trusted."""
        reference, candidate = self.sides
        matches = match_by_name(reference.layers, candidate.graph)
        if not matches:
            return []
        reference.tap([*reference.layers, *reference.rectified])
        candidate.tap([m.candidate for m in matches])
        ours, theirs = reference.features(picture.reference), candidate.features(picture.candidate)
        if doubtful(matches, ours, theirs):
            candidate.tap([*candidate.layers, *(m.candidate for m in matches)])
            theirs = candidate.features(picture.candidate)
            ours = {name: ours[name] for name in reference.layers}
            return without_shifted_names(matches, ours, theirs, reference.shapes, candidate.shapes)
        return matches

    def _features(self, picture: Picture) -> None:
        reference, candidate = self.sides
        ours, theirs = reference.features(picture.reference), candidate.features(picture.candidate)
        for match in self.matches:
            a, b = ours[match.reference], theirs[match.candidate]
            if math.prod(reference.shapes[match.reference]) == math.prod(candidate.shapes[match.candidate]):
                self.drifts[match.reference].add(a, b.reshape(a.shape))
                for side, there in zip(("reference", "candidate"), one_sided(a, b.reshape(a.shape)), strict=True):
                    if there:
                        layer = match.candidate if side == "candidate" else match.reference
                        self._not_finite(picture, side, match.reference, layer)
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
            if self.drifts[m.reference].pictures or not self.drifts[m.reference].finite
        ]
        compared = self._compared()
        twins = {m.reference: m.candidate for m in self.matches} | dict(self.pairs)
        weights = weight_differences(reference.graph, candidate.graph, twins)
        agreement = {row["layer"]: row["sqnr_db"] for row in layers} | {
            row["output"]: row["sqnr_db"] for row in compared
        }
        report = {
            "reference": reference.about,
            "candidate": candidate.about,
            "pictures": len(self.rows),
            "outputs": _outputs(self.rows) | ({"compared_after": self.squashed_as} if self.squashed_as else {}),
            "compared": compared,
            "not_compared": self.not_compared,
            "not_finite": self.not_finite,
            "input": self.contract,
            "layers": layers,
            "ranges": [{"layer": n, "saturated": float(np.mean(s))} for n, s in self.saturation.items()],
            "unmatched": [n for n in reference.layers if n not in {row["layer"] for row in layers}],
            "largest_jump": _largest_jump(layers),
            "weights": [row | {"sqnr_db": agreement.get(row["layer"])} for row in weights],
            "plan": {"reference": reference.plan(), "candidate": candidate.plan()},
            "evidence": _evidence_summary(self.rows, self.methods),
            "unavailable": self.unavailable,
            "rows": self.rows,
        }
        return Comparison(report, self.maps)

    def _compared(self) -> list[dict[str, Any]]:
        """The outputs that were compared, the scores first: their errors over the pictures."""
        found = []
        if not any(ours == self.scores[0] for ours, _ in self.pairs):
            drifts = [row["score_drift"] for row in self.rows if row["score_drift"] is not None]
            found.append(_output_row(*self.scores, "scores", np.array(drifts), "", len(drifts)))
        for ours, theirs in self.pairs:
            errors, part = self.errors[ours].summary()
            for row, error in zip(self.rows, errors, strict=True):
                row.setdefault("outputs", {})[ours] = float(error)
            node = self.sides[1].sorted_by(theirs) or self.sides[0].sorted_by(ours)
            found.append(
                _output_row(ours, theirs, "values", errors, part, len(errors)) | ({"sorted": node} if node else {})
            )
        return found


def paired_outputs(reference: Side, candidate: Side) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """(pairs of outputs to be compared by their values, what cannot be compared and why).

    Of the same name, else of the same shape, in the order of the files. The scores are one of them only where they are
    no vector of classes.
    """
    scores = reference.scores.output.name, candidate.scores.output.name
    left = [[n for n in side.outputs if n != name] for side, name in zip((reference, candidate), scores, strict=True)]
    pairs = [scores] if reference.scores.doubt else []
    for alike in (
        lambda a, b: a == b,
        lambda a, b: reference.graph[a].shape == candidate.graph[b].shape,
    ):
        for ours in list(left[0]):
            theirs = next((n for n in left[1] if alike(ours, n)), None)
            if theirs is not None:
                pairs.append((ours, theirs))
                left[0].remove(ours)
                left[1].remove(theirs)
    rest = []
    for kind, side, names in (("reference", reference, left[0]), ("candidate", candidate, left[1])):
        rest += [{"output": n, "side": kind, "why": "the other side has none like it"} for n in names]
        others = side.other_outputs.items()
        rest += [{"output": n, "side": kind, "why": why} for n, why in others if n != side.scores.output.name]
    return pairs, rest


def doubtful(matches: Sequence[Match], ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    """Whether a layer is unlike its namesake on a picture."""
    for match in matches:
        a, b = ours[match.reference], theirs[match.candidate]
        if a.size != b.size or cosine_of(a.astype(np.float64), b.astype(np.float64)) < POOR:
            return True
    return False


def _output_row(ours: str, theirs: str, kind: str, errors: np.ndarray, part: str, count: int) -> dict[str, Any]:
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


def _outputs(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
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
