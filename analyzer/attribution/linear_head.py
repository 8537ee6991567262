"""Whether what follows a feature map is global average pooling and one linear layer, so that CAM is defined."""

from __future__ import annotations

from analyzer.analysis.interpreter import interpret
from analyzer.analysis.linear import LINEAR
from analyzer.attribution.registry import Context
from analyzer.errors import UnsupportedError
from analyzer.graph.query import ancestors


def check_linear_head(ctx: Context) -> None:
    """Nothing, where y = Σ_k W_ck mean_ij A_kij + b.

    Raises:
        UnsupportedError: says which node makes the head another function.
    """
    layer = ctx.layer
    found = interpret(ctx.graph, LINEAR, {layer.name: False}, memory=list(layer.size))
    needed = ancestors(ctx.graph, [ctx.target.name])
    hidden = next((nodes[0] for name, nodes in found.unknown.items() if name in needed), None)
    if hidden is None and any(pooled for name, pooled in found.values.items() if name in needed):
        return
    why = "no global average pooling follows it"
    if hidden is not None:
        why = f"{hidden.label} {hidden.reason or 'is not linear'}"
    raise UnsupportedError(
        f"no CAM for {layer.name!r}: {why}",
        "use grad-cam, which works with any head, or name the layer before the pooling with --layer",
    )
