"""What a dream optimizes instead of pixels: Fourier coefficients, their phases alone, or the pixels after all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from analyzer.deprecated import renamed_argument, renamed_attribute
from analyzer.errors import InputError
from analyzer.images.warp import blur

# The square root of the covariance of ImageNet's colors, lucid's.
COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], np.float32)


START = 0.2  # standard deviation of the coefficients at the start; lucid's 0.01 is so gray that deep units are silent


@renamed_argument("parametrisation", "parametrization")
@dataclass(frozen=True)
class DreamOptions:
    """Options of the optimization; the defaults are lucid's, with fewer steps and stronger noise at the start.

    Attributes:
        steps, rate: number of steps and learning rate, of Adam for "fourier" and "maco" and of normalized ascent for
            "pixels", where a rate of 1 is 1/100 of the range of values.
        parametrization: "fourier" (decorrelated frequencies, each scaled by 1/f), "maco" (their phases; the
            magnitudes are those of photographs: Fel et al. 2023, 2306.06805, but with the transforms below in place of
            16 and more noisy crops per step), or "pixels".
        decorrelate: use the principal axes of ImageNet's colors, so that steps are equally large along each.
        jitter: largest shift of the picture in pixels, per step.
        degrees: largest rotation, per step. rescale: scale by a random factor from 0.9 to 1.1. What comes in is gray.
        decay: share of x − ½ that is subtracted per step (Yosinski's θ_decay).
        blur: sigma of the Gaussian applied every `blur_every` steps (θ_b_width, θ_b_every).
        clip_norm: percentage of pixels, those with the smallest norm, that are set to ½ (θ_n_pct).
        clip_contribution: percentage of pixels, those with the smallest |Σ x ⊙ ∂a/∂x|, that are set to ½ (θ_c_pct).
        seed: seed of all random numbers.
        picture_size: (height, width) of the picture, if larger than the model's input: tiles of it are seen, at an
            offset that is random per step. It continues at its opposite border.
        variants: number of pictures of each unit.
        diversity: weight d of what keeps them apart: each maximizes a − d |a| p, with p the mean cosine of the Gram
            matrix of its feature maps with those of the others.
    """

    steps: int = 128
    rate: float = 0.05
    parametrization: str = "fourier"
    decorrelate: bool = True
    jitter: int = 8
    degrees: float = 10.0
    rescale: bool = True
    decay: float = 0.0
    blur: float = 0.0
    blur_every: int = 4
    clip_norm: float = 0.0
    clip_contribution: float = 0.0
    seed: int = 0
    picture_size: tuple[int, int] | None = None
    variants: int = 1
    diversity: float = 0.5

    parametrisation = renamed_attribute("parametrisation", "parametrization")


class Fourier:
    """x = σ(D F⁻¹(s ⊙ z)): frequencies scaled by 1/f, colors decorrelated, climbed by Adam."""

    def __init__(self, options: DreamOptions, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
        height, width, channels = shape
        rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
        self.scale = np.sqrt(height * width) / np.maximum(np.hypot(rows, columns), 1 / max(height, width)) / 4
        self.shape, self.options = shape, options
        self.state: np.ndarray = START * rng.standard_normal((2, channels, *self.scale.shape))
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
        """One step of Adam up the gradient, then the regularizers."""
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
    """x itself, around ½, with Yosinski's regularizers."""

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


def parametrized(
    options: DreamOptions,
    shape: tuple[int, int, int],
    rng: np.random.Generator,
    spectrum: np.ndarray | None = None,
) -> Fourier | Phases | Pixels:
    """The start of a picture (H, W, C).

    Raises:
        InputError: invalid options, or no spectrum for maco.
    """
    for name in ("steps", "variants"):
        if getattr(options, name) < 1:
            raise InputError(f"{name} must be at least 1, not {getattr(options, name)}")
    if options.parametrization == "fourier":
        return Fourier(options, shape, rng)
    if options.parametrization == "pixels":
        return Pixels(options, shape, rng)
    if options.parametrization != "maco":
        raise InputError(f"no parametrization {options.parametrization!r}", "choose fourier, maco or pixels")
    if spectrum is None:
        raise InputError("maco needs the spectrum of photographs", "give --photos, a folder of them")
    return Phases(options, shape, rng, spectrum)
