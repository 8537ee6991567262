"""Questions about a graph: where the logits are, which tensors are feature maps, how their axes are laid out.

A `Layout` says what the axes of a feature map mean. Axes are followed from the image through the graph by a small
table of transfer functions; where they are taken apart (windows, attention heads), `axes` follows the parts, and where
that trail is lost, shapes pick it up again.
"""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import onnx

from analyzer.errors import NotFoundError, UnsupportedError, suggest
from analyzer.graph.attention import attentions
from analyzer.graph.axes import Axes, Layout, axes_of, follow, layout_of, unmerged
from analyzer.graph.bodies import all_nodes
from analyzer.graph.ir import Graph, Node, Value, reads
from analyzer.graph.normalize import lookup
from analyzer.graph.through import KEEPING, is_transparent, readers

# ---- Reachability ----


_SIZES_ONLY = ("Shape", "Size")


def ancestors(graph: Graph, names: Iterable[str]) -> set[str]:
    """All tensors whose values `names` depend on, themselves included; a dependence on sizes only does not count."""
    found = set(names)
    for node in reversed(graph.nodes):
        if node.op not in _SIZES_ONLY and any(o.name in found for o in node.outputs):
            found |= reads(node)
    return found


def descendants(graph: Graph, names: Iterable[str]) -> set[str]:
    """All tensors whose values depend on `names`, themselves included; a dependence on sizes only does not count."""
    found = set(names)
    for node in graph.nodes:
        if node.op not in _SIZES_ONLY and not found.isdisjoint(reads(node)):
            found.update(o.name for o in node.outputs if o.name)
    return found


# ---- Inputs ----


def image_input(graph: Graph) -> Value:
    """The input that holds the image: the first with four axes, else the first of the highest rank."""
    if not graph.inputs:
        raise UnsupportedError(f"{graph.name}: the model has no inputs")
    ranked = [i for i in graph.inputs if i.shape is not None and len(i.shape) == 4]
    return ranked[0] if ranked else max(graph.inputs, key=lambda i: len(i.shape or ()))


def image_layout(graph: Graph, image: Value) -> str:
    """ "NCHW" or "NHWC": by the axis with 1, 3 or 4 channels, else by what the first consumers do with it."""
    shape = image.shape or []
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


# ---- Quantisation ----

_QUANTISED = {"DequantizeLinear", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeLinear",
              "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulInteger16", "MatMulNBits", "MatMulBnb4",
              "MatMulFpQ4", "GatherBlockQuantized"}  # fmt: skip


def is_quantised(proto: onnx.ModelProto) -> bool:
    """Whether a node of the file, of a body in it or of a function of it computes with quantised numbers."""
    nodes = [*all_nodes(proto.graph), *(n for f in proto.functions for n in f.node)]
    return any(n.op_type in _QUANTISED or n.op_type.startswith(_QUANTISED_NAMES) for n in nodes)


_QUANTISED_NAMES = ("QuantizeLinear", "QLinear", "QGemm", "QAttention", "QEmbed", "QMoE", "QOrdered")


def quantisation(graph: Graph, output: Value) -> tuple[float, float]:
    """Zero point and scale of what `output` holds; 0 and 1 where it is not quantised as a whole."""
    node = graph.producer(output)
    while node is not None and not node.domain and node.op in ("Identity", *_KEEPING_ORDER):
        node = graph.producer(node.inputs[0])
    if node is None or node.op != "QuantizeLinear" or node.domain:
        return 0.0, 1.0
    known = [graph.constant(i) for i in node.inputs[1:] if i.name]
    if not known or any(k is None or k.size != 1 for k in known):
        return 0.0, 1.0
    scale, *zero = (float(k.item()) for k in known if k is not None)
    return (zero[0] if zero else 0.0), scale


# ---- Logits ----

_SQUASHING = {"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid"}
_KEEPING_ORDER = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Logits:
    """The scores before the last squashing function, and what was stripped on the way to them (operator names)."""

    value: Value
    stripped: tuple[str, ...]


def logits(graph: Graph, output: Value) -> Logits:
    """The floating-point scores behind `output`: before Softmax, LogSoftmax or Sigmoid where one ends the graph.

    Reshaping, casting and (de)quantising after them keep the order of the classes and are passed through.
    """
    value, stripped = output, list[str]()
    best = output
    while True:
        node = graph.producer(value)
        if node is None or node.domain:
            break
        if node.op in _SQUASHING:
            best, value = node.inputs[0], node.inputs[0]
            stripped.append(node.op)
            break
        if not is_transparent(node, _KEEPING_ORDER):
            break
        value = node.inputs[0]
        if str(output.dtype) not in _FLOAT_NAMES and str(value.dtype) in _FLOAT_NAMES and best is output:
            best = value
    return Logits(best, tuple(stripped))


