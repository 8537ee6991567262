"""Grad-CAM of every class at once: one forward pass, then the nodes after the layer for batches of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analyzer.analysis.linear import last_linear
from analyzer.attribution.compiler import PREFIX
from analyzer.attribution.layers import channels_first, float_image, pick_layer
from analyzer.attribution.model import Model, sizes_of
from analyzer.attribution.registry import Context
from analyzer.errors import InputError, UnsupportedError
from analyzer.gradient.registry import cotangent_type
from analyzer.graph import Builder, Graph
from analyzer.graph.cut import behind, frontier
from analyzer.graph.query import image_input
from analyzer.runtime import Session
from analyzer.tasks import recognise
from analyzer.tasks.base import check_class

CLASSES_PER_RUN = 64


def class_maps(
    model: Any,
    image: Any,
    classes: Sequence[int] | None = None,
    layer: str = "auto",
    output: str | None = None,
) -> np.ndarray:
    """ReLU(Σ_k w_ck A_k), w_ck = mean_ij ∂y_c/∂A_kij, of one picture: (classes, h, w) float32, before normalization.

    Args:
        model: a Model or Explainer, whose sessions are reused; or path, bytes or ModelProto.
        image: the input of one picture, as for `Explainer.explain`.
        classes: class indices; None for all.
        layer, output: as for `Explainer.explain`.

    Raises:
        InputError: more than one picture, or a class that does not exist.
        UnsupportedError: as `explain`; also if the number of classes is not fixed, or the layer has no batch axis.
    """
    model = model if isinstance(model, Model) else Model(model)
    feeds = model.feeds(image)
    name = image_input(model.plain).name
    if len(feeds[name]) != 1:
        raise InputError(f"class maps take one picture at a time, not {len(feeds[name])}")
    shapes = sizes_of(feeds)
    about = (model.declared.key, tuple(model.labels or ()))
    key = ("class maps", layer, output, *about, tuple(sorted(shapes.items())))
    run = model.kept(key, lambda: _ClassMaps(model, shapes, layer, output))
    return run.maps(feeds, classes)


class _ClassMaps:
    """The sessions of one layer: one up to it, and one after it for a batch of classes."""

    def __init__(self, model: Model, shapes: dict[str, tuple[int, ...]], layer: str, output: str | None) -> None:
        graph = model.graph(shapes)
        self.scores = recognise(graph, output, model.declared, model.labels)
        if self.scores.per_picture:
            raise UnsupportedError(
                f"{graph.name}: a model of {self.scores.kind} has no score per class ({self.scores.evidence})",
                "use `explain`, which explains each prediction by itself",
            )
        self.feature = pick_layer(graph, layer, self.scores.logits)
        if self.feature.layout.axes[0] != "N":
            raise UnsupportedError(f"the first axis of {self.feature.name!r} is not the batch", "choose another layer")
        self.classes = self.scores.classes or 0
        if not self.classes:
            raise UnsupportedError(f"{graph.name}: the file does not fix the number of classes")
        self.count = CLASSES_PER_RUN if self.scores.batched and not model.fixed_batch else 1
        batched = {n: (self.count, *s[1:]) if n == image_input(graph).name else s for n, s in shapes.items()}
        wide = model.graph(batched)
        self.tail, self.weights, names = self._tail(model, wide, output)
        wanted = [n for n in names if n not in shapes]
        outputs = {n: graph.add_output(graph[n], f"{PREFIX}/head_{i}").name for i, n in enumerate(wanted)}
        self.head_outputs = outputs
        self.head = model.session(graph, list(outputs.values()))

    def _tail(self, model: Model, graph: Graph, output: str | None) -> tuple[Session, str, list[str]]:
        """(session that gives (classes, K) weights, its output, what it may read of the head; the layer first)"""
        op = Builder(graph, PREFIX)
        scores = recognise(graph, output, model.declared, model.labels)
        last = last_linear(graph, scores.logits) if not scores.space else None
        if last is not None:
            value, rows = last
            self.rows = lambda classes: rows[classes]
            seed = graph.add_input(f"{PREFIX}/rows", rows.dtype, [self.count, rows.shape[1]])
        else:
            self.rows = lambda classes: classes
            chosen = graph.add_input(f"{PREFIX}/classes", np.dtype(np.int64), [self.count])
            line = op.constant(np.arange(self.classes, dtype=np.int64))
            value, seed = scores.spread(op, op.Equal(op.Unsqueeze(chosen, [1]), line))
            seed = op.cast(seed, cotangent_type(value))
        self.chosen = graph.new_inputs[-1].name
        image, axes = float_image(graph)
        feature = pick_layer(graph, self.feature.name, scores.logits)
        ctx = Context(op, {value.name: seed}, scores.logits, image, axes, feature)
        weights = op.ReduceMean(ctx.gradients, ctx.space, keepdims=1)
        name = graph.add_output(op.Reshape(weights, [self.count, -1]), f"{PREFIX}/weights").name
        beside = frontier(graph, self.feature.name, [name])
        names = [self.feature.name, *beside]
        cut = behind(graph, names, [name])
        return model.session(cut, [name]), name, names

    def maps(self, feeds: dict[str, np.ndarray], classes: Sequence[int] | None) -> np.ndarray:
        chosen = np.arange(self.classes) if classes is None else np.asarray(classes, np.int64)
        if not chosen.size:
            raise InputError("no classes given")
        if chosen.min() < 0:
            raise InputError(f"class {chosen.min()} does not exist")
        check_class(self.scores, int(chosen.max()))
        found = self.head.run(feeds)
        known = feeds | {name: found[o] for name, o in self.head_outputs.items()}
        tiled = {n: self._tiled(known[n]) for n in self.tail.inputs if n != self.chosen}
        rows = []
        for start in range(0, len(chosen), self.count):
            part = chosen[start : start + self.count]
            given = np.concatenate([part, np.repeat(part[-1:], self.count - len(part))])
            weights = self.tail.run(tiled | {self.chosen: self.rows(given)}, [self.weights])[self.weights]
            rows.append(weights[: len(part)])
        activations = self._activations(known[self.feature.name])
        with np.errstate(all="ignore"):  # of a picture whose values are not finite
            maps = np.concatenate(rows).astype(np.float32) @ activations.reshape(len(activations), -1)
        return np.maximum(maps, 0).reshape(len(chosen), *activations.shape[1:])

    def _tiled(self, array: np.ndarray) -> np.ndarray:
        return np.repeat(array, self.count, axis=0) if array.ndim and len(array) == 1 and self.count > 1 else array

    def _activations(self, array: np.ndarray) -> np.ndarray:
        """(K, …space) float32"""
        return np.ascontiguousarray(channels_first(array, self.feature.layout)[0], np.float32)
