"""Values between elements: GridSample, DeformConv, and the pools over regions.

What is sampled is a weighted sum over neighbours; the cotangent goes back to them with the same weights, and to the
places with the weights' slopes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from analyzer.gradient.registry import Builder, Cotangent, Primal, Value, vjp
from analyzer.gradient.rules.convolution import Windows
from analyzer.gradient.rules.elementwise import confined, masked, where
from analyzer.gradient.rules.indexing import scatter_add

INT64 = np.dtype(np.int64)
A = -0.75  # of the cubic kernel (Keys 1981), as GridSample has it
# Neighbours of ⌊u⌋ (of the nearest place) and their weights: row m holds the factors of (u − ⌊u⌋)ᵐ.
KERNELS = {
    "nearest": ([0], [[1.0]]),
    "linear": ([0, 1], [[1.0, 0], [-1, 1]]),
    "cubic": ([-1, 0, 1, 2], [[0, 1, 0, 0], [A, 0, -A, 0], [-2 * A, -A - 3, 2 * A + 3, A], [A, A + 2, -A - 2, -A]]),
}


class Taps:
    """Along one axis: which elements (B, P, T) a place u (B, P) takes, with what weights, and the weights' slopes."""

    def __init__(self, op: Builder, u: Value, size: Value, mode: str, padding: str = "zeros", corners: bool = False):
        offsets, factors = (np.array(v) for v in KERNELS[mode])
        start = op.Round(u) if mode == "nearest" else op.Floor(u)
        powers = op.Pow(op.Unsqueeze(op.Sub(u, start), [2]), op.constant(np.arange(len(factors)).astype(u.dtype)))
        slopes = np.zeros_like(factors)
        slopes[:-1] = factors[1:] * np.arange(1, len(factors))[:, None]
        self.weight = op.MatMul(powers, op.constant(factors.astype(u.dtype)))
        self.slope = op.MatMul(powers, op.constant(slopes.astype(u.dtype)))
        index = op.Add(op.Unsqueeze(op.cast(start, INT64), [2]), offsets.astype(np.int64))
        if padding == "zeros":
            inside = op.And(op.GreaterOrEqual(index, np.int64(0)), op.Less(index, size))
            self.weight, self.slope = (op.Mul(v, op.cast(inside, u.dtype)) for v in (self.weight, self.slope))
        elif padding == "reflection":
            index = _reflected(op, index, size, corners)
        self.index = op.Max(op.Min(index, op.Sub(size, np.int64(1))), np.int64(0))


def _reflected(op: Builder, index: Value, size: Value, corners: bool) -> Value:
    """Mirrored at the first and last element, which are repeated without `corners`."""
    width = op.Sub(size, np.int64(corners))
    period = op.Max(op.Mul(width, np.int64(2)), np.int64(1))
    turn = op.Mod(index, period)
    return op.Min(turn, op.Sub(op.Sub(period, np.int64(not corners)), turn))


