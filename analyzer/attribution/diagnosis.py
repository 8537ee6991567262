"""Why a map is empty, constant or not finite, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyzer.attribution.finite import Origin, not_finite
from analyzer.attribution.registry import Context
from analyzer.graph import Builder, Graph
from analyzer.runtime import Session

if TYPE_CHECKING:
    from analyzer.attribution.engine import Compiled, Explainer


def diagnose_map(
    explainer: Explainer,
    compiled: Compiled,
    raw: np.ndarray,
    feeds: dict[str, np.ndarray],
    image: int,
    target: int | str,
) -> str:
    """A sentence where a finite `raw` is no map of `target` (a class or an expression), "" where it is."""
    if raw.size and raw.max() > raw.min():
        return ""
    if not compiled.layer:
        return (
            _zero_gradient(explainer, compiled, feeds, image, target)
            if not raw.any()
            else f"every value is {raw.flat[0]:g}"
        )
    return _flat(explainer, compiled, feeds, image, target)


def diagnose_runs(raw: np.ndarray) -> str:
    """The same for a method of many runs."""
    if raw.max() > raw.min():
        return ""
    return f"every value is {raw.flat[0]:g}: nothing that was done to the image or the layer speaks for the target"


def diagnose_not_finite(origin: Origin | None, many_runs: bool) -> str:
    """The same for a picture whose scores or map are not finite, by where that began."""
    if origin is not None:
        return not_finite(origin)
    if many_runs:
        return "the model's values are not finite for some of the altered pictures that the method gave it"
    return "the gradient is not finite although the forward pass is: it overflows"


def _zero_gradient(
    explainer: Explainer, compiled: Compiled, feeds: dict[str, np.ndarray], image: int, target: int | str
) -> str:
    return _blocking_quantiser(explainer, compiled, feeds, image, target) or (
        f"the gradient of {compiled.scores.logits.name!r} is zero everywhere: every path to the input is blocked "
        "(dead or saturated units)"
    )


def _flat(explainer: Explainer, compiled: Compiled, feeds: dict[str, np.ndarray], image: int, target: int | str) -> str:
    """Looks at the layer and its gradient to say why the map has one value only."""
    layer = compiled.layer
    found = _layer_and_gradient(explainer, compiled, feeds, target)
    activations = found["activations"][image].astype(np.float64)
    if not activations.any():
        return f"the layer {layer!r} is zero everywhere for this image: all its units are dead"
    if activations.max() == activations.min() or _no_space(activations, found["spatial"]):
        return f"the layer {layer!r} has the same activations at every position for this image"
    if "gradient" not in found:
        return f"the map of {layer!r} has one value only"
    gradient = found["gradient"][image].astype(np.float64)
    if not gradient.any():
        if blocked := _blocking_quantiser(explainer, compiled, feeds, image, target):
            return blocked
        tail = f"; {compiled.scores.stripped[0]} is already left out" if compiled.scores.stripped else ""
        return (
            f"the gradient of the target with respect to {layer!r} is zero for this image: "
            f"units behind the layer are saturated or dead{tail}"
        )
    axes = tuple(a - 1 for a in found["spatial"])
    if (gradient.mean(axis=axes) <= 0).all():
        return f"no channel of {layer!r} speaks for the target: all its channel weights are ≤ 0"
    return f"no position of {layer!r} speaks for the target: the weighted sum is ≤ 0 everywhere, and ReLU cuts it"


def _blocking_quantiser(
    explainer: Explainer, compiled: Compiled, feeds: dict[str, np.ndarray], image: int, target: int | str
) -> str:
    """Names the quantisers that the gradient reaches and does not pass, and how much of each saturates; "" for none."""
    from analyzer.attribution.engine import float_image
    from analyzer.gradient import pullback
    from analyzer.gradient.registry import primal
    from analyzer.gradient.rules.quantization import FLOAT32, within_range
    from analyzer.graph.query import ancestors, descendants

    if not explainer.quantised:
        return ""
    graph, op, ctx = _context(explainer, compiled, feeds, target)
    start = compiled.layer or float_image(graph)[0].name
    between = descendants(graph, [start]) & ancestors(graph, ctx.seeds)
    nodes = [n for n in graph.forward_nodes() if n.op == "QuantizeLinear" and n.outputs[0].name in between]
    nodes = [n for n in nodes if n.inputs[0].name in between]
    wrt = list(dict.fromkeys(v.name for n in nodes for v in (n.inputs[0], n.outputs[0])))
    gradients = pullback(op, ctx.seeds, wrt, ctx.table("gradient"), narrow=False) if wrt else {}
    named = {}
    for i, node in enumerate(nodes):
        before, after = (gradients[v.name] for v in (node.inputs[0], node.outputs[0]))
        if before is not None and after is not None:
            inside = within_range(op, primal(graph, node, frozenset(), 3), FLOAT32)
            parts = (("before", before), ("after", after), ("inside", inside))
            named[i] = [graph.add_output(value, f"diagnosis/{name}_{i}").name for name, value in parts]
    if not named:
        return ""
    outputs = [n for names in named.values() for n in names]
    found = Session(graph, explainer.provider, outputs=outputs, **explainer.session_options).run(feeds, outputs)
    said = []
    for i, names in named.items():
        before, after, inside = (found[n][image if len(found[n]) > 1 else 0] for n in names)
        if after.any() and not before.any():
            said.append(
                f"{nodes[i].name or nodes[i].outputs[0].name!r} ({1 - inside.mean():.0%} of its values saturate)"
            )
    if not said:
        return ""
    several = "s" * (len(said) > 1)
    return f"the gradient stops at the quantiser{several} {', '.join(said[:3])}: what lies beyond its range is cut off"


def _no_space(activations: np.ndarray, spatial: tuple[int, ...]) -> bool:
    axes = tuple(a - 1 for a in spatial)
    return bool((activations.max(axis=axes) == activations.min(axis=axes)).all())


def _context(
    explainer: Explainer, compiled: Compiled, feeds: dict[str, np.ndarray], target: int | str
) -> tuple[Graph, Builder, Context]:
    """A fresh graph, its builder, and the target over the layer that was explained by."""
    from analyzer.attribution.engine import float_image, pick_layer
    from analyzer.attribution.targets import TOP1, find_scores

    graph = explainer.graph({n: tuple(a.shape) for n, a in feeds.items()})
    op = Builder(graph, "diagnosis")
    scores = find_scores(graph, compiled.scores.output.name)
    given = target if isinstance(target, str) else max(target, TOP1)
    seeds, _, about = explainer.seeded(op, [], given, scores, "", None)
    image, axes = float_image(graph)
    feature = pick_layer(graph, compiled.layer, graph[compiled.layer]) if compiled.layer else None
    return graph, op, Context(op, seeds, about, image, axes, feature)


def _layer_and_gradient(
    explainer: Explainer, compiled: Compiled, feeds: dict[str, np.ndarray], target: int | str
) -> dict[str, Any]:
    from analyzer.attribution.engine import pick_layer

    if compiled.method.needs_gradient:
        graph, _, ctx = _context(explainer, compiled, feeds, target)
        feature = ctx.layer
        outputs = {"gradient": graph.add_output(ctx.gradient(feature.value), "diagnosis/gradient").name}
    else:
        graph, outputs = explainer.graph({n: tuple(a.shape) for n, a in feeds.items()}), {}
        feature = pick_layer(graph, compiled.layer, graph[compiled.layer])
    outputs["activations"] = graph.add_output(feature.value, "diagnosis/activations").name
    session = Session(graph, explainer.provider, outputs=list(outputs.values()), **explainer.session_options)
    found = session.run(feeds)
    return {key: found[name] for key, name in outputs.items()} | {"spatial": feature.layout.spatial}
