"""Where NaN or ∞ first appears on a model's way from pictures to outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analyzer.attribution.model import Model, sizes_of
from analyzer.errors import AnalyzerError
from analyzer.graph import Graph
from analyzer.graph.query import image_input

FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
READ_AT_ONCE = 256 << 20  # bytes of tensors that one run copies out


@dataclass(frozen=True)
class Origin:
    """The first tensor of the file that is not finite for a picture.

    Attributes:
        kind: "NaN" or "∞"; "0" where all tensors are finite, but one that a target reads is 0 everywhere.
    """

    kind: str
    tensor: str
    operator: str
    node: str

    def __str__(self) -> str:
        where = f"node {self.node!r}, tensor {self.tensor!r}" if self.node else f"tensor {self.tensor!r}"
        if self.kind == "0":
            return f"the target reads a tensor that is 0 everywhere, from {self.operator} ({where})"
        return f"{self.kind} first appears at {self.operator} ({where})"


def find_origins(
    model: Model,
    feeds: Mapping[str, np.ndarray],
    pictures: Iterable[int],
    reached: Sequence[str] = (),
    target: Sequence[str] = (),
) -> dict[int, Origin | None]:
    """{picture: where NaN or ∞ first appears}, None where every tensor of the forward pass is finite.

    The model runs once more, with its tensors read as the file's types hold them.

    Args:
        feeds: the whole batch.
        pictures: indices into it.
        reached: tensors besides the model's outputs from which NaN or ∞ is followed back.
        target: tensors that the target reads: where all else is finite, one that is 0 is named.
    """
    count, fixed = len(feeds[image_input(model.plain).name]), model.fixed_batch or 0
    if count < fixed:
        more = fixed - count
        feeds = {n: np.concatenate([a, *[a[-1:]] * more]) if len(a) == count else a for n, a in feeds.items()}
    shapes = sizes_of(feeds)
    try:
        search = model.kept(("finite", tuple(sorted(shapes.items()))), lambda: _Search(model, shapes))
        return dict(search.run(feeds, list(pictures), reached, target))
    except AnalyzerError:  # the reason for a bad map must not cost the good ones of its batch
        return dict.fromkeys(pictures)


def say_not_finite(
    model: Model, feeds: Mapping[str, np.ndarray], found: Iterable[np.ndarray], reached: Sequence[str] = ()
) -> str:
    """A sentence where a floating-point array that a picture gave is not finite, "" where all are."""
    if all(array.dtype.kind != "f" or np.isfinite(array).all() for array in found):
        return ""
    return not_finite(find_origins(model, feeds, [0], reached)[0])


def not_finite(origin: Origin | None) -> str:
    """The sentence."""
    return f"the model's values are not finite for this picture{f': {origin}' if origin else ''}"


class _Search:
    """A session that gives every floating-point tensor of the file."""

    def __init__(self, model: Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
        graph: Graph = model.graph(shapes)
        file = model.loaded.proto.graph
        self.nodes = list(file.node)
        self.producers = {name: at for at, node in enumerate(self.nodes) for name in node.output if name}
        self.outputs = [output.name for output in file.output]
        own = [n for n in self.producers if n in graph and graph[n].inputs and graph[n].dtype in FLOATS]
        self.read = graph.outputs_for(own)
        self.bytes = {name: _size(graph[name].shape) * graph[name].dtype.itemsize for name in own}
        self.session = model.session(graph, list(self.read.values()), level="basic")
        self.image = image_input(graph).name

    def run(
        self, feeds: Mapping[str, np.ndarray], pictures: list[int], reached: Sequence[str], target: Sequence[str]
    ) -> dict[int, Origin | None]:
        count = len(feeds[self.image])
        given = {name: array for name, array in feeds.items() if name in self.session.inputs}
        kinds: dict[str, list[str]] = {}
        for names in self._parts:
            found = self.session.run(given, [self.read[n] for n in names])
            for name in names:
                kinds[name] = _kinds(found[self.read[name]], count, pictures)
        rows = [{name: kind[row] for name, kind in kinds.items()} for row in range(len(pictures))]
        return {p: self._origin(row, reached, target) for p, row in zip(pictures, rows, strict=True)}

    @cached_property
    def _parts(self) -> list[list[str]]:
        parts: list[list[str]] = [[]]
        room = READ_AT_ONCE
        for name, size in self.bytes.items():
            if parts[-1] and size > room:
                parts.append([])
                room = READ_AT_ONCE
            parts[-1].append(name)
            room -= size
        return parts

    def _origin(self, kinds: Mapping[str, str], reached: Sequence[str], target: Sequence[str]) -> Origin | None:
        """The first tensor from which the outputs, or else any tensor, became not finite.

        What is masked on purpose (−∞ before a Softmax) is finite again after it, and is not reached from there.
        """
        zero = [n for n in target if kinds.get(n) == "0"]
        kinds = {n: kind for n, kind in kinds.items() if kind not in ("", "0")}
        waiting = [n for n in (*self.outputs, *reached, *target) if n in kinds] or list(kinds)
        seen, origins = set(waiting), []
        while waiting:
            name = waiting.pop()
            before = self._read_before(name)
            causes = [n for n in before if n in kinds]
            if not causes:
                origins.append(name)
            waiting += [n for n in causes if n not in seen]
            seen.update(causes)
        if not origins and not zero:
            return None
        first = min(origins or zero, key=self.producers.__getitem__)
        node = self.nodes[self.producers[first]]
        return Origin(kinds.get(first, "0"), first, node.op_type, node.name)

    def _read_before(self, name: str) -> list[str]:
        """The tensors nearest before `name` that are read."""
        found: list[str] = []
        waiting, seen = [name], {name}
        while waiting:
            at = self.producers.get(waiting.pop())
            for before in self.nodes[at].input if at is not None else ():
                if before and before not in seen:
                    seen.add(before)
                    (found if before in self.read else waiting).append(before)
        return found


def _kinds(array: np.ndarray, count: int, pictures: Sequence[int]) -> list[str]:
    """Of each picture "NaN", "∞", "0" where all is 0, or "": of its rows where the first axis counts pictures or their
    parts, of the whole tensor elsewhere."""
    batched = bool(array.ndim and array.size and not len(array) % count)
    rows = array.reshape(count, -1) if batched else array.reshape(1, -1)
    words = [
        "NaN" if np.isnan(r).any() else "∞" if np.isinf(r).any() else "" if r.any() or not r.size else "0" for r in rows
    ]
    return [words[p if batched else 0] for p in pictures]


def _size(shape: Sequence[int | str | None] | None) -> int:
    return math.prod(d if isinstance(d, int) else 1 for d in shape or ())
