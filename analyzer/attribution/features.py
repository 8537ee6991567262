"""Feature maps: the activations of chosen tensors, and statistics of their channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.analysis.layouts import Layout, layouts
from analyzer.attribution.layers import channels_first
from analyzer.attribution.model import Model
from analyzer.graph import Graph
from analyzer.graph.query import find_tensors


def features(
    model: Any,
    inputs: np.ndarray | Mapping[str, np.ndarray],
    layers: str | Iterable[str],
    provider: str = "cpu",
    **session_options: Any,
) -> dict[str, np.ndarray]:
    """The activations of `layers` for a batch.

    Args:
        model: path, bytes or ModelProto.
        inputs: the preprocessed array, or {input: array}.
        layers: tensor names, node names or globs of the file.

    Returns:
        {tensor name: array} in the order of the graph.

    Raises:
        NotFoundError: no such tensor; the hint suggests similar names.
    """
    loaded = Model(model, provider, **session_options)
    feeds = loaded.feeds(inputs)
    graph = loaded.graph_of(feeds)
    return Taps(loaded, graph, chosen_tensors(graph, [layers] if isinstance(layers, str) else layers)).run(feeds)


def chosen_tensors(graph: Graph, layers: Iterable[str]) -> list[str]:
    """Names of the tensors that names and globs choose, each once, in the order of the graph."""
    wanted = {v.name for layer in layers for v in find_tensors(graph, layer)}
    order = [v.name for v in graph.inputs] + [o.name for n in graph.forward_nodes() for o in n.outputs]
    return [n for n in order if n in wanted] + [n for n in wanted if n not in set(order)]


class Taps:
    """A session whose outputs are the chosen tensors instead of the model's outputs."""

    def __init__(self, model: Model, graph: Graph, names: Sequence[str]) -> None:
        self.outputs = graph.outputs_for(names)
        self.layouts: dict[str, Layout] = {n: f for n, f in layouts(graph).items() if n in self.outputs}
        self.session = model.session(graph, list(self.outputs.values()))

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{tensor name: array}"""
        found = self.session.run(feeds)
        return {name: found[output] for name, output in self.outputs.items()}


@dataclass(frozen=True)
class ChannelStatistics:
    """Per channel over its finite values: arrays of length K, NaN where there are none."""

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    active: np.ndarray

    @property
    def dead(self) -> np.ndarray:
        """Channels with the same value everywhere."""
        return self.low == self.high


def channel_statistics(array: np.ndarray, layout: Layout) -> ChannelStatistics:
    """Minimum, maximum, mean, and share of positive values of each channel."""
    flat = channels_first(array, layout).astype(np.float64)
    flat = np.moveaxis(flat, 1, 0).reshape(flat.shape[1], -1)
    known = np.isfinite(flat)
    if known.all():
        return ChannelStatistics(flat.min(1), flat.max(1), flat.mean(1), (flat > 0).mean(1))
    count, held = known.sum(1), np.where(known, flat, 0)
    bounds = flat.min(1, initial=np.inf, where=known), flat.max(1, initial=-np.inf, where=known)
    means = (sums / np.maximum(count, 1) for sums in (held.sum(1), (held > 0).sum(1)))
    return ChannelStatistics(*(np.where(count > 0, each, np.nan) for each in (*bounds, *means)))
