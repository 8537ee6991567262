"""The recipes, a file per family. Importing this package imports every file in it: a new one needs no list."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from analyzer.attribution.registry import METHODS, Method
from analyzer.errors import InputError, NotFoundError, suggest

for _family in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_family.name}")


def find_method(name: str, options: Mapping[str, Any]) -> Method:
    """The method of that name, its options checked.

    Raises:
        NotFoundError: no such method. InputError: no such option, or not a (finite) number where it is one.
    """
    if name not in METHODS:
        if "," in name:
            raise NotFoundError(f"no method {name!r}", "several methods are a list; on the command line, -m A -m B")
        hint = f"{suggest(name, METHODS)} The methods are: {', '.join(METHODS)}".strip()
        raise NotFoundError(f"no method {name!r}", hint)
    found = METHODS[name]
    for option in options:
        if option not in found.options:
            known = ", ".join(found.options) or "none"
            raise InputError(f"{name} has no option {option!r}; its options: {known}", suggest(option, found.options))
        _check_number(f"the option {option} of {name}", options[option], found.annotations[option])
    return found


_NUMBERS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
}


def _check_number(what: str, value: Any, annotation: str) -> None:
    """InputError where an option is NaN or infinite, or no number although its recipe wants one."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{what} is {value}, not a finite number")
    kinds, words = _NUMBERS.get(annotation, ((object,), ""))
    plain = value.item() if hasattr(value, "item") else value  # of NumPy's numbers
    if not isinstance(plain, kinds) or (isinstance(plain, bool) and int in kinds):
        raise InputError(f"{what} is {value!r}, not {words}")


def options_of(methods: Sequence[str], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{method: its options}: each option goes to every method that has it.

    Raises:
        NotFoundError: no such method. InputError: an option that none of them has, or that is NaN or infinite.
    """
    known = {method: find_method(method, {}).options for method in methods}
    for name in given:
        if not any(name in options for options in known.values()):
            find_method(methods[0], {name: given[name]})
    found = {method: {n: v for n, v in given.items() if n in options} for method, options in known.items()}
    for method, options in found.items():
        find_method(method, options)
    return found


__all__ = ["METHODS", "Method", "find_method", "options_of"]
