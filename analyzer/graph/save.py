"""Write a model to a file: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx

from analyzer.errors import OutputError
from analyzer.files import atomic_file, atomic_write, check_output
from analyzer.graph.ir import PROTOBUF_LIMIT, Graph

_ALIGNMENT = 4096  # memory maps start at page boundaries


def save(graph: Graph, path: str | os.PathLike, outputs: list[str] | None = None) -> Path:
    """Write `graph` with all that was appended to it.

    One file where the weights fit into a protobuf; else they go beside it as `<name>.data`. Both are written under
    temporary names and renamed, so an interrupted write leaves nothing behind.

    Raises:
        OutputError: the folder does not exist or cannot be written to.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    proto, weights = graph.stub(outputs)
    if sum(w.nbytes for w in weights.values()) + proto.ByteSize() > PROTOBUF_LIMIT:
        return _save_external(proto, weights, path)
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = np.ascontiguousarray(weights[tensor.name]).tobytes()
    atomic_write(path, proto.SerializeToString())
    return path


def _save_external(proto: onnx.ModelProto, weights: dict[str, np.ndarray], path: Path) -> Path:
    data = path.with_name(path.name + ".data")

    check_output(path)
    with atomic_file(data) as file:
        for tensor in proto.graph.initializer:
            if tensor.name not in weights:
                continue
            array = weights[tensor.name]
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", file.tell()), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    try:
        atomic_write(path, proto.SerializeToString())
    except BaseException:
        data.unlink(missing_ok=True)
        raise
    return path
