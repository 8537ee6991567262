"""Whether what follows a feature map is global average pooling and one linear layer, so that CAM is defined."""

from __future__ import annotations

import math

from analyzer.attribution.registry import Context
from analyzer.errors import UnsupportedError
from analyzer.graph import Graph, Node
from analyzer.graph.ir import reads
from analyzer.graph.query import ancestors, descendants
from analyzer.graph.through import MOVING, is_transparent

_POOLING = {"GlobalAveragePool", "ReduceMean", "AveragePool", "ReduceSum"}
_AFFINE = {"Gemm", "MatMul", "Conv", "Add", "Sub", "Mul", "Div", "BatchNormalization"}


def check_linear_head(ctx: Context) -> None:
    """Nothing, where y = Σ_k W_ck mean_ij A_kij + b.

    Raises:
        UnsupportedError: says which node makes the head another function.
    """
    graph, layer = ctx.graph, ctx.layer
    hint = "use grad-cam, which needs no such head, or name the layer in front of the pooling with --layer"
    between = ancestors(graph, [ctx.target.name]) & descendants(graph, [layer.name])
    path = [n for n in graph.forward_nodes() if any(o.name in between for o in n.outputs)]
    path = [n for n in path if not reads(n).isdisjoint(between) and not _produces(n, layer.name)]
    pooled = False
    for node in path:
        why = _nonlinear(graph, node, between)
        if why:
            raise UnsupportedError(f"no CAM for {layer.name!r}: {why}", hint)
        pooled = pooled or _pools(graph, node, layer.size)
        if not pooled and node.op in _AFFINE | {"Conv"} and node.op not in ("Mul", "Div", "Add", "Sub"):
            raise UnsupportedError(
                f"no CAM for {layer.name!r}: {node.op} (node {node.name!r}) comes before any global average pooling",
                hint,
            )
    if not pooled:
        raise UnsupportedError(f"no CAM for {layer.name!r}: no global average pooling follows it", hint)


def _produces(node: Node, name: str) -> bool:
    return any(o.name == name for o in node.outputs)


def _nonlinear(graph: Graph, node: Node, between: set[str]) -> str:
    """Why `node` is not linear in the values that depend on the layer; empty where it is."""
    dependent = [i for i in node.inputs if i.name in between]
    if is_transparent(node, MOVING) or node.op in _POOLING:
        return ""
    if node.op in _AFFINE and not node.domain:
        if len(dependent) > 1:
            return f"{node.op} (node {node.name!r}) joins two branches"
        if node.op == "Div" and dependent[0] is not node.inputs[0]:
            return f"Div (node {node.name!r}) divides by the feature map"
        if node.op == "Conv" and math.prod(node.attrs.get("kernel_shape", [2])) != 1:
            return f"Conv (node {node.name!r}) has a kernel larger than 1"
        return ""
    return f"{node.op} (node {node.name!r}) is not linear"


def _pools(graph: Graph, node: Node, size: tuple[int | None, ...]) -> bool:
    if node.op == "GlobalAveragePool":
        return True
    if node.op == "AveragePool":
        return list(node.attrs.get("kernel_shape", [])) == list(size) and not any(node.attrs.get("pads", []))
    return node.op in ("ReduceMean", "ReduceSum")
