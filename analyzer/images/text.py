"""Text on pictures: OpenCV 5's own TrueType font where there is one, else its stroke font, drawn large and shrunk.

Characters that it lacks are drawn with the fonts of the machine (see `fonts`), or written as escapes.
"""

from __future__ import annotations

import functools
import math
import re
import threading
import unicodedata
from typing import Any

import numpy as np

from analyzer.images import fonts
from analyzer.images._opencv import major_version, opencv

INK = (32, 33, 36)
FAINT = (95, 99, 104)

REGULAR, SEMIBOLD = 400, 600

# Font faces keep state between calls.
_FACE = threading.RLock()

# What the stroke font lacks and decomposition does not give.
_ASCII = {
    "×": "x", "·": "-", "•": "*", "…": "...", "–": "-", "—": "-", "−": "-", "‘": "'", "’": "'", "“": '"', "”": '"',
    "«": '"', "»": '"', "→": "->", "←": "<-", "⇒": "=>", "≤": "<=", "≥": ">=", "±": "+/-", "÷": "/", "≈": "~",
    "°": " deg", "µ": "u", "μ": "u", "α": "alpha", "β": "beta", "γ": "gamma", "σ": "sigma", "Σ": "sum", "∂": "d",
    "∞": "inf", "√": "sqrt", "ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "œ": "oe", "ł": "l", "Ł": "L",
    "đ": "d", "ð": "d", "þ": "th", "ı": "i", "½": "1/2", "²": "2", "³": "3",
}  # fmt: skip

STROKE_SCALE = 4


def clean(text: str) -> str:
    """One line of characters that a font has: white space collapsed, the rest decomposed, spelt out, or escaped."""
    kept = "".join(c if c.isprintable() or fonts.joins(c) else " " for c in unicodedata.normalize("NFC", text))
    text = " ".join(kept.split())
    return "".join(
        c if c.isascii() or (fonts.joins(c) and at and not _own(text[at - 1])) else _drawable(c)
        for at, c in enumerate(text)
    )


def text_width(text: str, size: int, weight: int = REGULAR) -> int:
    """Width in pixels of a clean text of `size` pixels."""
    if not text:
        return 0
    if not text.isascii():
        parts = _parts(text)
        if len(parts) > 1 or not parts[0][1]:
            return math.ceil(sum(_part_width(part, own, size, weight) for part, own in parts))
    return _own_width(text, size, weight)


def _part_width(text: str, own: bool, size: int, weight: int) -> float:
    return _own_width(text, size, weight) if own else fonts.width(text, size, weight > REGULAR)


@functools.lru_cache(4096)
def _own_width(text: str, size: int, weight: int) -> int:
    if major_version() < 5:
        scale, thickness = _stroke(size, weight)
        return math.ceil(opencv().getTextSize(text, 0, scale, thickness)[0][0] / STROKE_SCALE)
    with _FACE:
        return int(opencv().getTextSize((0, 0), text, (0, 0), _face(), size, weight)[2])


def draw_text(
    canvas: np.ndarray,
    text: str,
    x: float,
    baseline: float,
    size: int,
    colour: tuple[int, int, int] = INK,
    weight: int = REGULAR,
) -> None:
    """Draw a clean text into the (H, W, 3) uint8 `canvas`, from x on along the baseline, clipped at its borders."""
    if not text.isascii():
        parts = _parts(text)
        if len(parts) > 1 or not parts[0][1]:
            for part, own in parts:
                if own:
                    _draw_own(canvas, part, x, baseline, size, colour, weight)
                else:
                    with _FACE:
                        fonts.draw(canvas, part, round(x), round(baseline), size, colour, weight > REGULAR)
                x += _part_width(part, own, size, weight)
            return
    _draw_own(canvas, text, x, baseline, size, colour, weight)


def _draw_own(
    canvas: np.ndarray, text: str, x: float, baseline: float, size: int, colour: tuple[int, int, int], weight: int
) -> None:
    origin = round(x), round(baseline)
    if major_version() < 5:
        _draw_strokes(canvas, text, origin, size, colour, weight)
    elif text:
        with _FACE:
            opencv().putText(canvas, text, origin, colour, _face(), size, weight)


def wrap(text: str, width: int, size: int, weight: int = REGULAR, lines: int = 2) -> list[str]:
    """`text` broken into at most `lines` of `width` pixels: at spaces, else at slashes and dots, else anywhere.

    What does not fit gives way to an ellipsis: see `shorten`.
    """
    result: list[str] = []
    rest = clean(text)
    while rest and len(result) < lines - 1:
        fits = _prefix(rest, width, size, weight)
        if fits == len(rest):
            break
        cut = max((match.end() for match in re.finditer(r"[ /._:\-](?=[^ ])", rest[: fits + 1])), default=0)
        space = rest.rfind(" ", 0, fits + 1)
        cut = space + 1 if space > 0 else cut if 0 < cut <= fits else max(1, fits)
        result.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*result, shorten(rest, width, size, weight)] if rest else result


