"""From a method's raw values to a heatmap in [0, 1] at the size of the image, as nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyzer.attribution.registry import Context
from analyzer.errors import UnsupportedError
from analyzer.graph import Value

FLOAT32 = np.dtype(np.float32)


def resize_to_image(ctx: Context, heat: Value) -> Value:
    """(N, h, w) to (N, H, W): bilinear, half-pixel centres (as cv2.resize and torch align_corners=False)."""
    op = ctx.op
    space = [i for i, a in enumerate(ctx.image_axes) if a in "DHW"]
    if len(space) != op.rank(heat) - 1:
        raise UnsupportedError(
            f"a map with {op.rank(heat) - 1} axes cannot be resized to an input with {len(space)} spatial axes",
            "use the raw map",
        )
    wide = op.Unsqueeze(heat, [1])
    size = op.Concat(op.shape(wide, 0, 2), *(op.shape(ctx.image, a, a + 1) for a in space), axis=0)
    resized = op.Resize(
        wide, None, None, size, mode="linear", coordinate_transformation_mode="half_pixel", nearest_mode="floor"
    )
    return op.Squeeze(resized, [1])


def magnitude(ctx: Context, attribution: Value) -> Value:
    """(N, H, W): max over the channels of |R| (Simonyan et al. 2013, section 3.1)."""
    op, axis = ctx.op, ctx.image_axes.index("C")
    size = op.Abs(attribution)
    channels = op.dim(size, axis)
    if axis == 1 and channels in (2, 3, 4):  # the runtime reduces over a leading axis slowly
        return op.Max(*(op.Gather(size, np.int64(c), axis=axis) for c in range(channels)))
    return op.ReduceMax(size, [axis], keepdims=0)


def unit_range(ctx: Context, heat: Value) -> Value:
    """(x − min) / (max − min) per image; a constant map becomes 0."""
    op = ctx.op
    axes = list(range(1, op.rank(heat)))
    low = op.ReduceMin(heat, axes, keepdims=1)
    reach = op.Sub(op.ReduceMax(heat, axes, keepdims=1), low)
    flat = op.Equal(reach, 0.0)
    return op.Div(op.Sub(heat, low), op.Where(flat, op.ones_like(reach), reach))


def heatmap(ctx: Context, raw: Value, kind: str) -> Value:
    """(N, H, W) in [0, 1], float32."""
    raw = ctx.op.cast(raw, FLOAT32)
    return unit_range(ctx, magnitude(ctx, raw) if kind == "gradient" else resize_to_image(ctx, raw))


# ---- The same for arrays, for methods of many runs ----


def resized(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(…, h, w) to (…, *size), float32: linear along each of the last axes, half-pixel centres, edges repeated."""
    first = maps.ndim - len(size)
    for axis, length in enumerate(size):
        old = maps.shape[first + axis]
        if old != length:
            maps = np.moveaxis(np.tensordot(maps, _linear(old, length), ([first + axis], [1])), -1, first + axis)
    return maps.astype(np.float32)


def _linear(old: int, new: int) -> np.ndarray:
    """(new, old) weights."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(centre.astype(int), max(old - 2, 0))
    weights = np.zeros((new, old))
    weights[np.arange(new), low] = 1 - (centre - low)
    weights[np.arange(new), np.minimum(low + 1, old - 1)] += centre - low
    return weights


def unit_scaled(maps: np.ndarray) -> np.ndarray:
    """(x − min) / (max − min) per row; a constant map becomes 0."""
    axes = tuple(range(1, maps.ndim))
    low = maps.min(axis=axes, keepdims=True)
    reach = maps.max(axis=axes, keepdims=True) - low
    return ((maps - low) / np.where(reach == 0, 1, reach)).astype(np.float32)


def heatmaps(raw: np.ndarray, kind: str, image_axes: str, size: Sequence[int]) -> np.ndarray:
    """(rows, H, W) in [0, 1] from a method's own values."""
    if kind == "gradient":
        return unit_scaled(np.abs(raw).max(axis=image_axes.index("C")))
    return unit_scaled(resized(raw, size))
