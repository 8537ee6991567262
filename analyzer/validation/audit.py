"""Audit of one model over pictures: what a reviewer needs to know before deployment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analyzer.analysis.feature_maps import feature_maps
from analyzer.attribution import Attribution, Explainer
from analyzer.attribution.lines import Placed
from analyzer.data import Sample
from analyzer.errors import AnalyzerError, InputError, UnsupportedError
from analyzer.images import Fed, Feeding, Preprocess, encode, showing, write_png
from analyzer.metrics import (
    average_drop,
    deletion,
    energy_inside,
    insertion,
    kept,
    mprt,
    random_cells,
    shift_consistency,
    spearman,
)
from analyzer.metrics.consistency import shifted
from analyzer.metrics.regions import coverage
from analyzer.passes import InputPass, Loaded, Workers, run
from analyzer.store import key_of
from analyzer.tasks.base import Prediction
from analyzer.validation.answers import Found, answers_of
from analyzer.validation.assembled import assembled
from analyzer.validation.checks import CLASSES, SHIFT, why_not
from analyzer.validation.preprocessings import alternatives
from analyzer.validation.randomised import randomised_head
from analyzer.validation.side import Inputs, Side

BORDER = 0.1  # of the width and height, on each side
CELLS = 8  # of the random order, along each axis
STEPS = 12  # of a deletion or insertion curve
TRIED = 4  # times the probes: the pictures on which other preprocessings are tried, which costs less


@dataclass
class Picture:
    """`pixels` (H, W, 3) uint8 RGB; `label` the true class and `boxes` (n, 4) in pixels where they are known; `source`
    where it comes from, if that holds more than `pixels` do."""

    name: str
    pixels: np.ndarray
    label: int | None = None
    boxes: np.ndarray | None = None
    source: Any = None

    @property
    def content(self) -> str:
        """A hash of all of it."""
        return key_of(self.name, self.label, self.pixels, np.zeros(0) if self.boxes is None else self.boxes)


@dataclass(repr=False)
class Audit:
    """`report` as plain data; `maps` {title: (H, W) heatmap} of means over pictures. In a notebook it shows itself.

    `failed` and `doubt` are those of `passes.Outcome`. `findings` are what a reviewer should look at, None where that
    was not asked; `run` says how it was run; `draw` makes the figure of the maps.
    """

    report: dict[str, Any]
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, AnalyzerError] = field(default_factory=dict)
    doubt: str = ""
    findings: list[dict[str, Any]] | None = None
    run: dict[str, Any] = field(default_factory=dict)
    draw: Callable[[], np.ndarray] | None = field(default=None, compare=False)

    def as_data(self) -> dict[str, Any]:
        """What `audit --format json` prints, as plain data."""
        return {"audit": self.report, "findings": self.findings or [], "run": self.run}

    def figure(self) -> np.ndarray:
        """The mean maps, of all pictures and of the most frequent classes: (H, W, 3) uint8 RGB.

        Raises:
            InputError: there are none.
        """
        if self.draw is None or not self.maps:
            raise InputError("there are no mean maps", "no map of a picture is legible")
        return self.draw()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `figure` as .png, .jpg or .webp."""
        write_png(path, self.figure())

    def __repr__(self) -> str:
        """«Audit(digits_cnn.onnx on 4 pictures: 2 findings)»"""
        count, pictures = len(self.findings or ()), self.report["pictures"]
        said = "not judged" if self.findings is None else f"{count} finding{'s' * (count != 1)}"
        model = os.path.basename(self.report["identity"]["model"])
        return f"Audit({model} on {pictures} picture{'s' * (pictures != 1)}: {said})"

    def _thumbnail(self) -> np.ndarray | None:
        return self.figure() if self.draw is not None and self.maps else None

    def _repr_png_(self) -> bytes | None:
        picture = self._thumbnail()
        return None if picture is None else encode(picture)

    def _repr_html_(self) -> str:
        rows = [(f["code"], f"{f['value']:.3g}", f"{f['where']} {f['words']}") for f in self.findings or ()]
        rows += [(name.replace("_", " "), f"{value:.4g}", "") for name, value in self.report["summary"].items()]
        return showing.page(repr(self), self._thumbnail(), rows, ("", "value", ""))


