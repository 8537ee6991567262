"""Figures: a picture with a heat map over it, its title above and its colour bar at the right.

Everything is (H, W, 3) uint8 RGB on white. Small pictures are enlarged so that labels can be read, large ones shrunk.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from analyzer.errors import InputError, suggest
from analyzer.images._opencv import opencv
from analyzer.images.colour import colormap, colourise
from analyzer.images.skeleton import bones_of
from analyzer.images.text import FAINT, INK, SEMIBOLD, clean, draw_text, shorten, text_width, wrap

SMALLEST, LARGEST = 448, 1024
SMALLEST_TEXT = 11
PAPER = (255, 255, 255)
RULE = (189, 193, 198)


@dataclass(frozen=True)
class ColourBar:
    """The scale of a figure: `ticks` are values and their words, numbers at round values unless given."""

    colormap: str = "turbo"
    low: float = 0.0
    high: float = 1.0
    ticks: Mapping[float, str] | None = None


@dataclass(frozen=True)
class Found:
    """Something that was found in a picture, in its continuous coordinates.

    Attributes:
        name: its class, which has a colour of its own; "" for no label.
        score: written after the name; None for none.
        box: x0, y0, x1, y1.
        corners: x, y of the four corners of a box that is not upright; () for others.
        points: x, y and visibility of each keypoint, in the order of a known set where lines are to join them.
        strong: whether it is the one that is explained: its lines are thicker.
        chosen: the keypoint that is explained.
        mask: (H, W) its pixels, of the picture at any size; None for none.
    """

    name: str = ""
    score: float | None = None
    box: Sequence[float] | None = None
    points: Sequence[Sequence[float]] = ()
    strong: bool = False
    chosen: int | None = None
    mask: np.ndarray | None = field(default=None, compare=False)
    corners: Sequence[Sequence[float]] = ()

    def scaled(self, across: float, down: float) -> Found:
        """The same in a picture of another size."""
        box = None if self.box is None else [at * (across, down)[i % 2] for i, at in enumerate(self.box)]
        points = [(x * across, y * down, seen) for x, y, seen in self.points]
        corners = [(x * across, y * down) for x, y in self.corners]
        return replace(self, box=box, points=points, corners=corners)


# ---- the public figures ------------------------------------------------------------------------------------


def signed_view(gradient: np.ndarray, mode: str = "signed", *, title: str = "", colorbar: bool = False) -> np.ndarray:
    """A gradient-like map as a picture of its own size, or as a figure where a title or a colour bar is asked for.

    Args:
        gradient: (H, W) or (H, W, C) real values, channels in RGB order.
        mode: signed: the sum over the channels, blue below zero, white at it, red above, full at the 99.5th percentile
            of its magnitude; normalised: RGB `½ + x / (2 · p99.5 |x|)`, mean grey where nothing happens (Zeiler &
            Fergus 2014, Springenberg et al. 2014).
    """
    values = np.asarray(gradient, np.float32)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or 0 in values.shape or (mode == "normalised" and values.shape[2] not in (1, 3)):
        raise InputError(f"a gradient of shape {np.shape(gradient)} is not (H, W) or (H, W, channels)")
    if mode not in _VIEWS:
        raise InputError(f"no gradient view {mode!r}", suggest(mode, _VIEWS) or ", ".join(_VIEWS))
    picture, bar = _VIEWS[mode](values)
    if not (title or colorbar):
        return picture
    return figure(fit(picture), title, bar if colorbar else None)


def draw_boxes(
    image: np.ndarray,
    boxes: Iterable[Sequence[float]],
    labels: Sequence[str] | None = None,
    *,
    title: str = "",
) -> np.ndarray:
    """The picture with labelled boxes (x0, y0, x1, y1) in its own continuous coordinates.

    One colour per class: the label without a score at its end.
    """
    _picture(image)
    corners = np.asarray([list(box) for box in boxes], np.float64).reshape(-1, 4)
    names = [clean(str(label)) for label in labels] if labels is not None else [""] * len(corners)
    if len(names) != len(corners):
        raise InputError(f"{len(corners)} boxes and {len(names)} labels")
    shown = fit(image).copy()
    factor = np.tile([shown.shape[1] / image.shape[1], shown.shape[0] / image.shape[0]], 2)
    classes = [re.sub(r"[\s:]*[\d.,]*%?$", "", name) for name in names]
    colours = {each: _BOX_COLOURS[at % len(_BOX_COLOURS)] for at, each in enumerate(dict.fromkeys(classes))}
    size = text_size(shown)
    places = np.rint(corners * factor).clip(-(1 << 15), 1 << 15).astype(int).tolist()
    for box, each in zip(places, classes, strict=True):
        opencv().rectangle(shown, box[:2], box[2:], colours[each], max(2, size // 6), opencv().LINE_AA)
    for box, name, each in zip(places, names, classes, strict=True):
        _tag(shown, name, box, colours[each], size)
    return figure(shown, title) if title else shown


def draw_found(image: np.ndarray, found: Sequence[Found], *, title: str = "") -> np.ndarray:
    """The picture with what was found in it: boxes with label and score, keypoints and what joins them.

    One colour per name. Lines and letters are as large as the picture needs them; a label that has no place where it
    covers no other is left out, unless it is of what is explained.
    """
    _picture(image)
    shown = fit(image)
    drawn = with_found(shown, found, _factor(image, shown))
    return figure(drawn, title) if title else drawn


def draw_mask(image: np.ndarray, mask: np.ndarray, *, alpha: float = 0.55) -> np.ndarray:
    """The picture with a colour over every class of a segmentation, and the outline of each.

    Args:
        mask: (H, W) class of every pixel of the picture, 0 for none.
    """
    _picture(image)
    shown = fit(image).copy()
    height, width = shown.shape[:2]
    rows = (np.arange(height) * mask.shape[0] // height)[:, None]
    classes = np.asarray(mask)[rows, np.arange(width) * mask.shape[1] // width]
    result = 0.6 * grey(shown) + 0.4 * shown
    for index in np.unique(classes[classes != 0]).tolist():
        colour = np.array(_BOX_COLOURS[(index - 1) % len(_BOX_COLOURS)], np.float64)
        inside = classes == index
        result[inside] += alpha * (colour - result[inside])
        outlines, _ = opencv().findContours(inside.astype(np.uint8), opencv().RETR_LIST, opencv().CHAIN_APPROX_NONE)
        result = np.ascontiguousarray(result)
        opencv().drawContours(result, outlines, -1, colour.tolist(), max(1, height // 300))
    return np.rint(np.clip(result, 0, 255)).astype(np.uint8)


def figure(picture: np.ndarray, title: str = "", bar: ColourBar | None = None) -> np.ndarray:
    """`picture` on white with its title above and its colour bar at the right, nothing resized."""
    size = text_size(picture)
    drawn = beside_bar(picture, bar, size)
    width = max(drawn.shape[1], 16 * size if title else 0)
    lines, letter = _fitted(title, width, round(1.2 * size))
    above = round(1.45 * letter) * len(lines) + (size // 2 if lines else 0)
    canvas = np.full((size + above + drawn.shape[0] + size, size + width + size, 3), PAPER, np.uint8)
    for row, line in enumerate(lines):
        draw_text(canvas, line, size, size + round((1.45 * row + 1) * letter), letter, INK, SEMIBOLD)
    top, left = size + above, size + (width - drawn.shape[1]) // 2
    canvas[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return canvas


def beside_bar(picture: np.ndarray, bar: ColourBar | None, size: int) -> np.ndarray:
    """`picture` on white with its colour bar at the right, labels in letters of `size`."""
    if bar is None:
        return picture
    height = max(picture.shape[0], 9 * size)
    ticks = _ticks(bar, height, size)
    words = max((text_width(word, size) for _, word in ticks), default=0)
    canvas = np.full((height, picture.shape[1] + size + size + size // 2 + words + 4, 3), PAPER, np.uint8)
    down = (height - picture.shape[0]) // 2
    canvas[down : down + picture.shape[0], : picture.shape[1]] = picture
    _draw_bar(canvas, bar, ticks, (picture.shape[1] + size, 0, size, height), size)
    return canvas


# ---- sizes ------------------------------------------------------------------------------------------------------


def fit(picture: np.ndarray, smallest: int = SMALLEST, largest: int = LARGEST) -> np.ndarray:
    """`picture` with its long side between `smallest` and `largest`; the pixels of tiny ones stay square."""
    cv2 = opencv()
    long = max(picture.shape[:2])
    if smallest <= long <= largest:
        return picture
    if long <= smallest // 4:
        factor = math.ceil(smallest / long)
        return np.ascontiguousarray(picture.repeat(factor, axis=0).repeat(factor, axis=1))
    goal = smallest if long < smallest else largest
    size = tuple(max(1, round(side * goal / long)) for side in picture.shape[1::-1])
    return cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC if long < smallest else cv2.INTER_AREA)


def text_size(picture: np.ndarray) -> int:
    """Pixels of a label beside `picture`: 13 up to 450 pixels, 18 from 1000."""
    return int(np.clip(round(8 + 0.01 * max(picture.shape[:2])), 13, 18))


# ---- parts of figures --------------------------------------------------------------------------------------------


def _fitted(title: str, width: int, size: int, lines: int = 2) -> tuple[list[str], int]:
    """The title in at most `lines`, in the largest letters that leave nothing out, down to the smallest readable."""
    whole = clean(title)
    for letter in range(size, SMALLEST_TEXT, -1):
        broken = wrap(whole, width, letter, SEMIBOLD, lines)
        if "".join(broken).replace(" ", "") == whole.replace(" ", ""):
            return broken, letter
    return wrap(whole, width, SMALLEST_TEXT, SEMIBOLD, lines), SMALLEST_TEXT


def _draw_bar(
    canvas: np.ndarray,
    bar: ColourBar,
    ticks: list[tuple[float, str]],
    place: tuple[int, int, int, int],
    size: int,
) -> None:
    x, y, width, height = place
    table = colormap(bar.colormap)
    rows = np.linspace(len(table) - 1, 0, height).round().astype(int)
    canvas[y : y + height, x : x + width] = table[rows][:, None]
    opencv().rectangle(canvas, (x - 1, y - 1), (x + width, y + height), RULE, 1)
    for at, word in ticks:
        row = y + round((1 - at) * (height - 1))
        canvas[row, x + width + 1 : x + width + 1 + size // 3] = FAINT
        baseline = min(max(row + 0.36 * size, y + 0.78 * size), y + height - 2)
        draw_text(canvas, word, x + width + size // 2 + 2, baseline, size, FAINT)
    if bar.low < 0 < bar.high:
        row = y + round(bar.high / (bar.high - bar.low) * (height - 1))
        canvas[row, x - 2 : x + width + 2] = INK


def _ticks(bar: ColourBar, height: int, size: int) -> list[tuple[float, str]]:
    """(position from 0 at the bottom to 1 at the top, word) of each tick."""
    if bar.ticks is not None:
        values = dict(bar.ticks)
    elif bar.high <= bar.low:
        values = {bar.low: number(bar.low)}
    else:
        least = 3 if bar.low < 0 < bar.high else 2
        count = int(np.clip(height / (3.5 * size), 2, 6))
        tried = (round_values(bar.low, bar.high, each) for each in range(count, 12))
        values = next(found for found in tried if len(found) >= least)
    width = bar.high - bar.low
    inside = {at: word for at, word in values.items() if bar.low <= at <= bar.high}
    return [((at - bar.low) / width if width > 0 else 0.5, clean(word)) for at, word in inside.items()]


def round_values(low: float, high: float, count: int) -> dict[float, str]:
    """About `count` multiples of 1, 2 or 5 times a power of ten between `low` and `high`, and how to write them."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    values = [index * step for index in range(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1)]
    exponent = math.floor(math.log10(step) + 1e-9)
    largest = max(abs(low), abs(high))
    if largest >= 1e5 or largest < 1e-3:
        return {min(max(value, low), high): number(value) for value in values}
    return {min(max(value, low), high): f"{value + 0.0:.{max(0, -exponent)}f}".replace("-", "−") for value in values}


