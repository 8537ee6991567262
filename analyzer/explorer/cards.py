"""What a unit responds to: its strongest patches over the pictures, their projections, and its synthesized optimum."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution.dream import Dreamer
from analyzer.attribution.parametrizations import DreamOptions
from analyzer.attribution.units import WHOLE
from analyzer.data import Sample
from analyzer.errors import AnalyzerError, InputError, UnsupportedError
from analyzer.explorer.bench import Bench
from analyzer.explorer.jobs import Job, Jobs, Progress
from analyzer.explorer.layers import Layer
from analyzer.mining import MiningResult, mine
from analyzer.mining.patches import Patch, collect_patches
from analyzer.mining.ranking import Ranking
from analyzer.store import Cache, key_of

BEST = 9  # patches of a unit
SIDE = 96  # pixels of a patch's longer side
OPTIMUM = DreamOptions(steps=96)


class Cards:
    """The unit cards of a model.

    Args:
        samples: the pictures over which units are ranked.
        mined: a folder that `mine` wrote; the layers in it are not mined again.
        cache: where optima are kept.
    """

    def __init__(
        self, bench: Bench, samples: Sequence[Sample], mined: str | None = None, cache: Cache | None = None
    ) -> None:
        self.bench, self.samples, self.cache = bench, list(samples), cache
        self.known = {} if mined is None else read_mined(Path(mined), self.samples)
        self.jobs = Jobs()
        self._lock = threading.Lock()
        self._patches: dict[tuple[str, int], list[Patch]] = {}

    # ---- Patches ----

    def rank(self, layers: Sequence[Layer]) -> None:
        """Rank the units of several layers in one pass over the pictures, before anything is asked for."""
        names = [layer.name for layer in layers if layer.name not in self.known and not layer.heads]
        if names:
            bench = self.bench
            found = mine(bench.explainer, self.samples, names, bench.card.feeds, BEST, workers=1)
            self.known |= found.rankings

    def collect(self, layer: Layer, channels: Sequence[int]) -> None:
        """Cut out the patches of several channels, each picture decoded once; waits for `ranking`."""
        ranking = self.ranking(layer)
        ranking.finished.wait()
        if ranking.state == "done":
            with self._lock:
                self._collect(layer, channels)

    def ranking(self, layer: Layer) -> Job:
        """The strongest activations of every channel of a layer, worked out in the background."""
        return self.jobs.get(("mine", layer.name), lambda note: self._mined(layer, note))

    def _mined(self, layer: Layer, note: Progress) -> MiningResult:
        if layer.heads:
            raise UnsupportedError("heads have no patches", "choose a layer of tokens")
        if layer.name in self.known:
            return MiningResult(self.samples, {layer.name: self.known[layer.name]}, {}, {})
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            note(done, len(self.samples))

        note(0, len(self.samples))
        bench = self.bench
        return mine(bench.explainer, self.samples, [layer.name], bench.card.feeds, BEST, workers=1, progress=count)

    def patches(self, layer: Layer, channel: int) -> list[Patch]:
        """The strongest patches of a channel, once `ranking` is done."""
        with self._lock:
            if (layer.name, channel) not in self._patches:
                if len(self._patches) > 256:
                    self._patches.clear()
                self._collect(layer, [channel])
            return self._patches[layer.name, channel]

    def _collect(self, layer: Layer, channels: Sequence[int]) -> None:
        found: MiningResult = self.ranking(layer).result
        explainer, feeds, chosen = self.bench.explainer, self.bench.card.feeds, {layer.name: list(channels)}
        try:
            (one,) = collect_patches(explainer, found, feeds, chosen, "deconvnet")
        except AnalyzerError:  # no gradient on the way: patches alone
            (one,) = collect_patches(explainer, found, feeds, chosen, None)
        self._patches |= {(layer.name, channel): one.channels.get(channel, []) for channel in channels}

    def patterns(self, layer: Layer) -> Job:
        """{channel: its strongest patch, (h, w, 3) uint8 RGB} of all channels, worked out in the background."""
        return self.jobs.get(("patterns", layer.name), lambda note: self._patterns(layer, note))

    def _patterns(self, layer: Layer, note: Progress) -> dict[int, np.ndarray]:
        best = self._mined(layer, note).rankings[layer.name]
        first = Ranking(best.values[:, :1], best.images[:, :1], best.places[:, :1])
        found = MiningResult(self.samples, {layer.name: first}, {}, {})
        chosen = {layer.name: range(layer.channels)}
        (one,) = collect_patches(self.bench.explainer, found, self.bench.card.feeds, chosen, None)
        return {channel: patches[0].pixels for channel, patches in one.channels.items()}

    # ---- Optimum ----

    def optima(self, layer: Layer) -> dict[int, np.ndarray]:
        """Those that are known."""
        jobs = {unit: self.optimum(layer, unit, start=False) for unit in range(layer.channels)}
        return {unit: job.result for unit, job in jobs.items() if job is not None and job.state == "done"}

    def optimum(self, layer: Layer, channel: int, start: bool = True) -> Job | None:
        """The picture that maximizes a channel, (H, W, 3) uint8 RGB, worked out in the background and kept on disk.

        Args:
            start: otherwise None unless it is known or under way.
        """
        key = "dream", layer.name, channel
        if not start and not self.jobs.has(key) and self._dreamt(layer, channel) is None:
            return None
        return self.jobs.get(key, lambda note: self._dreamed(layer, channel, note))

    def _key(self, layer: Layer, channel: int) -> str:
        card, explainer = self.bench.card, self.bench.explainer
        return key_of("optimum", explainer.loaded.identity, card.feeds.identity, layer.name, channel, asdict(OPTIMUM))

    def _dreamt(self, layer: Layer, channel: int) -> np.ndarray | None:
        known = self.cache.get(self._key(layer, channel)) if self.cache is not None else None
        return None if known is None else known["image"]

    def _dreamed(self, layer: Layer, channel: int, note: Progress) -> np.ndarray:
        card, explainer = self.bench.card, self.bench.explainer
        known = self._dreamt(layer, channel)
        if known is not None:
            return known
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            note(done, OPTIMUM.steps)

        if layer.heads:
            raise UnsupportedError("heads have no optimum", "choose a layer of tokens")
        found = Dreamer(explainer, layer.name, card.preprocess).run(channel, WHOLE, OPTIMUM, step).image
        if self.cache is not None:
            self.cache.put(self._key(layer, channel), {"image": found})
        return found


def read_mined(folder: Path, samples: Sequence[Sample]) -> dict[str, Ranking]:
    """{layer: its ranking} of what `mine` wrote into a folder, over those of its pictures that are among the samples.

    Raises:
        InputError: there is nothing, or not what `mine` writes.
    """
    numbers = {sample.id: number for number, sample in enumerate(samples)}
    numbers |= {Path(sample.id).name: number for number, sample in enumerate(samples)}
    try:
        given = json.loads((folder / "top.json").read_text(encoding="utf-8"))
        found = {}
        for one in given["layers"]:
            ranking = Ranking.empty(len(one["channels"]), BEST)
            for channel, row in enumerate(one["channels"]):
                for rank, top in enumerate(_known(row["top"], numbers)[:BEST]):
                    ranking.values[channel, rank], ranking.places[channel, rank], ranking.images[channel, rank] = top
            found[one["layer"]] = ranking
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: not what mine writes: {error}", "run: onnx-analyzer mine MODEL PICTURES -o DIR"
        ) from None
    return found


def _known(rows: Sequence[dict[str, Any]], numbers: dict[str, int]) -> list[tuple[float, int, int]]:
    """(value, place, picture) of the pictures that are known."""
    found = []
    for row in rows:
        picture = numbers.get(row["picture"], numbers.get(Path(row["picture"]).name))
        if picture is not None:
            found.append((row["value"], row["position"], picture))
    return found
