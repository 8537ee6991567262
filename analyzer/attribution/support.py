"""Receptive fields proved: the support of a unit's gradient, in a twin of the model in which nothing cancels."""

from __future__ import annotations

import functools
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from analyzer.analysis import ReceptiveField, receptive_field
from analyzer.analysis.positive import positive_weights
from analyzer.attribution.layers import float_image
from analyzer.attribution.model import Model
from analyzer.errors import AnalyzerError, UnsupportedError
from analyzer.gradient import GRADIENT
from analyzer.gradient.reverse import append_vjp_to
from analyzer.graph import Graph
from analyzer.graph.nodes import fixed_sizes
from analyzer.graph.protos import copied
from analyzer.graph.query import image_input
from analyzer.runtime import Session

BRIGHTNESS = 1e-20  # of the image that the twin is given: no Clip saturates
LARGEST = 1e30  # value of a gradient, of 3.4e38 that fit
PIXELS = 1 << 19  # of the largest image that is made for a proof
FREE = 64  # pixels along an axis whose size the file leaves open, where the receptive field needs no more

RANK = ("equal", "inside", "smaller", "differs")


def verify_receptive_field(model: Model, name: str, field: ReceptiveField) -> str:
    """Whether a unit in the middle of tensor `name` depends on the pixels that `field` says.

    Its gradient is taken in a twin of the model (`positive_weights`), along each axis of the image in turn, which is
    made as large as the receptive field where the nodes before the tensor allow another size.

    Returns:
        "equal": the support of the gradient spans the interval that `field` claims.
        "inside": it lies inside; no more can be asked, since the interval is an upper bound, reaches over the border,
            or is the whole image, of which strides may leave out the end.
        "smaller: …": it lies inside of what is claimed to be exact.
        "differs: …": it reaches further than claimed.
        "not checked: …": there is no gradient, or it is 0 everywhere.
    """
    try:
        found = [_along(model, name, field, axis) for axis in range(len(field.extents))]
    except AnalyzerError as error:
        return f"not checked: {error.message}"
    return max(found, key=lambda text: RANK.index(text.split(":")[0]))


def _along(model: Model, name: str, field: ReceptiveField, axis: int) -> str:
    """The verdict along one axis of the image."""
    sizes = [FREE if e is None else e for e in field.extents]
    wider = list(sizes)
    wider[axis] = _wanted(field, axis, sizes[axis])
    if wider != sizes and int(np.prod(wider)) <= PIXELS:
        try:
            graph = _resized(model, name, wider)
            claim = receptive_field(graph)[name]
            if _formula(claim) == _formula(field):
                return _compared(graph, name, claim, axis)
        except (AnalyzerError, KeyError):
            pass  # a node before the tensor is made for the size in the file
    return _compared(_resized(model, name, sizes), name, field, axis)


def _formula(field: ReceptiveField) -> tuple[Any, ...]:
    return field.size, field.stride, field.padding, field.axes, field.affine


def _wanted(field: ReceptiveField, axis: int, size: int) -> int:
    """The size at which the middle unit's interval lies well inside the image; a multiple of 32."""
    if field.size is None or field.stride is None or field.padding is None:
        return size
    r, stride, padding = field.size[axis], field.stride[axis], field.padding[axis]
    if r is None or stride is None or padding is None:
        return size
    need = r + 4 * abs(Fraction(stride)) + abs(2 * Fraction(padding) - r)
    return size if need <= size else -(-int(need) // 32) * 32


@functools.lru_cache(maxsize=1)
def _twin(model: Model) -> Graph:
    image = image_input(model.plain)
    if image.dtype == np.float16:
        raise UnsupportedError("the range of float16 is too small for this check", "check the float32 model")
    return positive_weights(model.plain)


def _resized(model: Model, name: str, sizes: list[int]) -> Graph:
    """The part of the twin before tensor `name`, for one image of these sizes."""
    twin = _twin(model)
    axes = receptive_field(twin).input_axes
    stub, weights = twin.stub([name])
    proto = copied(stub)
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name == image_input(twin).name:
            for axis, size in zip(axes, sizes, strict=True):
                dims[axis].dim_value = size
        for dim in dims:
            dim.dim_value = dim.dim_value or 1
    return Graph.read(replace(twin.source, proto=proto, detached=weights))


def _compared(graph: Graph, name: str, claim: ReceptiveField, axis: int) -> str:
    """The verdict on `claim` along one axis of the image, at the size that `graph` has."""
    shape = fixed_sizes(graph[name].shape)
    if shape is None:
        raise UnsupportedError(f"the shape of {name!r} is known only at run time")
    index = tuple(shape[a] // 2 for a in claim.axes)
    cotangent = np.zeros(shape, np.float32)
    place: list[Any] = [slice(None)] * len(shape)
    for a, i in zip(claim.axes, index, strict=True):
        place[a] = i
    # Not all the same: the gradient of a softmax's sum would vanish.
    cotangent[tuple(place)] = np.random.default_rng(0).uniform(0.5, 1, cotangent[tuple(place)].shape)
    support = _support(graph, name, cotangent, axis)
    whole = (0, len(support))
    reach = claim.interval(index)[axis] or whole
    interval = (max(reach[0], whole[0]), min(reach[1], whole[1]))
    lit = np.flatnonzero(support)
    if not lit.size:
        raise UnsupportedError(f"the gradient of {name!r} is 0 everywhere")
    box = (int(lit[0]), int(lit[-1]) + 1)
    if box == interval:
        return "equal"
    text = f": pixels {box[0]} to {box[1] - 1} of axis {axis}, not {interval[0]} to {interval[1] - 1}"
    if box[0] < interval[0] or box[1] > interval[1]:
        return "differs" + text
    if claim.global_axes[axis]:
        return "inside" + text
    return "inside" if not claim.exact or interval != reach else "smaller" + text


def _support(graph: Graph, name: str, cotangent: np.ndarray, axis: int) -> np.ndarray:
    """Along one axis of the image: where the gradient of ⟨cotangent, tensor⟩ is not zero."""
    image, layout = float_image(graph)
    vjp = append_vjp_to(graph, [name], [image.name], GRADIENT)
    gradient = vjp.gradients[image.name]
    feeds = {v.name: _lit(v) for v in graph.inputs} | {vjp.cotangents[name]: cotangent}
    session = Session(graph, outputs=[gradient])
    feeds = {n: a for n, a in feeds.items() if n in session.inputs}
    found = session.run(feeds)[gradient]
    # Corners fade: they are looked for again where the largest value is large.
    feeds[vjp.cotangents[name]] = cotangent * np.float32(LARGEST / max(float(np.abs(found).max()), 1e-6))
    bright = session.run(feeds)[gradient]
    found = bright if np.isfinite(bright).all() else found
    space = [a for a, letter in enumerate(layout) if letter not in "NC"][axis]
    return np.any(found != 0, axis=tuple(a for a in range(found.ndim) if a != space))


def _lit(value: Any) -> np.ndarray:
    """A small positive array for an input; ones where it holds integers."""
    return np.full(value.shape, BRIGHTNESS if value.dtype.kind == "f" else 1, value.dtype)
