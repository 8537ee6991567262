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
from analyzer.attribution.targets import ranked
from analyzer.images import ColourBar, grid, overlay, write_npy, write_png
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
        result: dict[str, Any] = {"picture": picture, "top": self._classes(found[0]), "maps": []}
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
                    titles.append(f"{attribution.method}: {self._name(attribution, row, bool(legible[row]))}")
        if out and len(heats) == 1:
            write_png(out, overlay(image, heats[0], title=titles[0], **self.drawing))
        elif out:
            drawn = [overlay(image, heat, colorbar=False, **self.drawing) for heat in heats]
            bar = ColourBar(self.drawing.get("colormap", "turbo"))
            write_png(out, grid(drawn, titles, len(heats) // len(found), bar=bar))
        if raw:
            alike = len({a.raw.shape for a in found}) == 1
            write_npy(raw, np.concatenate([a.raw for a in found]) if alike else found[0].raw)
        if out:
            result["written"] = str(out)
        return result | {"places": self.places(picture), "files": [str(place) for place in (out, raw) if place]}

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
        y, x = divmod(int(heat.argmax() if np.isfinite(heat.max()) else np.nanargmax(heat)), heat.shape[1])
        index = int(attribution.target[row])
        if not legible and self.targets[row % len(self.targets)] == "top1":
            index = -1  # no class is the highest
        return {
            "method": attribution.method,
            "class": index if index >= 0 else None,
            "label": self.card.label(index) if index >= 0 else None,
            "layer": attribution.layer or None,
            "maximum": [x, y] if legible else None,
            "diagnosis": attribution.diagnosis[row] or None,
            "details": {name: values[row].tolist() for name, values in attribution.details.items()},
        }
