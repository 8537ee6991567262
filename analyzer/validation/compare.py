"""Comparison of two builds of a model over the same pictures: outputs, layers and evidence."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from analyzer.attribution.black_box import is_perturbing
from analyzer.data import Sample, read_mask
from analyzer.errors import AnalyzerError, InputError, ProviderError
from analyzer.images import Fed, Feeding, Preprocess, encode, showing, write_png
from analyzer.metrics.energy import energy_inside
from analyzer.metrics.overlap import top_iou
from analyzer.metrics.similarity import cosine_of, finite_in_both, maximum_shift, spearman
from analyzer.passes import Loaded, Pass, Workers, run
from analyzer.store import key_of
from analyzer.tasks.base import Finding
from analyzer.tasks.detection.boxed import Boxed
from analyzer.tasks.regression import Regression
from analyzer.tasks.segmentation import Segmentation
from analyzer.tasks.text import Text
from analyzer.validation.inputs import input_difference
from analyzer.validation.matching import POOR, Match, match_by_activations, match_by_name, without_shifted_names
from analyzer.validation.metrics import Drift, OutputError, one_sided
from analyzer.validation.perturbed import Whole, meet, methods_for, seen
from analyzer.validation.runner_side import hides
from analyzer.validation.side import Evidence, Inputs, Side, sampled
from analyzer.validation.summaries import (
    evidence_summary,
    labels_and_drifts,
    largest_jump,
    output_row,
    prediction_summary,
)
from analyzer.validation.truths import against_boxes, against_mask
from analyzer.validation.weights import nearest_layers, saturated_share, single_scale, weight_differences

EVIDENCE = ("grad-cam", "gradient")
COARSE = ("quantized", "half", "float")  # precisions, the coarsest first
Maps: TypeAlias = dict[str, tuple[np.ndarray, np.ndarray]]  # {method: (reference, candidate)}
ANSWERS = (Finding, Segmentation, Text)  # tasks whose predictions are compared besides the numbers they are read from


@dataclass
class Pair:
    """A picture's name, its tensors for both sides, and its annotations.

    Attributes:
        reference, candidate: (1, …), the input of each side, or all of its inputs by name.
        label: true class, None where unknown.
        boxes: (n, 4), x0 y0 x1 y1 in pixels of the reference's input.
        group: of pictures that are also judged by themselves, "" for none.
        fed: the picture as it was fed to each side; None for tensors.
        known: true boxes and mask of the picture in its own pixels, as `Sample.annotations`.
        gray: the inputs of both sides for a mid-gray picture, None for zeros.
    """

    name: str
    reference: Inputs
    candidate: Inputs
    label: int | None = None
    boxes: np.ndarray | None = None
    group: str = ""
    fed: tuple[Fed, Fed] | None = None
    known: Mapping[str, Any] = field(default_factory=dict)
    gray: tuple[Inputs, Inputs] | None = None

    @property
    def content(self) -> str:
        """A hash of all of it."""
        boxes = np.zeros(0) if self.boxes is None else self.boxes
        sides = [sorted(s.items()) if isinstance(s, Mapping) else [s] for s in (self.reference, self.candidate)]
        return key_of(self.name, self.label, self.group, *(part for side in sides for part in _flat(side)), boxes)


def _flat(parts: Sequence[Any]) -> list[Any]:
    return [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]


@dataclass(repr=False)
class Comparison:
    """Everything that was measured; `report` is the same as plain data. In a notebook it shows itself.

    `maps` has {picture: {method: (reference, candidate)}}: the pictures to show, those that agree least, (H, W) in the
    numbers of the method, or (H, W, C), the signed numbers of pixels in RGB order. `failed` and `doubt` are those of
    `passes.Outcome`. `findings` are where thresholds are passed, `inconclusive` the rates that the pictures do not
    settle, both None where none were applied; `run` says how it was run; `draw` makes a figure of a picture, and
    `draw_layer` of a layer on a picture; `again` gives the maps of a picture that are not kept.
    """

    report: dict[str, Any]
    maps: dict[str, Maps] = field(default_factory=dict)
    failed: dict[str, AnalyzerError] = field(default_factory=dict)
    doubt: str = ""
    findings: list[dict[str, Any]] | None = None
    inconclusive: list[dict[str, Any]] | None = None
    run: dict[str, Any] = field(default_factory=dict)
    draw: Callable[[str], np.ndarray] | None = field(default=None, compare=False)
    differences: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    again: Callable[[Sample], Maps] | None = field(default=None, compare=False)
    draw_layer: Callable[[str, str], np.ndarray | None] | None = field(default=None, compare=False)

    @property
    def passed(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def as_data(self) -> dict[str, Any]:
        """What `compare --format json` prints, as plain data."""
        found, doubts = self.findings or [], self.inconclusive or []
        return {"comparison": self.report, "run": self.run, "findings": found, "inconclusive": doubts}

    def figure(self, picture: str | None = None) -> np.ndarray:
        """The maps of both sides over a picture, that which agrees least unless it is named: (H, W, 3) uint8 RGB.

        Raises:
            InputError: there are no maps, or none of that picture.
        """
        name = self._least if picture is None else picture
        if self.draw is None or name not in self.least():
            known = ", ".join(self.least(8)) or "none"
            raise InputError(f"no maps of {name!r} are kept" if name else "no maps are kept", f"there are {known}")
        return self.draw(name)

    def save(self, path: str | os.PathLike[str], picture: str | None = None) -> None:
        """Write `figure` as .png, .jpg or .webp."""
        write_png(path, self.figure(picture))

    @property
    def _least(self) -> str | None:
        """The picture that agrees least."""
        return next(iter(self.least()), None)

    def least(self, count: int | None = None) -> list[str]:
        """The pictures with maps that agree least: those whose labels differ, then by the first method's maps."""
        keys = {
            row["picture"]: (
                row.get("agree") is not False,
                min((m.get("rank_correlation", -1.0) for m in row["evidence"].values()), default=2.0),
            )
            for row in self.report["rows"]
            if row["picture"] in self.maps or (self.again and row["evidence"])
        }
        return sorted(keys, key=lambda name: keys[name])[:count]

    def __repr__(self) -> str:
        """«Comparison(int8.onnx against fp32.onnx on 4 pictures: pass)»"""
        count = len(self.findings or ())
        said = f"{count} finding{'s' * (count != 1)}" if count else "inconclusive" if self.inconclusive else "pass"
        said = "not judged" if self.findings is None else said
        names = [os.path.basename(self.report[side]["model"]) for side in ("candidate", "reference")]
        models = " against ".join(names)
        pictures = self.report["pictures"]
        return f"Comparison({models} on {pictures} picture{'s' * (pictures != 1)}: {said})"

    def _thumbnail(self) -> np.ndarray | None:
        return self.figure() if self.draw is not None and self.maps else None

    def _repr_png_(self) -> bytes | None:
        picture = self._thumbnail()
        return None if picture is None else encode(picture)

    def _repr_html_(self) -> str:
        rows = [(f["code"], f"{f['value']:.4g}", f"{f['limit']:.4g}", f["words"]) for f in self.findings or ()]
        rows += [
            (method, f"{row['rank_correlation']:.3f}", "", "median rank correlation of the maps")
            for method, row in self.report["evidence"].items()
        ]
        return showing.page(repr(self), self._thumbnail(), rows, ("", "value", "limit", ""))


