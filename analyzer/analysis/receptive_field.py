"""Receptive fields: which pixels of the image each unit of each tensor depends on.

The vocabulary is that of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks"
(Distill, 2019): unit i covers [−P + i·S, −P + i·S + r − 1] with size r, effective stride S and effective padding P.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import numpy as np

from analyzer.analysis import spatial
from analyzer.analysis.interpreter import interpret
from analyzer.analysis.intervals import EMPTY, INFINITE, LIMIT, STILL, Digit, Field, Path
from analyzer.errors import AnalyzerError, InputError
from analyzer.graph import Graph, Value
from analyzer.graph.nodes import known_shape
from analyzer.graph.protos import copied
from analyzer.graph.query import image_input, image_layout
from analyzer.graph.through import readers
from analyzer.images import encode, showing, write_png

Number: TypeAlias = "int | Fraction"
Gates: TypeAlias = Literal["global", "cut"]


@dataclass(frozen=True)
class ReceptiveField:
    """Which pixels a unit of a tensor depends on, per spatial axis of the image (height first, then width).

    Unit i covers the pixels [−P + i·S, −P + i·S + r − 1]; near the border part of them lies outside the image. Padding
    that repeats or mirrors pixels does not change the interval.

    Attributes:
        size: r in pixels, the largest over all units; None for an axis that is seen as a whole (or whose units have no
            common formula), and None instead of the tuple if all axes are seen as a whole.
        stride: S, pixels between neighboring units; a Fraction if units are denser than pixels; None if it is not a
            single number.
        padding: P, so that the middles of the intervals are −P + i·S + (r − 1)/2 (on average, where `affine` is
            False); None where a padding is not known.
        is_global: every axis of the image is seen as a whole.
        global_axes: the same per axis.
        exact: whether `interval` is tight; otherwise it may be wider than the true one, never narrower.
        aligned: wherever branches met, they had the same stride and the same centers.
        affine: whether the formula is exact for every unit; otherwise use `interval` (after upsampling, units have
            different phases).
        axes: the tensor's axes that correspond to positions in the image; an index has one entry for each.
        local: the receptive field with gates cut: without the statistics of normalizations, and without values that
            are pooled over the whole image and only scale the tensor (squeeze-and-excitation).
    """

    size: tuple[int | None, ...] | None
    stride: tuple[Number | None, ...] | None
    padding: tuple[Number | None, ...] | None
    is_global: bool
    global_axes: tuple[bool, ...]
    exact: bool
    aligned: bool
    affine: bool
    axes: tuple[int, ...]
    _reach: _Reach = field(repr=False, compare=False)

    @property
    def local(self) -> ReceptiveField:
        return _report(self._reach.field, "cut")

    @property
    def extents(self) -> tuple[int | None, ...]:
        """Pixels of the image per axis, None where not fixed."""
        return self._reach.field.extents

    def interval(self, index: int | Sequence[int], clip: bool = False) -> tuple[tuple[int, int] | None, ...]:
        """Pixels start … stop − 1 that the unit at `index` depends on, per axis of the image.

        Args:
            index: position along `axes`; for tokens their number in the sequence.
            clip: cut at the borders of the image.

        Returns:
            (start, stop) per axis; (0, size of the image) for an axis seen as a whole, None where that size is not
            fixed; (0, 0) for a unit that depends on no pixel.
        """
        given = (index,) if isinstance(index, int | np.integer) else tuple(index)
        if len(given) != len(self.axes):
            raise InputError(
                f"the index must have {len(self.axes)} entries, not {len(given)}",
                f"one for each of the tensor's axes {list(self.axes)}",
            )
        hulls = self._reach.at(dict(zip(self.axes, given, strict=True)))
        return tuple(_half_open(h, extent, clip) for h, extent in zip(hulls, self.extents, strict=True))

    def center(self, index: int | Sequence[int]) -> tuple[float, ...]:
        """The middle of `interval(index)` in pixels, per axis; NaN where an axis has none."""
        middles = ((s[0] + s[1] - 1) / 2 if s is not None else math.nan for s in self.interval(index))
        return tuple(middles)


def _half_open(hull: tuple[int, int], extent: int | None, clip: bool) -> tuple[int, int] | None:
    low, high = hull
    if low >= EMPTY // 2:
        return 0, 0
    if low <= -INFINITE // 2 or high >= INFINITE // 2:
        return None if extent is None else (0, extent)
    if clip and extent is not None:
        return min(max(low, 0), extent), max(min(high + 1, extent), 0)
    return low, high + 1


@dataclass(eq=False, repr=False)
class ReceptiveFields(Mapping[str, ReceptiveField]):
    """Receptive field by tensor name, for every tensor that depends on the image, in the order of the graph.

    In a notebook they show themselves.

    Attributes:
        input: the tensor the pixels are counted in.
        input_axes: its spatial axes.
        gates: as for `receptive_field`.
        unknown: tensor → the nodes that hide its receptive field, as "Op (node 'name')", with the reason after a colon
            where there is one.
        draw: makes the figure, of the fields and the arguments of `figure`.
    """

    input: str
    input_axes: tuple[int, ...]
    unknown: dict[str, tuple[str, ...]]
    _fields: Mapping[str, Field]
    gates: Gates
    _known: dict[str, ReceptiveField] = field(default_factory=dict)
    draw: Callable[..., np.ndarray] | None = None

    def __getitem__(self, name: str) -> ReceptiveField:
        if name not in self._known:
            self._known[name] = _report(self._fields[name], self.gates)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"<receptive fields of {len(self)} tensors in {self.input!r}, {len(self.unknown)} unknown>"

    def figure(
        self, layer: str | Sequence[str] | None = None, at: tuple[int, ...] | None = None, picture: Any = None
    ) -> np.ndarray:
        """The field of a unit of each layer, and how many units see each pixel, as `receptive-field -o` draws them:
        (H, W, 3) uint8 RGB.

        Args:
            layer: tensor names, node names or globs; up to 12 feature maps, evenly over the depth, unless given.
            at: position (y, x) of the unit in its layer; the middle one unless given.
            picture: to draw on, in whatever form `analyzer.explain` takes; blank unless given.

        Raises:
            InputError: the size of the picture is not known, or there is no such position.
            NotFoundError: no such layer. UnsupportedError: a layer has no channels over space, or the input is no
                picture.
        """
        if self.draw is None:
            raise InputError("the model of these fields is not known", "use analyzer.receptive_field")
        return self.draw(self, layer, at, picture)

    def save(self, path: str | os.PathLike[str], **drawing: Any) -> None:
        """Write the figure (.png, .jpg or .webp).

        Args:
            drawing: as for `figure`.
        """
        write_png(path, self.figure(**drawing))

    def _thumbnail(self) -> np.ndarray | None:
        """The figure, where there is one."""
        try:
            return self.figure()
        except AnalyzerError:
            return None

    def _repr_png_(self) -> bytes | None:
        picture = self._thumbnail()
        return None if picture is None else encode(picture)

    def _repr_html_(self) -> str:
        """A row per receptive field that differs from the one before."""
        rows, last = list[tuple[str, ...]](), None
        for name, one in self.items():
            said = tuple(_words(each) for each in (one.size, one.stride, one.padding))
            if said != last:
                rows.append((name, *said))
            last = said
        return showing.page(repr(self), self._thumbnail(), rows, ("from this tensor on", "size", "stride", "padding"))


def _words(values: tuple[Number | None, ...] | None) -> str:
    """«7×7»; «all» where an axis is seen as a whole."""
    if values is None:
        return "all"
    return "×".join("all" if value is None else str(value) for value in values)


def receptive_field(
    model: Any,
    wrt: str | None = None,
    gates: Gates = "global",
    axes: Sequence[int] | None = None,
    input_shapes: dict[str, tuple[int, ...]] | None = None,
) -> ReceptiveFields:
    """The receptive field of every tensor; `analyzer.receptive_field`, which also draws it, says what is what."""
    if gates not in ("global", "cut"):
        raise InputError(f"gates must be 'global' or 'cut', not {gates!r}")
    graph = model if isinstance(model, Graph) else Graph.read(model, input_shapes=input_shapes)
    image = image_input(graph) if wrt is None else graph[wrt]
    chosen = _spatial_axes(graph, image) if axes is None else tuple(a % len(known_shape(image)) for a in axes)
    found = interpret(graph, spatial.SPATIAL, {image.name: Field.image(known_shape(image), chosen)})
    single = of_one_picture(graph) if found.unknown else None
    if single is not None:
        image = single[image.name]
        found = interpret(single, spatial.SPATIAL, {image.name: Field.image(known_shape(image), chosen)})
    unknown = {name: tuple(map(str, hidden)) for name, hidden in found.unknown.items()}
    return ReceptiveFields(image.name, chosen, unknown, found.values, gates)


def _spatial_axes(graph: Graph, image: Value) -> tuple[int, ...]:
    """(2, 3) of NCHW, (1, 2) of NHWC, likewise for other ranks; all but the first where nothing tells."""
    if image.shape is None:
        raise InputError(
            f"{graph.name}: the rank of {image.name!r} is not known",
            "set its shape, for example --shape input:1x3x224x224",
        )
    rank = len(image.shape)
    if rank == 4:
        layout = image_layout(graph, image)
        return layout.index("H"), layout.index("W")
    if rank == 5:
        return (1, 2, 3) if image.shape[4] in (1, 3, 4) and image.shape[1] not in (1, 3, 4) else (2, 3, 4)
    if rank == 3 and any(n.op in ("Conv", "MaxPool", "AveragePool") for n in readers(image)):
        return (2,)
    return tuple(range(1, rank)) or (0,)


def of_one_picture(graph: Graph) -> Graph | None:
    """The graph for a batch of one, where the file leaves the batch open: then more sizes are known before it runs."""
    if not any(v.shape and isinstance(v.shape[0], str) for v in graph.inputs):
        return None
    source = replace(graph.source, proto=copied(graph.source.proto))
    for value in source.proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) > 1 and not dims[0].dim_value:
            dims[0].dim_value = 1
    return Graph.read(source)


def changes(fields: Mapping[str, ReceptiveField], names: Sequence[str]) -> list[str]:
    """The last tensor of each run with the same receptive field."""
    kept = []
    for i, name in enumerate(names):
        following = fields[names[i + 1]] if i + 1 < len(names) else None
        now = fields[name]
        if following is None or (now.size, now.stride, now.is_global) != (
            following.size,
            following.stride,
            following.is_global,
        ):
            kept.append(name)
    return kept


# ---- From paths to numbers ----


@dataclass(frozen=True)
class _Reach:
    """A Field with the gates that count."""

    field: Field
    gates: Gates

    def paths(self, kept: Container[Digit] = ()) -> Iterator[list[Path]]:
        """The paths along each axis of the image, channels taken together but for the digits in `kept`."""
        for paths, extent in zip(self.field.paths, self.field.extents, strict=True):
            counted = [p for p in paths if self.gates == "global" or not p.gate] or list(paths)
            yield [
                p.without([d for d, w in p.walks.items() if not w.space and d not in kept], extent)[0] for p in counted
            ]

    def axes(self) -> tuple[int, ...]:
        """The tensor's axes that walk over the image, whatever else they see."""
        walking = {d for paths in self.field.paths for p in paths for d in p.walking}
        return tuple(a for a, digits in enumerate(self.field.axes) if not walking.isdisjoint(digits))

    def at(self, index: Mapping[int, int]) -> list[tuple[int, int]]:
        """The hull that one unit sees along each axis of the image."""
        place: dict[Digit, int] = {}
        for axis, position in index.items():
            rest = int(position)
            for digit in reversed(self.field.axes[axis]):
                outermost = digit is self.field.axes[axis][0]
                if outermost and digit.count is not None and not 0 <= rest < digit.count:
                    raise InputError(f"unit {position} is out of range on axis {axis} of this tensor")
                rest, place[digit] = (0, rest) if outermost else divmod(rest, digit.count or 1)
        return [_hull_at(paths, place) for paths in self.paths(kept=place)]


