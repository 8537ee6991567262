"""TIFF files with more than four bands, which OpenCV does not read: strips or tiles, uncompressed, LZW or deflated."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import numpy as np

from analyzer.images._opencv import most_pixels

_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_KINDS = {1: "u", 2: "i", 3: "f"}
MOST = 256  # bands


class UnreadableError(Exception):
    """Why a file is not read here."""


def read_bands(data: bytes) -> np.ndarray | None:
    """(H, W, C) of the file's own type, of a TIFF with more than four bands; None for any other file.

    Raises:
        UnreadableError: it is one, of a form that is not read, or damaged.
    """
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    try:
        tags = _tags(data)
        if tags.get(277, [1])[0] <= 4:
            return None
        return _decoded(data, tags)
    except (struct.error, KeyError, IndexError, ValueError, zlib.error, TypeError) as error:
        raise UnreadableError("damaged or truncated") from error


def page_count(data: bytes) -> int:
    """Pages of a TIFF, at most 4096; 1 where it is damaged, or a BigTIFF."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    order, at, seen = "<" if data[:2] == b"II" else ">", 4, set[int]()
    try:
        while len(seen) < 4096:
            (at,) = struct.unpack_from(order + "I", data, at)
            if not at or at in seen:
                break
            seen.add(at)
            (count,) = struct.unpack_from(order + "H", data, at)
            at += 2 + 12 * count
    except struct.error:
        pass
    return max(1, len(seen))


def _tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """{tag: values} of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    found = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(order + "HHI", data, entry)
        if kind in _TYPES and length <= len(data):
            form = f"{order}{length}{_TYPES[kind]}"
            place = entry + 8
            if struct.calcsize(form) > 4:
                (place,) = struct.unpack_from(order + "I", data, place)
            found[tag] = struct.unpack_from(form, data, place)
    return found


def _decoded(data: bytes, tags: dict[int, tuple[int, ...]]) -> np.ndarray:
    order = "<" if data[:2] == b"II" else ">"
    width, height, bands = tags[256][0], tags[257][0], tags[277][0]
    bits, kinds = set(tags[258]), set(tags.get(339, (1,)))
    if bands > MOST or len(bits) != 1 or len(kinds) != 1 or not bits <= {8, 16, 32, 64}:
        raise UnreadableError(f"{bands} bands of {sorted(bits)} bits")
    if not 0 < width * height * bands <= 4 * most_pixels():
        raise UnreadableError(f"{width}×{height} pixels of {bands} bands")
    dtype = np.dtype(f"{order}{_KINDS[kinds.pop()]}{bits.pop() // 8}")
    compression, predictor = tags.get(259, (1,))[0], tags.get(317, (1,))[0]
    if compression not in _UNPACK or predictor not in (1, 2):
        raise UnreadableError("an unusual compression")
    planar = tags.get(284, (1,))[0] == 2
    tiled = 322 in tags
    step = (tags[323][0], tags[322][0]) if tiled else (min(tags.get(278, (height,))[0], height), width)
    offsets, sizes = (tags[324], tags[325]) if tiled else (tags[273], tags[279])
    grid = math.ceil(height / step[0]), math.ceil(width / step[1])
    depth = 1 if planar else bands
    result = np.zeros((height, width, bands), dtype.newbyteorder("="))
    for at, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        plane, place = divmod(at, grid[0] * grid[1])
        top, left = place // grid[1] * step[0], place % grid[1] * step[1]
        rows = step[0] if tiled else min(step[0], height - top)
        wanted = rows * step[1] * depth * dtype.itemsize
        raw = _UNPACK[compression](data[offset : offset + size], wanted)
        block = np.frombuffer(raw[:wanted], dtype).reshape(rows, step[1], depth)
        if predictor == 2:
            block = np.cumsum(block, axis=1, dtype=block.dtype.newbyteorder("="))
        high, wide = min(rows, height - top), min(step[1], width - left)
        bands_of = slice(plane, plane + 1) if planar else slice(None)
        result[top : top + high, left : left + wide, bands_of] = block[:high, :wide]
    return result


def _inflated(data: bytes, wanted: int) -> bytes:
    return zlib.decompressobj().decompress(data, wanted)


def _lzw(data: bytes, wanted: int) -> bytes:
    """TIFF's LZW: codes of 9 to 12 bits, the highest bit first, 256 clears the table and 257 ends."""
    out, table, previous = bytearray(), list[Any](), b""
    bits = width = at = held = 0
    while len(out) < wanted:
        while held < (width or 9):
            if at >= len(data):
                return bytes(out)
            bits, held, at = (bits << 8 | data[at]) & 0xFFFFFF, held + 8, at + 1
        held -= width or 9
        code = bits >> held & (1 << (width or 9)) - 1
        if code == 257:
            break
        if code == 256:
            table, width, previous = [bytes([i]) for i in range(256)] + [b"", b""], 9, b""
            continue
        entry = table[code] if code < len(table) else previous + previous[:1]
        out += entry
        if previous:
            table.append(previous + entry[:1])
        previous = entry
        width = 12 if len(table) >= 2047 else 11 if len(table) >= 1023 else 10 if len(table) >= 511 else 9
    return bytes(out)


_UNPACK = {1: lambda data, wanted: data[:wanted], 5: _lzw, 8: _inflated, 32946: _inflated}
