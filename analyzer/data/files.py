"""Pictures in files, in an order that does not depend on the machine."""

from __future__ import annotations

import csv
import functools
import glob
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analyzer.data.archives import ARCHIVES, COMPRESSED, known_of, members
from analyzer.data.remote import Remote, addresses, is_remote
from analyzer.data.sample import Sample
from analyzer.data.tables import TABLES, cells
from analyzer.errors import InputError
from analyzer.files import protect

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pbm", ".pgm", ".ppm")
ARRAYS = (".npy",)
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
LISTS = (".txt", ".lst", ".manifest")
STDIN = "-"
KINDS = (
    f"give picture files ({', '.join(PICTURES)}), .npy arrays, videos, folders, glob patterns, tar archives, Parquet "
    "files, or a text file with one path per line"
)


def find_pictures(
    sources: Iterable[str | os.PathLike[str]] | Sequence[Sample],
    limit: int | None = None,
    annotations: Mapping[str, Mapping[str, Any]] | None = None,
    sample: tuple[int, int] | None = None,
    where: str | None = None,
) -> list[Sample]:
    """Find pictures: in folders (recursively; .npy arrays and videos where there are no pictures) and by patterns
    (`photos/*.jpg`), both sorted by name, from text files with one path per line (relative to the file; `#` starts a
    comment), in tar archives and in Parquet or Arrow files, or single files; "-" reads a picture from stdin. All of
    them may be at addresses, such as s3://bucket/photos. Duplicates are dropped. Samples are returned unchanged.

    What archives and tables say of a picture (its class, its boxes) and what a folder's metadata.csv or metadata.jsonl
    does is among its annotations.

    Args:
        limit: use at most this many, evenly spread.
        annotations: {file name: annotations of that picture}, see `Sample`.
        sample: use at most so many, drawn at random with a seed: (number, seed). They keep their order.
        where: of tables the rows to use, such as "split=test".

    Raises:
        InputError: a source does not exist, or there are no pictures.
    """
    given = list(sources)
    samples = [source for source in given if isinstance(source, Sample)]
    if samples and len(samples) == len(given):
        return samples
    found: dict[Any, Mapping[str, Any]] = {}
    for source in given:
        assert not isinstance(source, Sample), "samples and files cannot be mixed"
        for picture, known in _pictures(source, where):
            found.setdefault(picture, known)
    if not found:
        folders = ", ".join(str(source) for source in given)
        raise InputError(f"no pictures found in {folders}" if folders else "no pictures given", KINDS)
    protect(*(picture for picture in found if isinstance(picture, Path)))
    chosen = list(found)
    if sample and sample[0] < len(chosen):
        chosen = [chosen[i] for i in sorted(random.Random(sample[1]).sample(range(len(chosen)), sample[0]))]
    if limit and limit < len(chosen):
        chosen = [chosen[i * len(chosen) // limit] for i in range(limit)]
    more = annotations or {}
    return [
        Sample("stdin", number, sys.stdin.buffer.read(), more.get("stdin", {}))
        if str(picture) == STDIN
        else Sample(str(picture), number, picture, {**found[picture], **more.get(os.path.basename(str(picture)), {})})
        for number, picture in enumerate(chosen)
    ]


def _pictures(source: str | os.PathLike[str], where: str | None) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """What a source stands for: pictures by path or as `Stored`, with what is known of them."""
    if source == STDIN:
        yield Path(STDIN), {}
    elif is_remote(source):
        for url in addresses(str(source)):
            yield from _in_file(url, where, Remote(url), is_only=url == str(source))
    else:
        for path in _expand(Path(source)):
            yield from _in_file(str(path), where, path if isinstance(path, Path) else Remote(path))


def _in_file(
    path: str, where: str | None, itself: Any, is_only: bool = True
) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The pictures in an archive or table; else the file itself, unless it is one of many and no picture."""
    ending = os.path.splitext(path)[1].lower()
    if path.lower().endswith((*ARCHIVES, *COMPRESSED)):
        yield from members(path, PICTURES)
    elif ending in TABLES:
        yield from cells(path, where)
    elif is_only or ending in PICTURES:
        yield itself, known_of(_metadata(os.path.dirname(path)).get(os.path.basename(path), {}))


@functools.lru_cache(maxsize=64)
def _metadata(folder: str) -> dict[str, dict[str, Any]]:
    """{file name: columns} of a folder's metadata.csv or metadata.jsonl, as Hugging Face's image folders have them."""
    try:
        lines = (Path(folder) / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError):
        try:
            with (Path(folder) / "metadata.csv").open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error):
            return {}
    return {str(row["file_name"]): row for row in rows if isinstance(row, dict) and row.get("file_name")}


def _expand(source: Path) -> list[Path | str]:
    """The files that a path stands for; addresses, as text, only where a list has some."""
    if source.is_dir():
        files = [p for p in source.rglob("*") if p.is_file()]
        pictures = sorted(p for p in files if p.suffix.lower() in (*PICTURES, *ARCHIVES, *TABLES))
        return [*(pictures or sorted(p for p in files if p.suffix.lower() in (*ARRAYS, *VIDEOS)))]
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
    return [line if is_remote(line) else source.parent / line for line in lines if line]
