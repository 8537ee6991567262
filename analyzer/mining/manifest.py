"""Which pictures: files, folders and lists of files, in an order that does not depend on the machine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from analyzer.errors import InputError
from analyzer.files import protect

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pbm", ".pgm", ".ppm")
LISTS = (".txt", ".lst", ".manifest")


@dataclass(frozen=True)
class Manifest:
    """Pictures by number: `paths[i]` is picture i."""

    paths: tuple[Path, ...]

    @classmethod
    def read(cls, sources: Iterable[str | os.PathLike[str]]) -> Manifest:
        """Pictures as they are, folders with all pictures below them sorted by name, and text files with a path a
        line (relative to the file; `#` begins a comment). Each picture counts once.

        Raises:
            InputError: a source does not exist, or there is no picture at all.
        """
        found: dict[Path, None] = {}
        for source in sources:
            found |= dict.fromkeys(_expand(Path(source)))
        if not found:
            raise InputError("there are no pictures", f"give pictures ({', '.join(PICTURES)}), folders or a list file")
        protect(*found)
        return cls(tuple(found))

    def __len__(self) -> int:
        return len(self.paths)


def _expand(source: Path) -> list[Path]:
    if source.is_dir():
        return sorted(p for p in source.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    if source.suffix.lower() not in LISTS:
        return [source]
    try:
        lines = [line.split("#")[0].strip() for line in source.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"{source}: is no text file", "a list holds one path a line") from None
    return [source.parent / line for line in lines if line]
