"""The pass that records one side of a comparison, where that side runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyzer.images import Feeding, Preprocess
from analyzer.passes import InputPass, Loaded
from analyzer.validation.compare import EVIDENCE
from analyzer.validation.side import Side


class Recording(InputPass[dict[str, str]]):
    """Fills the store of a side; gives {method: why it is not available}. What is in the store is not run again."""

    name = "record"
    anchored = True

    def __init__(self, side: Side, preprocess: Preprocess | Feeding, methods: Sequence[str] = EVIDENCE) -> None:
        super().__init__(side.explainer, preprocess)
        self.side, self.methods = side, methods

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**super().identity, "methods": list(self.methods)}

    def setup(self, first: Loaded | None) -> None:
        if first is not None:
            self.side.record(first.item, self.methods)

    def step(self, batch: Sequence[Loaded]) -> dict[str, str]:
        ((_, array),) = batch
        return self.side.record(array, self.methods)

    def merge(self, left: dict[str, str], right: dict[str, str]) -> dict[str, str]:
        return left | right

    def finish(self, total: dict[str, str] | None) -> dict[str, str]:
        return total or {}
