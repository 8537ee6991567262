"""Feature vectors and class probabilities of many altered versions of a picture, by one session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyzer.attribution.features import chosen_tensors
from analyzer.attribution.finite import find_origins, not_finite
from analyzer.attribution.model import Model
from analyzer.attribution.units import Units
from analyzer.images import Feeding, Preprocess
from analyzer.tasks import recognise

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

    Raises:
        NotFoundError: no such layer. UnsupportedError: no output is a score. InputError: no fixed size.
    """

    def __init__(self, model: Model, layers: Sequence[str], preprocess: Preprocess | Feeding) -> None:
        self.feeding = Feeding.of(preprocess, model.image)
        preprocess = self.feeding.preprocess
        self.preprocess, self.model = preprocess, model
        self._again = preprocess.replace(resize="resize")
        self.batch = model.fixed_batch or BATCH
        self._image = model.image
        graph = model.graph(self.feeding.shapes(self.batch, model))
        names = ["auto"] if list(layers) == ["auto"] else chosen_tensors(graph, layers)
        self.layers = [Units.of(graph, name, model.declared, model.labels).name for name in names]
        self.task = recognise(graph, None, model.declared, model.labels)
        self._taps = {name: graph.add_output(graph[name]).name for name in self.layers}
        self._read = {name: graph.add_output(graph[name]).name for name in self.task.reading}
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
        """The responses to pictures of the network's size."""
        parts: list[dict[str, np.ndarray]] = []
        rows: list[np.ndarray] = []
        for start in range(0, len(pictures), self.batch):
            chosen = pictures[start : start + self.batch]
            found = self._session.run(self._feeds(chosen))
            said = {name: known.real(found[self._read[name]]) for name, known in self.task.reading.items()}
            rows.append(self.task.read(self.task.said(said), self.batch)[: len(chosen)])
            parts.append({name: found[name][: len(chosen)] for name in self._taps.values()})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        features = {
            name: joined[output].reshape(len(pictures), -1).astype(np.float32) for name, output in self._taps.items()
        }
        scores = np.concatenate(rows).astype(np.float64)
        return Responses(features, scores if self.task.stripped else probabilities(scores))


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Rows as they are where all (that are finite) are distributions; their softmax otherwise."""
    known = scores[np.isfinite(scores).all(axis=1)]
    if (known >= 0).all() and np.allclose(known.sum(axis=1), 1, atol=1e-3):
        return scores
    with np.errstate(invalid="ignore"):  # of a row that is not finite
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
