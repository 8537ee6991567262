"""`Explainer`: a model with a keyword interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analyzer.attribution.compiler import Compiled, compile_question
from analyzer.attribution.lines import Placed
from analyzer.attribution.model import Model
from analyzer.attribution.question import Inputs, Job, Question, Slot
from analyzer.attribution.result import Attribution
from analyzer.attribution.runner import Progress, answer


class Explainer(Model):
    """A model for repeated explanations: normalized once, with sessions cached per question and shape.

    Args:
        model, provider, cache, options (sandbox among them): as for `Model`.
        labels: class names for targets given by label; those that the file carries unless given. A question's own
            labels take precedence.
    """

    def __init__(
        self, model: Any, provider: str = "cpu", labels: Sequence[str] | None = None, cache: Any = None, **options: Any
    ) -> None:
        super().__init__(model, provider, cache, **options)
        self.labels = labels if labels is not None else self.names

    def explain(
        self,
        inputs: Inputs,
        method: str = "grad-cam",
        target: Any = "top1",
        layer: str = "auto",
        output: str | None = None,
        labels: Sequence[str] | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
        explain_input: str | None = None,
        placement: Placed = "effective",
        **options: Any,
    ) -> Attribution:
        """See `analyzer.explain`."""
        jobs = [Job(method, layer, options)]
        return self.explain_all(
            inputs, jobs, target, output, labels, arrays, explain_input=explain_input, placement=placement
        )[0]

    def explain_all(
        self,
        inputs: Inputs,
        jobs: Sequence[Job],
        target: Any = "top1",
        output: str | None = None,
        labels: Sequence[str] | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
        progress: Progress | None = None,
        explain_input: str | None = None,
        placement: Placed = "effective",
    ) -> list[Attribution]:
        """`explain` for several methods or layers, in one run of one session.

        Returns:
            One Attribution per job, in order.

        Raises:
            As `analyzer.explain`.
        """
        names = self.labels if labels is None else labels
        question = Question(
            tuple(jobs),
            target,
            output,
            names,
            arrays or {},
            declared=self.declared,
            explain_input=explain_input,
            placement=placement,
        )
        return answer(self, question, inputs, progress)

    def compile(
        self,
        method: str = "grad-cam",
        layer: str = "auto",
        targets: Sequence[Slot] = (None,),
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        output: str | None = None,
        **options: Any,
    ) -> Compiled:
        """The model with one method appended; see `compiler.compile_question`."""
        question = Question((Job(method, layer, options),), output=output, declared=self.declared)
        return compile_question(self, question, targets, shapes)[0]