def number(value: float) -> str:
    """Three significant digits, short."""
    return f"{value + 0.0:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")


_BOX_COLOURS = (
    (230, 57, 70), (29, 120, 200), (42, 157, 80), (244, 140, 20), (140, 70, 190),
    (0, 150, 160), (200, 60, 140), (120, 100, 40),
)  # fmt: skip


# ---- what was found ----

SEEN = 0.2  # visibility from which a keypoint is drawn
_MANY = 40  # keypoints from which they are small dots
_OUTLINE = (20, 20, 20)


def _factor(image: np.ndarray, shown: np.ndarray) -> tuple[float, float]:
    return shown.shape[1] / image.shape[1], shown.shape[0] / image.shape[0]


def with_found(picture: np.ndarray, found: Sequence[Found], factor: tuple[float, float]) -> np.ndarray:
    """`picture`, which is `factor` times as large as what `found` lies in, with all of it: what is explained last."""
    canvas, size = np.ascontiguousarray(picture).copy(), text_size(picture)
    names = dict.fromkeys(one.name for one in found)
    colours = {name: _BOX_COLOURS[at % len(_BOX_COLOURS)] for at, name in enumerate(names)}
    ordered = sorted(found, key=lambda one: one.strong)
    boxes = {id(one): _inside(one.box, factor, canvas) for one in found if one.box is not None}
    for one in ordered:
        if one.mask is not None:
            _filled(canvas, one.mask, colours[one.name], max(1, size // 8))
    for one in ordered:
        width = max(2, size // 6) * (2 if one.strong else 1)
        if one.corners:
            _outlined(canvas, np.array(one.corners) * factor, colours[one.name], width)
        elif id(one) in boxes:
            _outlined_box(canvas, boxes[id(one)], colours[one.name], width)
        _skeleton(canvas, one, factor, colours[one.name], size)
    taken: list[tuple[int, int, int, int]] = []
    for one in reversed(ordered) if any(o.strong for o in found) else ordered:
        if one.name and id(one) in boxes:
            x0, y0, x1, y1 = boxes[id(one)]
            if one.corners:  # the label stands at the first corner from the upper left
                x0, y0, *_ = _inside([*min(one.corners, key=sum)] * 2, factor, canvas)
            _label(canvas, one, (x0, y0, x1, y1), colours[one.name], size, taken)
    return canvas


def _filled(canvas: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], width: int) -> None:
    """Its pixels tinted in its colour, and their outline."""
    cv2 = opencv()
    shown = cv2.resize(mask.astype(np.uint8), canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    inside = shown.astype(bool)
    canvas[inside] = np.rint(0.7 * canvas[inside] + 0.3 * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(shown, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, colour, width, cv2.LINE_AA)


def _inside(box: Sequence[float], factor: tuple[float, float], canvas: np.ndarray) -> tuple[int, int, int, int]:
    """A box in pixels of the canvas, cut at its edges."""
    limits = np.array([canvas.shape[1] - 1, canvas.shape[0] - 1] * 2)
    places = np.nan_to_num(np.asarray(box, np.float64), posinf=1e9, neginf=-1e9) * (*factor, *factor)
    x0, y0, x1, y1 = np.rint(np.clip(places, 0, limits)).astype(int).tolist()
    return x0, y0, x1, y1


def _outlined_box(canvas: np.ndarray, box: tuple[int, int, int, int], colour: tuple[int, int, int], width: int) -> None:
    """Its lines on a darker rim, all inside the canvas."""
    half = width // 2 + 1
    x0, y0 = max(box[0], half), max(box[1], half)
    x1, y1 = min(box[2], canvas.shape[1] - 1 - half), min(box[3], canvas.shape[0] - 1 - half)
    for each, thickness in ((_OUTLINE, width + 2), (colour, width)):
        opencv().rectangle(canvas, (x0, y0), (max(x0, x1), max(y0, y1)), each, thickness, opencv().LINE_AA)


def _outlined(canvas: np.ndarray, corners: np.ndarray, colour: tuple[int, int, int], width: int) -> None:
    """The lines between corners, on a darker rim."""
    places = np.rint(np.clip(np.nan_to_num(corners), -(1 << 14), 1 << 14)).astype(np.int32)
    for each, thickness in ((_OUTLINE, width + 2), (colour, width)):
        opencv().polylines(canvas, [places], True, each, thickness, opencv().LINE_AA)


def _skeleton(
    canvas: np.ndarray, one: Found, factor: tuple[float, float], colour: tuple[int, int, int], size: int
) -> None:
    """Its keypoints, and the lines that join known ones."""
    cv2, many = opencv(), len(one.points) > _MANY
    places = {
        at: (round(x * factor[0]), round(y * factor[1]))
        for at, (x, y, seen) in enumerate(one.points)
        if seen >= SEEN and math.isfinite(x + y) and max(abs(x), abs(y)) < 1 << 15
    }
    width = max(2, size // 6)
    bones = [(places[a], places[b]) for a, b in bones_of(len(one.points)) if a in places and b in places]
    for each, thickness in ((_OUTLINE, width + 2), (colour, width)):
        for start, stop in bones:
            cv2.line(canvas, start, stop, each, thickness, cv2.LINE_AA)
    for at, place in places.items():
        radius = max(1, size // 12) if many else max(3, size // 4)
        if at == one.chosen:
            radius = 2 * radius + 1
        if not many or at == one.chosen:
            cv2.circle(canvas, place, radius + 1, _OUTLINE, -1, cv2.LINE_AA)
        cv2.circle(canvas, place, radius, PAPER if at == one.chosen else colour, -1, cv2.LINE_AA)
        if at == one.chosen:
            cv2.circle(canvas, place, max(1, radius - 3), colour, -1, cv2.LINE_AA)


def _label(
    canvas: np.ndarray,
    one: Found,
    box: tuple[int, int, int, int],
    colour: tuple[int, int, int],
    size: int,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Name and score where they cover no other label: above the box, else inside or below it, at its left or right."""
    pad = max(2, size // 5)
    score = "" if one.score is None else f" {one.score:.2f}"
    text = shorten(clean(one.name), canvas.shape[1] - 2 * pad - text_width(score, size, SEMIBOLD), size, SEMIBOLD)
    text += score
    width, height = text_width(text, size, SEMIBOLD) + 2 * pad, size + 2 * pad
    x0, y0, x1, y1 = box
    corners = [
        (x, y)
        for y in (y0 - height, y0, y1, y1 - height)
        for x in (x0, x1 - width)
        if 0 <= y <= canvas.shape[0] - height
    ] or [(x0, y0)]
    room = canvas.shape[1] - width, canvas.shape[0] - height
    places = [(min(max(0, x), max(0, room[0])), min(max(0, y), max(0, room[1]))) for x, y in corners]
    free = [(x, y) for x, y in places if not any(_meet((x, y, x + width, y + height), other) for other in taken)]
    if not free and not one.strong:
        return
    x, y = (free or places)[0]
    taken.append((x, y, x + width, y + height))
    canvas[y : y + height, x : x + width] = colour
    draw_text(canvas, text, x + pad, y + pad + 0.82 * size, size, PAPER, SEMIBOLD)


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _tag(
    canvas: np.ndarray, name: str, box: tuple[int, int, int, int], colour: tuple[int, int, int], size: int
) -> None:
    """White on `colour`: above the box, inside where there is no room, never beyond the picture."""
    if not name:
        return
    pad = max(2, size // 4)
    name = shorten(name, canvas.shape[1] - 2 * pad, size, SEMIBOLD)
    width, height = text_width(name, size, SEMIBOLD) + 2 * pad, size + 2 * pad
    x = min(max(0, box[0] - 1), max(0, canvas.shape[1] - width))
    y = box[1] - height if box[1] >= height else min(max(0, box[1]), max(0, canvas.shape[0] - height))
    canvas[y : y + height, x : x + width] = colour
    draw_text(canvas, name, x + pad, y + pad + 0.82 * size, size, PAPER, SEMIBOLD)


# ---- heat and gradients ----------------------------------------------------------------------------------------


def _picture(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(f"a picture must be (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}")


def grey(picture: np.ndarray) -> np.ndarray:
    """(H, W, 1) float32 ITU-R 601 luma."""
    return (picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]


FULL = 99.5  # percentile of the magnitudes of pixels that is drawn in full color


def limit_of(values: np.ndarray, percentile: float = FULL) -> float:
    """The value that is drawn in full; the largest where the percentile is 0, of a map that is nearly empty."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0
    ordered = np.sort(finite, axis=None)  # several times as quick as np.percentile, which it is equal to
    place = min(percentile, 100.0) / 100 * (len(ordered) - 1)
    below, above = (float(ordered[at]) for at in (math.floor(place), math.ceil(place)))
    return below + (above - below) * (place - math.floor(place)) or float(ordered[-1])


def around_gray(values: np.ndarray, limit: float) -> np.ndarray:
    """(H, W, 3) uint8 of one or three channels: `½ + x / (2 · limit)`, mid-gray at 0 and where there is no number."""
    unit = np.clip(0.5 + np.nan_to_num(values) / (2 * limit), 0, 1) if limit else np.full(values.shape, 0.5)
    return np.rint(255 * np.broadcast_to(unit, (*unit.shape[:2], 3))).astype(np.uint8)


def _signed(values: np.ndarray) -> tuple[np.ndarray, ColourBar]:
    total = values.sum(axis=2)
    limit = limit_of(np.abs(total))
    return colourise(total, vmax=limit, signed=True), ColourBar("blue-red", -limit, limit)


def _normalised(values: np.ndarray) -> tuple[np.ndarray, ColourBar]:
    limit = limit_of(np.abs(values))
    return around_gray(values, limit), ColourBar("gray", -limit, limit)


_VIEWS = {"signed": _signed, "normalised": _normalised}