class Samples:
    """y_bcp = Σ_k w_bpk x_bc,i(b,p,k): values of x (B, C, …) at P places, each from K = Π T neighbours."""

    def __init__(self, op: Builder, x: Value, axes: Sequence[Taps]) -> None:
        self.op, self.x, self.axes = op, x, axes
        rank = len(axes)
        self.weight = self._outer([t.weight for t in axes])
        sizes = [op.Gather(op.shape(x), np.int64(a)) for a in (0, *range(2, 2 + rank))]
        line = op.Range(np.int64(0), sizes[0], np.int64(1))
        index = op.Reshape(line, [-1] + [1] * (rank + 1))
        for a, taps in enumerate(axes):
            index = op.Add(op.Mul(index, sizes[1 + a]), self._along(taps.index, a))
        self.index = op.Reshape(index, [0, 0, -1])

    def _along(self, taps: Value, axis: int) -> Value:
        """(B, P, T) with T at the place of its axis among all."""
        others = [2 + a for a in range(len(self.axes)) if a != axis]
        return self.op.Unsqueeze(taps, others) if others else taps

    def _outer(self, factors: Sequence[Value]) -> Value:
        """Πₐ of one factor per axis: (B, P, K)"""
        parts = [self._along(f, a) for a, f in enumerate(factors)]
        return self.op.Reshape(functools.reduce(self.op.Mul, parts), [0, 0, -1])

    def slope(self, axis: int) -> Value:
        """∂w / ∂u of an axis: (B, P, K)"""
        return self._outer([t.slope if a == axis else t.weight for a, t in enumerate(self.axes)])

    def neighbours(self) -> Value:
        """What is weighted: (B, P, K, C)"""
        op, rank = self.op, len(self.axes)
        last = op.Transpose(self.x, perm=[0, *range(2, 2 + rank), 1])
        rows = op.Reshape(last, op.Concat(op.value([-1]), op.shape(self.x, 1, 2), axis=0))
        return op.Gather(rows, self.index)

    def values(self) -> Value:
        """y: (B, C, P)"""
        op = self.op
        sampled = op.MatMul(op.Unsqueeze(self.weight, [2]), self.neighbours())
        return op.Transpose(op.Squeeze(sampled, [2]), perm=[0, 2, 1])

    def x_bar(self, node: Primal, ct: Value) -> Value:
        """x̄ of ȳ (B, C, P)"""
        column = self.op.Unsqueeze(self.op.Transpose(ct, perm=[0, 2, 1]), [2])
        return self.put(self.weighted(node, column))

    def weighted(self, node: Primal, values: Value) -> Value:
        """What (B, P, 1 or K, C) gives to each neighbour; 0 to those without a weight."""
        op, weight = self.op, self.op.Unsqueeze(self.weight, [3])
        product = op.Mul(values, weight)
        return product if node.finite else op.Where(op.Equal(weight, 0.0), op.scalar(0, values), product)

    def put(self, spread: Value) -> Value:
        """x̄ of what each neighbour gets, (B, P, K, C)"""
        op, rank, x = self.op, len(self.axes), self.x
        channels = op.shape(x, 1, 2)
        updates = op.Reshape(spread, op.Concat(op.value([-1]), channels, axis=0))
        shape = op.Concat(op.shape(x, 0, 1), op.shape(x, 2, 2 + rank), axis=0)
        zeros = op.Expand(op.scalar(0, spread), op.Concat(op.ReduceProd(shape), channels, axis=0))
        laid = scatter_add(op, zeros, op.Reshape(self.index, [-1, 1]), updates, None)
        laid = op.Reshape(laid, op.Concat(shape, channels, axis=0))
        return op.shaped_as(op.Transpose(laid, perm=[0, 1 + rank, *range(1, 1 + rank)]), x)

    def u_bars(self, ct: Value) -> list[Value]:
        """ū of each axis, (B, P), of ȳ (B, C, P)"""
        op = self.op
        column = op.Unsqueeze(op.Transpose(ct, perm=[0, 2, 1]), [3])
        along = op.Squeeze(op.MatMul(self.neighbours(), column), [3])
        return [op.ReduceSum(op.Mul(along, self.slope(a)), [2], keepdims=0) for a in range(len(self.axes))]