def audit(
    explainer: Explainer,
    preprocess: Preprocess | Feeding,
    pictures: Iterable[Picture | Sample],
    method: str = "grad-cam",
    probes: int = 16,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    workers: Workers = None,
    progress: Callable[[int], None] | None = None,
    placement: Placed = "effective",
) -> Audit:
    """Identity, input contract, layers, robustness, sanity of the explanation, faithfulness and signs of shortcuts.

    Args:
        pictures: in memory, or samples, whose annotations may hold a `label`, and `boxes` in pixels.
        method: the map that is audited.
        probes: number of pictures for the expensive checks (sanity checks, deletion and insertion); other
            preprocessings are tried on four times as many.
        folder, workers, progress: see `passes.run`. placement: as for `Explainer.explain`.

    Raises:
        InputError: no pictures.
    """
    samples = [s if isinstance(s, Sample) else Sample(s.name, i, s) for i, s in enumerate(pictures)]
    if not samples:
        raise InputError("no pictures to audit on", "pass a folder of pictures with --data")
    work = Auditing(explainer, preprocess, method, probes, seed, placement)
    done = run(work, samples, folder, workers, progress=progress)
    seen = [[s.id, s.content, s.annotations] for s in samples if s.id not in done.failed]
    done.result.report["identity"]["audit"] = key_of(work.identity, explainer.labels, seen)
    return replace(done.result, failed=done.failed, doubt=done.doubt)