_FLOAT_NAMES = {"float16", "float32", "float64", "16"}

_MOVING = KEEPING | {*_KEEPING_ORDER, "Transpose", "Slice", "Gather", "Split", "Concat"}


def output_quantisers(graph: Graph, names: Iterable[str]) -> list[Node]:
    """The QuantizeLinear nodes between tensors and the last layers that compute them, the nearest first.

    Numbers that only move, squashing functions, the addition of a bias and what was appended to the model are passed.
    """
    own = {id(n) for n in graph.forward_nodes()}
    found: dict[int, Node] = {}
    waiting, seen = [graph[n] for n in names], set[str]()
    while waiting:
        value = waiting.pop(0)
        node = graph.producer(value)
        if node is None or value.name in seen:
            continue
        seen.add(value.name)
        if node.op == "QuantizeLinear" and not node.domain and id(node) in own:
            found[id(node)] = node
        if id(node) not in own:
            waiting += [i for i in node.inputs if i.name]
        elif node.domain:
            continue
        elif node.op in _MOVING | _SQUASHING:
            waiting += node.inputs if node.op == "Concat" else node.inputs[:1]
        elif node.op == "Add" and any(graph.constant(i) is not None for i in node.inputs):
            waiting += [i for i in node.inputs if graph.constant(i) is None]
    return list(found.values())


# ---- Layouts ----


_SPACE = {3: "NCW", 4: "NCHW", 5: "NCDHW"}
_WINDOWED = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool",
             "LRN", "InstanceNormalization", "GroupNormalization", "ConvInteger", "DepthToSpace",
             "SpaceToDepth", "BatchNormalization"}  # fmt: skip
_NORMALISING = {"BatchNormalization", "LRN", "InstanceNormalization", "GroupNormalization"}  # axes stay as they are


def layouts(graph: Graph) -> dict[str, Layout]:
    """The layout of every tensor the image reaches, as far as it can be told."""
    return _followed(graph)[0]


def merged_layouts(graph: Graph) -> dict[str, Layout]:
    """The layout, NLC, of tensors in which batch and tokens share an axis, (N · L, C), once they are apart."""
    found = {name: unmerged(axes) for name, axes in _followed(graph)[1].items()}
    return {name: layout for name, layout in found.items() if layout is not None}


def _followed(graph: Graph) -> tuple[dict[str, Layout], dict[str, Axes]]:
    """Layouts, and the axes of tensors whose layout is in parts."""
    found: dict[str, Layout] = {}
    image = image_input(graph)
    rank = len(image.shape or ())
    if rank == 4:
        found[image.name] = Layout(image_layout(graph, image), _sizes(image, image_layout(graph, image)))
    seen = _Seen((image.shape or [None])[0])
    reach = descendants(graph, [image.name])
    parts: dict[str, Axes] = {}
    for node in graph.nodes:
        for output in node.outputs:
            if not output.name or output.shape is None:
                continue
            layout = _transfer(graph, node, output, found, parts, seen, reach)
            if layout is not None:
                found[output.name] = layout
                seen.add(layout)
    return found, parts


@dataclass
class _Seen:
    """What is known of the model so far: its batch, the grids of its maps and the tokens around grids."""

    batch: Any
    grids: list[tuple[int, ...]] = field(default_factory=list)
    tokens: dict[int, Layout] = field(default_factory=dict)

    def add(self, layout: Layout) -> None:
        sizes: Any = layout.grid
        if len(sizes) != 2 or not all(isinstance(s, int) and s > 1 for s in sizes):
            return
        if sizes not in self.grids:
            self.grids.append(sizes)
        if layout.prefix or layout.suffix:
            self.tokens[layout.prefix + math.prod(sizes) + layout.suffix] = replace(layout, axes="NLC")


def _sizes(value: Value, axes: str) -> tuple[int | None, ...]:
    return tuple(d if isinstance(d, int) else None for a, d in zip(axes, value.shape, strict=False) if a in "DHW")


