"""What a question is about: the task of the model, and targets that depend on what the model says of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analyzer.attribution.model import Model, sizes_of
from analyzer.attribution.question import Question
from analyzer.attribution.shown import shown_outputs
from analyzer.errors import AnalyzerError, InputError
from analyzer.gradient.reverse import is_float
from analyzer.graph import Builder, Graph
from analyzer.graph.nodes import fixed_sizes
from analyzer.graph.query import fillings
from analyzer.runtime import Session
from analyzer.tasks import Prediction, Task, recognise, task_from
from analyzer.tasks.base import LAYERS, TOP1, Labels, check_class
from analyzer.tasks.detection.view import Run
from analyzer.tasks.recognise import Declared
from analyzer.tasks.targets import is_expression, resolve_class
from analyzer.tasks.text import Text


def task_of(model: Model, question: Question, graph: Graph) -> Task:
    """The task of a question, its tensors in `graph`; where sizes are open, as it is recognised with fixed sizes.

    Raises:
        As `recognise`.
    """
    for sizes in fillings(graph, batch=2):  # any axis may have size 1; an axis of size 2 is the batch
        try:
            filled = model.graph(sizes)
            found = recognise(filled, *_asked(question), run=_on_noise(model, filled))
        except AnalyzerError:
            continue
        if found.output.name in graph.values and found.logits.name in graph.values:
            found = replace(found, output=graph[found.output.name], logits=graph[found.logits.name])
            return _with_blank(model, question, found)
    return _with_blank(model, question, recognise(graph, *_asked(question), run=_on_noise(model, graph)))


def _asked(question: Question) -> tuple[str | None, Declared, Labels]:
    return question.output, question.declared, question.labels


def _on_noise(model: Model, graph: Graph) -> Run:
    """What a model whose sizes are fixed gives for noise, by names of tensors; it runs once for all outputs."""
    inputs = {value.name: fixed_sizes(value.shape or [None]) for value in graph.inputs}

    def noise() -> dict[str, np.ndarray]:
        random, feeds = np.random.default_rng(0), {}
        for value in graph.inputs:
            sizes = inputs[value.name]
            if sizes is None:
                raise InputError(f"the size of input {value.name!r} is open")
            feeds[value.name] = random.uniform(0, 1 if is_float(value) else 255, sizes).astype(value.dtype)
        return feeds

    def every() -> dict[str, np.ndarray]:
        names = list(dict.fromkeys(value.name for value in graph.outputs))
        return dict(zip(names, model.run(graph, noise(), names), strict=True))

    def run(names: Sequence[str]) -> list[np.ndarray]:
        found = model.remembered(("noise", tuple(inputs.items())), every)
        if found.keys() >= set(names):
            return [found[name] for name in names]
        feeds = noise()
        inner = model.graph_of(feeds)
        outputs = inner.outputs_for(names)
        return model.run(inner, feeds, [outputs[name] for name in names])

    return run


def _with_blank(model: Model, question: Question, task: Task) -> Task:
    """A text recogniser's blank, where nothing tells it: the first or the last class, whichever an empty picture has
    at more steps."""
    if not isinstance(task, Text) or task.blank != 0 or question.declared.decode not in (None, "ctc"):
        return task
    last = (task.classes or 1) - 1

    def counted() -> bool:
        for sizes in [*fillings(model.plain, batch=1), {}]:
            try:
                graph = model.graph(sizes)
                fixed = [fixed_sizes(v.shape or [None]) for v in graph.inputs]
                feeds = {v.name: np.zeros(s, v.dtype) for v, s in zip(graph.inputs, fixed, strict=True) if s}
                (said,) = model.run(graph, feeds, [graph.add_output(graph[task.logits.name], "blank").name])
            except AnalyzerError:
                continue
            best = said.argmax(axis=-1)
            return bool((best == last).sum() > (best == 0).sum())
        return False

    return replace(task, blank=last) if model.remembered(("blank", task.logits.name), counted) else task


def task_for(model: Model, question: Question, feeds: Mapping[str, np.ndarray]) -> Task:
    """The same for inputs of these sizes, kept."""
    feeds = filled(model, feeds)
    declared, labels, sizes = question.declared, tuple(question.labels or ()), tuple(sizes_of(feeds).items())
    key = ("task", question.output, *declared.key, labels, sizes)

    def made() -> Task:
        known = model.cache.noted(key) if model.cache else None
        if known is not None:
            return task_from(known)
        task = task_of(model, question, model.graph_of(feeds))
        if labels != (model.names or ()):  # what a file carries may be of the network that it was made of
            task.check_labels(question.labels)
        if model.cache:
            model.cache.note(key, task.as_data())
        return task

    return model.remembered(key, made)


def filled(model: Model, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The inputs of some pictures, repeated to the batch that the file fixes."""
    image = feeds[model.image]
    if not model.fixed_batch or not image.ndim or len(image) == model.fixed_batch:
        return feeds
    return model.rows(feeds, model.batches(len(image))[0])


