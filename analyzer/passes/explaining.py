"""The pass that explains pictures, one after the other: classes, maps, overlays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution import Attribution, answer
from analyzer.attribution.inspection import tensors
from analyzer.attribution.runner import Progress
from analyzer.images import ColourBar, grid, overlay, write_npy, write_png
from analyzer.images.draw import draw_mask
from analyzer.passes.asking import ONLY_KEPT, Asking
from analyzer.passes.base import Loaded
from analyzer.tasks import Prediction, Role
from analyzer.tasks.classification import Classification, MultiLabel
from analyzer.tasks.segmentation import Segmentation
from analyzer.tasks.text import Text


@dataclass
class Explaining(Asking):
    """What `explain` says of every picture, as plain data, with its overlay and raw maps written.

    Args:
        targets: as they were asked for, in the order of the question's.
        overlays, raws: {picture: file to write}.
        top: number of classes to report.
        drawing: `alpha` and `colormap` of overlays.
        progress: of methods that run the model many times.
    """

    targets: Sequence[str] = ("top1",)
    overlays: Mapping[str, Path] = field(default_factory=dict)
    raws: Mapping[str, Path] = field(default_factory=dict)
    top: int = 5
    drawing: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress | None = None

    name = "explain"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**super().identity, "top": self.top, "drawing": dict(self.drawing)}

    def places(self, picture: str) -> list[str]:
        return [str(places.get(picture, "")) for places in (self.overlays, self.raws)]

    def step(self, batch: Sequence[Loaded]) -> list[dict[str, Any]]:
        return [self._explained(sample.id, *item) for sample, item in batch]

    def finish(self, total: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
        """The results, without what only a resumed run needs."""
        return [{key: value for key, value in result.items() if key not in ONLY_KEPT} for result in total or ()]

    def _explained(self, picture: str, image: np.ndarray, array: np.ndarray, placement: Any) -> dict[str, Any]:
        found = answer(self.model, self.asked(image.shape), array, self.progress)
        result: dict[str, Any] = {"picture": picture, **self._said(found[0]), "maps": []}
        result["outputs"] = tensors(self.model.plain.outputs)
        result["doubt"] = found[0].doubt or None
        out, raw = self.overlays.get(picture), self.raws.get(picture)
        heats, titles = [], []
        hidden = None if placement.whole else ~placement.covered
        for attribution in found:
            legible = attribution.legible
            for row in range(len(attribution.heatmap)):
                heat = placement.map_to_image(attribution.heatmap[row])
                if hidden is not None:
                    heat[hidden] = np.nan  # what the model was not shown
                result["maps"].append(self._about(attribution, row, heat, bool(legible[row])))
                if out:
                    heats.append(heat)
                    titles.append(f"{attribution.method}: {self._title(attribution, row, bool(legible[row]))}")
        if out and heats:
            drawn = self._drawn(image, heats, titles, found, placement)
            write_png(out, drawn)
        written = [place for place in ((out,) if heats else ()) if place]
        if raw and result["maps"]:
            alike = len({a.raw.shape for a in found}) == 1
            write_npy(raw, np.concatenate([a.raw for a in found]) if alike else found[0].raw)
            written.append(raw)
        if out and heats:
            result["written"] = str(out)
        return result | {"places": self.places(picture), "files": [str(place) for place in written]}

    def _drawn(
        self, image: np.ndarray, heats: list[np.ndarray], titles: list[str], found: list[Attribution], placement: Any
    ) -> np.ndarray:
        """One overlay with its colour bar, or a grid with a row per method; a mask of the model comes first."""
        mask = mask_in_picture(found[0], placement)
        if len(heats) == 1 and mask is None:
            return overlay(image, heats[0], title=titles[0], **self.drawing)
        drawn = [overlay(image, heat, colorbar=False, **self.drawing) for heat in heats]
        per_row, columns = len(heats) // len(found), len(heats) // len(found)
        if mask is not None:
            rows = [i * per_row for i in range(len(found))]
            shown = draw_mask(image, mask)
            for at in reversed(rows):
                drawn.insert(at, shown)
                titles.insert(at, "predicted: " + ", ".join(self._in_mask(found[0], mask)))
            columns += 1
        return grid(drawn, titles, columns, bar=ColourBar(self.drawing.get("colormap", "turbo")))

    def _in_mask(self, attribution: Attribution, mask: np.ndarray) -> list[str]:
        """The names of the classes of a mask, the largest first, three at most."""
        classes, counts = np.unique(mask[mask != 0], return_counts=True)
        largest = classes[np.argsort(-counts, kind="stable")].tolist()
        return [self._label(attribution, index) for index in largest[:3]] or ["nothing"]

    def _said(self, attribution: Attribution) -> dict[str, Any]:
        """What the model says: its task, the highest classes, all predictions and those of the other outputs."""
        task = attribution.task
        assert task is not None
        said, labels = attribution.said[0], self.card.labels
        shown = task.predictions(said[task.output.name], labels, None if isinstance(task, Text) else self.top)
        classes = isinstance(task, Classification | Segmentation)
        result: dict[str, Any] = {
            "task": {"kind": task.kind, "output": task.output.name, "unit": task.unit, "evidence": task.evidence},
            "top": [{"class": p.index, "label": p.label, "score": p.score} for p in shown] if classes else [],
            "predictions": [_prediction(p) for p in shown],
            "heads": [self._head(role, said.get(role.output)) for role in task.others],
            "nothing": None if len(attribution.heatmap) else task.nothing,
        }
        if isinstance(task, Text):
            result["text"] = task.text(said[task.output.name], labels)
        return result

    def _head(self, role: Role, said: np.ndarray | None) -> dict[str, Any]:
        """What another output says."""
        found: list[Prediction] = []
        if role.task is not None and said is not None:
            found = role.task.predictions(said)
            multi = isinstance(role.task, MultiLabel)
            found = [p for p in found if p.score > role.task.threshold] if multi else found[:1]
        return {"output": role.output, "role": role.role, "predictions": [_prediction(p) for p in found]}

    def _title(self, attribution: Attribution, row: int, legible: bool) -> str:
        """What a map is of, and its number."""
        index = int(attribution.target[row])
        if not legible:
            return "not finite"
        name = attribution.names[row] or self._label(attribution, index)
        return f"{name} ({attribution.value[row]:.3g})"

    def _label(self, attribution: Attribution, index: int) -> str:
        assert attribution.task is not None
        return attribution.task.label(index, self.card.labels)

    def _about(self, attribution: Attribution, row: int, heat: np.ndarray, legible: bool) -> dict[str, Any]:
        """A map as data: where its maximum lies in the picture, and what is wrong with it if anything."""
        y, x = divmod(int(heat.argmax() if np.isfinite(heat.max()) else np.nanargmax(heat)), heat.shape[1])
        index = int(attribution.target[row])
        alike = len(attribution.heatmap) == len(self.targets)
        if not legible and alike and self.targets[row] == "top1":
            index = -1  # no class is the highest
        return {
            "method": attribution.method,
            "class": index if index >= 0 else None,
            "label": self._label(attribution, index) if index >= 0 else attribution.names[row] or None,
            "target": attribution.names[row] or str(index),
            "value": float(attribution.value[row]) if np.isfinite(attribution.value[row]) else None,
            "layer": attribution.layer or None,
            "maximum": [x, y] if legible else None,
            "diagnosis": attribution.diagnosis[row] or None,
            "details": {name: values[row].tolist() for name, values in attribution.details.items()},
        }


def mask_in_picture(attribution: Attribution, placement: Any) -> np.ndarray | None:
    """(H, W) the class of every pixel of the picture, 0 for background and outside; None for tasks without masks."""
    task = attribution.task
    found = task.mask(attribution.said[0][task.output.name]) if task is not None else None
    if found is None:
        return None
    mask = np.zeros(placement.image_size, np.int64)
    best = np.full(placement.image_size, 0.5, np.float32)
    for index in np.unique(found[found != 0]).tolist():
        share = placement.map_to_image((found == index).astype(np.float32))
        won = share > best
        mask[won], best[won] = index, share[won]
    return mask


def _prediction(given: Prediction) -> dict[str, Any]:
    return {"target": given.target, "label": given.label, "score": given.score, "class": given.index}
