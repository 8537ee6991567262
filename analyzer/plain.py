"""Results as JSON, and foreign text that can be shown: the one place that writes either."""

from __future__ import annotations

import json
import math
import re
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


# Control characters but tab and newline; what is invisible or turns the direction of text; lone surrogates.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """`text` with characters that act on a terminal, or that nobody sees, as JSON's escapes: `\\u202e`.

    Names and labels come from files of others. Text of ours has no such characters, JSON stays the same document.
    """
    return text if text.isascii() and text.isprintable() else _UNSEEN.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1] if found[0] > "\x1f" and found[0] != "\x7f" else f"\\u{ord(found[0]):04x}"


def rounded(value: Any) -> Any:
    """Plain data with floats to six significant digits, so that equal runs give equal text."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
