"""Feature maps: the activations of chosen tensors, and what their channels do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.attribution.engine import Explainer
from analyzer.graph import Graph
from analyzer.graph.query import Layout, find_tensors, layouts
from analyzer.runtime import Session


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
        NotFoundError: there is no such tensor; near misses are suggested.
    """
    explainer = Explainer(model, provider, **session_options)
    feeds = explainer._feeds(inputs)
    graph = explainer.graph({n: tuple(a.shape) for n, a in feeds.items()})
    names = chosen_tensors(graph, [layers] if isinstance(layers, str) else layers)
    return Taps(graph, names, provider, **session_options).run(feeds)


def chosen_tensors(graph: Graph, layers: Iterable[str]) -> list[str]:
    """Names of the tensors that names and globs choose, each once, in the order of the graph."""
    wanted = {v.name for layer in layers for v in find_tensors(graph, layer)}
    order = [v.name for v in graph.inputs] + [o.name for n in graph.forward_nodes() for o in n.outputs]
    return [n for n in order if n in wanted] + [n for n in wanted if n not in set(order)]


class Taps:
    """A session that gives chosen intermediate tensors; the model's own outputs are left out unless chosen."""

    def __init__(self, graph: Graph, names: Sequence[str], provider: str = "cpu", **options: Any) -> None:
        existing = {v.name for v in graph.outputs}
        self.outputs = {name: name if name in existing else graph.add_output(graph[name]).name for name in names}
        self.layouts: dict[str, Layout] = {n: f for n, f in layouts(graph).items() if n in self.outputs}
        self.session = Session(graph, provider, outputs=list(self.outputs.values()), **options)

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
        """Channels with one value everywhere."""
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


def channels_first(array: np.ndarray, layout: Layout) -> np.ndarray:
    """(N, K, …space); tokens become their grid, without those before and after."""
    order = [layout.axes.index("N")] if "N" in layout.axes else []
    array = np.transpose(array, [*order, layout.channel, *layout.spatial])
    if not order:
        array = array[None]
    if "L" in layout.axes:
        array = array[:, :, layout.tokens].reshape(*array.shape[:2], *layout.grid)
    return array


def iterate(
    explainer: Explainer, layers: Sequence[str], arrays: Iterable[np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """`features` for a stream of batches: one session, one batch in memory at a time."""
    taps: Taps | None = None
    shape: tuple[int, ...] | None = None
    for array in arrays:
        feeds = explainer._feeds(array)
        if taps is None or array.shape != shape:
            graph = explainer.graph({n: tuple(a.shape) for n, a in feeds.items()})
            taps = Taps(graph, chosen_tensors(graph, layers), explainer.provider, **explainer.session_options)
            shape = array.shape
        yield taps.run(feeds)
