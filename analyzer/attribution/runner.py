"""Answers a question about pictures: compiles it, runs it, and reads off the attributions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from analyzer.attribution.compiler import Compiled, ready
from analyzer.attribution.diagnosis import Explained, diagnose_map, diagnose_not_finite, diagnose_runs
from analyzer.attribution.evaluator import Evaluator
from analyzer.attribution.finite import find_origins
from analyzer.attribution.methods import find_method
from analyzer.attribution.model import Model, sizes_of
from analyzer.attribution.postprocess import heatmaps
from analyzer.attribution.question import Inputs, Job, Question
from analyzer.attribution.result import Attribution, joined
from analyzer.attribution.shown import doubt_of, shown_scores, tie_of, tied_classes
from analyzer.attribution.targets import TOP1, Scores, check_class, class_scores, find_scores, tensors_named, top1
from analyzer.graph.query import image_input

Feeds: TypeAlias = dict[str, np.ndarray]
Progress: TypeAlias = Callable[[str, int, int], None]  # (method, images done, images in all)


def answer(model: Model, question: Question, inputs: Inputs, progress: Progress | None = None) -> list[Attribution]:
    """An Attribution for each job of the question, in their order.

    Methods of one run share it; those of many runs come after, each by itself.

    Args:
        progress: called while a method of many runs is at work.

    Raises:
        As `analyzer.explain`.
    """
    model.loaded.check_unchanged()
    model = model.about(question.explain_input)
    feeds = model.feeds(inputs)
    count = len(feeds[model.image]) if feeds[model.image].ndim else 1
    run = _Asked(model, question, question.slots(count), progress)
    often = [find_method(job.method, job.options).runs for job in question.jobs]
    once = tuple(job for job, many in zip(question.jobs, often, strict=True) if not many)
    rows: list[list[Attribution]] = []
    for indices in _batches(model, count):
        part = {n: a[indices] if model.counts_images(n) and len(a) == count else a for n, a in feeds.items()}
        together = iter(run.once(part, indices, once) if once else ())
        found = [
            run.often(part, indices, job) if many else next(together)
            for job, many in zip(question.jobs, often, strict=True)
        ]
        rows.append([one.first(len(set(indices.tolist()))) for one in found])
    return [joined([row[i] for row in rows]) for i in range(len(question.jobs))]


def _batches(model: Model, count: int) -> list[np.ndarray]:
    """Indices of the images per run: all at once where the batch is free, else by the model's fixed batch, of which
    the last is filled up with the last image."""
    fixed = model.fixed_batch or count
    return [np.minimum(np.arange(start, start + fixed), count - 1) for start in range(0, count, fixed)]


class _Asked:
    """A question about some images.

    Args:
        targets: for each target an expression, or the class of each image.
    """

    def __init__(self, model: Model, question: Question, targets: list[Any], progress: Progress | None) -> None:
        self.model, self.question, self.targets, self.progress = model, question, targets, progress

    def once(self, feeds: Feeds, indices: np.ndarray, jobs: tuple[Job, ...]) -> list[Attribution]:
        """By methods that are one graph, in one run."""
        slots = [t if isinstance(t, str) else None for t in self.targets]
        question = self.question if jobs == self.question.jobs else replace(self.question, jobs=jobs)
        compiled = ready(self.model, question, slots, sizes_of(feeds))
        first, count = compiled[0], len(indices)
        classes = [t[indices] for t in self.targets if not isinstance(t, str)]
        if classes and self._mixes_images(first.scores, count):
            singles = [self.once(self._single(feeds, i), indices[i : i + 1], jobs) for i in range(count)]
            return [joined([single[j] for single in singles]) for j in range(len(jobs))]
        for given in classes:
            check_class(first.scores, int(given.max()))
        names = list(dict.fromkeys(n for one in compiled for n in one.names))

        def run(chosen: list[np.ndarray]) -> Mapping[str, np.ndarray]:
            assert first.session is not None
            return first.session.run(dict(feeds) | dict(zip(first.target_inputs, chosen, strict=True)), names)

        if self.model.quantised:
            shown = class_scores(first.scores, shown_scores(self.model, feeds, first.scores), count)
            found = run([top1(c, shown) for c in classes])
        else:
            found = run(classes)
            shown = class_scores(first.scores, found[first.scores.output.name], count)
            # NaN, and means that differ in their last bits, are the only ways in which the graph takes another class.
            named = [found[n[2]] for n, slot in zip(first.slots, slots, strict=True) if slot is None]
            wanted = [top1(c, shown) for c in classes]
            if any((w != n).any() for w, n in zip(wanted, named, strict=True)):
                found = run(wanted)
        tied = (np.zeros(len(shown), np.int64), "")
        if classes:
            tied = tied_classes(self.model, feeds, first.scores, shown)
        return [self._read(one, found, shown, tied, feeds, indices, slots) for one in compiled]

    def _mixes_images(self, scores: Scores, count: int) -> bool:
        """Whether the scores have no axis that counts images, although the model takes several of them."""
        return count > 1 and not scores.batched and not self.model.fixed_batch

    def _single(self, feeds: Feeds, index: int) -> Feeds:
        """The feeds of one image of the batch."""
        count = len(feeds[self.model.image])
        return {n: a[index : index + 1] if a.ndim and len(a) == count else a for n, a in feeds.items()}

    def _read(
        self,
        compiled: Compiled,
        found: Mapping[str, np.ndarray],
        shown: np.ndarray,
        tied: tuple[np.ndarray, str],
        feeds: Feeds,
        indices: np.ndarray,
        slots: Sequence[str | None],
    ) -> Attribution:
        """What a run gave for one method, beside the scores."""
        count = len(indices)
        per_slot = [tuple(found[n] for n in slot) for slot in compiled.slots]
        order = [(i, k) for i in range(count) for k in range(len(per_slot))]
        target = np.array([per_slot[k][2][i if len(per_slot[k][2]) > 1 else 0] for i, k in order], np.int64)
        result = Attribution(
            np.stack([per_slot[k][0][i] for i, k in order]),
            np.stack([per_slot[k][1][i] for i, k in order]),
            shown,
            target,
            compiled.layer,
            compiled.method.name,
            np.array([indices[i] for i, _ in order]),
            stripped=compiled.scores.stripped,
            details={
                name: np.stack([found[compiled.details[k][name]][i] for i, k in order])
                for name in (compiled.details[0] if compiled.details else {})
            },
            tied=tied[0],
        )
        if (target >= 0).any():
            doubt = doubt_of(compiled.scores, found[compiled.scores.output.name], count)
            result.doubt = "; ".join(filter(None, [doubt, tie_of(*tied)]))
        unsaid = self._empty_where_not_finite(result, feeds)
        run = Explained(self.model, self.question, compiled, feeds)
        for row, (i, k) in enumerate(order):
            if unsaid[row]:
                result.diagnosis[row] = diagnose_map(run, result.raw[row], i, slots[k] or int(target[row]))
        return result

    def _empty_where_not_finite(self, result: Attribution, feeds: Feeds, many_runs: bool = False) -> np.ndarray:
        """Empties the heatmaps that are not legible, says where NaN or ∞ began; (rows,) where nothing is said."""
        pictures = result.image - result.image.min()
        legible = result.legible
        result.heatmap[~legible] = 0
        bad = ~legible | np.isnan(result.scores_of_rows).any(axis=1)
        result.diagnosis = [""] * len(bad)
        if bad.any():
            target = [n for t in self.targets if isinstance(t, str) for n in tensors_named(t)]
            wanted = dict.fromkeys(pictures[bad].tolist())
            origins = find_origins(self.model, feeds, wanted, [result.layer], target)
            for row in np.flatnonzero(bad):
                result.diagnosis[row] = diagnose_not_finite(origins[int(pictures[row])], many_runs)
        return ~bad

    def often(self, feeds: Feeds, indices: np.ndarray, job: Job) -> Attribution:
        """By a method that evaluates the model many times: image by image, all targets at once."""
        chosen = find_method(job.method, job.options)
        graph = self.model.graph_of(feeds)
        image = image_input(graph)
        scores = find_scores(graph, self.question.output)
        if not all(isinstance(t, str) for t in self.targets) and self._mixes_images(scores, len(indices)):
            rows = range(len(indices))
            return joined([self.often(self._single(feeds, i), indices[i : i + 1], job) for i in rows])
        batched = frozenset(n for n, a in feeds.items() if a.ndim and len(a) == len(feeds[image.name]))
        fixed = self.model.fixed_batch or (None if scores.batched else 1)
        values = class_scores(scores, shown_scores(self.model, feeds, scores), len(indices))
        tied = tied_classes(self.model, feeds, scores, values)
        raws, targets, details, layer = [], [], [], ""
        for row in range(len(indices)):
            slots = [t if isinstance(t, str) else int(top1(t[indices[row]], values[row])) for t in self.targets]
            for slot in slots:
                if not isinstance(slot, str):
                    check_class(scores, slot)
            one = {n: a[row : row + 1] if n in batched else a for n, a in feeds.items()}
            evaluator = Evaluator(
                self.model, self.question, chosen, one, batched, slots, job.layer, fixed, self.progress
            )
            with np.errstate(all="ignore"):  # what is not finite is found below
                raw, said = chosen.recipe(evaluator, **job.options)
            raws.append(raw.astype(np.float32))
            details.append(said)
            targets += [TOP1 if isinstance(s, str) else s for s in slots]
            layer = evaluator.feature.name if chosen.needs_layer else ""
        raw = np.concatenate(raws)
        drawn = np.where(np.isfinite(raw), raw, 0)
        result = Attribution(
            raw,
            heatmaps(drawn, chosen.kind, "N" + evaluator.axes, evaluator.size),
            values,
            np.array(targets, np.int64),
            layer,
            job.method,
            np.repeat(indices, len(self.targets)),
            stripped=scores.stripped,
            details={name: np.concatenate([d[name] for d in details]) for name in details[0]},
            doubt="; ".join(filter(None, [scores.doubt, tie_of(*tied)])) if max(targets) >= 0 else "",
            tied=tied[0],
        )
        unsaid = self._empty_where_not_finite(result, feeds, many_runs=True)
        for row in np.flatnonzero(unsaid).tolist():
            result.diagnosis[row] = diagnose_runs(raw[row])
        return result
