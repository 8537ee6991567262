"""Evidence by perturbation: the same masks on both sides of a comparison, whatever runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.attribution.black_box import BlackBox, Said, default_method, is_perturbing, look
from analyzer.errors import UnsupportedError
from analyzer.graph.query import image_input, image_layout
from analyzer.store import packed, unpacked
from analyzer.tasks import Task
from analyzer.tasks.base import TOP1
from analyzer.validation.runner_side import RunnerSide
from analyzer.validation.side import Evidence, Inputs, Side

MASKS = 200  # of one picture; both sides have the same, so that their noise is common


@dataclass(frozen=True)
class Whole:
    """What the reference says of a whole picture, which is what both sides are asked to explain.

    Attributes:
        task: how it is read.
        said: {output that the task reads: what it holds}.
        target: the class with the highest score.
    """

    task: Task
    said: Mapping[str, np.ndarray]
    target: int

    @property
    def slot(self) -> int:
        """The class that is explained, or the candidate of a detector.

        Raises:
            UnsupportedError: the reference finds nothing.
        """
        if not self.task.per_picture:
            return self.target
        found = self.task.chosen(TOP1, self.task.answer(self.said))
        if not found:
            raise UnsupportedError(f"the reference finds nothing in the picture: {self.task.nothing}")
        return found[0].slot if isinstance(found[0].slot, int) else 0


@dataclass(frozen=True)
class _Answers:
    """A side, for pictures that stand in for the one of `given`; its outputs under the names of the task."""

    side: Side
    given: Inputs
    names: Mapping[str, str]

    @property
    def most(self) -> int:
        return self.side.most

    def said(self, pictures: np.ndarray) -> list[Said]:
        rows = self.side.said(pictures, self.given)
        return [{ours: row[theirs] for ours, theirs in self.names.items()} for row in rows]


def seen(
    side: Side, given: Inputs, gray: Inputs | None, method: str, whole: Whole, names: Mapping[str, str] | None = None
) -> Evidence:
    """A side's map of one picture.

    Args:
        gray: its inputs for a mid-gray picture; zeros if None.
        names: {output that the task reads: the side's}; its own if None.

    Raises:
        UnsupportedError: the method does not fit the task, or nothing is found.
    """
    picture = _explained(side, given)
    plain = np.zeros_like(picture) if gray is None else _explained(side, gray)
    slot, known = whole.slot, names or {name: name for name in whole.task.reading}
    options = {"masks": MASKS} if method != "occlusion" else {}
    box = BlackBox(
        _Answers(side, given, known),
        whole.task,
        side.scores.stripped,
        picture[0],
        plain[0],
        image_layout(side.graph, image_input(side.graph))[1:],
        whole.task.answer(whole.said),
        slot,
    )

    def looked() -> dict[str, np.ndarray]:
        found = look(box, method, options)
        about = {"heatmap": found.heat, "extent": np.array([found.low, found.high])}
        return about | {"diagnosis": packed(found.diagnosis)}

    said = {str(place): whole.said[name] for place, name in enumerate(whole.task.reading)}
    found = side.kept(looked, "seen", method, options, slot, said, given, plain)
    low, high = found["extent"].tolist()
    return Evidence(found["heatmap"], low, high, unpacked(found["diagnosis"]), "half-pixel")


def methods_for(sides: Sequence[Side], asked: Sequence[str]) -> tuple[str, ...]:
    """The methods asked for, else those that both sides can be asked by; () for those of two files.

    Raises:
        UnsupportedError: a method that a runner cannot be asked by.
    """
    runners = [side for side in sides if isinstance(side, RunnerSide)]
    if not runners:
        return tuple(asked)
    for method in asked:
        if not is_perturbing(method):
            raise UnsupportedError(
                f"{method} looks inside the model, which {runners[0].name} does not show",
                "use --method rise, d-rise or occlusion",
            )
    return tuple(asked) or (default_method(sides[0].task),)


def meet(reference: Side, candidate: Side) -> None:
    """A runner takes over what its outputs mean from the side that is a file, if there is one."""
    for side, other in ((candidate, reference), (reference, candidate)):
        if isinstance(side, RunnerSide) and not isinstance(other, RunnerSide):
            side.read_as(other)


def _explained(side: Side, given: Inputs) -> np.ndarray:
    """The input that is explained."""
    return given[side.input] if isinstance(given, Mapping) else given
