"""What exporters write beside a graph."""

from __future__ import annotations

import ast

import onnx

LONGEST = 1 << 20  # characters of a list of names; thousands of classes need some 100,000


def class_names(model: onnx.ModelProto) -> tuple[str, ...] | None:
    """The names of the classes that a file carries: `names` of Ultralytics, a dictionary or a list as Python text.

    None if there are none, or if they are no names of classes 0, 1, 2…
    """
    text = next((p.value for p in model.metadata_props if p.key == "names"), "")
    if not text or len(text) > LONGEST:
        return None
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if isinstance(found, dict):
        if sorted(found, key=str) != sorted(range(len(found)), key=str):
            return None
        found = [found[index] for index in range(len(found))]
    if not isinstance(found, list | tuple) or not found or not all(isinstance(name, str) for name in found):
        return None
    return tuple(found)