def shorten(text: str, width: int, size: int, weight: int = REGULAR) -> str:
    """`text` within `width`, with an ellipsis where something is left out.

    That is at the end of a sentence, but in the middle of a name that alone takes half of the width or more: layers
    that begin alike differ at their ends.
    """
    if text_width(text, size, weight) <= width:
        return text
    dots = clean("…")
    room = width - text_width(dots, size, weight)
    name = max(text.split(" "), key=len)
    at = text.index(name)
    before, after = text[:at], text[at + len(name) :]
    for_name = room - text_width(before, size, weight) - text_width(after, size, weight)
    if name != text and for_name < width // 2:
        return text[: _prefix(text, room, size, weight)].rstrip() + dots
    head = name[: _prefix(name, for_name // 3, size, weight)]
    tail = name[::-1][: _prefix(name[::-1], for_name - text_width(head, size, weight), size, weight)][::-1]
    return before + head + dots + tail + after


def _prefix(text: str, width: int, size: int, weight: int) -> int:
    """How many characters of `text` fit into `width`, by bisection: widths only grow."""
    if text_width(text, size, weight) <= width:
        return len(text)
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(text[:middle], size, weight) <= width else (low, middle - 1)
    return low


@functools.lru_cache(1024)
def _parts(text: str) -> tuple[tuple[str, bool], ...]:
    """Runs of one font, and whether it is OpenCV's; words of one script stay together, as letters join and turn."""
    parts: list[tuple[str, bool]] = []
    for at, character in enumerate(text):
        last, own = parts[-1] if parts else ("", True)
        if last and not own:
            following = text[at + 1 : at + 2]
            gap = character == " " and bool(following) and not _own(following) and fonts.same_font(last, following)
            if gap or fonts.joins(character) or (not _own(character) and fonts.same_font(last, character)):
                parts[-1] = last + character, False
                continue
        mine = _own(character)
        if last and mine and own:
            parts[-1] = last + character, True
        else:
            parts.append((character, mine))
    return tuple(parts)


def _own(character: str) -> bool:
    """Whether OpenCV's font draws it."""
    return _has_glyph(character) and not fonts.shaped(character)


@functools.cache
def _face() -> Any:
    return opencv().FontFace("sans")


@functools.lru_cache(4096)
def _drawable(character: str) -> str:
    """`character`, or the nearest that a font has, or its escape."""
    if _own(character) or fonts.has(character):
        return character
    if major_version() < 5 and character in _ASCII:
        return _ASCII[character]
    parts = [c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c)]
    if parts and parts != [character]:
        return "".join(c if c.isascii() else _drawable(c) for c in parts)
    if unicodedata.category(character) in ("Mn", "Cf"):
        return ""
    fonts.missing.add(character)
    return character.encode("unicode_escape").decode()


@functools.lru_cache(4096)
def _has_glyph(character: str) -> bool:
    if major_version() < 5:
        return character.isascii()
    return not np.array_equal(_glyph(character), _glyph("?"))


def _glyph(character: str) -> np.ndarray:
    canvas = np.zeros((48, 48, 3), np.uint8)
    _draw_own(canvas, character, 8, 36, 24, (255, 255, 255), REGULAR)
    return canvas


# ---- OpenCV 4: Hershey strokes ----------------------------------------------------------------------------


def _stroke(size: int, weight: int) -> tuple[float, int]:
    """Scale and thickness at `STROKE_SCALE` times the size: capitals of 21 units become 0.72 of it."""
    return STROKE_SCALE * size * 0.72 / 21, max(1, round(STROKE_SCALE * size * (0.11 if weight > REGULAR else 0.08)))


def _draw_strokes(
    canvas: np.ndarray, text: str, origin: tuple[int, int], size: int, colour: tuple[int, int, int], weight: int
) -> None:
    cv2 = opencv()
    scale, thickness = _stroke(size, weight)
    width, height = text_width(text, size, weight) + size, 2 * size
    mask = np.zeros((height * STROKE_SCALE, width * STROKE_SCALE), np.uint8)
    cv2.putText(mask, text, (0, round(1.4 * size) * STROKE_SCALE), 0, scale, 255, thickness, cv2.LINE_AA)
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    top, left = origin[1] - round(1.4 * size), origin[0]
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(canvas.shape[0], top + height), min(canvas.shape[1], left + width)
    if y0 < y1 and x0 < x1:
        cover = mask[y0 - top : y1 - top, x0 - left : x1 - left, None] / 255
        canvas[y0:y1, x0:x1] = np.rint(canvas[y0:y1, x0:x1] * (1 - cover) + np.array(colour) * cover)
