"""Statistics of channels, reduced in the graph and summed up over pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.attribution.features import chosen_tensors
from analyzer.attribution.model import Model
from analyzer.attribution.units import Units
from analyzer.errors import UnsupportedError
from analyzer.graph import Builder

FLOAT32 = np.dtype(np.float32)


@dataclass
class ChannelSums:
    """A layer's channels over pictures and positions.

    Attributes:
        pictures: how many.
        count: values of each channel.
        low, high, mean: (K,) of the values.
        spread: (K,) Σ (value − mean)².
        positive: (K,) how many values are above 0.
    """

    pictures: int
    count: int
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    positive: np.ndarray

    def __add__(self, other: ChannelSums) -> ChannelSums:
        """Of both sets of pictures (Chan, Golub & LeVeque 1979, equation 2.1)."""
        count, shift = self.count + other.count, other.mean - self.mean
        return ChannelSums(
            self.pictures + other.pictures,
            count,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.mean + shift * (other.count / count),
            self.spread + other.spread + shift**2 * (self.count * other.count / count),
            self.positive + other.positive,
        )

    @property
    def std(self) -> np.ndarray:
        """(K,) standard deviation of the values."""
        return np.sqrt(self.spread / self.count)

    @property
    def active(self) -> np.ndarray:
        """(K,) share of the values that are above 0."""
        return self.positive / self.count

    @property
    def dead(self) -> np.ndarray:
        """(K,) whether a channel has the same value everywhere, in all pictures."""
        return self.low == self.high


class ChannelReduction:
    """A session that gives the `ChannelSums` of a picture.

    Args:
        layers: tensors, nodes or globs; tensors without channels are left out.
        shapes: {input: sizes}, the batch included.

    Raises:
        NotFoundError: no such layer. UnsupportedError: none of them has channels.
    """

    def __init__(self, model: Model, layers: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
        graph = model.graph(shapes)
        op = Builder(graph, "channels")
        self.units: dict[str, Units] = {}
        self._outputs: dict[str, list[str]] = {}
        why: UnsupportedError | None = None
        for name in chosen_tensors(graph, layers):
            try:
                units = Units.of(graph, name)
            except UnsupportedError as error:
                why = error
                continue
            flat = op.cast(units.flat(op), FLOAT32)
            mean = op.ReduceMean(flat, [2], keepdims=1)
            off = op.Sub(flat, mean)
            values = (
                op.ReduceMin(flat, [2], keepdims=0),
                op.ReduceMax(flat, [2], keepdims=0),
                op.Squeeze(mean, [2]),
                op.ReduceSum(op.Mul(off, off), [2], keepdims=0),
                op.ReduceSum(op.cast(op.Greater(flat, op.scalar(0, flat)), FLOAT32), [2], keepdims=0),
            )
            self.units[units.name] = units
            self._outputs[units.name] = [graph.add_output(value).name for value in values]
        if why is not None and not self.units:
            raise why
        self.session = model.session(graph, [name for names in self._outputs.values() for name in names])

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, ChannelSums]:
        """{layer: the sums of the first picture of a batch}"""
        found = self.session.run({n: a for n, a in feeds.items() if n in self.session.inputs})
        sums = {}
        for layer, names in self._outputs.items():
            rows = [found[name][0].astype(np.float64) for name in names]
            sums[layer] = ChannelSums(1, max(1, self.units[layer].positions), *rows)
        return sums
