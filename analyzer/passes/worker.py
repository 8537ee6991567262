"""The process that does batches for `Processes`."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import traceback
from typing import IO

from analyzer import heartbeat
from analyzer.child import channel
from analyzer.passes.actor import Actor, refusal

_LENGTH = struct.Struct("<Q")


def send(stream: IO[bytes], data: bytes) -> None:
    """
    Raises:
        OSError: nobody reads.
    """
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """
    Raises:
        EOFError: the other process has ended.
    """
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def main() -> None:
    """Answers on stdout what comes on stdin: the arguments of an `Actor`, then parts, with the samples to leave out."""
    answers, actor = channel(), None
    try:
        start = receive(sys.stdin.buffer)
        while True:
            part, lost = pickle.loads(receive(sys.stdin.buffer))
            heartbeat.past = heartbeat.Past(lost)
            try:
                actor = actor or Actor(*pickle.loads(start))
                answer = actor.do(part)
            except Exception as error:
                answer = refusal(error, traceback.format_exc())
            send(answers, answer)
    except (EOFError, OSError):
        os._exit(0)
