"""Compiles a method over a model into one graph, and runs it: one forward for all targets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from analyzer.attribution.cache import GraphCache
from analyzer.attribution.diagnosis import diagnose_map, diagnose_runs
from analyzer.attribution.postprocess import FLOAT32, heatmap, heatmaps
from analyzer.attribution.registry import Context, Method, find_method
from analyzer.attribution.targets import (
    TOP1,
    Arrays,
    Scores,
    expression,
    find_scores,
    is_expression,
    resolve_class,
    seed,
)
from analyzer.errors import InputError, UnsupportedError
from analyzer.gradient import Rule, inlined_operators, table_of
from analyzer.gradient.reverse import is_float
from analyzer.graph import Builder, Graph, Source, Value, normalize
from analyzer.graph.query import (
    FeatureMap,
    default_layer,
    feature_maps,
    find_tensors,
    image_input,
    image_layout,
    layouts,
    single_batch,
)
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
        heatmap: (rows, H, W) in [0, 1] at the resolution of the input.
        scores: (N, classes) as the model outputs them.
        target: class index per row; −1 where the target is an expression.
        layer: name of the feature map, or "" for methods that need none.
        method: name of the method.
        image: index of the image per row.
        diagnosis: a sentence per row whose map is empty, constant or not finite; "" where all is well.
        stripped: squashing functions that were left out in front of the target (Softmax…).
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
            layer = job.layer
            if layer == "auto" and not shapes and method.needs_layer and not any(isinstance(t, str) for t in targets):
                layer = self._layer_of_one(output)
            compiled = Compiled(graph, method, "", [], scores, outputs, target_inputs)
            for slot, (seeds, classes, about) in enumerate(seeded):
                suffix = f"_{slot}" if len(targets) > 1 else ""
                suffix += f"_{number}" if len(jobs) > 1 else ""
                feature = pick_layer(graph, layer, about) if method.needs_layer else None
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

    def _layer_of_one(self, output: str | None) -> str:
        """The default layer as it is found for a single picture, whose sizes are all known."""
        sizes = single_batch(self.plain.inputs)
        if not sizes:
            return "auto"
        graph = self.graph(sizes)
        return pick_layer(graph, "auto", find_scores(graph, output).logits).name

    def seeded(
        self, op: Builder, target_inputs: list[str], target: Any, scores: Scores, suffix: str, batch: Any
    ) -> tuple[dict[str, Value], Value, Value]:
        """(cotangents, classes, the tensor explained) of a target; `target_inputs` grows by the input it takes."""
        if isinstance(target, str):
            score = expression(op, target, self.arrays)
            return {score.name: op.ones_like(score)}, op.constant(np.array([TOP1], np.int64)), score
        if target is None:
            classes = op.graph.add_input(f"{PREFIX}/target{suffix}", np.dtype(np.int64), [batch])
            target_inputs.append(classes.name)
        else:
            check_class(scores, target)
            classes = op.constant(np.array([target], np.int64))
        flat, cotangent, resolved = seed(op, scores, classes)
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
        first = compiled[0]
        classes = [p[indices] for p in plans if not isinstance(p, str)]
        for given_classes in classes:
            check_class(first.scores, int(given_classes.max()))
        given = dict(feeds) | dict(zip(first.target_inputs, classes, strict=True))
        assert first.session is not None
        found = first.session.run(given, list(dict.fromkeys(n for one in compiled for n in one.names)))
        return [self._attribution(one, found, feeds, indices, slots) for one in compiled]

    def _attribution(
        self,
        compiled: Compiled,
        found: Mapping[str, np.ndarray],
        feeds: dict[str, np.ndarray],
        indices: np.ndarray,
        slots: list[Any],
    ) -> Attribution:
        """What a run gave for one method."""
        count = len(indices)
        per_slot = [tuple(found[n] for n in slot) for slot in compiled.slots]
        order = [(i, k) for i in range(count) for k in range(len(per_slot))]
        raw = np.stack([per_slot[k][0][i] for i, k in order])
        heat = np.stack([per_slot[k][1][i] for i, k in order])
        target = np.array([per_slot[k][2][i if len(per_slot[k][2]) > 1 else 0] for i, k in order], np.int64)
        result = Attribution(
            raw,
            heat,
            class_scores(compiled.scores, found[compiled.scores.output.name], count),
            target,
            compiled.layer,
            compiled.method.name,
            np.array([indices[i] for i, _ in order]),
            stripped=compiled.scores.stripped,
            details={
                name: np.stack([found[compiled.details[k][name]][i] for i, k in order])
                for name in (compiled.details[0] if compiled.details else {})
            },
            doubt=doubt_of(compiled.scores, found[compiled.scores.output.name], count) if (target >= 0).any() else "",
        )
        result.diagnosis = [
            diagnose_map(self, compiled, raw[r], feeds, int(i), slots[k] or int(target[r]))
            for r, (i, k) in enumerate(order)
        ]
        return result

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

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, kept under `key`; the least recently used go."""
        if key not in self._compiled:
            self._compiled[key] = make()
            if len(self._compiled) > self.SESSIONS:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return self._compiled[key]

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
        batched = frozenset(n for n, a in feeds.items() if a.ndim and len(a) == len(feeds[image.name]))
        fixed = self.fixed_batch or (None if scores.batched else 1)
        plain = self.kept(
            ("scores", tuple(sorted(shapes.items())), output),
            lambda: Session(graph, self.provider, outputs=[scores.output.name], **self.session_options),
        )
        values = class_scores(scores, plain.run(feeds)[scores.output.name], len(indices))
        raws, targets, details, layers = [], [], [], ""
        for row in range(len(indices)):
            slots = [p if isinstance(p, str) else int(p[indices[row]]) for p in plans]
            slots = [int(values[row].argmax()) if s == TOP1 else s for s in slots]
            for slot in slots:
                if not isinstance(slot, str):
                    check_class(scores, slot)
            one = {n: a[row : row + 1] if n in batched else a for n, a in feeds.items()}
            evaluator = Evaluator(self, chosen, one, batched, slots, job.layer, output, fixed)
            raw, said = chosen.recipe(evaluator, **job.options)
            raws.append(raw.astype(np.float32))
            details.append(said)
            targets += [TOP1 if isinstance(s, str) else s for s in slots]
            layers = evaluator.feature.name if chosen.needs_layer else ""
        raw = np.concatenate(raws)
        heat = heatmaps(raw, chosen.kind, "N" + evaluator.axes, evaluator.size)
        return Attribution(
            raw,
            heat,
            values,
            np.array(targets, np.int64),
            layers,
            job.method,
            np.repeat(indices, len(plans)),
            [diagnose_runs(r) for r in raw],
            scores.stripped,
            {name: np.concatenate([d[name] for d in details]) for name in details[0]},
            scores.doubt if max(targets) >= 0 else "",
        )

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


