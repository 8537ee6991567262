"""Keypoints by their names."""

from __future__ import annotations

from analyzer.errors import NotFoundError, suggest
from analyzer.images.skeleton import names_of
from analyzer.tasks.base import Labels


def number_of(name: str, count: int, labels: Labels) -> int:
    """A keypoint by its number or its name.

    Raises:
        NotFoundError: there is none.
    """
    names = [one.lower() for one in (labels if labels and len(labels) == count else names_of(count))]
    if name.isdigit() and int(name) < count:
        return int(name)
    if name.lower() in names:
        return names.index(name.lower())
    known = f"they are {', '.join(names)}" if names and len(names) <= 21 else f"they are 0 to {count - 1}"
    raise NotFoundError(f"there is no keypoint {name!r}", suggest(name, names) or known)


def name_of(index: int, count: int, labels: Labels) -> str:
    """What a keypoint is called: by labels, by a known set of so many, else by its number."""
    names = labels if labels and len(labels) == count else names_of(count)
    return names[index] if 0 <= index < len(names) and names[index] else f"keypoint {index}"
