"""The pass that explains pictures, one after the other: classes, maps, overlays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution import METHODS, Attribution, Job, answer, find_method
from analyzer.attribution.drawn import maps_of
from analyzer.attribution.inspection import tensors
from analyzer.attribution.runner import Progress, Stages, answering, in_step
from analyzer.data import Sample
from analyzer.errors import InputError, UnsupportedError
from analyzer.images import Drawing, Fed, Found, Map, Panel, write_npy, write_npz, write_png
from analyzer.images.draw import LARGEST, SMALLEST, draw_mask
from analyzer.images.views import one, several
from analyzer.metrics.masks import rle
from analyzer.passes.asking import Asking, shown
from analyzer.passes.base import Loaded
from analyzer.tasks import Prediction, Role, Task
from analyzer.tasks.base import TOP1
from analyzer.tasks.classification import Classification, MultiLabel
from analyzer.tasks.keypoints import Keypoints
from analyzer.tasks.segmentation import Segmentation
from analyzer.tasks.targets import resolve_class
from analyzer.tasks.text import Text

SIDE = SMALLEST, LARGEST  # of the long side of a picture that is drawn alone
TOGETHER = 16  # pictures of which only what is said is wanted
IN_FOLDER = 128, LARGEST  # of one of many: small pictures keep their size


@dataclass
class Explaining(Asking):
    """What `explain` says of every picture, as plain data, with its overlay and raw maps written.

    Args:
        targets: as they were asked for, in the order of the question's.
        overlays, raws: {picture: file to write}; see `write_raw`.
        top: number of classes to report.
        drawing: how maps are drawn.
        progress: of methods that run the model many times.
        each: a file for every overlay, its number after the name, instead of one grid.
        bare: overlays have neither title nor colour bar: frames of a video.
        side: shortest and longest long side of a picture that is drawn alone.
        fixed: the long side of every picture that is drawn, also in grids; None for `side`, and what suits a grid.
    """

    targets: Sequence[str] = ("top1",)
    overlays: Mapping[str, Path] = field(default_factory=dict)
    raws: Mapping[str, Path] = field(default_factory=dict)
    top: int = 5
    drawing: Drawing = field(default_factory=Drawing)
    progress: Progress | None = None
    bare: bool = False
    each: bool = False
    side: tuple[int, int] = SIDE
    fixed: int | None = None

    name = "explain"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            **super().identity,
            "top": self.top,
            "drawing": asdict(self.drawing),
            "bare": self.bare,
            "each": self.each,
            "side": [*self.side, self.fixed],
        }

    def places(self, picture: str) -> list[str]:
        return [str(places.get(picture, "")) for places in (self.overlays, self.raws)]

    @property
    def together(self) -> int:  # type: ignore[override]
        """Many where nothing is written and each takes one run."""
        often = any(find_method(job.method, job.options).runs for job in self.question.jobs)
        return 1 if often or self.overlays or self.raws else TOGETHER

    def step(self, batch: Sequence[Loaded]) -> list[dict[str, Any]]:
        (found,) = self.step_all([batch])
        return found

    def step_all(self, batches: Sequence[Sequence[Loaded]]) -> list[list[dict[str, Any]]]:
        return [[result] for result in in_step([self._explained(one.sample.id, one.item) for (one,) in batches])]

    def finish(self, total: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
        """The results, without what only a resumed run needs."""
        return shown(total)

    def load(self, sample: Sample) -> Fed:
        """All inputs of the model, and the picture to draw on, no larger than it is drawn."""
        return self.feeding.feed(sample.source, self._side[1])

    def _explained(self, picture: str, fed: Fed) -> Stages[dict[str, Any]]:
        found = yield from answering(self.model, self.asked(fed), fed.feeds, self.progress)
        return self.result_of(picture, fed, found)

    def result_of(self, picture: str, fed: Fed, found: Sequence[Attribution]) -> dict[str, Any]:
        """The answers about one picture as data, with their files written."""
        result: dict[str, Any] = {"picture": picture, **self._said(found[0], fed), "maps": []}
        height, width = fed.placement.image_size
        result["size"] = [width, height] if fed.drawn is not None else None
        result["outputs"] = self._outputs
        result["doubt"] = "; ".join(dict.fromkeys(one.doubt for one in found if one.doubt)) or None
        result["remark"] = fed.remark
        if others := self._other_inputs(fed):
            result["inputs"] = others
        out, raw = self.overlays.get(picture), self.raws.get(picture)
        for attribution in found:
            legible = attribution.legible
            for row in range(len(attribution.heatmap)):
                if fed.drawn is None:  # numbers, not a picture
                    result["maps"].append(self._numbers(attribution, row, bool(legible[row])))
                    continue
                place = fed.peak(attribution.heatmap[row])
                result["maps"].append(self._about(attribution, row, place, bool(legible[row])))
        written = []
        if out and result["maps"] and fed.drawn is not None:
            figures = self._figures(fed, found) if self.each else [self.figure(fed, found)]
            for number, figure in enumerate(figures):
                name = out.with_name(f"{out.stem}-{number}{out.suffix}") if len(figures) > 1 else out
                write_png(name, figure)
                written.append(name)
            result["written"] = ", ".join(map(str, written))
        if raw and result["maps"]:
            write_raw(raw, found)
            written.append(raw)
        return result | {"places": self.places(picture), "files": [str(place) for place in written]}

    @cached_property
    def _outputs(self) -> list[dict[str, Any]]:
        return tensors(self.model.plain.outputs)

    def _other_inputs(self, fed: Fed) -> list[dict[str, Any]]:
        """Gradients with respect to the inputs of numbers that were given, unless one of them is the one explained."""
        rows = []
        for name in self.feeding.vectors if fed.drawn is not None else ():
            jobs = tuple(j for j in self.question.jobs if METHODS[j.method].kind == "gradient") or (Job("gradient"),)
            question = replace(self.question, jobs=jobs[:1], explain_input=name)
            try:
                (found,) = answer(self.model, question, fed.feeds)
            except UnsupportedError:
                continue  # nothing flows to it, or it is not differentiable
            for row in range(len(found.raw)):
                about = self._named(found, row, bool(found.legible[row]))
                values = found.raw[row].ravel().astype(float).tolist() if found.legible[row] else None
                rows.append({"input": name, "values": values} | {k: about[k] for k in ("method", "class", "label")})
        return rows

    def _found(self, attribution: Attribution, row: int, fed: Fed) -> list[Found]:
        """What is found in the picture, for drawing: boxes and keypoints, what the map is of marked."""
        task = attribution.task
        if task is None or not task.per_picture:
            return []
        return to_draw(
            task, attribution.predicted(self.card.labels), attribution.names[row].split(" ")[0].partition(".")[0], fed
        )

    def figure(self, fed: Fed, found: Sequence[Attribution]) -> np.ndarray:
        """The picture that `explain` writes: (H, W, 3) uint8 RGB. A mask of the model stands before the maps.

        Raises:
            InputError: there is no map to draw, or nothing to draw it on.
        """
        maps = self.maps(fed, found)
        mask = mask_in_picture(found[0], fed) if not self.bare else None
        if len(maps) == 1 and mask is None:
            return one(maps[0], self.drawing, self._side, self.bare)
        before = []
        if mask is not None:
            said = "predicted: " + ", ".join(self._in_mask(found[0], mask))
            before.append(Panel(draw_mask(fed.image, mask), said))
        columns = 0 if len(found) == 1 or len(maps) == len(found) else len(maps) // len(found)
        return several(maps, self.drawing, columns, before, side=self._side if self.fixed else None)

    @property
    def _side(self) -> tuple[int, int]:
        return (self.fixed, self.fixed) if self.fixed else self.side

    def _figures(self, fed: Fed, found: Sequence[Attribution]) -> list[np.ndarray]:
        """Each map as a figure of its own."""
        return [one(each, self.drawing, self._side, self.bare) for each in self.maps(fed, found)]

    def maps(self, fed: Fed, found: Sequence[Attribution]) -> list[Map]:
        """What `figure` draws of one picture, in the order of the rows."""
        if fed.drawn is None:
            raise InputError("the explained input is not a picture", "use .raw, the numbers")
        maps = [each for attribution in found for row in range(len(attribution.heatmap))
                for each in self._map(attribution, row, fed)]  # fmt: skip
        if not maps:
            raise InputError(f"there is no map: {found[0].task.nothing if found[0].task else 'nothing is explained'}")
        return maps

    def _map(self, attribution: Attribution, row: int, fed: Fed) -> list[Map]:
        title, found = self._title(attribution, row), self._found(attribution, row, fed)
        return maps_of(attribution, row, fed, self.feeding.preprocess.channels, title, found)

    def _in_mask(self, attribution: Attribution, mask: np.ndarray) -> list[str]:
        """The names of the classes of a mask, the largest first, three at most."""
        classes, counts = np.unique(mask[mask != 0], return_counts=True)
        largest = classes[np.argsort(-counts, kind="stable")].tolist()
        return [self._label(attribution, index) for index in largest[:3]] or ["nothing"]

    def _said(self, attribution: Attribution, fed: Fed) -> dict[str, Any]:
        """What the model says: its task, the highest classes, all predictions and those of the other outputs."""
        task = attribution.task
        assert task is not None
        said, labels = attribution.said[0], self.card.labels
        every = isinstance(task, Text)
        shown = (
            attribution.predicted(labels)
            if task.per_picture
            else task.predictions(task.answer(said), labels, None if every else self.top)
        )
        classes = isinstance(task, Classification | Segmentation)
        result: dict[str, Any] = {
            "task": {
                "kind": task.kind,
                "output": task.output.name,
                "reads": list(task.reading),
                "unit": task.unit,
                "evidence": task.evidence,
            },
            "top": [{"class": p.index, "label": p.label, "score": p.score} for p in shown] if classes else [],
            "predictions": [_prediction(p, fed) for p in shown],
            "heads": [self._head(role, said.get(role.output)) for role in task.others],
            "nothing": None if len(attribution.heatmap) else self._nothing(task, said, shown, fed),
        }
        if isinstance(task, Text):
            result["text"] = task.text(task.answer(said), labels)
        if isinstance(task, Keypoints):
            result["keypoints"] = [task.label(index, labels) for index in range(task.count)]
        return result

    def _nothing(self, task: Task, said: Mapping[str, Any], shown: Sequence[Prediction], fed: Fed) -> str:
        """What to say where there is nothing to explain, and what comes nearest to it."""
        of_class = bool(task.per_picture and shown and self.targets != ("top1",))
        text = f"{task.nothing}: {', '.join(self.targets)}" if of_class else task.nothing
        if of_class and len(self.targets) > 1:
            return text
        target = resolve_class(self.targets[0], self.card.labels) if of_class else TOP1
        near = task.nearest(task.answer(said), self.card.labels, target)
        if near is None or near.box is None:
            return text
        place = " ".join(f"{at:.0f}" for at in fed.box(near.box, near.scaled))
        return f"{text}; the highest score is {near.score:.3g}, of {near.label} in the box {place}"

    def _head(self, role: Role, said: np.ndarray | None) -> dict[str, Any]:
        """What another output says."""
        found: list[Prediction] = []
        if role.task is not None and said is not None:
            multi = isinstance(role.task, MultiLabel)
            found = role.task.predictions(said, limit=None if multi else 1)
            found = [p for p in found if p.score > role.task.threshold] if multi else found
        return {"output": role.output, "role": role.role, "predictions": [_prediction(p) for p in found]}

    def _title(self, attribution: Attribution, row: int) -> str:
        """The method, what the map is of, and its number."""
        return f"{attribution.method}: {self.about(attribution, row)}"

    def about(self, attribution: Attribution, row: int) -> str:
        """What a map is of, and its number."""
        index = int(attribution.target[row])
        if not attribution.legible[row]:
            return "not finite"
        name = attribution.names[row] or self._label(attribution, index)
        return f"{name} ({attribution.value[row]:.3g})"

    def _label(self, attribution: Attribution, index: int) -> str:
        assert attribution.task is not None
        found = self._prediction_of(attribution, index)
        return found.label if found is not None else attribution.task.label(index, self.card.labels)

    def _prediction_of(self, attribution: Attribution, index: int) -> Prediction | None:
        """What is found in the picture that a map is of; None for other tasks."""
        task = attribution.task
        if task is None or not task.per_picture or not attribution.said:
            return None
        return next((p for p in attribution.predicted(self.card.labels) if p.slot == index), None)

    def _about(self, attribution: Attribution, row: int, place: tuple[int, ...], legible: bool) -> dict[str, Any]:
        """A map as data: where its maximum lies in the picture, and what is wrong with it if anything."""
        maximum = list(place[:-3:-1])
        frame = {"frame": place[0]} if len(place) == 3 else {}
        return self._named(attribution, row, legible) | {"maximum": maximum if legible else None} | frame

    def _numbers(self, attribution: Attribution, row: int, legible: bool) -> dict[str, Any]:
        """The gradient with respect to an input of numbers, as data."""
        values = attribution.raw[row].ravel().astype(float).tolist()
        said = {"maximum": None, "input": self.feeding.explained, "values": values if legible else None}
        return self._named(attribution, row, legible) | said

    def _named(self, attribution: Attribution, row: int, legible: bool) -> dict[str, Any]:
        """What a map is of, and what is wrong with it if anything."""
        index = int(attribution.target[row])
        alike = len(attribution.heatmap) == len(self.targets)
        if not legible and alike and self.targets[row] == "top1":
            index = -1  # no class is the highest
        assert attribution.task is not None
        found = self._prediction_of(attribution, index)
        return {
            "method": attribution.method,
            "class": found.index if found else attribution.task.class_of(index) if index >= 0 else None,
            "label": self._label(attribution, index) if index >= 0 else attribution.names[row] or None,
            "target": attribution.names[row] or str(index),
            "value": float(attribution.value[row]) if np.isfinite(attribution.value[row]) else None,
            "layer": attribution.layer_of(row) or None,
            "diagnosis": attribution.diagnosis[row] or None,
            "details": {name: values[row].tolist() for name, values in attribution.details.items()},
        }


def write_raw(path: Path, found: Sequence[Attribution]) -> None:
    """The maps before normalization, a row per target: one method's as .npy; several, or a name in .npz, as .npz, an
    array per method, called as the method."""
    if len(found) > 1 or path.suffix.lower() == ".npz":
        write_npz(path, {one.method: one.raw for one in found})
    else:
        write_npy(path, found[0].raw)


def mask_in_picture(attribution: Attribution, fed: Fed) -> np.ndarray | None:
    """(H, W) the class of every pixel of the picture, 0 for background and outside; None for tasks without masks."""
    task, placement = attribution.task, fed.placement.at((fed.image.shape[0], fed.image.shape[1]))
    found = task.mask(task.answer(attribution.said[0])) if task is not None else None
    if found is None or fed.drawn is None or fed.drawn.stacked:
        return None
    mask = np.zeros(placement.image_size, np.int64)
    best = np.full(placement.image_size, 0.5, np.float32)
    for index in np.unique(found[found != 0]).tolist():
        share = placement.map_to_image((found == index).astype(np.float32))
        won = share > best
        mask[won], best[won] = index, share[won]
    return mask


def to_draw(task: Task, said: Sequence[Prediction], explained: str, fed: Fed) -> list[Found]:
    """Predictions in the picture's coordinates; keypoints of one person as one thing, so that lines join them.

    Args:
        explained: the target of the one that the map is of.
    """
    number = int(explained[9:]) if re.fullmatch(r"keypoint:\d+", explained) else None
    if isinstance(task, Keypoints):
        points = np.zeros((task.count, 3))
        for each in said:
            if each.index is not None and each.points:
                x, y, seen = each.points[0]
                points[each.index] = (*fed.point(x, y), seen)
        return [Found(points=points.tolist(), strong=True, chosen=number)]
    found = []
    for at, each in enumerate(said):
        strong = each.target == explained or (number is not None and at == 0)
        places = [(*fed.point(x, y), seen) for x, y, seen in each.points or ()]
        box = fed.box(each.box, each.scaled) if each.box is not None else None
        mask = fed.inside(each.mask.inside, fed.image.shape[:2]) if each.mask is not None else None
        corners = [fed.point(x, y) for x, y in each.corners or ()]
        found.append(Found(each.label, each.score, box, places, strong, number if strong else None, mask, corners))
    return found


def _prediction(given: Prediction, fed: Fed | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "target": given.target, "label": given.label, "score": given.score, "class": given.index
    }  # fmt: skip
    if fed is not None and given.box is not None:
        found["box"] = [round(at, 2) for at in fed.box(given.box, given.scaled)]
    if fed is not None and given.corners is not None:
        found["corners"] = [[round(at, 2) for at in fed.point(x, y)] for x, y in given.corners]
    if fed is not None and given.points is not None:
        found["points"] = [[*(round(at, 2) for at in fed.point(x, y)), round(seen, 4)] for x, y, seen in given.points]
    if fed is not None and given.mask is not None:
        found["mask"] = rle(fed.inside(given.mask.inside, fed.main.placement.image_size))
    return found
