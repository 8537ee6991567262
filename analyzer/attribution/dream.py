"""Activation maximization by gradient ascent: the input that activates a unit, channel, class or direction most.

max_z  a(T(x(z))) − R(x), with x(z) a parametrization of the picture, T a random transform per step and R what
Yosinski et al. 2015 (1506.06579) apply between steps. The gradient is that of the appended graph; parametrization and
transforms are linear maps with their adjoints, but for the sigmoid that keeps pixels in range (Olah et al. 2017).
A picture larger than the input is seen as tiles at random offsets (Mordvintsev et al. 2015), several pictures of one
unit are kept apart by their Gram matrices (lucid's `diversity`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analyzer.analysis.scores import input_quantisation
from analyzer.attribution.finite import find_origins, not_finite
from analyzer.attribution.layers import float_image
from analyzer.attribution.model import Model
from analyzer.attribution.parametrizations import DreamOptions, parametrized
from analyzer.attribution.units import STRONGEST, WHOLE, Units
from analyzer.errors import InputError, UnsupportedError
from analyzer.gradient import find_policy, pullback
from analyzer.graph import Builder, Graph, Value
from analyzer.graph.cut import behind
from analyzer.graph.nodes import fixed_sizes
from analyzer.images import Preprocess
from analyzer.images.preprocess import cast
from analyzer.images.warp import Warp
from analyzer.runtime import Session

SCALES = np.linspace(0.9, 1.1, 11)
GRAY = 0.5  # comes in where the picture is moved away, and is where it starts


@dataclass
class Dream:
    """The result of an optimization.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        score: activation of the unit (or its mean over the positions) for the image without a random transform; of a
            picture larger than the input, the mean over tiles.
        scores: the score at each step.
        stopped: why the optimization ended early, or "".
        similarity: to the other variants, the mean of `alike`; None for a single one.
    """

    image: np.ndarray
    score: float
    scores: list[float] = field(default_factory=list)
    stopped: str = ""
    similarity: float | None = None


@dataclass(frozen=True)
class View:
    """What the network sees of a picture: a tile of it, wrapped around at the picture's border, then warped.

    Attributes:
        rows, columns: of the picture, none twice.
    """

    rows: np.ndarray
    columns: np.ndarray
    warp: Warp

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w, C) of a picture (H, W, C)."""
        return self.warp.apply(pixels[np.ix_(self.rows, self.columns)], GRAY)

    def add(self, gradient: np.ndarray, whole: np.ndarray) -> None:
        """Add the adjoint of a gradient (h, w, C) to that of the picture."""
        whole[np.ix_(self.rows, self.columns)] += self.warp.adjoint(gradient)


@dataclass
class _Ascent:
    """A picture on its way."""

    picture: Any
    rng: np.random.Generator
    scores: list[float] = field(default_factory=list)
    stopped: str = ""


