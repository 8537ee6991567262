"""From a path, bytes or ModelProto to a `Source`: the graph with its weights set aside.

Weights live in NumPy arrays (memory-mapped where the file keeps them as external data) and never travel through
protobuf again: the proto that the passes work on holds stubs, so it stays small for a model of any size.
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
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import onnx
from onnx import numpy_helper

from analyzer.errors import InputError, UnsupportedError
from analyzer.files import FileState, content_hash, protect
from analyzer.graph import wire

# Smaller tensors stay in the proto: shape inference and the opset converter read them.
DETACH_BYTES = 4096
MAX_FILE_BYTES = 1 << 31
LARGEST_EMBEDDED = MAX_FILE_BYTES - (512 << 20)  # of external data, with the rest of the model beside it

_DATA_FIELDS = (
    "raw_data",
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "string_data",
)
_DETACHABLE = {
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16, onnx.TensorProto.INT32,
    onnx.TensorProto.UINT32, onnx.TensorProto.INT64, onnx.TensorProto.UINT64,
}  # fmt: skip


@dataclass
class Source:
    """A model as it came.

    Attributes:
        proto: with stubs where `weights` were.
        path: the file it was read from. sha256: of that file alone, or of the bytes given; "" of a ModelProto.
        files: every file that was read, as it was then. mapped: those that weights are mapped from.
        inlined: hash of the external data that went into `proto`.
    """

    proto: onnx.ModelProto
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    path: Path | None = None
    sha256: str = ""
    files: dict[Path, FileState] = field(default_factory=dict)
    mapped: set[Path] = field(default_factory=set)
    inlined: str = ""

    @cached_property
    def identity(self) -> str:
        """A hash of every byte of the model, external data included: `sha256` where there is none.

        Raises:
            InputError: as `check_unchanged`.
        """
        if self.sha256 and not self.inlined and not self.mapped:
            return self.sha256
        digest = hashlib.sha256(f"{self.sha256}\0{self.inlined}".encode())
        if not self.sha256:
            digest.update(self.proto.SerializeToString(deterministic=True))
            for name, array in sorted(self.weights.items()):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            return digest.hexdigest()
        for path in sorted(self.mapped):
            digest.update(content_hash(path).encode())
        self.check_unchanged()
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Sees to it that weights that are mapped from files are those that were loaded.

        Raises:
            InputError: such a file has changed since.
        """
        for path in self.mapped:
            if _state(path) != self.files[path]:
                raise InputError(f"{path} has changed since the model was loaded", "load the model again")

    @property
    def current(self) -> bool:
        """Whether all files are sure to be what they were."""
        return all(known.settled and _state(path) == known for path, known in self.files.items())

    @property
    def name(self) -> str:
        return self.path.name if self.path else self.proto.graph.name or "model"

    def serialized(self) -> bytes:
        """The model in one piece again."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for tensor in proto.graph.initializer:
            if tensor.name in self.weights:
                tensor.raw_data = np.ascontiguousarray(self.weights[tensor.name]).tobytes()
        return bytes(proto.SerializeToString())


def load(model: str | os.PathLike | bytes | onnx.ModelProto | Source) -> Source:
    """Read `model` and set its weights aside.

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
        source = Source(onnx.ModelProto())
        source.proto.CopyFrom(model)
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
    embed(source)
    detach(source)
    _sort(proto.graph, str(path or "model"))
    # Cleared protobuf fields keep their memory; parsing the stubs afresh gives it back.
    source.proto = onnx.ModelProto.FromString(proto.SerializeToString())
    return source


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder, not an ONNX file", "name the .onnx file inside it")
        status = path.stat()
        size = status.st_size
        if size >= MAX_FILE_BYTES:
            raise InputError(
                f"{path} has {size / 2**30:.1f} GiB, but a protobuf file ends at 2 GiB",
                "save the weights as external data: onnx.save(model, path, save_as_external_data=True)",
            )
        protect(path)
        with path.open("rb") as file:
            yield file if stat.S_ISREG(status.st_mode) else io.BytesIO(file.read())  # a pipe
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _read(file: IO[bytes], path: Path | None) -> Source:
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
        found = wire.split(data, _DETACHABLE, DETACH_BYTES)
        if found is None:
            source = Source(_parse(bytes(data[:]), path), path=path)
        else:
            source = Source(_parse(found[0], path), path=path)
            for index, (start, stop) in found[1].items():
                tensor = source.proto.graph.initializer[index]
                if tensor.name in source.weights:  # named twice: the first counts
                    continue
                file.seek(start)
                raw = np.empty(stop - start, np.uint8)
                if file.readinto(raw) != raw.size:  # type: ignore[attr-defined]
                    raise InputError(f"{path}: the file changed while it was read")
                source.weights[tensor.name] = _as_array(tensor, raw)
        if isinstance(data, mmap.mmap):
            data.close()
        source.sha256 = digest.result()
    if path is not None and state is not None:
        if _state(path) != state:
            raise InputError(f"{path}: the file changed while it was read", "wait until it is written")
        source.files[path] = state
    return source


