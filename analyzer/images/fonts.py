"""Characters that OpenCV's font lacks, drawn by Pillow with the fonts of the machine: labels in any script, and emoji.

OpenCV's own font holds Latin, Greek, Cyrillic and Chinese and is drawn in half the time, so it stays the first choice.
"""

from __future__ import annotations

import functools
import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

# Where systems keep fonts.
_FOLDERS = {
    "win32": ("%WINDIR%/Fonts", "%LOCALAPPDATA%/Microsoft/Windows/Fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
}.get(sys.platform, ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"))
# Preferred where several have a character.
_FIRST = ("notosans", "notosanscjk", "noto", "pingfang", "hiragino", "msyh", "segoeui", "arialunicode", "dejavusans")
_LAST = ("serif", "mono", "italic", "oblique", "condensed", "light", "thin", "black", "bold", "medium", "display", "ui")
_EMOJI = 109  # pixels of the only size of Noto Color Emoji's bitmaps
_JOINERS = "\u200c\u200d\ufe0e\ufe0f"

missing: set[str] = set()  # characters that no font has, since the process started


def has(character: str) -> bool:
    """Whether a font of the machine has the character, and its letters can be joined and turned as its script does."""
    return _file_of(character) is not None and (not shaped(character) or _shapes())


def shaped(character: str) -> bool:
    """Whether it belongs to a script whose letters join, turn or stack, which OpenCV's font does not do."""
    return 0x0590 <= ord(character) <= 0x109F or 0xFB1D <= ord(character) <= 0xFEFC


@functools.cache
def _shapes() -> bool:
    from PIL import features

    return bool(features.check("raqm") and features.check("fribidi"))


def joins(character: str) -> bool:
    """Whether it changes the character before it and has no place of its own: a combining mark, a joiner."""
    return (
        character in _JOINERS or unicodedata.category(character).startswith("M") or 0x1F3FB <= ord(character) <= 0x1F3FF
    )


def width(text: str, size: int, bold: bool = False) -> float:
    """Width in pixels of a text that one font draws."""
    font, scale = _font(text, size, bold)
    return float(font.getlength(text)) * scale


def draw(
    canvas: np.ndarray, text: str, x: int, baseline: int, size: int, colour: tuple[int, int, int], bold: bool = False
) -> None:
    """Draw a text that one font has into the (H, W, 3) uint8 canvas, clipped at its borders."""
    from PIL import Image, ImageDraw

    font, scale = _font(text, size, bold)
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    if right <= left or bottom <= top:
        return
    tile = Image.new("RGBA", (right - left, bottom - top), (*colour, 0))
    ImageDraw.Draw(tile).text((-left, -top), text, (*colour, 255), font, anchor="ls", embedded_color=scale != 1)
    if scale != 1:
        tile = tile.resize(
            (max(1, round(tile.width * scale)), max(1, round(tile.height * scale))), Image.Resampling.BOX
        )
    pixels = np.asarray(tile, np.float32)
    y0, x0 = baseline + round(top * scale), x + round(left * scale)
    rows = slice(max(0, y0), max(0, min(canvas.shape[0], y0 + pixels.shape[0])))
    columns = slice(max(0, x0), max(0, min(canvas.shape[1], x0 + pixels.shape[1])))
    part = pixels[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
    if part.size:
        cover = part[..., 3:] / 255
        canvas[rows, columns] = np.rint(canvas[rows, columns] * (1 - cover) + part[..., :3] * cover)


def same_font(text: str, character: str) -> bool:
    """Whether the font of a text has the character as well."""
    file = _file_of(text[0])
    return file is not None and (_file_of(character) == file or _holds(file, character))


def _font(text: str, size: int, bold: bool) -> tuple[Any, float]:
    """A font that has the text, and what its pixels are to be multiplied by."""
    file = _file_of(text[0])
    assert file is not None
    if "emoji" in file.lower() and _fixed(file):
        return _opened(file, _EMOJI), size / _EMOJI
    heavy = file.replace("-Regular", "-Bold")
    return _opened(heavy if bold and heavy != file and os.path.exists(heavy) else file, size), 1.0


@functools.lru_cache(64)
def _opened(file: str, size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(file, size)


@functools.cache
def _fixed(file: str) -> bool:
    """Whether the font has bitmaps of one size."""
    try:
        _opened(file, 16)
    except OSError:
        return True
    return False


@functools.lru_cache(4096)
def _file_of(character: str) -> str | None:
    """The first font that has the character; those named after its script come first."""
    script = unicodedata.name(character, "?").split()[0].split("-")[0].lower()
    emoji = unicodedata.category(character) in ("So", "Sk") and ord(character) >= 0x2190
    for file in sorted(_files(), key=lambda f: _rank(f, script, emoji)):
        if _holds(file, character):
            return file
    return None


def _rank(file: str, script: str, emoji: bool) -> tuple[bool, bool, int, str]:
    name = Path(file).name.lower()
    first = next((at for at, known in enumerate(_FIRST) if name.startswith(known)), len(_FIRST))
    others = "cjk" if script in ("hiragana", "katakana", "hangul", "bopomofo", "fullwidth", "ideographic") else script
    return ("emoji" in name) != emoji, others not in name, first, name


@functools.cache
def _files() -> tuple[str, ...]:
    """Fonts of the machine, the upright ones of regular weight."""
    found = []
    for folder in _FOLDERS:
        for place, _, names in os.walk(os.path.expandvars(os.path.expanduser(folder))):
            for name in names:
                stem, suffix = os.path.splitext(name.lower())
                if suffix in (".ttf", ".otf", ".ttc") and not any(word in stem for word in _LAST):
                    found.append(os.path.join(place, name))
    return tuple(sorted(found))


@functools.lru_cache(8192)
def _holds(file: str, character: str) -> bool:
    """Whether the font draws the character differently from one that it lacks."""
    try:
        font = _opened(file, _EMOJI if _fixed(file) else 16)
        drawn, lacking = (bytes(font.getmask(c)) for c in (character, "\U0010fffe"))
    except (OSError, ValueError):
        return False
    return drawn != lacking and bool(drawn)
