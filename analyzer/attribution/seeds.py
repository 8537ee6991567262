"""Targets of a question, appended to a graph: what flows back from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from analyzer.attribution.model import Model
from analyzer.attribution.question import Question, Slot
from analyzer.graph import Builder, Value
from analyzer.tasks import Task
from analyzer.tasks.base import TOP1, check_class, seed
from analyzer.tasks.targets import Arrays, expression

PREFIX = "xai"


class Seeded(NamedTuple):
    """A target in a graph: {tensor: cotangent} to pull back, the classes chosen, and the tensor that is explained."""

    seeds: dict[str, Value]
    classes: Value
    about: Value


def arrays_of(model: Model, question: Question) -> Arrays:
    """The names that a target of the question may use besides tensors of the file."""
    return {**question.arrays, **{name: model.reading(given) for name, given in question.references.items()}}


def seeded(
    op: Builder,
    target_inputs: list[str],
    slot: Slot,
    scores: Task,
    suffix: str = "",
    batch: Any = None,
    arrays: Arrays | None = None,
    known: bool = False,
) -> Seeded:
    """The target of a slot, appended; `target_inputs` grows by the input that it takes.

    Args:
        known: the class given at run time is never TOP1.
    """
    if isinstance(slot, str):
        score = expression(op, slot, arrays)
        return Seeded({score.name: op.ones_like(score)}, op.constant(np.array([TOP1], np.int64)), score)
    if slot is None:
        classes = op.graph.add_input(f"{PREFIX}/target{suffix}", np.dtype(np.int64), [batch])
        target_inputs.append(classes.name)
    else:
        check_class(scores, slot)
        classes = op.constant(np.array([slot], np.int64))
    tensor, cotangent, resolved = seed(op, scores, classes, known)
    return Seeded({tensor.name: cotangent}, resolved, scores.logits)
