"""Compiles a method over a model into one graph, and runs it: one forward for all targets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution.cache import GraphCache
from analyzer.attribution.diagnosis import diagnose_map, diagnose_not_finite, diagnose_runs
from analyzer.attribution.finite import find_origins, finite_rows
from analyzer.attribution.postprocess import FLOAT32, heatmap, heatmaps
from analyzer.attribution.registry import Context, Method, find_method
from analyzer.attribution.targets import (
    TOP1,
    Arrays,
    Scores,
    class_scores,
    expression,
    find_scores,
    is_expression,
    resolve_class,
    seed,
    tensors_named,
    top1,
)
from analyzer.errors import AnalyzerError, InputError, UnsupportedError
from analyzer.gradient import Rule, inlined_operators, table_of
from analyzer.gradient.reverse import is_float
from analyzer.graph import Builder, Graph, Source, Value, normalize
from analyzer.graph.query import (
    FeatureMap,
    default_layer,
    feature_maps,
    fillings,
    find_tensors,
    image_input,
    image_layout,
    is_quantised,
    layouts,
    map_of_open_sizes,
    output_quantisers,
)
from analyzer.graph.through import is_transparent
from analyzer.runtime import Session, environment
from analyzer.store import Cache

PREFIX = "xai"


@dataclass
class Attribution:
    """What a method says about a batch.

    Rows are images, or (image, target) pairs where several targets were asked for: image by image.

    Attributes:
        raw: the method's own values, float32: (rows, h, w) unnormalised for CAM-like methods, shaped as the input
            for gradient-like ones.
        heatmap: (rows, H, W) in [0, 1] at the resolution of the input; 0 everywhere where `legible` is False.
        scores: (N, classes) as the model outputs them.
        target: class index per row; −1 where the target is an expression.
        layer: name of the feature map, or "" for methods that need none.
        method: name of the method.
        image: index of the image per row.
        diagnosis: a sentence per row whose map is empty, constant or not finite; "" where all is well.
        stripped: squashing functions that were left out in front of the target (Softmax…).
        tied: (N,) how many classes tie at the ceiling of the output's quantiser; 0 where the top class is alone.
        details: what else the method says, a row each: `completeness` of integrated gradients and full-grad, `score`
            and `top` at every position of occlusion…
        doubt: why a class may be none here, as `Scores.doubt`; "" where all is well, and for expressions.
    """

    raw: np.ndarray
    heatmap: np.ndarray
    scores: np.ndarray
    target: np.ndarray
    layer: str
    method: str
    image: np.ndarray
    diagnosis: list[str] = field(default_factory=list)
    stripped: tuple[str, ...] = ()
    details: dict[str, np.ndarray] = field(default_factory=dict)
    doubt: str = ""
    tied: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def legible(self) -> np.ndarray:
        """(rows,) whether the map, and the score of the class that it is of, are finite."""
        scores = self._scores_of_rows
        known = (self.target >= 0) & (self.target < scores.shape[1])
        scored = np.isfinite(scores[np.arange(len(scores)), np.where(known, self.target, 0)])
        return finite_rows(self.raw) & (scored | ~known)

    @property
    def _scores_of_rows(self) -> np.ndarray:
        """(rows, classes)"""
        pictures = self.image - self.image.min()
        return self.scores[np.minimum(pictures, len(self.scores) - 1)]


@dataclass
class Compiled:
    """A graph with a method appended: the names of its outputs per target slot, and the session once it runs.

    `graph` is None where it came from the cache.
    """

    graph: Graph | None
    method: Method
    layer: str
    slots: list[tuple[str, str, str]]
    scores: Scores
    outputs: list[str]
    target_inputs: list[str]
    details: list[dict[str, str]] = field(default_factory=list)
    session: Session | None = None

    @property
    def names(self) -> list[str]:
        """Every output that is read."""
        slots = [*self.slots, *(d.values() for d in self.details)]
        return list(dict.fromkeys([self.scores.output.name, *(n for slot in slots for n in slot)]))


@dataclass(frozen=True)
class Job:
    """A method, the layer it explains by, and its options."""

    method: str = "grad-cam"
    layer: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)


class Explainer:
    """A model, ready to be explained again and again: normalised once, sessions kept per method, layer and shape.

    Args:
        model: path, bytes or ModelProto.
        provider: "cpu", "cuda", "cuda:1" or "auto".
        labels: class names, so that targets can be given by label.
        cache: where rewritten graphs are kept between processes; nowhere when None.
        options: passed on to `runtime.Session` (threads, level, allow_fallback, memory_limit).

    Attributes:
        progress: called with (method, images done, images in all) while a method of many runs is at work.
        arrays: further names that a target may use (see `expression`).
        grey: what the model is given for a mid-grey picture, (1, …), where the preprocessing is known.
    """

    SESSIONS = 8

    def __init__(
        self,
        model: Any,
        provider: str = "cpu",
        labels: Sequence[str] | None = None,
        cache: Cache | None = None,
        **options: Any,
    ) -> None:
        from analyzer.graph import load

        self.loaded = load(model)
        self._stamp = _stamp_of(self.loaded.path)
        self.provider = provider
        self.labels = labels
        self.cache = GraphCache(cache, self.loaded) if cache is not None else None
        self.session_options = options
        self.progress: Callable[[str, int, int], None] | None = None
        self.rows: Mapping[str, Rule] = {}
        self.grey: np.ndarray | None = None
        self._arrays: Arrays = {}
        self._compiled: OrderedDict[Any, Any] = OrderedDict()
        self._sources: dict[Any, Source] = {}

    @property
    def arrays(self) -> Arrays:
        return self._arrays

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        if arrays or self._arrays:
            self._compiled.clear()
        self._arrays = arrays

    def reference(self, image: np.ndarray | Mapping[str, np.ndarray]) -> Callable[[Value], np.ndarray]:
        """What any tensor holds for a reference image: for `arrays`, and `.cosine(…)` in a target."""

        def of(value: Value) -> np.ndarray:
            feeds = self._feeds(image)
            graph = self.graph({n: tuple(a.shape) for n, a in feeds.items()})
            output = graph.add_output(graph[value.name], "reference").name
            return Session(graph, self.provider, outputs=[output], **self.session_options).run(feeds)[output]

        return of

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Where it runs; see `runtime.environment`."""
        return environment(self.provider, **self.session_options)

    # ---- Graphs ----

    def source(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Source:
        """The normalised model, its inputs fixed to `shapes`."""
        self.loaded.check_unchanged()
        key = tuple(sorted((shapes or {}).items()))
        if key not in self._sources:
            found = self.cache.source(key) if self.cache else None
            if found is None:
                found = normalize(self.loaded, inlined_operators(table_of("gradient")), dict(shapes or {}))
                if self.cache:
                    self.cache.keep_source(key, found)
            self._sources[key] = found
        return self._sources[key]

    def graph(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
        """A fresh graph to append to."""
        return Graph(self.source(shapes))

    @cached_property
    def plain(self) -> Graph:
        """The graph with the shapes of the file."""
        return self.graph()

    @cached_property
    def fixed_batch(self) -> int | None:
        """How many images the file takes at once; None where that is free."""
        shape = image_input(self.plain).shape
        return shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None

    def compile(
        self,
        method: str = "grad-cam",
        layer: str = "auto",
        targets: Sequence[Any] = (None,),
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        output: str | None = None,
        **options: Any,
    ) -> Compiled:
        """The model with the method appended.

        Args:
            targets: a slot each: None for a class given at run time (input `xai/target…`, (N,) int64, −1 for top-1),
                an int for a class fixed in the graph (−1 for top-1), or an expression.
            output: the output that holds the scores, where it is not the first that looks like classes.

        Raises:
            UnsupportedError: a rule is missing, the target does not depend on the layer, or the method is not
                defined for this model.
        """
        return self.compile_all([Job(method, layer, options)], targets, shapes, output)[0]

    def compile_all(
        self,
        jobs: Sequence[Job],
        targets: Sequence[Any] = (None,),
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        output: str | None = None,
    ) -> list[Compiled]:
        """The model with several methods, or one over several layers, appended: one graph, what they share once.

        Raises:
            UnsupportedError: as `compile`.
        """
        methods = [find_method(job.method, job.options) for job in jobs]
        for method in methods:
            if method.runs:
                raise UnsupportedError(
                    f"{method.name} evaluates the model many times: it is no single graph",
                    "use one of the others, such as grad-cam",
                )
        graph = self.graph(shapes)
        op = Builder(graph, PREFIX)
        scores = find_scores(graph, output)
        image, axes = float_image(graph)
        outputs, target_inputs = [v.name for v in graph.outputs], list[str]()
        batch = image_input(graph).shape[0] if image_input(graph).shape else None
        seeded = [
            self.seeded(op, target_inputs, t, scores, f"_{slot}" if len(targets) > 1 else "", batch)
            for slot, t in enumerate(targets)
        ]
        found = []
        for number, (job, method) in enumerate(zip(jobs, methods, strict=True)):
            compiled = Compiled(graph, method, "", [], scores, outputs, target_inputs)
            for slot, (seeds, classes, about) in enumerate(seeded):
                suffix = f"_{slot}" if len(targets) > 1 else ""
                suffix += f"_{number}" if len(jobs) > 1 else ""
                asked = (job.layer, graph, about, shapes, output, targets[slot])
                feature = self.choose_layer(*asked) if method.needs_layer else None
                ctx = Context(op, seeds, about, image, axes, feature, rows=self.rows)
                raw = op.cast(method.recipe(ctx, **job.options), FLOAT32)
                heat = heatmap(ctx, raw, method.kind)
                names = (("raw", raw), ("heatmap", heat), ("class", classes))
                given = [graph.add_output(value, f"{PREFIX}/{name}{suffix}").name for name, value in names]
                compiled.slots.append((given[0], given[1], given[2]))
                compiled.details.append(
                    {name: graph.add_output(v, f"{PREFIX}/{name}{suffix}").name for name, v in ctx.details.items()}
                )
                compiled.layer = feature.name if feature else ""
            found.append(compiled)
        return found

    def choose_layer(
        self,
        layer: str,
        graph: Graph,
        about: Value,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        output: str | None = None,
        target: Any = None,
    ) -> FeatureMap:
        """The feature map called `layer`; for "auto" and open sizes, the one that is found where all sizes are known.

        Which map is the coarsest, and what its axes are, shows in sizes: so a file with open ones has the layer that it
        has for a picture.

        Args:
            about: the tensor of `graph` that is explained.
            output, target: what `about` was made from.

        Raises:
            NotFoundError, UnsupportedError: as `pick_layer`.
        """
        for sizes in fillings(graph) if layer == "auto" else ():
            try:
                known = self.graph(dict(shapes or {}) | sizes)
                if isinstance(target, str):
                    score = expression(Builder(known, PREFIX), target, self.arrays)
                else:
                    score = find_scores(known, output).logits
                return map_of_open_sizes(graph, pick_layer(known, "auto", score))
            except AnalyzerError:
                continue
        return pick_layer(graph, layer, about)

    def seeded(
        self,
        op: Builder,
        target_inputs: list[str],
        target: Any,
        scores: Scores,
        suffix: str,
        batch: Any,
        known: bool = False,
    ) -> tuple[dict[str, Value], Value, Value]:
        """(cotangents, classes, the tensor explained) of a target; `target_inputs` grows by the input it takes.

        Args:
            known: the class given at run time is never TOP1.
        """
        if isinstance(target, str):
            score = expression(op, target, self.arrays)
            return {score.name: op.ones_like(score)}, op.constant(np.array([TOP1], np.int64)), score
        if target is None:
            classes = op.graph.add_input(f"{PREFIX}/target{suffix}", np.dtype(np.int64), [batch])
            target_inputs.append(classes.name)
        else:
            check_class(scores, target)
            classes = op.constant(np.array([target], np.int64))
        flat, cotangent, resolved = seed(op, scores, classes, known)
        return {flat.name: cotangent}, resolved, scores.logits

    # ---- Running ----

    def explain(
        self,
        inputs: np.ndarray | Mapping[str, np.ndarray],
        method: str = "grad-cam",
        target: Any = "top1",
        layer: str = "auto",
        output: str | None = None,
        **options: Any,
    ) -> Attribution:
        """See `analyzer.explain`."""
        return self.explain_all(inputs, [Job(method, layer, options)], target, output)[0]

    def explain_all(
        self,
        inputs: np.ndarray | Mapping[str, np.ndarray],
        jobs: Sequence[Job],
        target: Any = "top1",
        output: str | None = None,
    ) -> list[Attribution]:
        """`explain` by several methods or over several layers, in one run of one session.

        Methods of many runs come after the others, each by itself.

        Returns:
            An Attribution per job, in their order.

        Raises:
            As `analyzer.explain`.
        """
        self.loaded.check_unchanged()
        feeds = self._feeds(inputs)
        image = image_input(self.plain).name
        count = len(feeds[image])
        plans = self._targets(target, count)
        often = [find_method(job.method, job.options).runs for job in jobs]
        once = tuple(job for job, many in zip(jobs, often, strict=True) if not many)
        rows: list[list[Attribution]] = []
        for indices in self._batches(count):
            part = {n: a[indices] if a.ndim and len(a) == count else a for n, a in feeds.items()}
            together = iter(self._run(part, indices, plans, once, output) if once else ())
            rows.append(
                [
                    self._run_often(part, indices, plans, job, output) if many else next(together)
                    for job, many in zip(jobs, often, strict=True)
                ]
            )
        return [_joined([row[i] for row in rows]) for i in range(len(jobs))]

    def _targets(self, target: Any, count: int) -> list[Any]:
        """Slots: an expression, or (count,) classes each."""
        if is_expression(target):
            return [target]
        if isinstance(target, str | int | np.integer) and not isinstance(target, bool):
            return [np.full(count, resolve_class(target, self.labels), np.int64)]
        given = list(target) if isinstance(target, Sequence | np.ndarray) else [target]
        if not given:
            raise InputError("no target is given", "give 'top1', a class index or a label")
        if any(is_expression(t) for t in given):
            return [t if is_expression(t) else np.full(count, resolve_class(t, self.labels)) for t in given]
        classes = [resolve_class(t, self.labels) for t in given]
        if len(classes) == count and count > 1:
            return [np.array(classes, np.int64)]
        return [np.full(count, c, np.int64) for c in classes]

    def _batches(self, count: int) -> list[np.ndarray]:
        """Indices of the images per run: all at once where the batch is free, else by the model's fixed batch."""
        fixed = self.fixed_batch or count
        if count % fixed:
            raise InputError(
                f"the model takes batches of {fixed}, and {count} images do not fill them",
                f"give a multiple of {fixed} images",
            )
        return [np.arange(start, start + fixed) for start in range(0, count, fixed)]

    def _run(
        self,
        feeds: dict[str, np.ndarray],
        indices: np.ndarray,
        plans: list[Any],
        jobs: tuple[Job, ...],
        output: str | None,
    ) -> list[Attribution]:
        shapes = {name: tuple(a.shape) for name, a in feeds.items()}
        slots = [p if isinstance(p, str) else None for p in plans]
        compiled = self._session(jobs, slots, shapes, output)
        first, count = compiled[0], len(indices)
        classes = [p[indices] for p in plans if not isinstance(p, str)]
        if classes and self._mixes_images(first.scores, count):
            singles = [self._run(self._single(feeds, i), indices[i : i + 1], plans, jobs, output) for i in range(count)]
            return [_joined([single[j] for single in singles]) for j in range(len(jobs))]
        for given_classes in classes:
            check_class(first.scores, int(given_classes.max()))
        names = list(dict.fromkeys(n for one in compiled for n in one.names))

        def run(chosen: list[np.ndarray]) -> dict[str, np.ndarray]:
            assert first.session is not None
            return first.session.run(dict(feeds) | dict(zip(first.target_inputs, chosen, strict=True)), names)

        if self.quantised:
            shown = class_scores(first.scores, self.outputs(feeds, first.scores), count)
            classes = [top1(c, shown) for c in classes]
            found = run(classes)
        else:
            found = run(classes)
            shown = class_scores(first.scores, found[first.scores.output.name], count)
            # NaN, and means that differ in their last bits, are the only ways in which the graph takes another class.
            named = [found[n[2]] for n, slot in zip(first.slots, slots, strict=True) if slot is None]
            wanted = [top1(c, shown) for c in classes]
            if any((w != n).any() for w, n in zip(wanted, named, strict=True)):
                found = run(wanted)
        tied = self.tied(feeds, first.scores, shown) if classes else (np.zeros(len(shown), np.int64), "")
        return [self._attribution(one, found, shown, tied, feeds, indices, slots) for one in compiled]

    def _mixes_images(self, scores: Scores, count: int) -> bool:
        """Whether the scores have no axis that counts images, although the model takes several of them."""
        return count > 1 and not scores.batched and not self.fixed_batch

    def _single(self, feeds: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
        """The feeds of one image of the batch."""
        count = len(feeds[image_input(self.plain).name])
        return {n: a[index : index + 1] if a.ndim and len(a) == count else a for n, a in feeds.items()}

    def _attribution(
        self,
        compiled: Compiled,
        found: Mapping[str, np.ndarray],
        shown: np.ndarray,
        tied: tuple[np.ndarray, str],
        feeds: dict[str, np.ndarray],
        indices: np.ndarray,
        slots: list[Any],
    ) -> Attribution:
        """What a run gave for one method, beside the scores."""
        count = len(indices)
        per_slot = [tuple(found[n] for n in slot) for slot in compiled.slots]
        order = [(i, k) for i in range(count) for k in range(len(per_slot))]
        raw = np.stack([per_slot[k][0][i] for i, k in order])
        heat = np.stack([per_slot[k][1][i] for i, k in order])
        target = np.array([per_slot[k][2][i if len(per_slot[k][2]) > 1 else 0] for i, k in order], np.int64)
        result = Attribution(
            raw,
            heat,
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
        unsaid = self._empty_where_not_finite(result, feeds, slots)
        for r, (i, k) in enumerate(order):
            if unsaid[r]:
                result.diagnosis[r] = diagnose_map(self, compiled, raw[r], feeds, i, slots[k] or int(target[r]))
        return result

    def _empty_where_not_finite(
        self, result: Attribution, feeds: Mapping[str, np.ndarray], slots: Sequence[Any], many_runs: bool = False
    ) -> np.ndarray:
        """Empties the heatmaps that are not legible, says where NaN or ∞ began; (rows,) where nothing is said."""
        pictures = result.image - result.image.min()
        legible = result.legible
        result.heatmap[~legible] = 0
        bad = ~legible | np.isnan(result._scores_of_rows).any(axis=1)
        result.diagnosis = [""] * len(bad)
        if bad.any():
            target = [n for s in slots if isinstance(s, str) for n in tensors_named(s)]
            origins = find_origins(self, feeds, dict.fromkeys(pictures[bad].tolist()), [result.layer], target)
            for row in np.flatnonzero(bad):
                result.diagnosis[row] = diagnose_not_finite(origins[int(pictures[row])], many_runs)
        return ~bad

    def _session(self, jobs: tuple[Job, ...], slots: list[Any], shapes: dict, output: str | None) -> list[Compiled]:
        """The jobs compiled, and a session over all of them; kept, and looked up in the cache."""
        key = (
            tuple((j.method, j.layer, tuple(sorted(j.options.items()))) for j in jobs),
            tuple(slots),
            tuple(sorted(shapes.items())),
            output,
        )

        def compiled() -> list[Compiled]:
            cache = self.cache if not self.arrays else None
            kept = cache.compiled(key) if cache else None
            if kept is None:
                done = self.compile_all(jobs, slots, shapes, output)
                assert done[0].graph is not None
                stub = done[0].graph.stub(list(dict.fromkeys(n for one in done for n in one.names)))
                if cache:
                    cache.keep_compiled(key, done, stub)
            else:
                done, stub = kept
            session = Session(stub, self.provider, **self.session_options)
            for one in done:
                one.session = session
            return done

        found: list[Compiled] = self.kept(key, compiled)
        return found

    @cached_property
    def quantised(self) -> bool:
        """Whether the file computes with quantised numbers, so that another plan of kernels can round otherwise."""
        return is_quantised(self.loaded.proto)

    @property
    def deployed(self) -> Session | None:
        """The file as it is in stock onnxruntime, every optimizer on; None where that does not load it."""
        return self.kept("deployed", self._deployed)

    def _deployed(self) -> Session | None:
        path = self.loaded.path
        try:
            unchanged = path is not None and self._stamp is not None and _stamp_of(path) == self._stamp
            file = str(path) if unchanged else self.loaded.serialized()
            size = sum(w.nbytes for w in self.loaded.weights.values())
            return Session(file, self.provider, weight_bytes=size, **self.session_options)
        except (UnsupportedError, ValueError):  # ValueError: more than protobuf holds in one piece
            return None

    def outputs(self, feeds: Mapping[str, np.ndarray], scores: Scores) -> np.ndarray:
        """What the model outputs as its scores: of a quantised file, what that gives as it is deployed, bit for bit."""
        name = scores.output.name
        session = self.deployed if self.quantised else None
        if session is None:
            shapes = {n: tuple(a.shape) for n, a in feeds.items()}
            session = self.kept(
                ("scores", tuple(sorted(shapes.items())), name),
                lambda: Session(self.graph(shapes), self.provider, outputs=[name], **self.session_options),
            )
        return session.run(feeds, [name])[name]

    def tied(self, feeds: dict[str, np.ndarray], scores: Scores, shown: np.ndarray) -> tuple[np.ndarray, str]:
        """((N,) classes that tie at the ceiling of a quantiser between the last layer and the scores, its node)"""
        none = np.zeros(len(shown), np.int64)
        if not self.quantised or scores.space:
            return none, ""
        alike = (shown == shown.max(axis=-1, keepdims=True)).sum(axis=-1)
        if not (alike > 1).any():
            return none, ""
        shapes = {n: tuple(a.shape) for n, a in feeds.items()}

        def compiled() -> tuple[Session | None, dict[str, str]]:
            graph = self.graph(shapes)
            nodes = output_quantisers(graph, [scores.output.name])
            nodes = [n for n in nodes if str(n.outputs[0].dtype) in ("int8", "uint8", "int16", "uint16")]
            named = {graph.add_output(n.outputs[0]).name: n.name or n.outputs[0].name for n in nodes}
            if not named:
                return None, named
            return Session(graph, self.provider, outputs=list(named), **self.session_options), named

        session, named = self.kept(("ceilings", tuple(sorted(shapes.items())), scores.output.name), compiled)
        for name, values in (session.run(feeds) if session is not None else {}).items():
            full = (values == np.iinfo(values.dtype).max).reshape(len(shown), -1).sum(axis=-1)
            at = (alike > 1) & (full > 1)
            if at.any():
                return np.where(at, np.minimum(alike, full), none), named[name]
        return none, ""

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, kept under `key`; the least recently used go."""
        if key not in self._compiled:
            self._compiled[key] = make()
            if len(self._compiled) > self.SESSIONS:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return self._compiled[key]

    def drop_sessions(self) -> None:
        """Forgets the sessions that are kept, and their memory."""
        self._compiled.clear()

    def step(self, method: str, done: int, total: int) -> None:
        """Tells whoever listens how far a method of many runs is."""
        if self.progress is not None:
            self.progress(method, done, total)

    def _run_often(
        self,
        feeds: dict[str, np.ndarray],
        indices: np.ndarray,
        plans: list[Any],
        job: Job,
        output: str | None,
    ) -> Attribution:
        """As `_run`, by a method that evaluates the model many times: image by image, all targets at once."""
        from analyzer.attribution.evaluator import Evaluator

        chosen = find_method(job.method, job.options)
        shapes = {name: tuple(a.shape) for name, a in feeds.items()}
        graph = self.graph(shapes)
        image = image_input(graph)
        scores = find_scores(graph, output)
        if not all(isinstance(p, str) for p in plans) and self._mixes_images(scores, len(indices)):
            rows = range(len(indices))
            return _joined(
                [self._run_often(self._single(feeds, i), indices[i : i + 1], plans, job, output) for i in rows]
            )
        batched = frozenset(n for n, a in feeds.items() if a.ndim and len(a) == len(feeds[image.name]))
        fixed = self.fixed_batch or (None if scores.batched else 1)
        values = class_scores(scores, self.outputs(feeds, scores), len(indices))
        tied = self.tied(feeds, scores, values)
        raws, targets, details, layers = [], [], [], ""
        for row in range(len(indices)):
            slots = [p if isinstance(p, str) else int(p[indices[row]]) for p in plans]
            slots = [s if isinstance(s, str) else int(top1(np.array(s), values[row])) for s in slots]
            for slot in slots:
                if not isinstance(slot, str):
                    check_class(scores, slot)
            one = {n: a[row : row + 1] if n in batched else a for n, a in feeds.items()}
            evaluator = Evaluator(self, chosen, one, batched, slots, job.layer, output, fixed)
            with np.errstate(all="ignore"):  # what is not finite is found below
                raw, said = chosen.recipe(evaluator, **job.options)
            raws.append(raw.astype(np.float32))
            details.append(said)
            targets += [TOP1 if isinstance(s, str) else s for s in slots]
            layers = evaluator.feature.name if chosen.needs_layer else ""
        raw = np.concatenate(raws)
        drawn = np.where(np.isfinite(raw), raw, 0)
        result = Attribution(
            raw,
            heatmaps(drawn, chosen.kind, "N" + evaluator.axes, evaluator.size),
            values,
            np.array(targets, np.int64),
            layers,
            job.method,
            np.repeat(indices, len(plans)),
            stripped=scores.stripped,
            details={name: np.concatenate([d[name] for d in details]) for name in details[0]},
            doubt="; ".join(filter(None, [scores.doubt, tie_of(*tied)])) if max(targets) >= 0 else "",
            tied=tied[0],
        )
        unsaid = self._empty_where_not_finite(result, feeds, plans, many_runs=True)
        for row in np.flatnonzero(unsaid).tolist():
            result.diagnosis[row] = diagnose_runs(raw[row])
        return result

    def _feeds(self, inputs: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [i.name for i in self.plain.inputs]
        if not isinstance(inputs, Mapping):
            if len(names) > 1:
                raise InputError(f"the model has {len(names)} inputs: {', '.join(names)}", "give {name: array}")
            inputs = {names[0]: inputs}
        feeds = {}
        for name, array in inputs.items():
            if name not in names:
                raise InputError(f"no input {name!r}; the model's inputs are {', '.join(map(repr, names))}")
            feeds[name] = self._checked(self.plain[name], np.asarray(array))
        missing = [n for n in names if n not in feeds]
        if missing:
            raise InputError(f"no value for the input {', '.join(map(repr, missing))}")
        return feeds

    def _checked(self, given: Value, array: np.ndarray) -> np.ndarray:
        """The array if it fits, a floating-point one in the input's type."""
        text = ", ".join(str(d) for d in given.shape) if given.shape is not None else "any"
        if array.dtype != given.dtype:
            if array.dtype.kind != "f" or not is_float(given):
                raise InputError(f"input {given.name!r} takes {given.dtype} [{text}], not {array.dtype}")
            array = array.astype(given.dtype)
        if not array.size:
            raise InputError(f"input {given.name!r} is empty: {list(array.shape)}")
        if given.shape is not None:
            fits = len(given.shape) == array.ndim and all(
                not isinstance(d, int) or d == size or axis == 0
                for axis, (d, size) in enumerate(zip(given.shape, array.shape, strict=True))
            )
            if not fits:
                raise InputError(f"input {given.name!r} takes the shape [{text}], not {list(array.shape)}")
        if is_float(given) and not np.isfinite(array).all():
            raise InputError(f"input {given.name!r} holds NaN or infinite values")
        return array


def _stamp_of(path: Path | None) -> tuple[int, int] | None:
    """What changes when a file is written anew; None where there is no file (bytes, a pipe)."""
    if path is None or not path.is_file():
        return None
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def doubt_of(scores: Scores, output: np.ndarray, count: int) -> str:
    """`Scores.doubt`, and what only a run shows: rows that are no images, as boxes behind NonMaxSuppression."""
    if scores.doubt or not scores.batched or not output.ndim or len(output) == count:
        return scores.doubt
    return (
        f"{scores.output.name!r} gave {len(output)} rows for {count} image{'s' * (count > 1)}: they are no scores of "
        "classes; name the tensor that held the scores before boxes were chosen, by an expression (docs/targets.md)"
    )


def tie_of(tied: np.ndarray, quantiser: str) -> str:
    """Says how many classes tie at the ceiling of the output's quantiser; "" where none do."""
    if not quantiser:
        return ""
    where = "" if len(tied) == 1 else f" for {np.count_nonzero(tied)} of {len(tied)} images"
    return (
        f"{tied.max()} classes tie at the ceiling of the output's quantiser (node {quantiser!r}){where}: its range is "
        "too narrow to tell them apart, and top1 is the first of them"
    )


def check_class(scores: Scores, index: int) -> None:
    """InputError where the model has no class of that index."""
    width = scores.classes
    if width is not None and index >= width:
        raise InputError(f"class {index} does not exist: the model has {width} classes (0 to {width - 1})")


def _joined(parts: list[Attribution]) -> Attribution:
    first = parts[0]
    if len(parts) == 1:
        return first
    joined = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ("raw", "heatmap", "scores", "target", "image", "tied")
    }
    return Attribution(
        layer=first.layer,
        method=first.method,
        diagnosis=[d for p in parts for d in p.diagnosis],
        stripped=first.stripped,
        details={n: np.concatenate([p.details[n] for p in parts]) for n in first.details},
        doubt="; ".join(dict.fromkeys(p.doubt for p in parts if p.doubt)),
        **joined,
    )


# ---- Choosing tensors ----


def float_image(graph: Graph) -> tuple[Value, str]:
    """(the image as the first floating-point tensor, its axes): an integer image is taken behind its Cast or
    DequantizeLinear.

    Raises:
        UnsupportedError: no floating-point tensor stands for the image.
    """
    image = image_input(graph)
    axes = image_layout(graph, image) if len(image.shape or ()) == 4 else ""
    if not axes:
        rank = len(image.shape or ())
        axes = {2: "NC", 3: "NCW", 5: "NCDHW"}.get(rank, "N" + "?" * (rank - 1))
    value = image
    while not is_float(value):
        following = [n for n in value.outputs if is_transparent(n, ("Transpose",))]
        if len(following) != 1:
            raise UnsupportedError(
                f"{graph.name}: the input {image.name!r} holds {image.dtype} and is not turned into floating-point "
                "numbers by one Cast or DequantizeLinear, so there is no gradient with respect to it",
                "use a CAM method",
            )
        node = following[0]
        value = node.outputs[0]
        if node.op == "Transpose":
            axes = "".join(axes[p] for p in node.attrs["perm"])
    return value, axes


def _explained_map(graph: Graph, target: Value) -> Value:
    """The file's own tensor that an expression scores, where that is one feature map (a segmenter's); else `target`."""
    own = {o.name for n in graph.forward_nodes() for o in n.outputs}
    waiting, read = [target], dict[str, Value]()
    while waiting:
        value = waiting.pop()
        producer = graph.producer(value)
        if value.name in own:
            read[value.name] = value
        elif producer is not None:
            waiting += [i for i in producer.inputs if i.name]
    if target.name in own or len(read) != 1:
        return target
    (only,) = read.values()
    is_map = any(m.name == only.name and "L" not in m.layout.axes for m in feature_maps(graph))
    return only if is_map else target


def pick_layer(graph: Graph, name: str, target: Value) -> FeatureMap:
    """The feature map called `name` (tensor, node or glob: the last match), or the default one for "auto".

    Raises:
        NotFoundError: there is none of that name. UnsupportedError: it has no channels over space.
    """
    if name == "auto":
        return default_layer(graph, _explained_map(graph, target))
    values = find_tensors(graph, name)
    maps = {m.name: m for m in feature_maps(graph)}
    chosen = [maps[v.name] for v in values if v.name in maps]
    if chosen:
        return chosen[-1]
    value = values[-1]
    layout = layouts(graph).get(value.name)
    if layout is not None and layout.is_map and is_float(value):
        return FeatureMap(value, layout, graph.producer(value))
    shape = "of unknown shape" if value.shape is None else f"with shape {list(value.shape)}"
    near = ", ".join(repr(m) for m in list(maps)[-3:])
    raise UnsupportedError(
        f"{value.name!r} ({shape}) is no feature map: no channels over space can be told",
        f"the last feature maps are {near}" if near else "see `inspect`",
    )
