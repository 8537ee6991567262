"""`localize` as a function."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.api.data import File, Pictures, listed, opened_samples, samples_of
from analyzer.api.models import Asked, Names, Preprocessing, for_pictures
from analyzer.attribution import Job, Question
from analyzer.attribution.cards import default_method
from analyzer.attribution.methods import METHODS, find_method
from analyzer.data import Sample, read_labelled_boxes
from analyzer.errors import AnalyzerError, InputError
from analyzer.images import encode, showing, write_png
from analyzer.passes import Workers, run
from analyzer.passes.localizing import Localizing


@dataclass(repr=False)
class Localization:
    """Boxes around what a model looks at. In a notebook it shows itself.

    Attributes:
        results: for each picture its `targets`, each with `boxes` in pixels, and how they fit the true ones.
        summary: means over everything that was compared with true boxes; empty if nothing was.
        failed: {picture: error}, pictures that could not be used.
    """

    model: str
    method: str
    threshold: float
    results: list[dict[str, Any]]
    summary: dict[str, Any]
    failed: dict[str, AnalyzerError] = field(default_factory=dict)
    samples: Sequence[Sample] = field(default=(), compare=False)
    work: Localizing | None = field(default=None, compare=False)

    def as_data(self) -> dict[str, Any]:
        """What `localize --format json` prints, as plain data."""
        failed = [{"picture": picture, "error": error.message} for picture, error in self.failed.items()]
        about = {"model": self.model, "method": self.method}
        return about | {"results": self.results, "summary": self.summary, "failed": failed}

    def overlay(self, picture: int = 0) -> np.ndarray:
        """One of the pictures with its heat and boxes, as `localize -o` writes it: (H, W, 3) uint8 RGB.

        The heat is computed again.

        Raises:
            InputError: there is no such picture.
        """
        if not 0 <= picture < len(self.results) or self.work is None:
            raise InputError(f"there is no picture {picture}", f"there are {len(self.results)}")
        result = self.results[picture]
        sample = next(sample for sample in self.samples if sample.id == result["picture"])
        return self.work.figure(sample, result["targets"])

    def save(self, path: File, picture: int = 0) -> None:
        """Write `overlay` as .png, .jpg or .webp."""
        write_png(path, self.overlay(picture))

    def __repr__(self) -> str:
        """«Localization(grad-cam: 3 boxes in 2 pictures)»"""
        boxes = sum(len(target["boxes"]) for result in self.results for target in result["targets"])
        count = len(self.results)
        return f"Localization({self.method}: {boxes} box{'es' * (boxes != 1)} in {count} picture{'s' * (count != 1)})"

    def _repr_png_(self) -> bytes | None:
        return encode(self.overlay()) if self.results else None

    def _repr_html_(self) -> str:
        rows = [
            (Path(result["picture"]).name, target["target"], " ".join(f"{at:.0f}" for at in box), f"{energy:.2f}")
            for result in self.results
            for target in result["targets"]
            for box, energy in zip(target["boxes"], target["energy"], strict=True)
        ]
        picture = self.overlay() if self.results else None
        return showing.page(repr(self), picture, rows[:20], ("picture", "target", "box", "heat in box"))


def localize(
    model: Any,
    pictures: Pictures,
    method: str | None = None,
    target: Any = (),
    layer: str | None = None,
    *,
    threshold: float = 0.2,
    several: bool = False,
    boxes: File | Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    top_channels: int = 0,
    labels: Names = None,
    output: str | None = None,
    provider: str = "cpu",
    limit: int | None = None,
    every: int = 1,
    workers: Workers = None,
    store: File | None = None,
    input: Mapping[str, Any] | None = None,
    explain_input: str | None = None,
    preprocess: Preprocessing = None,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Localization:
    """Draw boxes around what a model looks at: the regions where the heatmap is above a threshold.

    Args:
        model: path, bytes, ModelProto or `Explainer`.
        pictures: as for `analyzer.compare`.
        method, layer, labels, output: as for `analyzer.explain`.
        target: what to localize, or several; the labels in `boxes` unless given, else top1.
        threshold: heat threshold, as a fraction of the map's maximum.
        several: a box around every connected region, not only the largest.
        boxes: true boxes to compare with, {"cat.jpg": {"cat": [x0, y0, x1, y1]}}, or a JSON file of them.
        top_channels: number of channels to report, those that contribute most to the target.
        provider, limit, every, workers, store, input, explain_input, preprocess, progress: as for `analyzer.compare`.
        options: of the method, of the preprocessing and of the session, as for `analyzer.explain`.

    Returns:
        Localization: `.results`, `.summary`, `.overlay()`, `.save()`.

    Raises:
        InputError: no pictures. NotFoundError: no such method, layer or label.
    """
    if not threshold >= 0:
        raise InputError(f"threshold must be a number of at least 0, not {threshold}")
    pictures = listed(pictures)
    samples = samples_of(pictures, limit, _known(boxes))
    taken = METHODS[method].options if method in METHODS else ()
    if len(samples) > 1:
        options.setdefault("threads", 1)
    more = {"labels": labels, "input": input, "explain_input": explain_input}
    explainer, card = for_pictures(model, provider, Asked.of(options, preprocess, tuple(taken), **more))
    method = method or default_method(explainer, output)
    find_method(method, options)
    samples = opened_samples(samples, pictures, card.feeds, every)
    job = Job(method, layer or card.default_layer or "auto", dict(options))
    question = Question((job,), output=output, labels=card.labels, declared=explainer.declared)
    targets = (str(target),) if isinstance(target, str | int) else tuple(map(str, target))
    work = Localizing(explainer, question, card, targets, {}, {}, threshold, several, top_channels)
    done = run(work, samples, store, workers, progress=progress)
    results, summary = done.result
    name = str(explainer.loaded.path or explainer.loaded.name)
    return Localization(name, method, threshold, results, summary, done.failed, samples, work)


def _known(boxes: File | Mapping[str, Mapping[str, Sequence[float]]] | None) -> dict[str, dict[str, list[float]]]:
    if isinstance(boxes, Mapping):
        return {Path(name).name: {k: list(box) for k, box in each.items()} for name, each in boxes.items()}
    return {} if boxes is None else read_labelled_boxes(os.fspath(boxes))