def _state(path: Path) -> FileState | None:
    """None where there is no such file."""
    try:
        return FileState.of(path)
    except OSError:
        return None


def _hashed(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_array(tensor: onnx.TensorProto, raw: np.ndarray) -> np.ndarray:
    """A weight from its bytes, little-endian as ONNX has them."""
    _check_dims(tensor, raw.size // _itemsize(tensor))
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    array = raw[: math.prod(tensor.dims) * dtype.itemsize].view(dtype).reshape(tuple(tensor.dims))
    return array if sys.byteorder == "little" else array.byteswap()


def _parse(data: bytes, path: Path | None) -> onnx.ModelProto:
    where = str(path) if path else "the given bytes"
    if not data:
        raise InputError(f"{where}: the file is empty, not an ONNX model")
    if data[4:8] == b"ORTM":
        raise InputError(f"{where} is in onnxruntime's own .ort format", "give the .onnx file it was converted from")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:
        raise InputError(
            f"{where} is not an ONNX model: it does not parse as protobuf (truncated, or another kind of file)"
        ) from None
    return proto


def _check(proto: onnx.ModelProto, path: Path | None) -> None:
    where = str(path) if path else "the model"
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise InputError(f"{where} is not an ONNX model: it holds no graph")
    if not proto.graph.output:
        raise InputError(f"{where}: the graph has no outputs, so there is nothing to explain")
    names = [v.name for v in [*proto.graph.input, *proto.graph.output, *proto.graph.initializer]]
    names += [n for node in proto.graph.node for n in [*node.input, *node.output]]
    if not all(isinstance(n, str) for n in names):
        raise InputError(f"{where}: the name of a tensor is no UTF-8 text; the file is damaged")
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
        del holder.opset_import[:]
        holder.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in versions.items())
    stack = [*proto.graph.node, *(n for f in proto.functions for n in f.node)]
    while stack:
        node = stack.pop()
        if node.domain == "ai.onnx":
            node.domain = ""
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs]:
                stack.extend(body.node)


