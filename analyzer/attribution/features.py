"""Feature maps: the activations of chosen tensors, and statistics of their channels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.analysis.layouts import Layout, layouts
from analyzer.attribution.layers import channels_first
from analyzer.attribution.model import Model, sizes_of
from analyzer.errors import InputError
from analyzer.graph import Graph
from analyzer.graph.query import find_tensors
from analyzer.images import channel_grid, encode, showing, write_npz


class FeatureMaps(dict[str, np.ndarray]):
    """{tensor name: array} in the order of the graph. In a notebook it shows its channels.

    Attributes:
        layouts: {tensor name: what its axes mean}, where that is known.
    """

    def __init__(self, maps: Mapping[str, np.ndarray], layouts: Mapping[str, Layout]) -> None:
        super().__init__(maps)
        self.layouts = layouts

    def figure(self, name: str | None = None, image: int = 0, **drawing: Any) -> np.ndarray:
        """The channels of a feature map, the first unless it is named: (H, W, 3) uint8 RGB.

        Args:
            drawing: of `images.channel_grid`: max_channels, per_channel, colormap.

        Raises:
            InputError: it is no feature map of two axes.
        """
        name = self._first if name is None else name
        if name not in self.drawable:
            known = ", ".join(self.drawable) or "none"
            raise InputError(f"{name or 'there'} is no feature map of two axes", f"those that can be drawn: {known}")
        return channel_grid(self.planes(name, image), **{"title": name} | drawing)

    def planes(self, name: str, image: int = 0) -> np.ndarray:
        """(channels, h, w) float32 of a feature map of two axes, whatever its layout."""
        return np.asarray(channels_first(self[name], self.layouts[name])[image], np.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all arrays as .npz, each under its name."""
        write_npz(path, self)

    @property
    def drawable(self) -> list[str]:
        """Names of the feature maps of two axes."""
        known = ((name, self.layouts.get(name)) for name in self)
        return [name for name, layout in known if layout is not None and layout.is_map and len(layout.grid) == 2]

    @property
    def _first(self) -> str | None:
        return next(iter(self.drawable), None)

    def __repr__(self) -> str:
        """«FeatureMaps(r1: 1×16×24×24, logits: 1×10)»"""
        return f"FeatureMaps({', '.join(f'{name}: {_sizes(array)}' for name, array in self.items())})"

    def _repr_png_(self) -> bytes | None:
        return encode(self.figure()) if self._first else None

    def _repr_html_(self) -> str:
        rows = [(name, _sizes(array), f"{array.min():.4g} … {array.max():.4g}") for name, array in self.items()]
        return showing.page(
            f"{len(self)} tensors", self.figure() if self._first else None, rows, ("tensor", "shape", "range")
        )


def _sizes(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape)) or "scalar"


def features(
    model: Any,
    inputs: np.ndarray | Mapping[str, np.ndarray],
    layers: str | Iterable[str],
    provider: str = "cpu",
    **session_options: Any,
) -> FeatureMaps:
    """The activations of `layers` for a batch.

    Args:
        model: path, bytes, ModelProto or `Model`.
        inputs: the preprocessed array, or {input: array}.
        layers: tensor names, node names or globs of the file.

    Returns:
        {tensor name: array} in the order of the graph.

    Raises:
        NotFoundError: no such tensor; the hint suggests similar names.
    """
    loaded = model if isinstance(model, Model) else Model(model, provider, **session_options)
    feeds = loaded.feeds(inputs)
    wanted = (layers,) if isinstance(layers, str) else tuple(layers)

    def made() -> Taps:
        graph = loaded.graph_of(feeds)
        return Taps(loaded, graph, chosen_tensors(graph, wanted))

    taps = loaded.kept(("features", wanted, tuple(sorted(sizes_of(feeds).items()))), made)
    return FeatureMaps(taps.run(feeds), taps.layouts)


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
