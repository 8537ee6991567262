"""How a detector writes the masks of what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analyzer.metrics.masks import Mask
from analyzer.tasks.detection.parts import Level


@dataclass(frozen=True)
class Chosen:
    """Some candidates of one picture, whose masks are wanted.

    Attributes:
        said: the model's outputs.
        levels: where the candidates are written.
        places: (n,) the candidates.
        boxes: (n, 4) theirs.
        size: height and width of the model's input.
    """

    said: Mapping[str, np.ndarray]
    levels: tuple[Level, ...]
    places: np.ndarray
    boxes: np.ndarray
    size: tuple[int, int]

    @property
    def input(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of the model's input."""
        return 0.0, 0.0, float(self.size[1]), float(self.size[0])


@dataclass(frozen=True)
class Masks:
    """Masks in an output of their own.

    Attributes:
        output: the output.
        logits: pixels with positive numbers belong to the mask, not those with more than ½.
    """

    output: str
    logits: bool = False

    def of(self, chosen: Chosen) -> list[Mask]:
        """Their masks, in pixels of the model's input."""
        raise NotImplementedError

    def _positive(self, values: np.ndarray) -> np.ndarray:
        """Positive inside."""
        return np.asarray(values, np.float32) - (0.0 if self.logits else np.float32(0.5))


@dataclass(frozen=True)
class Prototypes(Masks):
    """Maps (N, K, h, w) over the input, of which each candidate has a weighted sum, cut off at its box (YOLACT,
    1904.02689); the weights are `Level.weights`."""

    def of(self, chosen: Chosen) -> list[Mask]:
        said = chosen.said
        weights = np.concatenate([one.weights.read(said[one.weights.output]) for one in chosen.levels if one.weights])
        maps = np.asarray(said[self.output], np.float32)[0]
        values = self._positive(np.tensordot(weights[chosen.places].astype(np.float32), maps, 1))
        return [Mask(one, chosen.input, tuple(box)) for one, box in zip(values, chosen.boxes.tolist(), strict=True)]


@dataclass(frozen=True)
class OwnMasks(Masks):
    """A mask for each candidate: over its box (Mask R-CNN, 1703.06870), or over the input where that has its size.

    Attributes:
        boxed: a mask smaller than the input lies over the box.
    """

    boxed: bool = True

    def of(self, chosen: Chosen) -> list[Mask]:
        found = chosen.said[self.output]
        found = found.reshape(-1, *found.shape[-2:])[chosen.places]
        if not self.boxed or found.shape[1:] == tuple(chosen.size):
            return [Mask(self._positive(one), chosen.input) for one in found]
        return [self._in_box(one, box) for one, box in zip(found, chosen.boxes.tolist(), strict=True)]

    def _in_box(self, values: np.ndarray, box: list[float]) -> Mask:
        """Beyond the outermost cells there is nothing: a ring of that around them."""
        height, width = values.shape
        x0, y0, x1, y1 = box
        across, down = max(x1 - x0, 1e-3) / width, max(y1 - y0, 1e-3) / height
        values = self._positive(np.pad(values, 1))
        return Mask(values, (x0 - across, y0 - down, x1 + across, y1 + down), tuple(box))
