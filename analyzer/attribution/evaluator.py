"""The model as a function, for methods that evaluate it many times: scores, gradients, and the tail after a layer.

A method of many runs (`@method(…, runs=True)`) is given an `Evaluator` of one image and returns its values for all
targets at once, (T, …), and what else it has to say as {name: (T, …)}. Images and masks are made as they are needed, a
batch at a time, so memory stays bounded; a model whose file fixes the batch is run at that batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from analyzer.analysis.feature_maps import FeatureMap
from analyzer.analysis.layouts import Layout
from analyzer.attribution.asked import task_of
from analyzer.attribution.centers import located
from analyzer.attribution.layers import channels_first, float_image, pick_layer
from analyzer.attribution.linear_head import check_linear_head
from analyzer.attribution.lines import Centers, Located
from analyzer.attribution.model import Model
from analyzer.attribution.question import Job, Question
from analyzer.attribution.registry import Context, Method
from analyzer.attribution.seeds import PREFIX, arrays_of, seeded
from analyzer.errors import InputError, UnsupportedError
from analyzer.graph import Builder, Graph, Value
from analyzer.graph.cut import behind, frontier
from analyzer.graph.nodes import fixed_sizes
from analyzer.runtime import Session
from analyzer.tasks import Task

IMAGES = 16  # of one run, at most
NUMBERS = {"cpu": 320_000, "gpu": 2_500_000}  # in the images of one run: two of 224×224; more leave a core's cache
TAIL_BYTES = 32 << 20  # of the feature maps of one run of a tail

Make = Callable[[np.ndarray], np.ndarray]
Found = tuple[np.ndarray, dict[str, np.ndarray]]


@dataclass
class Program:
    """A session with the names of what goes in and comes out."""

    session: Session
    image: str
    image_axes: str
    targets: list[str]
    outputs: dict[str, list[str]]
    scores: Task
    feature: FeatureMap | None = None
    names: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass
class Evaluator:
    """One image and its targets.

    Attributes:
        feeds: every input of the model, of one image.
        batched: those whose first axis counts images.
        slots: an expression, or a class index each.
        layer: name of the layer for methods that need one.
        fixed: the batch that the file fixes, None where it is free.
    """

    model: Model
    question: Question
    method: Method
    feeds: dict[str, np.ndarray]
    batched: frozenset[str]
    slots: list[Any]
    layer: str
    fixed: int | None
    progress: Callable[[str, int, int], None] | None = None

    # ---- What a method asks ----

    @cached_property
    def image(self) -> np.ndarray:
        """The image as the model's first floating-point tensor, one image without the batch axis, float32."""
        return self._image_of(self.feeds)

    @cached_property
    def grey(self) -> np.ndarray | None:
        """The same of a mid-grey picture, where the preprocessing is known."""
        given = self.question.grey
        if given is None:
            return None
        given = dict(given) if isinstance(given, Mapping) else {self.model.image: given}
        return self._image_of(self.feeds | given)

    def _image_of(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        name, batch = self._program("scores", self._batch(1)).image, self._batch(1)
        if name in feeds:
            return feeds[name][0].astype(np.float32)
        graph = self.model.graph(self._shapes(batch))
        given = {n: np.repeat(a, batch, axis=0) if n in self.batched else a for n, a in feeds.items()}
        (found,) = self.model.run(graph, given, [graph.add_output(graph[name]).name])
        return np.asarray(found[0], np.float32)

    @property
    def axes(self) -> str:
        """What the axes of `image` are: CHW, HWC…"""
        return self._program("scores", self._batch(1)).image_axes[1:]

    @property
    def space(self) -> tuple[int, ...]:
        """The axes of `image` that carry space."""
        return tuple(i for i, a in enumerate(self.axes) if a in "DHW")

    @property
    def size(self) -> tuple[int, ...]:
        """The image's size along them."""
        return tuple(self.image.shape[a] for a in self.space)

    def over_image(self, maps: np.ndarray) -> np.ndarray:
        """(n, H, W) broadcastable to images: an axis of 1 for the channels."""
        return np.expand_dims(maps, 1 + self.axes.index("C"))

    def scores(self, make: Make, count: int, what: str = "score") -> np.ndarray:
        """(T, count): the scores of `count` images, which `make` gives for an array of indices.

        Args:
            what: "score" (the logit, or the expression), "probability" (after the model's own squashing function,
                softmax where it has none) or "top" (the class with the highest score, int64).
        """
        return self._evaluate("scores", make, count, [what])[what]

    @property
    def plain_scores(self) -> np.ndarray:
        """(T,) the scores of the image itself."""
        return self.scores(lambda index: np.repeat(self.image[None], len(index), axis=0), 1)[:, 0]

    def scores_and_labels(self, make: Make, count: int, what: str = "score") -> tuple[np.ndarray, np.ndarray]:
        """`scores`, and the (T, count) classes with the highest score."""
        found = self._evaluate("scores", make, count, [what, "top"])
        return found[what], found["top"]

    def gradients(self, make: Make, count: int, add: Callable[[np.ndarray, np.ndarray], None]) -> np.ndarray:
        """(T, count) scores of images; `add` is given the indices and (T, n, …) gradients of every batch."""
        return self._evaluate("gradients", make, count, ["score"], ("gradient", add))["score"]

    def outputs(self, make: Make, count: int, add: Callable[[int, Any], None]) -> None:
        """`add` is given the number of every image and what the model says of it, as the task reads it."""
        batch = self._batch(count)
        task = self._program("outputs", batch).scores
        for indices, found in self._runs("outputs", batch, make, count):
            said = {name: known.real(found[name]) for name, known in task.reading.items()}
            for row, index in enumerate(indices):
                add(int(index), task.answer(said, row, batch))

    @cached_property
    def task(self) -> Task:
        """The task that the targets are of."""
        return self._program("outputs", self._batch(1)).scores

    @cached_property
    def activations(self) -> np.ndarray:
        """The layer as it is in the model, one image with its batch axis."""
        return self._head[self.feature.name][:1]

    @property
    def feature(self) -> FeatureMap:
        """The layer."""
        found = self._program("scores", self._batch(1)).feature
        assert found is not None
        return found

    @property
    def located(self) -> Located:
        """Where the layer's units lie in the image; nothing for methods without a layer."""
        return located(self.model, self.feature, self.question.placement) if self.method.needs_layer else Located()

    @property
    def centers(self) -> Centers | None:
        """Of the layer's units in the image; None for half-pixel centers."""
        return self.located.centers

    @property
    def maps(self) -> np.ndarray:
        """A: (K, h, w) float32, class and register tokens left out."""
        return channels_first(self.activations.astype(np.float32), self.feature.layout)[0]

    def tail_scores(self, make: Make, count: int, what: str = "score") -> np.ndarray:
        """(T, count): the scores when the layer is multiplied by masks, (n, …) broadcastable to it each.

        Only the nodes after the layer run; their other inputs are computed once.
        """
        return self._evaluate("tail", make, count, [what])[what]

    @cached_property
    def linear_effect(self) -> tuple[np.ndarray, np.ndarray] | None:
        """What each channel contributes to the scores, Σ_ij g_kij A_kij (T, K), and the scores (T, 1).

        None where more than global average pooling and a linear layer follow. One run, and no other for `maps`.
        """
        size = self._batch(1)
        try:
            program = self._program("effect", size, check_linear_head)
        except UnsupportedError:
            return None
        found = self._run(program, self._tiled(size, program.session.inputs))
        self.__dict__["_head"] = {self.feature.name: found[program.outputs["activations"][0]]}
        maps, layout = self.maps, self.feature.layout
        gradients = [channels_first(found[n][:1].astype(np.float32), layout)[0] for n in program.outputs["gradient"]]
        axes = tuple(range(1, maps.ndim))
        scores = np.stack([found[n].reshape(-1)[:1] for n in program.outputs["score"]]).astype(np.float64)
        return np.stack([(g * maps).sum(axis=axes, dtype=np.float64) for g in gradients]), scores

    # ---- Running ----

    def _step(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(self.method.name, done, total)

    def _batch(self, count: int) -> int:
        """Images per run: as even as can be, since the last run is filled up."""
        room = NUMBERS["cpu" if self.model.provider == "cpu" else "gpu"]
        size = max((math.prod(self.feeds[n].shape[1:]) for n in self.batched), default=1)
        most = min(IMAGES, max(1, room // max(1, size)))
        return self.fixed or math.ceil(count / math.ceil(count / most))

    def _evaluate(
        self,
        kind: str,
        make: Make,
        count: int,
        wanted: Sequence[str],
        each: tuple[str, Callable[[np.ndarray, np.ndarray], None]] | None = None,
    ) -> dict[str, np.ndarray]:
        batch = self._batch(count) if kind != "tail" else self._tail_batch(count)
        program = self._program(kind, batch)
        parts: dict[str, list[np.ndarray]] = {w: [] for w in wanted}
        for indices, found in self._runs(kind, batch, make, count):
            for key in wanted:
                parts[key].append(np.stack([found[n].reshape(-1)[: len(indices)] for n in program.outputs[key]]))
            if each is not None:
                each[1](indices, np.stack([found[n][: len(indices)] for n in program.outputs[each[0]]]))
        return {key: np.concatenate(rows, axis=1) for key, rows in parts.items()}

    def _runs(
        self, kind: str, batch: int, make: Make, count: int
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """(indices, what the program gives for these images), batch by batch; the last one is filled up."""
        program = self._program(kind, batch)
        constant = self._constant(program, batch, kind)
        name = f"{self.feature.name}/right" if kind == "tail" else program.image
        for start in range(0, count, batch):
            self._step(start, count)
            indices = np.arange(start, min(start + batch, count))
            given = make(indices)
            if len(given) < batch:
                given = np.concatenate([given, np.repeat(given[-1:], batch - len(given), axis=0)])
            yield indices, self._run(program, constant | {name: given})
        self._step(count, count)

    def _run(self, program: Program, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {}
        for name, value in feeds.items():
            wanted = program.session.inputs[name].type
            if wanted in _INTEGERS and value.dtype.kind == "f":
                value = np.clip(np.rint(value), *_INTEGERS[wanted][1]).astype(_INTEGERS[wanted][0])
            given[name] = value
        return program.session.run(given)

    def _tail_batch(self, count: int) -> int:
        return self.fixed or max(1, min(count, TAIL_BYTES // max(1, self.activations.nbytes)))

    def _shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        return {n: (batch, *a.shape[1:]) if n in self.batched else tuple(a.shape) for n, a in self.feeds.items()}

    def _tiled(self, batch: int, wanted: Any) -> dict[str, np.ndarray]:
        feeds = {
            n: np.repeat(a, batch, axis=0) if n in self.batched and len(a) != batch else a
            for n, a in self.feeds.items()
            if n in wanted
        }
        targets = [n for n in wanted if n.startswith("xai/target")]
        classes = [s for s in self.slots if not isinstance(s, str)] if targets else []
        return feeds | {n: np.full(batch, c, np.int64) for n, c in zip(targets, classes, strict=True)}

    def _constant(self, program: Program, batch: int, kind: str) -> dict[str, np.ndarray]:
        """What every run is fed beside its images or masks."""
        feeds = self._tiled(batch, program.session.inputs)
        if kind != "tail":
            return {n: a for n, a in feeds.items() if n != program.image}
        feeds[f"{self.feature.name}/left"] = self.activations
        for name in program.names[1:]:
            if name in program.session.inputs and name not in feeds:
                found, wanted = self._head[name], program.shapes[name]
                repeats = wanted[0] // found.shape[0] if wanted and found.ndim else 1
                feeds[name] = np.concatenate([found] * repeats) if repeats > 1 else found
        return feeds

    @cached_property
    def _head(self) -> dict[str, np.ndarray]:
        """The layer, and what the tail reads beside it, of this image."""
        program = self._program("head", self._batch(1))
        feeds = self._tiled(self._batch(1), program.session.inputs)
        found = program.session.run(feeds)
        return {n: found[o] for n, o in zip(program.names, program.outputs["head"], strict=True)} | feeds

    # ---- Compiling ----

    def _program(self, kind: str, batch: int, check: Callable[[Context], None] | None = None) -> Program:
        slots = [s if isinstance(s, str) else None for s in self.slots]
        shapes = tuple(sorted(self._shapes(batch).items()))
        job = Job("", self.layer if self.method.needs_layer else "")
        key = ("evaluator", kind, shapes, replace(self.question, jobs=(job,)).compiled(slots).key)
        return self.model.kept(key, lambda: self._compile(kind, batch, check))

    def _compile(self, kind: str, batch: int, check: Callable[[Context], None] | None) -> Program:
        graph, arrays = self.model.graph(self._shapes(batch)), arrays_of(self.model, self.question)
        op = Builder(graph, PREFIX)
        scores = task_of(self.model, self.question, graph)
        image, axes = float_image(graph)
        outputs: dict[str, list[str]] = {}
        targets: list[str] = []
        feature = None
        for slot, target in enumerate(self.slots if kind != "outputs" else ()):
            suffix = f"_{slot}" if len(self.slots) > 1 else ""
            given = target if isinstance(target, str) else None
            seeds, _, about = seeded(op, targets, given, scores, suffix, batch, arrays, known=True)
            if self.method.needs_layer:
                feature = pick_layer(graph, self.layer, about)
            ctx = Context(op, seeds, about, image, axes, feature)
            if check is not None:
                check(ctx)
            found = _scores(op, seeds, None if given else scores)
            if kind == "gradients":
                found["gradient"] = ctx.gradient(image)
            if kind == "effect":
                assert feature is not None
                found |= {"gradient": ctx.gradient(feature.value), "activations": feature.value}
            for key, value in found.items():
                outputs.setdefault(key, []).append(graph.add_output(value, f"{PREFIX}/{key}{suffix}").name)
        if kind == "outputs":
            outputs = {"outputs": list(scores.reading)}
        names = [n for group in outputs.values() for n in group]
        self._check_batch(graph, outputs, batch)
        program = Program(None, image.name, axes, targets, outputs, scores, feature)  # type: ignore[arg-type]
        if kind in ("head", "tail"):
            self._cut(graph, program, names)
        if kind == "tail":
            graph = behind(graph, program.names, names, product=program.names[0])
        elif kind == "head":
            existing = {v.name for v in graph.inputs}
            program.names = [n for n in program.names if n not in existing]
            names = [graph.add_output(graph[n], f"{PREFIX}/head_{i}").name for i, n in enumerate(program.names)]
            program.outputs = {"head": names}
        elif image.name not in {v.name for v in graph.inputs} and kind != "effect":
            graph = behind(graph, [image.name], names)
        program.session = self.model.session(graph, names)
        return program

    def _cut(self, graph: Graph, program: Program, names: list[str]) -> None:
        """Where the graph is cut into head and tail: the layer, and other tensors of the head that the tail reads."""
        assert program.feature is not None
        layer = program.feature
        if layer.layout.axes[0] != "N":
            raise UnsupportedError(
                f"{graph.name}: the first axis of {layer.name!r} is not the batch", "choose another --layer"
            )
        program.names = [layer.name, *frontier(graph, layer.name, names)]
        for name in program.names:
            sizes = fixed_sizes(graph[name].shape or ())
            if sizes is None:
                raise UnsupportedError(f"{graph.name}: the shape of {name!r} is known only at run time")
            program.shapes[name] = sizes

    def _check_batch(self, graph: Graph, outputs: dict[str, list[str]], batch: int) -> None:
        for name in outputs.get("score", []):
            shape = graph[name].shape
            if shape is not None and math.prod(d for d in shape if isinstance(d, int)) not in (0, batch) and batch > 1:
                raise InputError(
                    f"{graph.name}: the target has shape {list(shape)} for {batch} images, not one number per image",
                    "use a target whose first axis is the batch",
                )


_INTEGERS = {
    "tensor(uint8)": (np.uint8, (0, 255)),
    "tensor(int8)": (np.int8, (-128, 127)),
    "tensor(int32)": (np.int32, (-(2**31), 2**31 - 1)),
    "tensor(int64)": (np.int64, (-(2**53), 2**53)),
}


def _scores(op: Builder, seeds: Any, scores: Task | None) -> dict[str, Value]:
    """(N,) each: the score of a target, its probability, and the class with the highest score."""
    float32 = np.dtype(np.float32)
    ((name, seed),) = seeds.items()
    tensor = op.graph[name]
    rank = op.rank(tensor)
    score = op.ReduceSum(op.Mul(tensor, seed), list(range(1, rank)), keepdims=0) if rank > 1 else op.Mul(tensor, seed)
    score = op.cast(score, float32)
    if scores is None:
        top = op.cast(op.Mul(score, 0.0), np.dtype(np.int64))
        return {"score": score, "probability": score, "top": op.Sub(top, np.int64(1))}
    probability = op.cast(scores.probability(op, tensor, seed), float32)
    return {"score": score, "probability": probability, "top": op.ArgMax(scores.shown(op), axis=1, keepdims=0)}


def channel_mask(layout: Layout, rank: int, rows: np.ndarray) -> np.ndarray:
    """(n, K) over the channels of a layer of that layout."""
    shape = [1] * rank
    shape[0], shape[layout.channel] = rows.shape
    return rows.reshape(shape)


def position_mask(layout: Layout, rank: int, rows: np.ndarray) -> np.ndarray:
    """(n, h, w) over the positions of a layer of that layout; class and register tokens are left as they are."""
    if "L" in layout.axes:
        flat = rows.reshape(len(rows), -1)
        rows = np.pad(flat, ((0, 0), (layout.prefix, layout.suffix)), constant_values=1)
    shape = [1] * rank
    for axis, size in zip((0, *layout.spatial), rows.shape, strict=True):
        shape[axis] = size
    return rows.reshape(shape)
