"""Keypoints: how near."""

from __future__ import annotations

import numpy as np

# Of COCO's 17 keypoints of a person, nose to ankles: cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py.
COCO_SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
SIGMA = 0.05  # of keypoints that are not COCO's: between its eyes and its shoulders


def sigmas_of(count: int) -> np.ndarray:
    """(count,) COCO's for 17 keypoints, else `SIGMA` each."""
    return COCO_SIGMAS if count == len(COCO_SIGMAS) else np.full(count, SIGMA)


def oks(a: np.ndarray, b: np.ndarray, area: float, sigmas: np.ndarray | None = None) -> float:
    """OKS = mean over keypoints visible in a of exp(−d² / (2 area (2 σ)²)), 0 where none is visible

    Args:
        a, b: (K, 3) x, y, visibility.
        area: of the object, in squared units of x and y; COCO's is that of its mask, half of its box or less.
        sigmas: (K,); `sigmas_of` where None.
    """
    sigmas = sigmas_of(len(a)) if sigmas is None else sigmas
    square = ((a[:, :2].astype(np.float64) - b[:, :2]) ** 2).sum(axis=1)
    alike = np.exp(-square / (2 * max(area, np.finfo(float).tiny) * (2 * sigmas) ** 2))
    seen = a[:, 2] > 0
    return float(alike[seen].mean()) if seen.any() else 0.0
