"""What the schemas of the installed onnx say of an operator: its version in force, defaults, and function body."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Protocol, cast

import onnx
import onnx.helper


@functools.cache
def lookup(op: str, version: int, domain: str = "") -> onnx.defs.OpSchema | None:
    """The schema of `op` in force at that version of its domain, or None."""
    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None


def schema_of(node: onnx.NodeProto, versions: dict[str, int]) -> onnx.defs.OpSchema | None:
    """The schema of a node of a model that imports these versions, or None."""
    return lookup(node.op_type, versions.get(node.domain, 1), node.domain)


# ---- Defaults ----


@functools.cache
def _defaults(op: str, version: int, domain: str) -> tuple[tuple[str, onnx.AttributeProto], ...]:
    """(name, attribute) of each attribute that the schema gives a default."""
    schema = onnx.defs.get_schema(op, version, domain)
    return tuple(
        (name, a.default_value) for name, a in schema.attributes.items() if a.default_value and a.default_value.name
    )


@functools.cache
def implied_attributes(op: str, opset: int, domain: str) -> dict[str, Any]:
    """The attributes that a node without them has at `opset`, by its schema."""
    schema = lookup(op, opset, domain)
    if schema is None:
        return {}
    values = {n: onnx.helper.get_attribute_value(a) for n, a in _defaults(op, schema.since_version, domain)}
    return {n: v.decode() if isinstance(v, bytes) else v for n, v in values.items()}


def write_defaults(nodes: Iterable[onnx.NodeProto], versions: dict[str, int]) -> None:
    """Writes out each attribute that a node leaves to its schema's default: function bodies refer to them."""
    for node in nodes:
        present = {a.name for a in node.attribute}
        schema = schema_of(node, versions)
        if schema is not None:
            node.attribute.extend(
                a for name, a in _defaults(schema.name, schema.since_version, schema.domain) if name not in present
            )


# ---- Function bodies ----


class Bodies(Protocol):
    """What onnx's stubs leave out of an OpSchema: whether it has a function body, for all types or for given ones."""

    @property
    def has_function(self) -> bool: ...
    @property
    def has_context_dependent_function(self) -> bool: ...
    def get_context_dependent_function(self, node: bytes, types: list[bytes]) -> bytes: ...


def bodies_in(schema: onnx.defs.OpSchema) -> Bodies:
    return cast(Bodies, schema)


def has_body(schema: onnx.defs.OpSchema) -> bool:
    """Whether the operator is also defined by simpler ones."""
    bodies = bodies_in(schema)
    return bodies.has_function or bodies.has_context_dependent_function


@functools.cache
def function_operators() -> frozenset[str]:
    """Standard operators whose schema carries a function body, context-dependent ones included."""
    schemas = onnx.defs.get_all_schemas()
    return frozenset(s.name for s in schemas if not s.domain and has_body(s))
