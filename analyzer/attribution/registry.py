"""The table of methods: one recipe per row, filled by `@method`.

A recipe appends nodes that compute the method's own values from a `Context` and returns them: (N, …space) for methods
of kind "cam" (over a layer) and "map" (over whatever the method says), shaped as the input for kind "gradient". Scaling
to [0, 1] and resizing are post-processing. A method that evaluates the model many times (`runs=True`) is given an
`Evaluator` instead, and returns arrays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from analyzer.analysis.feature_maps import FeatureMap
from analyzer.analysis.scores import output_quantisers
from analyzer.attribution.lines import Centers
from analyzer.docstrings import docstring
from analyzer.errors import UnsupportedError
from analyzer.gradient import GRADIENT, Policy, pullback
from analyzer.gradient.policies import passing
from analyzer.gradient.registry import Idioms
from analyzer.graph import Builder, Graph, Value


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
        policy: the method's own, which `pull` applies.
        idioms: those of the runtime that the graph is made for; every policy that is pulled by has them.
        centers: of the layer's units in the image; None for half-pixel centers.
    """

    op: Builder
    seeds: Mapping[str, Value]
    target: Value
    image: Value
    image_axes: str
    feature: FeatureMap | None = None
    details: dict[str, Value] = field(default_factory=dict)
    policy: Policy = GRADIENT
    idioms: Idioms = field(default_factory=lambda: GRADIENT.idioms)
    centers: Centers | None = None
    _pulled: dict[Any, Value] = field(default_factory=dict)

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

    def gradient(self, of: Value) -> Value:
        """∂y/∂(of), shaped and typed as `of` (in float32 where that is of half precision); raises as `pull`."""
        return self.pull(of, GRADIENT)

    def pull(self, of: Value, policy: Policy | None = None, seeds: Mapping[str, Value] | None = None) -> Value:
        """What flows back to `of` from the target, shaped as `of`.

        Args:
            policy: the method's own where none is given.
            seeds: {tensor: what flows in there}; the cotangent of the target, `self.seeds`, where none are given.
                Relevance starts with the score itself: {name: op.Mul(graph[name], seed)}.

        Raises:
            UnsupportedError: the target does not depend on it, or a rule is missing on the way.
        """
        policy = self.policy if policy is None else policy
        seeds = self.seeds if seeds is None else seeds
        parameters = tuple(sorted(policy.parameters.items()))
        key = (of.name, policy.name, parameters, tuple((name, value.name) for name, value in seeds.items()))
        if key not in self._pulled:
            found = self.pull_all([of], policy, seeds)[0]
            if found is None:
                raise UnsupportedError(
                    f"{self.graph.name}: the target {self.target.name!r} does not depend on {of.name!r}",
                    "choose a layer between the input and the target, or another output as the target",
                )
            self._pulled[key] = found
        return self._pulled[key]

    def pull_all(
        self, of: Sequence[Value], policy: Policy = GRADIENT, seeds: Mapping[str, Value] | None = None
    ) -> list[Value | None]:
        """`pull` for several tensors in one pass back; None for those on which the target does not depend."""
        names = list(dict.fromkeys(v.name for v in of))
        given = self.seeds if seeds is None else seeds
        found = pullback(self.op, given, names, self.rules(policy), narrow=False)
        return [found[v.name] for v in of]

    def rules(self, policy: Policy) -> Policy:
        """`policy` with the idioms of the runtime; the target's own quantisers pass the gradient.

        A score at the ceiling of the output's quantiser is a sure one: what it rests on is the question. Behind any
        other quantiser what saturates has no influence.
        """
        own = output_quantisers(self.graph, self.seeds)
        policy = replace(policy, idioms=self.idioms)
        return passing(policy, {n.outputs[0].name for n in own}) if own else policy

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
    """A row: the recipe, its kind ("cam", "map" or "gradient"), the paper it is from, whether it runs many times.

    `policy` is what its pullbacks go by: a Policy, or a function of the recipe's options that it names. `views` says
    how the map is drawn (see `analyzer.images.views`), and `from_zero` whether 0 means no evidence.
    """

    name: str
    kind: str
    paper: str
    recipe: Recipe
    needs_layer: bool
    needs_gradient: bool = True
    runs: bool = False
    policy: Policy | Callable[..., Policy] = GRADIENT
    views: tuple[str, ...] = ("overlay",)
    from_zero: bool = True

    def policy_for(self, options: Mapping[str, Any]) -> Policy:
        """The policy under these options of the method."""
        if isinstance(self.policy, Policy):
            return self.policy
        given = {**self.options, **options}
        return self.policy(**{name: given[name] for name in inspect.signature(self.policy).parameters})

    @property
    def formula(self) -> str:
        """The first line of the recipe's docstring."""
        return docstring(self.recipe).strip().partition("\n")[0]

    @property
    def options(self) -> dict[str, Any]:
        """Names and defaults of the recipe's options."""
        return {p.name: p.default for p in self._parameters}

    @property
    def annotations(self) -> dict[str, str]:
        """Names of the recipe's options, and the types that they are annotated with."""
        return {p.name: str(p.annotation) for p in self._parameters}

    @property
    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.recipe).parameters.values())[1:]


METHODS: dict[str, Method] = {}


def method(
    name: str,
    kind: str,
    paper: str,
    needs_layer: bool | None = None,
    needs_gradient: bool = True,
    runs: bool = False,
    policy: Policy | Callable[..., Policy] = GRADIENT,
    views: tuple[str, ...] = (),
    from_zero: bool = True,
) -> Callable[[Recipe], Recipe]:
    """Registers a recipe; with `runs`, one that is given an `Evaluator`.

    Views are the overlay unless given, of a gradient the channels as colors and their magnitude.
    """

    def register(recipe: Recipe) -> Recipe:
        layer = kind == "cam" if needs_layer is None else needs_layer
        shown = views or (("rgb", "map") if kind == "gradient" else ("overlay",))
        METHODS[name] = Method(name, kind, paper, recipe, layer, needs_gradient, runs, policy, shown, from_zero)
        return recipe

    return register
