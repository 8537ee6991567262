"""What takes the place of a hidden part of an image: its blurred self, or what the surroundings suggest."""

from __future__ import annotations

import numpy as np

from analyzer.images._opencv import opencv


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W, C) float32 under a Gaussian of `sigma` pixels; mirrored at the borders."""
    blurred = opencv().GaussianBlur(np.ascontiguousarray(image, np.float32), (0, 0), sigma)
    return np.asarray(blurred, np.float32).reshape(image.shape)


def inpaint(image: np.ndarray, mask: np.ndarray, radius: float = 3) -> np.ndarray:
    """`image` with the pixels of `mask` continued from their surroundings (Telea 2004), in 256 levels per channel.

    Args:
        image: (H, W, C) float32, of any range of values.
        mask: (H, W) bool.
    """
    low = image.min(axis=(0, 1))
    reach = image.max(axis=(0, 1)) - low
    levels = np.rint((image - low) / np.where(reach == 0, 1, reach) * 255).astype(np.uint8)
    cv2 = opencv()
    hidden = mask.astype(np.uint8)
    channels = [
        cv2.inpaint(np.ascontiguousarray(levels[..., c]), hidden, radius, cv2.INPAINT_TELEA)
        for c in range(image.shape[2])
    ]
    continued = np.stack(channels, axis=-1).astype(np.float32) / 255 * reach + low
    return np.where(mask[..., None], continued, image).astype(np.float32)
