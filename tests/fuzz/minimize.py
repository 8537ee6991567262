"""Makes a case small: parts are removed as long as it goes wrong in the same place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import onnx

from tests.fuzz.harness import Case


def minimized(case: Case, is_same: Callable[[Case], bool], most: int = 300) -> Case:
    """The smallest case found with at most so many runs."""
    left = most
    for name in list(case.files):
        shrinking = True
        while shrinking and left > 0:
            shrinking = False
            for data in _smaller(name, case.files[name]):
                left -= 1
                if left < 0:
                    break
                tried = replace(case, files={**case.files, name: data})
                if is_same(tried):
                    case, shrinking = tried, True
                    break
    return case


def _smaller(name: str, data: bytes) -> Iterator[bytes]:
    try:
        proto = onnx.ModelProto.FromString(data) if name.endswith(".onnx") else None
    except Exception:  # bytes that are no protobuf
        proto = None
    if proto is None:
        size = len(data) // 2
        while size:
            for at in range(0, len(data), size):
                yield data[:at] + data[at + size :]
            size //= 2 if size > 16 else size
        return
    for field in ("functions", "metadata_props", "training_info"):
        if getattr(proto, field):
            yield _without(proto, lambda p, f=field: p.ClearField(f))
    for field in ("value_info", "node", "initializer", "output", "input"):
        for at in range(len(getattr(proto.graph, field)) - 1, -1, -1):
            yield _without(proto, lambda p, f=field, i=at: getattr(p.graph, f).__delitem__(i))
    for at, node in enumerate(proto.graph.node):
        for number in range(len(node.attribute)):
            yield _without(proto, lambda p, i=at, n=number: p.graph.node[i].attribute.__delitem__(n))


def _without(proto: onnx.ModelProto, change: Callable[[onnx.ModelProto], None]) -> bytes:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    change(made)
    return bytes(made.SerializeToString())
