"""The pass that records one side of a comparison, where that side runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.data import Sample
from analyzer.images import Preprocess, decode
from analyzer.passes import Loaded, Pass
from analyzer.validation.compare import EVIDENCE
from analyzer.validation.side import Side


@dataclass
class Recording(Pass[dict[str, str]]):
    """Fills the store of a side; gives {method: why it is not available}. What is in the store is not run again."""

    side: Side
    preprocess: Preprocess
    methods: Sequence[str] = EVIDENCE

    name = "record"
    anchored = True

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**self.side.identity, "preprocess": repr(self.preprocess), "methods": list(self.methods)}

    def load(self, sample: Sample) -> np.ndarray:
        """The input of a picture, (1, …)."""
        return self.preprocess.apply(decode(sample.source))[0]

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
