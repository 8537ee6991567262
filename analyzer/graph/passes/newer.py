"""What opsets after 21 added, said as opset 21 says it: one row per attribute, type, input and operator.

Everything that a later schema has and the one in force at opset 21 has not is lowered (rewritten to an equivalent),
kept (the file keeps the opset that has it) or refused by name. A test walks the schemas of the installed onnx and
fails where something has no row. Operators with a function body need none: they are inlined before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper
from onnx import TensorProto, numpy_helper

from analyzer.errors import UnsupportedError
from analyzer.graph.passes.unfuse.table import Emit, replace_outputs
from analyzer.graph.protos import Names, all_nodes, bodies_of, replace_all
from analyzer.graph.schemas import lookup

OPSET = 21
Kinds = Mapping[str, int]


class Newer:
    """A node of a newer opset; `kind(i)` is the element type of its i-th input, 0 where that is not known."""

    def __init__(self, node: onnx.NodeProto, names: Names, kinds: dict[str, int]) -> None:
        self.node, self.names, self.kinds = node, names, kinds
        self.attrs: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def kind(self, index: int) -> int:
        return self.kinds.get(self.node.input[index], 0) if index < len(self.node.input) else 0

    def emit(self) -> Emit:
        """For new nodes."""
        return Emit(self.names.fresh(f"{self.node.output[0]}/{self.node.op_type}"))

    def emitted(self, emit: Emit, result: str, output: str) -> list[onnx.NodeProto]:
        """What was made there, the result under the name `output`."""
        replace_outputs(emit, result, onnx.NodeProto(output=[output]))
        self.names.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in emit.constants.items())
        return emit.nodes

    def cast(self, given: str, to: int, output: str = "") -> onnx.NodeProto:
        """A new Cast; its output gets a name of its own where none is given."""
        name = output or self.names.fresh(f"{self.node.output[0]}/Cast")
        self.kinds[name] = to
        return onnx.helper.make_node("Cast", [given], [name], name, to=to)

    def drop(self, attribute: str) -> None:
        replace_all(self.node.attribute, [a for a in self.node.attribute if a.name != attribute])

    def read_as(self, kind: int, *indices: int) -> list[onnx.NodeProto]:
        """Lets the node read those inputs as `kind`: the casts that takes."""
        casts = []
        for index in indices:
            if index < len(self.node.input) and self.node.input[index] and self.kind(index) != kind:
                casts.append(self.cast(self.node.input[index], kind))
                self.node.input[index] = casts[-1].output[0]
        return casts

    def give_as(self, kind: int, index: int = 0) -> onnx.NodeProto:
        """The cast that gives the output `index` as `kind`, under its name; the node writes to another."""
        name = self.node.output[index]
        self.node.output[index] = self.names.fresh(f"{name}/uncast")
        return self.cast(self.node.output[index], kind, name)

    def refuse(self, why: str, hint: str = "") -> UnsupportedError:
        return UnsupportedError(f"{self.node.op_type} (node {self.node.name or self.node.output[0]!r}): {why}", hint)


Rewrite = Callable[[Newer], list[onnx.NodeProto]]


@dataclass(frozen=True)
class Row:
    """What becomes of something new, and why that means the same. Without `rewrite` it is kept or refused."""

    why: str
    rewrite: Rewrite | None = None


# ---- Attributes ----


def _dropped(attribute: str) -> Rewrite:
    def without(newer: Newer) -> list[onnx.NodeProto]:
        newer.drop(attribute)
        return [newer.node]

    return without


def _output_dtype(newer: Newer) -> list[onnx.NodeProto]:
    """y = (q − z) s in the wider of the types of s and y: s is cast before, or y behind."""
    wanted, scale = newer.attrs["output_dtype"], newer.kind(1)
    newer.drop("output_dtype")
    if wanted in (0, scale):
        return [newer.node]
    if wanted == TensorProto.FLOAT:
        return [*newer.read_as(wanted, 1), newer.node]
    return [newer.node, newer.give_as(wanted)]


def _space_to_depth(newer: Newer) -> list[onnx.NodeProto]:
    """CRD: the channels (b, b, C) of DCR in the order (C, b, b)."""
    mode, block, output = newer.attrs["mode"], newer.attrs["blocksize"], newer.node.output[0]
    newer.drop("mode")
    if mode == b"DCR":
        return [newer.node]
    deep = newer.node.output[0] = newer.names.fresh(f"{output}/DCR")
    e = newer.emit()
    parts = e.Concat([0, block * block, -1], e.Shape(deep, start=2), axis=0)
    turned = e.Transpose(e.Reshape(deep, parts), perm=[0, 2, 1, 3, 4])
    return [newer.node, *newer.emitted(e, e.Reshape(turned, e.Shape(deep)), output)]


def _stash_type(newer: Newer) -> list[onnx.NodeProto]:
    if newer.attrs["stash_type"] != TensorProto.FLOAT:
        raise newer.refuse("it accumulates in less than float32", "export it with stash_type=1")
    return _dropped("stash_type")(newer)


ATTRIBUTES: dict[tuple[str, str], Row] = {
    ("Cast", "round_mode"): Row("rounds to float8e8m0 only, which is refused", _dropped("round_mode")),
    ("CastLike", "round_mode"): Row("rounds to float8e8m0 only, which is refused", _dropped("round_mode")),
    ("DequantizeLinear", "output_dtype"): Row("a Cast of the scale or of the result", _output_dtype),
    ("QuantizeLinear", "precision"): Row(
        "onnxruntime does not read it: it divides in the type of the scale, as opset 21 does", _dropped("precision")
    ),
    ("Range", "stash_type"): Row("halves are counted in float32 between casts", _stash_type),
    ("SpaceToDepth", "mode"): Row("CRD is DCR with its channels in another order", _space_to_depth),
}


# ---- Inputs and operators that mean more ----


def _scale_of_its_own_type(newer: Newer) -> list[onnx.NodeProto]:
    """x is cast to the type of the scale, in which the standard has them divided."""
    scale = newer.kind(1)
    return [*(newer.read_as(scale, 0) if scale else []), newer.node]


def _modulo(newer: Newer) -> list[onnx.NodeProto]:
    """a − ⌊a/b⌋ b = r + b where r and b have different signs, else r = fmod(a, b)."""
    if newer.attrs.get("fmod", 0) or newer.kind(0) not in _FLOATS:
        return [newer.node]
    (a, b), output = newer.node.input, newer.node.output[0]
    e = newer.emit()
    rest = e.Mod(a, b, fmod=1)
    apart = e.Less(e.Mul(e.Sign(rest), e.Sign(b)), e.scalar_like(0, a))
    return newer.emitted(e, e.Where(apart, e.Add(rest, b), rest), output)


_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
# By operator: an input that has a type of its own since then, or another meaning under the same schema.
MEANINGS: dict[tuple[str, int], Row] = {
    ("QuantizeLinear", 23): Row("x is cast to the type of the scale", _scale_of_its_own_type),
    ("Mod", 28): Row("fmod=0 of floats, by fmod=1", _modulo),
    ("DepthToSpace", 28): Row("as at opset 21; only its function body is new"),
    ("ReduceLogSum", 28): Row("as at opset 21; only its function body is new"),
    ("ReduceLogSumExp", 28): Row("as at opset 21; only its function body is new"),
}

KEPT: dict[str, Row] = {
    "BitCast": Row("nothing at opset 21 reads the bits of a number as another type"),
    "CumProd": Row("products along an axis that opset 21 has no operator for"),
    "TensorScatter": Row("onnxruntime writes into the cache in place"),
}


# ---- Element types ----

_IN_FLOAT32 = Row("computed in float32 between casts")
_RETYPED = Row("constants get a type of opset 21 that holds the same values; what is computed in it is refused")
_REFUSED = Row("refused: opset 21 has no operator that computes the same in this type")
TYPES: dict[str, Row] = {
    "bfloat16": _IN_FLOAT32, "float16": _IN_FLOAT32, "double": _REFUSED,
    "float4e2m1": _RETYPED, "float6e2m3": _RETYPED, "float6e3m2": _RETYPED, "float8e8m0": _RETYPED,
    "int2": _RETYPED, "uint2": _RETYPED,
    "float8e4m3fn": _REFUSED, "float8e4m3fnuz": _REFUSED, "float8e5m2": _REFUSED, "float8e5m2fnuz": _REFUSED,
    "int4": _REFUSED, "uint4": _REFUSED,
    "int8": _REFUSED, "int16": _REFUSED, "int32": _REFUSED, "int64": _REFUSED,
}  # fmt: skip
_HOLDS_ITS_VALUES = {
    "FLOAT4E2M1": TensorProto.FLOAT8E4M3FN, "FLOAT6E2M3": TensorProto.FLOAT8E4M3FN,
    "FLOAT6E3M2": TensorProto.FLOAT8E4M3FN, "FLOAT8E8M0": TensorProto.FLOAT,
    "INT2": TensorProto.INT4, "UINT2": TensorProto.UINT4,
}  # fmt: skip
_HALVES = {TensorProto.BFLOAT16, TensorProto.FLOAT16}


def retype(graph: onnx.GraphProto) -> None:
    """Gives constants of a newer type one of opset 21 that holds the same values, where they are only read.

    The zero point of a QuantizeLinear and what a CastLike imitates stay: they say the type of a result.
    """
    says_a_type = {"QuantizeLinear": 2, "CastLike": 1}
    imitated = {n for node in all_nodes(graph) for n in node.input[says_a_type.get(node.op_type, len(node.input)) :]}
    for tensor in graph.initializer:
        kind = _HOLDS_ITS_VALUES.get(TensorProto.DataType.Name(tensor.data_type))
        if kind is not None and tensor.name not in imitated:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            wide = onnx.helper.tensor_dtype_to_np_dtype(kind)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(wide), tensor.name))


# ---- The walk ----


def lower(proto: onnx.ModelProto) -> int:
    """Rewrites what opset 21 has not; the opset that the model needs then.

    Args:
        proto: a model of a newer opset with the types of its tensors, as shape inference writes them.

    Raises:
        UnsupportedError: names what cannot be said at opset 21, all of it at once.
    """
    version = next(o.version for o in proto.opset_import if not o.domain)
    lowering = _Lowering(Names(proto.graph), version)
    lowering.graph(proto.graph, {})
    if lowering.refused:
        listed = "; ".join(e.message for e in lowering.refused[:5])
        hints = [e.hint for e in lowering.refused if e.hint]
        raise UnsupportedError(
            f"newer than opset {OPSET}: {listed}", hints[0] if hints else f"export it again with opset {OPSET}"
        )
    return lowering.needed


class _Lowering:
    """One walk over a graph and its bodies: `needed` is the opset it calls for, `refused` what cannot be said."""

    def __init__(self, names: Names, version: int) -> None:
        self.names, self.version = names, version
        self.needed = OPSET
        self.refused: list[UnsupportedError] = []

    def graph(self, graph: onnx.GraphProto, outer: Kinds) -> None:
        kinds = {**outer, **_kinds(graph)}
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            for body in bodies_of(node):
                self.graph(body, kinds)
            nodes += [node] if node.domain else self.node(node, kinds)
        replace_all(graph.node, nodes)

    def node(self, node: onnx.NodeProto, kinds: dict[str, int]) -> list[onnx.NodeProto]:
        then, now = lookup(node.op_type, self.version), lookup(node.op_type, OPSET)
        if then is not None and node.op_type in KEPT:
            self.needed = max(self.needed, then.since_version)
        if then is None or now is None or then.since_version == now.since_version:
            return [node]
        newer, made = Newer(node, self.names, kinds), [node]
        try:
            rewrites: list[Rewrite] = [*_rewrites(newer, then, now), functools.partial(_typed, now)]
            for rewrite in rewrites:
                at = next((i for i, n in enumerate(made) if n is node), None)
                if at is not None:
                    made[at : at + 1] = rewrite(newer)
        except UnsupportedError as error:
            self.refused.append(error)
        return made


def _rewrites(newer: Newer, then: onnx.defs.OpSchema, now: onnx.defs.OpSchema) -> Iterator[Rewrite]:
    """The rows for what this node has and opset 21 has not."""
    op = newer.node.op_type
    rows = [row for (name, since), row in MEANINGS.items() if name == op and now.since_version < since]
    rows = [row for row in rows if row.rewrite is not None]
    for name in newer.attrs:
        if name not in now.attributes:
            rows.append(ATTRIBUTES.get((op, name), Row("")))
            if rows[-1].rewrite is None:
                raise newer.refuse(f"its attribute {name!r} has no meaning at opset {OPSET}")
    if len(newer.node.input) > now.max_input:
        raise newer.refuse(f"it has more inputs than at opset {OPSET}")
    yield from (row.rewrite for row in rows if row.rewrite is not None)


def _typed(now: onnx.defs.OpSchema, newer: Newer) -> list[onnx.NodeProto]:
    """The node between casts to and from float32, where it computes in halves that opset 21 does not let it."""
    node = newer.node
    reads = [(i, newer.kind(i), _formal(now.inputs, i)) for i, name in enumerate(node.input) if name]
    gives = [(i, newer.kinds.get(name, 0), _formal(now.outputs, i)) for i, name in enumerate(node.output) if name]
    strange = [(kind, formal) for _, kind, formal in [*reads, *gives] if not _allows(now, formal, kind)]
    if not strange:
        return [node]
    for kind, formal in strange:
        if kind not in _HALVES:
            name = TensorProto.DataType.Name(kind).lower()
            raise newer.refuse(
                f"{formal.name} is of type {name}, which it takes only after opset {OPSET}",
                "use that type for weights only, or export with another type",
            )
    variables = {formal.type_str for _, formal in strange}
    wide = [i for i, kind, formal in reads if formal.type_str in variables and kind in _HALVES]
    casts = newer.read_as(TensorProto.FLOAT, *wide)
    back = [newer.give_as(k, i) for i, k, formal in gives if formal.type_str in variables and k in _HALVES]
    for attribute in node.attribute:
        if attribute.name == "dtype" and attribute.i in _HALVES:
            attribute.i = TensorProto.FLOAT
    return [*casts, node, *back]


def _formal(parameters: Any, index: int) -> onnx.defs.OpSchema.FormalParameter:
    return parameters[min(index, len(parameters) - 1)]


def _allows(schema: onnx.defs.OpSchema, formal: onnx.defs.OpSchema.FormalParameter, kind: int) -> bool:
    if not kind:
        return True
    named = next((c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == formal.type_str), None)
    return f"tensor({TensorProto.DataType.Name(kind).lower()})" in (named or [formal.type_str])


def _kinds(graph: onnx.GraphProto) -> dict[str, int]:
    """{tensor: element type} of what is declared, inferred or constant."""
    values = [*graph.value_info, *graph.input, *graph.output]
    kinds = {v.name: v.type.tensor_type.elem_type for v in values}
    return kinds | {t.name: t.data_type for t in graph.initializer}