def slot_of(task: Task, question: Question, target: Any) -> str | int:
    """One target that does not depend on a picture, as what can be compiled.

    Raises:
        InputError: it depends on the picture.
    """
    if is_expression(target):
        return str(target)
    if isinstance(target, str) and target in task.words and target != "all":
        target = "top1" if target == "text" else target
    if task.per_picture and target not in ("top1", "top-1"):
        slot = task.fixed(target, question.labels)
        if slot is None:
            raise InputError(
                f"the detection {target!r} is known only once the model has run on a picture",
                "use top1, the detection with the highest score, or an expression",
            )
        return slot
    index = resolve_class(target, question.labels)
    if index != TOP1 and task.by_class:
        check_class(task, index)
    return task.slot(index, has_reference(question))


def has_reference(question: Question) -> bool:
    """Whether there is something that embeddings can be compared with."""
    return "reference" in question.references or "reference" in question.arrays


def predicted(model: Model, question: Question, feeds: Mapping[str, np.ndarray], word: str | int) -> list[Prediction]:
    """The targets that a word such as `all`, `character:3` or `age:top1` means for one picture, or a class or TOP1 of
    a task that finds things.

    Raises:
        InputError: the task has no such word. NotFoundError: no such output, or no such prediction.
    """
    task, names = task_for(model, question, feeds), [v.name for v in model.plain.outputs]
    output = max((n for n in names if str(word).startswith(f"{n}:")), key=len, default=None)
    if output is not None and isinstance(word, str):
        question, word = replace(question, output=output), word[len(output) + 1 :]
        task = task_for(model, question, feeds)
    whole = filled(model, feeds)
    count = len(whole[model.image]) if whole[model.image].ndim else 1
    said = task.answer(shown_outputs(model, whole, task.reading) | _layers_of(model, task, whole), 0, count)
    if isinstance(word, int):
        return task.chosen(word, said, question.labels)
    found = task.resolve(word, said, question.labels)
    if found is None and output is not None:
        found = [_of_output(task, question, said, word)]
    if found is None:
        known = ", ".join(task.words)
        raise InputError(
            f"target {word!r} is not defined for {task.kind}",
            f"the words for it are {known}" if known else "use an expression, or name another output with --output",
        )
    if output is None:
        return found
    prefix = f"{output}:"
    slots = [p.slot if isinstance(p.slot, str) else task.expression(p.slot) for p in found]
    return [replace(p, target=prefix + p.target, slot=slot) for p, slot in zip(found, slots, strict=True)]


def _layers_of(model: Model, task: Task, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `Task.layers_in` gives for some pictures; {} for a task without."""

    def made() -> Session | None:
        graph = model.graph_of(feeds)
        found = task.layers_in(Builder(graph, "layers"))
        return None if found is None else model.session(graph, [graph.add_output(found, LAYERS).name])

    if len(task.layers) < 2:
        return {}
    session = model.kept(("layers", task.output.name, tuple(sorted(sizes_of(feeds).items()))), made)
    return {} if session is None else session.run(feeds)


def _of_output(task: Task, question: Question, said: np.ndarray, target: str) -> Prediction:
    """A class of another output."""
    index = resolve_class(target or "top1", question.labels)
    slot = task.slot(index, has_reference(question))
    if isinstance(slot, str):
        return Prediction(target, task.title(index, said, question.labels), float("nan"), None, slot)
    scores = task.read(said, 1)
    index = int(task.top1(np.array([index]), scores)[0])
    check_class(task, index)
    return Prediction(target, task.label(index, question.labels), float(scores[0, index]), index, index)
