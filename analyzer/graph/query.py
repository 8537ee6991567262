"""Queries: dependencies between tensors, the image input, tensors by name, sizes for open inputs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from analyzer.errors import NotFoundError, UnsupportedError, suggest
from analyzer.graph.ir import Graph
from analyzer.graph.nodes import Node, Value, fixed_sizes, reads

# ---- Reachability ----

SIZES_ONLY = ("Shape", "Size")  # operators that read no numbers of their input


def ancestors(graph: Graph, names: Iterable[str]) -> set[str]:
    """All tensors whose values `names` depend on, themselves included; a dependence on sizes only does not count."""
    found = set(names)
    for node in reversed(graph.before(found)):
        if node.op not in SIZES_ONLY and any(o.name in found for o in node.outputs):
            found |= reads(node)
    return found


def descendants(graph: Graph, names: Iterable[str], among: Iterable[Node] | None = None) -> set[str]:
    """All tensors whose values depend on `names`, themselves included; a dependence on sizes only does not count.

    Args:
        among: the nodes that are looked at, in topological order; all when None.
    """
    found = set(names)
    for node in graph.nodes if among is None else among:
        if node.op not in SIZES_ONLY and not found.isdisjoint(reads(node)):
            found.update(o.name for o in node.outputs if o.name)
    return found


# ---- Inputs ----


def image_input(graph: Graph) -> Value:
    """The input that is explained: `graph.image` where it is chosen, else the likeliest of `picture_inputs`, else the
    first of the highest rank."""
    if not graph.inputs:
        raise UnsupportedError(f"{graph.name}: the model has no inputs")
    if graph.image is not None:
        return graph[graph.image]
    found = picture_inputs(graph)
    return found[0] if found else max(graph.inputs, key=lambda i: len(i.shape or ()))


_PIXELS = ("float16", "float32", "float64", "bfloat16", "uint8", "int8", "uint16", "int16", "int32")


def picture_inputs(graph: Graph) -> list[Value]:
    """The inputs that can hold pictures, clips or volumes, the likeliest first: four axes before five, colour before
    grey before other channels, then in the file's order."""

    def place(value: Value) -> tuple[int, int]:
        shape = value.shape or []
        sizes = {shape[1], shape[-1]} if len(shape) == 4 else {shape[1], shape[2], shape[-1]}
        return len(shape), 0 if 3 in sizes else 1 if sizes & {1, 4} else 2

    def holds(value: Value) -> bool:
        shape = value.shape or []
        sides = sum(not isinstance(d, int) or d > 1 for d in shape[1:])
        return len(shape) in (4, 5) and sides >= 2 and str(value.dtype) in _PIXELS

    return sorted((i for i in graph.inputs if holds(i)), key=place)


def image_layout(graph: Graph, image: Value) -> str:
    """ "NCHW" or "NHWC": by the axis with 1, 3 or 4 channels, else by what the first consumers do with it.

    Of five axes "NCDHW" (a volume, or a clip whose channels come first), "NDCHW" or "NDHWC": D are slices or frames.
    """
    shape = image.shape or []
    if len(shape) == 5:
        return _layout_of_five(graph, image)
    if len(shape) == 4:
        first, last = shape[1] in (1, 3, 4), shape[3] in (1, 3, 4)
        if first != last:
            return "NCHW" if first else "NHWC"
    for node in _first_spatial(graph, image):
        if node.op == "Transpose" and node.attrs.get("perm", [])[1:2] == [3]:
            return "NHWC"
        if node.op in ("Conv", "MaxPool", "AveragePool"):
            return "NCHW"
    return "NCHW"


def _layout_of_five(graph: Graph, image: Value) -> str:
    for node in _first_spatial(graph, image):
        weights = node.inputs[1].shape if node.op == "Conv" else None
        if weights and len(weights) == 5 and image in node.inputs:
            return "NCDHW"
    likely = {"NCDHW": 1, "NDCHW": 2, "NDHWC": 4}
    shape = image.shape or []
    return max(likely, key=lambda axes: _says(shape[likely[axes]]))


def _says(size: int | str | None) -> int:
    """How much a size speaks for channels: 3 more than 1, which may be slices, or 4, frames."""
    return {3: 3, 4: 2, 1: 1}.get(size, 0) if isinstance(size, int) else 0


def _first_spatial(graph: Graph, image: Value) -> Iterable[Node]:
    queue, seen = [image], set()
    while queue:
        value = queue.pop(0)
        for node in value.outputs:
            if id(node) not in seen:
                seen.add(id(node))
                yield node
                if node.op not in ("Conv", "MaxPool", "AveragePool", "Transpose"):
                    queue.extend(node.outputs)


# ---- Sizes for open inputs ----


def single_batch(inputs: Iterable[Value]) -> dict[str, tuple[int, ...]]:
    """Shapes with a batch of 1 for the inputs of which only the batch is open."""
    found = {}
    for value in inputs:
        others = fixed_sizes((value.shape or ())[1:])
        if value.shape and not isinstance(value.shape[0], int) and others is not None:
            found[value.name] = (1, *others)
    return found


SIDES = (224, 320, 64, 512, 32)  # what is tried for the sides of a picture that are open, in this order


def fillings(graph: Graph, batch: int = 1) -> list[dict[str, tuple[int, ...]]]:
    """Sizes to try for the inputs that leave some open, the likeliest first; empty where all are fixed.

    Open axes get `batch` (the first), as many channels as the first Conv reads (3 where that is not known), and one of
    SIDES.
    """
    image = image_input(graph)
    found = []
    for side in SIDES:
        sizes = {}
        for value in graph.inputs:
            shape = value.shape or []
            if all(isinstance(d, int) for d in shape):
                continue
            channels = image_layout(graph, value).index("C") if value is image and len(shape) == 4 else None
            filled = {0: batch} | ({channels: _channels_read(graph, value)} if channels is not None else {})
            sizes[value.name] = tuple(d if isinstance(d, int) else filled.get(a, side) for a, d in enumerate(shape))
        if sizes and sizes not in found:
            found.append(sizes)
    return found


def _channels_read(graph: Graph, image: Value) -> int:
    for node in _first_spatial(graph, image):
        shape = node.inputs[1].shape if node.op == "Conv" else None
        if shape and isinstance(shape[1], int):
            return int(shape[1] * node.attrs.get("group", 1))
    return 3


# ---- By name ----


def find_tensors(graph: Graph, pattern: str) -> list[Value]:
    """Tensors by tensor name, node name or glob; NotFoundError suggests near misses."""
    by_node = {n.name: n for n in graph.forward_nodes()}
    if pattern in graph.values:
        return [graph.values[pattern]]
    if pattern in by_node:
        return [by_node[pattern].outputs[0]]
    if any(c in pattern for c in "*?["):
        names = [o.name for n in graph.forward_nodes() for o in n.outputs if o.name]
        chosen = [n for n in names if fnmatch.fnmatchcase(n, pattern)]
        chosen = chosen or [by_node[n].outputs[0].name for n in by_node if fnmatch.fnmatchcase(n, pattern)]
        if chosen:
            return [graph.values[n] for n in chosen]
    hint = suggest(pattern, [*by_node, *(o.name for n in graph.forward_nodes() for o in n.outputs if o.name)])
    raise NotFoundError(f"{graph.name} has no tensor or node {pattern!r}", hint or "list them with `inspect`")
