"""Results at addresses, such as s3://bucket/results: written here first, and uploaded when the command is done.

Until then they lie in the user's cache, by their address, so that an interrupted run resumes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_places: dict[str, str] = {}  # {where it is written: address}


def staged(value: str) -> str:
    """A path to write to: of an address one in the user's cache, any other as it is."""
    scheme, found, rest = value.partition("://")
    if not (found and scheme.isalnum() and rest.strip("/")):
        return value
    from analyzer.store import key_of, user_cache

    cache = user_cache()
    root = cache.folder / "uploads" if cache else Path(tempfile.mkdtemp(prefix="onnx-analyzer-"))
    folder = root / key_of(value)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / rest.rstrip("/").rpartition("/")[2]
    if value.endswith("/"):
        place.mkdir(exist_ok=True)
    _places[str(place)] = value.rstrip("/")
    return str(place) + "/" * value.endswith("/")


def addressed(text: str) -> str:
    """A text with addresses where results are written here."""
    for place, url in _places.items():
        text = text.replace(place, url)
    return text


def upload() -> None:
    """What was written, to its addresses; then it is removed here.

    Raises:
        OutputError: it cannot be uploaded; it stays here, and the same command uploads it.
    """
    from analyzer.data.remote import put
    from analyzer.errors import InputError, OutputError

    for place, url in list(_places.items()):
        path = Path(place)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in (f for f in files if f.exists()):
            below = file.relative_to(path).as_posix() if path.is_dir() else ""
            try:
                put(file, f"{url}/{below}" if below else url)
            except InputError as error:
                raise OutputError(f"{error.message}; the results are in {os.path.dirname(place)}", error.hint) from None
        shutil.rmtree(path.parent, ignore_errors=True)
        del _places[place]
