"""How a method's maps are drawn: its numbers, its views and its scale, for whatever shows them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyzer.attribution.registry import METHODS
from analyzer.attribution.result import Attribution
from analyzer.images import Fed, Found, Map
from analyzer.images.draw import LARGEST


def maps_of(
    attribution: Attribution, row: int, fed: Fed, channels: str = "RGB", title: str = "", found: Sequence[Found] = ()
) -> list[Map]:
    """The map of a row, as `drawn_as`.

    Args:
        channels: RGB or BGR, the order of the model's channels.
    """
    pixels = attribution.channels(row)
    if pixels is not None and pixels.shape[-1] == 3 and channels == "BGR":
        pixels = pixels[..., ::-1]
    return drawn_as(attribution.method, fed, attribution.in_units(row), pixels, title, found)


def drawn_as(
    method: str,
    fed: Fed,
    values: np.ndarray,
    channels: np.ndarray | None = None,
    title: str = "",
    found: Sequence[Found] = (),
) -> list[Map]:
    """A map as its method is drawn: one, of a clip or a volume one per frame.

    Args:
        fed: the picture.
        values: ([frames,] H, W) over the input, in the numbers of the method.
        channels: (…, H, W, C) signed numbers of the pixels in RGB order; without them pixels are drawn by magnitude.
        found: what is drawn under the heat.
    """
    how = METHODS[method]
    fine = how.kind == "gradient"
    views = ("map",) if fine and channels is None else how.views

    shown, whole = fed.image.shape[:2], fed.placement.image_size
    if shown != whole:
        found = [one.scaled(shown[1] / whole[1], shown[0] / whole[0]) for one in found]

    def made(image: np.ndarray, values: np.ndarray, pixels: np.ndarray | None, title: str) -> Map:
        pixels = None if pixels is None else fed.laid(pixels, LARGEST)
        return Map(image, fed.laid(values, LARGEST), pixels, fine, views, how.from_zero, title, method, found)

    if values.ndim == 2:
        return [made(fed.image, values, channels, title)]
    return [
        made(image, values[at], None if channels is None else channels[at], title if at == 0 else f"frame {at}")
        for at, image in enumerate(fed.frames)
    ]