def _transfer(
    graph: Graph,
    node: Node,
    output: Value,
    found: dict[str, Layout],
    parts: dict[str, Axes],
    seen: _Seen,
    reach: set[str],
) -> Layout | None:
    if node.op in _STATES:
        return _repeated(node, output, found, seen)
    given = [(i, found[i.name]) for i in node.inputs if i.name in found]
    if node.op in _NORMALISING and (node.inputs[0].name in found or node.inputs[0].name in parts):
        if node.inputs[0].name in parts:
            parts[output.name] = parts[node.inputs[0].name]
        return found.get(node.inputs[0].name)
    if node.op in _WINDOWED and len(output.shape) in _SPACE:
        axes = _SPACE[len(output.shape)]
        if _sees_one_position(graph, node) and _stranger(node.inputs[0], axes, found):
            return None
        return Layout(axes, _sizes(output, axes))
    layout = _AXES.get(node.op, _elementwise)(graph, node, output, given) if given else None
    if layout is not None:
        return layout
    known = [parts[i.name] if i.name in parts else _parts(found.get(i.name), i) for i in node.inputs]
    apart = follow(graph, node, output, known)
    if apart is not None:
        parts[output.name] = apart
        return layout_of(apart)
    return _by_shape(output, seen) if given else _regained(node, output, seen, reach)


def _parts(layout: Layout | None, value: Value) -> Axes | None:
    return None if layout is None else axes_of(layout, value.shape)


_STATES = {"If": None, "Loop": 2, "Scan": 0}  # operators with bodies, and the first input that is a state


def _repeated(node: Node, output: Value, found: dict[str, Layout], seen: _Seen) -> Layout | None:
    """A state that keeps its shape from step to step keeps its layout; else shapes tell."""
    first = _STATES[node.op]
    index = next(i for i, o in enumerate(node.outputs) if o is output)
    if first is not None and first + index < len(node.inputs):
        state = node.inputs[first + index]
        if state.name in found and state.shape == output.shape:
            return found[state.name]
    return None if reads(node).isdisjoint(found) else _by_shape(output, seen)


def _regained(node: Node, output: Value, seen: _Seen, reach: set[str]) -> Layout | None:
    """Tokens behind attention heads or a merged batch: a Reshape to (N, L, C) whose L tokens are a grid seen before.

    L was an axis of what is reshaped: tokens put together from several axes may stand in another order.
    """
    if node.op != "Reshape" or output.name not in reach or len(output.shape) != 3:
        return None
    if output.shape[0] != seen.batch or output.shape[1] not in (node.inputs[0].shape or []):
        return None
    layout = _by_shape(output, seen)
    return layout if layout is not None and layout.grid in seen.grids else None


def _sees_one_position(graph: Graph, node: Node) -> bool:
    """Whether each output depends on one position of its input only: a 1×1 convolution, a normalisation."""
    if node.op not in _CONVOLUTIONS:
        return node.op in ("BatchNormalization", "LRN")
    kernel = node.attrs.get("kernel_shape") or (node.inputs[1].shape or [])[2:]
    return all(k == 1 for k in kernel)


_CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvInteger")


def _stranger(value: Value, axes: str, found: dict[str, Layout]) -> bool:
    """Whether the trail to `value` is lost and no map before it is of its size: 4 × 2100 box sides of a detector."""
    if value.name in found or value.shape is None:
        return False
    return _sizes(value, axes) not in {layout.grid for layout in found.values()}


Given = list[tuple[Value, Layout]]


def _elementwise(graph: Graph, node: Node, output: Value, given: Given) -> Layout | None:
    """An output of the same rank, and of the same size in each spatial axis, keeps the axes of its input."""
    for value, layout in given:
        if len(layout.axes) == len(output.shape):
            spatial = [output.shape[i] for i in layout.spatial]
            if "L" in layout.axes and list(spatial) != [value.shape[i] for i in layout.spatial]:
                return None
            grid = layout.grid if "L" in layout.axes else _sizes(output, layout.axes)
            return replace(layout, grid=grid)
    return None


def _transpose(graph: Graph, node: Node, output: Value, given: Given) -> Layout | None:
    layout = given[0][1]
    perm = node.attrs.get("perm") or list(range(len(layout.axes)))[::-1]
    return replace(layout, axes="".join(layout.axes[p] for p in perm))