def lift_constants(graph: onnx.GraphProto) -> None:
    """Replaces Constant nodes with initializers of the same name."""
    kept = []
    for node in graph.node:
        tensor = constant_tensor(node)
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    if len(kept) != len(graph.node):
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
        del graph.node[:]
        graph.node.extend(copies)


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor that a Constant node holds, whichever attribute it is written in, or None."""
    if node.op_type != "Constant" or node.domain or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    kinds = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if attribute.name not in kinds:
        return None
    return numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(attribute), kinds[attribute.name]))


def embed(source: Source) -> None:
    """Replaces references to external data with the data, all but those of large initializers."""
    digest, total = hashlib.sha256(), 0
    for tensor in _all_tensors(source.proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        target, offset, length = _external(tensor, source)
        total += length
        if total > LARGEST_EMBEDDED:
            raise UnsupportedError(
                f"{source.name}: more than {LARGEST_EMBEDDED / 2**30:.1f} GiB of external data belong to bodies of "
                "control flow, to functions or to types that NumPy lacks",
                "move them to initializers of the main graph, as float32 or float16",
            )
        with target.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) < length or _state(target) != source.files[target]:
            raise InputError(f"{target}: the file changed while it was read", "wait until it is written")
        tensor.ClearField("data_location")
        del tensor.external_data[:]
        tensor.raw_data = data
        digest.update(f"{tensor.name}\0{length}\0".encode())
        digest.update(data)
        source.inlined = digest.hexdigest()


def _all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model but the large initializers of its main graph."""
    for tensor in proto.graph.initializer:
        if tensor.data_type not in _DETACHABLE or math.prod(tensor.dims) * _itemsize(tensor) < DETACH_BYTES:
            yield tensor
    yield from _held(proto.graph, of_body=False)
    for function in proto.functions:
        yield from _held(function)


def _held(graph: onnx.GraphProto | onnx.FunctionProto, of_body: bool = True) -> Iterator[onnx.TensorProto]:
    """The tensors in the nodes of a graph and of its bodies; with `of_body`, its own initializers as well."""
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer if of_body else ()
        yield from (t for sparse in graph.sparse_initializer for t in (sparse.values, sparse.indices))
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else []
            yield from attribute.tensors
            sparse_tensors = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            yield from (t for s in [*sparse_tensors, *attribute.sparse_tensors] for t in (s.values, s.indices))
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _held(body)


def detach(source: Source) -> None:
    """Moves large initializers from the proto into `source.weights`, leaving stubs with type and dims."""
    for tensor in source.proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            target, offset, _ = _external(tensor, source)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            source.weights[tensor.name] = np.memmap(target, dtype, "r", offset, tuple(tensor.dims))
            source.mapped.add(target)
        elif tensor.data_type in _DETACHABLE and math.prod(tensor.dims) * _itemsize(tensor) >= DETACH_BYTES:
            if tensor.name in source.weights and not _holds_data(tensor):
                continue
            _check_size(tensor)
            source.weights[tensor.name] = numpy_helper.to_array(tensor)
        else:
            if tensor.data_type in _DETACHABLE:
                _check_size(tensor)
            continue
        for name in _DATA_FIELDS:
            tensor.ClearField(name)
        del tensor.external_data[:]
        tensor.ClearField("data_location")


