"""A loaded model: its proto with stubs for large weights, the weights, and the files they come from."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
from onnx import numpy_helper

from analyzer.errors import InputError, UnsupportedError
from analyzer.files import FileState, content_hash, protect
from analyzer.graph.protos import bodies_of, copied

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
DETACHABLE = {  # types that NumPy has
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16, onnx.TensorProto.INT32,
    onnx.TensorProto.UINT32, onnx.TensorProto.INT64, onnx.TensorProto.UINT64,
}  # fmt: skip


@dataclass
class Source:
    """A loaded model.

    Attributes:
        proto: the model, with stubs for initializers of 4 KiB and more. detached: {name: array} of these.
        path: the file. sha256: hash of that file alone, or of the given bytes; "" for a ModelProto.
        files: every file that was read, with its state at that time. mapped: those that weights are mapped from.
        inlined: hash of the external data that went into `proto`.
    """

    proto: onnx.ModelProto
    detached: dict[str, np.ndarray] = field(default_factory=dict)
    path: Path | None = None
    sha256: str = ""
    files: dict[Path, FileState] = field(default_factory=dict)
    mapped: set[Path] = field(default_factory=set)
    inlined: str = ""

    @cached_property
    def identity(self) -> str:
        """A hash of every byte of the model, including external data; `sha256` if there is none.

        Raises:
            InputError: as `check_unchanged`.
        """
        if self.sha256 and not self.inlined and not self.mapped:
            return self.sha256
        digest = hashlib.sha256(f"{self.sha256}\0{self.inlined}".encode())
        if not self.sha256:
            digest.update(self.proto.SerializeToString(deterministic=True))
            for name, array in sorted(self.detached.items()):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            return digest.hexdigest()
        for path in sorted(self.mapped):
            digest.update(content_hash(path).encode())
        self.check_unchanged()
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Check that files with mapped weights have not changed.

        Raises:
            InputError: such a file has changed since.
        """
        for path in self.mapped:
            if state_of(path) != self.files[path]:
                raise InputError(f"{path} has changed since the model was loaded", "load the model again")

    @property
    def current(self) -> bool:
        """Whether all files are sure to be what they were."""
        return all(known.settled and state_of(path) == known for path, known in self.files.items())

    @property
    def name(self) -> str:
        return self.path.name if self.path else self.proto.graph.name or "model"

    @property
    def nbytes(self) -> int:
        """Memory of its own: without the weights, which other forms of the model share or a file holds."""
        return int(self.proto.ByteSize())

    def serialized(self) -> bytes:
        """The model in one piece again."""
        proto = copied(self.proto)
        for tensor in proto.graph.initializer:
            if tensor.name in self.detached:
                tensor.raw_data = np.ascontiguousarray(self.detached[tensor.name]).tobytes()
        return bytes(proto.SerializeToString())


def state_of(path: Path) -> FileState | None:
    """None where there is no such file."""
    try:
        return FileState.of(path)
    except OSError:
        return None


# ---- Weights outside the protobuf ----


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
                f"{source.name}: more than {LARGEST_EMBEDDED / 2**30:.1f} GiB of external data belong to "
                "control-flow bodies, to functions or to types that NumPy does not have",
                "move them to initializers of the main graph, as float32 or float16",
            )
        with target.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) < length or state_of(target) != source.files[target]:
            raise InputError(f"{target}: the file changed while it was read", "try again when the file is complete")
        tensor.ClearField("data_location")
        del tensor.external_data[:]
        tensor.raw_data = data
        digest.update(f"{tensor.name}\0{length}\0".encode())
        digest.update(data)
        source.inlined = digest.hexdigest()


def _all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model but the large initializers of its main graph."""
    for tensor in proto.graph.initializer:
        if tensor.data_type not in DETACHABLE or math.prod(tensor.dims) * itemsize(tensor) < DETACH_BYTES:
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
        for body in bodies_of(node):
            yield from _held(body)


def detach(source: Source) -> None:
    """Moves large initializers from the proto into `source.detached`, leaving stubs with type and dims."""
    for tensor in source.proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            target, offset, _ = _external(tensor, source)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            source.detached[tensor.name] = np.memmap(target, dtype, "r", offset, tuple(tensor.dims))
            source.mapped.add(target)
        elif tensor.data_type in DETACHABLE and math.prod(tensor.dims) * itemsize(tensor) >= DETACH_BYTES:
            if tensor.name in source.detached and not _holds_data(tensor):
                continue
            _check_size(tensor)
            source.detached[tensor.name] = numpy_helper.to_array(tensor)
        else:
            if tensor.data_type in DETACHABLE:
                _check_size(tensor)
            continue
        for name in _DATA_FIELDS:
            tensor.ClearField(name)
        del tensor.external_data[:]
        tensor.ClearField("data_location")


def add_weight(source: Source, name: str, array: np.ndarray) -> None:
    """A new initializer; a large one is set aside as those of the file are."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    if array.nbytes < DETACH_BYTES or kind not in DETACHABLE:
        source.proto.graph.initializer.append(numpy_helper.from_array(array, name))
        return
    source.proto.graph.initializer.append(onnx.TensorProto(name=name, data_type=kind, dims=array.shape))
    source.detached[name] = np.ascontiguousarray(array)


def _holds_data(tensor: onnx.TensorProto) -> bool:
    return any(tensor.HasField("raw_data") if n == "raw_data" else len(getattr(tensor, n)) for n in _DATA_FIELDS)


def itemsize(tensor: onnx.TensorProto) -> int:
    return onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _bits(tensor: onnx.TensorProto) -> int:
    """Of an element as it is stored: those of fewer than eight are packed."""
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    return {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}.get(kind) or 8 * itemsize(tensor)


def _check_size(tensor: onnx.TensorProto) -> None:
    if tensor.HasField("raw_data"):
        stored = len(tensor.raw_data) // itemsize(tensor)
    else:
        stored = max(len(getattr(tensor, name)) for name in _DATA_FIELDS[1:])
    check_dims(tensor, stored)


def check_dims(tensor: onnx.TensorProto, stored: int) -> None:
    if any(d < 0 for d in tensor.dims):
        raise InputError(f"weight {tensor.name!r} has a negative dimension: {list(tensor.dims)}")
    count = math.prod(tensor.dims)
    if stored != count:
        raise InputError(
            f"weight {tensor.name!r} declares {list(tensor.dims)} = {count} elements but has {stored}",
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
        state = state_of(target) if target.is_file() else None
    except (OSError, ValueError):
        raise InputError(f"weight {tensor.name!r}: external data {location[:80]!r} is not a file name") from None
    if not inside:
        raise InputError(
            f"weight {tensor.name!r}: external data {location!r} is outside the model's folder",
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
    packed = tensor.data_type not in DETACHABLE
    if min(length, offset) < 0 or (length != math.prod(tensor.dims) * itemsize(tensor) and not packed):
        raise InputError(f"weight {tensor.name!r} declares {list(tensor.dims)} but has {length} bytes of external data")
    if offset + length > state.size:
        raise InputError(
            f"weight {tensor.name!r}: external data file {target} ends before byte {offset + length}",
            "the file is truncated; copy it again",
        )
    source.files.setdefault(target, state)
    protect(target)
    return target, offset, length