def _reshape(graph: Graph, node: Node, output: Value, given: Given) -> Layout | None:
    """Space flattened to tokens, tokens put back into space, and axes of size 1 that come or go."""
    value, layout = given[0]
    old, new = list(value.shape), list(output.shape)
    if len(old) == len(new) and old == new:
        return layout
    space = [old[i] for i in layout.spatial]
    total = _product(space)
    if "L" not in layout.axes and len(layout.spatial) > 1 and len(new) == len(old) - len(layout.spatial) + 1:
        at = layout.spatial[0]
        if layout.spatial == tuple(range(at, at + len(space))) and (new[at] == total or new[at] is None):
            axes = layout.axes[:at] + "L" + layout.axes[at + len(space) :]
            return Layout(axes, tuple(d if isinstance(d, int) else None for d in space))
    if "L" in layout.axes and layout.tokens == slice(0, None) and len(new) == len(old) + 1 and len(layout.grid) == 2:
        at = layout.axes.index("L")
        if tuple(new[at : at + 2]) == layout.grid:
            return Layout(layout.axes[:at] + "HW" + layout.axes[at + 1 :], layout.grid)
    return None


def _product(sizes: Iterable[Any]) -> int | None:
    sizes = list(sizes)
    return math.prod(sizes) if all(isinstance(s, int) for s in sizes) else None


def _matmul(graph: Graph, node: Node, output: Value, given: Given) -> Layout | None:
    """A product with a weight mixes the last axis only; a product of two activations loses the trail."""
    value, layout = given[0]
    if len(given) == 2 or value is not node.inputs[0] or len(output.shape) != len(layout.axes):
        return None
    return layout if layout.axes.endswith("C") else None


def _concat(graph: Graph, node: Node, output: Value, given: Given) -> Layout | None:
    value, layout = given[0]
    axis = node.attrs["axis"] % len(layout.axes)
    if layout.axes[axis] != "L":
        return _elementwise(graph, node, output, given)
    index = next(i for i, v in enumerate(node.inputs) if v is value)
    sizes: list[Any] = [v.shape[axis] if v.shape is not None else None for v in node.inputs]
    before, after = sizes[:index], sizes[index + 1 :]
    if not all(isinstance(size, int) for size in before + after) or sum("L" in known.axes for _, known in given) > 1:
        return None
    return replace(layout, prefix=layout.prefix + sum(before), suffix=layout.suffix + sum(after))


def _slice(graph: Graph, node: Node, output: Value, given: Given) -> Layout | None:
    """Cutting off tokens before or after the grid leaves the grid; cutting space leaves space."""
    value, layout = given[0]
    if "L" not in layout.axes:
        return _elementwise(graph, node, output, given)
    at = layout.axes.index("L")
    total, left = value.shape[at], output.shape[at]
    if total == left:
        return layout
    known = [graph.constant(i) if i.name else None for i in node.inputs[1:4]]
    starts, ends, axes = (*known, None, None)[:3]
    if starts is None or ends is None or not isinstance(total, int) or not isinstance(left, int):
        return None
    along = list(range(len(starts))) if axes is None else [int(a) % len(layout.axes) for a in axes]
    first = range(total)[int(starts[along.index(at)]) :].start
    prefix, suffix = layout.prefix - first, layout.suffix - (total - first - left)
    return replace(layout, prefix=prefix, suffix=suffix) if prefix >= 0 and suffix >= 0 else None


def _squeeze(graph: Graph, node: Node, output: Value, given: Given) -> Layout | None:
    value, layout = given[0]
    if len(node.inputs) > 1:
        known = graph.constant(node.inputs[1])
        if known is None:
            return None
        gone = {int(a) % len(layout.axes) for a in known}
    else:
        gone = {i for i, d in enumerate(value.shape) if d == 1}
    axes = "".join(a for i, a in enumerate(layout.axes) if i not in gone)
    return replace(layout, axes=axes, grid=layout.grid if "L" in axes else _sizes(output, axes))


def _unsqueeze(graph: Graph, node: Node, output: Value, given: Given) -> Layout | None:
    return None


def _reduce(graph: Graph, node: Node, output: Value, given: Given) -> Layout | None:
    layout = given[0][1]
    known = graph.constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else None
    axes = [int(a) % len(layout.axes) for a in known] if known is not None else list(node.attrs.get("axes") or [])
    if not axes:
        axes = list(range(len(layout.axes)))
    if node.attrs.get("keepdims", 1):
        return Layout(layout.axes, _sizes(output, layout.axes)) if "L" not in layout.axes else None
    kept = "".join(a for i, a in enumerate(layout.axes) if i not in axes)
    return Layout(kept, _sizes(output, kept)) if "L" not in kept else replace(layout, axes=kept)


