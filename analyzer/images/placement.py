"""Where the network's pixels come from: one affine map per axis, `input = image · scale + offset`.

Coordinates are continuous and x comes first in points and boxes: pixel i spans [i, i + 1), its centre is i + ½. So a
picture of width W spans [0, W] whatever its resolution, and a map of any resolution lies over it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from analyzer.errors import InputError
from analyzer.images.resample import sample

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Placement:
    """The picture's place in the network's input; sizes, `scale` and `offset` are (vertical, horizontal)."""

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    def point_to_input(self, x: float, y: float) -> tuple[float, float]:
        """A point of the picture in the network's input."""
        return x * self.scale[1] + self.offset[1], y * self.scale[0] + self.offset[0]

    def point_to_image(self, x: float, y: float) -> tuple[float, float]:
        """A point of the network's input in the picture; may lie outside where the input is padding."""
        return (x - self.offset[1]) / self.scale[1], (y - self.offset[0]) / self.scale[0]

    def box_to_input(self, box: Box) -> Box:
        """(x0, y0, x1, y1) of the picture in the network's input; not clipped."""
        return *self.point_to_input(*box[:2]), *self.point_to_input(*box[2:])

    def box_to_image(self, box: Box) -> Box:
        """(x0, y0, x1, y1) of the network's input in the picture; not clipped."""
        return *self.point_to_image(*box[:2]), *self.point_to_image(*box[2:])

    def at(self, size: tuple[int, int]) -> Placement:
        """Of the same picture at another size, (height, width)."""
        scale = [s * old / new for s, old, new in zip(self.scale, self.image_size, size, strict=True)]
        return replace(self, image_size=size, scale=(scale[0], scale[1]))

    @property
    def covered_box(self) -> Box:
        """The part of the picture the network saw, (x0, y0, x1, y1): all of it unless it was cropped."""
        height, width = self.image_size
        x0, y0, x1, y1 = self.box_to_image((0, 0, self.input_size[1], self.input_size[0]))
        return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))

    @property
    def content_box(self) -> Box:
        """The part of the network's input that is picture, (x0, y0, x1, y1): all of it unless it was padded."""
        return self.box_to_input(self.covered_box)

    @property
    def covered(self) -> np.ndarray:
        """(H, W) bool: pixels of the picture whose centre the network saw."""
        rows, columns = self._covered()
        return rows[:, None] & columns

    @cached_property
    def whole(self) -> bool:
        """Whether the network saw all of the picture."""
        axes = zip(self.image_size, self.input_size, self.scale, self.offset, strict=True)
        return all(0.5 * s + o > 0 and (size - 0.5) * s + o < length for size, length, s, o in axes)

    def near(self, axis: int, count: int) -> np.ndarray:
        """Pixels of the picture, along an axis, among which those are where a map of `count` values is highest: the
        last before and the first after each of its centers, and both ends of what the network saw."""
        centers = (np.arange(count) + 0.5) * self.input_size[axis] / count
        at = (centers - self.offset[axis]) / self.scale[axis] - 0.5
        seen = np.flatnonzero(self._covered()[axis])
        found = np.concatenate([np.floor(at), np.ceil(at), seen[[0, -1]]]).astype(int)
        return np.unique(np.clip(found, seen[0], seen[-1]))

    def map_to_image(
        self, heat: np.ndarray, at_rows: np.ndarray | None = None, at_columns: np.ndarray | None = None
    ) -> np.ndarray:
        """A map over the network's input as (H, W, …) float32 in the picture's own pixels.

        Bilinear with half-pixel centres, as cv2.resize and ONNX Resize; smoothed where the map is finer than the
        picture. 0 where the network saw nothing (see `covered`); what lies on padding is dropped.

        Args:
            heat: (h, w) or (h, w, …) of any resolution, lying over the whole network input.
            at_rows, at_columns: pixels of the picture that the network saw; all of the picture unless given.
        """
        if heat.ndim < 2 or 0 in heat.shape[:2]:
            raise InputError(f"a map of shape {heat.shape} has no height and width, so it cannot be placed")
        moved = self.scale != (1.0, 1.0) or self.offset != (0.0, 0.0)
        if not moved and tuple(heat.shape[:2]) == self.input_size == self.image_size:
            return heat.astype(np.float32)
        finer = [heat.shape[axis] / self.input_size[axis] for axis in (0, 1)]
        rows, columns = self.centres()
        if at_rows is not None and at_columns is not None:
            rows, columns = rows[at_rows], columns[at_columns]
        steps = (self.scale[0] * finer[0], self.scale[1] * finer[1])
        result = sample(heat, rows * finer[0], columns * finer[1], steps)
        if not self.whole and at_rows is None:
            result[~self.covered] = 0
        return result

    def _covered(self) -> tuple[np.ndarray, ...]:
        """`covered` per axis."""
        return tuple((c > 0) & (c < size) for c, size in zip(self.centres(), self.input_size, strict=True))

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel centres of the picture, in network input coordinates, per axis."""
        rows, columns = (
            (np.arange(size) + 0.5) * scale + offset
            for size, scale, offset in zip(self.image_size, self.scale, self.offset, strict=True)
        )
        return rows, columns
