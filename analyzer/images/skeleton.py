"""Known sets of keypoints, by their number: what they are called, and which of them are joined by a line."""

from __future__ import annotations

from itertools import pairwise

_FINGERS = ("thumb", "index", "middle", "ring", "pinky")
_JOINTS = {"thumb": ("cmc", "mcp", "ip", "tip")}

NAMES: dict[int, tuple[str, ...]] = {
    17: (  # COCO's person
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    5: ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth"),  # of faces, left in the picture
    6: ("left_eye", "right_eye", "nose", "mouth", "left_ear", "right_ear"),  # BlazeFace, left in the picture
    21: (  # of a hand
        "wrist",
        *(f"{f}_{joint}" for f in _FINGERS for joint in _JOINTS.get(f, ("mcp", "pip", "dip", "tip"))),
    ),
}  # fmt: skip

_LINES: dict[int, tuple[tuple[int, ...], ...]] = {
    17: (
        (3, 1, 0, 2, 4), (5, 6), (11, 12), (5, 7, 9), (6, 8, 10), (5, 11, 13, 15), (6, 12, 14, 16),
    ),
    5: (),
    6: ((4, 0), (1, 5)),
    21: ((0, 5, 9, 13, 17, 0), *((root, *range(4 * f + 1, 4 * f + 5)) for f, root in enumerate((0, 5, 9, 13, 17)))),
}  # fmt: skip


def names_of(count: int) -> tuple[str, ...]:
    """What so many keypoints are called; () where that is not known."""
    return NAMES.get(count, ())


def bones_of(count: int) -> list[tuple[int, int]]:
    """The pairs of so many keypoints that a line joins."""
    return [pair for line in _LINES.get(count, ()) for pair in pairwise(line) if pair[0] != pair[1]]
