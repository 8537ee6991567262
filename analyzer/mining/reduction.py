"""Max, arg max and mean of every channel, in the graph: feature maps never leave the session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analyzer.attribution import Explainer
from analyzer.attribution.features import chosen_tensors
from analyzer.attribution.finite import find_origins, not_finite
from analyzer.attribution.units import Units
from analyzer.graph import Builder
from analyzer.runtime import Session

FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Peaks:
    """Of one layer for a batch: the highest activation per channel, its first position, and the mean, (B, K) each."""

    values: np.ndarray
    places: np.ndarray
    means: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """(B,) pictures of which everything is finite."""
        return np.asarray((np.isfinite(self.values) & np.isfinite(self.means)).all(axis=1))

    def rows(self, kept: np.ndarray) -> Peaks:
        """Of some of the pictures."""
        return Peaks(self.values[kept], self.places[kept], self.means[kept])


class Reduction:
    """A session that gives the `Peaks` of chosen layers.

    Args:
        layers: tensors, nodes or globs.
        shapes: {input: sizes}, the batch included.

    Raises:
        NotFoundError: no such layer. UnsupportedError: a layer has no channels, or its size is not fixed.
    """

    def __init__(self, explainer: Explainer, layers: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._explainer = explainer
        graph = explainer.graph(shapes)
        op = Builder(graph, "mining")
        names = ["auto"] if list(layers) == ["auto"] else chosen_tensors(graph, layers)
        chosen = [Units.of(graph, name, explainer.declared, explainer.labels) for name in names]
        self.units = {units.name: units for units in chosen}
        self._outputs = {}
        for units in chosen:
            flat = units.flat(op)
            values = (
                op.cast(op.ReduceMax(flat, [2], keepdims=0), FLOAT32),
                op.ArgMax(flat, axis=2, keepdims=0),
                op.cast(op.ReduceMean(flat, [2], keepdims=0), FLOAT32),
            )
            self._outputs[units.name] = [graph.add_output(v).name for v in values]
        self._graph = graph

    @cached_property
    def _session(self) -> Session:
        return self._explainer.session(self._graph, [name for names in self._outputs.values() for name in names])

    def prepare(self) -> None:
        """Makes the session now, not at the first run."""
        _ = self._session

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Peaks]:
        """{layer: Peaks}"""
        found = self._session.run({n: a for n, a in feeds.items() if n in self._session.inputs})
        return {layer: Peaks(*(found[n] for n in names)) for layer, names in self._outputs.items()}

    def why_not_finite(self, feeds: Mapping[str, np.ndarray], rows: Sequence[int]) -> list[str]:
        """A sentence for each of some of the pictures."""
        origins = find_origins(self._explainer, feeds, rows, list(self.units))
        return [not_finite(origins[row]) for row in rows]
