"""Choosing tensors: the image in floating point, and the layer to explain by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from analyzer.analysis.feature_maps import FeatureMap, default_layer, feature_maps
from analyzer.analysis.layouts import Layout, layouts
from analyzer.analysis.scores import SQUASHING
from analyzer.errors import UnsupportedError
from analyzer.gradient.reverse import is_float
from analyzer.graph import Graph, Value
from analyzer.graph.query import find_tensors, image_input, image_layout
from analyzer.graph.through import MOVING, dequantized, is_transparent


def float_image(graph: Graph) -> tuple[Value, str]:
    """(the image as the first floating-point tensor, its axes): an integer image is read after its Cast or
    DequantizeLinear.

    Raises:
        UnsupportedError: no floating-point tensor stands for the image.
    """
    image = image_input(graph)
    rank = len(image.shape or ())
    if rank in (4, 5):
        axes = image_layout(graph, image)
    else:
        axes = {0: "", 1: "C", 2: "NC", 3: "NCW"}.get(rank, "N" + "?" * (rank - 1))
    value = image
    while not is_float(value):
        following = [n for n in value.outputs if is_transparent(n, ("Transpose",))]
        if len(following) != 1:
            raise UnsupportedError(
                f"{graph.name}: the input {image.name!r} has type {image.dtype} and is not converted to floating point "
                "by a single Cast or DequantizeLinear, so there is no gradient with respect to it",
                "use a CAM method",
            )
        node = following[0]
        value = node.outputs[0]
        if node.op == "Transpose":
            axes = "".join(axes[p] for p in node.attrs["perm"])
    return value, axes


def tensors_read(graph: Graph, target: Value) -> dict[str, Value]:
    """The file's own tensors that a target reads."""
    own = {o.name for n in graph.forward_nodes() for o in n.outputs}
    waiting, read = [target], dict[str, Value]()
    while waiting:
        value = waiting.pop()
        producer = graph.producer(value)
        if value.name in own:
            read[value.name] = value
        elif producer is not None:
            waiting += [i for i in producer.inputs if i.name]
    return read


def explained_map(graph: Graph, target: Value) -> Value:
    """The file's own tensor that an expression scores, where that is one feature map (a segmenter's); else `target`."""
    read = tensors_read(graph, target)
    if len(read) != 1:
        return target
    (only,) = read.values()
    is_map = any(m.name == only.name and "L" not in m.layout.axes for m in feature_maps(graph))
    return only if is_map else target


def _before_moves(value: Value) -> list[Value]:
    """The tensor, and those before it that hold the same numbers in other places, or before a squashing function."""
    found = [value]
    while value.inputs and is_transparent(value.inputs[0], MOVING | SQUASHING):
        value = value.inputs[0].inputs[0]
        found.append(value)
    return found


def pick_layer(graph: Graph, name: str, target: Value) -> FeatureMap:
    """The feature map called `name` (tensor, node or glob: the last match), or the default one for "auto".

    A quantised tensor stands for what it is dequantised to.

    Raises:
        NotFoundError: there is none of that name. UnsupportedError: it has no channels over space.
    """
    if name == "auto":
        same = {moved.name for value in tensors_read(graph, target).values() for moved in _before_moves(value)}
        return default_layer(graph, explained_map(graph, target), same)
    values = find_tensors(graph, name)
    maps = {m.name: m for m in feature_maps(graph)}
    chosen = [maps[v.name] for v in values if v.name in maps]
    if chosen:
        return chosen[-1]
    value = values[-1] if is_float(values[-1]) else dequantized(values[-1]) or values[-1]
    layout = layouts(graph).get(value.name)
    if layout is not None and layout.is_map and is_float(value):
        return FeatureMap(value, layout, graph.producer(value))
    shape = "of unknown shape" if value.shape is None else f"with shape {list(value.shape)}"
    near = ", ".join(repr(m) for m in list(maps)[-3:])
    raise UnsupportedError(
        f"{value.name!r} ({shape}) is not a feature map: its channel and spatial axes are not known",
        f"the last feature maps are {near}" if near else "list feature maps with `inspect`",
    )


def channels_first(array: np.ndarray, layout: Layout) -> np.ndarray:
    """(N, K, …space); tokens become their grid, without those before and after."""
    order = [layout.axes.index("N")] if "N" in layout.axes else []
    array = np.transpose(array, [*order, layout.channel, *layout.spatial])
    if not order:
        array = array[None]
    if "L" in layout.axes:
        array = array[:, :, layout.tokens].reshape(*array.shape[:2], *layout.grid)
    return array


def drawn_by_pixel(draw: Callable[[tuple[int, ...]], np.ndarray], sizes: Sequence[int], axes: str) -> np.ndarray:
    """Random numbers of shape `sizes`, the same for a pixel and channel in every layout.

    Args:
        draw: gives an array of a shape; it is asked for that of N, C, …space.
        axes: of the result: NCHW, HWC…
    """
    order = sorted(range(len(sizes)), key=lambda a: {"N": 0, "C": 1}.get(axes[a], 2))
    return np.transpose(draw(tuple(sizes[a] for a in order)), np.argsort(order))