def class_scores(scores: Scores, output: np.ndarray, count: int) -> np.ndarray:
    """(N, classes) as the model outputs them; a segmenter's are means over space."""
    if scores.space and output.ndim == len(scores.logits.shape):
        output = output.mean(axis=scores.space)
    return output.reshape(count if scores.batched else 1, -1)


def doubt_of(scores: Scores, output: np.ndarray, count: int) -> str:
    """`Scores.doubt`, and what only a run shows: rows that are no images, as boxes behind NonMaxSuppression."""
    if scores.doubt or not scores.batched or not output.ndim or len(output) == count:
        return scores.doubt
    return (
        f"{scores.output.name!r} gave {len(output)} rows for {count} image{'s' * (count > 1)}: they are no scores of "
        "classes; name the tensor that held the scores before boxes were chosen, by an expression (docs/targets.md)"
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
        for name in ("raw", "heatmap", "scores", "target", "image")
    }
    return Attribution(
        layer=first.layer,
        method=first.method,
        diagnosis=[d for p in parts for d in p.diagnosis],
        stripped=first.stripped,
        details={n: np.concatenate([p.details[n] for p in parts]) for n in first.details},
        doubt=first.doubt,
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
        following = [n for n in value.outputs if n.op in ("Cast", "DequantizeLinear", "Transpose", "Identity")]
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
