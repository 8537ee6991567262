"""The gradient's rules, a file per family. Importing this package imports every file in it: a new one needs no list."""

import importlib
import pkgutil

from analyzer.gradient.registry import GRADIENT

for _family in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_family.name}")

__all__ = ["GRADIENT"]
