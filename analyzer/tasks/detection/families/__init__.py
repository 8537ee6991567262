"""The formats of detectors, one file per family. The first that knows the outputs of a model is taken.

A family is a function of the outputs (`View`) that gives a `Decoder` and what it was recognised by, in words, or None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from analyzer.tasks.detection.decoder import Decoder
from analyzer.tasks.detection.families import anchors, centres, ends, faces, movenet, strided, yolo
from analyzer.tasks.detection.view import View

Family: TypeAlias = Callable[[View], "tuple[Decoder, str] | None"]

FAMILIES: tuple[Family, ...] = (
    movenet.people,
    ends.apart,
    ends.joined,
    ends.indexed,
    faces.strided,
    faces.mediapipe,
    strided.together,
    anchors.apart,
    anchors.mapped,
    ends.queries,
    ends.joined_queries,
    centres.peaks,
    yolo.joined,
    strided.joined,
    strided.apart,
    yolo.apart,
    yolo.fastest,
)


def recognised(view: View) -> tuple[Decoder, str] | None:
    """The format of the model's outputs, and why."""
    for family in FAMILIES:
        found = family(view)
        if found is not None:
            return found
    return None
