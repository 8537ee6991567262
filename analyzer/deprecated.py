"""Earlier names of arguments and attributes, which go on working with a DeprecationWarning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def renamed(options: dict[str, Any], old: str, new: str, value: Any) -> Any:
    """The value of an argument, which may be given under its earlier name."""
    if old not in options:
        return value
    _warn(old, new, 4)
    return options.pop(old)


def renamed_argument(old: str, new: str) -> Callable[[type[T]], type[T]]:
    """Decorates a class that can also be made with the argument `new` under its earlier name."""

    def decorated(cls: type[T]) -> type[T]:
        made = cls.__init__

        @functools.wraps(made)
        def init(self: T, *given: Any, **named: Any) -> None:
            if old in named:
                _warn(old, new)
                named[new] = named.pop(old)
            made(self, *given, **named)

        cls.__init__ = init  # type: ignore[method-assign, assignment]
        return cls

    return decorated


def renamed_attribute(old: str, new: str) -> property:
    """A property that reads the attribute `new`."""

    def read(self: Any) -> Any:
        _warn(old, new)
        return getattr(self, new)

    return property(read, doc=f"The earlier name of `{new}`.")


def _warn(old: str, new: str, level: int = 3) -> None:
    warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=level)
