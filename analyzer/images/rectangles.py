"""Rectangles, in any direction, around connected parts of a mask."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analyzer.images._opencv import opencv


@dataclass(frozen=True)
class Rectangle:
    """Centre x and y, width and height, and the angle of the width in degrees, clockwise."""

    centre: tuple[float, float]
    size: tuple[float, float]
    angle: float

    @property
    def corners(self) -> np.ndarray:
        """(4, 2) x and y, one after the other."""
        return np.asarray(opencv().boxPoints((self.centre, self.size, self.angle)), np.float64)

    def grown(self, by: float) -> Rectangle:
        """Each side moved outwards."""
        return replace(self, size=(self.size[0] + 2 * by, self.size[1] + 2 * by))

    def mean(self, values: np.ndarray) -> float:
        """The mean of (H, W) values over the pixels inside, its edge included."""
        cv2 = opencv()
        inside = np.zeros(values.shape, np.uint8)
        cv2.fillPoly(inside, [self.corners.astype(np.int32)], 1)
        return float(cv2.mean(np.asarray(values, np.float32), inside)[0])


def rectangles(mask: np.ndarray) -> list[Rectangle]:
    """The smallest rectangle around every outline of an (H, W) bool mask, in coordinates of the middles of its pixels.

    Outlines of holes are among them.
    """
    cv2 = opencv()
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return [Rectangle(*cv2.minAreaRect(each)) for each in outlines]
