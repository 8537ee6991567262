"""What finds boxes: how two answers are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analyzer.metrics.detections import Detections, Matching, matched, pair_quality
from analyzer.tasks.base import Agreement, Finding

ALIKE = 0.5  # IoU from which two boxes of a class are the same detection
AGREEING = 0.75  # mean quality of detections from which two answers agree


@dataclass(frozen=True)
class Boxed(Finding):
    """A task whose predictions have boxes."""

    def judged(self, output: Any) -> Detections:
        """What is detected in one picture; it may be half as sure as a detection must be."""
        raise NotImplementedError

    def agreement(self, reference: Any, candidate: Any) -> Agreement:
        """The mean quality of the detections of both: IoU · ratio of the scores with the partner on the other side, 0
        without one."""
        a, b, found = self.matching(reference, candidate)
        rows, columns = found.pairs.T
        sides = (a.scores[rows] >= self.threshold).astype(int) + (b.scores[columns] >= self.threshold)
        count = int(sides.sum()) + len(found.missed) + len(found.added)
        quality = float((pair_quality(a, b, found) * sides).sum()) / count if count else 1.0
        return Agreement("detection quality", quality, quality >= AGREEING)

    def matching(self, reference: Any, candidate: Any) -> tuple[Detections, Detections, Matching]:
        """What both detect, and which of it is the same: of a class, with an IoU of at least 0.5, matched greedily, the
        surest first.

        A partner may be half as sure as a detection must be: what lies near the threshold is neither missed nor added.
        """
        a, b, least = self.judged(reference), self.judged(candidate), self.threshold
        found = matched(a, b, ALIKE)
        rows, columns = found.pairs.T
        either = (a.scores[rows] >= least) | (b.scores[columns] >= least)
        missed, added = found.missed[a.scores[found.missed] >= least], found.added[b.scores[found.added] >= least]
        return a, b, Matching(found.pairs[either], found.overlaps[either], missed, added)
