"""onnx-analyzer: show what an ONNX vision model looks at.

Public names load their modules on first use, so importing the package is cheap.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from analyzer.version import __version__

if TYPE_CHECKING:
    from analyzer.analysis.effective_field import EffectiveField
    from analyzer.analysis.filters import filter_bank
    from analyzer.analysis.receptive_field import ReceptiveField, ReceptiveFields
    from analyzer.api.comparing import audit, compare
    from analyzer.api.dreaming import Dreams, dream
    from analyzer.api.explaining import explain
    from analyzer.api.features import features
    from analyzer.api.fields import effective_field, receptive_field
    from analyzer.api.localizing import Localization, localize
    from analyzer.api.mining import mine
    from analyzer.attribution import METHODS, Attribution, Explainer
    from analyzer.attribution.class_maps import class_maps
    from analyzer.attribution.correspondence import correspondence
    from analyzer.attribution.dream import Dreamer
    from analyzer.attribution.export import export
    from analyzer.attribution.features import FeatureMaps
    from analyzer.attribution.field_views import EffectiveFields
    from analyzer.attribution.invariance import invariance
    from analyzer.attribution.occlusion import Occlusion, occlusion
    from analyzer.attribution.parametrizations import DreamOptions
    from analyzer.attribution.projection import Projector, Switches, project, read_switches
    from analyzer.data import Sample, find_pictures
    from analyzer.errors import AnalyzerError, InputError, NotFoundError, ProviderError, UnsupportedError
    from analyzer.explorer.notebook import Exploration, explore
    from analyzer.gradient import Vjp, append_vjp
    from analyzer.images import Preprocess
    from analyzer.mining import MiningResult
    from analyzer.mining.evolution import evolution
    from analyzer.passes import Pass, Processes, Ray
    from analyzer.runtime.pool import limit_memory
    from analyzer.validation import Comparison
    from analyzer.validation.audit import Audit

# onnxruntime's wheels collect telemetry unless this is set before they are imported. ORT_DISABLE_TELEMETRY=0 keeps it.
if not os.environ.get("ORT_DISABLE_TELEMETRY"):
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if "onnxruntime" in sys.modules:
        sys.modules["onnxruntime"].disable_telemetry_events()

_NAMES = {
    "analysis": ("ReceptiveField", "ReceptiveFields"),
    "analysis.filters": ("filter_bank",),
    "api.comparing": ("audit", "compare"),
    "api.dreaming": ("Dreams", "dream"),
    "api.explaining": ("explain",),
    "api.features": ("features",),
    "api.fields": ("effective_field", "receptive_field"),
    "api.localizing": ("Localization", "localize"),
    "api.mining": ("mine",),
    "attribution": ("METHODS", "Attribution", "Explainer"),
    "attribution.class_maps": ("class_maps",),
    "attribution.correspondence": ("correspondence",),
    "attribution.dream": ("Dreamer",),
    "attribution.parametrizations": ("DreamOptions",),
    "analysis.effective_field": ("EffectiveField",),
    "attribution.field_views": ("EffectiveFields",),
    "attribution.export": ("export",),
    "attribution.features": ("FeatureMaps",),
    "attribution.invariance": ("invariance",),
    "attribution.occlusion": ("Occlusion", "occlusion"),
    "attribution.projection": ("Projector", "Switches", "project", "read_switches"),
    "data": ("Sample", "find_pictures"),
    "errors": ("AnalyzerError", "InputError", "NotFoundError", "ProviderError", "UnsupportedError"),
    "explorer.notebook": ("Exploration", "explore"),
    "gradient": ("Vjp", "append_vjp"),
    "images": ("Preprocess",),
    "mining": ("MiningResult",),
    "mining.evolution": ("evolution",),
    "passes": ("Pass", "Processes", "Ray"),
    "runtime.pool": ("limit_memory",),
    "validation": ("Comparison",),
    "validation.audit": ("Audit",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "METHODS",
    "AnalyzerError",
    "Attribution",
    "Audit",
    "Comparison",
    "DreamOptions",
    "Dreamer",
    "Dreams",
    "EffectiveField",
    "EffectiveFields",
    "Explainer",
    "Exploration",
    "FeatureMaps",
    "InputError",
    "Localization",
    "MiningResult",
    "NotFoundError",
    "Occlusion",
    "Pass",
    "Preprocess",
    "Processes",
    "Projector",
    "ProviderError",
    "Ray",
    "ReceptiveField",
    "ReceptiveFields",
    "Sample",
    "Switches",
    "UnsupportedError",
    "Vjp",
    "__version__",
    "append_vjp",
    "audit",
    "class_maps",
    "compare",
    "correspondence",
    "dream",
    "effective_field",
    "evolution",
    "explain",
    "explore",
    "export",
    "features",
    "filter_bank",
    "find_pictures",
    "invariance",
    "limit_memory",
    "localize",
    "mine",
    "occlusion",
    "project",
    "read_switches",
    "receptive_field",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'analyzer' has no attribute {name!r}")
    return getattr(importlib.import_module(f"analyzer.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
