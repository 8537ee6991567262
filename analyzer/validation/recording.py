"""The pass that records one side of a comparison, where that side runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyzer.attribution.black_box import is_perturbing
from analyzer.data import Sample
from analyzer.errors import UnsupportedError
from analyzer.images import Feeding, Preprocess
from analyzer.passes import InputPass, Loaded
from analyzer.validation.compare import EVIDENCE
from analyzer.validation.perturbed import Whole, methods_for, seen
from analyzer.validation.side import Inputs, Side


class Recording(InputPass[dict[str, str]]):
    """Fills the store of a side; gives {method: why it is not available}. What is in the store is not run again."""

    name = "record"
    anchored = True

    def __init__(self, side: Side, preprocess: Preprocess | Feeding, methods: Sequence[str] = ()) -> None:
        super().__init__(side.explainer, preprocess)
        self.side, self.methods = side, methods_for([side], methods) or EVIDENCE
        self._inside = [method for method in self.methods if not is_perturbing(method)]

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**super().identity, "methods": list(self.methods)}

    def load(self, sample: Sample) -> Any:
        """What the model is given for a picture and, where a method changes pictures, for a mid-gray one."""
        fed = self.feeding.feed(sample.source)
        perturbed = len(self._inside) < len(self.methods)
        given = fed.feeds if len(fed.feeds) > 1 else fed.main.array  # as a comparison feeds it
        return given, self.feeding.grey(fed) if perturbed else None

    def setup(self, first: Loaded | None) -> None:
        if first is not None:
            self._record(*first.item)

    def step(self, batch: Sequence[Loaded]) -> dict[str, str]:
        ((_, (given, gray)),) = batch
        return self._record(given, gray)

    def _record(self, given: Inputs, gray: Inputs | None) -> dict[str, str]:
        side = self.side
        missing = side.record(given, self._inside)
        for method in [m for m in self.methods if m not in self._inside]:
            outputs = side.all_outputs(given)
            said = {name: outputs[name] for name in side.task.reading}
            try:
                seen(side, given, gray, method, Whole(side.task, said, side.top_of(side.classes(given))))
            except UnsupportedError as error:
                missing[method] = error.message
        return missing

    def merge(self, left: dict[str, str], right: dict[str, str]) -> dict[str, str]:
        return left | right

    def finish(self, total: dict[str, str] | None) -> dict[str, str]:
        return total or {}
