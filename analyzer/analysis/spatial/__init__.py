"""Transfer functions of the receptive field: which input indices each operator reads for an output index.

A function with `@spatial(operators)` takes the fields of the inputs and returns those of the outputs; its docstring
is that set, and `HiddenError` says why it is not known for a node. An operator that is not here is reported, not
guessed. Fused operators need no row: `graph.passes.unfuse` has taken them apart.
"""

from analyzer.analysis.spatial import mixing, moving, pointwise, resizing, windows
from analyzer.analysis.spatial.table import SPATIAL

__all__ = ["SPATIAL", "mixing", "moving", "pointwise", "resizing", "windows"]
