"""Receptive fields as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyzer.analysis import ReceptiveField


def row(name: str, field: ReceptiveField) -> dict[str, Any]:
    """A receptive field as plain data."""
    remarks = []
    if field.is_global:
        remarks.append("global")
    elif not field.exact:
        remarks.append("upper bound")
    if not field.is_global and not field.aligned:
        remarks.append("unaligned")
    return {
        "tensor": name,
        "size": None if field.size is None else [_number(s) for s in field.size],
        "stride": None if field.stride is None else [_number(s) for s in field.stride],
        "padding": None if field.padding is None else [_number(p) for p in field.padding],
        "is_global": field.is_global,
        "remark": ", ".join(remarks),
    }


def _number(value: Any) -> Any:
    return None if value is None else int(value) if value == int(value) else str(value)


def changes(fields: Mapping[str, ReceptiveField], names: Sequence[str]) -> list[str]:
    """The last tensor of each run with the same receptive field."""
    kept = []
    for i, name in enumerate(names):
        following = fields[names[i + 1]] if i + 1 < len(names) else None
        now = fields[name]
        if following is None or (now.size, now.stride, now.is_global) != (
            following.size,
            following.stride,
            following.is_global,
        ):
            kept.append(name)
    return kept