def add_weight(source: Source, name: str, array: np.ndarray) -> None:
    """A new initializer; a large one is set aside as those of the file are."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    if array.nbytes < DETACH_BYTES or kind not in _DETACHABLE:
        source.proto.graph.initializer.append(numpy_helper.from_array(array, name))
        return
    source.proto.graph.initializer.append(onnx.TensorProto(name=name, data_type=kind, dims=array.shape))
    source.weights[name] = np.ascontiguousarray(array)


def _holds_data(tensor: onnx.TensorProto) -> bool:
    return any(tensor.HasField("raw_data") if n == "raw_data" else len(getattr(tensor, n)) for n in _DATA_FIELDS)


def _itemsize(tensor: onnx.TensorProto) -> int:
    return onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _bits(tensor: onnx.TensorProto) -> int:
    """Of an element as it is stored: those of fewer than eight are packed."""
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    return {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}.get(kind) or 8 * _itemsize(tensor)


def _check_size(tensor: onnx.TensorProto) -> None:
    if tensor.HasField("raw_data"):
        stored = len(tensor.raw_data) // _itemsize(tensor)
    else:
        stored = max(len(getattr(tensor, name)) for name in _DATA_FIELDS[1:])
    _check_dims(tensor, stored)


def _check_dims(tensor: onnx.TensorProto, stored: int) -> None:
    if any(d < 0 for d in tensor.dims):
        raise InputError(f"weight {tensor.name!r} has a negative dimension: {list(tensor.dims)}")
    count = math.prod(tensor.dims)
    if stored != count:
        raise InputError(
            f"weight {tensor.name!r} says {list(tensor.dims)} = {count} elements but holds {stored}",
            "the file is damaged; export it again",
        )


def _external(tensor: onnx.TensorProto, source: Source) -> tuple[Path, int, int]:
    """(file, offset, length) of an externally stored tensor, which must lie inside the model's folder."""
    folder = source.path.parent if source.path else Path.cwd()
    info = {e.key: e.value for e in tensor.external_data}
    location = info.get("location", "")
    try:
        root = folder.resolve()
        target = (root / location).resolve()
        inside = bool(location) and not os.path.isabs(location) and target.is_relative_to(root)
        state = _state(target) if target.is_file() else None
    except (OSError, ValueError):
        raise InputError(f"weight {tensor.name!r}: external data {location[:80]!r} is no file name") from None
    if not inside:
        raise InputError(
            f"weight {tensor.name!r}: external data {location!r} lies outside the model's folder",
            "keep the data file beside the .onnx file",
        )
    if state is None:
        raise InputError(
            f"weight {tensor.name!r}: external data file {target} is missing",
            "copy it beside the .onnx file, under the same name",
        )
    if any(d < 0 for d in tensor.dims):
        raise InputError(f"weight {tensor.name!r} has a negative dimension: {list(tensor.dims)}")
    try:
        offset = int(info.get("offset") or 0)
        length = int(info.get("length") or (math.prod(tensor.dims) * _bits(tensor) + 7) // 8)
    except (ValueError, TypeError, KeyError):
        raise InputError(f"weight {tensor.name!r}: unreadable external data record {info}") from None
    packed = tensor.data_type not in _DETACHABLE
    if min(length, offset) < 0 or (length != math.prod(tensor.dims) * _itemsize(tensor) and not packed):
        raise InputError(f"weight {tensor.name!r} says {list(tensor.dims)} but its external data has {length} bytes")
    if offset + length > state.size:
        raise InputError(
            f"weight {tensor.name!r}: external data file {target} ends before byte {offset + length}",
            "the file is truncated; copy it again",
        )
    source.files.setdefault(target, state)
    protect(target)
    return target, offset, length


def captured(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the bodies of a control-flow node read from the graph around it."""
    for attribute in node.attribute:
        for body in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
            own = {i.name for i in body.input} | {t.name for t in body.initializer}
            for inner in body.node:
                yield from (n for n in [*inner.input, *captured(inner)] if n and n not in own)
                own.update(inner.output)
            yield from (o.name for o in body.output if o.name not in own)


def _sort(graph: onnx.GraphProto, where: str) -> None:
    """Checks single assignment and puts nodes in topological order; a cycle is an error that names its nodes."""
    given = {""} | {i.name for i in graph.input} | {t.name for t in graph.initializer}
    given |= {t.values.name for t in graph.sparse_initializer}
    produced: set[str] = set()
    for node in graph.node:
        for name in filter(None, node.output):
            if name in produced or (name in given):
                raise InputError(f"{where}: the tensor {name!r} is produced twice; the graph is not valid ONNX")
            produced.add(name)
    for node in graph.node:
        for name in [*node.input, *captured(node)]:
            if name not in given and name not in produced:
                raise InputError(f"{where}: node {node.name or node.op_type!r} reads {name!r}, which nothing produces")
    for output in graph.output:
        if output.name not in given and output.name not in produced:
            raise InputError(f"{where}: nothing produces the output {output.name!r}")
    order = _topological(list(graph.node), given, where)
    if any(a is not b for a, b in zip(order, graph.node, strict=True)):
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in order]
        del graph.node[:]
        graph.node.extend(copies)


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
