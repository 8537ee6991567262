"""Why a map is empty, constant or not finite, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from analyzer.attribution.asked import task_of
from analyzer.attribution.compiler import Compiled
from analyzer.attribution.finite import Origin, not_finite
from analyzer.attribution.layers import float_image, pick_layer
from analyzer.attribution.model import Model, sizes_of
from analyzer.attribution.question import Question
from analyzer.attribution.registry import Context
from analyzer.attribution.seeds import arrays_of, seeded
from analyzer.gradient import GRADIENT, pullback
from analyzer.gradient.registry import primal
from analyzer.gradient.rules.quantization import FLOAT32, within_range
from analyzer.graph import Builder
from analyzer.graph.query import ancestors, descendants, image_input
from analyzer.runtime import Session


@dataclass(frozen=True)
class Explained:
    """A run of one method: what `diagnose_map` looks into again."""

    model: Model
    question: Question
    compiled: Compiled
    feeds: Mapping[str, np.ndarray]

    @property
    def layer(self) -> str:
        return self.compiled.layer


def diagnose_map(run: Explained, raw: np.ndarray, image: int, target: int | str) -> str:
    """A sentence where a finite `raw` is no map of `target` (a class or an expression), "" where it is."""
    if raw.size and raw.max() > raw.min():
        return ""
    if run.layer:
        return _flat(run, image, target)
    return f"constant map: every value is {raw.flat[0]:g}" if raw.any() else _zero_gradient(run, image, target)


def diagnose_runs(raw: np.ndarray) -> str:
    """The same for a method of many runs."""
    if raw.max() > raw.min():
        return ""
    return f"constant map: every value is {raw.flat[0]:g}; no change to the image or the layer changes the score"


def diagnose_not_finite(origin: Origin | None, many_runs: bool) -> str:
    """The same for a picture whose scores or map are not finite, by where that began."""
    if origin is not None:
        return not_finite(origin)
    if many_runs:
        return "the model's values are not finite for some of the perturbed pictures"
    return "the gradient overflows: it is not finite although the forward pass is"


def _zero_gradient(run: Explained, image: int, target: int | str) -> str:
    return _blocking_quantiser(run, image, target) or (
        f"empty map: the gradient of {run.compiled.scores.logits.name!r} is zero everywhere; dead or saturated "
        "units block every path to the input"
    )


def _flat(run: Explained, image: int, target: int | str) -> str:
    """Looks at the layer and its gradient to say why the map has one value only."""
    layer = run.layer
    found, spatial = _found(run, target, _layer_and_gradient)
    activations = found["activations"][image].astype(np.float64)
    if not activations.any():
        return f"empty map: the layer {layer!r} is zero everywhere for this image. Try another layer"
    if activations.max() == activations.min() or _no_space(activations, spatial):
        return f"constant map: {layer!r} has the same activations at every position for this image. Try another layer"
    if "gradient" not in found:
        return f"constant map: all values of the map of {layer!r} are equal"
    gradient = found["gradient"][image].astype(np.float64)
    if not gradient.any():
        if blocked := _blocking_quantiser(run, image, target):
            return blocked
        stripped = run.compiled.scores.stripped
        tail = f" (the final {stripped[0]} is already removed)" if stripped else ""
        return (
            f"empty map: the gradient of the target with respect to {layer!r} is zero for this image; "
            f"units after the layer are saturated or dead{tail}"
        )
    axes = tuple(a - 1 for a in spatial)
    if (gradient.mean(axis=axes) <= 0).all():
        return f"empty map: all channel weights of {layer!r} are ≤ 0. Try layer-cam or another layer"
    return f"empty map: the weighted sum of {layer!r} is ≤ 0 everywhere, so its ReLU is 0. Try another layer"


def _blocking_quantiser(run: Explained, image: int, target: int | str) -> str:
    """Names the quantisers that the gradient reaches and does not pass, and how much of each saturates; "" for none."""
    if not run.model.quantised:
        return ""
    found = _found(run, target, _quantisers)
    said = []
    for at, name in enumerate(found.about):
        before, after, inside = (
            found.values[f"{part}_{at}"][image if len(found.values[f"{part}_{at}"]) > 1 else 0] for part in _PARTS
        )
        if after.any() and not before.any():
            said.append(f"{name} ({1 - inside.mean():.0%} of its values are saturated)")
    if not said:
        return ""
    several, clip = ("s", "clip") if len(said) > 1 else ("", "clips")
    return f"empty map: no gradient passes the quantizer{several} {', '.join(said[:3])}, which {clip} values"


def _no_space(activations: np.ndarray, spatial: tuple[int, ...]) -> bool:
    axes = tuple(a - 1 for a in spatial)
    return bool((activations.max(axis=axes) == activations.min(axis=axes)).all())


# ---- What is read, by one session per question that is kept ----

_PARTS = ("before", "after", "inside")


class _Read(NamedTuple):
    """Tensors of a graph by what they are to the diagnosis, and what else it says of them."""

    values: Mapping[str, Any]
    about: Any


def _layer_and_gradient(ctx: Context, run: Explained) -> _Read:
    """The layer and, for methods that need it, its gradient; the layer's axes in space."""
    values = {"activations": ctx.layer.value}
    if run.compiled.method.needs_gradient:
        values["gradient"] = ctx.gradient(ctx.layer.value)
    return _Read(values, ctx.layer.layout.spatial)


