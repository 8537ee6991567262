"""A deployable model with an added `heatmap` output."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyzer.attribution.engine import Explainer
from analyzer.attribution.targets import is_expression, resolve_class
from analyzer.errors import InputError
from analyzer.files import guard
from analyzer.gradient.policies import rows_for
from analyzer.graph.save import save

OUTPUT = "heatmap"


@guard()
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
    first and keep their names. What was done stands in the file's metadata (`onnx-analyzer`), with the receipt: the
    largest relative difference of the original outputs on random input, measured.

    Args:
        model: path, bytes or ModelProto.
        path: where to write.
        method, layer, options: as for `explain`.
        target: "top1" (of each image, when the model runs), a class index, a label, or an expression.
        input_shapes: fixes symbolic sizes; only token grids need it.
        runtime: "onnxruntime", or "tensorrt" for a file that TensorRT's own parser takes: it leaves out what that
            rejects, and gradients of MaxPool take longer elsewhere. Fix the sizes of the input as well.

    Raises:
        InputError, NotFoundError, UnsupportedError: as `explain`.
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
    graph.metadata["onnx-analyzer"] = json.dumps(record | {"receipt": _receipt(explainer, compiled)}, sort_keys=True)
    return save(graph, path)


def _receipt(explainer: Explainer, compiled: Any) -> float | str:
    """The measured difference, or why it could not be measured."""
    from analyzer.runtime import receipt

    source = explainer.loaded.path
    try:
        if source is not None:
            return receipt(str(source), compiled.graph)
        return receipt(explainer.loaded.serialized(), compiled.graph)
    except Exception as error:
        return f"not measured: {' '.join(str(error).split())[:120]}"
