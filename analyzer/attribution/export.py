"""A deployable model with an added `heatmap` output."""

from __future__ import annotations

import json
import os
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
# Of a map in [0, 1], relative L2. Rounding alone moves a few pixels at kinks of ReLU and steps of quantisers.
LARGEST_DIFFERENCE = 0.05
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
        executed: list[dict[str, list[int]]] = []
        differences, distances, reasons = [0.0], [0.0], list[str]()
        for sizes in self._sizes():
            if len(executed) == 2:
                break
            feeds = random_feeds(after.inputs, sizes=sizes)
            try:
                expected = before.run(feeds) if before else {}
            except Exception as error:
                reasons.append(f"{_text(feeds)}: {_sentence(error)}")
                continue
            found = self._found(after, feeds)
            executed.append({name: list(array.shape) for name, array in feeds.items()})
            differences += [relative(array, found[name]) for name, array in expected.items()]
            distances.append(self._distance(after, feeds, found[OUTPUT]))
        if not executed:
            raise UnsupportedError(
                f"{self.explainer.loaded.name}: the model runs on no random input that was tried: "
                + "; ".join(dict.fromkeys(reasons)),
                "fix sizes that it takes: --shape " + self._example(),
            )
        self.record.setdefault("receipt", max(differences))
        self.record |= {"heatmap_difference": max(distances), "executed": executed}

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

    def _found(self, after: Plain, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return after.run(feeds)
        except Exception as error:
            raise UnsupportedError(
                f"{self.explainer.loaded.name}: the exported model does not run at {_text(feeds)}, though the model "
                f"does: {_sentence(error)}",
                "nothing was written; fix the sizes of the input: --shape " + self._example(),
            ) from None

    def _distance(self, after: Plain, feeds: dict[str, np.ndarray], heat: np.ndarray) -> float:
        """How far the heatmap is from that of `explain`: the least of a few random inputs.

        Raises:
            UnsupportedError: the layers differ, or all of the maps do.
        """
        least = np.inf
        for seed in range(_SEEDS):
            if seed:
                feeds = random_feeds(after.inputs, seed, sizes={name: array.shape for name, array in feeds.items()})
                heat = self._found(after, feeds)[OUTPUT]
            found = self.explained(feeds)
            if found.layer != self.compiled.layer:
                raise UnsupportedError(
                    f"{self.explainer.loaded.name}: at {_text(feeds)} explain chooses the layer {found.layer!r}, not "
                    f"{self.compiled.layer!r}",
                    "nothing was written; name the layer (--layer) or fix the sizes (--shape)",
                )
            least = min(least, _distance(found.heatmap, heat))
            if least <= LARGEST_DIFFERENCE:
                return float(least)
        raise UnsupportedError(
            f"{self.explainer.loaded.name}: the exported heatmap at {_text(feeds)} is another than explain gives "
            f"(relative distance {least:.2g})",
            "nothing was written; try another method or layer, and please report it",
        )

    def _example(self) -> str:
        first = self._sizes()[0] or {self.explainer.plain.inputs[0].name: self.explainer.plain.inputs[0].shape or ()}
        return " --shape ".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in first.items())


def _distance(expected: np.ndarray, found: np.ndarray) -> float:
    """Relative L2; ∞ where shapes, or the places that are not finite, differ."""
    if expected.shape != found.shape or not np.array_equal(np.isfinite(expected), np.isfinite(found)):
        return np.inf
    finite = np.isfinite(expected)
    a, b = expected[finite].astype(np.float64), found[finite].astype(np.float64)
    return float(np.linalg.norm(a - b) / (np.linalg.norm(a) or 1.0))


def _text(feeds: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} of {'×'.join(map(str, array.shape)) or 'one value'}" for name, array in feeds.items())


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
