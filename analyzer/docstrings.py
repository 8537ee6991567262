"""Docstrings that users read: formulas of methods, equations of rules, help texts of commands."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def docstring(function: Callable[..., Any]) -> str:
    """Its docstring; read from the source file where Python dropped it (`-OO`, PYTHONOPTIMIZE=2)."""
    if function.__doc__ or sys.flags.optimize < 2:
        return function.__doc__ or ""
    with suppress(OSError, TypeError, SyntaxError):
        definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        if isinstance(definition, ast.FunctionDef):
            return ast.get_docstring(definition) or ""
    return ""
