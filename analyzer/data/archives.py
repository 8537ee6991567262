"""Pictures in tar archives, as WebDataset writes them: files of one sample share a name up to its first dot."""

from __future__ import annotations

import functools
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from analyzer.data.remote import UnreadableError, opened, part_of
from analyzer.errors import InputError
from analyzer.images.sources import Stored

ARCHIVES = (".tar",)
DATASET = "dataset"  # what archives and tables say of a picture, among its annotations
MASKS = ("mask", "seg")  # columns of tables, and what comes before a mask's ending in archives: 1.mask.png
# What people call it in tables and in files beside pictures.
CALLED = {"label": ("label", "class", "cls"), "boxes": ("boxes", "bboxes"), "mask": MASKS}
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True, slots=True)
class Member(Stored):
    """A file in an archive that is not compressed."""

    archive: str
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read(self) -> bytes:
        return part_of(self.archive, self.start, self.size)


def members(archive: str, endings: tuple[str, ...]) -> Iterator[tuple[Member, Mapping[str, Any]]]:
    """The pictures of an archive in its order, each with what the files beside it say: the class in `.cls`, as a
    number or a name, `label` and `boxes` of a `.json`, and the place of a `.mask.png` or `.seg.png`.

    Raises:
        UnreadableError: it is no tar archive; or, after the pictures before that, its rest is damaged.
        InputError: it is compressed.
    """
    if archive.lower().endswith(COMPRESSED):
        raise InputError(
            f"{archive}: pictures cannot be read from the middle of a compressed archive",
            "unpack it to a .tar: pictures are compressed already",
        )
    found: dict[str, list[Member]] = {}
    known: dict[str, dict[str, Any]] = {}
    damage: UnreadableError | None = None
    try:
        with opened(archive) as file, _tar(file, archive) as tar:
            for entry in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if not entry.isfile():
                    continue
                folder, _, base = entry.name.rpartition("/")
                stem, _, ending = base.partition(".")
                sample = f"{folder}/{stem}"
                if f".{ending.lower()}" in endings:
                    found.setdefault(sample, []).append(Member(archive, entry.name, entry.offset_data, entry.size))
                elif ending.lower().removesuffix(".png") in MASKS:
                    where = [archive, entry.name, entry.offset_data, entry.size]
                    known.setdefault(sample, {})["mask"] = where
                elif ending.lower() in ("cls", "json") and entry.size < 1 << 20:
                    text = tar.extractfile(entry)
                    known.setdefault(sample, {}).update(_said(ending.lower(), text.read() if text else b""))
    except UnreadableError as error:
        damage = error
    for sample, pictures in found.items():
        for picture in pictures:
            yield picture, known_of(known.get(sample, {}))
    if damage:
        raise damage


@contextmanager
def _tar(file: IO[bytes], name: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except tarfile.TarError as error:
        raise UnreadableError(f"{name}: not a tar archive, or a damaged one ({error})") from error


def _said(ending: str, data: bytes) -> dict[str, Any]:
    """What a file beside a picture says of it; nothing where it cannot be read."""
    try:
        text = data.decode()
        given = {"label": text.strip()} if ending == "cls" else json.loads(text)
        return {key: value for key, value in given.items() if key not in MASKS} if isinstance(given, dict) else {}
    except ValueError:
        return {}


def labelled(value: Any) -> Any:
    """A class as its number, where it is one."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def known_of(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """{"dataset": {"label": the class, "boxes": x0, y0, x1, y1, "mask": where it is}} of a picture, from the columns or
    keys that people call them by; empty where it says nothing. They count where they are asked for: classes of a data
    set need not be those of a model."""
    found: dict[str, Any] = {}
    for key, names in CALLED.items() if given else ():
        value = next((given[name] for name in names if given.get(name) is not None), None)
        if value is not None:
            found[key] = labelled(value)
    if found.keys() == {"label"} and isinstance(found["label"], int | str):
        return _of_class(found["label"])
    return {DATASET: found} if found else _NOTHING


_NOTHING: Mapping[str, Any] = {}  # of a million pictures, one


@functools.lru_cache(maxsize=4096, typed=True)
def _of_class(label: int | str) -> Mapping[str, Any]:
    """What many pictures have in common."""
    return {DATASET: {"label": label}}
