"""Many small tiles of equal size: patches of pictures, filters, and blocks of them side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.errors import InputError
from analyzer.images._opencv import opencv
from analyzer.images.draw import PAPER, figure
from analyzer.images.text import FAINT, INK, REGULAR, SEMIBOLD, clean, draw_text, shorten

GREY = (128, 128, 128)
BEYOND = (228, 230, 233)
MARK = (214, 48, 49)
WIDTH = 1600


@dataclass(frozen=True)
class Block:
    """A label over groups of tiles: each group is drawn as a square of `columns` tiles, groups side by side."""

    label: str
    groups: Sequence[Sequence[np.ndarray]]
    remark: str = ""


def patch(
    image: np.ndarray,
    window: Sequence[tuple[int, int]],
    size: tuple[int, int],
    fill: tuple[int, int, int] = BEYOND,
) -> np.ndarray:
    """The pixels of `image` in a window, on a canvas of `size`: what lies beyond the border is `fill`.

    Args:
        image: (H, W, 3) uint8 RGB.
        window: (start, stop) of the rows and of the columns; may reach over the border.
        size: (height, width) of the canvas, at least that of the part inside.
    """
    (y0, y1), (x0, x1) = ((max(a, 0), min(b, s)) for (a, b), s in zip(window, image.shape, strict=False))
    part = image[y0:y1, x0:x1]
    canvas = np.full((*size, 3), fill, np.uint8)
    top = min(max(0, y0 - window[0][0]), max(0, size[0] - part.shape[0]))
    left = min(max(0, x0 - window[1][0]), max(0, size[1] - part.shape[1]))
    part = part[: size[0], : size[1]]
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return canvas


def tile(picture: np.ndarray, side: int) -> np.ndarray:
    """`picture` with its long side `side`; the pixels of tiny ones stay square."""
    cv2 = opencv()
    factor = side / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
    crisp = factor > 1 and max(picture.shape[:2]) <= 32
    smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST if crisp else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(picture, size, interpolation=smooth))


def tile_square(
    tiles: Sequence[np.ndarray], columns: int, side: int, gap: int = 2, ground: tuple[int, int, int] = PAPER
) -> np.ndarray:
    """Tiles in rows of `columns`, all on squares of `side` pixels."""
    rows = math.ceil(len(tiles) / columns)
    canvas = np.full((rows * (side + gap) - gap, columns * (side + gap) - gap, 3), ground, np.uint8)
    for index, each in enumerate(tiles):
        drawn = tile(each, side)
        top, left = index // columns * (side + gap), index % columns * (side + gap)
        top, left = top + (side - drawn.shape[0]) // 2, left + (side - drawn.shape[1]) // 2
        canvas[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return canvas


def mosaic(
    blocks: Sequence[Block],
    title: str = "",
    side: int = 0,
    columns: int = 0,
    ground: tuple[int, int, int] = PAPER,
) -> np.ndarray:
    """Blocks in rows, each under its label, on white under a title.

    Args:
        side: pixels of a tile; by the size of the tiles unless given.
        columns: tiles per row of a group; the root of their number unless given.
        ground: colour between tiles.
    """
    if not blocks:
        raise InputError("nothing to draw")
    largest = max(max(t.shape[:2]) for b in blocks for g in b.groups for t in g)
    side = side or (largest * max(1, round(88 / largest)) if largest < 64 else min(largest, 112))
    drawn = []
    for block in blocks:
        groups = [tile_square(g, columns or math.ceil(math.sqrt(len(g))), side, 2, ground) for g in block.groups]
        drawn.append(_beside(groups, 6))
    height, width = (max(d.shape[axis] for d in drawn) for axis in (0, 1))
    across = max(1, min(len(drawn), round((WIDTH + 18) / (width + 18))))
    size = 13
    strip, gap = 20 if any(b.label for b in blocks) else 0, 18
    rows = math.ceil(len(drawn) / across)
    canvas = np.full((rows * (height + strip + gap) - gap, across * (width + gap) - gap, 3), PAPER, np.uint8)
    for index, (block, picture) in enumerate(zip(blocks, drawn, strict=True)):
        top, left = index // across * (height + strip + gap), index % across * (width + gap)
        label = shorten(clean(f"{block.label}  {block.remark}".strip()), width, size, SEMIBOLD)
        draw_text(canvas, label, left, top + 14, size, INK if not block.remark else FAINT, SEMIBOLD)
        canvas[top + strip : top + strip + picture.shape[0], left : left + picture.shape[1]] = picture
    return figure(canvas, title)


def strip(rows: Sequence[Block], headings: Sequence[str], title: str = "", side: int = 96) -> np.ndarray:
    """A table of pictures: the groups of each block are the cells of its row, under the headings.

    Every group holds the tiles that are drawn below one another in its cell.
    """
    size, gap = 13, 6
    margin = 110
    deep = max((len(g) for r in rows for g in r.groups), default=1)
    high = deep * (side + 2) + gap
    canvas = np.full((24 + len(rows) * high, margin + len(headings) * (side + gap), 3), PAPER, np.uint8)
    for column, heading in enumerate(headings):
        draw_text(canvas, shorten(clean(heading), side, size), margin + column * (side + gap), 15, size, INK, REGULAR)
    for at, row in enumerate(rows):
        top = 24 + at * high
        draw_text(canvas, shorten(clean(row.label), margin - 8, size, SEMIBOLD), 0, top + 16, size, INK, SEMIBOLD)
        draw_text(canvas, shorten(clean(row.remark), margin - 8, size - 2), 0, top + 34, size - 2, FAINT, REGULAR)
        for column, group in enumerate(row.groups):
            left = margin + column * (side + gap)
            for index, each in enumerate(group):
                picture = tile(each, side)
                y = top + index * (side + 2)
                canvas[y : y + picture.shape[0], left : left + picture.shape[1]] = picture
    return figure(canvas, title)


def framed(picture: np.ndarray, colour: tuple[int, int, int] = MARK, width: int = 0) -> np.ndarray:
    """`picture` with a frame drawn over its border."""
    result = picture.copy()
    width = width or max(1, round(max(picture.shape[:2]) / 24))
    result[:width], result[-width:], result[:, :width], result[:, -width:] = (colour,) * 4
    return result


def stacked(pictures: Sequence[np.ndarray], across: bool = False) -> np.ndarray:
    """Pictures of any size below one another, or side by side, on white."""
    axis = 1 if across else 0
    longest = max(each.shape[1 - axis] for each in pictures)
    padded = []
    for each in pictures:
        more = [(0, 0), (0, 0), (0, 0)]
        more[1 - axis] = (0, longest - each.shape[1 - axis])
        padded.append(np.pad(each, more, constant_values=PAPER[0]))
    return np.concatenate(padded, axis=axis)


def _beside(pictures: Sequence[np.ndarray], gap: int) -> np.ndarray:
    height = max(p.shape[0] for p in pictures)
    canvas = np.full((height, sum(p.shape[1] + gap for p in pictures) - gap, 3), PAPER, np.uint8)
    left = 0
    for picture in pictures:
        canvas[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + gap
    return canvas
