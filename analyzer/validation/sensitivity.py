"""Which layers of a quantized or half-precision candidate make its outputs drift, and which to keep in float.

The drift is D = Σ ‖y − y*‖² / Σ ‖y*‖² over pictures, of the logits or of all outputs, y* the reference's. A layer's
contribution is what D loses if that layer alone is kept in float. To first order that is −⟨∂D/∂t, t* − t⟩ of its
rounded tensors t, which one backward pass gives for all layers at once; the first ones are then measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from analyzer.data import Sample
from analyzer.errors import InputError, UnsupportedError
from analyzer.gradient.policies import GRADIENT
from analyzer.gradient.reverse import pullback
from analyzer.graph import Builder, Graph, Node, Value
from analyzer.graph.through import constant, dequantized, producer, readers
from analyzer.images import Feeding
from analyzer.metrics.similarity import cosine_of, spearman
from analyzer.runtime import Session
from analyzer.validation.gates import GATES, Site, gated, halved, opened
from analyzer.validation.matching import ALIKE, match_by_activations
from analyzer.validation.side import Inputs, Side

PICTURES = 128  # that shares are estimated on, at most
MEASURED = 16  # of them, that the steps of the list are measured on
ELEMENTS = 2**27  # of the inputs of both sides, that are kept; of `MEASURED` pictures in any case
STEPS = 8  # of the list that are measured
FIRST, MORE = 32, 16  # pictures after which it is asked whether they are enough
STABLE = 0.9  # reliability of the ranking from which they are
QUANTIZERS = ("QuantizeLinear", "DynamicQuantizeLinear")
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # in their second input
MOVING = frozenset({"Cast", "DequantizeLinear", "Identity", "Dropout", *QUANTIZERS})


def sensitivity_of(
    reference: Side, candidate: Side, feeds: tuple[Feeding, Feeding], samples: Sequence[Sample]
) -> dict[str, Any]:
    """`sensitivity` on at most `PICTURES` of the samples, drawn at random; those that cannot be read are left out.

    Of large pictures, fewer are used (`ELEMENTS`).

    Raises:
        InputError: none can be read.
    """
    pictures: list[tuple[Inputs, Inputs]] = []
    error: InputError | None = None
    size = sum(math.prod(shape) for side in (reference, candidate) for shape in side._sizes.values())
    for sample in drawn(samples, min(max(ELEMENTS // size, MEASURED), PICTURES)):
        try:
            fed = [how.feed(sample.source) for how in feeds]
        except InputError as found:
            error = found
            continue
        ours, theirs = (dict(f.feeds) if len(f.feeds) > 1 else f.main.array for f in fed)
        pictures.append((ours, theirs))
    if not pictures and error is not None:
        raise error
    return sensitivity(reference, candidate, pictures)


T = TypeVar("T")


def drawn(given: Sequence[T], count: int) -> list[T]:
    """At most `count` of the elements, a random choice (always the same one) in their order."""
    if len(given) <= count:
        return list(given)
    return [given[at] for at in sorted(np.random.default_rng(0).choice(len(given), count, replace=False).tolist())]


def sensitivity(
    reference: Side,
    candidate: Side,
    pictures: Sequence[tuple[Inputs, Inputs]],
    steps: int = STEPS,
) -> dict[str, Any]:
    """The layers of the candidate by what its drift would lose without each, and those to keep in float first.

    Args:
        pictures: the inputs of both sides for each picture.
        steps: of the list to keep in float that are measured; the rest is left out.

    Returns:
        {"pictures", "measured", "drift", "layers", "exclude", "nodes_to_exclude", "unnamed"}: how many pictures the
        shares are of, and how many the measured runs; D of the candidate; per layer its share of D with the standard
        error of the share over pictures (None for one picture); the steps of the list, each with the share of D that is
        left with it and all before.

    Raises:
        UnsupportedError: nothing of the candidate is rounded, or its outputs are not finite.
    """
    gates = Gates(reference, candidate)
    known = [(ours if gates.base is reference else theirs, gates.expected(ours)) for ours, theirs in pictures]
    sizes = [squares(each) for each in zip(*(expected for _, expected in known), strict=True)]
    known = [known[at] for at in np.random.default_rng(0).permutation(len(known))]
    alone = np.stack([opened(gates.sites, {layer}) for layer in gates.layers], axis=1)
    found: list[tuple[float, np.ndarray]] = []
    for given, expected in known:
        found.append(gates.gradient(given, expected, sizes))
        if len(found) >= FIRST and not len(found) % MORE and is_stable(np.array([g for _, g in found]) @ alone):
            break
    parts, gradients = np.array([value for value, _ in found]), np.array([gradient for _, gradient in found])
    whole, values = float(parts.sum()), gradients.sum(axis=0)
    if not np.isfinite(whole) or not np.isfinite(values).all():
        raise UnsupportedError(
            f"{candidate.name}: its outputs are not finite, so that no layer's share of the drift can be measured",
            "find the tensors with `audit --fp16` of the reference" if gates.base is reference else "",
        )

    few = range(min(len(found), MEASURED))
    before = float(parts[few].sum()) or 1.0

    def left(layers: Iterable[str]) -> float:
        """The share of the measured pictures' D that is left with these layers in float."""
        exact = set(layers)
        return sum(gates.drift(*known[at], sizes, exact) for at in few) / before

    shares = {layer: share_of(parts, gradients @ opened(gates.sites, {layer})) for layer in gates.layers}
    order = sorted(shares, key=lambda layer: -shares[layer][0])
    best = ordered(gates.sites, values, set(gates.names))[:steps]
    estimated = {step.layers: step.gain / (whole or 1.0) for step in best}
    chosen = refined(estimated, left)
    exclude: list[dict[str, Any]] = [
        {"layers": [gates.names[n] for n in gates.layers if n in new], "estimated": estimated[new], "left": rest}
        for new, rest in chosen
    ]
    return {
        "pictures": len(found),
        "measured": len(few),
        "drift": whole * len(known) / len(found),
        "layers": [
            {
                "layer": gates.names.get(layer, layer),
                "operator": gates.layers[layer].op,
                "share": shares[layer][0],
                "error": shares[layer][1],
            }
            for layer in order
        ],
        "exclude": exclude,
        "nodes_to_exclude": [name for row in exclude for name in row["layers"]],
        "unnamed": len(set(gates.layers) - set(gates.names)),
    }


