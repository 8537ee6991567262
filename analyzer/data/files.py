"""Pictures in files, in an order that does not depend on the machine."""

from __future__ import annotations

import csv
import functools
import glob
import json
import os
import random
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyzer.data.archives import ARCHIVES, COMPRESSED, DATASET, MASKS, known_of, members
from analyzer.data.remote import MissingError, Remote, UnreadableError, addresses, is_remote, opened
from analyzer.data.sample import Sample
from analyzer.data.tables import ROWS, TABLES, Where, cells
from analyzer.errors import InputError
from analyzer.files import protect
from analyzer.images.sources import Stored

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pbm", ".pgm", ".ppm")
ARRAYS = (".npy",)
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
FILES_ONLY = (*VIDEOS, *ARRAYS)  # not at addresses
LISTS = (".txt", ".lst", ".manifest")
METADATA = ("metadata.jsonl", "metadata.csv")
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
            found[picture] = found.get(picture) or known
    damaged = [picture for picture in found if isinstance(picture, Damaged)]
    if damaged and len(damaged) == len(found):
        raise damaged[0].error
    if not found:
        folders = ", ".join(str(source) for source in given)
        if where:
            raise InputError(f"no picture in {folders} has {where}", ROWS)
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
        else Sample(str(picture), number, picture, _both(found[picture], more.get(os.path.basename(str(picture)))))
        for number, picture in enumerate(chosen)
    ]


def _both(known: Mapping[str, Any], more: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return {**known, **more} if more else known


@dataclass(frozen=True, slots=True, eq=False)
class Damaged(Stored):
    """What is left of an archive or a table that cannot be read: a picture that cannot."""

    path: str
    error: InputError

    def __str__(self) -> str:
        return self.path

    def read(self) -> bytes:
        raise self.error


def _pictures(source: str | os.PathLike[str], where: str | None) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """What a source stands for: pictures by path or as `Stored`, with what is known of them."""
    if source == STDIN:
        yield Path(STDIN), {}
    elif is_remote(source):
        urls = addresses(str(source))
        if urls == [source] and _ending(source) in LISTS:
            urls = _listed(str(source))
        described = {os.path.dirname(url) for url in urls if os.path.basename(url) in METADATA}
        pictures = any(_ending(url) in (*PICTURES, *ARCHIVES, *TABLES) for url in urls)
        for url in urls:
            is_only = url == str(source) or _ending(source) in LISTS or (not pictures and _ending(url) in FILES_ONLY)
            yield from _in_file(url, where, Remote(url), described, is_only)
    else:
        paths = _expand(Path(source))
        root = str(source) if os.path.isdir(source) else ""
        described = set(_with_metadata(paths, root))
        for path in paths:
            yield from _in_file(str(path), where, path if isinstance(path, Path) else Remote(path), described)


def _with_metadata(paths: Iterable[Path | str], root: str) -> Iterator[str]:
    """Of the folders of files, and those above them up to the root, the ones that hold metadata."""
    left, seen = {os.path.dirname(str(path)) for path in paths if isinstance(path, Path)}, set[str]()
    while left:
        seen |= left
        yield from (folder for folder in left if any(os.path.isfile(os.path.join(folder, n)) for n in METADATA))
        left = {os.path.dirname(f) for f in left if root and f != root and f.startswith(root)} - seen


def _in_file(
    path: str, where: str | None, itself: Any, described: Container[str], is_only: bool = True
) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The pictures in an archive or table; else the file itself, unless it is one of many and no picture.

    Args:
        described: folders that hold metadata of the files in and below them.
    """
    ending = _ending(path)
    try:
        if path.lower().endswith((*ARCHIVES, *COMPRESSED)):
            for picture, known in members(path, PICTURES):
                if where is None or Where.of(where, ["label"], path).holds(known.get(DATASET, {})):
                    yield picture, known
        elif ending in TABLES:
            yield from cells(path, where)
        elif is_only and is_remote(path) and ending in FILES_ONLY:
            raise InputError(f"{path}: videos and arrays are not read from addresses", "download it")
        elif is_only or ending in PICTURES:
            row, names = _described(path, described)
            if where is None or Where.of(where, names, path).holds(row):
                yield itself, known_of(row)
    except UnreadableError as error:
        yield Damaged(path, error), {}


def _ending(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(path)[1].lower()


def _described(path: str, described: Container[str]) -> tuple[Mapping[str, Any], Sequence[str]]:
    """(what is said of a picture by the metadata of its folder, or of one above it; the columns of that metadata)"""
    folder, names = path, list[str]()
    while described and folder != (folder := os.path.dirname(folder)):
        if folder in described:
            rows, columns = _metadata(folder)
            if (row := rows.get(path[len(folder) :].lstrip("/"))) is not None:
                return row, columns
            names += columns
    return {}, names


@functools.lru_cache(maxsize=64)
def _metadata(folder: str) -> tuple[Mapping[str, dict[str, Any]], Sequence[str]]:
    """({file name: columns}, names of columns) of a folder's metadata.jsonl, else metadata.csv, as Hugging Face's image
    folders have them; empty where that names no files.

    Raises:
        InputError: it is damaged.
    """
    for name in METADATA:
        path = f"{folder}/{name}" if folder else name
        try:
            with opened(path) as file:
                data = file.read()
            lines = data.decode("utf-8-sig").splitlines()
            rows = list(csv.DictReader(lines)) if name.endswith("csv") else [json.loads(x) for x in lines if x.strip()]
        except MissingError:
            continue
        except (ValueError, csv.Error) as error:
            raise InputError(f"{path}: cannot be read ({error})", "mend it, or give it another name") from None
        named = {str(row["file_name"]): row for row in rows if isinstance(row, dict) and row.get("file_name")}
        for row in named.values():
            given = {key: row.pop(key) for key in MASKS if key in row}
            row |= {key: os.path.join(folder, path) for key, path in given.items() if isinstance(path, str) and path}
        return named, sorted({key for row in named.values() for key in row})
    return {}, []


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
    return [line if is_remote(line) else Path(line) for line in _listed(str(source))]


def _listed(path: str) -> list[str]:
    """The files that a text file names, one per line, relative to itself."""
    with opened(path) as file:
        data = file.read()
    try:
        lines = [line.split("#")[0].strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file", "a list file has one path per line") from None
    folder = os.path.dirname(path)
    return [line if is_remote(line) or not folder else os.path.join(folder, line) for line in lines if line]