@vjp("GridSample", since=16)
def grid_sample_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y_p = Σ w(u_p − i) xᵢ, u = the grid in elements   ⇒   x̄ᵢ = Σ w(u_p − i) ȳ_p, ū_p = ȳ_p Σ w′(u_p − i) xᵢ"""
    x, grid = node.inputs
    rank = op.rank(x) - 2
    places = op.Reshape(grid, [0, -1, rank])
    # The grid's last axis counts from the innermost: (x, y, …).
    axes, steps = zip(*(_grid_axis(op, node, places, a, rank - 1 - a) for a in range(rank)), strict=True)
    samples = Samples(op, x, axes)
    flat = op.Reshape(ct, [0, 0, -1])
    x_bar = samples.x_bar(node, flat) if node.needs(0) else None
    if not node.needs(1) or node.attr("mode") == "nearest":
        return x_bar, None
    bars = [op.Unsqueeze(op.Mul(u, s), [2]) for u, s in zip(samples.u_bars(flat), steps, strict=True)]
    return x_bar, op.reshape_like(op.Concat(*reversed(bars), axis=2), grid)


def _grid_axis(op: Builder, node: Primal, places: Value, axis: int, column: int) -> tuple[Taps, Value]:
    """What the places take along an axis, and how many elements 1 is in the grid: −1 and 1 are the ends of the axis."""
    corners, mode = bool(node.attr("align_corners")), node.attr("mode")
    size = op.Gather(op.shape(node.x), np.int64(2 + axis))
    width = op.cast(size, places.dtype)
    step = op.Mul(op.Sub(width, 1.0) if corners else width, 0.5)
    given = op.Add(op.Gather(places, np.int64(column), axis=2), 1.0)
    u = op.Mul(given, step) if corners else op.Sub(op.Mul(given, step), 0.5)
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return Taps(op, u, size, mode, node.attr("padding_mode"), corners), step


@vjp("AffineGrid", since=20)
def affine_grid_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y_p = θ (p, 1)   ⇒   θ̄ = Σ ȳ_p (p, 1)ᵀ; p the points of the unit grid"""
    rank = op.rank(ct) - 2
    units = np.zeros((rank + 1, rank, rank + 1), node.x.dtype)
    units[:, 0] = np.eye(rank + 1)
    sizes = op.Concat(op.value([rank + 1]), op.Slice(node.inputs[1], [1], [rank + 2]), axis=0)
    places = op.AffineGrid(op.constant(units), sizes, align_corners=node.attr("align_corners"))
    places = op.Reshape(op.Gather(places, np.int64(0), axis=rank + 1), [rank + 1, -1])
    flat = op.Transpose(op.Reshape(ct, [0, -1, rank]), perm=[0, 2, 1])
    return op.shaped_as(op.MatMul(flat, op.Transpose(places, perm=[1, 0])), node.x)


@vjp("DeformConv", since=19)
def deform_conv_vjp(op: Builder, node: Primal, ct: Value) -> tuple[Cotangent, ...]:
    """y = W c + b, c = m ⊙ x at the window's places moved by `offset`   ⇒   W̄ = ȳ cᵀ, c̄ = Wᵀ ȳ, then as for GridSample

    G groups of offsets, K places in a window of r axes, L windows: places are (N G, K L), columns (N G, C/G, K L).
    """
    x, w, offset, bias, mask = node.inputs
    windows = Windows(op, node, w)
    if windows.kernel is None or windows.pads is None:
        raise node.refuse("its window or padding is known only when the model runs")
    group, parts, taps, rank = node.attr("group"), node.attr("offset_group"), math.prod(windows.kernel), windows.rank
    count = op.ReduceProd(windows.sizes(ct))
    places = op.Reshape(offset, shape_of(op, 0, parts, taps, rank, count))
    axes = [_moved_axis(op, node, windows, ct, places, axis) for axis in range(rank)]
    samples = Samples(op, _split_channels(op, x, parts), axes)
    y_bar = op.Reshape(ct, shape_of(op, 0, group, -1, count))
    weights = op.Reshape(w, shape_of(op, group, -1, op.Mul(op.shape(w, 1, 2), np.int64(taps))))
    columns_bar = op.MatMul(op.Transpose(weights, perm=[0, 2, 1]), y_bar)
    columns_bar = op.Reshape(columns_bar, shape_of(op, -1, op.shape(samples.x, 1, 2), op.Mul(count, np.int64(taps))))
    weight = None if mask is None else op.Reshape(mask, shape_of(op, -1, 1, op.Mul(count, np.int64(taps))))
    sampled_bar = columns_bar if weight is None else op.Mul(columns_bar, weight)
    x_bar = op.reshape_like(samples.x_bar(node, sampled_bar), x) if node.needs(0) else None
    w_bar = offset_bar = mask_bar = None
    if node.needs(1) or node.needs(4):
        sampled = samples.values()
        columns = sampled if weight is None else op.Mul(sampled, weight)
        columns = op.Reshape(columns, shape_of(op, op.shape(x, 0, 1), group, -1, count))
        products = op.ReduceSum(op.MatMul(y_bar, op.Transpose(columns, perm=[0, 1, 3, 2])), [0], keepdims=0)
        w_bar = op.reshape_like(products, w)
        mask_bar = mask and op.reshape_like(op.ReduceSum(op.Mul(columns_bar, sampled), [1], keepdims=0), mask)
    if node.needs(2):
        bars = [op.Reshape(u, shape_of(op, -1, parts, taps, 1, count)) for u in samples.u_bars(sampled_bar)]
        offset_bar = op.reshape_like(op.Concat(*bars, axis=3), offset)
    b_bar = None if bias is None else op.ReduceSum(ct, [0, *range(2, 2 + rank)], keepdims=0)
    return x_bar, w_bar, offset_bar, b_bar, mask_bar


