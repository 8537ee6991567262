"""The pass behind `mine`: activations are reduced in the graph, then ranked and summed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution import Explainer
from analyzer.data import Sample, find_pictures
from analyzer.errors import AnalyzerError, InputError
from analyzer.files import guard, protect
from analyzer.images import Feeding, Preprocess, showing
from analyzer.mining.ranking import Ranking
from analyzer.mining.reduction import Reduction
from analyzer.mining.statistics import PeakStatistics
from analyzer.passes import InputPass, Loaded, Workers, run


@dataclass(repr=False)
class MiningResult:
    """What was found. In a notebook it shows itself as a table.

    Attributes:
        samples: the pictures; `rankings[layer].images` are numbers into it.
        rankings, statistics: per layer.
        failed: {picture: error}, pictures that could not be used.
        resumed: number of pictures that an earlier run had finished.
        not_finite: {picture: where NaN or ∞ first appears}; affected layers skip the picture.
        doubt: a warning about the folder, or "".
    """

    samples: Sequence[Sample]
    rankings: dict[str, Ranking]
    statistics: dict[str, PeakStatistics]
    failed: dict[str, AnalyzerError]
    resumed: int = 0
    not_finite: dict[str, str] = field(default_factory=dict)
    doubt: str = ""

    def __repr__(self) -> str:
        """«MiningResult(2 layers, 96 channels, 500 pictures)»"""
        channels = sum(len(ranking.values) for ranking in self.rankings.values())
        layers, pictures = len(self.rankings), len(self.samples)
        counts = ((layers, "layer"), (channels, "channel"), (pictures, "picture"))
        said = [f"{count} {what}{'s' * (count != 1)}" for count, what in counts]
        return f"MiningResult({', '.join(said)})"

    def summary(self, layer: str) -> dict[str, Any]:
        """A layer in one row."""
        statistics = self.statistics[layer]
        return {
            "layer": layer,
            "channels": len(statistics.mean),
            "dead": int(statistics.dead.sum()),
            "correlated pairs": len(statistics.correlated()),
            "strongest": float(f"{statistics.highest.max():.4g}") if statistics.count else None,
        }

    def _repr_html_(self) -> str:
        rows = [self.summary(layer) for layer in self.rankings]
        return showing.page(repr(self), None, [list(row.values()) for row in rows], list(rows[0]) if rows else ())


@guard()
def mine(
    explainer: Explainer,
    pictures: Iterable[str | os.PathLike[str]] | Sequence[Sample],
    layers: Sequence[str],
    preprocess: Preprocess | Feeding,
    k: int = 9,
    folder: str | os.PathLike[str] | None = None,
    batch: int = 8,
    shard: tuple[int, int] = (1, 1),
    workers: Workers = None,
    progress: Callable[[int], None] | None = None,
) -> MiningResult:
    """The k strongest activations of every channel of `layers` over all pictures, one position per picture.

    Memory does not grow with the number of pictures.

    Args:
        pictures: samples, or files, folders, patterns and lists.
        preprocess: preprocessing, with a fixed size.
        batch: pictures per run; if the model's batch size is fixed, that is used instead.
        folder, shard, workers, progress: see `passes.run`.

    Raises:
        InputError: the folder is in use; no picture; preprocessing without a size.
        NotFoundError, UnsupportedError: a layer does not exist or has no channels.
    """
    samples = find_pictures(pictures)
    protect(*explainer.loaded.files, *(s.source for s in samples if isinstance(s.source, Path)))
    work = Mining(explainer, layers, preprocess, k, batch)
    done = run(work, samples, folder, workers, shard, progress)
    found = done.result or {"layers": {}, "not finite": {}}
    return MiningResult(
        samples,
        {name: Ranking(**one["ranking"]) for name, one in found["layers"].items()},
        {name: PeakStatistics(**one["statistics"]) for name, one in found["layers"].items()},
        done.failed,
        done.resumed,
        {samples[number].id: why for number, why in sorted(found["not finite"].items())},
        done.doubt,
    )


class Mining(InputPass[dict[str, Any]]):
    """Rankings and statistics of layers over pictures."""

    name = "mine"

    def __init__(
        self, explainer: Explainer, layers: Sequence[str], preprocess: Preprocess | Feeding, k: int = 9, batch: int = 8
    ) -> None:
        feeding = Feeding.of(preprocess, explainer.image)
        if feeding.preprocess.size is None:
            raise InputError("mining needs a fixed input size", "fix it, for example with --size 224x224")
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}", "pass 1 or more")
        super().__init__(explainer, feeding)
        self.layers, self.k = list(layers), k
        self.batch = explainer.fixed_batch or batch
        self.reduction = Reduction(explainer, layers, feeding.shapes(self.batch, explainer))

    def setup(self, first: Loaded | None) -> None:
        self.reduction.prepare()

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**super().identity, "layers": self.layers, "k": self.k, "batch": self.batch}

    def step(self, batch: Sequence[Loaded]) -> dict[str, Any]:
        """{"layers": {layer: its ranking and statistics}, "not finite": {number: why}}"""
        feeds = self.model.batch([loaded.item for loaded in batch], self.batch)
        reduced = self.reduction.run(feeds)
        numbers = np.array([loaded.sample.number for loaded in batch], np.int64)
        layers = {}
        for name, peaks in reduced.items():
            ranking, statistics = self._empty(peaks.values.shape[1])
            kept = np.flatnonzero(peaks.finite[: len(batch)])
            finite = peaks.rows(kept)
            ranking.update(finite.values, finite.places, numbers[kept])
            statistics.update(finite.values, finite.means)
            layers[name] = {"ranking": vars(ranking), "statistics": vars(statistics)}
        bad = [row for row in range(len(batch)) if not all(p.finite[row] for p in reduced.values())]
        words = self.reduction.why_not_finite(feeds, bad) if bad else []
        return {"layers": layers, "not finite": {int(numbers[r]): why for r, why in zip(bad, words, strict=True)}}

    def merge(self, left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
        layers = {}
        for name, one in left["layers"].items():
            other = right["layers"][name]
            ranking = Ranking(**one["ranking"]).merge(Ranking(**other["ranking"]))
            statistics = PeakStatistics(**one["statistics"]).merge(PeakStatistics(**other["statistics"]))
            layers[name] = {"ranking": vars(ranking), "statistics": vars(statistics)}
        return {"layers": layers, "not finite": left["not finite"] | right["not finite"]}

    def finish(self, total: dict[str, Any] | None) -> dict[str, Any]:
        if total is not None:
            return total
        layers = {}
        for name, units in self.reduction.units.items():
            ranking, statistics = self._empty(units.channels)
            layers[name] = {"ranking": vars(ranking), "statistics": vars(statistics)}
        return {"layers": layers, "not finite": {}}

    def _empty(self, channels: int) -> tuple[Ranking, PeakStatistics]:
        return Ranking.empty(channels, self.k), PeakStatistics.empty(channels)