def _hull_at(paths: Sequence[Path], place: Mapping[Digit, int]) -> tuple[int, int]:
    low, high = EMPTY, -EMPTY
    for path in paths:
        ends = [walk.at(place.get(digit, 0)) for digit, walk in path.walks.items()]
        if not any(e[0] >= EMPTY // 2 for e in ends):
            low = min(low, path.lo + sum(e[0] for e in ends))
            high = max(high, path.hi + sum(e[1] for e in ends))
    return low, high


@dataclass(frozen=True)
class _Line:
    """r, S and P along one axis of the image."""

    size: int | None
    stride: Number | None = None
    padding: Number | None = None
    affine: bool = True


def _report(found: Field, gates: Gates) -> ReceptiveField:
    reach = _Reach(found, gates)
    lines = [_line(paths, extent) for paths, extent in zip(reach.paths(), found.extents, strict=True)]
    everywhere = tuple(line.size is None and line.affine for line in lines)
    none = all(everywhere)
    return ReceptiveField(
        size=None if none else tuple(line.size for line in lines),
        stride=None if none else tuple(line.stride for line in lines),
        padding=None if none else tuple(line.padding for line in lines),
        is_global=none,
        global_axes=everywhere,
        exact=found.exact,
        aligned=found.aligned,
        affine=all(line.affine for line in lines),
        axes=reach.axes(),
        _reach=reach,
    )


def _line(paths: Sequence[Path], extent: int | None) -> _Line:
    """Size, stride and padding of the hull of `paths`, over all phases of their units."""
    if any(p.unbounded for p in paths):
        return _Line(None)
    digits = list(dict.fromkeys(d for p in paths for d in p.walks))
    slopes = {d: {p.walks.get(d, STILL).slope for p in paths} for d in digits}
    phases = {d: _phases(d, slopes[d], paths) for d in digits}
    counts = [phases[d] for d in digits]
    if any(c is None for c in counts) or math.prod(c for c in counts if c) > LIMIT:
        return _Line(None, affine=False)
    places = (dict(zip(digits, i, strict=True)) for i in itertools.product(*(range(c or 0) for c in counts)))
    hulls = [h for h in (_hull_at(paths, place) for place in places) if h[0] < EMPTY // 2]
    if not hulls:
        return _Line(0, affine=False)
    still = all(not slope for values in slopes.values() for slope in values)
    covered = still and extent is not None and all(low <= 0 and high >= extent - 1 for low, high in hulls)
    if covered or any(low <= -INFINITE // 2 for low, _ in hulls):
        return _Line(None)
    slack = max(p.slack for p in paths)
    size = max(high - low + 1 for low, high in hulls) - slack
    steady = {d: next(iter(s)) for d, s in slopes.items() if len(s) == 1 and None not in s}
    if len(steady) < len(digits) or not steady:
        return _Line(size, affine=False)
    moving = [(abs(slope), i) for i, slope in enumerate(steady[d] or Fraction(0) for d in digits) if slope]
    finest = digits[min(moving, default=(0, 0))[1]]
    stride = steady[finest] or Fraction(0)
    row = [_hull_at(paths, {finest: i}) for i in range(phases[finest] or 1)]
    middles = [Fraction(low + high, 2) - i * stride for i, (low, high) in enumerate(row) if low < EMPTY // 2]
    padding = Fraction(size - 1, 2) - sum(middles, Fraction(0)) / len(middles)
    affine = not slack and math.prod(c or 1 for c in counts) == 1
    return _Line(size, _plain(stride), None if slack else _plain(padding), affine)


def _phases(digit: Digit, slopes: set[Fraction | None], paths: Sequence[Path]) -> int | None:
    """After how many indices along `digit` the intervals repeat, shifted; its size where they do not."""
    if len(slopes) == 1 and None not in slopes:
        return math.lcm(*(len(p.walks.get(digit, STILL).lo) for p in paths))
    return digit.count


def _plain(value: Fraction) -> Number:
    return int(value) if value.denominator == 1 else value
