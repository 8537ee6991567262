"""Which nodes of a graph a provider would not take; needs no GPU.

From a table of what was decided for every operator sample, by onnxruntime's CUDA provider (see
benchmarks/kernel_table.py) or by TensorRT's parser (see benchmarks/tensorrt_table.py). It holds for one version.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from analyzer.errors import InputError

_FOLDER = Path(__file__).parent / "kernels"
_TYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.DOUBLE: "float64"}
# Bodies are looked into by the provider itself; constants are folded before it is asked.
SKIPPED = frozenset({"Constant", "If", "Loop", "Scan"})
# Attributes with quantities, which do not change the choice of a kernel.
_SIZES = frozenset({"axis", "batch_axis", "batch_dims", "blocksize", "group", "hidden_size", "num_groups", "to"})


@dataclass(frozen=True)
class Prediction:
    """Nodes of floating-point results by operator and type, each {"Celu float32": [names]}.

    Attributes:
        runtime: what the table is of, with its version.
        fall: where they go instead.
        refused: no sample of the operator was taken.
        depends: some samples were: it depends on attributes or on which inputs are constants.
        unknown: there is no sample.
    """

    runtime: str
    fall: str
    refused: dict[str, list[str]]
    depends: dict[str, list[str]]
    unknown: dict[str, list[str]]


def predict(proto: onnx.ModelProto, provider: str) -> Prediction:
    """What of the model the provider would not take.

    Args:
        proto: a model whose value infos are complete, as `Graph.stub` gives it.
        provider: "cuda" or "tensorrt".

    Raises:
        InputError: there is no table for the provider.
    """
    table = _table(provider.partition(":")[0])
    kinds = float_types(proto)
    constants = constant_names(proto)
    found: dict[str, dict[str, list[str]]] = {"no": {}, "some": {}, "unknown": {}}
    for node in proto.graph.node:
        kind = next((kinds[name] for name in node.output if name in kinds), None)
        if kind is None or node.op_type in SKIPPED:
            continue
        answer = "unknown" if node.domain else table["kernels"].get(node.op_type, {}).get(kind, "unknown")
        name = node.op_type
        if answer == "some":
            name = form(node, constants)
            answer = table["forms"].get(name, {}).get(kind, "some")
        if answer != "yes":
            found[answer].setdefault(f"{name} {kind}", []).append(node.name)
    return Prediction(table["runtime"], table["fall"], found["no"], found["some"], found["unknown"])


def form(node: onnx.NodeProto, constants: Collection[str]) -> str:
    """The operator with what a provider may decide by: "MaxPool 2 outputs", "ScatterND reduction=add", "Conv dilated".

    That is strings and integers that differ from their defaults (axes, groups and sizes are left out), dilations, the
    number of outputs, and axes that are computed.

    Args:
        constants: names of tensors that are known before the model runs.
    """
    if node.domain or not onnx.defs.has(node.op_type):
        return node.op_type
    schema = onnx.defs.get_schema(node.op_type)
    parts = [node.op_type]
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        given = onnx.helper.get_attribute_value(attribute)
        if attribute.name == "dilations":
            parts += ["dilated"] * any(d != 1 for d in given)
        elif (
            isinstance(given, bytes | int)
            and attribute.name not in _SIZES
            and given != _default(schema, attribute.name)
        ):
            parts.append(f"{attribute.name}={given.decode() if isinstance(given, bytes) else given}")
    outputs = sum(map(bool, node.output))
    parts += [f"{outputs} outputs"] * (outputs > 1 and len(schema.outputs) > 1)
    for name, known in zip(node.input, schema.inputs, strict=False):
        parts += ["computed axes"] * (known.name == "axes" and bool(name) and name not in constants)
    return " ".join(parts)


def _default(schema: onnx.defs.OpSchema, attribute: str) -> Any:
    known = schema.attributes.get(attribute)
    given = known.default_value if known else None
    return onnx.helper.get_attribute_value(given) if given and given.name else None


def float_types(proto: onnx.ModelProto) -> dict[str, str]:
    """{tensor: type} of the floating-point ones of rank 2 and more: arithmetic on shapes belongs on the CPU."""
    return {
        v.name: _TYPES[v.type.tensor_type.elem_type]
        for v in [*proto.graph.value_info, *proto.graph.output, *proto.graph.input]
        if v.type.tensor_type.elem_type in _TYPES and len(v.type.tensor_type.shape.dim) > 1
    }


def constant_names(proto: onnx.ModelProto) -> set[str]:
    """Names of the initializers and of what Constant nodes give."""
    constants = {name for node in proto.graph.node if node.op_type == "Constant" for name in node.output}
    return constants | {tensor.name for tensor in proto.graph.initializer}


@functools.cache
def _table(provider: str) -> dict[str, Any]:
    file = _FOLDER / f"{provider}.json"
    if not file.exists():
        known = ", ".join(sorted(p.stem for p in _FOLDER.glob("*.json")))
        raise InputError(f"no table of kernels for the provider {provider!r}", f"choose one of {known}")
    return dict(json.loads(file.read_text(encoding="utf-8")))