def is_stable(gains: np.ndarray) -> bool:
    """Whether more pictures would hardly change the ranking: its reliability 2 r / (1 + r), r the rank correlation of
    what two halves of the pictures say (Spearman 1910, Brown 1910).

    Args:
        gains: (pictures, layers), what each layer takes off the drift of each picture.
    """
    r = spearman(gains[::2].sum(axis=0), gains[1::2].sum(axis=0))
    return r > 0 and 2 * r / (1 + r) >= STABLE


def share_of(parts: np.ndarray, gains: np.ndarray) -> tuple[float, float | None]:
    """(share = Σ gains / Σ parts over pictures, its standard error, that of a ratio of means)

    Args:
        parts: of D, of each picture. gains: what a layer takes off each.
    """
    whole, count = float(parts.sum()) or 1.0, len(parts)
    share = float(gains.sum()) / whole
    if count < 2:
        return share, None
    return share, math.sqrt(count / (count - 1) * float(((gains - share * parts) ** 2).sum())) / abs(whole)


def refined(
    estimated: Mapping[frozenset[str], float], left: Callable[[Iterable[str]], float]
) -> list[tuple[frozenset[str], float]]:
    """The steps in the order in which they take off most per layer, measured, each after those before it.

    Gains are measured anew only while their last value could still be the largest (Minoux 1978, lazy greedy), and a
    step that takes off nothing is left out.

    Args:
        left: the share of D that is left with some layers in float.

    Returns:
        (layers, the share of D that is left with them and all before), in order.
    """
    chosen: frozenset[str] = frozenset()
    now, found = 1.0, []
    gains = dict.fromkeys(estimated, np.inf)
    rest: dict[frozenset[str], float] = {}
    while gains:
        best = max(gains, key=lambda layers: gains[layers] / len(layers))
        if best in rest:
            if gains[best] <= 0:
                break
            chosen, now = chosen | best, rest[best]
            found.append((best, now))
            del gains[best]
            rest.clear()
        else:
            rest[best] = left(chosen | best)
            gains[best] = now - rest[best]
    return found


