"""Masks from picture files."""

from __future__ import annotations

import os

import numpy as np

from analyzer.images.decode import decode
from analyzer.images.preprocess import Preprocess


def read_mask(path: str | os.PathLike[str], preprocess: Preprocess) -> np.ndarray:
    """(H, W) bool: pixels of the model's input that the mask selects, those above half its maximum.

    Args:
        preprocess: preprocessing of the pictures that the mask belongs to.
    """
    placed = preprocess.replace(mean=(0.0,), std=(1.0,), scale=1.0, dtype="float32")
    pixels = placed.apply(decode(path))[0][0]
    grey: np.ndarray = pixels.max(axis=preprocess.layout.index("C") - 1)
    return grey > grey.max() / 2
