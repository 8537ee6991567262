"""A side of a comparison that another runtime runs: its outputs, and the layers that it offers."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from analyzer.attribution.deployed import Deployed, Facade
from analyzer.errors import UnsupportedError
from analyzer.graph import Graph
from analyzer.runtime.runners import Port
from analyzer.store import Store
from analyzer.tasks import Task
from analyzer.tasks.classification import Binary, MultiLabel
from analyzer.tasks.segmentation import Mask
from analyzer.validation.inputs import Prepared
from analyzer.validation.side import PICTURES, Inputs, Shape, Side

ROUNDED_DB = 25.0  # SQNR of inputs that differ by the steps and the range of eight bits


class RunnerSide(Side):
    """A model in another runtime.

    Its graph has the ports of the runner, of which nothing is known but what a run on random numbers shows. Beside a
    side that is a file, its outputs have the names and layouts of that side's, and are read as those.
    """

    def __init__(self, model: Deployed, shape: Shape, store: Store | None = None) -> None:
        super().__init__(model, shape, store=store)
        self.runner = model.runner
        self.name = self.runner.address.text
        self._twins: dict[str, str] = {}  # {own output: the other side's}
        self._other: Side | None = None

    # ---- Ends ----

    @cached_property
    def tried(self) -> dict[str, Port]:
        """The outputs for one picture, by a run on random numbers."""
        known = {port.name: port for port in self.runner.outputs}
        found = {}
        for name, array in self.runner.run(_random(self.runner.inputs, self._sizes)).items():
            port = known.get(name, Port(name, array.shape))
            real = self._first(_real(port, array))
            squashed = port.squashed or squashed_by(real)
            found[name] = replace(port, shape=tuple(real.shape), dtype=str(array.dtype), squashed=squashed)
        return found

    @cached_property
    def graph(self) -> Graph:
        outputs = [replace(p, name=self._name(n), shape=self._shape(n)) for n, p in self.tried.items()]
        taken = {p.name for p in [*outputs, *self.runner.inputs]}
        layers = [layer for layer in self.runner.layers if layer.name not in taken]
        return Facade(self.runner.inputs, outputs, layers).graph(self._sizes)

    def _fresh(self) -> Graph:
        return self.graph

    def read_as(self, other: Side) -> None:
        """Takes over what the outputs of a file are called, how they are laid out, and what they mean."""
        theirs = {v.name: tuple(v.shape or ()) for v in other.graph.outputs}
        self._other, self._twins = other, twins({n: p.shape for n, p in self.tried.items()}, theirs)
        for name in ("graph", "scores", "task", "outputs", "_layouts"):
            self.__dict__.pop(name, None)

    def _name(self, output: str) -> str:
        """What an output is called beside the other side."""
        return self._twins.get(output, output)

    def _shape(self, output: str) -> tuple[Any, ...]:
        """Its sizes in the layout of the other side."""
        shape = tuple(d or 1 for d in self.tried[output].shape)
        if self._other is None or output not in self._twins:
            return shape
        return tuple(arranged(np.broadcast_to(0, shape), self._other.graph[self._name(output)].shape or ()).shape)

    @cached_property
    def scores(self) -> Task:
        return self._as_theirs("scores") or super().scores

    @cached_property
    def task(self) -> Task:
        return self._as_theirs("task") or super().task

    def _as_theirs(self, which: str) -> Task | None:
        """The other side's task, if this side has the outputs that it reads, with the functions at this side's end."""
        if self._other is None:
            return None
        task: Task = getattr(self._other, which)
        own = {self._name(name): port.squashed for name, port in self.tried.items()}
        if not set(task.reading) <= set(own):
            return None
        ends = own[task.output.name]
        if ends and not task.stripped and (ends == "Softmax" or isinstance(task, MultiLabel | Binary | Mask)):
            return replace(task, stripped=(ends,))
        return replace(task, stripped=()) if task.stripped and not ends else task

    def score_by(self, output: str) -> None:
        if self._other is None:
            super().score_by(output)

    # ---- Layers ----

    @cached_property
    def layers(self) -> list[str]:
        return [layer.name for layer in self.runner.layers if layer.name in self.graph]

    @cached_property
    def rectified(self) -> list[str]:
        return []

    @cached_property
    def gates(self) -> list[str]:
        return []

    @property
    def layer(self) -> str:
        return ""

    def _measured(self, array: Inputs) -> dict[str, np.ndarray]:
        if not self._wanted:
            return {}
        inner = [name for name in self._wanted if name in self.layers]
        found = {n: self._first(a) for n, a in self._run_on(self._fed(array), inner).items()}
        found = {n: found[n] for n in inner} | self.meant({n: a for n, a in found.items() if n not in inner})
        arrays = {name: self.channels_first(name, found[name]) for name in self._wanted}
        self.shapes = {name: a.shape for name, a in arrays.items()}
        return arrays

    def channels_first(self, name: str, array: np.ndarray) -> np.ndarray:
        if name in self._twins.values() and self._other is not None:
            return self._other.channels_first(name, array)
        return np.moveaxis(array, -1, 1) if self.runner.channels_last and array.ndim == 4 else array

    @property
    def precision(self) -> str:
        """The coarsest: what another runtime computes with is not known."""
        return "quantized"

    # ---- What is known of a picture ----

    def prepared(self, given: Inputs) -> Prepared:
        array = np.asarray(given[self.input] if isinstance(given, Mapping) else given)
        port = next(port for port in self.runner.inputs if port.name == self.input)
        is_scaled = (port.zero, port.scale) != (0.0, 1.0)
        return Prepared(_real(port, array) if is_scaled else array, array.dtype.kind in "iu", is_scaled)

    def all_outputs(self, array: Inputs) -> dict[str, np.ndarray]:
        found = self.kept(lambda: self._run_on(self._fed(array)), "outputs", array)
        return self.meant({name: self._first(each) for name, each in found.items()})

    def batch(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._run_on(feeds)

    def meant(self, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {self._name(name): self._arranged(name, array) for name, array in found.items()}

    @property
    def most(self) -> int:
        return self.explainer.fixed_batch or self.runner.batch or PICTURES

    def _arranged(self, name: str, array: np.ndarray) -> np.ndarray:
        """The real numbers of an output, laid out as the other side's."""
        real = _real(self.tried[name], array) if name in self.tried else array.astype(np.float64)
        return arranged(real, self._shape(name)) if name in self._twins else real

    def _run_on(self, feeds: Mapping[str, np.ndarray], layers: Sequence[str] = ()) -> dict[str, np.ndarray]:
        return self.runner.run({port.name: feeds[port.name] for port in self.runner.inputs}, layers)

    def why_not_finite(self, array: Inputs, layer: str = "") -> str:
        return f"{self.name} does not show where"

    # ---- What is known of its runs ----

    def kernels(self) -> dict[str, Any]:
        return {"same": True, "words": ""}

    @cached_property
    def receipt(self) -> dict[str, Any]:
        return {"runs": ", ".join(self.runner.where.values()), "python": platform.python_version()}

    @property
    def about(self) -> dict[str, str]:
        return {"model": self.name, "sha256": self.runner.identity, "identity": self.runner.identity}


