"""Projections: units of a feature map projected back to the pixels of an image.

R = J̃ᵀ s, with s the activation of the chosen units and 0 elsewhere, and J̃ the Jacobian of the layer under a policy:
"deconvnet" (Zeiler & Fergus 2014, 1311.2901, section 2.1), "guided" (Springenberg et al. 2014, 1412.6806, section
3.4) or "gradient". Max-pooling is inverted with its switches (see `Switches`).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.attribution.layers import float_image
from analyzer.attribution.model import Model, sizes_of
from analyzer.attribution.units import STRONGEST, WHOLE, Units
from analyzer.errors import InputError, UnsupportedError
from analyzer.gradient import find_policy, pullback
from analyzer.gradient.policies import with_switches
from analyzer.gradient.rules.pooling import max_pool_switches
from analyzer.graph import Builder, Graph, Node, Value
from analyzer.graph.cut import behind
from analyzer.graph.nodes import fixed_sizes, known_shape
from analyzer.graph.query import ancestors, descendants

INT64 = np.dtype(np.int64)


@dataclass(frozen=True)
class Switches(Mapping[str, np.ndarray]):
    """{pooled tensor: where the maximum of each window was}: int64, shaped as the tensor.

    Indices are ONNX's: into the pool's flattened input, including the batch axis. Besides the feature map it starts
    from, they are all that a deconvnet needs of a picture. They can be saved, reused, or replaced by another picture's.
    """

    indices: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.indices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them to an .npz file, atomically."""
        from analyzer.images import write_npz

        write_npz(path, self.indices)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Switches:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or not a switches file.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                indices = {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not a switches file ({error})") from None
        if any(a.dtype != INT64 for a in indices.values()):
            raise InputError(f"{path}: not a switches file: its arrays must be int64 indices")
        return cls(indices)


@dataclass(frozen=True)
class Projection:
    """Units projected back to pixels, one per image.

    Attributes:
        pixels: R, shaped as the image input (as floating-point numbers).
        axes: axes of `pixels`, "NCHW" or "NHWC".
        channel, position, activation: (N,) the projected units and their activations; for all positions of a channel,
            position is −2 and activation the highest.
        layer: name of the tensor.
        policy: name of the rules.
    """

    pixels: np.ndarray
    axes: str
    channel: np.ndarray
    position: np.ndarray
    activation: np.ndarray
    layer: str
    policy: str


class Projector:
    """Projects units of one layer, for images of one shape, with one session.

    Args:
        model: the model.
        shapes: {input: sizes}, the batch included.
        layer: tensor or node of the file, or "auto".
        policy: "deconvnet", "guided" or "gradient".
        swapped: switches are passed to every run instead of being computed.
        wrt: a tensor before the layer. Then `Projection.pixels` is ∂s/∂wrt, shaped as it, with 1 in place of the
            activation of the units in s.
        blind: no picture: units have an activation of 1 (Springenberg et al. 2014, section 4), and the strongest
            position is the one in the middle. Only with a policy that reads nothing of the picture: a deconvnet
            between rectifiers and, with `swapped`, max-pooling.

    Attributes:
        units: the units of the layer. session: what projects them.

    Raises:
        NotFoundError: no such layer or policy. UnsupportedError: a gradient rule is missing on the way, or `blind`
            needs the picture.
    """

    def __init__(
        self,
        model: Model,
        shapes: Mapping[str, tuple[int, ...]],
        layer: str = "auto",
        policy: str = "deconvnet",
        swapped: bool = False,
        wrt: str | None = None,
        blind: bool = False,
    ) -> None:
        graph = model.graph(shapes)
        self._blind = blind
        op = Builder(graph, "projection")
        self.policy = policy
        self.units = Units.of(graph, layer, model.declared, model.labels)
        image, self.axes = float_image(graph)
        self._pools = _pools(graph, image, self.units.value)
        self._given = {
            pooled: graph.add_input(f"switches/{pooled}", INT64, graph[pooled].shape)
            for pooled in self._pools
            if swapped
        }
        batch = self.units.shape[0]
        self._channel = graph.add_input("projection/channel", INT64, [batch])
        self._position = graph.add_input("projection/position", INT64, [batch])
        seed, *chosen = self._select(op, wrt is not None)
        rules = with_switches(find_policy(policy), self._given)
        cotangent = {self.units.name: self.units.unflat(op, seed)}
        to = wrt or image.name
        pixels = pullback(op, cotangent, [to], rules)[to]
        if pixels is None:
            raise UnsupportedError(
                f"{graph.name}: {self.units.name!r} does not depend on {to!r}", "choose another layer"
            )
        self._outputs = [graph.add_output(v).name for v in (op.cast(pixels, np.dtype(np.float32)), *chosen)]
        if blind:
            graph = self._without_picture(graph, image)
        self.session = model.session(graph, self._outputs)

    def _without_picture(self, graph: Graph, image: Value) -> Graph:
        """The nodes that project a unit, if none of them reads what the network makes of a picture."""
        cut = behind(graph, [], self._outputs)
        forward = descendants(graph, [image.name]) | {image.name}
        read = {i.name for n in cut.forward_nodes() for i in n.inputs if i.name in forward}
        if not read:
            return cut
        pools = [name for name in self._pools if name not in self._given]
        if pools and self.policy == "deconvnet":
            hint = "give --switches: an .npz file, or pictures whose mean switches are used"
            raise UnsupportedError(f"max-pooling ({', '.join(pools[:3])}) can be undone with switches only", hint)
        raise UnsupportedError(
            f"the {self.policy} projection of {self.units.name!r} depends on a picture", "give one, or use deconvnet"
        )

    def _select(self, op: Builder, ones: bool = False) -> tuple[Value, Value, Value, Value]:
        """(s, channel, position, activation): s = A ⊙ 1[the chosen units], (N, channels, positions), or A = 1."""
        flat = self.units.flat(op)
        if self._blind:
            flat = op.constant(np.ones((self.units.shape[0], self.units.channels, self.units.positions), flat.dtype))
        best, peak = op.ArgMax(flat, axis=2, keepdims=0), op.ReduceMax(flat, [2], keepdims=0)
        zero = np.int64(0)
        channel = op.Where(op.Less(self._channel, zero), op.ArgMax(peak, axis=1, keepdims=0), self._channel)
        column = op.Unsqueeze(channel, [1])
        strongest = op.Squeeze(op.GatherElements(best, column, axis=1), [1])
        position = op.Where(op.Equal(self._position, np.int64(STRONGEST)), strongest, self._position)
        of_channel = op.Equal(op.Unsqueeze(column, [2]), np.arange(self.units.channels)[None, :, None])
        at = op.Unsqueeze(position, [1, 2])
        whole = op.Equal(at, np.int64(WHOLE))
        of_place = op.Or(op.Equal(at, np.arange(self.units.positions)[None, None]), whole)
        strength = op.ones_like(flat) if ones else flat
        seed = op.Where(op.And(of_channel, of_place), strength, op.scalar(0, flat))
        lowest = op.scalar(float(np.finfo(flat.dtype).min), flat)
        seen = op.ReduceMax(op.Where(op.And(of_channel, of_place), flat, lowest), [1, 2], keepdims=0)
        return seed, channel, position, op.cast(seen, np.dtype(np.float32))

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        channel: int | Sequence[int] | np.ndarray = STRONGEST,
        position: int | Sequence[int] | np.ndarray = STRONGEST,
        switches: Switches | None = None,
    ) -> Projection:
        """Project a unit of each image.

        Args:
            feeds: {input: array}, of the shapes that were given.
            channel, position: one for all images or one per image; STRONGEST is allowed, and WHOLE for all positions.

        Raises:
            NotFoundError: no such unit. InputError: switches of another shape, or missing switches.
        """
        count = self.units.shape[0]
        channels, positions = (np.broadcast_to(np.asarray(a, np.int64), (count,)) for a in (channel, position))
        for c, p in zip(channels, positions, strict=True):
            self.units.check(int(c), int(p))
        if self._blind and (channels < 0).any():
            raise InputError("the strongest channel shows only in a picture", "give a picture, or name a channel")
        if self._blind:
            middle = self.units.position(tuple(g // 2 for g in self.units.grid))
            positions = np.where(positions == STRONGEST, middle, positions)
        given = {value.name: self._switch(name, value, switches) for name, value in self._given.items()}
        chosen = {**feeds, **given, self._channel.name: channels, self._position.name: positions}
        found = self.session.run({n: a for n, a in chosen.items() if n in self.session.inputs}, self._outputs)
        pixels, at_channel, at_position, seen = (found[name] for name in self._outputs)
        return Projection(pixels, self.axes, at_channel, at_position, seen, self.units.name, self.policy)

    def _switch(self, name: str, value: Value, switches: Switches | None) -> np.ndarray:
        found = switches.get(name) if switches is not None else None
        shape = list(known_shape(value))
        if found is None:
            raise InputError(f"no switches for the pooled tensor {name!r}", "use switches saved from the same model")
        if list(found.shape) != shape:
            raise InputError(f"the switches of {name!r} have the shape {list(found.shape)}, not {shape}")
        return found


def _pools(graph: Graph, image: Value, layer: Value) -> dict[str, Node]:
    """Pooled tensors between the image and the layer, and the MaxPool of each."""
    between = descendants(graph, [image.name]) & ancestors(graph, [layer.name])
    pools = {n.outputs[0].name: n for n in graph.forward_nodes() if n.op == "MaxPool"}
    return {name: node for name, node in pools.items() if name in between}


def read_switches(model: Model, inputs: Any, layer: str = "auto") -> Switches:
    """The switches of a picture: of every MaxPool between the image and `layer`.

    Args:
        inputs: the preprocessed array, or {input: array}.
    """
    feeds = model.feeds(inputs)
    graph = model.graph_of(feeds)
    op = Builder(graph, "switches")
    image, _ = float_image(graph)
    pools = _pools(graph, image, Units.of(graph, layer, model.declared, model.labels).value)
    if not pools:
        return Switches({})
    switches = {name: max_pool_switches(op, node) for name, node in pools.items()}
    found = model.run(graph, feeds, [graph.add_output(value).name for value in switches.values()])
    return Switches(dict(zip(switches, found, strict=True)))


def mean_switches(model: Model, pictures: Iterable[Any], layer: str = "auto") -> Switches:
    """Where the maximum of each window is on average: the mean row and column over pictures, rounded.

    Args:
        pictures: preprocessed arrays of one picture each, or {input: array}, all of one size.

    Raises:
        InputError: there are no pictures.
    """
    total: dict[str, np.ndarray] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    count = 0
    for inputs in pictures:
        feeds = model.feeds(inputs)
        graph = model.graph_of(feeds)
        for name, indices in read_switches(model, feeds, layer).items():
            producer = graph.producer(graph[name])
            shape = None if producer is None else fixed_sizes(producer.inputs[0].shape)
            assert shape is not None  # those of the inputs are fixed
            sizes[name] = shape
            places = np.stack(np.unravel_index(indices, sizes[name]))
            total[name] = total.get(name, np.zeros(places.shape)) + places
        count += 1
    if not count:
        raise InputError("mean switches need a picture", "give one or more")
    places_of = {name: np.rint(places / count).astype(np.int64) for name, places in total.items()}
    return Switches({name: np.ravel_multi_index(tuple(p), sizes[name]) for name, p in places_of.items()})


def project(
    model: Model,
    inputs: Any,
    layer: str = "auto",
    channel: int | Sequence[int] = STRONGEST,
    position: int | Sequence[int] = STRONGEST,
    policy: str = "deconvnet",
    switches: Switches | None = None,
) -> Projection:
    """Project units of `layer` back to the pixels of each image; see `Projector`.

    Args:
        inputs: the preprocessed array, (N, …) in the model's own layout, or {input: array}.
        switches: switches of another picture or from a file; None for the picture's own.
    """
    feeds = model.feeds(inputs)
    projector = Projector(model, sizes_of(feeds), layer, policy, switches is not None)
    return projector.run(feeds, channel, position, switches)
