"""onnx-analyzer: see what an exported ONNX vision model looks at.

The public names; each loads its module when it is first used, so importing the package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyzer.analysis import ReceptiveField, receptive_field
    from analyzer.api import explain
    from analyzer.attribution import METHODS, Attribution, Explainer
    from analyzer.attribution.export import export
    from analyzer.attribution.features import features
    from analyzer.errors import AnalyzerError, InputError, NotFoundError, ProviderError, UnsupportedError
    from analyzer.gradient import Vjp, append_vjp

__version__ = "0.1.0"

_HOME = {
    "METHODS": "attribution",
    "AnalyzerError": "errors",
    "Attribution": "attribution",
    "Explainer": "attribution",
    "InputError": "errors",
    "NotFoundError": "errors",
    "ProviderError": "errors",
    "ReceptiveField": "analysis",
    "UnsupportedError": "errors",
    "Vjp": "gradient",
    "append_vjp": "gradient",
    "explain": "api",
    "export": "attribution.export",
    "features": "attribution.features",
    "receptive_field": "analysis",
}

__all__ = [
    "METHODS",
    "AnalyzerError",
    "Attribution",
    "Explainer",
    "InputError",
    "NotFoundError",
    "ProviderError",
    "ReceptiveField",
    "UnsupportedError",
    "Vjp",
    "__version__",
    "append_vjp",
    "explain",
    "export",
    "features",
    "receptive_field",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'analyzer' has no attribute {name!r}")
    return getattr(importlib.import_module(f"analyzer.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
