"""Results as JSON: the one place that writes it."""

from __future__ import annotations

import json
import math
from typing import Any


def as_json(content: Any, **options: Any) -> str:
    """`content` as a JSON document, in which NaN and infinities are null.

    Args:
        options: of `json.dumps`.
    """
    return json.dumps(plain(content), allow_nan=False, **options)


def plain(value: Any) -> Any:
    """Dictionaries, lists, texts and numbers only: arrays become lists, NaN and infinities None, all else text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def rounded(value: Any) -> Any:
    """Plain data with floats to six significant digits, so that equal runs give equal text."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
