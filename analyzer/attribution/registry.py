"""The table of methods: one recipe per row, filled by `@method`.

A recipe appends nodes that compute the method's own values from a `Context` and returns them: (N, …space) for methods
of kind "cam" (over a layer) and "map" (over whatever the method says), shaped as the input for kind "gradient". Scaling
to [0, 1] and resizing are post-processing. A method that evaluates the model many times (`runs=True`) is given an
`Evaluator` instead, and returns arrays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from analyzer.errors import InputError, NotFoundError, UnsupportedError, suggest
from analyzer.gradient import Rule, Table, override, pullback, table_of
from analyzer.gradient.policies import passing
from analyzer.graph import Builder, Graph, Value
from analyzer.graph.query import FeatureMap, output_quantisers


@dataclass
class Context:
    """What a recipe is given.

    Attributes:
        op: builder of the graph.
        seeds: {tensor: cotangent} whose pullback is the gradient of the target score.
        image: the image as a floating-point tensor, and the axis of its channels and of its space.
        feature: the layer to explain by; None for methods that need none.
        target: the tensor whose element is the score (logits).
        details: what else a recipe has to say, (N, …) each; ends in `Attribution.details`.
        rows: rules that replace those of every policy, by operator.
    """

    op: Builder
    seeds: Mapping[str, Value]
    target: Value
    image: Value
    image_axes: str
    feature: FeatureMap | None = None
    details: dict[str, Value] = field(default_factory=dict)
    rows: Mapping[str, Rule] = field(default_factory=dict)
    _gradients: dict[tuple[str, str], Value] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        return self.op.graph

    @property
    def layer(self) -> FeatureMap:
        assert self.feature is not None
        return self.feature

    @property
    def channel(self) -> int:
        """The axis of the layer's channels."""
        return self.layer.layout.channel

    @property
    def space(self) -> list[int]:
        """The axes of the layer's space."""
        return list(self.layer.layout.spatial)

    @property
    def activations(self) -> Value:
        """A: the layer, in float32, without class and register tokens."""
        return self._only_grid(self.layer.value)

    @property
    def gradients(self) -> Value:
        """g = ∂y/∂A, shaped as `activations`."""
        return self._only_grid(self.gradient(self.layer.value))

    def gradient(self, of: Value, policy: str = "gradient") -> Value:
        """∂y/∂(of) under a policy, shaped and typed as `of` (in float32 where that is of half precision).

        Raises:
            UnsupportedError: the target does not depend on it, or a rule is missing on the way.
        """
        key = (of.name, policy)
        if key not in self._gradients:
            found = pullback(self.op, self.seeds, [of.name], self.table(policy), narrow=False)[of.name]
            if found is None:
                raise UnsupportedError(
                    f"{self.graph.name}: the target {self.target.name!r} does not depend on {of.name!r}",
                    "choose a layer between the input and the target, or another output as the target",
                )
            self._gradients[key] = found
        return self._gradients[key]

    def table(self, policy: str) -> Table:
        """The rules of a policy, with those of `rows`; the target's own quantisers pass the gradient.

        A score at the ceiling of the output's quantiser is a sure one: what it rests on is the question. Behind any
        other quantiser what saturates has no influence.
        """
        table = override(table_of(policy), dict(self.rows))
        own = output_quantisers(self.graph, self.seeds)
        return passing(table, {n.outputs[0].name for n in own}) if own else table

    def channel_sum(self, weighted: Value) -> Value:
        """Σ over the channels, as (N, …space)."""
        summed = self.op.ReduceSum(weighted, [self.channel], keepdims=0)
        layout = self.layer.layout
        if "L" not in layout.axes:
            return summed
        return self.op.Reshape(summed, [0, *self._grid()], allowzero=0)

    def _grid(self) -> list[int]:
        sizes = [s for s in self.layer.layout.grid if s is not None]
        if len(sizes) != len(self.layer.layout.grid) or not sizes:
            raise UnsupportedError(
                f"the token grid of {self.layer.name!r} depends on the input size", "fix it with --shape"
            )
        return sizes

    def _only_grid(self, value: Value) -> Value:
        import numpy as np

        layout = self.layer.layout
        value = self.op.cast(value, np.dtype(np.float32))
        if not layout.prefix and not layout.suffix:
            return value
        end = layout.tokens.stop or np.iinfo(np.int64).max
        return self.op.Slice(value, [layout.prefix], [end], [layout.axes.index("L")])


Recipe = Callable[..., Any]


@dataclass(frozen=True)
class Method:
    """A row: the recipe, its kind ("cam", "map" or "gradient"), the paper it is from, whether it runs many times."""

    name: str
    kind: str
    paper: str
    recipe: Recipe
    needs_layer: bool
    needs_gradient: bool = True
    runs: bool = False

    @property
    def formula(self) -> str:
        """The first line of the recipe's docstring."""
        return (self.recipe.__doc__ or "").strip().splitlines()[0]

    @property
    def options(self) -> dict[str, Any]:
        """Names and defaults of the recipe's options."""
        parameters = list(inspect.signature(self.recipe).parameters.values())[1:]
        return {p.name: p.default for p in parameters}


METHODS: dict[str, Method] = {}


def method(
    name: str,
    kind: str,
    paper: str,
    needs_layer: bool | None = None,
    needs_gradient: bool = True,
    runs: bool = False,
) -> Callable[[Recipe], Recipe]:
    """Registers a recipe; with `runs`, one that is given an `Evaluator`."""

    def register(recipe: Recipe) -> Recipe:
        layer = kind == "cam" if needs_layer is None else needs_layer
        METHODS[name] = Method(name, kind, paper, recipe, layer, needs_gradient, runs)
        return recipe

    return register


def find_method(name: str, options: Mapping[str, Any]) -> Method:
    """The method of that name, its options checked.

    Raises:
        NotFoundError: no such method. InputError: no such option.
    """
    known_methods = all_methods()
    if name not in known_methods:
        hint = suggest(name, known_methods) or f"choose one of {', '.join(known_methods)}"
        raise NotFoundError(f"no method {name!r}", hint)
    found = known_methods[name]
    for option in options:
        if option not in found.options:
            known = ", ".join(found.options) or "none"
            raise InputError(f"{name} has no option {option!r}; its options: {known}", suggest(option, found.options))
    return found


def all_methods() -> dict[str, Method]:
    """Every method, each family imported."""
    from analyzer.attribution import attention, backprop, cam, full_gradient, gradients, perturbation, sampling  # noqa: F401

    return METHODS
