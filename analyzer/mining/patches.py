"""The patches of the strongest activations, and what the unit responds to in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analyzer.analysis import ReceptiveField, receptive_field
from analyzer.attribution import Explainer
from analyzer.attribution.features import chosen_tensors
from analyzer.attribution.layers import float_image
from analyzer.attribution.projection import Projector
from analyzer.attribution.units import Units, Window, clipped, rgb
from analyzer.gradient import find_policy
from analyzer.gradient.reverse import missing_rules, route
from analyzer.images import Feeding, Preprocess, signed_view
from analyzer.images.mosaic import BEYOND, GREY, Block, mosaic, patch
from analyzer.mining.miner import MiningResult

TOGETHER = 4  # units that are projected by one run


@dataclass
class Patch:
    """One of the k strongest activations of a channel.

    Attributes:
        picture: index of the picture. place: (y, x) in the layer. value: the activation.
        window: (start, stop) of rows and columns of the network's input that the unit sees, inside the image.
        pixels: (h, w, 3) uint8 RGB, the window as the network sees it, on a canvas of the same size for all patches of
            the layer; pale grey outside the picture.
        projection: the same for the unit's projection, mid-grey where it is zero; None if not requested.
    """

    picture: int
    place: tuple[int, ...]
    value: float
    window: Window
    pixels: np.ndarray
    projection: np.ndarray | None = None


@dataclass
class LayerPatches:
    """{channel: its patches, strongest first} of one layer."""

    layer: str
    policy: str | None
    channels: dict[int, list[Patch]] = field(default_factory=dict)

    def figure(self, remarks: Mapping[int, str] | None = None) -> np.ndarray:
        """Zeiler & Fergus 2014, figure 2: per channel the projections beside the patches they are from."""
        blocks = []
        for channel, patches in self.channels.items():
            groups = [[p.projection for p in patches if p.projection is not None], [p.pixels for p in patches]]
            blocks.append(Block(f"channel {channel}", [g for g in groups if g], (remarks or {}).get(channel, "")))
        kind = f"{self.policy} projections and patches" if self.policy else "patches"
        return mosaic(blocks, f"{self.layer} — {kind} of the strongest activations")


def collect_patches(
    explainer: Explainer,
    result: MiningResult,
    preprocess: Preprocess | Feeding,
    channels: Mapping[str, Sequence[int]],
    policy: str | None = "deconvnet",
) -> list[LayerPatches]:
    """The patches of chosen channels, each picture decoded once.

    Args:
        channels: {layer: channels}.
        policy: "deconvnet", "guided" or "gradient" for the projections; None for none.

    Raises:
        UnsupportedError: a gradient rule is missing between the image and a layer.
    """
    return [_Collector(explainer, result, preprocess, layer, policy).run(chosen) for layer, chosen in channels.items()]


class _Collector:
    def __init__(
        self,
        explainer: Explainer,
        result: MiningResult,
        preprocess: Preprocess | Feeding,
        layer: str,
        policy: str | None,
    ) -> None:
        self.explainer, self.feeding = explainer, Feeding.of(preprocess, explainer.image)
        self.result, self.preprocess, self.layer, self.policy = result, self.feeding.preprocess, layer, policy
        self.image = explainer.image
        self.batch = explainer.fixed_batch or TOGETHER
        assert self.preprocess.size is not None
        self.size = self.preprocess.size
        shapes = self.feeding.shapes(self.batch, explainer)
        graph = explainer.graph(shapes)
        self.units = Units.of(graph, layer, explainer.declared, explainer.labels)
        fields = receptive_field(graph)
        self.fields: Mapping[str, ReceptiveField] = fields
        self.projector = Projector(explainer, shapes, layer, policy) if policy else None
        self._last: tuple[int, Any] = (-1, None)

    def run(self, channels: Sequence[int]) -> LayerPatches:
        ranking = self.result.rankings[self.layer]
        wanted: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for channel in channels:
            for rank in range(ranking.values.shape[1]):
                if ranking.images[channel, rank] >= 0:
                    wanted[int(ranking.images[channel, rank])].append((channel, rank))
        canvas = self._canvas(channels)
        found: dict[tuple[int, int], Patch] = {}
        for part in _parts([(p, *unit) for p in sorted(wanted) for unit in wanted[p]], self.batch):
            tensors = [self._tensor(picture) for picture, _, _ in part]
            projections = self._project(tensors, part)
            for tensor, (_, channel, rank), projection in zip(tensors, part, projections, strict=True):
                seen = self.preprocess.undo(tensor[self.feeding.main.slot.name][0])
                found[channel, rank] = self._patch(channel, rank, seen, projection, canvas)
        patches = LayerPatches(self.layer, self.policy)
        for channel in channels:
            ranks = range(ranking.values.shape[1])
            patches.channels[channel] = [found[channel, r] for r in ranks if (channel, r) in found]
        patches.channels = {c: p for c, p in patches.channels.items() if p}
        return patches

    def _window(self, channel: int, rank: int) -> Window:
        place = int(self.result.rankings[self.layer].places[channel, rank])
        return self.units.window(self.fields, channel, place, self.size)

    def _canvas(self, channels: Sequence[int]) -> tuple[int, int]:
        """The size all patches of the layer share: that of the receptive field, at most the image's."""
        ranking = self.result.rankings[self.layer]
        high = wide = 1
        for channel in channels:
            for rank in np.flatnonzero(ranking.images[channel] >= 0):
                (y0, y1), (x0, x1) = self._window(channel, int(rank))
                high, wide = max(high, min(y1 - y0, self.size[0])), max(wide, min(x1 - x0, self.size[1]))
        return high, wide

    def _tensor(self, picture: int) -> dict[str, np.ndarray]:
        """The inputs of a picture; the last one is kept."""
        if self._last[0] != picture:
            self._last = picture, self.feeding.feed(self.result.samples[picture].source).feeds
        return self._last[1]

    def _project(self, tensors: Sequence[dict[str, np.ndarray]], part: Sequence[tuple[int, int, int]]) -> list[Any]:
        """(h, w, C) per unit, None without a policy."""
        if self.projector is None:
            return [None] * len(part)
        ranking = self.result.rankings[self.layer]
        missing = self.batch - len(part)
        units = [*part, *[part[-1]] * missing]
        projection = self.projector.run(
            self.explainer.batch(tensors, self.batch),
            [c for _, c, _ in units],
            [int(ranking.places[c, r]) for _, c, r in units],
        )
        return list(rgb(projection.pixels, projection.axes, self.preprocess.channels)[: len(part)])

    def _patch(self, channel: int, rank: int, seen: np.ndarray, projection: Any, canvas: tuple[int, int]) -> Patch:
        ranking = self.result.rankings[self.layer]
        window = self._window(channel, rank)
        inside = clipped(window, self.size)
        drawn = None
        if projection is not None:
            (y0, y1), (x0, x1) = inside
            part = signed_view(projection[y0:y1, x0:x1], "normalised")
            moved = tuple((a - i[0], b - i[0]) for (a, b), i in zip(window, inside, strict=True))
            drawn = patch(part, moved, canvas, GREY)
        return Patch(
            int(ranking.images[channel, rank]),
            self.units.place(int(ranking.places[channel, rank])),
            float(ranking.values[channel, rank]),
            inside,
            patch(seen, window, canvas, BEYOND),
            drawn,
        )


