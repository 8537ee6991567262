"""What a model's input says about its preprocessing, and what only custom does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analyzer.errors import InputError
from analyzer.images.preprocess import DTYPES, Preprocess

DYNAMIC_SIZE = 224  # of classifiers; tasks that others are usual for say so (`Task.usual`)
MOST_BANDS = 32  # an input of more channels holds features, not a picture

# 3 says more than 1, which may be a size or a batch; 4 may be either axis of a tiny picture.
_SAYS = {3: 3, 4: 2, 1: 1}


class InputGuess:
    """A picture input of rank 4, or 3 without its batch; dynamic sizes are None, a name or −1.

    `layout` is where the channel axis is, NCHW where nothing tells; `known_layout` says whether something did.

    Raises:
        InputError: the rank or the element type is not a picture's.
    """

    def __init__(self, shape: Sequence[int | str | None] | None, dtype: Any) -> None:
        self.dtype = _dtype_name(dtype)
        self.known = shape is not None
        self.text = self.dtype + ("" if shape is None else f"[{', '.join(map(_dim, shape))}]")
        if shape is not None and len(shape) not in (3, 4):
            raise InputError(
                f"the model's input {self.text} is not a picture: its shape must be (N, C, H, W) or (N, H, W, C)",
                "pass the input as a .npy array",
            )
        dims = [None] * 3 if shape is None else list(shape)[-3:]
        self.dims = [d if isinstance(d, int) and d > 0 else None for d in dims]
        first, last = (_SAYS.get(self.dims[axis] or 0, 0) for axis in (0, 2))
        self.layout = "NHWC" if last > first else "NCHW"
        self.known_layout = first + last > 0

    def channel_count(self, layout: str) -> int | None:
        return self.dims[0 if layout == "NCHW" else 2]

    def sides(self, layout: str) -> list[int | None]:
        """Height and width, None where dynamic."""
        return self.dims[1:] if layout == "NCHW" else self.dims[:2]

    def opened(self, layout: str, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the input, those of `size` where they are dynamic."""
        height, width = (side or given for side, given in zip(self.sides(layout), size, strict=True))
        return height, width

    def geometry(self, layout: str) -> dict[str, Any]:
        """The fields of `Preprocess` that shape and type give; 224 for a dynamic side."""
        height, width = self.opened(layout, (DYNAMIC_SIZE, DYNAMIC_SIZE))
        count = self.channel_count(layout)
        channels = {1: "GRAY", 4: "RGBA"}.get(count or 3, "RGB")
        if count is not None and count != 3 and channels == "RGB" and count <= MOST_BANDS:
            channels = str(count)
        return {"layout": layout, "channels": channels, "size": (height, width), "dtype": self.dtype}

    def check(self, chosen: Preprocess) -> None:
        """The input takes what `chosen` makes.

        Raises:
            InputError: it has other channels, another size or another type.
        """
        count, wanted = self.channel_count(chosen.layout), chosen.channel_count
        if count is not None and count != wanted:
            raise InputError(
                f"the input {self.text} has {count} channels as {chosen.layout}, {chosen.colors} has {wanted}",
                "set layout or channels, or give the input as a .npy array",
            )
        sides = self.sides(chosen.layout)
        if chosen.size and any(side not in (None, given) for side, given in zip(sides, chosen.size, strict=True)):
            raise InputError(
                f"size {chosen.size[0]}×{chosen.size[1]} does not fit the model's input {self.text} as {chosen.layout}",
                "omit size: the input fixes it",
            )
        if self.known and chosen.dtype != self.dtype:
            raise InputError(
                f"dtype {chosen.dtype} does not fit the model's input {self.text}",
                "omit dtype: the input fixes it",
            )


def customary_preset(layout: str, channels: str, dtype: str) -> str:
    """raw for integers, 0-1 for all but RGB, −1 … 1 for NHWC (Keras, TensorFlow), ImageNet's statistics for NCHW."""
    if "int" in dtype:
        return "raw"
    if channels not in ("RGB", "BGR"):
        return "0-1"
    return "imagenet" if layout == "NCHW" else "-1-1"


def _dtype_name(dtype: Any) -> str:
    try:
        name = np.dtype("float32" if dtype is None else dtype).name
    except TypeError as error:
        raise InputError(f"a model input of type {dtype!r} cannot be a picture") from error
    if name not in DTYPES:
        raise InputError(f"a model input of type {name} cannot be a picture", "pass the input as a .npy array")
    return name


def _dim(dim: int | str | None) -> str:
    return "?" if dim is None or dim == -1 else str(dim)
