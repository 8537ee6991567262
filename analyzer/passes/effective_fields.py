"""The pass that measures effective receptive fields over pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analyzer.analysis.effective_field import FieldSum, Measure
from analyzer.attribution import Model
from analyzer.attribution.effective_field import POSITIONS, FieldMeter
from analyzer.attribution.field_views import EffectiveFields
from analyzer.attribution.model import sizes_of
from analyzer.errors import InputError
from analyzer.images import Feeding, Preprocess
from analyzer.passes.base import InputPass, Loaded

Sums = dict[str, dict[str, Any]]


class MeasuringFields(InputPass[Sums]):
    """The mean gradient maps of layers.

    Args:
        layers, positions, measure, seed: as for `effective_field`.
        shapes: {input: sizes} of one picture; pictures that give others are an error.
        at: the position (y, x) of the only unit of each layer; drawn if None.

    Attributes:
        progress: called after each layer of each picture, unless None.
    """

    name = "receptive-field"
    tolerant = True

    def __init__(
        self,
        model: Model,
        preprocess: Preprocess | Feeding,
        shapes: Mapping[str, tuple[int, ...]],
        layers: str | Sequence[str] | None = None,
        positions: int = POSITIONS,
        measure: Measure = "squared",
        seed: int = 0,
        at: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(model, preprocess)
        if model.fixed_batch:
            shapes = {n: (model.fixed_batch, *s[1:]) if model.counts_images(n) else s for n, s in shapes.items()}
        self.meter = FieldMeter(model, shapes, layers, positions, measure, at)
        self.seed, self._at = seed, at
        self.progress: Callable[[], object] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        how = [self.meter.positions, self.meter.how, self.seed, self._at, self.meter.shapes]
        return {**super().identity, "layers": self.meter.layers, "field": how}

    def setup(self, first: Loaded | None) -> None:
        self.meter.prepare()

    def step(self, batch: Sequence[Loaded]) -> Sums:
        ((sample, item),) = batch
        feeds = self.model.batch([self.model.feeds(item)])
        if sizes_of(feeds) != self.meter.shapes:
            raise InputError(
                f"{sample.id} gives inputs of other sizes than the first picture, so fields cannot be averaged",
                "fix the input size with --size HEIGHTxWIDTH",
            )
        found: Sums = {}
        for name, total in self.meter.measure(feeds, (self.seed, sample.number)):
            found[name] = vars(total)
            if self.progress:
                self.progress()
        return found

    def merge(self, left: Sums, right: Sums) -> Sums:
        return {name: vars(FieldSum(**one) + FieldSum(**right[name])) for name, one in left.items()}

    def finish(self, total: Sums | None) -> EffectiveFields:
        sums = {name: FieldSum(**one) for name, one in (total or {}).items()}
        return EffectiveFields({name: one.field(name, self.meter.how) for name, one in sums.items()})
