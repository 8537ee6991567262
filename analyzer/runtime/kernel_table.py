"""Which nodes of a graph onnxruntime's CUDA provider would leave to the CPU, told without a GPU.

From a table of what its partitioner decided for every operator sample (see benchmarks/kernel_table.py), which holds for
one version of onnxruntime.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from analyzer.errors import InputError

_FOLDER = Path(__file__).parent / "kernels"
_TYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.DOUBLE: "float64"}
# Bodies are looked into by the provider itself; constants are folded before it is asked.
_SKIPPED = frozenset({"Constant", "If", "Loop", "Scan"})


@dataclass(frozen=True)
class Prediction:
    """Nodes of floating-point results by operator and type, each {"Celu float32": [names]}.

    Attributes:
        runtime: version of onnxruntime that the table is of.
        cpu: no sample of the operator was given to the provider.
        depends: some samples were: it depends on attributes or on which inputs are constants.
        unknown: there is no sample.
    """

    runtime: str
    cpu: dict[str, list[str]]
    depends: dict[str, list[str]]
    unknown: dict[str, list[str]]


def predict(proto: onnx.ModelProto, provider: str) -> Prediction:
    """What of the model would fall to the CPU.

    Args:
        proto: a model whose value infos are complete, as `Graph.stub` gives it.
        provider: "cuda".

    Raises:
        InputError: there is no table for the provider.
    """
    table = _table(provider.partition(":")[0])
    kinds = {
        v.name: _TYPES[v.type.tensor_type.elem_type]
        for v in [*proto.graph.value_info, *proto.graph.output, *proto.graph.input]
        if v.type.tensor_type.elem_type in _TYPES and len(v.type.tensor_type.shape.dim) > 1
    }
    found: dict[str, dict[str, list[str]]] = {"no": {}, "some": {}, "unknown": {}}
    for node in proto.graph.node:
        kind = next((kinds[name] for name in node.output if name in kinds), None)
        if kind is None or node.op_type in _SKIPPED:
            continue
        answer = "unknown" if node.domain else table["kernels"].get(node.op_type, {}).get(kind, "unknown")
        if node.op_type == "ConvTranspose" and not any(d != 1 for d in _ints(node, "dilations")):
            answer = "yes"  # cuDNN has no dilated ones
        if answer != "yes":
            found[answer].setdefault(f"{node.op_type} {kind}", []).append(node.name)
    return Prediction(table["onnxruntime"], found["no"], found["some"], found["unknown"])


def _ints(node: onnx.NodeProto, name: str) -> list[int]:
    return [i for a in node.attribute if a.name == name for i in a.ints]


@functools.cache
def _table(provider: str) -> dict[str, Any]:
    file = _FOLDER / f"{provider}.json"
    if not file.exists():
        known = ", ".join(sorted(p.stem for p in _FOLDER.glob("*.json")))
        raise InputError(f"no table of kernels for the provider {provider!r}", f"there is one for {known}")
    return dict(json.loads(file.read_text()))
