"""Write a model to a file, atomically."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from analyzer.errors import OutputError
from analyzer.files import check_output, destination, temporary_folder
from analyzer.graph.ir import PROTOBUF_LIMIT, Graph

_ALIGNMENT = 4096  # memory maps start at page boundaries


def save(
    graph: Graph,
    path: str | os.PathLike,
    outputs: list[str] | None = None,
    rewrite: Callable[[onnx.ModelProto, dict[str, np.ndarray]], None] | None = None,
    check: Callable[[Path], dict[str, str]] | None = None,
) -> Path:
    """Write `graph`, including everything that was appended to it.

    Writes one file if the weights fit into a protobuf; otherwise they go beside it as `<name>.data`. Both are written
    into a temporary folder beside `path` and moved, so an interrupted write leaves nothing behind.

    Args:
        rewrite: called with the model and the weights that are stubs in it, which it may change in place.
        check: called with the written file before it gets its final name. Its result is added to the file's metadata;
            if it raises an error, nothing is written.

    Raises:
        OutputError: the folder does not exist or cannot be written to, or `path` is a folder, a device, a pipe or a
            link to itself.
    """
    path, target = Path(path), destination(path)
    proto, weights = graph.stub(outputs)
    if rewrite is not None:
        rewrite(proto, weights)
    try:
        if not target.parent.is_dir():
            raise OutputError(f"cannot write {path}: the folder {target.parent} does not exist")
        if target.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder")
        if target.exists() and not target.is_file():
            raise OutputError(f"cannot write {path}: it is a device or a pipe", "write a file, or to stdout: -o -")
        check_output(path)
        with temporary_folder(target.parent) as folder:
            file = folder / target.name
            data = _add_weights(proto, weights, file)
            _write(file, proto)
            if check is not None:
                onnx.helper.set_model_props(proto, {p.key: p.value for p in proto.metadata_props} | check(file))
                _write(file, proto)
            for written in data:
                check_output(target.with_name(written.name))
            for written in [*data, file]:
                os.replace(written, target.with_name(written.name))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def _add_weights(proto: onnx.ModelProto, weights: dict[str, np.ndarray], file: Path) -> list[Path]:
    """Fills in the stubs of `proto`, or writes the weights to a file beside `file`: the files that are written."""
    stubs = [(t, weights[t.name]) for t in proto.graph.initializer if t.name in weights]
    if sum(w.nbytes for _, w in stubs) + proto.ByteSize() <= PROTOBUF_LIMIT:
        for tensor, array in stubs:
            tensor.raw_data = np.ascontiguousarray(array).tobytes()
        return []
    data = file.with_name(file.name + ".data")
    with data.open("wb") as target:
        for tensor, array in stubs:
            target.write(b"\0" * (-target.tell() % _ALIGNMENT))
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", target.tell()), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            np.ascontiguousarray(array).tofile(target)
    return [data]


def _write(file: Path, proto: onnx.ModelProto) -> None:
    file.write_bytes(proto.SerializeToString())
