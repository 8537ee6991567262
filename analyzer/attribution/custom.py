"""Types and sizes of what custom operators compute, which no shape inference knows: measured by running the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.helper

from analyzer.errors import AnalyzerError
from analyzer.graph import Source
from analyzer.graph.protos import copied
from analyzer.runtime import Session, random_feeds

KNOWN = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")
SIDES = 64, 96  # of open sizes, in two runs


def custom_outputs(proto: onnx.ModelProto) -> list[str]:
    """What nodes of the main graph give whose operator neither onnx, onnxruntime nor a function of the file defines."""
    own = {(f.domain, f.name) for f in proto.functions}
    nodes = [n for n in proto.graph.node if n.domain not in KNOWN and not n.domain.startswith("com.microsoft")]
    return [o for n in nodes if (n.domain, n.op_type) not in own for o in n.output if o]


def measured(
    loaded: Source, sizes: Mapping[str, tuple[int, ...]], provider: str, **options: Any
) -> tuple[onnx.ValueInfoProto, ...]:
    """Types and sizes of the custom operators' outputs, where the inputs have `sizes`.

    Sizes that differ between two runs with different open sizes are open; where the file does not run on random
    inputs, all are.
    """
    names = custom_outputs(loaded.proto)
    if not names:
        return ()
    proto = copied(loaded.proto)
    given = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in given)
    session = Session((proto, dict(loaded.detached)), provider, **options)
    inputs = {name: (i.type, i.shape) for name, i in session.inputs.items()}
    runs: list[dict[str, np.ndarray]] = []
    for side in SIDES:
        try:
            runs.append(session.run(random_feeds(inputs, side=side, sizes=sizes), names))
        except AnalyzerError:
            return ()
    batched = all(name in sizes or isinstance(shape[0], int) for name, (_, shape) in inputs.items() if shape)
    return tuple(_info(name, [r[name] for r in runs], batched) for name in names)


def _info(name: str, found: list[np.ndarray], batched: bool) -> onnx.ValueInfoProto:
    first, second = found
    kind = onnx.helper.np_dtype_to_tensor_dtype(first.dtype)
    if first.ndim != second.ndim:
        return onnx.helper.make_tensor_value_info(name, kind, None)
    shape = [m if m == n else None for m, n in zip(first.shape, second.shape, strict=True)]
    if shape and not batched:  # of open batches one picture was run
        shape[0] = None
    return onnx.helper.make_tensor_value_info(name, kind, shape)
