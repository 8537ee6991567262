"""The pass that sums up channels over pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyzer.attribution import Model
from analyzer.attribution.channel_sums import ChannelReduction, ChannelSums
from analyzer.attribution.features import chosen_tensors
from analyzer.attribution.finite import say_not_finite
from analyzer.attribution.model import sizes_of
from analyzer.errors import InputError
from analyzer.images import Feeding, Preprocess
from analyzer.passes.base import InputPass, Loaded

Sums = dict[str, dict[str, Any]]


class MeasuringChannels(InputPass[Sums]):
    """Statistics of the channels of layers over all pictures, which may differ in size.

    Args:
        layers: tensors, nodes or globs; tensors without channels are left out.

    Raises:
        NotFoundError: no such layer.
    """

    name = "features"
    tolerant = True

    def __init__(self, model: Model, preprocess: Preprocess | Feeding, layers: Sequence[str]) -> None:
        super().__init__(model, preprocess)
        chosen_tensors(model.plain, layers)
        self.layers = list(layers)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**super().identity, "layers": self.layers}

    def step(self, batch: Sequence[Loaded]) -> Sums:
        """
        Raises:
            InputError: the model's values are not finite for the picture.
        """
        ((_, item),) = batch
        feeds = self.model.batch([self.model.feeds(item)])
        shapes = sizes_of(feeds)
        key = ("channels", *self.layers, tuple(sorted(shapes.items())))
        reduction = self.model.kept(key, lambda: ChannelReduction(self.model, self.layers, shapes))
        found = reduction.run(feeds)
        if said := say_not_finite(self.model, feeds, (one.mean for one in found.values()), list(found)):
            raise InputError(said)
        return {name: vars(one) for name, one in found.items()}

    def merge(self, left: Sums, right: Sums) -> Sums:
        return {name: vars(ChannelSums(**one) + ChannelSums(**right[name])) for name, one in left.items()}

    def finish(self, total: Sums | None) -> dict[str, ChannelSums]:
        """{layer: its channels}"""
        return {name: ChannelSums(**one) for name, one in (total or {}).items()}
