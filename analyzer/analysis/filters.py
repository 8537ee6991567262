"""Convolution kernels: their spectra, dead and duplicate filters, and aliasing by their stride."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analyzer.analysis.linear import CONVOLUTIONS
from analyzer.errors import UnsupportedError
from analyzer.graph import Graph, Node, Value
from analyzer.graph.query import find_tensors, image_input
from analyzer.graph.through import MOVING, constant, origin, producer

LOW, HIGH = 1 / 6, 1 / 3  # cycles per pixel: thirds of the highest frequency along an axis
TRANSFORM = 32  # points per axis of the spectrum, more where a kernel is larger
DEAD = 1e-3  # of the median norm of a layer's filters
CHUNK = 4 << 20  # numbers in double precision that are in memory at a time
SAME = 0.99  # |cosine| from which two filters count as one

_PASSING = ("Transpose", "Reshape", "Pad", "Sub", "Mul", "Div", "Add", "BatchNormalization")


@dataclass(frozen=True)
class FilterBank:
    """The kernels of one convolution.

    Attributes:
        name: of the node. layer: its output.
        weights: (K, C, h, w) float32; C input channels per group.
        strides: (vertical, horizontal), in pixels of the convolution's input.
        groups: of the convolution.
        reads_image: its input is the image, perhaps transposed, padded or scaled.
        transposed: whether it is a ConvTranspose.
    """

    name: str
    layer: str
    weights: np.ndarray
    strides: tuple[int, int]
    groups: int
    reads_image: bool
    transposed: bool = False

    @property
    def is_pointwise(self) -> bool:
        """1×1 kernels, whose spectrum is flat."""
        return self.weights.shape[2:] == (1, 1)

    @cached_property
    def power(self) -> np.ndarray:
        """(K, n, n) |DFT|² summed over the input channels: energy that white noise would leave at each frequency."""
        n = max(TRANSFORM, *self.weights.shape[2:])
        spectra = (np.fft.fft2(w.astype(np.float64), (n, n)) for w in self._pieces(n * n))
        return np.concatenate([(s.real**2 + s.imag**2).sum(axis=1) for s in spectra])

    def _pieces(self, points: int) -> list[np.ndarray]:
        """The filters in groups that take at most `CHUNK` numbers, of `points` per kernel."""
        step = max(1, CHUNK // (points * self.weights.shape[1]))
        return [self.weights[start : start + step] for start in range(0, len(self.weights), step)]

    @property
    def bands(self) -> np.ndarray:
        """(K, 3) share of a filter's energy below 1/6, up to 1/3, and above, in cycles per pixel; 0 for dead ones."""
        radius = np.hypot(*self._frequencies())
        masks = [radius < LOW, (radius >= LOW) & (radius < HIGH), radius >= HIGH]
        return np.stack([self._share(m) for m in masks], axis=1)

    @property
    def aliased(self) -> np.ndarray:
        """(K,) share of a filter's energy above its stride's Nyquist limit, |f| > 1 / (2 s), which aliases."""
        if self.transposed:
            return np.zeros(len(self.weights))
        rows, columns = self._frequencies()
        return self._share((np.abs(rows) > 0.5 / self.strides[0]) | (np.abs(columns) > 0.5 / self.strides[1]))

    @cached_property
    def norms(self) -> np.ndarray:
        """(K,) Euclidean norms."""
        found = [
            (w.astype(np.float64) ** 2).sum(axis=(1, 2, 3)) for w in self._pieces(math.prod(self.weights.shape[2:]))
        ]
        return np.sqrt(np.concatenate(found))

    @property
    def dead(self) -> np.ndarray:
        """(K,) filters whose norm is below a thousandth of the layer's median."""
        return self.norms <= DEAD * np.median(self.norms)

    @property
    def duplicates(self) -> list[tuple[int, int, float]]:
        """Pairs of live filters with |cosine| ≥ 0.99, most similar first; negative if they have opposite signs."""
        flat = self.weights.reshape(len(self.weights), -1).astype(np.float64)
        if flat.shape[1] < (9 if self.groups > 1 else 4):
            return []
        flat /= np.where(self.norms, self.norms, 1)[:, None]  # in place: the layer may be large
        flat[self.dead] = 0
        cosine = np.triu(flat @ flat.T, 1)
        rows, columns = np.nonzero(np.abs(cosine) >= SAME)
        found = [(int(i), int(j), float(cosine[i, j])) for i, j in zip(rows, columns, strict=True)]
        return sorted(found, key=lambda pair: -abs(pair[2]))

    def _frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        n = self.power.shape[1]
        rows, columns = np.meshgrid(np.fft.fftfreq(n), np.fft.fftfreq(n), indexing="ij")
        return rows, columns

    def _share(self, mask: np.ndarray) -> np.ndarray:
        total = self.power.sum(axis=(1, 2))
        return self.power[:, mask].sum(axis=1) / np.where(total, total, 1)


def filter_bank(graph: Graph, layer: str = "auto") -> FilterBank:
    """The kernels of the convolution `layer`: a node, its output, or a tensor directly after it; "auto" is the first
    convolution.

    Raises:
        NotFoundError: no such tensor or node. UnsupportedError: no convolution with constant weights there.
    """
    node = _first(graph) if layer == "auto" else _convolution(graph, find_tensors(graph, layer)[0])
    if node is None:
        what = "the model has" if layer == "auto" else f"at {layer!r} there is"
        near = ", ".join(repr(n.name) for n in graph.forward_nodes() if n.op in CONVOLUTIONS)[:200]
        raise UnsupportedError(f"{graph.name}: {what} no convolution", f"convolutions are {near}" if near else "")
    weights = constant(graph, node.inputs[1], MOVING)
    if weights is None or weights.ndim != 4:
        raise UnsupportedError(
            f"{graph.name}: kernels of {node.name!r} are not {'constant' if weights is None else 'two-dimensional'}",
            "choose another convolution",
        )
    if node.op == "ConvTranspose":
        weights = np.swapaxes(weights, 0, 1)
    strides = tuple(node.attrs.get("strides") or (1, 1))
    return FilterBank(
        node.name,
        node.outputs[0].name,
        np.ascontiguousarray(weights, np.float32),
        (int(strides[0]), int(strides[1])),
        int(node.attrs.get("group") or 1),
        _reads_image(graph, node),
        node.op == "ConvTranspose",
    )


def _first(graph: Graph) -> Node | None:
    return next((n for n in graph.forward_nodes() if n.op in CONVOLUTIONS and len(n.inputs[0].shape or ()) == 4), None)


def _convolution(graph: Graph, value: Value) -> Node | None:
    """The convolution that computes `value`, at most an activation and a normalisation back."""
    for _ in range(4):
        node = producer(value)
        if node is None or node.op in CONVOLUTIONS:
            return node
        value = node.inputs[0]
    return None


def _reads_image(graph: Graph, node: Node) -> bool:
    image, value = image_input(graph), origin(node.inputs[0])
    while value.name != image.name:
        before = graph.producer(value)
        if before is None or before.op not in _PASSING:
            return False
        computed = [i for i in before.inputs if i.name and constant(graph, i) is None]
        if len(computed) != 1:
            return False
        value = origin(computed[0])
    return True
