"""From a method's raw values to a heatmap in [0, 1] at the size of the image, as nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyzer.attribution.lines import Centers
from analyzer.attribution.registry import Context
from analyzer.errors import UnsupportedError
from analyzer.graph import Value
from analyzer.images.resample import product

FLOAT32 = np.dtype(np.float32)


def resize_to_image(ctx: Context, heat: Value) -> Value:
    """(N, h, w) to (N, H, W): bilinear, half-pixel centers (as cv2.resize and torch align_corners=False).

    Where the context has other centers of units, bilinear between these, and 0 from one stride beyond the outermost.
    The same over volumes. Frames of a clip that are folded into the batch, (N, D, h, w) here, are resized one by one.
    """
    op = ctx.op
    space = [i for i, a in enumerate(ctx.image_axes) if a in "DHW"]
    if len(space) != op.rank(heat) - 1:
        raise UnsupportedError(
            f"a map with {op.rank(heat) - 1} axes cannot be resized to an input with {len(space)} spatial axes",
            "use the raw map",
        )
    if ctx.centers is not None:
        rows, columns = (_weights(ctx, ctx.centers, heat, axis) for axis in (0, 1))
        return op.MatMul(op.MatMul(rows, heat), op.Transpose(columns, perm=[1, 0]))
    if ctx.feature is not None and len(ctx.feature.layout.spatial) == 2 and len(space) == 3:
        sides = (op.shape(ctx.image, a, a + 1) for a in space[1:])
        return _resized(ctx, heat, op.Concat(op.shape(heat, 0, 2), *sides, axis=0))
    wide = op.Unsqueeze(heat, [1])
    size = op.Concat(op.shape(wide, 0, 2), *(op.shape(ctx.image, a, a + 1) for a in space), axis=0)
    return op.Squeeze(_resized(ctx, wide, size), [1])


def _resized(ctx: Context, value: Value, size: Value) -> Value:
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "floor"}
    return ctx.op.Resize(value, None, None, size, **how)


def _weights(ctx: Context, centers: Centers, heat: Value, axis: int) -> Value:
    """`Centers.weights` along an axis of the image, at run time where its sizes are open."""
    op, at = ctx.op, ctx.image_axes.index("HW"[axis])
    count, length = op.dim(heat, axis + 1), op.dim(ctx.image, at)
    if count is not None and length is not None:
        return op.constant(centers.weights(axis, count, length), "weights")
    sizes = (op.shape(ctx.image, at, at + 1), op.shape(heat, axis + 1, axis + 2))
    pixels, units = (op.cast(op.Range(np.int64(0), op.Squeeze(size, [0]), np.int64(1)), FLOAT32) for size in sizes)
    position = op.Div(op.Sub(pixels, centers.first[axis] - 0.5), centers.step[axis])
    away = op.Abs(op.Sub(op.Unsqueeze(position, [1]), op.Unsqueeze(units, [0])))
    return op.Relu(op.Sub(1.0, away))


def unfolded(ctx: Context, raw: Value, kind: str) -> Value:
    """(N · D, h, w) to (N, D, h, w): maps of the frames of clips, which the model folds into the batch."""
    op, axes = ctx.op, ctx.image_axes
    if kind == "gradient" or "D" not in axes or op.rank(raw) != 3:
        return raw
    lead = [op.shape(ctx.image, axes.index(a), axes.index(a) + 1) for a in "ND"]
    return op.Reshape(raw, op.Concat(*lead, op.shape(raw, 1, 3), axis=0))


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
    if not set("DHW") & set(ctx.image_axes):  # a row of numbers
        if kind != "gradient":
            raise UnsupportedError(
                f"a map over a layer cannot be laid on the input {ctx.image.name!r}, which has no height and width",
                "use a gradient method, such as --method gradient",
            )
        return unit_range(ctx, ctx.op.Abs(raw)) if ctx.op.rank(raw) > 1 else ctx.op.Abs(raw)
    if kind == "gradient":
        return unit_range(ctx, magnitude(ctx, raw))
    if ctx.centers is not None:  # beyond the outermost centers is the lowest value
        raw = ctx.op.Sub(raw, ctx.op.ReduceMin(raw, [1, 2], keepdims=1))
    return unit_range(ctx, resize_to_image(ctx, raw))


# ---- The same for arrays, for methods of many runs ----


def resized(maps: np.ndarray, size: Sequence[int], centers: Centers | None = None) -> np.ndarray:
    """(…, h, w) to (…, *size), float32: linear along each of the last axes, half-pixel centers, edges repeated.

    Between other centers if given, with the lowest value of each map beyond them.
    """
    if centers is not None:
        low = maps.min(axis=(-2, -1), keepdims=True)
        rows, columns = (centers.weights(axis, maps.shape[axis - 2], size[axis]) for axis in (0, 1))
        return (low + product(product(rows, maps - low), columns.T)).astype(np.float32)
    first = maps.ndim - len(size)
    for axis, length in enumerate(size):
        old = maps.shape[first + axis]
        if old != length:
            maps = np.moveaxis(np.tensordot(maps, linear_weights(old, length), ([first + axis], [1])), -1, first + axis)
    return maps.astype(np.float32)


def linear_weights(old: int, new: int) -> np.ndarray:
    """(new, old) weights of `resized` along an axis: half-pixel centers, edges repeated."""
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


def heatmaps(
    raw: np.ndarray, kind: str, image_axes: str, size: Sequence[int], centers: Centers | None = None
) -> np.ndarray:
    """(rows, H, W) in [0, 1] from a method's own values."""
    if not set("DHW") & set(image_axes):
        return unit_scaled(np.abs(raw))
    if kind == "gradient":
        return unit_scaled(np.abs(raw).max(axis=image_axes.index("C")))
    if len(size) == 3 and raw.ndim == 3:  # frames that are folded into the batch
        raw = raw.reshape(-1, size[0], *raw.shape[1:])
        size = size[1:]
    return unit_scaled(resized(raw, size, centers))
