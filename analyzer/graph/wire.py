"""Where a model file keeps its weights, read off protobuf's wire format without parsing them.

Parsing a file makes two copies of every weight before the first is an array. Here the bytes around them are parsed,
and each weight is read once, to where it stays.
Source: protobuf.dev/programming-guides/encoding; field numbers from onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator

GRAPH = 7  # of ModelProto
INITIALIZER = 5  # of GraphProto
DATA_TYPE, RAW_DATA = 2, 9  # of TensorProto
_LENGTH, _VARINT, _FIXED64, _FIXED32 = 2, 0, 1, 5

Buffer = bytes | mmap.mmap
Range = tuple[int, int]


def split(data: Buffer, types: Collection[int], least: int) -> tuple[bytes, dict[int, Range]] | None:
    """The model without the raw data of its large initializers, and where that lies: {initializer: (start, stop)}.

    Args:
        types: data types of the tensors that are meant.
        least: bytes of raw data from which on a tensor is large.

    Returns:
        None where the bytes are not laid out as any exporter does: they are for protobuf itself to judge.
    """
    try:
        graphs = [(tag, a, b) for tag, field, kind, a, b in _fields(data, 0, len(data)) if (field, kind) == _GRAPH]
        if len(graphs) != 1:
            return None
        tag, start, stop = graphs[0]
        parts, ranges, done, index = list[bytes](), dict[int, Range](), start, 0
        for at, field, kind, a, b in _fields(data, start, stop):
            if (field, kind) != (INITIALIZER, _LENGTH):
                continue
            found = _raw_data(data, a, b, types, least)
            if found is not None:
                before, first, last = found
                tensor = data[a:before] + data[last:b]
                parts += [data[done:at], _tag(INITIALIZER), _varint(len(tensor)), tensor]
                ranges[index], done = (first, last), b
            index += 1
        parts.append(data[done:stop])
    except (IndexError, ValueError):
        return None
    graph = b"".join(parts)
    return b"".join([data[:tag], _tag(GRAPH), _varint(len(graph)), graph, data[stop:]]), ranges


_GRAPH = (GRAPH, _LENGTH)


def _raw_data(data: Buffer, start: int, stop: int, types: Collection[int], least: int) -> tuple[int, int, int] | None:
    """(where the field begins, its content's start and stop) of a tensor that is meant."""
    kind_of, found = 0, list[tuple[int, int, int]]()
    for at, field, kind, a, b in _fields(data, start, stop):
        if (field, kind) == (DATA_TYPE, _VARINT):
            kind_of = a
        elif (field, kind) == (RAW_DATA, _LENGTH):
            found.append((at, a, b))
    if len(found) != 1 or kind_of not in types or found[0][2] - found[0][1] < least:
        return None
    return found[0]


def _fields(data: Buffer, start: int, stop: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(where it begins, field, wire type, start and stop of its content) of each; a varint's start is its value."""
    at = start
    while at < stop:
        begin = at
        tag, at = _read_varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == _LENGTH:
            length, at = _read_varint(data, at)
            if at + length > stop:
                raise ValueError
            yield begin, field, kind, at, at + length
            at += length
        elif kind == _VARINT:
            value, at = _read_varint(data, at)
            yield begin, field, kind, value, at
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError
    if at != stop:
        raise ValueError


def _read_varint(data: Buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _tag(field: int) -> bytes:
    return _varint(field << 3 | _LENGTH)
