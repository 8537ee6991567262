"""Pictures in files, in an order that does not depend on the machine."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analyzer.data.sample import Sample
from analyzer.errors import InputError
from analyzer.files import protect

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pbm", ".pgm", ".ppm")
ARRAYS = (".npy",)
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
LISTS = (".txt", ".lst", ".manifest")
STDIN = "-"
KINDS = (
    f"give picture files ({', '.join(PICTURES)}), .npy arrays, videos, folders, glob patterns or a text file with one "
    "path per line"
)


def find_pictures(
    sources: Iterable[str | os.PathLike[str]] | Sequence[Sample],
    limit: int | None = None,
    annotations: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Sample]:
    """Find pictures: in folders (recursively; .npy arrays and videos where there are no pictures) and by patterns
    (`photos/*.jpg`), both sorted by name, from text files with one path per line (relative to the file; `#` starts a
    comment), or single files; "-" reads a picture from stdin. Duplicates are dropped. Samples are returned unchanged.

    Args:
        limit: use at most this many, evenly spread.
        annotations: {file name: annotations of that picture}, see `Sample`.

    Raises:
        InputError: a source does not exist, or there are no pictures.
    """
    given = list(sources)
    samples = [source for source in given if isinstance(source, Sample)]
    if samples and len(samples) == len(given):
        return samples
    found: dict[Path, None] = {}
    for source in given:
        assert not isinstance(source, Sample), "samples and files cannot be mixed"
        found |= dict.fromkeys([Path(STDIN)] if source == STDIN else _expand(Path(source)))
    if not found:
        folders = ", ".join(str(source) for source in given)
        raise InputError(f"no pictures found in {folders}" if folders else "no pictures given", KINDS)
    protect(*found)
    paths = list(found)
    if limit and limit < len(paths):
        paths = [paths[i * len(paths) // limit] for i in range(limit)]
    known = annotations or {}
    return [
        Sample("stdin", number, sys.stdin.buffer.read(), known.get("stdin", {}))
        if str(path) == STDIN
        else Sample(str(path), number, path, known.get(path.name, {}))
        for number, path in enumerate(paths)
    ]


def _expand(source: Path) -> list[Path]:
    if source.is_dir():
        files = [p for p in source.rglob("*") if p.is_file()]
        pictures = sorted(p for p in files if p.suffix.lower() in PICTURES)
        return pictures or sorted(p for p in files if p.suffix.lower() in (*ARRAYS, *VIDEOS))
    if not source.exists():
        pattern = glob.has_magic(str(source))
        matching = sorted(map(Path, glob.glob(str(source), recursive=True))) if pattern else []
        if not matching and (pattern or source.suffix.lower() not in (*PICTURES, *ARRAYS, *VIDEOS)):
            raise InputError(f"no file matches {source}" if pattern else f"{source}: no such file or folder")
        return [p for found in matching for p in _expand(found)] or [source]  # decoding says what is near
    if source.suffix.lower() not in LISTS:
        return [source]
    try:
        lines = [line.split("#")[0].strip() for line in source.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"{source}: not a text file", "a list file has one path per line") from None
    return [source.parent / line for line in lines if line]
