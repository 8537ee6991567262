"""Activation maximisation by gradient ascent: the input that activates a unit, channel, class or direction most.

max_z  a(T(x(z))) − R(x), with x(z) a parametrization of the picture, T a random transform per step and R what
Yosinski et al. 2015 (1506.06579) apply between steps. The gradient is that of the appended graph; parametrization and
transforms are linear maps with their adjoints, but for the sigmoid that keeps pixels in range (Olah et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analyzer.analysis.scores import input_quantisation
from analyzer.attribution.finite import find_origins, not_finite
from analyzer.attribution.layers import float_image
from analyzer.attribution.model import Model
from analyzer.attribution.units import STRONGEST, WHOLE, Units
from analyzer.deprecated import renamed_argument, renamed_attribute
from analyzer.errors import InputError, UnsupportedError
from analyzer.gradient import find_policy, pullback
from analyzer.graph import Builder
from analyzer.graph.cut import behind
from analyzer.graph.nodes import fixed_sizes
from analyzer.images import Preprocess
from analyzer.images.preprocess import cast
from analyzer.images.warp import Warp, blur
from analyzer.runtime import Session

# The square root of the covariance of ImageNet's colours, lucid's.
COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], np.float32)
SCALES = (1.0, 0.975, 1.025, 0.95, 1.05)


@renamed_argument("parametrisation", "parametrization")
@dataclass(frozen=True)
class DreamOptions:
    """Options of the optimization; the defaults are lucid's, with fewer steps.

    Attributes:
        steps, rate: number of steps and learning rate, of Adam for "fourier" and "maco" and of normalized ascent for
            "pixels", where a rate of 1 is 1/100 of the range of values.
        parametrization: "fourier" (decorrelated frequencies, each scaled by 1/f), "maco" (their phases alone; the
            magnitudes are those of photographs: Fel et al. 2023, 2306.06805, but with the transforms below in place of
            16 and more noisy crops per step), or "pixels".
        decorrelate: use the principal axes of ImageNet's colors, so that steps are equally large along each.
        jitter: largest shift of the picture in pixels, per step.
        degrees: largest rotation, per step. rescale: scale by a random factor from 0.95 to 1.05.
        decay: share of x − ½ that is subtracted per step (Yosinski's θ_decay).
        blur: sigma of the Gaussian applied every `blur_every` steps (θ_b_width, θ_b_every).
        clip_norm: percentage of pixels, those with the smallest norm, that are set to ½ (θ_n_pct).
        clip_contribution: percentage of pixels, those with the smallest |Σ x ⊙ ∂a/∂x|, that are set to ½ (θ_c_pct).
        seed: seed of all random numbers.
    """

    steps: int = 128
    rate: float = 0.05
    parametrization: str = "fourier"
    decorrelate: bool = True
    jitter: int = 8
    degrees: float = 5.0
    rescale: bool = True
    decay: float = 0.0
    blur: float = 0.0
    blur_every: int = 4
    clip_norm: float = 0.0
    clip_contribution: float = 0.0
    seed: int = 0

    parametrisation = renamed_attribute("parametrisation", "parametrization")


@dataclass
class Dream:
    """The result of an optimisation.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        score: activation of the unit (or its mean over the positions) for the image without a random transform.
        scores: the score at each step.
        stopped: why the optimisation ended early, or "".
    """

    image: np.ndarray
    score: float
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
        options = options or DreamOptions()
        weights = self._weights(channel, position)
        rng = np.random.default_rng(options.seed)
        picture = _parametrization(options, (*self.size, self.preprocess.channel_count), rng, spectrum)
        scores: list[float] = []
        stopped = ""
        for step in range(options.steps):
            warp = self._transform(options, rng)
            seen = picture.pixels()
            shown = warp.apply(seen)
            score, gradient = self._climb(shown, weights)
            if not (np.isfinite(score) and np.isfinite(gradient).all()):
                stopped = f"stopped at step {step}: {self._why_not_finite(shown)}"
                break
            back = warp.adjoint(gradient)
            picture.step(back, step)
            scores.append(score)
            if progress:
                progress()
        final = picture.pixels()
        score, _ = self._climb(final, weights)
        levels = np.clip(np.rint(255 * final), 0, 255).astype(np.uint8)
        return Dream(np.ascontiguousarray(np.broadcast_to(levels, (*self.size, 3))), score, scores, stopped)

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

    def _transform(self, options: DreamOptions, rng: np.random.Generator) -> Warp:
        shift = rng.integers(-options.jitter, options.jitter + 1, 2) if options.jitter else np.zeros(2, int)
        scale = float(rng.choice(SCALES)) if options.rescale else 1.0
        turn = float(rng.uniform(-options.degrees, options.degrees)) if options.degrees else 0.0
        return Warp.affine(self.size, (int(shift[0]), int(shift[1])), scale, turn, edge=True)

    def _climb(self, pixels: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """(a, ∂a/∂pixels) for a picture (H, W, C) in 0 … 1; where every rectifier on the way blocks, the gradient that
        goes through those it would open."""
        how, given = self.preprocess, self._tensor(pixels)
        for policy in ("gradient", "redirected"):
            score, found = self._gradient(policy, given, weights)
            if found.any():
                break
        gradient = found.transpose(1, 2, 0) if self.axes == "NCHW" else found
        gradient = gradient * (255 * how.scale * self.quantisation.scale / np.array(how.std, np.float32))
        return score, np.ascontiguousarray(gradient[..., self._order], np.float32)

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

    def _gradient(self, policy: str, given: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
        if policy not in self._sessions:
            self._sessions[policy] = self._session(policy)
        session, names = self._sessions[policy]
        found = session.run({self.real.name: given, "dream/weights": weights}, names)
        return float(found[names[0]].flat[0]), found[names[1]][0].astype(np.float32)

    def _session(self, policy: str) -> tuple[Session, list[str]]:
        graph = self.model.graph({self.image: self.shape})
        op = Builder(graph, "dream")
        units = Units.of(graph, self.units.name)
        weights = graph.add_input("dream/weights", np.dtype(np.float32), [1, units.channels, units.positions])
        flat = units.flat(op)
        given = op.cast(weights, flat.dtype)
        score = op.ReduceSum(op.Mul(flat, given), [1, 2], keepdims=0)
        seed = units.unflat(op, op.expand_like(given, flat))
        image, _ = float_image(graph)
        gradient = pullback(op, {units.name: seed}, [image.name], find_policy(policy))[image.name]
        if gradient is None:
            raise UnsupportedError(f"{graph.name}: {units.name!r} does not depend on the image")
        names = [graph.add_output(op.cast(v, np.dtype(np.float32))).name for v in (score, gradient)]
        if image.name != self.image:
            graph = behind(graph, [image.name], names)
        return self.model.session(graph, names), names


# ---- Parametrisations ----


class Fourier:
    """x = σ(D F⁻¹(s ⊙ z)): frequencies scaled by 1/f, colours decorrelated, climbed by Adam."""

    def __init__(self, options: DreamOptions, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
        height, width, channels = shape
        rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
        self.scale = np.sqrt(height * width) / np.maximum(np.hypot(rows, columns), 1 / max(height, width)) / 4
        self.shape, self.options = shape, options
        self.state: np.ndarray = 0.01 * rng.standard_normal((2, channels, *self.scale.shape))
        self.first, self.second = np.zeros_like(self.state), np.zeros_like(self.state)
        self.mix = color_axes(options, channels)

    @property
    def spectrum(self) -> np.ndarray:
        """(C, H, W // 2 + 1) complex."""
        return np.asarray((self.state[0] + 1j * self.state[1]) * self.scale)

    def pixels(self) -> np.ndarray:
        """(H, W, C) in 0 … 1."""
        planes = np.fft.irfft2(self.spectrum, self.shape[:2])
        return (1 / (1 + np.exp(-planes.transpose(1, 2, 0) @ self.mix.T))).astype(np.float32)

    def pull(self, gradient: np.ndarray) -> np.ndarray:
        """∂a/∂z of ∂a/∂x, as the real and imaginary parts."""
        spectrum = self.pulled(gradient) * self.scale
        return np.stack([spectrum.real, spectrum.imag])

    def pulled(self, gradient: np.ndarray) -> np.ndarray:
        """∂a/∂ of the real and of the imaginary part of the spectrum, as one complex number."""
        pixels = self.pixels()
        planes = ((gradient * pixels * (1 - pixels)) @ self.mix).transpose(2, 0, 1)
        spectrum = np.fft.rfft2(planes) / (self.shape[0] * self.shape[1])
        # A frequency of the half plane also represents its mirror image, except in the columns that mirror themselves.
        spectrum[..., 1 : (self.shape[1] + 1) // 2] *= 2
        return spectrum

    def step(self, gradient: np.ndarray, step: int) -> None:
        """One step of Adam up the gradient, then the regularisers."""
        pulled = self.pull(gradient)
        self.first = 0.9 * self.first + 0.1 * pulled
        self.second = 0.999 * self.second + 0.001 * pulled**2
        ahead = self.first / (1 - 0.9 ** (step + 1))
        spread = np.sqrt(self.second / (1 - 0.999 ** (step + 1)))
        self.state += self.options.rate * ahead / (spread + 1e-8 * (spread.max() or 1))
        self.state *= 1 - self.options.decay


class Phases(Fourier):
    """x = σ(D F⁻¹(r ⊙ e^{iφ})): r the spectrum of photographs, whose magnitudes and mean color stay."""

    def __init__(
        self, options: DreamOptions, shape: tuple[int, int, int], rng: np.random.Generator, spectrum: np.ndarray
    ) -> None:
        super().__init__(options, shape, rng)
        if spectrum.shape != (shape[2], *self.scale.shape):
            raise InputError(f"the spectrum has the shape {spectrum.shape}, not {(shape[2], *self.scale.shape)}")
        self.magnitude = spectrum
        self.state = rng.uniform(-np.pi, np.pi, spectrum.shape)
        self.state[:, 0, 0] = 0
        self.first, self.second = np.zeros_like(self.state), np.zeros_like(self.state)

    @property
    def spectrum(self) -> np.ndarray:
        return np.asarray(self.magnitude * np.exp(1j * self.state))

    def pull(self, gradient: np.ndarray) -> np.ndarray:
        """∂a/∂φ = Re(∂a/∂s̄ · i s), 0 for the mean color"""
        along = self.pulled(gradient)
        turned = 1j * self.spectrum
        pulled = along.real * turned.real + along.imag * turned.imag
        pulled[:, 0, 0] = 0
        return np.asarray(pulled)


def mean_spectrum(pictures: Iterable[np.ndarray], options: DreamOptions | None = None) -> np.ndarray:
    """r of "maco": the mean magnitude of each frequency over photographs, and their mean color.

    Args:
        pictures: (H, W, 3) uint8 RGB, as the network sees them.

    Returns:
        (C, H, W // 2 + 1) float64, in the decorrelated colors of `options` before the sigmoid.

    Raises:
        InputError: there are no pictures.
    """
    axes = color_axes(options or DreamOptions(), 3)
    found = list[np.ndarray]()
    for picture in pictures:
        unit = np.clip(picture.astype(np.float64) / 255, 0.02, 0.98)
        planes = (np.log(unit / (1 - unit)) @ np.linalg.inv(axes).T).transpose(2, 0, 1)
        spectrum = np.fft.rfft2(planes)
        magnitude = np.abs(spectrum)
        magnitude[:, 0, 0] = spectrum[:, 0, 0].real
        found.append(magnitude)
    if not found:
        raise InputError("maco needs the spectrum of photographs", "give --photos, a folder of them")
    return np.mean(found, axis=0)


def color_axes(options: DreamOptions, channels: int) -> np.ndarray:
    """(C, C) the colors in which steps are taken, as columns."""
    if not options.decorrelate or channels != 3:
        return np.eye(channels, dtype=np.float32)
    return np.asarray(COLOURS / np.linalg.norm(COLOURS, axis=0).max())


class Pixels:
    """x itself, around ½, with Yosinski's regularisers."""

    def __init__(self, options: DreamOptions, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
        self.options = options
        self.state: np.ndarray = (0.02 * rng.standard_normal(shape)).astype(np.float32)

    def pixels(self) -> np.ndarray:
        """(H, W, C) in 0 … 1."""
        return np.clip(0.5 + self.state, 0, 1)

    def step(self, gradient: np.ndarray, step: int) -> None:
        """x ← r(x + η ∂a/∂x / mean |∂a/∂x|)"""
        options = self.options
        size = float(np.abs(gradient).mean()) or 1.0
        self.state = self.state + np.float32(0.01 * options.rate / size) * gradient
        self.state *= np.float32(1 - options.decay)
        if options.blur and (step + 1) % options.blur_every == 0:
            self.state = blur(self.state, options.blur)
        for percent, value in (
            (options.clip_norm, np.linalg.norm(self.state, axis=2)),
            (options.clip_contribution, np.abs((self.state * gradient).sum(axis=2))),
        ):
            if percent:
                self.state[value < np.percentile(value, percent)] = 0
        self.state = np.clip(self.state, -0.5, 0.5)


_PARAMETRIZATIONS: Mapping[str, Any] = {"fourier": Fourier, "maco": Phases, "pixels": Pixels}


def _parametrization(
    options: DreamOptions, shape: tuple[int, int, int], rng: np.random.Generator, spectrum: np.ndarray | None
) -> Any:
    if options.parametrization not in _PARAMETRIZATIONS:
        raise InputError(f"no parametrization {options.parametrization!r}", "choose fourier, maco or pixels")
    if options.steps < 1:
        raise InputError(f"steps must be at least 1, not {options.steps}")
    if options.parametrization != "maco":
        return _PARAMETRIZATIONS[options.parametrization](options, shape, rng)
    if spectrum is None:
        raise InputError("maco needs the spectrum of photographs", "give --photos, a folder of them")
    return Phases(options, shape, rng, spectrum)
