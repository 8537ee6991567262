"""Half precision before it is built: what of a float32 model float16 cannot hold, measured on pictures.

float16 holds magnitudes up to 65,504, and from 2⁻²⁴ ≈ 6·10⁻⁸ on; smaller ones become 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analyzer.attribution import Explainer
from analyzer.attribution.model import sizes_of
from analyzer.data import Sample
from analyzer.errors import InputError, UnsupportedError
from analyzer.graph import Builder, Graph, Value
from analyzer.graph.parameters import Initializer
from analyzer.images import Feeding, Preprocess
from analyzer.passes import InputPass, Loaded, Workers, run
from analyzer.validation.audit import Audit
from analyzer.validation.verdict import Finding

WIDE = (np.dtype(np.float32), np.dtype(np.float64))
HIGHEST = float(np.finfo(np.float16).max)  # 65,504
LOWEST = float(np.finfo(np.float16).smallest_subnormal)  # 2⁻²⁴, about 6e-8
OVERFLOWS = 65520.0  # from here on rounding gives ∞: half way to the number that would come next
ROUNDED_TO_ZERO = LOWEST / 2  # up to here rounding gives 0
VANISHING = 0.01  # share of a tensor's Σ |x| in elements that become 0, above which it is a finding


def half_precision(
    explainer: Explainer,
    preprocess: Preprocess | Feeding,
    samples: Sequence[Sample],
    folder: str | os.PathLike[str] | None = None,
    workers: Workers = None,
    progress: Callable[[int], None] | None = None,
) -> Audit:
    """What of a model and of its tensors on pictures float16 cannot hold.

    Args:
        folder, workers, progress: see `passes.run`.

    Raises:
        InputError: no pictures. UnsupportedError: the model has no float32 tensors.
    """
    if not samples:
        raise InputError("no pictures to audit on", "pass a folder of pictures with --data")
    done = run(Halving(explainer, preprocess), samples, folder, workers, progress=progress)
    return replace(done.result, failed=done.failed, doubt=done.doubt)


class Halving(InputPass[dict[str, Any]]):
    """What float16 cannot represent, over pictures, one a step. A partial result is {"rows": [(picture, (T, 5))]}."""

    name = "fp16"
    anchored = True

    def setup(self, first: Loaded | None) -> None:
        if first is not None:
            self._prepare(sizes_of(self._fed(first.item)))

    def _fed(self, item: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of a run: one picture, or the batch that the file fixes."""
        return self.model.batch([self.model.feeds(item)])

    def _prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes the session that reduces every float32 tensor of the file to five numbers."""
        graph = self.model.graph(shapes)
        op = Builder(graph, "fp16")
        own = {name for node in self.model.loaded.proto.graph.node for name in node.output}
        values = [v for n in graph.forward_nodes() for v in n.outputs if v.name in own and v.dtype in WIDE]
        self.tensors = [v.name for v in values if graph.constant(v) is None]
        if not self.tensors:
            raise UnsupportedError(
                f"{self.model.loaded.name}: it has no float32 tensors", "use --fp16 with the float32 file"
            )
        self.nodes = {v.name: graph.producer(v) for v in values}
        self.shapes, self.graph = dict(shapes), graph
        rows = [_reduced(op, graph[name]) for name in self.tensors]
        output = graph.add_output(op.Concat(*rows, axis=0) if len(rows) > 1 else rows[0], "statistics").name
        self.session, self.output = self.model.session(graph, [output]), output

    def step(self, batch: Sequence[Loaded]) -> dict[str, Any]:
        ((sample, feeds),) = batch
        given = self._fed(feeds)
        found = self.session.run({n: a for n, a in given.items() if n in self.session.inputs})[self.output]
        return {"rows": [(sample.id, found.reshape(len(self.tensors), -1))], "shapes": self.shapes}

    def merge(self, left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
        return {"rows": left["rows"] + right["rows"], "shapes": left["shapes"]}

    def finish(self, total: dict[str, Any] | None) -> Audit:
        if total is None:
            raise InputError("no pictures to audit on", "none of the given pictures can be read")
        self._prepare({name: tuple(shape) for name, shape in total["shapes"].items()})
        numbers = np.stack([row for _, row in total["rows"]])  # (pictures, T, 5)
        tensors = [self._tensor(name, numbers[:, at]) for at, name in enumerate(self.tensors)]
        weights = [row for given in self.graph.initializers() if (row := _weight(self.graph, given)) is not None]
        loaded = self.model.loaded
        largest = max(tensors, key=lambda row: row["largest"])
        report: dict[str, Any] = {
            "identity": {
                "model": str(loaded.path or loaded.name),
                "sha256": loaded.sha256,
                "identity": loaded.identity,
                "largest": largest["tensor"],
            },
            "pictures": len(numbers),
            "contract": {},
            "layers": [],
            "summary": {
                "tensors": len(tensors),
                "weights": len(weights),
                "overflowing": sum(row["overflow"] > 0 for row in tensors + weights),
                "vanishing": sum(row["vanishing"] > VANISHING for row in tensors + weights),
                "largest": largest["largest"],
            },
            "rows": [],
            "fp16": [row for row in weights + tensors if row["overflow"] or row["vanishing"] > VANISHING],
        }
        return Audit(report)

    def _tensor(self, name: str, numbers: np.ndarray) -> dict[str, Any]:
        """The row of an activation: `numbers` (pictures, 5) as of `_reduced`."""
        node = self.nodes[name]
        largest, over, count, lost, total = numbers.T.astype(np.float64)
        return {
            "tensor": name,
            "kind": "activation",
            "node": str(node.name or "") if node is not None else "",
            "operator": str(node.op) if node is not None else "",
            "largest": float(largest.max()),
            "overflow": float(over.sum() / count.sum()),
            "vanishing": float((lost / np.maximum(total, np.finfo(np.float64).tiny)).max()),
            "pictures": int(((over > 0) | (lost > VANISHING * total)).sum()),
        }


def _reduced(op: Builder, value: Value) -> Value:
    """(5,) of a tensor: the largest magnitude, elements that overflow, all elements, Σ |x| of what vanishes, Σ |x|."""
    size = op.Abs(op.cast(value, np.dtype(np.float32)))
    over = op.cast(op.GreaterOrEqual(size, OVERFLOWS), np.dtype(np.float32))
    lost = op.Where(op.LessOrEqual(size, ROUNDED_TO_ZERO), size, np.float32(0))
    ones = op.cast(op.GreaterOrEqual(size, 0.0), np.dtype(np.float32))
    numbers = [op.ReduceMax(size, keepdims=0), *(op.ReduceSum(each, keepdims=0) for each in (over, ones, lost, size))]
    return op.Concat(*(op.Reshape(number, [1]) for number in numbers), axis=0)


def _weight(graph: Graph, given: Initializer) -> dict[str, Any] | None:
    """The row of a weight or another constant; None of one that is not float32."""
    array = graph.constant(given.value)
    if array is None or array.dtype not in WIDE or not array.size:
        return None
    size = np.abs(array.astype(np.float64))
    lost, total = float(size[size <= ROUNDED_TO_ZERO].sum()), float(size.sum())
    return {
        "tensor": given.value.name,
        "kind": given.role,
        "node": str(given.node.name or ""),
        "operator": str(given.node.op),
        "largest": float(size.max()),
        "overflow": float((size >= OVERFLOWS).mean()),
        "vanishing": lost / total if total else 0.0,
        "pictures": None,
    }


def half_findings(report: Mapping[str, Any]) -> list[Finding]:
    """A finding for each tensor that overflows, then for each that vanishes, in the order of the graph."""
    found = []
    for row in report["fp16"]:
        if row["overflow"]:
            words = f"{_place(row)} reaches {row['largest']:.4g}{_where(row, report)}; float16 ends at {HIGHEST:,.0f}"
            found.append(Finding("fp16-overflow", row["tensor"], row["largest"], HIGHEST, words))
    for row in report["fp16"]:
        if row["vanishing"] > VANISHING:
            words = (
                f"{row['vanishing']:.0%} of the magnitude of {_place(row)} is below {LOWEST:.0e} and becomes 0 in "
                f"float16{_where(row, report)}"
            )
            found.append(Finding("fp16-vanishes", row["tensor"], row["vanishing"], VANISHING, words))
    return found


def _place(row: Mapping[str, Any]) -> str:
    """A tensor by the node that makes it, or that reads the weight."""
    node = f"{row['operator']} {row['node']!r}" if row["node"] else row["operator"]
    return f"the output of {node}" if row["kind"] == "activation" else f"a {row['kind']} that {node} reads"


def _where(row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    return "" if row["pictures"] is None else f", on {row['pictures']} of {report['pictures']} pictures"