def check_projectable(explainer: Explainer, layers: Sequence[str], policy: str) -> None:
    """Raise UnsupportedError if a gradient rule is missing between the image and a layer, before hours of mining."""
    graph = explainer.plain
    image, _ = float_image(graph)
    rules = find_policy(policy)
    for name in [] if list(layers) == ["auto"] else chosen_tensors(graph, layers):
        missing = route(graph, [name], [image.name], rules).missing
        if missing:
            raise missing_rules(graph, missing, rules)


def _parts(units: list[tuple[int, int, int]], size: int) -> list[list[tuple[int, int, int]]]:
    return [units[start : start + size] for start in range(0, len(units), size)]


def strongest_channels(result: MiningResult, layer: str, count: int) -> list[int]:
    """The `count` live channels whose k-th strongest activation is largest, by number."""
    return sorted(_by_strength(result, layer)[:count])


def distinct_channels(result: MiningResult, layer: str, count: int) -> list[int]:
    """Of the strongest live channels, four times as many as asked for, those that differ most, by number.

    The strongest is first; each further one has the lowest correlation, in magnitude, with the most similar of those
    before. Without three pictures, or in a layer of many channels, they are the strongest.
    """
    considered = _by_strength(result, layer)[: 4 * count]
    alike = np.abs(result.statistics[layer].correlation)
    if not alike.size:
        return sorted(considered[:count])
    chosen, left = considered[:1], considered[1:]
    while left and len(chosen) < count:
        following = min(left, key=lambda channel: float(alike[channel, chosen].max()))
        chosen.append(following)
        left.remove(following)
    return sorted(chosen)


def _by_strength(result: MiningResult, layer: str) -> list[int]:
    """The live channels, by their k-th strongest activation."""
    ranking, statistics = result.rankings[layer], result.statistics[layer]
    filled = np.where(ranking.images >= 0, ranking.values, np.inf)
    weakest = np.where(ranking.images[:, 0] >= 0, filled.min(axis=1), -np.inf)
    order = np.argsort(np.where(statistics.dead, -np.inf, weakest), kind="stable")[::-1]
    return [int(c) for c in order if not statistics.dead[c]]
