"""What a pass is: a rewrite of a `Source` in place and what holds after it; and what a caller may ask of the passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx

from analyzer.graph.source import Source


@dataclass(frozen=True)
class Request:
    """What the caller wants normalised: operators to inline by their function body, and known input shapes.

    `types` are types of tensors that inference cannot know; with `batch`, a picture without a batch axis gets one.
    """

    inline: frozenset[str] = frozenset()
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    types: tuple[onnx.ValueInfoProto, ...] = ()
    batch: bool = False


@dataclass(frozen=True)
class Pass:
    """A rewrite of the model in place, and the check of what holds after it (a sentence per offence)."""

    name: str
    run: Callable[[Source, Request], None]
    holds: Callable[[Source], Iterable[str]] = lambda source: ()
