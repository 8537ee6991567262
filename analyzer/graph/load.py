"""Load a path, bytes or ModelProto as a `Source`: the graph with its weights kept outside the protobuf.

Weights are NumPy arrays (memory-mapped if the file has them as external data) and are not copied into protobuf again:
the proto that the passes work on has stubs, so it is small for a model of any size.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import heapq
import io
import math
import mmap
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx

from analyzer.errors import InputError, suggest
from analyzer.files import FileState, opened, protect
from analyzer.graph import wire
from analyzer.graph.bounds import check_expansion, check_numbers
from analyzer.graph.protos import all_nodes, captured, copied, lift_constants, opsets, replace_all
from analyzer.graph.schemas import lookup
from analyzer.graph.source import (
    DETACH_BYTES,
    DETACHABLE,
    MAX_FILE_BYTES,
    Source,
    check_dims,
    detach,
    embed,
    itemsize,
    state_of,
)

Opened: TypeAlias = io.BufferedReader | io.BytesIO  # a file, or the bytes of what is no regular file


def load(model: str | os.PathLike | bytes | onnx.ModelProto | Source) -> Source:
    """Read `model` and move its weights out of the protobuf.

    Args:
        model: path of an `.onnx` file (external data beside it), its bytes, or a `ModelProto` (left untouched).

    Raises:
        InputError: the file is missing, not ONNX, truncated, cyclic, or its external data is missing or points
            outside its folder.
    """
    if isinstance(model, Source):
        return model
    path = None
    if isinstance(model, onnx.ModelProto):
        source = Source(copied(model))
    elif isinstance(model, bytes | bytearray | memoryview):
        source = _read(io.BytesIO(model), None)
    elif isinstance(model, str | os.PathLike):
        path = Path(model)
        with _opened(path) as file:
            source = _read(file, path)
    else:
        raise InputError(f"a model must be a path, bytes or an onnx.ModelProto, not {type(model).__name__}")
    proto = source.proto
    _check(proto, path)
    lift_constants(proto.graph)
    check_numbers(proto, str(path or "the model"))
    check_expansion(proto, str(path or "the model"))
    _trim_inputs(proto)
    embed(source)
    detach(source)
    _sort(proto.graph, str(path or "model"))
    # Cleared protobuf fields keep their memory; parsing the stubs afresh gives it back.
    source.proto = onnx.ModelProto.FromString(proto.SerializeToString())
    return source


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Opened]:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder, not an ONNX file", "name the .onnx file inside it")
        status = path.stat()
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            raise InputError(f"{path} is a device, not an ONNX file")
        size = status.st_size
        if size >= MAX_FILE_BYTES:
            raise InputError(
                f"{path} has {size / 2**30:.1f} GiB, which is over protobuf's limit of 2 GiB",
                "save the weights as external data: onnx.save(model, path, save_as_external_data=True)",
            )
        protect(path)
        with opened(path) as file:
            yield file if stat.S_ISREG(status.st_mode) else io.BytesIO(file.read(MAX_FILE_BYTES))  # a pipe
    except FileNotFoundError:
        near = suggest(path.name, os.listdir(path.parent)) if path.parent.is_dir() else ""
        raise InputError(f"no such file: {path}", near) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _read(file: Opened, path: Path | None) -> Source:
    """The model of an open file, hashed meanwhile by another thread; its large weights are read straight to arrays."""
    state = None if isinstance(file, io.BytesIO) else FileState.from_stat(os.fstat(file.fileno()))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        data: wire.Buffer
        if isinstance(file, io.BytesIO):
            data = file.getvalue()
            digest = pool.submit(lambda: hashlib.sha256(data).hexdigest())
        elif os.fstat(file.fileno()).st_size:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            digest = pool.submit(_hashed, str(path))
        else:
            data, digest = b"", pool.submit(str)
        found = wire.split(data, DETACHABLE, DETACH_BYTES)
        if found is None:
            source = Source(_parse(bytes(data[:]), path), path=path)
        else:
            source = Source(_parse(found[0], path), path=path)
            for index, (start, stop) in found[1].items():
                tensor = source.proto.graph.initializer[index]
                if tensor.name in source.detached:  # named twice: the first counts
                    continue
                file.seek(start)
                raw = np.empty(stop - start, np.uint8)
                if file.readinto(raw.data) != raw.size:
                    raise InputError(f"{path}: the file changed while it was read")
                source.detached[tensor.name] = _as_array(tensor, raw)
        if isinstance(data, mmap.mmap):
            data.close()
        source.sha256 = digest.result()
    if path is not None and state is not None:
        if state_of(path) != state:
            raise InputError(f"{path}: the file changed while it was read", "try again when the file is complete")
        source.files[path] = state
    return source


def _hashed(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_array(tensor: onnx.TensorProto, raw: np.ndarray) -> np.ndarray:
    """A weight from its bytes, little-endian as ONNX has them."""
    check_dims(tensor, raw.size // itemsize(tensor))
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    array = raw[: math.prod(tensor.dims) * dtype.itemsize].view(dtype).reshape(tuple(tensor.dims))
    return array if sys.byteorder == "little" else array.byteswap()


def _parse(data: bytes, path: Path | None) -> onnx.ModelProto:
    where = str(path) if path else "the given bytes"
    if not data:
        raise InputError(f"{where}: the file is empty, not an ONNX model")
    if data[4:8] == b"ORTM":
        raise InputError(f"{where} is in onnxruntime's own .ort format", "use the .onnx file it was converted from")
    if data[:2] == b"\x1f\x8b" or data[:4] == b"PK\x03\x04":
        raise InputError(f"{where} is a compressed file, not an ONNX model", "decompress it with gunzip or unzip first")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:
        raise InputError(
            f"{where} is not an ONNX model: it is not valid protobuf (truncated, or another kind of file)"
        ) from None
    return proto


def _check(proto: onnx.ModelProto, path: Path | None) -> None:
    where = str(path) if path else "the model"
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise InputError(f"{where} is not an ONNX model: it has no graph")
    if any(not 0 <= o.version < 2**31 for holder in (proto, *proto.functions) for o in holder.opset_import):
        raise InputError(f"{where}: imports a version of an operator set that cannot be")
    for graph in (proto.graph, *proto.functions):
        for node in all_nodes(graph):
            if not any(node.output):
                raise InputError(f"{where}: the node {node.name!r} ({node.op_type}) has no output")
    if not proto.graph.output:
        raise InputError(f"{where}: the graph has no outputs, so there is nothing to explain")
    names = [v.name for v in [*proto.graph.input, *proto.graph.output, *proto.graph.initializer]]
    for graph in (proto.graph, *proto.functions):
        for node in all_nodes(graph):
            names += [*node.input, *node.output, node.name, node.op_type, node.domain]
            names += [attribute.name for attribute in node.attribute]
    if not all(isinstance(n, str) for n in names):
        raise InputError(f"{where}: a name is not valid UTF-8; the file is damaged")
    if not any(o.domain in ("", "ai.onnx") for o in proto.opset_import):
        if proto.ir_version >= 3 and any(n.domain in ("", "ai.onnx") for n in proto.graph.node):
            raise InputError(f"{where}: the model imports no version of the ai.onnx operator set")
        if proto.ir_version < 3:
            proto.opset_import.append(onnx.helper.make_opsetid("", 1))
    _name_domains(proto)


def _name_domains(proto: onnx.ModelProto) -> None:
    """Writes "" for ai.onnx throughout; of a domain imported twice the last import counts, as in onnxruntime."""
    for holder in [proto, *proto.functions]:
        versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in holder.opset_import}
        replace_all(holder.opset_import, [onnx.helper.make_opsetid(d, v) for d, v in versions.items()])
    for graph in [proto.graph, *proto.functions]:
        for node in all_nodes(graph):
            if node.domain == "ai.onnx":
                node.domain = ""


def _trim_inputs(proto: onnx.ModelProto) -> None:
    """Drops empty names at the end of a node's inputs, which mean the same as none.

    onnxruntime 1.31 crashes where it optimizes a LayerNormalization whose bias is one.
    """
    version = opsets(proto).get("", 1)
    for node in all_nodes(proto.graph):
        schema = None if node.domain else lookup(node.op_type, version)
        while schema is not None and len(node.input) > schema.min_input and not node.input[-1]:
            del node.input[-1]


def _sort(graph: onnx.GraphProto, where: str) -> None:
    """Checks single assignment and puts nodes in topological order; a cycle is an error that names its nodes."""
    given = {""} | {i.name for i in graph.input} | {t.name for t in graph.initializer}
    given |= {t.values.name for t in graph.sparse_initializer}
    produced: set[str] = set()
    for node in graph.node:
        for name in filter(None, node.output):
            if name in produced or (name in given):
                raise InputError(f"{where}: two nodes produce the tensor {name!r}; the graph is not valid ONNX")
            produced.add(name)
    for node in graph.node:
        for name in [*node.input, *captured(node)]:
            if name not in given and name not in produced:
                raise InputError(f"{where}: node {node.name or node.op_type!r} reads {name!r}, which no node produces")
    for output in graph.output:
        if output.name not in given and output.name not in produced:
            raise InputError(f"{where}: no node produces the output {output.name!r}")
    order = _topological(list(graph.node), given, where)
    if any(a is not b for a, b in zip(order, graph.node, strict=True)):
        replace_all(graph.node, order)


def _topological(nodes: list[onnx.NodeProto], given: set[str], where: str) -> list[onnx.NodeProto]:
    """`nodes` so that each follows what it reads; the file's own order where that already holds."""
    reads = [{n for n in [*node.input, *captured(node)] if n not in given} for node in nodes]
    readers: dict[str, list[int]] = {}
    for index, names in enumerate(reads):
        for name in names:
            readers.setdefault(name, []).append(index)
    missing = [len(names) for names in reads]
    ready = [index for index, count in enumerate(missing) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(nodes[index])
        for name in nodes[index].output:
            for reader in readers.get(name, ()):
                missing[reader] -= 1
                if not missing[reader]:
                    heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = ", ".join(repr(nodes[i].name or nodes[i].op_type) for i, count in enumerate(missing) if count)
        raise InputError(f"{where}: the graph has a cycle through {stuck[:300]}", "export the model again")
    return order