@dataclass(frozen=True)
class Step:
    """Layers that are kept in float together, because they share a tensor, and what D loses by it."""

    layers: frozenset[str]
    gain: float


def ordered(sites: Sequence[Site], values: np.ndarray, allowed: set[str]) -> list[Step]:
    """The layers to keep in float, those that take off most per layer first, until nothing is gained.

    A tensor between two layers is exact only if both are kept: so each step adds all layers of one tensor.
    """
    groups = sorted({s.layers for s in sites if s.layers and s.layers <= allowed}, key=sorted)
    chosen: frozenset[str] = frozenset()
    steps: list[Step] = []
    while True:
        open_now = opened(sites, chosen) @ values
        gains = {g: float(opened(sites, chosen | g) @ values - open_now) for g in groups if not g <= chosen}
        best = max(gains, key=lambda g: gains[g] / len(g - chosen), default=None)
        if best is None or gains[best] <= 0:
            return steps
        steps.append(Step(best - chosen, gains[best]))
        chosen |= best


# ---- Pairs of nodes ----


def twins(reference: Graph, candidate: Graph) -> dict[str, Node]:
    """{node of the candidate: its twin in the reference}: by name and operator if the weights agree, else by weights.

    Quantizers keep the names of nodes, or append `_quant` to them.
    """
    named = {n.name: n for n in reference.forward_nodes() if n.name}
    found: dict[str, Node] = {}
    for node in layers_of(candidate):
        twin = named.get(node.name) or named.get(node.name.removesuffix("_quant"))
        if twin is not None and twin.op == node.op and _weights_agree(reference, twin, candidate, node):
            found[key(node)] = twin
    used = {key(n) for n in found.values()}
    left = {key(n): n for n in layers_of(reference) if key(n) not in used}
    rest = {key(n): n for n in layers_of(candidate) if key(n) not in found}
    ours, theirs = _weights_of(reference, left), _weights_of(candidate, rest)
    return found | {m.candidate: left[m.reference] for m in match_by_activations(ours, theirs)}


def _weights_of(graph: Graph, nodes: Mapping[str, Node]) -> dict[str, np.ndarray]:
    found = {name: weight(graph, node) for name, node in nodes.items()}
    return {name: array for name, array in found.items() if array is not None}


def layers_of(graph: Graph) -> list[Node]:
    """The nodes that compute something."""
    return [n for n in graph.forward_nodes() if n.op not in MOVING]


def key(node: Node) -> str:
    """The name of a node; that of its output where it has none."""
    return str(node.name or node.outputs[0].name)


def weight(graph: Graph, node: Node) -> np.ndarray | None:
    """The first weight that a node reads, (2 axes or more), dequantized."""
    for value in node.inputs:
        array = constant(graph, value) if value.name else None
        if array is not None and array.dtype.kind == "f" and array.ndim >= 2:
            return array
    return None


def _weights_agree(reference: Graph, ours: Node, candidate: Graph, theirs: Node) -> bool:
    a, b = weight(reference, ours), weight(candidate, theirs)
    if a is None or b is None or a.shape != b.shape:
        return a is b
    return cosine_of(a.astype(np.float64), b.astype(np.float64)) >= ALIKE


# ---- Rounded tensors ----


def quantized_sites(reference: Graph, candidate: Graph, pairs: Mapping[str, Node]) -> list[Site]:
    """Every weight of the candidate that is not the reference's, and every activation that it quantizes."""
    weights: dict[str, Site] = {}
    for node in layers_of(candidate):
        twin = pairs.get(key(node))
        if twin is None:
            continue
        for at, value in enumerate(node.inputs):
            exact = _exact(reference, candidate, twin, value, at)
            if exact is not None:
                known = weights[value.name].layers if value.name in weights else frozenset()
                weights[value.name] = Site(value.name, exact, known | {key(node)})
    return [*weights.values(), *_quantized_activations(reference, candidate, pairs)]