def _lost(graph: Graph, node: Node, output: Value, given: Given) -> Layout | None:
    return None


def _by_shape(output: Value, seen: _Seen) -> Layout | None:
    """(N, L, C) or (N, h, w, C) whose space is a grid seen before, or a half of it (patch merging)."""
    shape, grids = output.shape, seen.grids
    if len(shape) > 2 and isinstance(shape[0], int) and isinstance(seen.batch, int) and shape[0] != seen.batch:
        return None  # windows, or heads, along the first axis
    candidates = [*grids, *((-(-h // 2), -(-w // 2)) for h, w in grids)]
    if len(shape) == 3 and isinstance(shape[1], int) and isinstance(shape[2], int):
        for grid in reversed(candidates):
            if shape[1] == math.prod(grid) and shape[1] > 1:
                return Layout("NLC", grid)
        if shape[1] in seen.tokens:
            return seen.tokens[shape[1]]
        for grid in reversed(grids[-4:]):
            extra = shape[1] - math.prod(grid)
            if 0 < extra <= 8 and math.prod(grid) > 8:
                return Layout("NLC", grid, extra)
    if len(shape) == 4 and all(isinstance(d, int) for d in shape[1:]):
        for grid in reversed(candidates):
            if tuple(shape[1:3]) == grid:
                return Layout("NHWC", grid)
            if tuple(shape[2:]) == grid:
                return Layout("NCHW", grid)
    return None


_AXES: dict[str, Callable[[Graph, Node, Value, Given], Layout | None]] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Gemm": _lost,
    "Einsum": _lost,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _elementwise,
    "Gather": _lost,
    "GatherND": _lost,
    "GatherElements": _lost,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "ReduceMean": _reduce,
    "ReduceMax": _reduce,
    "ReduceSum": _reduce,
    "ReduceL2": _reduce,
    "ReduceMin": _reduce,
    "Shape": _lost,
    "TopK": _lost,
    "ArgMax": _lost,
    "LSTM": _lost,
    "GRU": _lost,
}

# ---- Feature maps ----


@dataclass(frozen=True)
class FeatureMap:
    """A tensor with channels over space."""

    value: Value
    layout: Layout
    node: Node | None

    @property
    def name(self) -> str:
        return str(self.value.name)

    @property
    def size(self) -> tuple[int | None, ...]:
        """Sizes in space, (h, w) for tokens."""
        return self.layout.grid

    @property
    def channels(self) -> int | None:
        size = self.value.shape[self.layout.channel]
        return size if isinstance(size, int) else None


def single_batch(inputs: Iterable[Value]) -> dict[str, tuple[int, ...]]:
    """Shapes with a batch of 1 for the inputs of which only the batch is open."""
    return {
        value.name: (1, *value.shape[1:])
        for value in inputs
        if value.shape and not isinstance(value.shape[0], int) and all(isinstance(d, int) for d in value.shape[1:])
    }


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


def map_of_open_sizes(graph: Graph, known: FeatureMap) -> FeatureMap:
    """The feature map of a graph with open sizes that `known` is where they are fixed.

    Raises:
        UnsupportedError: it is a grid of tokens whose height and width are open.
    """
    value, layout = graph[known.name], known.layout
    own = layouts(graph).get(value.name)
    if own is not None and own.is_map and own.axes == layout.axes:
        layout = own
    elif any(not isinstance(d, int) for i in graph.inputs for d in (i.shape or [None])[1:]):
        if "L" in layout.axes or value.shape is None:
            raise UnsupportedError(f"{known.name!r} is a grid of tokens whose height and width are open")
        grid = tuple(d if isinstance(d, int) else None for d in (value.shape[a] for a in layout.spatial))
        layout = Layout(layout.axes, grid, layout.prefix)
    return FeatureMap(value, layout, graph.producer(value))


def _channels_read(graph: Graph, image: Value) -> int:
    for node in _first_spatial(graph, image):
        shape = node.inputs[1].shape if node.op == "Conv" else None
        if shape and isinstance(shape[1], int):
            return int(shape[1] * node.attrs.get("group", 1))
    return 3


def feature_maps(graph: Graph, target: Value | None = None) -> list[FeatureMap]:
    """Every tensor between the image and `target` (the outputs when None) that has channels over space, in order."""
    found = layouts(graph)
    image = image_input(graph)
    reach = descendants(graph, [image.name])
    needed = ancestors(graph, [target.name] if target is not None else [o.name for o in graph.outputs])
    maps = []
    for node in graph.forward_nodes():
        for output in node.outputs:
            layout = found.get(output.name)
            if layout is None or not layout.is_map or output.name not in reach or output.name not in needed:
                continue
            if all(size == 1 for size in layout.grid) or str(output.dtype) not in _FLOAT_NAMES:
                continue
            if layout.axes[0] != "N" and "N" in layout.axes:
                continue
            maps.append(FeatureMap(output, layout, node))
    return maps


def _unknown_operators(graph: Graph) -> list[str]:
    """Operators that no schema describes, with the first node of each."""
    found: dict[str, str] = {}
    for node in graph.forward_nodes():
        domain = node.domain or ""
        if lookup(node.op, graph.versions.get(domain, 1), domain) is None:
            found.setdefault(f"{domain}::{node.op}" if domain else node.op, node.name)
    return [f"{op} (node {name!r})" for op, name in found.items()]


def default_layer(graph: Graph, target: Value) -> FeatureMap:
    """The feature map to explain `target` by, where the user names none.

    The last one that all later feature maps depend on: the map in front of the pooling of a CNN, the last map of the
    backbone of a detector. Where a transformer reads its answer from a class token, the other tokens behind the last
    attention have no influence, so the map that the last attention reads is taken. Where the target is a map itself
    (a segmenter), the last one of the coarsest maps that a convolution reads.

    Raises:
        UnsupportedError: the target depends on no feature map.
    """
    maps = feature_maps(graph, target)
    axes = sum(a in "DHW" for a in image_layout(graph, image_input(graph)) or "")
    maps = [m for m in maps if len(m.size) == axes] or maps  # what a recurrent layer reads has lost the height
    if not maps and (strange := _unknown_operators(graph)):
        raise UnsupportedError(
            f"{graph.name}: no feature map is known between the input and {target.name!r}, "
            f"since no operator of this name is: {', '.join(strange)}",
            "name a layer behind these nodes with --layer",
        )
    if not maps:
        raise UnsupportedError(
            f"{graph.name}: no feature map lies between the input and {target.name!r}",
            "name a layer with --layer (see `inspect`), or use a gradient method such as `gradient`",
        )
    if any(m.name == target.name for m in maps):
        read = [m for m in maps if any(n.op == "Conv" for n in readers(m.value))] or maps
        coarsest = min(_product(m.size) or math.inf for m in read)
        return next(m for m in reversed(read) if (_product(m.size) or math.inf) == coarsest)
    chosen = _common(graph, maps)
    if chosen.layout.prefix or chosen.layout.suffix:
        return _before_last_attention(graph, maps, target) or chosen
    return chosen


def _common(graph: Graph, maps: list[FeatureMap]) -> FeatureMap:
    """The last map on which every map at the end of a branch depends."""
    by_name = {m.name: m for m in maps}
    needed = set(by_name)
    leaves: dict[str, int] = {}
    count = 0
    for node in reversed(graph.forward_nodes()):
        seen = 0
        for output in node.outputs:
            if output.name in needed and not leaves.get(output.name):
                leaves[output.name] = 1 << count
                count += 1
            seen |= leaves.get(output.name, 0)
        if seen and node.op not in _SIZES_ONLY:
            for name in reads(node):
                leaves[name] = leaves.get(name, 0) | seen
    return (
        next(m for m in reversed(maps) if leaves[m.name] == (1 << count) - 1)
        if _joined(maps, leaves, count)
        else maps[-1]
    )


def _joined(maps: list[FeatureMap], leaves: dict[str, int], count: int) -> bool:
    return any(leaves[m.name] == (1 << count) - 1 for m in maps)


def _before_last_attention(graph: Graph, maps: list[FeatureMap], target: Value) -> FeatureMap | None:
    """The last token map that queries, keys and values of the last attention are all computed from."""
    needed = ancestors(graph, [target.name])
    reach = descendants(graph, [image_input(graph).name])
    for attention in reversed(list(attentions(graph, reach, needed))):
        common = set.intersection(*(ancestors(graph, [v.name]) for v in attention.operands))
        found = [m for m in maps if m.name in common and "L" in m.layout.axes]
        if found:
            # As wide as the tokens themselves: not queries, keys and values side by side.
            alike = [m for m in maps if m.layout == found[-1].layout and m.channels != 1]
            ((width, _),) = Counter(m.channels for m in alike).most_common(1) or [(None, 0)]
            return next((m for m in reversed(found) if m.channels == width), found[-1])
    return None


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
