"""What went wrong once: a folder per case, with its files and its command, so that it is run again by the tests."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.harness import Case

FINDS = Path(__file__).parent / "finds"
COMMAND = "command"  # the file that has it


def save(case: Case, place: Path) -> None:
    """A case as a folder."""
    place.mkdir(parents=True, exist_ok=True)
    for name, data in case.files.items():
        (place / name).write_bytes(data)
    (place / COMMAND).write_text(shlex.join(case.command) + "\n")


def load(place: Path) -> Case:
    """The case of a folder."""
    files = {p.name: p.read_bytes() for p in sorted(place.iterdir()) if p.name != COMMAND}
    return Case(files, shlex.split((place / COMMAND).read_text()))


def finds() -> Iterator[Path]:
    """The folders of all."""
    yield from sorted(p.parent for p in FINDS.glob(f"*/{COMMAND}"))