def _exact(reference: Graph, candidate: Graph, twin: Node, value: Value, at: int) -> np.ndarray | None:
    """The reference's values of an input of a node, None where they are the candidate's or not comparable."""
    rounded = constant(candidate, value) if value.name else None
    if rounded is None or rounded.dtype.kind != "f" or at >= len(twin.inputs) or not twin.inputs[at].name:
        return None
    exact = constant(reference, twin.inputs[at])
    if exact is None or exact.shape != rounded.shape or exact.dtype.kind != "f":
        return None
    exact = exact.astype(rounded.dtype)
    if np.array_equal(exact, rounded) or cosine_of(exact.astype(np.float64), rounded.astype(np.float64)) < ALIKE:
        return None
    return exact


def _quantized_activations(reference: Graph, candidate: Graph, pairs: Mapping[str, Node]) -> list[Site]:
    found = []
    for node in candidate.forward_nodes():
        before = candidate.producer(node.inputs[0]) if node.op == "DequantizeLinear" else None
        if before is None or before.op not in QUANTIZERS or constant(candidate, node.outputs[0]) is not None:
            continue
        tensor, exact = node.outputs[0], before.inputs[0]
        touching = [producer(exact), *readers(tensor)]
        owners = frozenset(key(n) for n in touching if n is not None and _is_quantized(candidate, n))
        bounds = _bounds(reference, candidate, pairs, exact)
        found.append(Site(tensor.name, exact.name, owners, False, *bounds))
    return found


def _bounds(reference: Graph, candidate: Graph, pairs: Mapping[str, Node], exact: Value) -> tuple[float, float]:
    """The bounds of the Relu or Clip that follows in the reference where the candidate has only a quantizer."""
    node = candidate.producer(exact)
    twin = pairs.get(key(node)) if node is not None else None
    following = readers(twin.outputs[0]) if twin is not None else []
    if len(following) != 1 or following[0].op not in ("Relu", "Clip") or following[0].op in _ops(readers(exact)):
        return -np.inf, np.inf
    if following[0].op == "Relu":
        return 0.0, np.inf
    given = [reference.constant(v) if v.name else None for v in following[0].inputs[1:3]]
    low, high = (None if b is None else float(b) for b in (*given, None, None)[:2])
    return -np.inf if low is None else low, np.inf if high is None else high


def _ops(nodes: Iterable[Node]) -> set[str]:
    return {n.op for n in nodes}


def _is_quantized(graph: Graph, node: Node) -> bool:
    """Whether a node is one that a quantizer has treated: it reads a quantized weight, or only quantizers read it."""
    read = [graph.producer(v) for v in node.inputs if v.name]
    if not any(n is not None and n.op == "DequantizeLinear" for n in read):
        return False
    if any(n is not None and n.op == "DequantizeLinear" and constant(graph, n.outputs[0]) is not None for n in read):
        return True
    following = [n.op for o in node.outputs for n in o.outputs]
    return bool(following) and all(op in QUANTIZERS for op in following)


def half_sites(reference: Graph, candidate: Graph) -> list[Site]:
    """Every float32 weight and activation of the reference that is half precision in the candidate."""
    found = []
    for node in layers_of(reference):
        for value in node.inputs:
            array = constant(reference, value) if value.name and not value.inputs else None
            if array is not None and array.dtype == np.float32 and array.size > 1:
                owners = frozenset(key(n) for n in readers(value))
                found.append(Site(value.name, array, owners, halves=True))
        for value in node.outputs:
            if value.dtype == np.float32 and constant(reference, value) is None and _halved(candidate, value.name):
                owners = frozenset(key(n) for n in [node, *readers(value)])
                found.append(Site(value.name, value.name, owners, halves=True))
    return list({site.tensor: site for site in found}.values())


def _halved(candidate: Graph, name: str) -> bool:
    """Whether a tensor of the reference is half precision in the candidate, where that is known."""
    return name not in candidate or _is_half(candidate[name])


