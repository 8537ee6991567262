"""Warps: pictures moved, scaled and turned, as one linear map with its adjoint.

y_i = Σ_j W_ij x_j, bilinear, with pixel centres at i + ½. Coordinates (x, y) are relative to the centre of the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analyzer.errors import InputError


@dataclass(frozen=True)
class Warp:
    """A bilinear resampling of pictures of one size.

    Attributes:
        size: (height, width) of the pictures, before and after.
        indices, weights: (pixels, 4) the pixels that each output pixel is a mean of.
        outside: (pixels,) output pixels that lie beyond the picture.
    """

    size: tuple[int, int]
    indices: np.ndarray
    weights: np.ndarray
    outside: np.ndarray

    @classmethod
    def affine(
        cls,
        size: tuple[int, int],
        shift: tuple[float, float] = (0.0, 0.0),
        scale: float = 1.0,
        degrees: float = 0.0,
    ) -> Warp:
        """The picture scaled about its centre, turned anticlockwise, and then moved by `shift` (right, down) pixels."""
        if scale <= 0 or not math.isfinite(scale):
            raise InputError(f"the scale must be above 0, not {scale}")
        height, width = size
        y, x = np.mgrid[:height, :width].astype(np.float64)
        x, y = x + 0.5 - width / 2 - shift[0], y + 0.5 - height / 2 - shift[1]
        cos, sin = (f(math.radians(degrees)) / scale for f in (math.cos, math.sin))
        columns = cos * x - sin * y + width / 2 - 0.5
        rows = sin * x + cos * y + height / 2 - 0.5
        slack = 1e-6
        beyond = (rows < -0.5 - slack) | (rows > height - 0.5 + slack)
        beyond |= (columns < -0.5 - slack) | (columns > width - 0.5 + slack)
        rows, columns = np.clip(rows, 0, height - 1).ravel(), np.clip(columns, 0, width - 1).ravel()
        top, left = np.floor(rows + 1e-9).astype(np.int64), np.floor(columns + 1e-9).astype(np.int64)
        down, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
        low, near = (rows - top).clip(0), (columns - left).clip(0)
        indices = np.stack([top * width + left, top * width + right, down * width + left, down * width + right], 1)
        weights = np.stack([(1 - low) * (1 - near), (1 - low) * near, low * (1 - near), low * near], 1)
        return cls((height, width), indices, weights.astype(np.float32), beyond.ravel())

    def apply(self, image: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """(H, W, C) warped; `fill` beyond the picture. uint8 is rounded, other types are kept as float32."""
        flat = image.reshape(-1, image.shape[2]).astype(np.float32)
        mixed = np.einsum("pk,pkc->pc", self.weights, flat[self.indices])
        mixed[self.outside] = fill
        result = mixed.reshape(image.shape)
        return np.clip(np.rint(result), 0, 255).astype(np.uint8) if image.dtype == np.uint8 else result

    def adjoint(self, gradient: np.ndarray) -> np.ndarray:
        """Wᵀ: (H, W, C) gradient of the result to that of the picture."""
        flat = gradient.reshape(-1, gradient.shape[2]).astype(np.float64)
        flat[self.outside] = 0
        count = len(self.indices)
        spread = (self.weights[:, :, None] * flat[:, None, :]).reshape(-1, gradient.shape[2])
        places = self.indices.ravel()
        planes = [np.bincount(places, spread[:, c], count) for c in range(gradient.shape[2])]
        return np.stack(planes, axis=1).reshape(gradient.shape).astype(np.float32)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W, C) float32 smoothed by a Gaussian of `sigma` pixels."""
    from analyzer.images._opencv import opencv

    smooth = opencv().GaussianBlur(np.ascontiguousarray(image, np.float32), (0, 0), sigma)
    return smooth.reshape(image.shape)
