"""Occlusion: what is left of a feature map and of a class while a gray square hides part of the picture.

Zeiler & Fergus 2014 (1311.2901), section 4.2 and figure 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analyzer.attribution.asked import predicted, task_for
from analyzer.attribution.model import Model
from analyzer.attribution.probes import Probe
from analyzer.attribution.question import Question
from analyzer.errors import InputError, NotFoundError, UnsupportedError
from analyzer.images import Feeding, Preprocess
from analyzer.tasks.base import TOP1, Prediction, check_class
from analyzer.tasks.targets import is_expression, is_word, resolve_class

SIDES, STEPS = 5, 3  # the square is a fifth of the picture's shorter side, and moves by a third of its own


@dataclass(frozen=True)
class Squares:
    """Squares whose centers lie in the middle of the cells of a grid over the picture; cut off at its border.

    Attributes:
        size: (height, width) of the picture. side, stride: of the squares and of the cells, in pixels.
    """

    size: tuple[int, int]
    side: int
    stride: int

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns)"""
        return -(-self.size[0] // self.stride), -(-self.size[1] // self.stride)

    def window(self, place: tuple[int, int]) -> tuple[slice, slice]:
        """The pixels that the one in a cell (row, column) covers."""
        starts = [at * self.stride + (self.stride - self.side) // 2 for at in place]
        rows, columns = (slice(max(0, a), min(a + self.side, s)) for a, s in zip(starts, self.size, strict=True))
        return rows, columns

    def cover(self, picture: np.ndarray, place: tuple[int, int], fill: float) -> np.ndarray:
        """A copy of `picture` with one of them, in gray."""
        covered = picture.copy()
        covered[self.window(place)] = round(fill)
        return covered


@dataclass(frozen=True)
class Occlusion:
    """A picture under a moving square; maps are (rows, columns), a number for each place of the square.

    Attributes:
        seen: (h, w, 3) uint8, what the network is shown of the picture.
        squares: where the square is.
        layer, channel: the feature map.
        activation: its total, Σ_ij A_kij; whole_activation: that of the whole picture.
        target, label: what is explained, as on the command line, and its name.
        probability: of the target; whole_probability: by the whole picture. Of a detection, the highest score of its
            class among candidates whose box is the same (an IoU of at least 0.5).
        top: numbers of `names`: the most probable label.
        names: "" where nothing is detected.
        diagnosis: where NaN or ∞ first appears; "" if all values are finite.
    """

    seen: np.ndarray
    squares: Squares
    layer: str
    channel: int
    activation: np.ndarray
    whole_activation: float
    target: str
    label: str
    probability: np.ndarray
    whole_probability: float
    top: np.ndarray
    names: tuple[str, ...]
    diagnosis: str = ""

    @property
    def worst(self) -> tuple[int, int]:
        """(row, column) where the probability is lowest."""
        lowest = np.where(np.isfinite(self.probability), self.probability, np.inf).argmin()
        row, column = np.unravel_index(lowest, self.probability.shape)
        return int(row), int(column)

    @property
    def shares(self) -> dict[str, float]:
        """{label: share of the places at which it is the most probable}, the most frequent first."""
        counts = np.bincount(self.top.ravel(), minlength=len(self.names)) / self.top.size
        order = np.argsort(-counts, kind="stable").tolist()
        return {self.names[i]: float(counts[i]) for i in order if counts[i]}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All maps under their names, as `--raw` writes them."""
        return {
            "activation": self.activation,
            "probability": self.probability,
            "label": np.array(self.names)[self.top],
        }


def occlusion(
    model: Model,
    picture: np.ndarray,
    preprocess: Preprocess | Feeding,
    target: str | int = "top1",
    layer: str = "auto",
    channel: int | None = None,
    side: int | None = None,
    stride: int | None = None,
    fill: float = 127.0,
    progress: Callable[[], None] | None = None,
) -> Occlusion:
    """Moves a gray square over a picture, and reads a feature map and the output at each of its places.

    Args:
        picture: (H, W, 3) uint8 RGB.
        preprocess: of a fixed size; the square is in the network's pixels.
        target: class index or label, "top1" for the one with the highest score, or a detection such as "detection:0".
        layer: the name of a tensor or node; "auto" for that by which the target is explained.
        channel: the feature map; None for the one with the highest total activation.
        side, stride: of the square, in pixels; a fifth of the picture's shorter side, and a third of that.
        fill: gray value, 0 … 255.
        progress: called after each place.

    Raises:
        InputError: no such class. NotFoundError: no such layer, channel or detection. UnsupportedError: the model
            predicts neither classes nor boxes.
    """
    feeding = Feeding.of(preprocess, model.image)
    found = _predicted(model, feeding, picture, target)
    probe = Probe(model, [found.layer if layer == "auto" and found.layer else layer], feeding, summed=True)
    (name,), seen = probe.layers, probe.seen(picture)
    features, said = next(probe.each([seen]))
    totals, whole = features[name], probe.task.certainty(found, said)
    channel = _channel(totals, channel, name)
    shorter = min(seen.shape[:2])
    side = side or max(1, shorter // SIDES)
    squares = Squares((seen.shape[0], seen.shape[1]), side, stride or max(1, side // STEPS))
    places = list(np.ndindex(squares.grid))
    covered = (squares.cover(seen, (row, column), fill) for row, column in places)
    sums, sure, names = list[float](), list[float](), list[str]()
    for features, said in probe.each(covered):
        sums.append(float(features[name][channel]))
        sure.append(probe.task.certainty(found, said))
        names.append(next((each.label for each in probe.task.predictions(said, model.labels, 1)), ""))
        if progress:
            progress()
    bad = np.flatnonzero(~np.isfinite([sums, sure]).all(axis=0))
    shown = [seen] if not np.isfinite([totals[channel], whole]).all() else []
    shown += [squares.cover(seen, (places[i][0], places[i][1]), fill) for i in bad[:1]]
    known = tuple(dict.fromkeys(names))
    return Occlusion(
        seen,
        squares,
        name,
        channel,
        np.array(sums).reshape(squares.grid),
        float(totals[channel]),
        found.target,
        found.label,
        np.array(sure).reshape(squares.grid),
        whole,
        np.array([known.index(n) for n in names]).reshape(squares.grid),
        known,
        probe.say(shown[0]) if shown else "",
    )


def _predicted(model: Model, feeding: Feeding, picture: np.ndarray, target: str | int) -> Prediction:
    """What a target means for a picture."""
    feeds = model.feeds(feeding.feed(picture).feeds)
    question = Question(target=target, declared=model.declared, labels=model.labels)
    task = task_for(model, question, feeds)
    if not task.probable:
        raise UnsupportedError(
            f"{task.output.name!r} has no probabilities of classes or detections ({task.described()})",
            "use explain --method occlusion, which takes any target",
        )
    if is_expression(target):
        raise InputError(f"{target!r} is an expression, which has no probability", "give a class or a detection")
    word = target if is_word(target, model.labels) else resolve_class(target, model.labels)
    if isinstance(word, str) or task.per_picture:
        found = predicted(model, question, feeds, word)
    else:
        check_class(task, word)
        found = [p for p in predicted(model, question, feeds, "all") if word in (TOP1, p.slot)]
    if not found:
        raise NotFoundError(f"there is nothing to explain: {task.nothing}")
    return found[0]


def _channel(totals: np.ndarray, channel: int | None, layer: str) -> int:
    if channel is not None and not 0 <= channel < len(totals):
        raise NotFoundError(f"{layer!r} has no channel {channel}", f"it has {len(totals)}: 0 to {len(totals) - 1}")
    return int(np.where(np.isfinite(totals), totals, -np.inf).argmax()) if channel is None else channel