def _quantisers(ctx: Context, run: Explained) -> _Read:
    """The gradients before and after each quantiser on the way and where it does not saturate; their names."""
    graph, op = ctx.graph, ctx.op
    start = run.layer or ctx.image.name
    between = descendants(graph, [start], graph.forward_nodes()) & ancestors(graph, ctx.seeds)
    nodes = [n for n in graph.forward_nodes() if n.op == "QuantizeLinear" and n.outputs[0].name in between]
    nodes = [n for n in nodes if n.inputs[0].name in between]
    wrt = list(dict.fromkeys(v.name for n in nodes for v in (n.inputs[0], n.outputs[0])))
    gradients = pullback(op, ctx.seeds, wrt, ctx.rules(GRADIENT), narrow=False) if wrt else {}
    values: dict[str, Any] = {}
    names = list[str]()
    for node in nodes:
        before, after = (gradients[v.name] for v in (node.inputs[0], node.outputs[0]))
        if before is not None and after is not None:
            inside = within_range(op, primal(graph, node, frozenset(), 3), FLOAT32)
            parts = zip(_PARTS, (before, after, inside), strict=True)
            values |= {f"{part}_{len(names)}": value for part, value in parts}
            names.append(repr(node.name or node.outputs[0].name))
    return _Read(values, names)


def _found(run: Explained, target: int | str, read: Callable[[Context, Explained], _Read]) -> _Read:
    """What `read` asks for, as arrays: one run of a session that is kept for the question and takes any class."""
    slot = target if isinstance(target, str) else None
    shapes = sizes_of(run.feeds)
    question = replace(run.question, jobs=()).compiled([slot]).key
    key = ("diagnosis", read.__name__, question, run.layer, run.compiled.method.name, tuple(sorted(shapes.items())))

    def made() -> tuple[Session | None, dict[str, str], list[str], Any]:
        graph, inputs = run.model.graph(shapes), list[str]()
        op = Builder(graph, "diagnosis")
        scores = task_of(run.model, run.question, graph)
        batch = next(iter(image_input(graph).shape or ()), None)
        seeds, _, about = seeded(op, inputs, slot, scores, "", batch, arrays_of(run.model, run.question))
        image, axes = float_image(graph)
        feature = pick_layer(graph, run.layer, graph[run.layer]) if run.layer else None
        values, more = read(Context(op, seeds, about, image, axes, feature), run)
        outputs = {name: graph.add_output(value, f"diagnosis/{name}").name for name, value in values.items()}
        return run.model.session(graph, list(outputs.values())) if outputs else None, outputs, inputs, more

    session, outputs, inputs, about = run.model.kept(key, made)
    if session is None:
        return _Read({}, about)
    count = len(run.feeds[run.model.image])
    feeds = {**run.feeds, **{name: np.full(count, target, np.int64) for name in inputs}}
    found = session.run({n: a for n, a in feeds.items() if n in session.inputs})
    return _Read({name: found[output] for name, output in outputs.items()}, about)
