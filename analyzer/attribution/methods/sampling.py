"""Gradients with respect to the image, taken at many images: along a path, or around one."""

from __future__ import annotations

import numpy as np

from analyzer.attribution.evaluator import Evaluator, Found
from analyzer.attribution.layers import drawn_by_pixel
from analyzer.attribution.methods.perturbation import filled
from analyzer.attribution.registry import method
from analyzer.errors import InputError


@method("integrated-gradients", "gradient", "Sundararajan et al. 2017, 1703.01365, eq. 1", runs=True, views=("signed",))
def integrated_gradients(model: Evaluator, steps: int = 50, baseline: str | float = "zero") -> Found:
    """R = (x − x₀) ⊙ Σ_i w_i ∂y/∂x(x₀ + a_i (x − x₀)), a and w of Gauss–Legendre quadrature on [0, 1]

    Complete: Σ R = y(x) − y(x₀) up to the error of the quadrature, which `details["completeness"]` gives, beside
    `details["difference"]`, y(x) − y(x₀).

    Args:
        baseline: x₀, one of `FILLS` or a number.
    """
    if steps < 1:
        raise InputError(f"integrated-gradients needs steps ≥ 1, not {steps}")
    image = model.image.astype(np.float64)
    start = np.broadcast_to(filled(model, baseline), image.shape).astype(np.float64)
    points, weights = np.polynomial.legendre.leggauss(steps)
    along, weights = (points + 1) / 2, weights / 2
    total = np.zeros((len(model.slots), *image.shape))

    def add(indices: np.ndarray, gradients: np.ndarray) -> None:
        nonlocal total
        total += np.einsum("n,tn...->t...", weights[indices], gradients.astype(np.float64))

    model.gradients(lambda i: _between(start, image, along[i]), steps, add)
    ends = model.scores(lambda i: _between(start, image, i.astype(np.float64)), 2)
    raw = (image - start) * total
    difference = ends[:, 1].astype(np.float64) - ends[:, 0]
    completeness = raw.reshape(len(raw), -1).sum(axis=1) - difference
    return raw, {"completeness": completeness, "difference": difference}


def _between(start: np.ndarray, end: np.ndarray, at: np.ndarray) -> np.ndarray:
    at = at.reshape(-1, *[1] * start.ndim)
    return (start + at * (end - start)).astype(np.float32)


@method("smooth-grad", "gradient", "Smilkov et al. 2017, 1706.03825", runs=True, views=("map", "rgb"))
def smooth_grad(model: Evaluator, samples: int = 25, noise: float = 0.15, seed: int = 0) -> Found:
    """R = mean_n ∂y/∂x(x + ε_n), ε_n ~ N(0, σ²), σ = noise · (max x − min x)

    ε_n is the same for a pixel and channel whatever the layout of the input.
    """
    return _moments(model, samples, noise, seed)[0], {}


@method("var-grad", "gradient", "Adebayo et al. 2018, 1810.03307", runs=True, views=("map",))
def var_grad(model: Evaluator, samples: int = 25, noise: float = 0.15, seed: int = 0) -> Found:
    """R = var_n ∂y/∂x(x + ε_n), ε_n as in SmoothGrad"""
    mean, square = _moments(model, samples, noise, seed)
    return np.maximum(square - mean**2, 0), {}


def _moments(model: Evaluator, samples: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(T, …) mean and mean square of the gradients."""
    if samples < 1 or noise < 0:
        raise InputError(f"samples must be ≥ 1 and noise ≥ 0, not samples={samples}, noise={noise}")
    image = model.image
    sigma = noise * float(image.max() - image.min())
    sums = np.zeros((2, len(model.slots), *image.shape))

    def noisy(indices: np.ndarray) -> np.ndarray:
        rngs = [np.random.default_rng([seed, int(i)]) for i in indices]
        draws = [drawn_by_pixel(rng.standard_normal, image.shape, model.axes) for rng in rngs]
        return (image + sigma * np.stack(draws)).astype(np.float32)

    def add(indices: np.ndarray, gradients: np.ndarray) -> None:
        gradients = gradients.astype(np.float64)
        sums[0] += gradients.sum(axis=1)
        sums[1] += (gradients**2).sum(axis=1)

    model.gradients(noisy, samples, add)
    return sums[0] / samples, sums[1] / samples