def _moved_axis(op: Builder, node: Primal, windows: Windows, ct: Value, places: Value, axis: int) -> Taps:
    """What the places of all windows take along an axis, moved by the offsets `places` (N, G, K, r, L)."""
    u = op.Add(op.Gather(places, np.int64(axis), axis=3), op.cast(_starts(op, windows, ct, axis), node.x.dtype))
    taps = math.prod(windows.kernel or ())
    u = op.Reshape(u, shape_of(op, -1, op.Mul(op.ReduceProd(windows.sizes(ct)), np.int64(taps))))
    return Taps(op, u, op.Gather(op.shape(node.x), np.int64(2 + axis)), "linear")


def _starts(op: Builder, windows: Windows, ct: Value, axis: int) -> Value:
    """p·stride + k·dilation − begin for each place k of each window p: (K, L)"""
    assert windows.kernel is not None and windows.pads is not None
    size = op.Gather(op.shape(ct), np.int64(2 + axis))
    line = op.Mul(op.Range(np.int64(0), size, np.int64(1)), np.int64(windows.strides[axis]))
    wide = op.Expand(op.Reshape(line, [-1] + [1] * (windows.rank - 1 - axis)), windows.sizes(ct))
    within = np.indices(windows.kernel)[axis].reshape(-1, 1) * windows.dilations[axis] - windows.pads[axis]
    return op.Add(op.Reshape(wide, [1, -1]), within.astype(np.int64))


def _split_channels(op: Builder, x: Value, parts: int) -> Value:
    """(N, C, …) as (N parts, C / parts, …)"""
    if parts == 1:
        return x
    sizes = op.Div(op.shape(x, 1, 2), op.value([parts]))
    return op.Reshape(x, shape_of(op, -1, sizes, op.shape(x, 2)))


# ---- Regions ----


@vjp("RoiAlign", since=10)
def roi_align_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = M_h x M_wᵀ per region, rows of M the mean of linear weights   ⇒   x̄ = Σ M_hᵀ ȳ M_w; regions are constants

    With mode="max" onnxruntime takes the largest term of the linear sums: ȳ goes to it, shared evenly at ties.
    """
    x, _, batch = node.inputs
    if node.attr("mode") != "avg":
        return _roi_max(op, node, ct)
    rows, columns = (_roi_matrix(op, node, axis) for axis in (0, 1))
    pictures = op.Range(np.int64(0), op.Gather(op.shape(x), np.int64(0)), np.int64(1))
    own = op.cast(op.Equal(op.Unsqueeze(pictures, [1, 2, 3]), op.Unsqueeze(batch, [0, 2, 3])), ct.dtype)

    def back(values: Value, rows: Value, columns: Value) -> Value:
        """The sum over regions of each picture is one product, the region's picture chosen by the columns."""
        tall = op.MatMul(op.Transpose(op.Unsqueeze(rows, [1]), perm=[0, 1, 3, 2]), values)
        wide = op.Mul(own, op.Unsqueeze(columns, [0]))
        wide = op.Reshape(wide, shape_of(op, op.shape(x, 0, 1), 1, -1, op.shape(x, 3)))
        flat = op.Reshape(op.Transpose(tall, perm=[1, 2, 0, 3]), shape_of(op, op.shape(x, 1, 3), -1))
        found = op.MatMul(flat, wide)
        if op.dim(batch, 0):
            return found
        # A level of a pyramid may have no region: onnxruntime 1.31 leaves a product over nothing as the memory was.
        some = op.Greater(op.Gather(op.shape(batch), np.int64(0)), np.int64(0))
        return op.Where(some, found, op.scalar(0, found))

    return op.shaped_as(confined(op, node, ct, back, rows, columns), x)