# ---- Which output is which ----


def twins(ours: Mapping[str, tuple[Any, ...]], theirs: Mapping[str, tuple[Any, ...]]) -> dict[str, str]:
    """{output of a runner: that of a file}: of one name, else of one shape, in order; then also in another layout."""
    found = {name: name for name in ours if name in theirs}
    for alike in (_same_shape, _same_size):
        for name, shape in ours.items():
            left = [n for n in theirs if n not in found.values()]
            if name not in found:
                twin = next((n for n in left if alike(shape, theirs[n])), None)
                found |= {} if twin is None else {name: twin}
    return found


def _same_shape(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(x == y or not isinstance(y, int) for x, y in zip(a, b, strict=True))


def _same_size(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """The sizes above 1 are the same, in any order."""
    if not all(isinstance(d, int) for d in [*a, *b]):
        return False
    return sorted(d for d in a if d != 1) == sorted(d for d in b if d != 1)


def arranged(array: np.ndarray, shape: Sequence[Any]) -> np.ndarray:
    """`array` in a layout of these sizes: channels moved to or from the end, axes of one element added or left out."""
    if _same_shape(array.shape, shape) or not all(isinstance(d, int) for d in shape):
        return array
    for source, target in ((-1, 1), (1, -1)):
        if array.ndim >= 3 and np.moveaxis(array, source, target).shape == tuple(shape):
            return np.moveaxis(array, source, target)
    full, wanted = [d for d in array.shape if d != 1], [d for d in shape if d != 1]
    return array.reshape(shape) if full == wanted else array


def squashed_by(real: np.ndarray) -> str:
    """Which function an output seems to end with: its numbers are all in [0, 1], and add up to 1 for Softmax."""
    if real.ndim < 2 or not real.size or not (real.min() >= 0 and real.max() <= 1):
        return ""
    sums = [real.sum(axis=axis) for axis in (1, -1) if real.shape[axis] > 1]
    return "Softmax" if any(np.abs(s - 1).max() < 0.02 for s in sums) else "Sigmoid"


def _real(port: Port, array: np.ndarray) -> np.ndarray:
    return (array.astype(np.float64) - port.zero) * port.scale


def _random(inputs: Sequence[Port], sizes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {}
    for port in inputs:
        if np.dtype(port.dtype).kind in "iu":
            high = min(255, np.iinfo(port.dtype).max)
            feeds[port.name] = rng.integers(0, high, sizes[port.name], port.dtype, endpoint=True)
        else:
            feeds[port.name] = rng.standard_normal(sizes[port.name]).astype(port.dtype)
    return feeds


def hides(sides: Sequence[Side], different: Mapping[str, Any] | None) -> bool:
    """Whether a runner may make up inside for how its input differs: by a factor and an offset, or by rounding."""
    if different is None or not any(isinstance(side, RunnerSide) for side in sides):
        return False
    return different["kind"] == "scale" or (different["sqnr_db"] or 0.0) >= ROUNDED_DB


def check_insides(*sides: Side) -> None:
    """UnsupportedError where one is a runner, of a question about the inside of both."""
    for side in sides:
        if isinstance(side, RunnerSide):
            raise UnsupportedError(
                f"{side.name} runs outside onnxruntime, so its layers cannot be kept in float one by one",
                "compare the ONNX files that it was made from, with --sensitivity",
            )


def side_of(model: Any, shape: Shape, store: Store | None = None) -> Side:
    """A side of any kind."""
    return RunnerSide(model, shape, store) if isinstance(model, Deployed) else Side(model, shape, store=store)
