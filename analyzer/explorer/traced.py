"""What is explained, traced back to a layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analyzer.attribution import Question
from analyzer.attribution.asked import task_for, task_of
from analyzer.attribution.model import Model
from analyzer.attribution.runner import wanted_of
from analyzer.attribution.seeds import arrays_of, seeded
from analyzer.errors import NotFoundError, UnsupportedError
from analyzer.gradient import find_policy, pullback
from analyzer.graph import Builder


def slot_in(model: Model, question: Question, feeds: Mapping[str, np.ndarray]) -> str | int:
    """The target of a question for one picture: a class, or an expression.

    Raises:
        NotFoundError: the target is not in the picture.
    """
    found = wanted_of(model, question, task_for(model, question, feeds), dict(feeds), question.slots(1)[0], 0)
    if not found:
        raise NotFoundError(f"the model finds no {question.target!r} in the picture")
    return found[0].slot


class TargetGradient:
    """∂s/∂A of a target s and a layer A by the rules of a policy, with one session for all classes.

    Raises:
        UnsupportedError: s does not depend on A, or a gradient rule is missing on the way.
    """

    def __init__(
        self,
        model: Model,
        shapes: Mapping[str, tuple[int, ...]],
        question: Question,
        slot: str | int,
        layer: str,
        policy: str,
    ) -> None:
        graph = model.graph(shapes)
        op, self._classes = Builder(graph, "traced"), list[str]()
        batch = shapes[model.image][0]
        expression = slot if isinstance(slot, str) else None
        scores = task_of(model, question, graph)
        target = seeded(op, self._classes, expression, scores, batch=batch, arrays=arrays_of(model, question))
        found = pullback(op, target.seeds, [layer], find_policy(policy))[layer]
        if found is None:
            raise UnsupportedError(f"what is explained does not depend on {layer!r}", "choose another layer")
        self._batch, self._output = batch, graph.add_output(op.cast(found, np.dtype(np.float32))).name
        self._session = model.session(graph, [self._output])

    def run(self, feeds: Mapping[str, np.ndarray], slot: str | int) -> np.ndarray:
        """Shaped as the layer; zeros outside of the picture's row."""
        given = {name: np.full(self._batch, slot, np.int64) for name in self._classes}
        chosen = {name: array for name, array in {**feeds, **given}.items() if name in self._session.inputs}
        return self._session.run(chosen, [self._output])[self._output]
