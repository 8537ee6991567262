"""The file that is written of an internal error: everything a report of it needs, but no pixels and no weights."""

from __future__ import annotations

import collections
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from analyzer.version import __version__

NODES = 5000  # of a model that are listed
LARGEST = 1 << 28  # bytes of a model file that are read for it


def write_crash_file(error: BaseException) -> Path | None:
    """The file in the system's folder of temporary files; None where it cannot be written."""
    with suppress(Exception):
        number, name = tempfile.mkstemp(".txt", "onnx-analyzer-crash-")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            for section in (_program, lambda: traceback.format_exception(error), _models):
                with suppress(Exception):  # a broken environment may be the reason
                    file.writelines(f"{line.rstrip()}\n" for line in section())
                file.write("\n")
        return Path(name)
    return None


def _program() -> Iterator[str]:
    yield f"onnx-analyzer {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield f"command: {shlex.join(['onnx-analyzer', *sys.argv[1:]])}"
    from analyzer.runtime.installed import versions

    yield ", ".join(f"{name} {version}" for name, version in sorted(versions().items()))


def _models() -> Iterator[str]:
    """What the models of the command line are made of: types and sizes of tensors, not their values."""
    import onnx

    for word in sys.argv[1:]:
        if not word.endswith(".onnx") or not os.path.isfile(word) or os.path.getsize(word) > LARGEST:
            continue
        yield f"model {word}: {os.path.getsize(word)} bytes"
        with suppress(Exception):
            yield from structure(onnx.load(word, load_external_data=False))


def structure(model: Any) -> Iterator[str]:
    """A model as lines of text, without the values of its tensors."""
    yield f"IR {model.ir_version}, opsets " + ", ".join(
        f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import
    )
    yield from _graph(model.graph, "  ")
    for function in model.functions:
        yield f"function {function.domain}::{function.name}({', '.join(function.input)})"
        yield from _nodes(function.node, "  ")


def _graph(graph: Any, indent: str) -> Iterator[str]:
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            sizes = [d.dim_param or (d.dim_value if d.HasField("dim_value") else "?") for d in tensor.shape.dim]
            yield f"{indent}{kind} {value.name}: type {tensor.elem_type} {sizes}"
    for tensor in graph.initializer:
        yield f"{indent}weight {tensor.name}: {_tensor(tensor)}"
    yield from _nodes(graph.node, indent)


def _nodes(nodes: Iterable[Any], indent: str) -> Iterator[str]:
    for at, node in enumerate(nodes):
        if at == NODES:
            counts = collections.Counter(n.op_type for n in nodes).most_common()
            yield f"{indent}… in all: " + ", ".join(f"{count} {op}" for op, count in counts)
            return
        attributes = ", ".join(f"{a.name}={_attribute(a)}" for a in node.attribute)
        made = f"{', '.join(node.output)} = {node.domain and node.domain + '::'}{node.op_type}({', '.join(node.input)})"
        yield f"{indent}{node.name!r}: {made} {attributes}"
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _graph(body, indent + "    ")


def _attribute(attribute: Any) -> str:
    if attribute.HasField("t"):
        return _tensor(attribute.t)
    for name in ("ints", "floats", "strings"):
        if values := list(getattr(attribute, name)):
            return f"{values[:32]}"
    for name in ("i", "f", "s"):
        if attribute.HasField(name):
            return repr(getattr(attribute, name))
    return "…"


def _tensor(tensor: Any) -> str:
    return f"type {tensor.data_type} {list(tensor.dims)}"
