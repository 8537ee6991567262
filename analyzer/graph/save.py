"""Write a model to a file: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import onnx

from analyzer.errors import InputError
from analyzer.graph.ir import PROTOBUF_LIMIT, Graph

_ALIGNMENT = 4096  # memory maps start at page boundaries


def save(graph: Graph, path: str | os.PathLike, outputs: list[str] | None = None) -> Path:
    """Write `graph` with all that was appended to it.

    One file where the weights fit into a protobuf; else they go beside it as `<name>.data`. Both are written under
    temporary names and renamed, so an interrupted write leaves nothing behind.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    proto, weights = graph.stub(outputs)
    if sum(w.nbytes for w in weights.values()) + proto.ByteSize() > PROTOBUF_LIMIT:
        return _save_external(proto, weights, path)
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = np.ascontiguousarray(weights[tensor.name]).tobytes()
    _write(path, lambda file: file.write(proto.SerializeToString()))
    return path


def _save_external(proto: onnx.ModelProto, weights: dict[str, np.ndarray], path: Path) -> Path:
    data = path.with_name(path.name + ".data")

    def write_weights(file: IO[bytes]) -> None:
        for tensor in proto.graph.initializer:
            if tensor.name not in weights:
                continue
            array = weights[tensor.name]
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", file.tell()), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            np.ascontiguousarray(array).tofile(file)

    _write(data, write_weights)
    try:
        _write(path, lambda file: file.write(proto.SerializeToString()))
    except BaseException:
        data.unlink(missing_ok=True)
        raise
    return path


def _write(path: Path, content: Callable[[IO[bytes]], object]) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            content(file)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
