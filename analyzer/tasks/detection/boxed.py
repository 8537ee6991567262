"""What finds boxes: the words for a detection, and how two answers are compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from analyzer.errors import NotFoundError
from analyzer.metrics.detections import Detections, Matching, matched, pair_quality
from analyzer.tasks.base import Agreement, Finding, Labels, Prediction

ALIKE = 0.5  # IoU from which two boxes of a class are the same detection
AGREEING = 0.75  # mean quality of detections from which two answers agree
_WORD = re.compile(r"(detection|instance):(\d+)(?:\.(\w+))?")


@dataclass(frozen=True)
class Boxed(Finding):
    """A task whose predictions have boxes."""

    @property
    def words(self) -> tuple[str, ...]:
        return ("detection:N", "all")

    def resolve(self, word: str, output: Any, labels: Labels = None) -> list[Prediction] | None:
        match = _WORD.fullmatch(word)
        if match is None:
            return super().resolve(word, output, labels)
        found, number = self.predictions(output, labels), int(match[2])
        if number >= len(found):
            raise NotFoundError(
                f"there is no {word.partition('.')[0]}: the model detects {len(found)}", "they are counted from 0"
            )
        return [self.side(found[number], match[3])] if match[3] else [found[number]]

    def side(self, found: Prediction, side: str) -> Prediction:
        """The place of one side of a detection's box.

        Raises:
            InputError: there is no such side, or it cannot be explained.
        """
        raise NotImplementedError

    def numbered(self, number: int, labels: Labels) -> int:
        """`index` of the predictions of a class that has this number among the labels."""
        return number

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
