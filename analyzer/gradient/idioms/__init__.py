"""Idioms: other forms of the equations in `rules/`, a file per family. Importing this package imports every file in it.

An equation needs none of them, and no rule knows of any: without this package gradients have the same values.
"""

import importlib
import pkgutil

from analyzer.errors import NotFoundError, suggest
from analyzer.gradient.registry import IDIOMS, RUNTIMES, Idioms

for _family in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_family.name}")


def idioms_for(runtime: str) -> Idioms:
    """{equation: its idioms for a runtime, in the order in which they are asked}

    Raises:
        NotFoundError: there is no runtime of that name.
    """
    if runtime not in RUNTIMES:
        raise NotFoundError(
            f"no runtime {runtime!r}", suggest(runtime, RUNTIMES) or f"choose one of {', '.join(RUNTIMES)}"
        )
    chosen = [i for i in IDIOMS if runtime in i.runtimes]
    return {i.of: tuple(other for other in chosen if other.of is i.of) for i in chosen}


__all__ = ["IDIOMS", "RUNTIMES", "idioms_for"]