def _roi_samples(op: Builder, node: Primal, axis: int) -> tuple[Value, Value, Value, Value]:
    """Along an axis, of each sample in each bin of each region (R, bins, S): its place in x, whether that is inside,
    whether there is such a sample; and how many a bin of the region has, (R, 1, 1)."""
    x, rois, _ = node.inputs
    bins = node.attr("output_width" if axis else "output_height")
    legacy = node.attr("coordinate_transformation_mode", "output_half_pixel") == "output_half_pixel"
    ends = [op.Gather(rois, np.int64(i), axis=1) for i in ((0, 2) if axis else (1, 3))]
    start, end = (op.Sub(op.Mul(e, node.attr("spatial_scale")), 0.0 if legacy else 0.5) for e in ends)
    extent = op.Max(op.Sub(end, start), 1.0) if legacy else op.Sub(end, start)
    bin_size = op.Mul(extent, 1.0 / bins)
    fixed = node.attr("sampling_ratio")
    counts = op.Expand(op.scalar(fixed, x), op.Shape(bin_size)) if fixed else op.Ceil(bin_size)
    most = op.Max(op.cast(op.ReduceMax(counts, keepdims=0), INT64), np.int64(1))
    line = op.Unsqueeze(op.cast(op.Range(np.int64(0), most, np.int64(1)), x.dtype), [0, 1])
    counts = op.Max(op.Unsqueeze(counts, [1, 2]), 1.0)
    first = op.constant(np.arange(bins).astype(x.dtype).reshape(1, bins, 1))
    within = op.Add(first, op.Div(op.Add(line, 0.5), counts))
    u = op.Add(op.Unsqueeze(start, [1, 2]), op.Mul(op.Unsqueeze(bin_size, [1, 2]), within))
    width = op.cast(op.Gather(op.shape(x), np.int64(2 + axis)), x.dtype)
    inside = op.And(op.GreaterOrEqual(u, -1.0), op.LessOrEqual(u, width))
    return op.Max(op.Min(u, op.Sub(width, 1.0)), 0.0), inside, op.Less(line, counts), counts


def _roi_matrix(op: Builder, node: Primal, axis: int) -> Value:
    """M (R, bins, size) of an axis: of each region's bins, the mean over samples of max(0, 1 − |u − i|)."""
    x = node.x
    u, inside, counted, counts = _roi_samples(op, node, axis)
    share = op.Div(op.cast(op.And(inside, counted), x.dtype), counts)
    size = op.Gather(op.shape(x), np.int64(2 + axis))
    places = op.cast(op.Range(np.int64(0), size, np.int64(1)), x.dtype)
    weight = op.Relu(op.Sub(1.0, op.Abs(op.Sub(op.Unsqueeze(u, [3]), places))))
    return op.ReduceSum(op.Mul(weight, op.Unsqueeze(share, [3])), [2], keepdims=0)


def _roi_max(op: Builder, node: Primal, ct: Value) -> Value:
    """Every term w_k x_k of every sample: (R, h S_h w S_w, K, C); the largest of each bin gets ȳ w_k."""
    x, _, batch = node.inputs
    high, wide = (_roi_samples(op, node, axis) for axis in (0, 1))
    pairs = [(op.Unsqueeze(h, [3, 4]), op.Unsqueeze(w, [1, 2])) for h, w in zip(high[:3], wide[:3], strict=True)]
    grid = op.Shape(op.Add(*pairs[0]))
    places = [op.Reshape(op.Expand(u, grid), [0, -1]) for u in pairs[0]]
    sizes = [op.Gather(op.shape(x), np.int64(2 + a)) for a in (0, 1)]
    axes = [Taps(op, u, size, "linear") for u, size in zip(places, sizes, strict=True)]
    samples = Samples(op, op.Gather(x, batch), axes)
    inside = op.Unsqueeze(op.Reshape(op.Expand(op.And(*pairs[1]), grid), [0, -1]), [2])
    weight = op.Mul(samples.weight, op.cast(inside, x.dtype))
    weight = op.Unsqueeze(weight, [3])
    products = op.Mul(samples.neighbours(), weight)
    real = op.Unsqueeze(op.And(*pairs[2]), [5, 6])
    terms = op.Reshape(products, op.Concat(grid, op.Shape(products, start=2), axis=0))
    terms = op.Where(real, terms, op.scalar(-float(np.finfo(x.dtype).max), x))
    chosen = op.Equal(terms, op.ReduceMax(terms, [2, 4, 5], keepdims=1))
    ties = op.ReduceSum(op.cast(chosen, x.dtype), [2, 4, 5])
    share = op.Div(op.Unsqueeze(op.Transpose(ct, perm=[0, 2, 3, 1]), [2, 4, 5]), ties)
    given = op.Reshape(masked(op, node, chosen, share), op.Shape(products))
    spread = op.Mul(given, weight) if node.finite else where(op, op.Not(op.Equal(weight, 0.0)), op.Mul(given, weight))
    return scatter_add(op, op.zeros_like(x, ct), op.Unsqueeze(batch, [1]), samples.put(spread), None)


