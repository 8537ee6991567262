"""Fused operators as the standard ones they were fused from: one row per operator, filled by `@unfuse`.

onnxruntime's optimizers and quantisers write operators of their own into saved files. Each row says what such an
operator means in opset 21; the runtime fuses the result again when it creates a session, so the forward keeps its
kernels. Outputs keep their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
from onnx import numpy_helper

from analyzer.errors import UnsupportedError
from analyzer.graph.passes.shapes import inferred_shapes
from analyzer.graph.protos import replace_all
from analyzer.graph.source import Source, add_weight

MS = "com.microsoft"
Rewrite = Callable[["Emit", "Fused"], Any]
Shapes = Mapping[str, list]
TABLE: dict[tuple[str, str], Rewrite] = {}


def unfuse(*ops: str, domain: str = MS) -> Callable[[Rewrite], Rewrite]:
    """Registers what `ops` mean. The function returns the name of the first output, or names of several."""

    def register(rewrite: Rewrite) -> Rewrite:
        for op in ops:
            TABLE[domain, op] = rewrite
        return rewrite

    return register


class _UndeterminedError(Exception):
    """The shape of a tensor is not known, or not yet: it comes out of another fused node."""


class Fused:
    """A fused node: `x = f[0]` an input ("" where omitted), `f.attr(name, default)` an attribute."""

    def __init__(
        self, node: onnx.NodeProto, source: Source | None = None, shapes: Shapes | None = None, last: bool = True
    ) -> None:
        self.node, self.source, self.shapes, self.last = node, source, shapes or {}, last
        self.attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def __getitem__(self, index: int) -> str:
        return self.node.input[index] if index < len(self.node.input) else ""

    def attr(self, name: str, default: Any = None) -> Any:
        value = self.attrs.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def window(self, *extra: str) -> dict[str, Any]:
        """The attributes of a convolution or pooling that are present."""
        names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", *extra)
        return {n: self.attr(n) for n in names if n in self.attrs}

    def known(self, index: int) -> np.ndarray | None:
        """The constant that an input holds, if it is one."""
        assert self.source is not None
        name = self[index]
        if name in self.source.detached:
            return self.source.detached[name]
        tensor = next((t for t in self.source.proto.graph.initializer if t.name == name), None)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def array(self, index: int) -> np.ndarray:
        """The constant that an input must hold."""
        known = self.known(index)
        if known is None:
            raise self.refuse(f"its input {self[index]!r} is computed, not a weight")
        return known

    def shape(self, index: int) -> list:
        """The sizes of an input, None or a name where one is not known before the model runs."""
        shape = self.shapes.get(self[index])
        if shape is None:
            raise _UndeterminedError(f"the number of axes of {self[index]!r} is not known")
        return shape

    def axes(self, index: int) -> int | None:
        """The number of axes of an input, None where it will never be known."""
        return None if self.last and self[index] not in self.shapes else len(self.shape(index))

    def refuse(self, why: str, hint: str = "use the file before optimization") -> UnsupportedError:
        return UnsupportedError(f"cannot decompose {self.node.op_type} (node {self.node.name!r}): {why}", hint)


class Emit:
    """`e.Conv(x, w, strides=[1, 1])` appends a node and returns the name of its output.

    An input may be a name, an array (a constant), or a list of ints (an int64 constant).
    """

    def __init__(self, prefix: str) -> None:
        self.prefix, self.count = prefix, 0
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def __getattr__(self, op: str) -> Callable[..., str]:
        if not op[:1].isupper():
            raise AttributeError(op)
        return lambda *inputs, **attrs: self.node(op, inputs, **attrs)[0]

    def node(self, op: str, inputs: Iterable[Any], outputs: int = 1, **attrs: Any) -> list[str]:
        self.count += 1
        names = [f"{self.prefix}/{op}_{self.count}" + (f":{i}" if i else "") for i in range(outputs)]
        given = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        while given and not given[-1]:
            given.pop()
        self.nodes.append(onnx.helper.make_node(op, given, names, name=names[0], **attrs))
        return names

    def constant(self, value: Any) -> str:
        self.count += 1
        name = f"{self.prefix}/constant_{self.count}"
        self.constants[name] = np.asarray(value, np.int64 if isinstance(value, list) else None)
        return name

    def scalar_like(self, value: float, like: str) -> str:
        """A scalar of the element type of `like`."""
        return self.CastLike(np.float32(value), like)


def unfuse_model(source: Source) -> None:
    """Replaces every fused operator that has a row.

    Rows that ask for the shape of what another fused node gives wait until that one is taken apart.

    Raises:
        UnsupportedError: a node is of a kind, or has an input, that its row does not know.
    """
    known, last = inferred_shapes(source.proto), False
    while waiting := _take_apart(source, known, last):
        found = inferred_shapes(source.proto)
        if found == known and last:
            raise waiting[0]
        known, last = found, found == known


def _is_fused(node: onnx.NodeProto) -> bool:
    return (node.domain, node.op_type) in TABLE


def _take_apart(source: Source, shapes: Shapes, last: bool) -> list[UnsupportedError]:
    """Replaces what can be replaced now; a reason for each node that waits for a shape."""
    graph = source.proto.graph
    nodes: list[onnx.NodeProto] = []
    waiting = []
    for node in graph.node:
        if not _is_fused(node):
            nodes.append(node)
            continue
        emit, fused = Emit(f"{node.output[0]}/{node.op_type}"), Fused(node, source, shapes, last)
        try:
            results = TABLE[node.domain, node.op_type](emit, fused)
        except _UndeterminedError as unknown:
            waiting.append(fused.refuse(str(unknown), "set the input size with --size or --shape"))
            nodes.append(node)
            continue
        replace_outputs(emit, results, node)
        nodes.extend(emit.nodes)
        add_constants(source, emit)
    replace_all(graph.node, nodes)
    return waiting


def add_constants(source: Source, emit: Emit) -> None:
    for name, array in emit.constants.items():
        add_weight(source, name, array)


def replace_outputs(emit: Emit, results: str | Sequence[str], node: onnx.NodeProto) -> None:
    """Gives what `emit` made for `node` the names of its outputs."""
    results, outputs = [results] if isinstance(results, str) else results, list(node.output)
    names = {r: o for r, o in zip(results, outputs, strict=False) if o}
    missing = [o for o in outputs[len(results) :] if o]
    if missing:
        raise Fused(node).refuse(f"its output {missing[0]!r} has no equivalent")
    for inner in emit.nodes:
        inner.output[:] = [names.get(o, o) for o in inner.output]
        inner.input[:] = [names.get(i, i) for i in inner.input]
    for inner in emit.nodes:
        if node.output[0] in inner.output:
            inner.name = node.name or inner.name
            inner.metadata_props.extend(node.metadata_props)


# What onnxruntime's optimisers and quantisers write as well, left as it is: no gradient flows through it, and the
# error says why.
LEFT: dict[str, str] = {
    **dict.fromkeys(
        ("PackedAttention", "PackedMultiHeadAttention", "RemovePadding", "RestorePadding", "PagedAttention"),
        "several sequences are packed into one without padding",
    ),
    **dict.fromkeys(
        ("GroupQueryAttention", "SparseAttention", "DecoderAttention", "DecoderMaskedSelfAttention",
         "DecoderMaskedMultiHeadAttention", "BeamSearch", "GreedySearch", "Sampling"),
        "text decoder with a cache",
    ),
    **dict.fromkeys(("LongformerAttention", "RelativePositionBias", "GatedRelativePositionBias"), "text models only"),
    **dict.fromkeys(
        ("QOrderedAttention", "QOrderedGelu", "QOrderedLayerNormalization", "QOrderedMatMul", "QuantizeWithOrder",
         "DequantizeWithOrder"),
        "weights are laid out for one kind of GPU",
    ),
    **dict.fromkeys(("MatMulNBitsMlp", "MatMulNBitsQkv"), "several layers fused for WebGPU"),
    **dict.fromkeys(("MatMulFpQ4", "MatMulBlockQuantizedFp4Weight", "MatMulBlockQuantizedFp8Weight", "QMoE", "MoE"),
                    "unknown packing of weights"),
    "QEmbedLayerNormalization": "8-bit word embeddings",
    "SparseToDenseMatMul": "sparse matrix",
    "EPContext": "network compiled for one device",
}  # fmt: skip
