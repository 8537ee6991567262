"""Receptive fields as plain data."""

from __future__ import annotations

from typing import Any

from analyzer.analysis import ReceptiveField
from analyzer.analysis.effective_field import FRACTIONS, EffectiveField


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


def unknown_row(name: str) -> dict[str, Any]:
    """The same for a tensor whose receptive field is not known."""
    return {"tensor": name, "size": None, "stride": None, "padding": None, "is_global": False, "remark": "unknown"}


def _number(value: Any) -> Any:
    return None if value is None else int(value) if value == int(value) else str(value)


# ---- Effective fields ----


def effective_row(field: EffectiveField) -> dict[str, Any]:
    """An effective receptive field as plain data."""
    return {
        "measure": field.measure,
        "pictures": field.pictures,
        "units": field.units,
        "cut": field.cut,
        "not_finite": field.broken,
        "window": list(field.window),
        "center": list(field.center),
        "sigma": list(field.sigma),
        "size": list(field.effective_size),
        "ratio": field.ratio,
        "gaussian": field.gaussian,
        "inside": {f"{fraction:g}": field.inside(fraction) for fraction in FRACTIONS},
    }
