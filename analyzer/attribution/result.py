"""The result of an explanation: `Attribution`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from analyzer.attribution.lines import Centers
from analyzer.attribution.postprocess import resized
from analyzer.errors import InputError
from analyzer.images import (
    ColourBar,
    Drawing,
    Fed,
    Map,
    colourise,
    encode,
    figure,
    fit,
    showing,
    write_npy,
    write_png,
)
from analyzer.images.draw import LARGEST, SMALLEST
from analyzer.images.views import panel
from analyzer.tasks import Prediction, Task
from analyzer.tasks.base import Labels


class View(Protocol):
    """The pictures that an attribution is of, and how it is named and drawn: what the command line shows of it."""

    @property
    def labels(self) -> Labels: ...

    def of(self, image: int) -> View:
        """The view of one of the images."""

    def fed(self, image: int) -> Fed:
        """An image, counted from 0."""

    def data_of(self, found: Attribution) -> dict[str, Any]:
        """The answer about one image as data."""

    def about(self, found: Attribution, row: int) -> str:
        """What a map is of, and its number."""

    def map(self, found: Attribution, row: int) -> Map:
        """A map of one image, to be drawn."""

    def figure(self, found: Attribution, **drawing: Any) -> np.ndarray:
        """The maps of one image over it."""


@dataclass(repr=False)
class Attribution:
    """The maps of one method for a batch of images. In a notebook it shows itself.

    Rows are images, or (image, target) pairs if there are several targets, ordered by image.

    Attributes:
        raw: the method's own values, float32: (rows, h, w) before normalization for CAM-like methods, shaped as
            the input for gradient-like ones.
        heatmap: (rows, H, W) in [0, 1] at the resolution of the input; 0 everywhere where `legible` is False.
        scores: (N, classes) as the model outputs them; quantized ones as the real numbers that they stand for.
        target: class index per row; −1 where the target is an expression.
        layer: name of the feature map, or "" for methods that need none; of the first row where rows differ.
        layers: name of the feature map of each row, where rows differ; else empty.
        method: name of the method.
        image: index of the image per row.
        diagnosis: for each row, a sentence if the map is empty, constant or not finite, otherwise "".
        stripped: squashing functions (Softmax…) that were removed after the target.
        tied: (N,) number of classes that tie at the maximum of the output's quantizer; 0 if the top class is unique.
        details: further results of the method, one entry per row: `completeness` of integrated gradients and
            full-grad, `score` and `top` at every position of occlusion…
        doubt: why the output may not mean what it seems to (see `Task.doubt`), and why units are not where
            `placement` puts them; "" if all is well.
        value: (rows,) the number that is explained: the score of the class as the model outputs it, or the value of
            the expression.
        names: what each row explains, as the user asked for it or as the model says it; "" for a class.
        task: what the output means.
        first: index of the first image.
        centers: {layer: where its units lie in the image}, of layers whose maps are not laid by half-pixel centers.
        view: the pictures that the maps are of, for what is drawn and named; None where they are not known.
        said: for each image, {output: array}, quantized numbers as what they mean.
    """

    raw: np.ndarray
    heatmap: np.ndarray
    scores: np.ndarray
    target: np.ndarray
    layer: str
    method: str
    image: np.ndarray
    diagnosis: list[str] = field(default_factory=list)
    stripped: tuple[str, ...] = ()
    details: dict[str, np.ndarray] = field(default_factory=dict)
    doubt: str = ""
    tied: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    value: np.ndarray = field(default_factory=lambda: np.zeros(0))
    names: list[str] = field(default_factory=list)
    task: Task | None = None
    said: list[dict[str, np.ndarray]] = field(default_factory=list)
    first: int = 0
    layers: list[str] = field(default_factory=list)
    centers: Mapping[str, Centers] = field(default_factory=dict)
    view: View | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        """«Attribution(grad-cam of four (0.998) at /network/stage3/Relu_output_0: 1 map of 96×96)»"""
        count = len(self.heatmap)
        maps = f"{count} map{'s' * (count != 1)}" + (
            f" of {'×'.join(map(str, self.heatmap.shape[1:]))}" if count else ""
        )
        what = ", ".join(self.title(row) for row in range(min(count, 3))) + ", …" * (count > 3)
        return f"Attribution({self.method}{' of ' * bool(what)}{what}{' at ' * bool(self.layer)}{self.layer}: {maps})"

    def title(self, row: int = 0) -> str:
        """What a map is of, and the number that is explained: «four (0.998)»."""
        if self.view is not None:
            return self.view.about(self, row)
        name = self.names[row] if self.names and self.names[row] else self._label(int(self.target[row]))
        return f"{name} ({self.value[row]:.3g})" if row < len(self.value) else name

    def _label(self, index: int) -> str:
        labels = self.view.labels if self.view is not None else None
        return self.task.label(index, labels) if self.task is not None and index >= 0 else str(index)

    @property
    def predictions(self) -> list[Prediction]:
        """What the model predicts for the first picture, highest score first; boxes and keypoints are in its pixels."""
        if self.task is None or not self.said:
            return []
        if self.view is None:
            return self.predicted()
        fed = self.view.fed(0)
        return [in_picture(each, fed) for each in self.predicted(self.view.labels)]

    def as_data(self) -> dict[str, Any]:
        """What `explain --format json` says of the picture, as plain data.

        Raises:
            InputError: the picture is not known, or there are several.
        """
        return self._seen().data_of(self)

    def overlay(self, **drawing: Any) -> np.ndarray:
        """The maps over their picture, as `explain -o` writes them: (H, W, 3) uint8 RGB; several make a grid.

        Args:
            drawing: as for the command: view, percentile, range, colormap, alpha.

        Raises:
            InputError: the picture is not known, or there is no map.
        """
        return self._seen().figure(self, **drawing)

    def save(self, path: str | os.PathLike[str], **drawing: Any) -> None:
        """Write the overlay (.png, .jpg or .webp), or the maps before normalization (.npy).

        Args:
            drawing: as for `overlay`.

        Raises:
            InputError: another ending, or as `overlay`.
        """
        if str(path).endswith(".npy"):
            write_npy(path, self.raw)
        else:
            write_png(path, self.overlay(**drawing))

    def plot(self, axes: Any = None, row: int = 0, **drawing: Any) -> Any:
        """One map in matplotlib, drawn as by `overlay`, without the picture beside it.

        Args:
            axes: axes to draw in; new ones unless given.
            row: which map.
            drawing: as for `overlay`.

        Returns:
            The axes.

        Raises:
            InputError: the picture is not known, or there is no such map. UnsupportedError: matplotlib is missing.
        """
        if axes is None:
            axes = showing.new_axes()
        if not 0 <= row < len(self.heatmap):
            raise InputError(f"there is no map {row}", f"there are {len(self.heatmap)}")
        if self.heatmap.ndim != 3:
            raise InputError("a clip or volume is not one picture", "use overlay")
        image = int(self.image[row]) - self.first
        view = self._seen(one=False).of(image)
        given = view.map(self.of_image(image), int((self.image[:row] == self.image[row]).sum()))
        drawn = panel(replace(given, found=()), Drawing(**drawing), (SMALLEST, LARGEST))
        height, width = view.fed(0).placement.image_size
        axes.imshow(drawn.picture, extent=(0, width, height, 0))
        if drawn.bar is not None:
            axes.figure.colorbar(showing.scale(drawn.bar), ax=axes)
        for each in self.of_image(image).predictions:
            if each.box is not None:
                left, top, right, bottom = each.box
                axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], linewidth=1.5)
                axes.annotate(f"{each.label} {each.score:.2f}", (left, top), color="white", va="bottom")
            for x, y, _ in each.points or ():
                axes.plot([x], [y], "o", markersize=4)
        axes.set_title(f"{self.method}: {self.title(row)}")
        axes.set_axis_off()
        return axes

    def _seen(self, one: bool = True) -> View:
        if self.view is None:
            raise InputError(
                "the picture that these maps are of is not known", "explain a picture, or use .heatmap and .raw"
            )
        if one and len(self.scores) > 1:
            raise InputError(f"these are maps of {len(self.scores)} pictures", "choose one: .of_image(0)")
        return self.view

    def _repr_png_(self) -> bytes | None:
        picture = self._thumbnail()
        return None if picture is None else encode(picture)

    def _repr_html_(self) -> str:
        said = [(p.label, f"{p.score:.3g}") for p in self.predictions[:5]]
        unit = self.task.unit if self.task is not None else ""
        diagnoses = dict.fromkeys(diagnosis for diagnosis in self.diagnosis if diagnosis)
        return showing.page("\n".join([repr(self), *diagnoses]), self._thumbnail(), said, ("", unit or "score"))

    def _thumbnail(self) -> np.ndarray | None:
        """What a notebook shows: the overlay of the first picture; the maps alone where it is not known."""
        if not len(self.heatmap):
            return None
        if self.view is not None:
            return self.of_image(0).overlay()
        flat = self.heatmap[0]
        return figure(fit(colourise(flat)), f"{self.method}: {self.title()}", ColourBar()) if flat.ndim == 2 else None

    def of_image(self, image: int) -> Attribution:
        """The maps of one of the images."""
        if not 0 <= image < len(self.scores):
            raise InputError(f"there is no image {image}", f"there are {len(self.scores)}")
        if len(self.scores) == 1:
            return self
        part = self.rows(self.image - self.first == image)
        one = slice(image, image + 1)
        return replace(
            part,
            scores=self.scores[one],
            tied=self.tied[one],
            said=self.said[one],
            image=np.zeros_like(part.image),
            first=0,
            view=self.view and self.view.of(image),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without its view, which holds the model."""
        return vars(self) | {"view": None}

    def in_units(self, row: int) -> np.ndarray:
        """(H, W) or (frames, H, W): the heatmap in the numbers of its method, not scaled to [0, 1].

        Of gradients the largest magnitude of the channels.
        """
        low, high = self.extent(row)
        return np.asarray(low + self.heatmap[row] * (high - low), np.float32)

    def extent(self, row: int) -> tuple[float, float]:
        """The numbers of the method that 0 and 1 of the heatmap stand for."""
        if not self.legible[row]:
            return 0.0, 0.0
        pixels = self.channels(row)
        size = self.heatmap.shape[1:]
        laid = None if self.layers else self.centers.get(self.layer)
        over = resized(self._raw(row), size, laid) if pixels is None else np.abs(pixels).max(axis=-1)
        return float(over.min()), float(over.max())

    def _raw(self, row: int) -> np.ndarray:
        """With an axis for frames that are folded into the batch."""
        if len(self.raw) == len(self.heatmap):
            return self.raw[row]
        return self.raw.reshape(len(self.heatmap), -1, *self.raw.shape[1:])[row]

    def channels(self, row: int) -> np.ndarray | None:
        """(…, H, W, C) the signed numbers of every pixel; None for methods with one number per place."""
        size = self.heatmap.shape[1:]
        raw = self._raw(row)
        if raw.ndim != len(size) + 1:
            return None
        if raw.shape[1:] == size:
            return np.moveaxis(raw, 0, -1)
        return raw if raw.shape[:-1] == size else None

    def layer_of(self, row: int) -> str:
        """The feature map of a row."""
        return self.layers[row] if self.layers else self.layer

    def predicted(self, labels: Labels = None) -> list[Prediction]:
        """What the model predicts for the first picture, highest score first; worked out once."""
        key = tuple(labels) if labels is not None else None
        if key not in self._predicted:
            assert self.task is not None
            self._predicted[key] = self.task.predictions(self.task.answer(self.said[0]), labels)
        return self._predicted[key]

    @cached_property
    def _predicted(self) -> dict[Any, list[Prediction]]:
        return {}

    def first_images(self, count: int) -> Attribution:
        """Of the first `count` images only."""
        if count >= len(self.scores):
            return self
        kept = self.image - self.first < count
        kept &= np.arange(len(kept)) < count * (len(kept) // len(self.scores))
        return replace(self.rows(kept), scores=self.scores[:count], tied=self.tied[:count], said=self.said[:count])

    @cached_property
    def finite(self) -> bool:
        """Whether all maps and scores are."""
        return bool(np.isfinite(self.raw).all() and np.isfinite(self.scores).all())

    @cached_property
    def legible(self) -> np.ndarray:
        """(rows,) whether the map, and the score of the class that it is of, are finite."""
        if self.finite:
            return np.ones(len(self.raw), bool)
        scores = self.scores_of_rows
        known = (self.target >= 0) & (self.target < scores.shape[1])
        scored = np.isfinite(scores[np.arange(len(scores)), np.where(known, self.target, 0)])
        return finite_rows(self.raw) & (scored | ~known)

    @cached_property
    def scores_of_rows(self) -> np.ndarray:
        """(rows, classes): the scores of the image of each row."""
        return self.scores[np.minimum(self.image - self.first, len(self.scores) - 1)]

    def rows(self, kept: np.ndarray) -> Attribution:
        """Some of the rows.

        Args:
            kept: (rows,) bool.
        """
        return self if kept.all() else self.ordered(np.flatnonzero(kept))

    def ordered(self, rows: np.ndarray) -> Attribution:
        """The rows of these indices, in their order."""
        if np.array_equal(rows, np.arange(len(self.image))):
            return self
        part: dict[str, Any] = {
            name: getattr(self, name)[rows] for name in ("raw", "heatmap", "target", "image", "value")
        }
        lists: dict[str, Any] = {
            n: [known[row] for row in rows] if (known := getattr(self, n)) else []
            for n in ("diagnosis", "names", "layers")
        }
        return replace(self, **part, **lists, details={n: d[rows] for n, d in self.details.items()})


def in_picture(said: Prediction, fed: Fed) -> Prediction:
    """With its place in pixels of the picture."""
    box = None if said.box is None else fed.box(said.box, said.scaled)
    points = None if said.points is None else tuple((*fed.point(x, y), seen) for x, y, seen in said.points)
    return replace(said, box=box, points=points, scaled="")


def joined(parts: Sequence[Attribution]) -> Attribution:
    """The rows of all parts, one after the other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ("heatmap", "scores", "target", "image", "tied", "value")
    }
    differ = len({p.layer for p in parts}) > 1
    return Attribution(
        layer=first.layer,
        method=first.method,
        diagnosis=[d for p in parts for d in p.diagnosis],
        stripped=first.stripped,
        details={n: np.concatenate([p.details[n] for p in parts]) for n in first.details},
        doubt="; ".join(dict.fromkeys(p.doubt for p in parts if p.doubt)),
        first=first.first,
        names=[n for p in parts for n in p.names],
        task=first.task,
        said=[s for p in parts for s in p.said],
        layers=[p.layer_of(row) for p in parts for row in range(len(p.image))] if differ else [],
        raw=np.concatenate(_alike([p.raw for p in parts])),
        centers={layer: centers for p in parts for layer, centers in p.centers.items()},
        **arrays,
    )


def _alike(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Maps of layers of several sizes as those of the largest: every value is repeated over its place."""
    if len({m.shape[1:] for m in maps}) == 1:
        return list(maps)
    largest = tuple(max(sizes) for sizes in zip(*(m.shape[1:] for m in maps), strict=True))
    found = []
    for each in maps:
        for axis, size in enumerate(largest, 1):
            each = np.take(each, np.arange(size) * each.shape[axis] // size, axis)
        found.append(each)
    return found


def finite_rows(array: np.ndarray) -> np.ndarray:
    """(N,) whether all values of a row are finite."""
    return np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