def _is_half(value: Value) -> bool:
    return bool(value.dtype == np.float16)


# ---- Measuring ----


@dataclass(frozen=True)
class Targets:
    """The tensors whose drift is measured, of the reference and of the candidate."""

    reference: tuple[str, ...]
    candidate: tuple[str, ...]


def targets(reference: Side, candidate: Side) -> Targets:
    """The logits of a classifier, whose squashed scores hide errors; else all outputs of both without sorted rows.

    Raises:
        UnsupportedError: there are none.
    """
    a, b = reference.scores.logits, candidate.scores.logits
    b = dequantized(candidate.graph[b.name]) or b
    rows = reference.task.by_class and not reference.task.per_picture and not reference.scores.doubt
    if rows and reference.graph[a.name].shape == candidate.graph[b.name].shape:
        return Targets((a.name,), (b.name,))
    shapes = {n: reference.graph[n].shape for n in reference.outputs if not reference.sorted_by(n)}
    same = tuple(n for n, s in shapes.items() if n in candidate.outputs and candidate.graph[n].shape == s)
    if not same:
        raise UnsupportedError(
            f"{candidate.name}: no output has the name and shape of one of {reference.name}",
            "--sensitivity needs an output of the same name",
        )
    return Targets(same, same)


class Gates:
    """The candidate with a gate per rounded tensor, and its drift from the reference.

    Attributes:
        sites: the rounded tensors. pairs: see `twins`.
        names: {layer: its name in the reference} of those that have one.
    """

    def __init__(self, reference: Side, candidate: Side) -> None:
        self.reference, self.candidate = reference, candidate
        self.targets = targets(reference, candidate)
        pairs = twins(reference.graph, candidate.graph)
        self.sites = quantized_sites(reference.graph, candidate.graph, pairs)
        self.base, read = candidate, self.targets.candidate
        names = {layer: str(node.name) for layer, node in pairs.items()}
        if not self.sites and any(_is_half(v) for v in candidate.graph.values.values()):
            self.sites = half_sites(reference.graph, candidate.graph)
            self.base, read, names = reference, self.targets.reference, {}
        if not self.sites:
            raise UnsupportedError(
                f"{candidate.name}: nothing in it is quantized or in half precision and float in {reference.name}",
                "--sensitivity takes a float reference and its quantized or half-precision build",
            )
        nodes = {key(n): n for n in layers_of(self.base.graph)}
        self.layers = {layer: node for layer, node in nodes.items() if any(layer in s.layers for s in self.sites)}
        named = {layer: names.get(layer) or node.name for layer, node in self.layers.items()}
        self.names = {layer: str(name) for layer, name in named.items() if name}
        self._plain = self.base.explainer.source(self.base._sizes)
        self._outputs = read

    @cached_property
    def _forward(self) -> tuple[Session, list[str]]:
        """(a session, its outputs)"""
        source, mixed = gated(self._plain, self.sites)
        read = [mixed.get(name, name) for name in self._outputs]
        return self.base.explainer.session(Graph(source), read), read

    @cached_property
    def _backward(self) -> tuple[Session, list[str], list[str], str]:
        """A session of the candidate without gates: they are closed.

        Returns:
            (the session, its outputs, its inputs for the cotangents' parts: y* and 1 / Σ ‖y*‖² of each output, the name
            of ½ ⟨∂D/∂t, t* − t⟩ of each site, (sites,))
        """
        source, rounded = halved(self._plain, self.sites)
        graph = Graph(source)
        op = Builder(graph, "sensitivity")
        read = [rounded.get(name, name) for name in self._outputs]
        given, cotangents = [], {}
        for name in read:
            expected = graph.add_input(f"{name}/expected", np.float32, graph[name].shape)
            scale = graph.add_input(f"{name}/scale", np.float32, [])
            given += [expected.name, scale.name]
            cotangents[name] = op.Mul(op.Sub(op.cast(graph[name], np.dtype(np.float32)), expected), scale)
        moves = [_move(op, site, graph[rounded[site.tensor]]) for site in self.sites]
        slopes = pullback(op, cotangents, list(dict.fromkeys(of.name for of, _ in moves)), GRADIENT, narrow=False)
        if all(slope is None for slope in slopes.values()):
            raise UnsupportedError(f"{self.candidate.name}: no output depends on a rounded tensor by a gradient")
        parts = [_tangent(op, slopes[of.name], by) for of, by in moves]
        result = graph.add_output(op.Concat(*parts, axis=0), "tangents").name
        return self.base.explainer.session(graph, [*read, result], integers=False), read, given, result

    def expected(self, given: Inputs) -> list[np.ndarray]:
        """The reference's values of the targets for one picture."""
        found = self._reference.run(self.reference._fed(given))
        return [found[name].astype(np.float32) for name in self._reference_names]

    @cached_property
    def _reference(self) -> Session:
        graph = self.reference._fresh()
        self._reference_names = list(graph.outputs_for(self.targets.reference).values())
        return self.reference.explainer.session(graph, self._reference_names)

    def gradient(
        self, given: Inputs, expected: Sequence[np.ndarray], sizes: Sequence[float]
    ) -> tuple[float, np.ndarray]:
        """(a picture's part of D, −½ of its ∂/∂α of every site) with all gates closed.

        Half, because D is a square: of ‖Σ e‖², an error e that is independent of the others contributes ‖e‖², but the
        tangent is 2 ‖e‖². If the outputs were linear in the errors, the halves would add up to D.
        """
        session, read, names, result = self._backward
        parts = [part for y, size in zip(expected, sizes, strict=True) for part in (y, 1 / size)]
        feeds = self.base._fed(given) | {n: np.asarray(p, np.float32) for n, p in zip(names, parts, strict=True)}
        found = session.run(feeds)
        return drift([found[n] for n in read], expected, sizes), -found[result].astype(np.float64)

    def drift(self, given: Inputs, expected: Sequence[np.ndarray], sizes: Sequence[float], exact: set[str]) -> float:
        """A picture's part of D with these layers kept in float."""
        session, read = self._forward
        gates = next(n for n in session.inputs if n.startswith(GATES))
        found = session.run(self.base._fed(given) | {gates: opened(self.sites, exact)})
        return drift([found[n] for n in read], expected, sizes)


