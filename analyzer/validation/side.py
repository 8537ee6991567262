"""One of the two sides of a comparison: a model, how pictures are fed to it, and sessions over it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from analyzer.attribution import Explainer
from analyzer.attribution.features import Taps, channels_first
from analyzer.attribution.targets import Scores, find_scores
from analyzer.graph import Graph, Value
from analyzer.graph.query import default_layer, feature_maps, image_input, layouts
from analyzer.runtime import Session, kernels, plan_difference

FUSED = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "HardSwish", "HardSigmoid", "BatchNormalization"})


class Side:
    """A model and its preprocessing.

    Args:
        model: path, bytes or ModelProto.
        shape: of one picture as the model takes it, (1, …).
        provider, options: as for `Explainer`.
    """

    def __init__(self, model: Any, shape: tuple[int, ...], provider: str = "cpu", **options: Any) -> None:
        self.explainer = model if isinstance(model, Explainer) else Explainer(model, provider, **options)
        self.shape = shape
        self.name = str(self.explainer.loaded.path or self.explainer.loaded.name)

    @cached_property
    def input(self) -> str:
        return str(image_input(self.explainer.plain).name)

    @cached_property
    def graph(self) -> Graph:
        """The graph for one picture; for questions, not to be appended to."""
        return self.explainer.graph({self.input: self.shape})

    @cached_property
    def scores(self) -> Scores:
        return find_scores(self.graph)

    @cached_property
    def layer(self) -> str:
        """The layer whose class map is compared."""
        return default_layer(self.graph, self.scores.logits).name

    @cached_property
    def layers(self) -> list[str]:
        """Every feature map on the way to the scores, then the logits.

        What only an activation or a BatchNormalization reads is left out: deployed builds fuse the two, and a
        quantised one may cut off before the activation what the activation would.
        """
        maps = feature_maps(self.graph, self.scores.logits)
        names = [m.name for m in maps if not self._is_fused(m.value)]
        return list(dict.fromkeys([*names, self.scores.logits.name]))

    @cached_property
    def rectified(self) -> list[str]:
        """The feature maps that only a Relu reads, which `layers` leaves out."""
        maps = feature_maps(self.graph, self.scores.logits)
        return [m.name for m in maps if [n.op for n in self.graph.consumers(m.value)] == ["Relu"]]

    def _is_fused(self, value: Value) -> bool:
        readers = self.graph.consumers(value)
        return len(readers) == 1 and readers[0].op in FUSED

    @cached_property
    def plain(self) -> Session:
        """The model as it is, nothing tapped."""
        graph = self.explainer.graph({self.input: self.shape})
        return Session(graph, self.explainer.provider, outputs=[self.scores.output.name], **self.options)

    @property
    def options(self) -> dict[str, Any]:
        return self.explainer.session_options

    def tap(self, names: Sequence[str]) -> None:
        """Choose the layers that `features` gives."""
        graph = self.explainer.graph({self.input: self.shape})
        self._taps = Taps(graph, list(names), self.explainer.provider, **self.options)
        self._layouts = layouts(graph)

    def plan(self) -> dict[str, Any]:
        """How the kernels with the chosen taps differ from those without; see `runtime.plan_difference`."""
        graph, tapped = (self.explainer.graph({self.input: self.shape}) for _ in range(2))
        plain = kernels(graph, self.explainer.provider, [self.scores.output.name], **self.options)
        existing = {v.name for v in tapped.outputs}
        names = [n if n in existing else tapped.add_output(tapped[n]).name for n in self._taps.outputs]
        names = list(dict.fromkeys([self.scores.output.name, *names]))
        return plan_difference(plain, kernels(tapped, self.explainer.provider, names, **self.options))

    def features(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """The tapped layers for one picture, channels first where they are maps, as floats."""
        found = self._taps.run({self.input: array})
        return {
            name: channels_first(a, self._layouts[name]) if name in self._layouts and self._layouts[name].is_map else a
            for name, a in found.items()
        }

    def labels(self, scores: np.ndarray) -> list[int]:
        """The top class, or for a sigmoid's scores every class above ½."""
        if "Sigmoid" in self.scores.stripped:
            return np.flatnonzero(scores > 0.5).tolist()
        return [int(scores.argmax())]

    def output(self, array: np.ndarray) -> np.ndarray:
        """The scores of one picture, (classes,), as the model gives them."""
        name = self.scores.output.name
        return np.asarray(self.plain.run({self.input: array}, [name])[name], np.float64).ravel()
