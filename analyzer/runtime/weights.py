"""How weights reach a session without copies beside those that the runtime makes.

onnxruntime 1.31 maps what a model names as external data, and copies what it is given as arrays
(`add_external_initializers`). So weights that are mapped from a file are named by that file.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper

from analyzer.files import temporary_folder

# Weights that a rewrite turned round, together: more of them go to the runtime through a file, not through memory.
LARGEST_COPY = 256 << 20
_IN_MEMORY = "weights"
_FOLDER = "session.model_external_initializers_file_folder_path"


@contextmanager
def handed(proto: onnx.ModelProto, weights: Mapping[str, np.ndarray], options: Any) -> Iterator[tuple[bytes, Any]]:
    """The bytes of a model whose stubs name where their weights are, valid until its session is created; and the arrays
    that the session must not outlive (no version that we know reads them later, but it asks for that)."""
    import onnxruntime as ort

    with temporary_folder() as folder:
        spilled = _spilled({n: w for n, w in weights.items() if not w.flags.c_contiguous}, folder.resolve())
        places = {n: place for n, w in weights.items() if (place := spilled.get(n) or _mapped(w))}
        roots = {Path(file).anchor for file, _ in places.values()}
        if len(roots) == 1:
            options.add_session_config_entry(_FOLDER, roots.pop())
        else:  # nothing is mapped, or (Windows) from several drives
            places = {}
        arrays = {n: np.ascontiguousarray(w) for n, w in weights.items() if n not in places}
        values = [ort.OrtValue.ortvalue_from_numpy(w) for w in arrays.values()]
        options.add_external_initializers(list(arrays), values)
        for tensor in proto.graph.initializer:
            if tensor.name in weights:
                file, offset = places.get(tensor.name, ("", 0))
                location = os.path.relpath(file, Path(file).anchor) if file else _IN_MEMORY
                tensor.data_location = onnx.TensorProto.EXTERNAL
                size = weights[tensor.name].nbytes
                for key, value in (("location", location), ("offset", offset), ("length", size)):
                    tensor.external_data.add(key=key, value=str(value))
        yield bytes(proto.SerializeToString()), arrays


def _mapped(array: np.ndarray) -> tuple[str, int] | None:
    """(file, offset) of an array that is a whole memory map; views of one have an offset that is not theirs."""
    base: object = array.base
    if isinstance(array, np.memmap) and isinstance(base, mmap.mmap) and array.flags.c_contiguous:
        return str(array.filename), int(array.offset)
    return None


def _spilled(weights: Mapping[str, np.ndarray], folder: Path) -> dict[str, tuple[str, int]]:
    """{name: (file, offset)} of weights that are too large together to be copied in memory; none where no file fits."""
    places: dict[str, tuple[str, int]] = {}
    if (
        sum(w.nbytes for w in weights.values()) <= LARGEST_COPY or os.name == "nt"
    ):  # files in use cannot be deleted there
        return places
    with suppress(OSError), (folder / _IN_MEMORY).open("wb") as file:
        for name, array in weights.items():
            file.write(b"\0" * (-file.tell() % mmap.ALLOCATIONGRANULARITY))
            start = file.tell()
            np.ascontiguousarray(array).tofile(file)
            places[name] = str(folder / _IN_MEMORY), start
        return places
    return {}


# ---- What a session holds ----

# Their kernels keep weights in a form of their own, one per node.
_PACKING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "MatMulInteger", "ConvInteger"})


def held(proto: onnx.ModelProto, weights: Mapping[str, np.ndarray], packed: bool = True) -> int:
    """Bytes that a session holds: packed and copied weights, mapped ones left out, and the largest set of tensors that
    are alive at once, as far as sizes are known.

    Args:
        packed: whether kernels keep weights in a form of their own.
    """
    readers: dict[str, list[str]] = {}
    last: dict[str, int] = {}
    for at, node in enumerate(proto.graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
            last[name] = at
    total = min(LARGEST_COPY, sum(w.nbytes for w in weights.values() if not w.flags.c_contiguous))
    for name, array in weights.items():
        packing = [packed and op in _PACKING for op in readers.get(name, [])]
        total += array.nbytes * (sum(packing) + (not all(packing) and _mapped(array) is None))
    sizes = {v.name: _size(v.type.tensor_type) for v in [*proto.graph.value_info, *proto.graph.output]}
    alive = most = 0
    for at, node in enumerate(proto.graph.node):
        alive += sum(sizes.get(name, 0) for name in node.output)
        most = max(most, alive)
        alive -= sum(sizes.pop(name, 0) for name in {*node.input} if last[name] == at)
    return int(total + most + proto.ByteSize())


def _size(kind: onnx.TypeProto.Tensor) -> int:
    if kind.elem_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        return 0
    count = math.prod(max(1, d.dim_value) for d in kind.shape.dim)
    return count * onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