def compare(
    reference: Side,
    candidate: Side,
    pictures: Iterable[Pair | Sample],
    methods: Sequence[str] = (),
    keep: int = 6,
    preprocess: tuple[Preprocess | Feeding, Preprocess | Feeding] | None = None,
    folder: str | os.PathLike[str] | None = None,
    workers: Workers = None,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Compares outputs, layers and evidence.

    The target of every map is the reference's top class. Layers are matched by name, those left over by their
    activations on the first picture; `rule` says how.

    Args:
        pictures: pairs of tensors, or samples with the preprocessing of each side; a sample's annotations may hold a
            `label`, and `boxes` in pixels of the picture.
        keep: how many of the pictures with the least agreement keep their maps.
        folder, workers, progress: see `passes.run`.

    Raises:
        InputError: no pictures, or the two models have different numbers of classes.
    """
    samples = [s if isinstance(s, Sample) else Sample(s.name, i, s) for i, s in enumerate(pictures)]
    if not samples:
        raise InputError("no pictures to compare on", "pass a folder of pictures with --data")
    work = Comparing(reference, candidate, methods, keep, preprocess)
    done = run(work, samples, folder, workers, progress=progress)
    return replace(done.result, failed=done.failed, doubt=done.doubt, again=work.maps_of)


class Comparing(Pass[dict[str, Any]]):
    """A comparison over pictures, one a step."""

    name = "compare"
    anchored = True

    def __init__(
        self,
        reference: Side,
        candidate: Side,
        methods: Sequence[str] = (),
        keep: int = 6,
        preprocess: tuple[Preprocess | Feeding, Preprocess | Feeding] | None = None,
    ) -> None:
        self.sides, self.keep = (reference, candidate), keep
        meet(reference, candidate)
        self.methods = methods_for(self.sides, methods) or EVIDENCE
        self.preprocess: tuple[Feeding, ...] | None = None
        if preprocess is not None:
            self.preprocess = tuple(Feeding.of(h, s.input) for h, s in zip(preprocess, self.sides, strict=True))
        candidate.judged = True
        candidate.score_by(reference.scores.output.name)
        self.scores = (reference.scores.output.name, candidate.scores.output.name)
        self.pairs, self.not_compared = paired_outputs(reference, candidate)
        self.contract: dict[str, Any] | None = None
        self.matches: list[Match] = []
        self.watched: dict[str, str] = {}

    @property
    def identity(self) -> Mapping[str, Any]:
        sides = dict(zip(("reference", "candidate"), (side.identity for side in self.sides), strict=True))
        return sides | {
            "methods": self.methods,
            "keep": self.keep,
            "preprocess": [how.identity for how in self.preprocess or ()],
        }

    def load(self, sample: Sample) -> Pair:
        if isinstance(sample.source, Pair):
            return sample.source
        assert self.preprocess is not None, "samples are compared with the preprocessing of both sides"
        fed = [how.feed(sample.source) for how in self.preprocess]
        ours, theirs = (f.feeds if len(f.feeds) > 1 else f.main.array for f in fed)
        placement = fed[0].placement
        boxes = sample.annotations.get("boxes")
        inside = None if boxes is None else np.array([placement.box_to_input(tuple(b)) for b in boxes])
        label, group = sample.annotations.get("label"), sample.annotations.get("group", "")
        gray = None
        if any(is_perturbing(method) for method in self.methods):
            gray = self.preprocess[0].grey(fed[0]), self.preprocess[1].grey(fed[1])
        return Pair(sample.id, ours, theirs, label, inside, group, (fed[0], fed[1]), sample.annotations, gray)

    def setup(self, first: Loaded | None) -> None:
        """Matches layers on the first picture."""
        if first is None:
            return
        reference, candidate = self.sides
        images = reference.prepared(first.item.reference), candidate.prepared(first.item.candidate)
        self.contract = None if hides(self.sides, found := input_difference(*images)) else found
        self._match(*self._matched(first.item))
        self._both_features(first.item)  # makes the sessions, before threads ask for them

    def step(self, batch: Sequence[Loaded]) -> dict[str, Any]:
        """What one picture showed; see `_Partial`."""
        ((_, picture),) = batch
        reference, candidate = self.sides
        outputs = reference.all_outputs(picture.reference), candidate.all_outputs(picture.candidate)
        read = self._read_alike(*outputs)
        scores = self._common_scores(*self._scores_of(*outputs, read))
        part = _Partial([(m.reference, m.candidate, m.rule) for m in self.matches], self.watched, self.contract)
        row = {"picture": picture.name} | ({"group": picture.group} if picture.group else {})
        row |= self._scored(picture, *scores) | self._predicted(outputs[0], read)
        row |= self._against_truth(picture, outputs[0], read)
        self._features(part, picture)
        self._values(part, picture, *outputs)
        judged = all(np.isfinite(values).all() for values in scores) or row["score_drift"] is not None
        whole = Whole(reference.task, {n: outputs[0][n] for n in reference.task.reading}, row["top"][0])
        row["evidence"] = self._evidence(part, picture, whole) if judged else {}
        part.rows.append(row)
        return part.plain()

    def maps_of(self, sample: Sample) -> Maps:
        """The maps of a picture, see `Comparison.maps`, after the comparison."""
        part = _Partial.of(self.step([Loaded(sample, self.load(sample))]))
        return part.maps.get(sample.id, {})

    def merge(self, left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
        return _Partial.of(left).merge(_Partial.of(right), self.keep).plain()

    def finish(self, total: dict[str, Any] | None) -> Comparison:
        if total is None:
            raise InputError("no pictures to compare on", "none of the given pictures can be read")
        part = _Partial.of(total)
        self.contract = part.contract
        self._match([Match(*m) for m in part.matches], part.watched)
        return Comparison(self._report(part), part.maps)

    # ---- Outputs ----

    @property
    def squashed_as(self) -> str:
        """The squashing function that only one of the files ends with, "" where both or none do, and of values."""
        if any(isinstance(side.scores, Regression) for side in self.sides):
            return ""
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

    def _scored(self, picture: Pair, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
        """The row's figures: None where scores that are not finite, or no vector of classes, do not give them."""
        classes = [side.classes_of(given) for side, given in zip(self.sides, (ours, theirs), strict=True)]
        row: dict[str, Any] = {
            "top": [s.top_of(c) for s, c in zip(self.sides, classes, strict=True)],
            "agree": None,
            "score_drift": None,
        }
        ours, theirs = ours.ravel(), theirs.ravel()
        poisoned = any(np.isnan(o).any() or np.isposinf(o).any() for o in (ours, theirs))
        if poisoned or any(one_sided(ours, theirs)):
            return row
        a, b = finite_in_both(ours, theirs)
        row["score_drift"] = float(np.abs(a - b).max(initial=0) / (np.abs(a).max(initial=0) or 1.0))
        if self.sides[0].scores.by_class and not self.sides[0].scores.doubt:
            judge = self.sides[1] if self.sides[1].scores.stripped else self.sides[0]
            row["agree"] = judge.labels(classes[0]) == judge.labels(classes[1])
        if picture.label is not None:
            row["label"] = picture.label
            row["right"] = [t == picture.label for t in row["top"]]
        return row

    def _read_alike(self, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        """The candidate's outputs under the names that the reference's task reads; None where their shapes differ.

        Both are read by the reference's task: another build may hide the structure that it is recognised by.
        """
        twins = dict([self.scores, *self.pairs])
        found = {name: theirs.get(twins.get(name, name)) for name in self.sides[0].task.reading}
        alike = {name: array for name, array in found.items() if array is not None and array.shape == ours[name].shape}
        return alike if len(alike) == len(found) else None

    def _scores_of(
        self, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], read: dict[str, np.ndarray] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The scores of both sides: of detectors those of the candidates, without coordinates."""
        reference, candidate = self.sides
        if reference.task.per_picture and read is not None:
            return reference.scores_of(ours), reference.scores_of(read)
        if reference.task.per_picture != candidate.task.per_picture:
            return ours[self.scores[0]], theirs[self.scores[1]]
        return reference.scores_of(ours), candidate.scores_of(theirs)

    def _predicted(self, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray] | None) -> dict[str, Any]:
        """{"predictions": {measure, value, agrees}} by the task's own measure, {} where numbers say as much."""
        task = self.sides[0].task
        if theirs is None or not isinstance(task, ANSWERS) or self.squashed_as:
            return {}
        if not all(np.isfinite(said[name]).all() for said in (ours, theirs) for name in task.reading):
            return {}
        a, b = task.answer(ours), task.answer(theirs)
        found = task.agreement(a, b)
        if not found.agrees and not task.agreement(a, a).agrees:  # boxes without area: the measure says nothing of them
            return {}
        return {"predictions": {"measure": found.measure, "value": found.value, "agrees": found.agrees}}

    def _against_truth(
        self, picture: Pair, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray] | None
    ) -> dict[str, Any]:
        """{"true_boxes" or "true_mask": of each side}, {} where the picture's are not known, or the task has none."""
        task, labels = self.sides[0].task, self.sides[0].explainer.labels
        if theirs is None or picture.fed is None:
            return {}
        answers = zip((ours, theirs), picture.fed, strict=True)
        if isinstance(task, Boxed) and picture.known.get("boxes") is not None:
            boxes, classes = picture.known["boxes"], picture.known.get("box_classes")
            found = [against_boxes(task, task.answer(a), fed, boxes, classes, labels) for a, fed in answers]
            return {"true_boxes": found}
        if isinstance(task, Segmentation) and "mask" in picture.known:
            mask = read_mask(picture.known["mask"])
            counts = [against_mask(task, task.answer(a), fed.placement, mask) for a, fed in answers]
            return {} if None in counts else {"true_mask": counts}
        return {}

    def _values(self, part: _Partial, picture: Pair, *outputs: dict[str, np.ndarray]) -> None:
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
                    part.errors[ours] = OutputError()
                    part.errors[ours].add(a, b)
            elif (ours, theirs) in self.pairs:
                why = f"its shape is {list(a.shape)} in the reference and {list(b.shape)} in the candidate"
                part.unlike[ours] = why
        for side, where in sided.items():
            self._not_finite(part, picture, side, where, "")

    def _not_finite(self, part: _Partial, picture: Pair, side: str, where: str, layer: str) -> None:
        """Notes where a side, or both, are not finite for a picture, unless that is known."""
        if any(row["side"] in (side, "both") for row in part.not_finite):
            return
        whose = self.sides[1], picture.candidate
        if side == "reference":
            whose = self.sides[0], picture.reference
        part.not_finite.append(
            {"picture": picture.name, "side": side, "where": where, "why": whose[0].why_not_finite(whose[1], layer)}
        )

    # ---- Layers ----

    def _matched(self, picture: Pair) -> tuple[list[Match], dict[str, str]]:
        """(matches of layers, those that are watched for saturation only)"""
        reference, candidate = self.sides
        matches = self._named(picture)
        left = [n for n in reference.layers if n not in {m.reference for m in matches}]
        right = [n for n in candidate.layers if n not in {m.candidate for m in matches}]
        if left and right:
            reference.tap(left)
            candidate.tap(right)
            ours, theirs = self._both_features(picture)
            matches += match_by_activations(ours, theirs, reference.shapes, candidate.shapes)
        order = {name: i for i, name in enumerate(reference.layers)}
        quantised = match_by_name([*reference.rectified, *reference.gates], candidate.graph)
        watched = {m.reference: m.candidate for m in quantised if m.rule == "name, dequantised"}
        return sorted(matches, key=lambda m: order[m.reference]), watched

    def _match(self, matches: list[Match], watched: dict[str, str]) -> None:
        """Chooses the layers that are compared."""
        reference, candidate = self.sides
        self.matches, self.watched = matches, watched
        reference.tap([*(m.reference for m in matches), *watched])
        candidate.tap([m.candidate for m in matches])

    def _named(self, picture: Pair) -> list[Match]:
        """The matches by name, where names are to be trusted."""
        reference, candidate = self.sides
        matches = match_by_name(reference.layers, candidate.graph)
        matches = [m for m in matches if m.candidate not in candidate.probabilities]
        if not matches:
            return []
        reference.tap([*reference.layers, *reference.rectified, *reference.gates])
        candidate.tap([m.candidate for m in matches])
        ours, theirs = self._both_features(picture)
        if doubtful(matches, ours, theirs):
            candidate.tap([*candidate.layers, *(m.candidate for m in matches)])
            ours, theirs = self._both_features(picture)
            ours = {name: ours[name] for name in reference.layers}
            return without_shifted_names(matches, ours, theirs, reference.shapes, candidate.shapes)
        return matches

    def _features(self, part: _Partial, picture: Pair) -> None:
        reference, candidate = self.sides
        ours, theirs = self._both_features(picture)
        for match in self.matches:
            a, b = ours[match.reference], theirs[match.candidate]
            if math.prod(reference.shapes[match.reference]) == math.prod(candidate.shapes[match.candidate]):
                part.drifts[match.reference] = Drift()
                part.drifts[match.reference].add(a, b.reshape(a.shape))
                for side, there in zip(("reference", "candidate"), one_sided(a, b.reshape(a.shape)), strict=True):
                    if there:
                        layer = match.candidate if side == "candidate" else match.reference
                        self._not_finite(part, picture, side, match.reference, layer)
        for name, twin in [*((m.reference, m.candidate) for m in self.matches), *self.watched.items()]:
            values = np.maximum(ours[name], 0) if name in reference.rectified else ours[name]
            share = saturated_share(candidate.graph, twin, values)
            if share is not None:
                part.saturation[name] = [(share, values.size)]

    # ---- Evidence ----

    def _both_features(self, picture: Pair) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The layers of both sides; where those of one are recorded, samples of their elements."""
        reference, candidate = self.sides
        ours, theirs = reference.features(picture.reference), candidate.features(picture.candidate)
        if reference.is_recorded or candidate.is_recorded:
            ours, theirs = ({name: sampled(a) for name, a in layers.items()} for layers in (ours, theirs))
        return ours, theirs

    def _evidence(self, part: _Partial, picture: Pair, whole: Whole) -> dict[str, Any]:
        reference, candidate = self.sides
        if reference.task.per_picture != candidate.task.per_picture:
            why = f"the reference was recognized as {reference.task.kind}, the candidate as {candidate.task.kind}"
            part.unavailable |= dict.fromkeys(self.methods, why)
            return {}
        layers = (reference.layer, self._twin(reference.layer))
        found: dict[str, Any] = {}
        for method in self.methods:
            maps: list[Evidence] = []
            for at, (side, array, layer) in enumerate(
                zip(self.sides, (picture.reference, picture.candidate), layers, strict=True)
            ):
                try:
                    if is_perturbing(method):
                        maps.append(self._seen(picture, at, method, whole))
                        continue
                    placed = maps[0].placed if maps and layer else "effective"
                    maps.append(side.heatmap(array, method, whole.target, layer or "auto", placed))
                except ProviderError:  # of a runner
                    raise
                except AnalyzerError as error:
                    part.unavailable[method] = f"{side.name}: {error.message}"
                    break
            if len(maps) == 2:
                found[method] = self._agreement(part, picture, method, *maps)
        return found

    def _seen(self, picture: Pair, side: int, method: str, whole: Whole) -> Evidence:
        """A side's map by perturbation."""
        twins = dict([self.scores, *self.pairs])
        names = {name: twins.get(name, name) if side else name for name in whole.task.reading}
        given = (picture.reference, picture.candidate)[side]
        return seen(self.sides[side], given, picture.gray and picture.gray[side], method, whole, names)

    def _agreement(
        self, part: _Partial, picture: Pair, method: str, ours: Evidence, theirs: Evidence
    ) -> dict[str, Any]:
        heats = (ours.heat, theirs.heat)
        result: dict[str, Any] = {}
        if heats[0].shape == heats[1].shape:
            result = {
                "rank_correlation": spearman(*heats),
                "top_iou": top_iou(*heats),
                "maximum_shift": maximum_shift(*heats),
            }
        if picture.boxes is not None and len(picture.boxes):
            result["energy_in_boxes"] = [energy_inside(h, picture.boxes) for h in heats]
        if theirs.diagnosis:
            result["diagnosis"] = theirs.diagnosis
        if method == self.methods[0]:
            part.agreement[picture.name] = result.get("rank_correlation", -1.0)
            part.maps[picture.name] = {}
        if picture.name in part.maps:
            part.maps[picture.name][method] = (self._shown(ours, 0), self._shown(theirs, 1))
        return result

    def _shown(self, evidence: Evidence, side: int) -> np.ndarray:
        """What is drawn of a map; the channels of pixels in RGB order."""
        values = evidence.values
        reverse = values.ndim == 3 and self.preprocess and self.preprocess[side].preprocess.channels == "BGR"
        return values[..., ::-1] if reverse else values

    def _twin(self, layer: str) -> str | None:
        return next((m.candidate for m in self.matches if m.reference == layer), None)

    # ---- Result ----

    def _report(self, part: _Partial) -> dict[str, Any]:
        reference, candidate = self.sides
        drifts = {m.reference: part.drifts[m.reference] for m in self.matches if m.reference in part.drifts}
        layers: list[dict[str, Any]] = [
            {
                "layer": m.reference,
                "candidate": m.candidate,
                "rule": m.rule,
                "outputs": reference.leads_to(m.reference),
                **drifts[m.reference].summary(),
            }
            for m in self.matches
            if m.reference in drifts and (drifts[m.reference].pictures or not drifts[m.reference].finite)
        ]
        left_out = self._layers_not_compared({str(row["layer"]) for row in layers})
        compared = self._compared(part)
        twins = {m.reference: m.candidate for m in self.matches} | dict(self.pairs)
        weights = weight_differences(reference.graph, candidate.graph, twins)
        agreement = {row["layer"]: row["sqnr_db"] for row in layers} | {
            row["output"]: row["sqnr_db"] for row in compared
        }
        unlike = [{"output": name, "side": "both", "why": why} for name, why in part.unlike.items()]
        return {
            "reference": reference.about,
            "candidate": candidate.about,
            "precision": min(reference.precision, candidate.precision, key=COARSE.index),
            "pictures": len(part.rows),
            "outputs": labels_and_drifts(part.rows)
            | ({"compared_after": self.squashed_as} if self.squashed_as else {}),
            "predictions": prediction_summary(part.rows, list(reference.task.reading)),
            "compared": compared,
            "not_compared": self.not_compared + unlike,
            "not_finite": part.not_finite,
            "input": part.contract,
            "layers": layers,
            "ranges": self._ranges(part, list(drifts)),
            "unmatched": [row["layer"] for row in left_out],
            "layers_not_compared": left_out,
            "largest_jump": largest_jump(layers),
            "weights": [row | {"sqnr_db": agreement.get(row["layer"])} for row in weights],
            "plan": {"reference": reference.kernels(), "candidate": candidate.kernels()},
            "evidence": evidence_summary(part.rows, self.methods),
            "unavailable": part.unavailable,
            "rows": part.rows,
        }

    def _layers_not_compared(self, compared: set[str]) -> list[dict[str, str]]:
        """[{layer of the reference, why it was not compared}]"""
        reference, candidate = self.sides
        twins = {m.reference: m.candidate for m in self.matches}
        found = []
        for name in reference.layers:
            twin = twins.get(name)
            if name not in compared:
                sizes = [list(side.shapes.get(n, ())) for side, n in ((reference, name), (candidate, twin or ""))]
                why = "no layer of the candidate has its name or similar values"
                if twin is not None:
                    why = f"its shape is {sizes[0]} in the reference and {sizes[1]} in the candidate"
                found.append({"layer": name, "why": why})
        return found

    def _ranges(self, part: _Partial, compared: list[str]) -> list[dict[str, Any]]:
        """Shares of values outside the candidate's ranges, and how many values that are.

        `next` is the first compared layer from there on, "" where there is none.
        """
        after = nearest_layers(self.sides[0].graph, compared)
        after |= {name: place for place, name in enumerate(compared)}
        found = []
        for name, shares in part.saturation.items():
            where = compared[after[name]] if name in after else ""
            share, values = float(np.mean([s for s, _ in shares])), sum(size for _, size in shares)
            found.append({"layer": name, "saturated": share, "values": values, "next": where})
        return sorted(found, key=lambda row: (after.get(row["layer"], 0), row["layer"] == row["next"]))

    def _compared(self, part: _Partial) -> list[dict[str, Any]]:
        """The outputs that were compared, the scores first: their errors over the pictures."""
        found = []
        pairs = [(ours, theirs) for ours, theirs in self.pairs if ours not in part.unlike]
        if not any(ours == self.scores[0] for ours, _ in pairs):
            drifts = [row["score_drift"] for row in part.rows if row["score_drift"] is not None]
            found.append(output_row(*self.scores, "scores", np.array(drifts), "", len(drifts)))
        for ours, theirs in pairs:
            errors, slices, reach = part.errors[ours].summary()
            for row, error in zip(part.rows, errors, strict=True):
                row.setdefault("outputs", {})[ours] = float(error)
            node = self.sides[1].sorted_by(theirs) or self.sides[0].sorted_by(ours)
            scale = single_scale(self.sides[1].graph, theirs)
            coarse = {"scale": scale, "largest": reach} if scale is not None and reach < scale else {}
            row = output_row(ours, theirs, "values", errors, slices, len(errors))
            found.append(row | ({"sorted": node} if node else {}) | coarse)
        return found


@dataclass
class _Partial:
    """What some pictures showed.

    Attributes:
        matches: (reference, candidate, rule) of every layer that is compared. watched: see `Comparing._matched`.
        contract: see `input_difference`.
        rows: of the report, a picture each.
        drifts, saturation: per layer. errors: per output. unlike: {output: why it cannot be compared}.
        not_finite, unavailable: as in the report.
        maps: see `Comparison.maps`. agreement: {picture: by the first method}.
    """

    matches: list[tuple[str, str, str]]
    watched: dict[str, str]
    contract: dict[str, Any] | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    drifts: dict[str, Drift] = field(default_factory=dict)
    saturation: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    errors: dict[str, OutputError] = field(default_factory=dict)
    unlike: dict[str, str] = field(default_factory=dict)
    not_finite: list[dict[str, Any]] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    maps: dict[str, Maps] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)

    def merge(self, later: _Partial, keep: int) -> _Partial:
        """Of the pictures of both; maps of the `keep` that agree least."""
        agreement, maps = self.agreement | later.agreement, self.maps | later.maps
        while len(maps) > keep:
            best = max(maps, key=lambda name: agreement[name])
            del maps[best], agreement[best]
        layers = self.saturation | later.saturation
        saturation = {n: self.saturation.get(n, []) + later.saturation.get(n, []) for n in layers}
        return _Partial(
            self.matches,
            self.watched,
            self.contract,
            self.rows + later.rows,
            _merged(self.drifts, later.drifts),
            saturation,
            _merged(self.errors, later.errors),
            self.unlike | later.unlike,
            self.not_finite + later.not_finite,
            self.unavailable | later.unavailable,
            maps,
            agreement,
        )

    def plain(self) -> dict[str, Any]:
        """As what a pass may give."""
        return vars(self) | {
            "drifts": {name: vars(drift) for name, drift in self.drifts.items()},
            "errors": {name: vars(error) for name, error in self.errors.items()},
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> _Partial:
        return cls(
            **{
                **plain,
                "drifts": {name: Drift(**drift) for name, drift in plain["drifts"].items()},
                "errors": {name: OutputError(**error) for name, error in plain["errors"].items()},
            }
        )


def _merged(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """Entry by entry."""
    both = {name: entry.merge(right[name]) if name in right else entry for name, entry in left.items()}
    return both | {name: entry for name, entry in right.items() if name not in both}


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
        rest += [{"output": n, "side": kind, "why": "the other side has no such output"} for n in names]
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


__all__ = ["EVIDENCE", "Comparison", "Pair", "compare"]
