"""The pass that localises: boxes and masks of what maps light up, and how well they fit given boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution import Attribution, Question, answer
from analyzer.attribution.drawn import maps_of
from analyzer.attribution.features import features
from analyzer.attribution.localization import (
    THRESHOLDS,
    box_iou,
    class_units,
    regions,
    sweep,
)
from analyzer.attribution.runner import Progress
from analyzer.data import Sample
from analyzer.data.archives import DATASET
from analyzer.errors import UnsupportedError
from analyzer.files import Places
from analyzer.images import Drawing, Fed, Found, Map, channel_grid, file_name, write_png
from analyzer.images.draw import LARGEST, SMALLEST
from analyzer.images.mosaic import stacked
from analyzer.images.views import one, several
from analyzer.metrics.energy import energy_inside
from analyzer.metrics.pointing_game import points_inside
from analyzer.passes.asking import ONLY_KEPT, Asking
from analyzer.passes.base import Loaded


@dataclass
class Localizing(Asking):
    """What `localize` says of every picture, as plain data, with its boxes drawn and its masks written.

    A sample's annotations are boxes by label: {"cat": [x0, y0, x1, y1]}.

    Args:
        question: of one job; its target is that of each picture.
        targets: for every picture; where there are none, the labels of its boxes, else the top class.
        drawn: {picture: file to write}.
        masks: {picture: what the files of its masks begin with}; see `beginnings`.
        threshold: see `regions`.
        several: a box for every connected part.
        units: number of channels to report, those that contribute most to the target.
        progress: of methods that run the model many times.
    """

    targets: Sequence[str] = ()
    drawn: Mapping[str, Path] = field(default_factory=dict)
    masks: Mapping[str, Path] = field(default_factory=dict)
    threshold: float = 0.2
    several: bool = False
    units: int = 0
    progress: Progress | None = None

    name = "localize"

    @property
    def identity(self) -> Mapping[str, Any]:
        how = [self.threshold, self.several, self.units]
        return {**super().identity, "targets": list(self.targets), "boxes": how}

    def places(self, picture: str) -> list[str]:
        return [str(places.get(picture, "")) for places in (self.drawn, self.masks)]

    def step(self, batch: Sequence[Loaded]) -> list[dict[str, Any]]:
        return [self._localised(sample, fed) for sample, fed in batch]

    def finish(self, total: list[dict[str, Any]] | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """(the results, means over everything that was compared)"""
        results = total or []
        kept = [
            {key: value for key, value in result.items() if key not in (*ONLY_KEPT, "sweeps")} for result in results
        ]
        return kept, _summary(results)

    def _localised(self, sample: Sample, fed: Fed) -> dict[str, Any]:
        picture, known = sample.id, sample.annotations
        wanted = self._wanted(sample)
        question, found = self._answer(sample, fed)
        (job,) = question.jobs
        result: dict[str, Any] = {"picture": picture, "targets": [], "doubt": found.doubt or None, "sweeps": []}
        masks = Places(self.masks[picture].parent) if picture in self.masks else None
        files = []
        task = found.task
        assert task is not None
        alike = len(found.heatmap) == len(wanted)
        for row in range(len(found.heatmap)):
            asked = wanted[row] if alike else found.names[row] or str(found.target[row])
            heat = fed.heat(found.heatmap[row])
            if heat.ndim != 2 or fed.drawn is None:
                raise UnsupportedError("boxes are found in pictures, not in clips, volumes or numbers", "use explain")
            index = int(found.target[row])
            name = task.label(index, self.card.labels) if index >= 0 else found.names[row] or asked
            entry, mask = self._boxes(name, heat)
            if masks:
                place = masks.place(f"{self.masks[picture].name}.{file_name(name)}", ".png")
                write_png(place, np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255)
                entry["mask"] = str(place)
                files.append(str(place))
            given = known.get(name, known.get(asked))
            if given is not None:
                entry |= _fit(entry["boxes"], heat, given)
                result["sweeps"].append(sweep(heat, given))
            entry["diagnosis"] = found.diagnosis[row] or None
            if self.units:
                how = (job.layer, question.output, question.labels)
                shares, layer = class_units(self.model, fed.feeds, index if index >= 0 else asked, *how)
                best = (-shares[0]).argsort(kind="stable")[: self.units]
                entry["units"] = {"layer": layer, "channels": best.tolist(), "contributions": shares[0][best].tolist()}
            result["targets"].append(entry)
        out = self.drawn.get(picture)
        if out:
            write_png(out, self._drawn(fed, found, result["targets"]))
            result["written"] = str(out)
            files.append(str(out))
        return result | {"places": self.places(picture), "files": files}

    def _wanted(self, sample: Sample) -> list[str]:
        return list(self.targets) or [name for name in sample.annotations if name != DATASET] or ["top1"]

    def _answer(self, sample: Sample, fed: Fed) -> tuple[Question, Attribution]:
        wanted = self._wanted(sample)
        question = self.asked(fed, target=wanted if len(wanted) > 1 else wanted[0])
        (found,) = answer(self.model, question, fed.feeds, self.progress)
        return question, found

    def figure(self, sample: Sample, targets: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """What is drawn of a picture whose targets were localized; its maps are computed again."""
        fed = self.feeding.feed(sample.source)
        return self._drawn(fed, self._answer(sample, fed)[1], targets)

    def _drawn(self, fed: Fed, found: Attribution, targets: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """A map per target as its method is drawn, with the boxes of all targets, its own with thicker lines; below,
        the channels that contribute most."""
        order, maps = self.feeding.preprocess.channels, list[Map]()
        for row, entry in enumerate(targets):
            fit = f", IoU {entry['iou']:.2f}" if "iou" in entry else ""
            title = f"{found.method}: {entry['target']}, heat above {self.threshold:g}{fit}"
            boxes = [box for other in targets for box in _to_draw(other, other is entry)]
            maps += maps_of(found, row, fed, order, title, boxes)
        drawn = one(maps[0], Drawing(), (SMALLEST, LARGEST)) if len(maps) == 1 else several(maps, Drawing())
        return stacked([drawn, *(grid for entry in targets for grid in self._speaking(fed, entry))])

    def _speaking(self, fed: Fed, entry: Mapping[str, Any]) -> list[np.ndarray]:
        """The feature maps of the channels of an entry, each with what it adds to the target."""
        if "units" not in entry:
            return []
        units = entry["units"]
        found = features(self.model, fed.feeds, units["layer"])
        if units["layer"] not in found.drawable:
            return []
        maps, title = found.planes(units["layer"]), f"{units['layer']}: what adds most to {entry['target']}"
        labels = [f"{c} ({v:+.3g})" for c, v in zip(units["channels"], units["contributions"], strict=True)]
        return [channel_grid(maps[units["channels"]], labels, title=title, total=len(maps))]

    def _boxes(self, name: str, heat: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        """Boxes of one target as data, and their mask (H, W)."""
        found = regions(heat, self.threshold)
        kept = found if self.several else found[:1]
        entry: dict[str, Any] = {"target": name, "boxes": [r.box for r in kept]}
        entry |= {"energy": [round(r.energy, 4) for r in kept], "peaks": [round(r.peak, 4) for r in kept]}
        return entry, np.any([r.mask for r in kept], axis=0) if kept else np.zeros(heat.shape, bool)


def _to_draw(target: Mapping[str, Any], strong: bool) -> list[Found]:
    """The boxes of a target that were found, and the one that was given."""
    name = str(target["target"])
    found = [Found(name, box=box, strong=strong) for box in target["boxes"]]
    return found + ([Found(f"{name} (given)", box=target["given"], strong=strong)] if "given" in target else [])


def beginnings(folder: Path, pictures: Iterable[str]) -> dict[str, Path]:
    """{picture: what the names of its files in a folder begin with, up to a dot}, each its own."""
    pictures = list(dict.fromkeys(pictures))
    stems = {Path(picture).stem.casefold() for picture in pictures}
    found: dict[str, Path] = {}
    given: set[str] = set()
    for picture in pictures:
        stem = Path(picture).stem
        if any(stem[:i].casefold() in stems for i, letter in enumerate(stem) if letter == "."):
            stem = stem.replace(".", "_")  # beside a picture `a`, the files of `a.b` might be called as its own
        name, count = stem, 1
        while name.casefold() in given:
            count += 1
            name = f"{stem}-{count}"
        given.add(name.casefold())
        found[picture] = folder / name
    return found


def _fit(boxes: Sequence[Any], heat: np.ndarray, given: Sequence[float]) -> dict[str, Any]:
    """How well boxes and heat fit a given box."""
    return {
        "given": [float(v) for v in given],
        "iou": max((box_iou(box, given) for box in boxes), default=0.0),
        "pointing": float(points_inside(heat, given)),
        "energy_inside": energy_inside(heat, given),
    }


def _summary(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over everything that was compared, and the best single threshold."""
    measured = [target for result in results for target in result["targets"] if "given" in target]
    if not measured:
        return {}
    sweeps = np.stack([one for result in results for one in result["sweeps"]])
    best = int(sweeps.mean(axis=0).argmax())
    ious = np.array([m["iou"] for m in measured])
    return {
        "compared": len(ious),
        "mean_iou": float(ious.mean()),
        "iou_above_half": float((ious >= 0.5).mean()),
        "pointing": float(np.mean([m["pointing"] for m in measured])),
        "energy_inside": float(np.mean([m["energy_inside"] for m in measured])),
        "best_threshold": THRESHOLDS[best],
        "mean_iou_at_best": float(sweeps[:, best].mean()),
        "iou_above_half_at_best": float((sweeps[:, best] >= 0.5).mean()),
    }
