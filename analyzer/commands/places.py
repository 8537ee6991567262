"""Where results for pictures are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analyzer.commands.stdout import ToStdout

if TYPE_CHECKING:
    from analyzer.data import Sample


FILES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".npy", ".npz", ".csv", ".json", ".html", ".pdf")  # no folders


def destinations(given: str | None, sources: Sequence[str], samples: Sequence[Sample], suffix: str) -> dict[str, Path]:
    """{picture: file to write}; unless a single picture was named, they go into a folder, which is made.

    Raises:
        OutputError: the folder does not exist, or a file has its name; several pictures for stdout.
    """
    from analyzer.data.remote import is_remote
    from analyzer.errors import OutputError
    from analyzer.files import Places, claim, make_folder

    if given is None:
        return {}
    path, names = Path(given), [sample.id for sample in samples]
    named = names == [
        "stdin" if source == "-" else source if is_remote(source) else str(Path(source)) for source in sources
    ]
    single = named and len(names) == 1
    if isinstance(given, ToStdout):
        if not single:
            raise OutputError("only the result of a single picture can go to stdout", "give a folder instead of -")
        return {names[0]: path}
    if single and not path.is_dir() and not given.endswith("/"):
        if not path.parent.is_dir():
            raise OutputError(
                f"cannot write {path}: the folder {path.parent} does not exist", f"create it: mkdir -p {path.parent}"
            )
        claim(path)
        return {names[0]: path}
    if not path.is_dir() and (path.exists() or (path.suffix.lower() in FILES and not given.endswith("/"))):
        raise OutputError(
            f"{path} is the name of a file; several pictures need a folder",
            f"name a folder: -o {path.with_suffix('')}/",
        )
    places = Places(path)
    found = {sample.id: places.place(_stem(sample), suffix) for sample in samples}
    make_folder(path)
    return found


def _stem(sample: Sample) -> str:
    """What a file about a sample is called: a frame or row has its number."""
    name, _, number = sample.id.rpartition(":")
    if hasattr(sample.source, "index") and number.isdecimal():
        return f"{Path(name).stem}-{int(number):05}"
    return Path(sample.id).stem
