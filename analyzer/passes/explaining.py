"""The pass that explains pictures, one after the other: classes, maps, overlays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution import METHODS, Attribution, Job, answer
from analyzer.attribution.inspection import tensors
from analyzer.attribution.runner import Progress
from analyzer.attribution.targets import ranked
from analyzer.errors import UnsupportedError
from analyzer.images import ColourBar, Fed, grid, write_npy, write_png
from analyzer.passes.asking import ONLY_KEPT, Asking
from analyzer.passes.base import Loaded


@dataclass
class Explaining(Asking):
    """What `explain` says of every picture, as plain data, with its overlay and raw maps written.

    Args:
        targets: as they were asked for, in the order of the question's.
        overlays, raws: {picture: file to write}.
        top: number of classes to report.
        drawing: `alpha` and `colormap` of overlays.
        progress: of methods that run the model many times.
        bare: overlays have neither title nor colour bar: frames of a video.
    """

    targets: Sequence[str] = ("top1",)
    overlays: Mapping[str, Path] = field(default_factory=dict)
    raws: Mapping[str, Path] = field(default_factory=dict)
    top: int = 5
    drawing: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress | None = None
    bare: bool = False

    name = "explain"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**super().identity, "top": self.top, "drawing": dict(self.drawing), "bare": self.bare}

    def places(self, picture: str) -> list[str]:
        return [str(places.get(picture, "")) for places in (self.overlays, self.raws)]

    def step(self, batch: Sequence[Loaded]) -> list[dict[str, Any]]:
        return [self._explained(sample.id, fed) for sample, fed in batch]

    def finish(self, total: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
        """The results, without what only a resumed run needs."""
        return [{key: value for key, value in result.items() if key not in ONLY_KEPT} for result in total or ()]

    def _explained(self, picture: str, fed: Fed) -> dict[str, Any]:
        found = answer(self.model, self.asked(fed), fed.feeds, self.progress)
        result: dict[str, Any] = {"picture": picture, "top": self._classes(found[0]), "maps": []}
        result["outputs"] = tensors(self.model.plain.outputs)
        result["doubt"] = found[0].doubt or None
        result["remark"] = fed.remark
        if others := self._other_inputs(fed):
            result["inputs"] = others
        out, raw = self.overlays.get(picture), self.raws.get(picture)
        heats, titles = [], []
        for attribution in found:
            legible = attribution.legible
            for row in range(len(attribution.heatmap)):
                if fed.drawn is None:  # numbers, not a picture
                    result["maps"].append(self._numbers(attribution, row, bool(legible[row])))
                    continue
                heat = fed.heat(attribution.heatmap[row])
                result["maps"].append(self._about(attribution, row, heat, bool(legible[row])))
                if out:
                    heats.append(heat)
                    titles.append(f"{attribution.method}: {self._name(attribution, row, bool(legible[row]))}")
        if out and len(heats) == 1:
            write_png(out, fed.overlay(heats[0], "" if self.bare else titles[0], not self.bare, **self.drawing))
        elif heats and out:
            drawn = [fed.overlay(heat, colorbar=False, **self.drawing) for heat in heats]
            bar = ColourBar(self.drawing.get("colormap", "turbo"))
            write_png(out, grid(drawn, titles, len(heats) // len(found), bar=bar))
        if raw:
            alike = len({a.raw.shape for a in found}) == 1
            write_npy(raw, np.concatenate([a.raw for a in found]) if alike else found[0].raw)
        if heats and out:
            result["written"] = str(out)
        return result | {
            "places": self.places(picture),
            "files": [str(place) for place in (out if heats else None, raw) if place],
        }

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

    def _classes(self, attribution: Attribution) -> list[dict[str, Any]]:
        """The highest scores of the picture."""
        scores = attribution.scores[0].astype(float)
        order = ranked(scores)[: self.top]
        return [{"class": int(i), "label": self.card.label(int(i)), "score": float(scores[i])} for i in order]

    def _name(self, attribution: Attribution, row: int, legible: bool) -> str:
        index = int(attribution.target[row])
        if not legible:
            return "not finite"
        if index < 0:
            return self.targets[row % len(self.targets)]
        return f"{self.card.label(index)} ({attribution.scores[attribution.image[row]].flat[index]:.3g})"

    def _about(self, attribution: Attribution, row: int, heat: np.ndarray, legible: bool) -> dict[str, Any]:
        """A map as data: where its maximum lies in the picture, and what is wrong with it if anything."""
        place = np.unravel_index(int(heat.argmax() if np.isfinite(heat.max()) else np.nanargmax(heat)), heat.shape)
        maximum = [int(at) for at in place[:-3:-1]]
        frame = {"frame": int(place[0])} if heat.ndim == 3 else {}
        return self._named(attribution, row, legible) | {"maximum": maximum if legible else None} | frame

    def _numbers(self, attribution: Attribution, row: int, legible: bool) -> dict[str, Any]:
        """The gradient with respect to an input of numbers, as data."""
        values = attribution.raw[row].ravel().astype(float).tolist()
        said = {"maximum": None, "input": self.feeding.explained, "values": values if legible else None}
        return self._named(attribution, row, legible) | said

    def _named(self, attribution: Attribution, row: int, legible: bool) -> dict[str, Any]:
        """What a map is of, and what is wrong with it if anything."""
        index = int(attribution.target[row])
        if not legible and self.targets[row % len(self.targets)] == "top1":
            index = -1  # no class is the highest
        return {
            "method": attribution.method,
            "class": index if index >= 0 else None,
            "label": self.card.label(index) if index >= 0 else None,
            "layer": attribution.layer or None,
            "diagnosis": attribution.diagnosis[row] or None,
            "details": {name: values[row].tolist() for name, values in attribution.details.items()},
        }
