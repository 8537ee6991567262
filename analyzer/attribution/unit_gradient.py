"""The gradient of one unit of a layer with respect to the image: what receptive fields are measured by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analyzer.attribution.layers import float_image
from analyzer.attribution.model import Model
from analyzer.attribution.seeds import PREFIX
from analyzer.attribution.units import Units
from analyzer.errors import UnsupportedError
from analyzer.gradient import GRADIENT, pullback
from analyzer.graph import Builder, Graph

FLOAT32, INT64 = np.dtype(np.float32), np.dtype(np.int64)
CHANNELS, POSITION = f"{PREFIX}/channels", f"{PREFIX}/position"


class UnitGradient:
    """A session that pulls one position of a layer back to the image.

    Args:
        graph: a fresh graph of the model, of fixed sizes; it is appended to.
        layer: a tensor with channels over space.
        options: of the session.

    Attributes:
        units: the units of the layer.

    Raises:
        UnsupportedError: the layer has no units, or no gradient with respect to the image.
    """

    def __init__(self, model: Model, graph: Graph, layer: str, **options: Any) -> None:
        op = Builder(graph, PREFIX)
        self.units = units = Units.of(graph, layer)
        image, self._axes = float_image(graph)
        self._shape = units.shape[0], units.channels, 1
        channels = graph.add_input(CHANNELS, FLOAT32, list(self._shape))
        position = graph.add_input(POSITION, INT64, [1])
        here = op.Equal(op.constant(np.arange(units.positions)[None, None]), position)
        seed = op.cast(op.Mul(channels, op.cast(here, FLOAT32)), units.value.dtype)
        pixels = pullback(op, {units.name: units.unflat(op, seed)}, [image.name], GRADIENT, narrow=False)[image.name]
        if pixels is None:
            raise UnsupportedError(f"{graph.name}: {layer!r} does not depend on the image {image.name!r}")
        self._output = graph.add_output(op.cast(pixels, FLOAT32)).name
        self._session = model.session(graph, [self._output], **options)

    def run(self, feeds: Mapping[str, np.ndarray], position: int, channels: np.ndarray) -> np.ndarray:
        """(C, …space) float64: the gradient of Σ channels · A at a position of the first picture."""
        given = np.zeros(self._shape, np.float32)
        given[0, :, 0] = channels
        wanted = {**feeds, CHANNELS: given, POSITION: np.array([position], np.int64)}
        found = self._session.run({n: a for n, a in wanted.items() if n in self._session.inputs})[self._output]
        return _channels_first(found, self._axes).astype(np.float64)


def _channels_first(array: np.ndarray, axes: str) -> np.ndarray:
    """(C, …space) of the first picture."""
    space = [a for a, letter in enumerate(axes) if letter not in "NC"]
    letters = [axes[a] for a in space]
    if len(set(letters)) == len(letters):
        space.sort(key=lambda a: "DHW".find(axes[a]))
    order = [axes.index(letter) for letter in "NC" if letter in axes] + space
    array = np.transpose(array, order)
    array = array[0] if "N" in axes else array
    return array if "C" in axes else array[None]
