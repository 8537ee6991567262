"""Named tensors and nodes, to be read and appended to: what the graph of a model and the bodies in it share."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from analyzer.errors import NotFoundError, suggest
from analyzer.graph.nodes import Node, Value, reads
from analyzer.graph.values import evaluate


class Scope:
    """A graph or body: producers and consumers are one attribute away, and appending is building `Node`s.

    Attributes:
        values: {name: tensor} of all that can be read here.
        detached: {name: array} of the constants that are stubs in the proto.
    """

    def __init__(
        self, name: str, opset: int, versions: dict[str, int], detached: dict[str, np.ndarray], reserved: set[str]
    ) -> None:
        self.name, self.opset, self.versions = name, opset, versions
        self.nodes: list[Node] = []
        self.values: MutableMapping[str, Value] = {}
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.detached = detached
        self._known: dict[str, np.ndarray | None] = {}
        self._own: set[int] = set()
        self._at: dict[int, int] = {}  # where a node stands in `nodes`, by its id
        self._before: tuple[tuple[str, ...], list[Node]] = ((), [])
        self._reserved = reserved
        self._given = self.inputs  # where an input that is added belongs

    # ---- Reading ----

    def __getitem__(self, name: str) -> Value:
        """The tensor called `name`; NotFoundError suggests near misses."""
        if name in self.values:
            return self.values[name]
        raise NotFoundError(
            f"{self.name} has no tensor {name!r}", suggest(name, self.values) or "list them with `inspect`"
        )

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def constant(self, value: Value) -> np.ndarray | None:
        """The array of `value` where it does not depend on the inputs' data: weights, and shape arithmetic on
        known shapes. None where it does, or where it is large and computed."""
        if value.name not in self._known:
            self._known[value.name] = self._evaluate(value)
        known = self._known[value.name]
        return None if known is None or (known.dtype == object) else known

    def constant_in_part(self, value: Value) -> np.ndarray | None:
        """As `constant`, but an object array with None for each element that is not known."""
        return self._known.get(value.name) if self.constant(value) is None else self._known[value.name]

    def _evaluate(self, value: Value) -> np.ndarray | None:
        if isinstance(value, gs.Constant):
            return self.detached[value.name] if value.name in self.detached else np.asarray(value.values)
        # An explicit stack: chains of shape arithmetic can be longer than Python's recursion limit.
        stack = [value]
        while stack:
            top = stack[-1]
            if top.name in self._known or isinstance(top, gs.Constant) or not top.inputs:
                if not isinstance(top, gs.Constant) and top.name not in self._known:
                    self._known[top.name] = None
                stack.pop()
                continue
            node = top.inputs[0]
            waiting = [
                i for i in node.inputs if i.name and not isinstance(i, gs.Constant) and i.name not in self._known
            ]
            if waiting and node.op not in ("Shape", "Size"):
                stack.extend(waiting)
                continue
            results = evaluate(node, self._partial, [v.shape for v in node.inputs])
            for index, output in enumerate(node.outputs):
                self._known[output.name] = results[index] if results and index < len(results) else None
            stack.pop()
        return self._known[value.name]

    def _partial(self, value: Value) -> np.ndarray | None:
        if isinstance(value, gs.Constant):
            return self._evaluate(value)
        return self._known.get(value.name)

    def producer(self, value: Value) -> Node | None:
        """The node that computes `value`; None for inputs and weights."""
        return value.inputs[0] if value.inputs else None

    def consumers(self, value: Value) -> list[Node]:
        """The nodes that read `value`."""
        return list(value.outputs)

    def is_own(self, node: Node) -> bool:
        """Whether `node` is the model's own, not appended."""
        return id(node) in self._own

    def live(self, wanted: Sequence[Value], always: int = 0) -> list[bool]:
        """Which nodes the wanted outputs need; the first `always` nodes are taken to be needed."""
        needed = {v.name for v in wanted}
        live = [False] * len(self.nodes)
        for index in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[index]
            if index < always or any(o.name in needed for o in node.outputs):
                live[index] = True
                needed.update(reads(node))
        return live

    def before(self, names: Iterable[str]) -> list[Node]:
        """The nodes here that tensors depend on, in topological order: as many steps as there are such nodes."""
        key = tuple(names)
        if key and key == self._before[0]:  # what is appended changes nothing of it
            return self._before[1]
        for index in range(len(self._at), len(self.nodes)):
            self._at[id(self.nodes[index])] = index
        found, waiting, seen = set[int](), list(key), set(key)
        while waiting:
            value = self.values.get(waiting.pop())
            for producer in value.inputs if value is not None else ():
                index = self._at.get(id(producer), -1)  # none of a graph around this one
                if index >= 0 and index not in found:
                    found.add(index)
                    new = reads(producer) - seen
                    seen |= new
                    waiting += new
        self._before = key, [self.nodes[index] for index in sorted(found)]
        return self._before[1]

    # ---- Appending ----

    def append(self, node: Node) -> None:
        """Add `node` at the end; what it reads must already be there."""
        self.nodes.append(node)
        for output in node.outputs:
            if output.name:
                self.values[output.name] = output

    def add_weight(self, name: str, array: np.ndarray) -> gs.Constant:
        """Add a constant tensor."""
        value = gs.Constant(name, array)
        self.values[name] = value
        return value

    def add_input(self, name: str, dtype: Any, shape: Sequence[int | str | None] | None) -> Value:
        """Add an input; cotangents and targets of a graph, and what a body is given at each step."""
        value = gs.Variable(self.fresh(name), dtype, shape)
        self.values[value.name] = value
        self._given.append(value)
        return value

    def fresh(self, name: str) -> str:
        """`name`, or `name_2`… where it is taken."""
        candidate, count = name, 1
        while candidate in self.values or candidate in self._reserved:
            count += 1
            candidate = f"{name}_{count}"
        return candidate