class Auditing(InputPass[dict[str, Any]]):
    """An audit over pictures, one a step.

    A partial result holds
        rows: the report's, a picture each.
        mean: (H, W) sum of the maps, None where no map is legible. classes: {top class: [maps, their sum]}.
        channels: {layer: (3, K) lowest and highest value of each channel, least share of its values at the layer's
            highest}.
        contract: {alternative preprocessing: [(confidence, right or None)]}, of `TRIED` times the probes.
        shape: of the input.
    """

    name = "audit"
    anchored = True

    def __init__(
        self,
        explainer: Explainer,
        preprocess: Preprocess | Feeding,
        method: str = "grad-cam",
        probes: int = 16,
        seed: int = 0,
        placement: Placed = "effective",
    ) -> None:
        super().__init__(explainer, preprocess)
        self.explainer, self.method, self.probes, self.seed = explainer, method, probes, seed
        self.placement = placement
        self._beside: dict[str, np.ndarray] = {}
        self._sides: dict[tuple[int, ...], Side] = {}
        self.channel = self.preprocess.layout.index("C")
        if self.feeding.main.stacked:
            raise UnsupportedError(
                f"{explainer.loaded.name}: audit takes pictures, not clips or volumes", "use explain"
            )

    @property
    def identity(self) -> Mapping[str, Any]:
        how = {"method": self.method, "placement": repr(self.placement), "probes": self.probes, "seed": self.seed}
        return {**super().identity, **how}

    def load(self, sample: Sample) -> Picture:
        if isinstance(sample.source, Picture):
            return sample.source
        known = sample.annotations
        boxes = None if known.get("boxes") is None else np.asarray(known["boxes"], float)
        return Picture(sample.id, self.feeding.feed(sample.source).image, known.get("label"), boxes, sample.source)

    def setup(self, first: Loaded | None) -> None:
        if first is None:
            return
        feeds = self._fed(first.item).feeds
        array = feeds[self.model.image]
        self._beside = {name: other for name, other in feeds.items() if name != self.model.image}
        self._look({name: other.shape for name, other in feeds.items()})
        self.side.features(self._whole(array))  # makes the sessions, before threads ask for them
        self._answer(array)
        if not why_not("preprocessing", self.answers.kind):
            self._sides = self._resized(first.item)
        self.randomised = Explainer(
            randomised_head(self.explainer, self.seed),
            self.explainer.provider,
            sandbox=False,
            **self.explainer.session_options,
        )

    def _fed(self, picture: Picture) -> Fed:
        return self.feeding.feed(picture.pixels if picture.source is None else picture.source)

    def _whole(self, array: np.ndarray) -> Inputs:
        """All inputs, of which `array` is the one that is explained."""
        return {self.model.image: array, **self._beside} if self._beside else array

    def _look(self, shape: Mapping[str, tuple[int, ...]]) -> None:
        """At the model, for inputs of these shapes."""
        self.side = Side(self.explainer, shape)
        self.side.tap([m.name for m in feature_maps(self.side.graph, self.side.scores.logits)])
        self.answers = answers_of(self.side.task, self._answer, self._space, self.explainer.labels)

    def disturbed(self, fed: Fed) -> dict[str, list[Prediction]]:
        """What a detector finds when a picture is moved or smaller, see `Found.disturbed`; nothing for other models."""
        self._beside = {name: other for name, other in fed.feeds.items() if name != self.model.image}
        self._look({name: other.shape for name, other in fed.feeds.items()})
        array, answers = fed.feeds[self.model.image], self.answers
        return answers.disturbed(self._answer(array), array) if isinstance(answers, Found) else {}

    def merge(self, left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
        mean = [part["mean"] for part in (left, right) if part["mean"] is not None]
        classes = {top: list(kept) for top, kept in left["classes"].items()}
        for top, (count, total) in right["classes"].items():
            known = classes.get(top)
            classes[top] = [known[0] + count, known[1] + total] if known else [count, total]
        channels = dict(left["channels"])
        for name, bounds in right["channels"].items():
            known = channels.get(name, bounds)
            channels[name] = np.stack(
                [np.minimum(known[0], bounds[0]), np.maximum(known[1], bounds[1]), np.minimum(known[2], bounds[2])]
            )
        contract = {name: list(seen) for name, seen in left["contract"].items()}
        for name, seen in right["contract"].items():
            contract[name] = contract.get(name, []) + seen
        return {
            "rows": left["rows"] + right["rows"],
            "mean": sum(mean[1:], mean[0]) if mean else None,
            "classes": classes,
            "channels": channels,
            "contract": contract,
            "shape": left["shape"],
        }

    def step(self, batch: Sequence[Loaded]) -> dict[str, Any]:
        ((sample, picture),) = batch
        number = sample.number
        fed = self._fed(picture)
        array, shapes = fed.feeds[self.model.image], {name: list(other.shape) for name, other in fed.feeds.items()}
        part: dict[str, Any] = {"mean": None, "classes": {}, "channels": {}, "contract": {}, "shape": shapes}
        found = self._explained(array)
        if len(found.heatmap) and (why := _not_finite(found)):
            return part | {"rows": [{"picture": picture.name, "top": None, "not_finite": why}]}
        part["channels"] = self._bounds(array)
        if number < TRIED * self.probes and not why_not("preprocessing", self.answers.kind):
            part["contract"] = {name: [seen] for name, seen in self._alternatives(picture).items()}
        if not len(found.heatmap):
            return part | {"rows": [{"picture": picture.name, "top": None, "nothing": self.side.task.nothing}]}
        heat = found.heatmap[0].astype(np.float64)
        row = {"picture": picture.name, "diagnosis": found.diagnosis[0], **shortcut_signs(heat)}
        if picture.boxes is not None and len(picture.boxes):
            inside = np.array([fed.placement.box_to_input(tuple(b)) for b in picture.boxes])
            row["energy_in_boxes"], row["pointing_hit"] = energy_inside(heat, inside), _hits(heat, inside)
        part |= {"rows": [row], "mean": heat}
        if self._chooses:
            row |= self._of_class(number, picture, array, found)
            part["classes"] = {row["top"]: [1, heat]}
        else:
            row |= self._of_answer(number, array, found)
        return part

    @property
    def _chooses(self) -> bool:
        """Whether the model chooses among classes."""
        return self.answers.kind == CLASSES

    def _of_class(self, number: int, picture: Picture, array: np.ndarray, found: Attribution) -> dict[str, Any]:
        """What a picture shows of a model that chooses a class."""
        top, original = int(found.target[0]), self._probabilities(array)

        def probability(changed: np.ndarray) -> float:
            return float(self._probabilities(changed)[top])

        row: dict[str, Any] = {"top": top, "confidence": float(original[top]), "tied": int(found.tied[0])}
        if picture.label is not None:
            row["label"], row["right"] = picture.label, picture.label == top
        row["shift"] = self._shifted(array, top, original)
        if number < self.probes:
            row |= self._faithful(number, array, found.heatmap[0], probability)
            row["sanity"] = self._sanity(array, found.heatmap[0], top)
            row["sanity"] |= self._of_another(number, array, found.heatmap[0], top, found.scores.shape[1])
        return row

    def _of_answer(self, number: int, array: np.ndarray, found: Attribution) -> dict[str, Any]:
        """What a picture shows of a model whose answer is no choice among classes."""
        answers, before, heat = self.answers, self._answer(array), found.heatmap[0]
        first, row = answers.first(before), dict[str, Any]()
        if first is not None:
            row["top"] = first.label
            if not why_not("confidence", answers.kind):
                row["confidence"] = first.score
        region = answers.region(before, (heat.shape[0], heat.shape[1]))
        if region is not None:
            share = float(coverage(region, (heat.shape[0], heat.shape[1])).mean())
            row["own_region"] = energy_inside(heat, region) / max(share, 1 / heat.size)
        if number < self.probes:
            row["steady"] = answers.steady(before, array)
            if not why_not("faithfulness", answers.kind):
                row |= self._faithful(
                    number, array, heat, lambda changed: answers.left(before, self._answer(changed)) or 0.0
                )
            row["sanity"] = self._sanity(array, heat, answers.target(before), before)
        return row

    def _answer(self, array: np.ndarray) -> Any:
        """What the task reads of the outputs for a preprocessed picture."""
        return self.side.task.answer(self.side.all_outputs(self._whole(array)))

    def finish(self, total: dict[str, Any] | None) -> Audit:
        if total is None:
            raise InputError("no pictures to audit on", "none of the given pictures can be read")
        self._look({name: tuple(shape) for name, shape in total["shape"].items()})
        return Audit(*assembled(self.side, self.preprocess, self.method, self.answers.kind, total))

    def _probabilities(self, array: np.ndarray) -> np.ndarray:
        """Of every class, for a preprocessed picture: the scores where they are squashed, else their softmax."""
        return self.side_probabilities(self._whole(array))

    def side_probabilities(self, given: Inputs, side: Side | None = None) -> np.ndarray:
        """The same, of all inputs; `side` is the model for inputs of another size."""
        side = side or self.side
        scores = side.classes(given)
        if not scores.size:
            raise InputError(f"the output {side.scores.output.name!r} is empty for this picture")
        return side.scores.probabilities(scores[None])[0]

    # ---- Per picture ----

    def _bounds(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """{layer: (3, K)}, see above."""
        found = {}
        for name, values in self.side.features(self._whole(array)).items():
            flat = values[0].astype(np.float64).reshape(len(values[0]), -1)
            flat = np.where(np.isfinite(flat), flat, 0)
            top = flat.max(initial=0) * (1 - 1e-6)
            found[name] = np.stack([flat.min(1), flat.max(1), (flat >= top).mean(1)])
        return found

    def _shifted(self, array: np.ndarray, top: int, original: np.ndarray) -> dict[str, float]:
        """Label kept, and change of the class's probability, when the input moves by a few pixels."""
        before = original[top]
        stays, change = [], []
        for axis in self._space:
            for amount in (-SHIFT, SHIFT):
                after = self._probabilities(shifted(array, amount, axis))
                stays.append(bool(np.isfinite(after).all()) and self.side.labels(after) == self.side.labels(original))
                change.append(abs(float(after[top] - before)))
        return {"label_kept": float(np.mean(stays)), "change": float(np.mean(change))}

    def _faithful(
        self, number: int, array: np.ndarray, heat: np.ndarray, score: Callable[[np.ndarray], float]
    ) -> dict[str, Any]:
        """How the score falls, or rises, as pixels are deleted or inserted, highest heat first and random cells first;
        the share of it that is lost where only what the map marks is shown."""
        heat = heat.astype(np.float64)
        orders = {"": heat, "_random": random_cells(heat.shape, [self.seed, number], CELLS)}
        mean = self._mean_color(array)
        curves = {
            kind + name: measure(score, array, order, mean, STEPS, self._space)
            for name, order in orders.items()
            for kind, measure in (("deletion", deletion), ("insertion", insertion))
        }
        after = score(kept(array, heat, mean, self._space))
        drop = float(average_drop([curves["deletion"].scores[0]], [after])[0])
        return {
            "curves": {name: curve.scores.tolist() for name, curve in curves.items()},
            "faithfulness": {name: curve.area for name, curve in curves.items()} | {"average_drop": drop},
        }

    def _mean_color(self, array: np.ndarray) -> np.ndarray:
        others = tuple(a for a in range(array.ndim) if a != self.channel)
        return np.asarray(array.astype(np.float64).mean(axis=others, keepdims=True))

    @property
    def _space(self) -> tuple[int, int]:
        """The axes of height and width."""
        height, width = (a for a in (1, 2, 3) if a != self.channel)
        return height, width

    def _explained(self, array: np.ndarray, target: Any = "top1", explainer: Explainer | None = None) -> Attribution:
        how = explainer or self.explainer
        return how.explain(self._whole(array), self.method, target, placement=self.placement)

    def _sanity(self, array: np.ndarray, heat: np.ndarray, target: Any, before: Any = None) -> dict[str, float]:
        """How the map changes: of a model with a random head, of the shifted picture.

        Args:
            target: what the map explains.
            before: the model's answer; None for a class.
        """

        def map_of(given: np.ndarray) -> np.ndarray:
            same = answers.partner(before, self._answer(given)) if isinstance(answers, Found) else target
            return self._map(given, same)

        answers, result = self.answers, dict[str, float]()
        if not why_not("random_head", self.answers.kind):
            result["random_head"] = float(mprt(heat, [self._map(array, target, self.randomised)])[0])
        if min(heat.shape) > 4 * SHIFT:
            result["follows_shift"] = shift_consistency(map_of, array, SHIFT, self._space)
        return result

    def _of_another(self, number: int, array: np.ndarray, heat: np.ndarray, top: int, classes: int) -> dict[str, float]:
        """How the map resembles that of another class, drawn at random."""
        if classes < 2:
            return {}
        other = int((top + 1 + np.random.default_rng([self.seed, number]).integers(classes - 1)) % classes)
        return {"other_class": spearman(heat, self._map(array, other))}

    def _map(self, array: np.ndarray, target: Any, explainer: Explainer | None = None) -> np.ndarray:
        """(H, W) the map; zeros where the model finds nothing to explain."""
        found = None if target is None else self._explained(array, target, explainer)
        if found is None or not len(found.heatmap):
            return np.zeros([array.shape[axis] for axis in self._space], np.float32)
        return found.heatmap[0]

    def _alternatives(self, picture: Picture) -> dict[str, tuple[float, bool | None]]:
        """Confidence (and whether it is right) under the declared preprocessing and others."""
        found = dict[str, tuple[float, bool | None]]()
        for name, feeding in self._feedings().items():
            feeds = feeding.feed(picture.pixels if picture.source is None else picture.source).feeds
            side = self._sides.get(feeds[self.model.image].shape, self.side)
            if feeding.preprocess.size != self.preprocess.size and side is self.side:
                continue  # the model does not take that size
            if not self._chooses:
                surest = self.answers.first(side.task.answer(side.all_outputs(feeds)))
                found[name] = surest.score if surest else 0.0, None
                continue
            scores = self.side_probabilities(feeds, side)
            top = side.top_of(scores)
            right = None if picture.label is None else bool(np.isfinite(scores).all() and top == picture.label)
            found[name] = float(scores[top]), right
        return found

    def _feedings(self) -> dict[str, Feeding]:
        """{preprocessing: how the model is fed}, the declared one first."""
        shape = self.explainer.plain[self.model.image].shape or ()
        fixed = [shape[at] for at in self._space if len(shape) > at and isinstance(shape[at], int)]
        main = self.feeding.main
        return {
            name: replace(self.feeding, main=replace(main, preprocess=other.preprocess))
            for name, other in alternatives(self.preprocess, any_size=not fixed).items()
        }

    def _resized(self, picture: Picture) -> dict[tuple[int, ...], Side]:
        """{shape of the input: the model for it}, for the other sizes that are tried and that the model takes."""
        found = dict[tuple[int, ...], Side]()
        for feeding in self._feedings().values():
            feeds = feeding.feed(picture.pixels if picture.source is None else picture.source).feeds
            shape = feeds[self.model.image].shape
            if shape in found or feeding.preprocess.size == self.preprocess.size:
                continue
            side = Side(self.explainer, {name: array.shape for name, array in feeds.items()})
            with suppress(AnalyzerError):
                side.all_outputs(feeds)
                found[shape] = side
        return found


def _not_finite(found: Attribution) -> str:
    """Why nothing can be said of a picture: its map, or a score, is not finite; "" where both are."""
    if not found.legible[0]:
        return found.diagnosis[0]
    scores = found.scores[0] if len(found.scores) else np.zeros(1)
    return "a score is infinite" if np.isnan(scores).any() or np.isposinf(scores).any() else ""


def shortcut_signs(heat: np.ndarray) -> dict[str, float]:
    """Shares of the map on the border and in the corners, each over its share of the area, and where the maximum is."""
    height, width = heat.shape
    top, left = max(1, round(BORDER * height)), max(1, round(BORDER * width))
    border = np.ones(heat.shape, bool)
    border[top:-top, left:-left] = False
    corner = np.zeros(heat.shape, bool)
    for rows in (slice(0, 2 * top), slice(-2 * top, None)):
        for columns in (slice(0, 2 * left), slice(-2 * left, None)):
            corner[rows, columns] = True
    total = float(heat.sum()) or 1.0
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return {
        "border": float(heat[border].sum()) / total / float(border.mean()),
        "corners": float(heat[corner].sum()) / total / float(corner.mean()),
        "maximum_y": float((y + 0.5) / height),
        "maximum_x": float((x + 0.5) / width),
    }


def _hits(heat: np.ndarray, boxes: np.ndarray) -> bool:
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return bool(((boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])).any())