def _move(op: Builder, site: Site, rounded: Value) -> tuple[Value, Value]:
    """(t, t* − t); for the weight W of a linear node y = W x, which is cheaper, (y, (W* − W) x)."""
    exact = op.graph[site.exact] if isinstance(site.exact, str) else op.constant(site.exact)
    if site.bounded:
        exact = op.Clip(exact, np.float32(site.low), np.float32(site.high))
    nodes = list(rounded.outputs)
    error = op.Sub(exact, rounded)
    if site.kind == "weight" and len(nodes) == 1 and nodes[0].op in LINEAR and nodes[0].inputs[1] is rounded:
        (node,) = nodes
        return node.outputs[0], op.node(node.op, node.inputs[0], error, **node.attrs)
    return rounded, error


def _tangent(op: Builder, slope: Value | None, move: Value) -> Value:
    """⟨slope, move⟩, (1,): of a tensor that no output depends on it is 0."""
    if slope is None:
        return op.constant(np.zeros(1, np.float32))
    move = op.cast(move, np.dtype(np.float32))
    return op.Reshape(op.ReduceSum(op.Mul(slope, move), keepdims=0), np.array([1], np.int64))


def drift(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], sizes: Sequence[float]) -> float:
    """‖y − y*‖² / Σ ‖y*‖² of one picture, summed over outputs.

    Args:
        sizes: Σ ‖y*‖² of each output over all pictures.
    """
    errors = [squares([y.astype(np.float64) - z]) for y, z in zip(found, expected, strict=True)]
    return float(sum(e / size for e, size in zip(errors, sizes, strict=True)))


def squares(arrays: Iterable[np.ndarray]) -> float:
    """The sum of all squares, at least 1e-30."""
    return max(sum(float((a.astype(np.float64) ** 2).sum()) for a in arrays), 1e-30)