@vjp("MaxRoiPool")
def max_roi_pool_vjp(op: Builder, node: Primal, ct: Value) -> Cotangent:
    """y = max of each bin of each region   ⇒   x̄ = ȳ ⊙ 1[x = y] / number of ties, along one axis after the other"""
    x, rois = node.inputs
    batch = op.cast(op.Gather(rois, np.int64(0), axis=1), INT64)
    lowest = op.scalar(-float(np.finfo(x.dtype).max), x)
    rows, columns = (op.Unsqueeze(_bins(op, node, axis), [1, 4 if axis == 0 else 2]) for axis in (0, 1))
    every = op.Where(columns, op.Unsqueeze(op.Gather(x, batch), [3]), lowest)  # (R, C, H, bins, W)
    by_column = op.ReduceMax(every, [4], keepdims=0)
    every_row = op.Where(rows, op.Unsqueeze(by_column, [2]), lowest)
    chosen = op.And(rows, op.Equal(every_row, op.ReduceMax(every_row, [3], keepdims=1)))
    shared = _share(op, node, chosen, op.Unsqueeze(ct, [3]), 3)
    column_bar = op.ReduceSum(shared, [2], keepdims=0)
    chosen = op.And(columns, op.Equal(every, op.Unsqueeze(by_column, [4])))
    region_bar = op.ReduceSum(_share(op, node, chosen, op.Unsqueeze(column_bar, [4]), 4), [3], keepdims=0)
    return scatter_add(op, op.zeros_like(x, ct), op.Unsqueeze(batch, [1]), region_bar, None)


def _share(op: Builder, node: Primal, chosen: Value, ct: Value, axis: int) -> Value:
    """ȳ shared evenly among the chosen along an axis; nothing where none is."""
    count = op.ReduceSum(op.cast(chosen, ct.dtype), [axis], keepdims=1)
    return masked(op, node, chosen, op.Div(ct, op.Max(count, 1.0)))


def _bins(op: Builder, node: Primal, axis: int) -> Value:
    """Which elements of an axis are in each bin of each region: (R, bins, size)"""
    x, rois = node.inputs
    bins = node.attr("pooled_shape")[axis]
    start, end = (
        op.Floor(op.Add(op.Mul(op.Gather(rois, np.int64(i), axis=1), node.attr("spatial_scale")), 0.5))
        for i in (2 - axis, 4 - axis)
    )
    step = op.Unsqueeze(op.Mul(op.Max(op.Add(op.Sub(end, start), 1.0), 1.0), 1.0 / bins), [1])
    places = [op.constant(np.arange(i, i + bins).astype(x.dtype).reshape(1, -1)) for i in (0, 1)]
    low, high = op.Floor(op.Mul(places[0], step)), op.Ceil(op.Mul(places[1], step))
    low, high = (op.Unsqueeze(op.Add(v, op.Unsqueeze(start, [1])), [2]) for v in (low, high))
    size = op.Gather(op.shape(x), np.int64(2 + axis))
    line = op.cast(op.Range(np.int64(0), size, np.int64(1)), x.dtype)
    return op.And(op.GreaterOrEqual(line, low), op.Less(line, high))


def shape_of(op: Builder, *dims: int | Value) -> Value:
    """A shape put together from numbers, scalars and vectors."""
    parts = [op.value([d]) if isinstance(d, int) else d for d in dims]
    return op.Concat(*(op.Unsqueeze(p, [0]) if op.rank(p) == 0 else p for p in parts), axis=0)
