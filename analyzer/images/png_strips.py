"""Large PNG files, a few rows at a time: OpenCV 5 decodes a PNG into two arrays of the whole picture.

The rows are inflated here and given to the decoder as small PNG files, each after the last row of the one before it,
which is what PNG's filters refer to. So every pixel is what the decoder would have made of the whole file. Where a
smaller picture suffices, rows are reduced as they come, and the whole picture is never in memory.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from analyzer.images.resample import reduced

STRIP = 1 << 18  # bytes of the rows that are decoded at once: they stay in a core's cache
_INFLATED_AT_ONCE = 1 << 16
_BLOCK = 0xFFFF  # bytes of a block of deflate that is not compressed, at most
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Of the color types gray, RGB, gray with alpha and RGBA: which channels of the decoder's gray, BGR or BGRA a file has.
_STORED = {0: [0], 2: [2, 1, 0], 4: [2, 3], 6: [2, 1, 0, 3]}


def decoded_in_strips(
    data: bytes,
    decode: Callable[[bytes], np.ndarray | None],
    by: int = 1,
    ready: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray | None:
    """(H, W) or (H, W, C) uint8 or uint16, gray, BGR or BGRA, of a PNG whose checksums have been verified.

    Args:
        decode: a PNG to its pixels; None where it cannot.
        by: what the sides are divided by, rounded up: each pixel is the mean of a block.
        ready: is applied to some rows at a time before they are reduced.

    Returns:
        None if the file is interlaced, has a palette, a transparent color or fewer than 8 bits, or is damaged.
    """
    depth, color, _, _, interlaced = struct.unpack_from("BBBBB", data, 24)
    if color not in _STORED or depth < 8 or interlaced or any(kind == b"tRNS" for kind, _ in _chunks(data)):
        return None
    (height,) = struct.unpack_from(">I", data, 20)
    result, done = None, 0
    for rows in _rows(data, decode, by):
        rows = reduced(rows if ready is None else ready(rows), by)
        if result is None:
            result = np.empty((-(-height // by), *rows.shape[1:]), rows.dtype)
        result[done : done + len(rows)] = rows
        done += len(rows)
    return result if result is not None and done == len(result) else None


def _rows(data: bytes, decode: Callable[[bytes], np.ndarray | None], by: int) -> Iterator[np.ndarray]:
    """Pixels of some rows at a time, a multiple of `by` except at the end; fewer in all if the file is damaged."""
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    long, above = 1 + width * len(_STORED[color]) * depth // 8, b""
    for rows in _ahead(_strips(data, long, height, by)):
        count = len(rows) // long
        size = struct.pack(">IIBBBBB", width, count + bool(above), depth, color, 0, 0, 0)
        small = _chunk(b"IHDR", size) + _chunk(b"IDAT", _stored(above + rows)) + _chunk(b"IEND", b"")
        pixels = decode(_SIGNATURE + small)
        if pixels is None or pixels.shape[:2] != (count + bool(above), width) or pixels.itemsize != depth // 8:
            return
        last = pixels[-1].reshape(width, -1)[:, _STORED[color]]
        above = b"\0" + last.astype(last.dtype.newbyteorder(">")).tobytes()
        yield pixels[-count:]


def _ahead(strips: Iterator[bytes]) -> Iterator[bytes]:
    """The same; a thread inflates the next one while one is decoded."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, strips, b"")
        while rows := coming.result():
            coming = thread.submit(next, strips, b"")
            yield rows


def _strips(data: bytes, long: int, height: int, by: int) -> Iterator[bytes]:
    """The filtered rows of `long` bytes, several at a time; fewer than `height` in all where the file is damaged."""
    at_once = max(1, STRIP // (by * long)) * by
    left, ready = height, bytearray()
    for part in _inflated(data):
        ready += part
        while left and len(ready) >= min(at_once, left) * long:
            count = min(at_once, left)
            yield bytes(memoryview(ready)[: count * long])
            del ready[: count * long]
            left -= count
        if not left:
            return


def _inflated(data: bytes) -> Iterator[bytes]:
    stream = zlib.decompressobj()
    try:
        for kind, body in _chunks(data):
            if kind == b"IDAT":
                for at in range(0, len(body), _INFLATED_AT_ONCE):
                    yield stream.decompress(body[at : at + _INFLATED_AT_ONCE])
    except zlib.error:
        return


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, at = memoryview(data), len(_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, view[at + 8 : at + 8 + length]
        at += 12 + length


def _stored(rows: bytes) -> bytes:
    """`rows` as a zlib stream of blocks that are not compressed: ten times as fast as `zlib.compress` at level 0."""
    view, parts = memoryview(rows), list[bytes | memoryview]()
    for at in range(0, len(rows), _BLOCK):
        part = view[at : at + _BLOCK]
        parts += [struct.pack("<BHH", at + _BLOCK >= len(rows), len(part), len(part) ^ 0xFFFF), part]
    return b"".join([b"\x78\x01", *parts, struct.pack(">I", zlib.adler32(rows))])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
