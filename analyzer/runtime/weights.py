"""How weights reach a session without copies beside those that the runtime makes.

onnxruntime maps what a model names as external data, and copies what it is given as arrays (`add_external_initializers`,
1.31). So weights that are mapped from a file are named by that file.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx

# Weights that a rewrite turned round, together: more of them go to the runtime through a file, not through memory.
LARGEST_COPY = 256 << 20
_IN_MEMORY = "weights"
_FOLDER = "session.model_external_initializers_file_folder_path"


@contextmanager
def handed(proto: onnx.ModelProto, weights: Mapping[str, np.ndarray], options: Any) -> Iterator[bytes]:
    """The bytes of a model whose stubs name where their weights are; valid until its session is created."""
    with tempfile.TemporaryDirectory(prefix="onnx-analyzer-", ignore_cleanup_errors=True) as folder:
        spilled = _spilled({n: w for n, w in weights.items() if not w.flags.c_contiguous}, Path(folder).resolve())
        places = {n: place for n, w in weights.items() if (place := spilled.get(n) or _mapped(w))}
        roots = {Path(file).anchor for file, _ in places.values()}
        if len(roots) == 1:
            options.add_session_config_entry(_FOLDER, roots.pop())
        else:  # nothing is mapped, or (Windows) from several drives
            places = {}
        values = {n: _owned(w) for n, w in weights.items() if n not in places}
        options.add_external_initializers(list(values), list(values.values()))
        for tensor in proto.graph.initializer:
            if tensor.name in weights:
                file, offset = places.get(tensor.name, ("", 0))
                location = os.path.relpath(file, Path(file).anchor) if file else _IN_MEMORY
                tensor.data_location = onnx.TensorProto.EXTERNAL
                size = weights[tensor.name].nbytes
                for key, value in (("location", location), ("offset", offset), ("length", size)):
                    tensor.external_data.add(key=key, value=str(value))
        yield bytes(proto.SerializeToString())


def _mapped(array: np.ndarray) -> tuple[str, int] | None:
    """(file, offset) of an array that is a whole memory map; views of one have an offset that is not theirs."""
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.flags.c_contiguous:
        return str(array.filename), int(array.offset)
    return None


def _spilled(weights: Mapping[str, np.ndarray], folder: Path) -> dict[str, tuple[str, int]]:
    """{name: (file, offset)} of weights that are too large together to be copied in memory; none where no file fits."""
    places: dict[str, tuple[str, int]] = {}
    if sum(w.nbytes for w in weights.values()) <= LARGEST_COPY or os.name == "nt":  # files in use cannot be deleted there
        return places
    with suppress(OSError), (folder / _IN_MEMORY).open("wb") as file:
        for name, array in weights.items():
            file.write(b"\0" * (-file.tell() % mmap.ALLOCATIONGRANULARITY))
            start = file.tell()
            np.ascontiguousarray(array).tofile(file)
            places[name] = str(folder / _IN_MEMORY), start
        return places
    return {}


def _owned(array: np.ndarray) -> Any:
    """The array for the runtime: in place where it lies in one piece, else a copy that the runtime frees."""
    import onnxruntime as ort

    if array.flags.c_contiguous:
        return ort.OrtValue.ortvalue_from_numpy(np.asarray(array))
    value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type)
    value.update_inplace(np.ascontiguousarray(array))
    return value
