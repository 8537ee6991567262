"""Feature evolution: the strongest activation of chosen channels over training checkpoints, projected back to pixels.

Zeiler & Fergus 2014 (1311.2901), section 4, figure 4: a sudden jump is where the strongest activation comes from
another picture than before.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from analyzer.attribution import Explainer
from analyzer.data import Sample, find_pictures
from analyzer.errors import InputError
from analyzer.images import Feeding, Preprocess
from analyzer.images.mosaic import BEYOND, Block, framed, strip
from analyzer.mining.miner import mine
from analyzer.mining.patches import Patch, collect_patches, distinct_channels


@dataclass(frozen=True)
class Evolution:
    """Channels of a layer over checkpoints.

    Attributes:
        checkpoints: their names. layer: name of the tensor.
        patches: {channel: its strongest patch per checkpoint}; None if nothing activates it.
        not_finite: {checkpoint: {picture: where NaN or ∞ first appears}}, of skipped pictures.
    """

    checkpoints: tuple[str, ...]
    layer: str
    patches: dict[int, list[Patch | None]]
    not_finite: dict[str, dict[str, str]] = field(default_factory=dict)

    def jumps(self, channel: int) -> list[bool]:
        """Per checkpoint: whether the strongest activation comes from another picture than at the one before."""
        pictures = [None if p is None else p.picture for p in self.patches[channel]]
        return [False, *(a != b for a, b in itertools.pairwise(pictures))]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What the figure shows: {"channel/checkpoint/patch", "channel/checkpoint/projection"}: (h, w, 3) uint8 RGB.

        Checkpoints are counted from 0. Where nothing activates a channel, there is none.
        """
        return {
            f"{channel}/{step}/{name}": tile
            for channel, patches in self.patches.items()
            for step, patch in enumerate(patches)
            if patch is not None
            for name, tile in (("patch", patch.pixels), ("projection", patch.projection))
            if tile is not None
        }

    def figure(self) -> np.ndarray:
        """A row per channel: projections over patches, framed in red where the picture jumps."""
        rows = []
        for channel, patches in self.patches.items():
            groups = []
            for patch, jump in zip(patches, self.jumps(channel), strict=True):
                tiles = [] if patch is None else [p for p in (patch.projection, patch.pixels) if p is not None]
                tiles = tiles or [np.full((16, 16, 3), BEYOND, np.uint8)]
                groups.append([framed(tile) if jump else tile for tile in tiles])
            values = [p.value for p in patches if p is not None]
            remark = f"{values[0]:.3g} to {values[-1]:.3g}" if values else "never active"
            rows.append(Block(f"channel {channel}", groups, remark))
        return strip(rows, self.checkpoints, f"{self.layer} over {len(self.checkpoints)} checkpoints")


def evolution(
    checkpoints: Sequence[str | os.PathLike[str]],
    pictures: Iterable[str | os.PathLike[str]] | Sequence[Sample],
    layer: str,
    preprocess: Preprocess | Feeding,
    channels: Sequence[int] | None = None,
    count: int = 6,
    policy: str | None = "deconvnet",
    provider: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Evolution:
    """The strongest activation of each channel over all pictures, at every checkpoint, and its projection.

    Args:
        checkpoints: files of one network, in the order of training.
        channels: channel indices; None for `count` of the last checkpoint that differ, see `distinct_channels`.
        policy: "deconvnet", "guided" or "gradient"; None for patches only.
        progress: called with the number of pictures, over all checkpoints.

    Raises:
        InputError: fewer than two checkpoints, or channels that not all of them have.
        NotFoundError: a checkpoint has no such layer.
    """
    if len(checkpoints) < 2:
        raise InputError("pass at least two checkpoints")
    samples = find_pictures(pictures)
    chosen, steps, not_finite = list(channels or ()), [], {}
    for path in reversed(checkpoints):
        explainer = Explainer(path, provider)
        result = mine(explainer, samples, [layer], preprocess, 1, progress=progress)
        not_finite[str(path)] = result.not_finite
        name = next(iter(result.rankings))
        chosen = chosen or distinct_channels(result, name, count)
        width = len(result.rankings[name].values)
        if chosen and max(chosen) >= width:
            raise InputError(f"{path}: {name!r} has {width} channels, not {max(chosen) + 1}")
        statistics = result.statistics[name]
        live = [c for c in chosen if not statistics.dead[c]]
        found = collect_patches(explainer, result, preprocess, {name: live}, policy)[0].channels if live else {}
        steps.append({c: p[0] for c, p in found.items()})
    steps.reverse()
    names = tuple(Path(p).stem for p in checkpoints)
    return Evolution(
        names, layer if layer != "auto" else name, {c: [s.get(c) for s in steps] for c in chosen}, not_finite
    )