class Dreamer:
    """Finds inputs for units of one layer.

    Args:
        model: the model. Of an integer input, what it is converted or dequantized to is optimized, without rounding.
        layer: tensor or node of the file; for a class, that of the logits.
        preprocess: picture to input, of a fixed size.

    Raises:
        NotFoundError: no such layer. UnsupportedError: an integer input that is not converted to floating point by a
        single Cast or DequantizeLinear, or a missing gradient rule.
    """

    def __init__(self, model: Model, layer: str, preprocess: Preprocess) -> None:
        self.model, self.preprocess = model, preprocess
        self.shape = preprocess.shape(model.fixed_batch or 1)
        assert preprocess.size is not None
        self.size, self.image = preprocess.size, model.image
        graph = model.graph({self.image: self.shape})
        self.real, self.axes = float_image(graph)
        self.quantisation = input_quantisation(graph, graph[self.image])
        sizes = fixed_sizes(self.real.shape or ())
        if sizes is None:
            raise UnsupportedError(f"the sizes of {self.real.name!r} are not fixed, although those of the input are")
        self._real_shape = sizes
        self.units = Units.of(graph, layer, model.declared, model.labels)
        self._sessions: dict[str, tuple[Session, list[str]]] = {}

    def run(
        self,
        channel: int | np.ndarray,
        position: int = WHOLE,
        options: DreamOptions | None = None,
        progress: Callable[[], None] | None = None,
        spectrum: np.ndarray | None = None,
    ) -> Dream:
        """Run the optimization.

        Args:
            channel: channel of the layer, or a direction: weights of all channels, (K,).
            position: a position, WHOLE for the mean over all positions, STRONGEST for the one in the middle.
            options: see `DreamOptions`.
            progress: called after each step.
            spectrum: of photographs, for "maco": see `mean_spectrum`.

        Raises:
            NotFoundError: no such unit. InputError: invalid options.
            UnsupportedError: no gradient reaches the input.
        """
        return self.runs(channel, position, replace(options or DreamOptions(), variants=1), progress, spectrum)[0]

    def runs(
        self,
        channel: int | np.ndarray,
        position: int = WHOLE,
        options: DreamOptions | None = None,
        progress: Callable[[], None] | None = None,
        spectrum: np.ndarray | None = None,
    ) -> list[Dream]:
        """Run the optimization of `options.variants` pictures of one unit, each from its own start.

        Args, Raises: as `run`; `progress` is called after each step of each picture.
        """
        options = options or DreamOptions()
        size, weights = self._size(options), self._weights(channel, position)
        if options.variants > 1 and options.diversity and self.units.positions == 1:
            raise InputError(
                f"diversity compares feature maps, and {self.units.name!r} has one position",
                "choose the unit of an earlier layer, or a diversity of 0",
            )
        rngs = [np.random.default_rng([options.seed, n] if n else options.seed) for n in range(options.variants)]
        shape = (*size, self.preprocess.channel_count)
        ascents = [_Ascent(parametrized(options, shape, rng, spectrum), rng) for rng in rngs]
        for step in range(options.steps):
            moving = [ascent for ascent in ascents if not ascent.stopped]
            if not moving:
                break
            self._step(moving, weights, options, step, progress)
        finals = [ascent.picture.pixels() for ascent in ascents]
        views = self._views(size, Warp.affine(self.size))
        shown = [[view.of(final) for view in views] for final in finals]
        likeness: Sequence[float | None] = [None] * len(ascents)
        if len(ascents) > 1:
            likeness = [float(v) for v in alike([self._maps(tiles) for tiles in shown])[0]]
        return [
            Dream(_levels(final), self._score(tiles, weights), ascent.scores, ascent.stopped, similarity)
            for ascent, final, tiles, similarity in zip(ascents, finals, shown, likeness, strict=True)
        ]

    def score(self, channel: int | np.ndarray, pixels: np.ndarray, position: int = WHOLE) -> float:
        """The activation that the optimization maximizes, for a picture (H, W, C) in 0 … 1 as large as the input."""
        return self._score([pixels], self._weights(channel, position))

    def _step(
        self,
        ascents: Sequence[_Ascent],
        weights: np.ndarray,
        options: DreamOptions,
        step: int,
        progress: Callable[[], None] | None,
    ) -> None:
        """One step of each picture, away from where the others were before it."""
        pixels = [ascent.picture.pixels() for ascent in ascents]
        views = [self._moved(seen.shape[:2], options, ascent.rng) for ascent, seen in zip(ascents, pixels, strict=True)]
        shown = [[view.of(seen) for view in each] for each, seen in zip(views, pixels, strict=True)]
        seeds = self._seeds(weights, shown, options)
        for ascent, each, tiles, cotangents in zip(ascents, views, shown, seeds, strict=True):
            score, gradient = 0.0, np.zeros_like(pixels[0])
            for view, tile, cotangent in zip(each, tiles, cotangents, strict=True):
                value, slope = self._climb(tile, weights, cotangent)
                score += value / len(tiles)
                if not (np.isfinite(value) and np.isfinite(slope).all()):
                    ascent.stopped = f"stopped at step {step}: {self._why_not_finite(tile)}"
                    break
                view.add(slope / len(tiles), gradient)
            else:
                ascent.picture.step(gradient, step)
                ascent.scores.append(score)
                if progress:
                    progress()

    def _score(self, tiles: Sequence[np.ndarray], weights: np.ndarray) -> float:
        return float(np.mean([self._climb(tile, weights)[0] for tile in tiles]))

    def _maps(self, tiles: Sequence[np.ndarray]) -> np.ndarray:
        """(K, tiles · P): the activations of tiles side by side."""
        return np.concatenate([self._activations(tile)[0] for tile in tiles], axis=1)

    def _seeds(
        self, weights: np.ndarray, shown: Sequence[Sequence[np.ndarray]], options: DreamOptions
    ) -> list[list[np.ndarray]]:
        """Per picture and tile, ∂/∂A of what it climbs: a − d |a| p, with p from `alike` and |a| as it is."""
        if len(shown) == 1 or not options.diversity:
            return [[weights] * len(tiles) for tiles in shown]
        maps = [self._maps(tiles) for tiles in shown]
        seeds = []
        for tiles, found, slope in zip(shown, maps, alike(maps)[1], strict=True):
            count = len(tiles)
            size = abs(float((np.tile(weights[0], count) * found).sum())) / count
            parts = np.split(options.diversity * size * count * slope, count, axis=1)
            seeds.append([weights - part for part in parts])
        return seeds

    def _why_not_finite(self, pixels: np.ndarray) -> str:
        feeds = {self.image: self._input(pixels)}
        origin = find_origins(self.model, feeds, [0], [self.units.name])[0]
        return not_finite(origin) if origin else "the gradient overflows: it is not finite although the forward pass is"

    def _weights(self, channel: int | np.ndarray, position: int) -> np.ndarray:
        """(1, K, P): a = Σ w ⊙ A."""
        units = self.units
        weights = np.zeros((1, units.channels, units.positions), np.float32)
        place = [slice(None)] if position == WHOLE else [position]
        if position == STRONGEST:
            place = [units.position(tuple(g // 2 for g in units.grid))]
        if isinstance(channel, np.ndarray):
            if channel.shape != (units.channels,):
                raise InputError(f"a direction has {units.channels} entries, not {channel.shape}")
            weights[0][:, place[0]] = channel.reshape(-1, 1) if position == WHOLE else channel
        else:
            units.check(channel, position)
            weights[0, channel, place[0]] = 1
        return weights / (units.positions if position == WHOLE else 1)

    def _size(self, options: DreamOptions) -> tuple[int, int]:
        """(H, W) of the picture."""
        size = options.picture_size or self.size
        if any(whole < tile for whole, tile in zip(size, self.size, strict=True)):
            given, least = ("×".join(map(str, each)) for each in (size, self.size))
            raise InputError(f"a picture of {given} is smaller than the model's input, {least}")
        return size

    def _views(self, size: Sequence[int], warp: Warp, start: Sequence[int] = (0, 0)) -> list[View]:
        """Evenly spaced tiles that cover a picture, the first one at `start`."""
        rows, columns = (
            [(begin + n * whole // count + np.arange(tile)) % whole for n in range(count)]
            for begin, whole, tile in zip(start, size, self.size, strict=True)
            for count in [math.ceil(whole / tile)]
        )
        return [View(r, c, warp) for r in rows for c in columns]

    def _moved(self, size: Sequence[int], options: DreamOptions, rng: np.random.Generator) -> list[View]:
        """The views of a step. A picture as large as the input is not wrapped around."""
        warp = self._transform(options, rng)
        start = [int(rng.integers(whole)) if whole > tile else 0 for whole, tile in zip(size, self.size, strict=True)]
        return self._views(size, warp, start)

    def _transform(self, options: DreamOptions, rng: np.random.Generator) -> Warp:
        shift = rng.integers(-options.jitter, options.jitter + 1, 2) if options.jitter else np.zeros(2, int)
        scale = float(rng.choice(SCALES)) if options.rescale else 1.0
        turn = float(rng.uniform(-options.degrees, options.degrees)) if options.degrees else 0.0
        return Warp.affine(self.size, (int(shift[0]), int(shift[1])), scale, turn)

    def _climb(
        self, pixels: np.ndarray, weights: np.ndarray, seed: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        """(a, gradient at the pixels (H, W, C) in 0 … 1) of a = Σ weights ⊙ A, or of Σ seed ⊙ A.

        Where every rectifier on the way blocks, the gradient is that through those it would open.
        """
        how, given = self.preprocess, self._tensor(pixels)
        for policy in ("gradient", "redirected"):
            score, found = self._gradient(policy, given, weights, weights if seed is None else seed)
            if found.any():
                break
        gradient = found.transpose(1, 2, 0) if self.axes == "NCHW" else found
        gradient = gradient * (255 * how.scale * self.quantisation.scale / np.array(how.std, np.float32))
        return score, np.ascontiguousarray(gradient[..., self._order], np.float32)

    def _activations(self, pixels: np.ndarray) -> np.ndarray:
        """A, (1, K, P), for a picture (H, W, C) in 0 … 1."""
        session, names = self._kept("forward", self._forward)
        return session.run({self.real.name: self._tensor(pixels)}, names)[names[0]][:1]

    @property
    def _order(self) -> slice:
        return slice(None, None, -1 if self.preprocess.channels == "BGR" else 1)

    def _values(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, C): what the model's input holds for a picture (H, W, C) in 0 … 1, not rounded."""
        how = self.preprocess
        mean, std = np.array(how.mean, np.float32), np.array(how.std, np.float32)
        return np.asarray((pixels[..., self._order] * np.float32(255 * how.scale) - mean) / std)

    def _tensor(self, pixels: np.ndarray) -> np.ndarray:
        """`self.real` for a picture (H, W, C) in 0 … 1."""
        values = self.quantisation.real(self._values(pixels))
        tensor = values.transpose(2, 0, 1) if self.axes == "NCHW" else values
        return np.ascontiguousarray(np.broadcast_to(tensor, self._real_shape), self.real.dtype)

    def _input(self, pixels: np.ndarray) -> np.ndarray:
        """What the model is given for it."""
        values, dtype = self._values(pixels), self.model.plain[self.image].dtype
        tensor = values.transpose(2, 0, 1) if self.preprocess.layout == "NCHW" else values
        return np.ascontiguousarray(np.broadcast_to(cast(tensor, dtype.name), self.shape))

    def _gradient(
        self, policy: str, given: np.ndarray, weights: np.ndarray, seed: np.ndarray
    ) -> tuple[float, np.ndarray]:
        session, names = self._kept(policy, lambda: self._ascending(policy))
        feeds = {self.real.name: given, "dream/weights": weights, "dream/seed": seed}
        found = session.run(feeds, names)
        return float(found[names[0]].flat[0]), found[names[1]][0].astype(np.float32)

    def _kept(self, key: str, make: Callable[[], tuple[Session, list[str]]]) -> tuple[Session, list[str]]:
        if key not in self._sessions:
            self._sessions[key] = make()
        return self._sessions[key]

    def _ascending(self, policy: str) -> tuple[Session, list[str]]:
        """A session of the score and the gradient, and their names."""
        graph = self.model.graph({self.image: self.shape})
        op = Builder(graph, "dream")
        units = Units.of(graph, self.units.name)
        sizes, flat = [1, units.channels, units.positions], units.flat(op)
        weights, seed = (
            op.cast(graph.add_input(f"dream/{name}", np.dtype(np.float32), sizes), flat.dtype)
            for name in ("weights", "seed")
        )
        score = op.ReduceSum(op.Mul(flat, weights), [1, 2], keepdims=0)
        image, _ = float_image(graph)
        cotangent = units.unflat(op, op.expand_like(seed, flat))
        gradient = pullback(op, {units.name: cotangent}, [image.name], find_policy(policy))[image.name]
        if gradient is None:
            raise UnsupportedError(f"{graph.name}: {units.name!r} does not depend on the image")
        return self._session(graph, op, [score, gradient])

    def _forward(self) -> tuple[Session, list[str]]:
        """A session of the activations, (N, K, P), and its name."""
        graph = self.model.graph({self.image: self.shape})
        op = Builder(graph, "dream")
        return self._session(graph, op, [Units.of(graph, self.units.name).flat(op)])

    def _session(self, graph: Graph, op: Builder, values: Sequence[Value]) -> tuple[Session, list[str]]:
        names = [graph.add_output(op.cast(value, np.dtype(np.float32))).name for value in values]
        image, _ = float_image(graph)
        if image.name != self.image:
            graph = behind(graph, [image.name], names)
        return self.model.session(graph, names), names


def alike(maps: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """p_i, the mean over j ≠ i of ⟨G_i, G_j⟩ / (‖G_i‖ ‖G_j‖), and ∂p_i/∂A_i   (lucid's `diversity`)

    Args:
        maps: A_i, (K, P) each; G_i = A_i A_iᵀ is its Gram matrix, the texture that the layer sees.
    """
    grams = np.stack([each @ each.T for each in maps])
    norms = np.maximum(np.linalg.norm(grams, axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    units = grams / norms
    others = (units.sum(axis=0) - units) / (len(maps) - 1)
    found = (units * others).sum(axis=(1, 2), keepdims=True)
    slopes = 2 * (others - found * units) / norms
    return found[:, 0, 0], [slope @ each for slope, each in zip(slopes, maps, strict=True)]


def _levels(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of (H, W, C) in 0 … 1."""
    levels = np.clip(np.rint(255 * pixels), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3)))
