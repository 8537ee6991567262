"""Large PNG files, a few rows at a time: OpenCV 5 decodes a PNG into two arrays of the whole picture.

The rows are inflated here and given to the decoder as small PNG files, each after the last row of the one before it,
which is what PNG's filters refer to. So every pixel is what the decoder would have made of the whole file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

STRIP = 1 << 18  # bytes of the rows that are decoded at once: they stay in a core's cache
_INFLATED_AT_ONCE = 1 << 16
_BLOCK = 0xFFFF  # bytes of a block of deflate that is not compressed, at most
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {2: 3, 6: 4}  # of the color types RGB and RGBA


def decoded_in_strips(data: bytes, decode: Callable[[bytes], np.ndarray | None]) -> np.ndarray | None:
    """(H, W, C) uint8 or uint16, BGR or BGRA, of a PNG whose checksums have been verified.

    Args:
        decode: a PNG to its pixels; None where it cannot.

    Returns:
        None if the file is not plain RGB or RGBA of 8 or 16 bits, or is damaged.
    """
    width, height, depth, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if color not in _CHANNELS or interlaced or any(kind == b"tRNS" for kind, _ in _chunks(data)):
        return None
    result = np.empty((height, width, _CHANNELS[color]), f"u{depth // 8}")
    long = 1 + result[0].nbytes
    done, above = 0, b""
    for rows in _ahead(_strips(data, long, height)):
        count = len(rows) // long
        size = struct.pack(">IIBBBBB", width, count + bool(above), depth, color, 0, 0, 0)
        small = _chunk(b"IHDR", size) + _chunk(b"IDAT", _stored(above + rows)) + _chunk(b"IEND", b"")
        pixels = decode(_SIGNATURE + small)
        if pixels is None or pixels.shape[1:] != result.shape[1:] or pixels.dtype != result.dtype:
            return None
        result[done : done + count] = pixels[-count:]
        last = result[done + count - 1]
        last = np.concatenate([last[:, 2::-1], last[:, 3:]], axis=1)
        done, above = done + count, b"\0" + last.astype(last.dtype.newbyteorder(">")).tobytes()
    return result if done == height else None


def _ahead(strips: Iterator[bytes]) -> Iterator[bytes]:
    """The same; a thread inflates the next one while one is decoded."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, strips, b"")
        while rows := coming.result():
            coming = thread.submit(next, strips, b"")
            yield rows


def _strips(data: bytes, long: int, height: int) -> Iterator[bytes]:
    """The filtered rows of `long` bytes, several at a time; fewer than `height` in all where the file is damaged."""
    at_once = max(1, STRIP // long)
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
