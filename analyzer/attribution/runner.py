"""Answers a question about pictures: compiles it, runs it, and reads off the attributions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from analyzer.analysis.scores import Quantisation
from analyzer.attribution.asked import has_reference, predicted, task_for
from analyzer.attribution.compiler import Compiled, ready
from analyzer.attribution.diagnosis import Explained, diagnose_map, diagnose_not_finite, diagnose_runs
from analyzer.attribution.evaluator import Evaluator
from analyzer.attribution.finite import find_origins
from analyzer.attribution.lines import Centers, Located
from analyzer.attribution.methods import find_method
from analyzer.attribution.model import Model, sizes_of
from analyzer.attribution.postprocess import heatmaps
from analyzer.attribution.question import Inputs, Job, Question
from analyzer.attribution.result import Attribution, joined
from analyzer.attribution.shown import doubt_of, shown_outputs, tie_of, tied_classes
from analyzer.graph.query import image_input
from analyzer.tasks import Task
from analyzer.tasks.base import TOP1, check_class
from analyzer.tasks.targets import is_word, tensors_named

Feeds: TypeAlias = dict[str, np.ndarray]
Progress: TypeAlias = Callable[[str, int, int], None]  # (method, images done, images in all)
T = TypeVar("T")
Stages: TypeAlias = Generator[None, None, T]  # work that pauses before and after it runs the model


def answer(model: Model, question: Question, inputs: Inputs, progress: Progress | None = None) -> list[Attribution]:
    """An Attribution for each job of the question, in their order.

    Methods of one run share it; those of many runs come after, each by itself.

    Args:
        progress: called while a method of many runs is at work.

    Raises:
        As `analyzer.explain`.
    """
    (found,) = in_step([answering(model, question, inputs, progress)])
    return found


def in_step(works: Sequence[Stages[T]]) -> list[T]:
    """What each gives. All are brought to a stage before one of them goes on to the next: many runs of a small model
    in a row, then the reading of all that they gave, are faster than turns, for which the processor's caches have to be
    filled anew each time."""
    found: dict[int, T] = {}
    while len(found) < len(works):
        for number, work in enumerate(works):
            try:
                if number not in found:
                    next(work)
            except StopIteration as end:
                found[number] = end.value
    return [found[number] for number in range(len(works))]


def answering(
    model: Model, question: Question, inputs: Inputs, progress: Progress | None = None
) -> Stages[list[Attribution]]:
    """`answer` in stages, for `in_step`."""
    model.loaded.check_unchanged()
    model = model.about(question.explain_input)
    feeds = model.feeds(inputs)
    count = len(feeds[model.image]) if feeds[model.image].ndim else 1
    task = task_for(model, question, feeds)
    targets = question.slots(count)
    if any(_depends_on_picture(task, t) for t in targets):
        return _one_by_one(model, question, feeds, progress)
    names = [_name_of(t) for t in targets]
    reference = has_reference(question)
    targets = [t if isinstance(t, str) or task.by_class else task.slot(int(t[0]), reference) for t in targets]
    return (yield from _answered(_Asked(model, question, task, targets, names, progress), feeds, count))


def _depends_on_picture(task: Task, target: Any) -> bool:
    """Whether a target is a word, or a class of each image of a task of which a class is an expression or of which
    things are found."""
    if isinstance(target, str):
        return is_word(target)
    return task.per_picture or (not task.by_class and len(set(target.tolist())) > 1)


def _name_of(target: Any) -> Any:
    """What a row of the target is called: an expression by itself, a class by its index (−1 for top1)."""
    return target if isinstance(target, str) else int(target[0])


def _one_by_one(model: Model, question: Question, feeds: Feeds, progress: Progress | None) -> list[Attribution]:
    """Image by image, since what a target means depends on what the model says of the image."""
    count = len(feeds[model.image])
    rows = list[list[Attribution]]()
    for i in range(count):
        single = model.rows(feeds, [i])
        task = task_for(model, question, single)
        wanted = [w for target in question.slots(count) for w in wanted_of(model, question, task, single, target, i)]
        answers = _by_layer(model, question, task, wanted, single, progress)
        rows.append([replace(a, image=a.image + i, first=i) for a in answers])
    return [joined([row[j] for row in rows]) for j in range(len(question.jobs))]


class Wanted(NamedTuple):
    """A target of one image: what it is called, what stands for it, and the layer of its own; "" for none."""

    name: Any
    slot: str | int
    layer: str = ""


def wanted_of(model: Model, question: Question, task: Task, single: Feeds, target: Any, image: int) -> list[Wanted]:
    """What a target means for an image."""
    if isinstance(target, str) and not is_word(target):
        return [Wanted(target, target)]
    given = target if isinstance(target, str) else int(target[image])
    if isinstance(given, int) and not task.per_picture:
        return [Wanted(given, task.slot(given, has_reference(question)))]
    found = predicted(model, question, single, given)
    by_itself = [isinstance(p.slot, int) and not task.per_picture for p in found]
    return [
        Wanted(p.slot if alone else f"{p.target} {p.label}".removeprefix("top1 ").strip(), p.slot, p.layer)
        for p, alone in zip(found, by_itself, strict=True)
    ]


def _by_layer(
    model: Model, question: Question, task: Task, wanted: Sequence[Wanted], single: Feeds, progress: Progress | None
) -> list[Attribution]:
    """The answers for one image, targets with a layer of their own by that unless another one is asked for.

    Methods that take none answer for all targets together.
    """
    everything = list(range(len(wanted)))
    layers = list(dict.fromkeys(w.layer for w in wanted)) or list(task.layers[:1]) or [""]
    own = [j.layer == "auto" and find_method(j.method, j.options).needs_layer for j in question.jobs]
    groups = [(list(range(len(own))), everything, layers[0])]
    if len(layers) > 1:
        by_layer = [(layer, [at for at in everything if wanted[at].layer == layer]) for layer in layers]
        groups = [(np.flatnonzero(own).tolist(), rows, layer) for layer, rows in by_layer]
        groups.append((np.flatnonzero(~np.array(own)).tolist(), everything, ""))
    parts: list[list[tuple[list[int], Attribution]]] = [[] for _ in own]
    for numbers, rows, layer in groups:
        jobs = tuple(replace(question.jobs[n], layer=layer) if layer and own[n] else question.jobs[n] for n in numbers)
        slots = [wanted[at].slot for at in rows]
        targets = [s if isinstance(s, str) else np.full(1, s, np.int64) for s in slots]
        part = question if jobs == question.jobs else replace(question, jobs=jobs)
        run = _Asked(model, part, task, targets, [wanted[at].name for at in rows], progress)
        answers = in_step([_answered(run, single, 1)])[0] if jobs else []
        for number, found in zip(numbers, answers, strict=True):
            parts[number].append((rows, found))
    return [
        joined([found for _, found in part]).ordered(np.argsort([at for rows, _ in part for at in rows], kind="stable"))
        for part in parts
    ]


def _answered(run: _Asked, feeds: Feeds, count: int) -> Stages[list[Attribution]]:
    """An Attribution for each job."""
    model, question = run.model, run.question
    nothing = not run.targets
    if nothing:  # the model says nothing of what was asked: one map shows its scores, and is left out
        run.targets, run.names = [run.task.slot(0)], [""]
        run.targets = [t if isinstance(t, str) else np.full(count, t, np.int64) for t in run.targets]
    often = [find_method(job.method, job.options).runs for job in question.jobs]
    once = tuple(job for job, many in zip(question.jobs, often, strict=True) if not many)
    rows: list[list[Attribution]] = []
    for indices in model.batches(count):
        part = feeds if len(indices) == count else model.rows(feeds, indices)
        together = iter((yield from run.once(part, indices, once)) if once else ())
        found = [
            run.often(part, indices, job) if many else next(together)
            for job, many in zip(question.jobs, often, strict=True)
        ]
        rows.append([one.first_images(len(set(indices.tolist()))) for one in found])
    answers = [joined([row[i] for row in rows]) for i in range(len(question.jobs))]
    return [a.rows(np.zeros(len(a.image), bool) if nothing else run.said_rows(a)) for a in answers]


def _outputs_of(task: Task) -> dict[str, Quantisation]:
    """The output that is explained, others that are rows of classes or values, and what their numbers stand for."""
    others = {role.output: role.task.quantisation for role in task.others if role.task is not None}
    return {**others, **task.reading}


def _value(found: Sequence[np.ndarray], shown: np.ndarray, image: int) -> float:
    """The number that is explained: that of an expression, the last of what was found, or the score of a class."""
    if len(found) > 3:
        return float(found[3].reshape(-1)[image if found[3].size > 1 else 0])
    index = int(found[2][image if len(found[2]) > 1 else 0])
    return float(shown[index]) if 0 <= index < len(shown) else float("nan")


class _Said(NamedTuple):
    """What the model says of some images: its outputs for each, (N, classes) scores, and which of them tie."""

    outputs: list[dict[str, np.ndarray]]
    shown: np.ndarray
    tied: tuple[np.ndarray, str]


class _Asked:
    """A question about some images.

    Args:
        targets: for each target an expression, or the class of each image.
        names: what each target is called: a text, or a class (−1 for top1).
    """

    def __init__(
        self,
        model: Model,
        question: Question,
        task: Task,
        targets: list[Any],
        names: list[Any],
        progress: Progress | None,
    ) -> None:
        self.model, self.question, self.task = model, question, task
        self.targets, self.names, self.progress = targets, names, progress

    def once(self, feeds: Feeds, indices: np.ndarray, jobs: tuple[Job, ...]) -> Stages[list[Attribution]]:
        """By methods that are one graph, in one run."""
        slots = [t if isinstance(t, str) else None for t in self.targets]
        question = self.question if jobs == self.question.jobs else replace(self.question, jobs=jobs)
        compiled = ready(self.model, question, slots, sizes_of(feeds))
        first, count = compiled[0], len(indices)
        classes = [t[indices] for t in self.targets if not isinstance(t, str)]
        if classes and self._mixes_images(first.scores, count):
            singles = in_step([self.once(self.model.rows(feeds, [i]), indices[i : i + 1], jobs) for i in range(count)])
            return [joined([single[j] for single in singles]) for j in range(len(jobs))]
        for given in classes:
            check_class(first.scores, int(given.max()))

        def run(chosen: list[np.ndarray]) -> Mapping[str, np.ndarray]:
            assert first.session is not None
            return first.session.run(feeds | dict(zip(first.target_inputs, chosen, strict=True)))

        task, outputs = first.scores, _outputs_of(first.scores)
        yield
        if self.model.quantised:
            said = shown_outputs(self.model, feeds, outputs)
            shown = task.read(task.said(said), count)
            found = run([task.top1(c, shown) for c in classes])
            yield
        else:
            found = run(classes)
            yield
            said = {name: known.real(found[name]) for name, known in outputs.items()}
            shown = task.read(task.said(said), count)
            # NaN, and means that differ in their last bits, are the only ways in which the graph takes another class.
            named = [found[n[2]] for n, slot in zip(first.slots, slots, strict=True) if slot is None]
            wanted = [task.top1(c, shown) for c in classes]
            if any(((w != n) & (n >= 0)).any() for w, n in zip(wanted, named, strict=True)):
                found = run(wanted)
        tied = (np.zeros(len(shown), np.int64), "")
        if classes:
            tied = tied_classes(self.model, feeds, first.scores, shown)
        about = _Said([{n: task.of(a, i, count) for n, a in said.items()} for i in range(count)], shown, tied)
        return [self._read(one, found, about, feeds, indices, slots) for one in compiled]

    def _mixes_images(self, scores: Task, count: int) -> bool:
        """Whether the scores have no axis that counts images, although the model takes several of them."""
        return count > 1 and not scores.batched and not self.model.fixed_batch

    def _read(
        self,
        compiled: Compiled,
        found: Mapping[str, np.ndarray],
        said: _Said,
        feeds: Feeds,
        indices: np.ndarray,
        slots: Sequence[str | None],
    ) -> Attribution:
        """What a run gave for one method, beside the scores."""
        count = len(indices)
        shown, tied = said.shown, said.tied
        per_slot = [tuple(found[n] for n in slot if n) for slot in compiled.slots]
        targets = len(per_slot)
        target = _by_image([c if len(c) > 1 else np.repeat(c, count) for _, _, c, *_ in per_slot], count)
        order = [(i, k) for i in range(count) for k in range(targets)]
        result = Attribution(
            _by_image([raw for raw, *_ in per_slot], count),
            _by_image([heat for _, heat, *_ in per_slot], count),
            shown,
            target.astype(np.int64, copy=False),
            compiled.layer,
            compiled.method.name,
            np.repeat(indices, targets),
            stripped=compiled.scores.stripped,
            details={
                name: _by_image([found[one[name]] for one in compiled.details], count)
                for name in (compiled.details[0] if compiled.details else {})
            },
            tied=tied[0],
            value=np.array([_value(per_slot[k], shown[min(i, len(shown) - 1)], i) for i, k in order]),
            names=[self._called(k, said.outputs[i]) for i, k in order],
            task=compiled.scores,
            said=said.outputs,
            first=int(indices[0]),
            centers=_by_layer_name(compiled.layer, compiled.located),
        )
        doubts = [compiled.located.doubt]
        if (target >= 0).any():
            doubts = [doubt_of(compiled.scores, found[compiled.scores.output.name], count), tie_of(*tied), *doubts]
        result.doubt = _sentences(doubts)
        unsaid = self._empty_where_not_finite(result, feeds)
        run = Explained(self.model, self.question, compiled, feeds)
        for row, (i, k) in enumerate(order):
            if unsaid[row]:
                result.diagnosis[row] = diagnose_map(run, result.raw[row], i, slots[k] or int(target[row]))
        return result

    def _empty_where_not_finite(self, result: Attribution, feeds: Feeds, many_runs: bool = False) -> np.ndarray:
        """Empties the heatmaps that are not legible, says where NaN or ∞ began; (rows,) where nothing is said."""
        result.diagnosis = [""] * len(result.raw)
        if result.finite:
            return np.ones(len(result.raw), bool)
        pictures = result.image - result.first
        legible = result.legible
        result.heatmap[~legible] = 0
        bad = ~legible | np.isnan(result.scores_of_rows).any(axis=1)
        if bad.any():
            target = [n for t in self.targets if isinstance(t, str) for n in tensors_named(t)]
            wanted = dict.fromkeys(pictures[bad].tolist())
            origins = find_origins(self.model, feeds, wanted, [result.layer], target)
            for row in np.flatnonzero(bad):
                result.diagnosis[row] = diagnose_not_finite(origins[int(pictures[row])], many_runs)
        return ~bad

    def _called(self, k: int, said: Mapping[str, np.ndarray]) -> str:
        """What the k-th target is called for an image; "" for a class."""
        name = self.names[k]
        if isinstance(name, str):
            return name
        return "" if self.task.by_class else self.task.title(name, self.task.answer(said), self.question.labels)

    def said_rows(self, result: Attribution) -> np.ndarray:
        """(rows,) False where top1 was asked for an image of which the model says nothing."""
        silent = [self.task.says_nothing(self.task.answer(s)) for s in result.said]
        if not any(silent):
            return np.ones(len(result.image), bool)
        default = [isinstance(name, int) and name == TOP1 for name in self.names]
        asked = np.array(default * (len(result.image) // len(default)))
        return np.asarray(~(asked & np.array(silent)[result.image - result.first]))

    def often(self, feeds: Feeds, indices: np.ndarray, job: Job) -> Attribution:
        """By a method that evaluates the model many times: image by image, all targets at once."""
        chosen = find_method(job.method, job.options)
        graph = self.model.graph_of(feeds)
        image = image_input(graph)
        scores = self.task
        if not all(isinstance(t, str) for t in self.targets) and self._mixes_images(scores, len(indices)):
            rows = range(len(indices))
            return joined([self.often(self.model.rows(feeds, [i]), indices[i : i + 1], job) for i in rows])
        batched = frozenset(n for n, a in feeds.items() if a.ndim and len(a) == len(feeds[image.name]))
        fixed = self.model.fixed_batch or (None if scores.batched else 1)
        said = shown_outputs(self.model, feeds, _outputs_of(scores))
        values = scores.read(scores.said(said), len(indices))
        tied = tied_classes(self.model, feeds, scores, values)
        raws, targets, details, layer = [], [], [], ""
        numbers = list[float]()
        for row in range(len(indices)):
            mine = values[row : row + 1]
            slots = [t if isinstance(t, str) else int(scores.top1(t[indices[row]], mine)[0]) for t in self.targets]
            for slot in slots:
                if not isinstance(slot, str):
                    check_class(scores, slot)
            one = {n: a[row : row + 1] if n in batched else a for n, a in feeds.items()}
            evaluator = Evaluator(
                self.model, self.question, chosen, one, batched, slots, job.layer, fixed, self.progress
            )
            with np.errstate(all="ignore"):  # what is not finite is found below
                raw, more = chosen.recipe(evaluator, **job.options)
            raws.append(raw.astype(np.float32))
            details.append(more)
            targets += [TOP1 if isinstance(s, str) else s for s in slots]
            layer = evaluator.feature.name if chosen.needs_layer else ""
            plain = evaluator.plain_scores if any(isinstance(s, str) for s in slots) else np.zeros(len(slots))
            numbers += [plain[k] if isinstance(s, str) else values[row][s] for k, s in enumerate(slots)]
        raw = np.concatenate(raws)
        drawn = np.where(np.isfinite(raw), raw, 0)
        doubts = [scores.doubt, tie_of(*tied)] if max(targets) >= 0 else []
        result = Attribution(
            raw,
            heatmaps(drawn, chosen.kind, "N" + evaluator.axes, evaluator.size, evaluator.centers),
            values,
            np.array(targets, np.int64),
            layer,
            job.method,
            np.repeat(indices, len(self.targets)),
            stripped=scores.stripped,
            details={name: np.concatenate([d[name] for d in details]) for name in details[0]},
            doubt=_sentences([*doubts, evaluator.located.doubt]),
            tied=tied[0],
            value=np.array(numbers, np.float64),
            task=scores,
            said=[{n: scores.of(a, i, len(indices)) for n, a in said.items()} for i in range(len(indices))],
            first=int(indices[0]),
            centers=_by_layer_name(layer, evaluator.located),
        )
        result.names = [self._called(k, s) for s in result.said for k in range(len(self.targets))]
        unsaid = self._empty_where_not_finite(result, feeds, many_runs=True)
        for row in np.flatnonzero(unsaid).tolist():
            result.diagnosis[row] = diagnose_runs(raw[row])
        return result


def _sentences(doubts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, doubts)))


def _by_layer_name(layer: str, found: Located) -> dict[str, Centers]:
    return {} if found.centers is None else {layer: found.centers}


def _by_image(arrays: Sequence[np.ndarray], count: int) -> np.ndarray:
    """(count · arrays, …): what all arrays have for the first image, then for the next…"""
    if len(arrays) == 1:
        return arrays[0][:count]
    return np.stack([array[i] for i in range(count) for array in arrays])
