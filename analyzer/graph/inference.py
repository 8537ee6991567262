"""Types and shapes of a node's outputs, by the operator's own inference function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, dtype_to_onnx

BFLOAT16 = int(onnx.TensorProto.BFLOAT16)


def infer(node: gs.Node, opset: int, constant: Callable[[Any], np.ndarray | None]) -> list[tuple[Any, Any]]:
    """(dtype, shape) of each output of `node`, by the ONNX schema; (None, None) where it cannot tell."""
    unknown: list[tuple[Any, Any]] = [(None, None)] * len(node.outputs)
    try:
        schema = onnx.defs.get_schema(node.op, opset, node.domain or "")
        proto = OnnxExporter.export_node(node)
        types, data = {}, {}
        for value in node.inputs:
            if not value.name or value.dtype is None:
                continue
            types[value.name] = onnx.helper.make_tensor_type_proto(dtype_to_onnx(value.dtype), value.shape)
            if value.dtype == np.dtype(np.int64) or isinstance(value, gs.Constant):
                known = constant(value) if (value.shape is None or len(value.shape) <= 1) else None
                if known is not None and known.size <= 256:
                    data[value.name] = onnx.numpy_helper.from_array(known, value.name)
        found = onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=[onnx.helper.make_opsetid(node.domain or "", opset)]
        )
    except Exception:
        return unknown
    return [_read_type(found[o.name]) if o.name in found else (None, None) for o in node.outputs]


def _read_type(kind: onnx.TypeProto) -> tuple[Any, Any]:
    if not kind.HasField("tensor_type"):
        return None, None  # a sequence or optional
    tensor = kind.tensor_type
    dtype: Any = tensor.elem_type
    if tensor.elem_type != BFLOAT16:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if not tensor.HasField("shape"):
        return dtype, None
    return dtype, [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim]
