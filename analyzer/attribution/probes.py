"""What layers and outputs say of many altered versions of a picture, by one session."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analyzer.attribution.asked import task_of
from analyzer.attribution.features import chosen_tensors
from analyzer.attribution.finite import find_origins, not_finite
from analyzer.attribution.model import Model
from analyzer.attribution.question import Question
from analyzer.attribution.units import Units
from analyzer.graph import Builder
from analyzer.images import Feeding, Preprocess

BATCH = 8


@dataclass(frozen=True)
class Responses:
    """Of some pictures: {layer: (N, elements)} float32, and (N, classes) probabilities."""

    features: dict[str, np.ndarray]
    probabilities: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """(N,) pictures of which everything is finite."""
        found = [np.isfinite(array).all(axis=1) for array in (*self.features.values(), self.probabilities)]
        return np.logical_and.reduce(found)


class Probe:
    """Runs pictures of the network's own size and gives what chosen layers and the classes say.

    Args:
        layers: tensors, nodes or globs.
        preprocess: of a fixed size; pictures that the network saw (`seen`) are altered and given back to `run`.
        summed: features are the total of every channel, (N, channels).

    Raises:
        NotFoundError: no such layer. UnsupportedError: no output is a score. InputError: no fixed size.
    """

    def __init__(
        self, model: Model, layers: Sequence[str], preprocess: Preprocess | Feeding, summed: bool = False
    ) -> None:
        self.feeding = Feeding.of(preprocess, model.image)
        preprocess = self.feeding.preprocess
        self.preprocess, self.model = preprocess, model
        self._again = preprocess.replace(resize="resize")
        self.batch = model.fixed_batch or BATCH
        self._image = model.image
        graph = model.graph(self.feeding.shapes(self.batch, model))
        names = ["auto"] if list(layers) == ["auto"] else chosen_tensors(graph, layers)
        units = [Units.of(graph, name, model.declared, model.labels) for name in names]
        self.layers = [each.name for each in units]
        self.task = task_of(model, Question(declared=model.declared, labels=model.labels), graph)
        self._read = {name: graph.add_output(graph[name]).name for name in self.task.reading}
        op = Builder(graph, "probe")
        taps = {each.name: op.ReduceSum(each.flat(op), [2], keepdims=0) if summed else each.value for each in units}
        self._taps = {name: graph.add_output(value).name for name, value in taps.items()}
        outputs = [*self._taps.values(), *self._read.values()]
        self._session = model.session(graph, outputs)

    def seen(self, picture: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8: what of the picture the network is shown."""
        return self.preprocess.undo(self.preprocess.apply(picture)[0][0])

    def say(self, picture: np.ndarray) -> str:
        """Why the responses to a picture of the network's size are not finite."""
        return not_finite(find_origins(self.model, self._feeds([picture]), [0], self.layers)[0])

    def _feeds(self, pictures: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        again = replace(self.feeding, main=replace(self.feeding.main, preprocess=self._again))
        return self.model.batch([again.feed(picture).feeds for picture in pictures], self.batch)

    def run(self, pictures: Sequence[np.ndarray]) -> Responses:
        """The responses to pictures of the network's size.

        Raises:
            UnsupportedError: a model without classes.
        """
        parts: list[dict[str, np.ndarray]] = []
        rows: list[np.ndarray] = []
        for count, features, said in self._batches(pictures):
            rows.append(self.task.read(self.task.said(said), self.batch)[:count])
            parts.append(features)
        joined = {name: np.concatenate([part[name] for part in parts]) for name in self.layers}
        return Responses(joined, self.task.probabilities(np.concatenate(rows).astype(np.float64)))

    def each(self, pictures: Iterable[np.ndarray]) -> Iterator[tuple[dict[str, np.ndarray], Any]]:
        """Of every picture {layer: (elements,)}, and the answer as the task reads it; pictures are made as needed."""
        for count, features, said in self._batches(pictures):
            for row in range(count):
                yield {name: array[row] for name, array in features.items()}, self.task.answer(said, row, self.batch)

    def _batches(
        self, pictures: Iterable[np.ndarray]
    ) -> Iterator[tuple[int, dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Batch by batch: its number of pictures, their features, and all outputs that the task reads."""
        left = iter(pictures)
        while chosen := list(itertools.islice(left, self.batch)):
            found = self._session.run(self._feeds(chosen))
            said = {name: known.real(found[self._read[name]]) for name, known in self.task.reading.items()}
            features = {
                name: found[output][: len(chosen)].reshape(len(chosen), -1).astype(np.float32)
                for name, output in self._taps.items()
            }
            yield len(chosen), features, said
