"""A deployable model with an added `heatmap` output."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution.engine import Attribution, Compiled, Explainer
from analyzer.attribution.targets import TOP1, is_expression, resolve_class
from analyzer.errors import InputError, UnsupportedError
from analyzer.gradient.policies import rows_for
from analyzer.graph.query import fillings
from analyzer.graph.save import save
from analyzer.runtime import Plain, random_feeds, relative

OUTPUT = "heatmap"
# Rounding alone moves a few pixels of a map, at kinks of ReLU and steps of quantisers, and scores by steps.
LARGEST_DISTANCE = 0.05
LARGEST_DIFFERENCE = 0.1
_SMALL = 1e-4  # an output that is nowhere larger is compared with this: rounding near 0 is no difference
_SEEDS = 3


def export(
    model: Any,
    path: str | os.PathLike,
    method: str = "grad-cam",
    target: Any = "top1",
    layer: str = "auto",
    labels: Sequence[str] | None = None,
    input_shapes: dict[str, tuple[int, ...]] | None = None,
    output: str | None = None,
    runtime: str = "onnxruntime",
    **options: Any,
) -> Path:
    """Write the model with an added output `heatmap`: (N, H, W) in [0, 1], float32.

    The file holds standard operators only; any onnxruntime runs it without this package. The original outputs come
    first and keep their names. Before the file gets its name it is run as its users will run it, in a plain session at
    the default level: on random input, of two sizes and two batches where these are open. The file's metadata
    (`onnx-analyzer`) say what was done and measured: `receipt`, the largest relative difference of the original
    outputs, `heatmap_difference`, that of the heatmap from what `explain` gives, and `executed`, the sizes.

    Args:
        model: path, bytes or ModelProto.
        path: where to write.
        method, layer, options: as for `explain`.
        target: "top1" (of each image, when the model runs), a class index, a label, or an expression.
        input_shapes: fixes symbolic sizes; only token grids need it.
        runtime: "onnxruntime", or "tensorrt" for a file that TensorRT's own parser takes: it leaves out what that
            rejects, and gradients of MaxPool take longer elsewhere. Fix the sizes of the input as well.

    Raises:
        InputError, NotFoundError, UnsupportedError: as `explain`. UnsupportedError too where the file does not run, or
            not as `explain` does; nothing is written then.
    """
    explainer = Explainer(model, labels=labels)
    if any(v.name == OUTPUT for v in explainer.plain.outputs):
        raise InputError(f"the model already has an output {OUTPUT!r}", "it seems to be exported already")
    explainer.rows = rows_for(runtime)
    slot = target if is_expression(target) else resolve_class(target, labels)
    compiled = explainer.compile(method, layer, [slot], input_shapes, output, **options)
    graph = compiled.graph
    assert graph is not None
    heat = graph[compiled.slots[0][1]]
    graph.new_outputs.clear()
    graph.add_output(heat, OUTPUT)
    record = {"method": method, "layer": compiled.layer, "target": str(target), "output": compiled.scores.output.name}

    def explained(feeds: Mapping[str, np.ndarray]) -> Attribution:
        return explainer.explain(feeds, method, "top1" if slot == TOP1 else slot, layer, output, **options)

    def tried(file: Path) -> dict[str, str]:
        trial = Trial(explainer, compiled, file, explained)
        trial.run()
        return {"onnx-analyzer": json.dumps(record | trial.record, sort_keys=True)}

    return save(graph, path, check=tried)


@dataclass
class Trial:
    """An exported file, run beside the model that it was made from and beside `explain`.

    Attributes:
        record: {"receipt": largest relative difference of the original outputs, "heatmap_difference": relative L2
            distance of the heatmap from that of `explain`, "executed": [{input: sizes}]}. Where this machine's
            onnxruntime has no kernel for the file or the model, a sentence stands for what was not measured.
    """

    explainer: Explainer
    compiled: Compiled
    file: Path
    explained: Any
    record: dict[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        """Fills in `record`.

        Raises:
            UnsupportedError: the file does not load, does not run where the model does, differs, or can be tried at no
                size.
        """
        before = self._original()
        after = self._exported(before is None)
        if after is None:
            return
        tried, reason = self._runs(before, after)
        if not tried and before is not None:
            self.record["receipt"] = f"not measured: the model itself does not run: {reason}"
            tried, reason = self._runs(None, after)
        if not tried:
            raise UnsupportedError(
                f"{self.explainer.loaded.name}: the exported model runs at no size that was tried: {reason}",
                "nothing was written; fix sizes that the model takes: " + self._example(),
            )
        self.record.setdefault("receipt", max(run.difference for run in tried))
        self.record["heatmap_difference"] = max(run.distance for run in tried)
        self.record["executed"] = [run.sizes for run in tried]

    def _runs(self, before: Plain | None, after: Plain) -> tuple[list[_Run], str]:
        """Up to two runs at sizes where `before` runs (`after`, without one), and why the first that failed did."""
        tried: list[_Run] = []
        reasons: list[str] = []
        for sizes in self._sizes():
            try:
                tried.append(self._compared(before, after, sizes))
            except _ModelError as error:
                reasons.append(str(error))
            if len(tried) == 2:
                break
        return tried, next(iter(reasons), "")

    def _compared(self, before: Plain | None, after: Plain, sizes: Mapping[str, tuple[int, ...]]) -> _Run:
        """One random input at `sizes`; the best of a few where rounding decides."""
        best: _Run | None = None
        for seed in range(_SEEDS):
            feeds = random_feeds(after.inputs, seed, sizes=sizes)
            try:
                expected = before.run(feeds) if before else {}
            except Exception as error:
                raise _ModelError(f"{_text(feeds)}: {_sentence(error)}") from None
            found = self._found(after, feeds, alone=before is None)
            run = _Run(
                {name: list(array.shape) for name, array in feeds.items()},
                max((_difference(array, found[name]) for name, array in expected.items()), default=0.0),
                self._distance(feeds, found[OUTPUT]),
            )
            if run.good:
                return run
            best = run if best is None or run.distance < best.distance else best
        assert best is not None
        what = "heatmap differs from what explain gives"
        if best.distance <= LARGEST_DISTANCE:
            what = "model's outputs differ from those of the model as it came"
        raise UnsupportedError(
            f"{self.explainer.loaded.name}: at {_text(feeds)} the exported {what} "
            f"(relative difference {max(best.distance, best.difference):.2g})",
            "nothing was written; try another method or layer, and please report it",
        )

    def _original(self) -> Plain | None:
        """The model as it came; None where onnxruntime cannot load it."""
        loaded = self.explainer.loaded
        try:
            return Plain.original(loaded.path if loaded.path is not None else loaded.serialized())
        except Exception as error:
            self.record["receipt"] = f"not measured: onnxruntime does not load the model: {_sentence(error)}"
            return None

    def _exported(self, alone: bool) -> Plain | None:
        """The exported file; None where a kernel is missing that the model misses too.

        Raises:
            UnsupportedError: it does not load for another reason.
        """
        try:
            return Plain(self.file)
        except Exception as error:
            reason = _sentence(error)
            if not (alone and ("NOT_IMPLEMENTED" in str(error) or "NotImplemented" in type(error).__name__)):
                raise UnsupportedError(
                    f"{self.explainer.loaded.name}: onnxruntime does not load the exported model: {reason}",
                    "nothing was written; try another method or layer, and please report it",
                ) from None
            self.record |= {"heatmap_difference": f"not measured: {reason}", "executed": []}
            return None

    def _sizes(self) -> list[dict[str, tuple[int, ...]]]:
        """What to try: the likeliest sizes first, batches of one and of two by turns where the batch is open."""
        graph = self.compiled.graph
        assert graph is not None
        single, double = fillings(graph), fillings(graph, batch=2)
        turns = [s for pair in zip(single, [*double[1:], *double[:1]], strict=True) for s in pair]
        return [s for i, s in enumerate(turns) if s not in turns[:i]] or [{}]

    def _found(self, after: Plain, feeds: Mapping[str, np.ndarray], alone: bool) -> dict[str, np.ndarray]:
        try:
            return after.run(feeds)
        except Exception as error:
            if alone:
                raise _ModelError(f"{_text(feeds)}: {_sentence(error)}") from None
            raise UnsupportedError(
                f"{self.explainer.loaded.name}: the exported model does not run at {_text(feeds)}, though the model "
                f"does: {_sentence(error)}",
                "nothing was written; fix the sizes of the input: " + self._example(),
            ) from None

    def _distance(self, feeds: dict[str, np.ndarray], heat: np.ndarray) -> float:
        """How far the heatmap is from that of `explain`: relative L2; ∞ where shapes, or what is not finite, differ.

        Raises:
            UnsupportedError: explain chooses another layer.
        """
        found = self.explained(feeds)
        if found.layer != self.compiled.layer:
            raise UnsupportedError(
                f"{self.explainer.loaded.name}: at {_text(feeds)} explain chooses the layer {found.layer!r}, "
                f"export {self.compiled.layer!r}",
                "nothing was written; name the layer (--layer) or fix the sizes: " + self._example(),
            )
        expected = found.heatmap
        if expected.shape != heat.shape or not np.array_equal(np.isfinite(expected), np.isfinite(heat)):
            return np.inf
        a, b = (m[np.isfinite(expected)].astype(np.float64) for m in (expected, heat))
        return float(np.linalg.norm(a - b) / (np.linalg.norm(a) or 1.0))

    def _example(self) -> str:
        """The flags that fix the sizes of the inputs."""
        shapes = {i.name: i.shape or () for i in self.explainer.plain.inputs} | self._sizes()[0]
        return " ".join(f"--shape {name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


class _ModelError(Exception):
    """A model does not run on an input."""


@dataclass(frozen=True)
class _Run:
    """What one random input showed: the sizes, the outputs' difference and the heatmap's distance."""

    sizes: dict[str, list[int]]
    difference: float
    distance: float

    @property
    def good(self) -> bool:
        return self.difference <= LARGEST_DIFFERENCE and self.distance <= LARGEST_DISTANCE


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    """max |a − b| / max |a| of floating-point outputs; the share of elements that differ of others."""
    if expected.shape != found.shape:
        return np.inf
    if expected.dtype.kind != "f":
        return float(np.mean(expected != found)) if expected.size else 0.0
    largest = float(np.max(np.abs(expected), where=np.isfinite(expected), initial=0.0))
    return relative(expected, found) * min(1.0, largest / _SMALL) if largest else relative(expected, found)


def _text(feeds: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} of {'×'.join(map(str, array.shape)) or 'one value'}" for name, array in feeds.items())


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : |Load model from \S* failed: ?", "", text)[:300]
