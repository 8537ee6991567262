"""Results at addresses, such as s3://bucket/results: written here first, and uploaded when the command is done.

Until then they lie in the user's cache, by their address, so that an interrupted run resumes. What a run kept is
uploaded too: shards that went to one address, and a run that was terminated, go on from there on any machine.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

KEPT = "*.state"  # what a run goes on from; see `passes.journal`
_places: dict[str, str] = {}  # {where it is written: address}
_copies: dict[str, str] = {}  # {where there is a copy of what was kept: address}


def staged(value: str, is_folder: bool = False) -> str:
    """A path to write to: of an address one in the user's cache, any other as it is.

    Args:
        is_folder: it is one, in which a run resumes: what others kept at the address is brought here.

    Raises:
        OutputError: the address does not answer.
    """
    if not _is_address(value):
        return value
    from analyzer.errors import InputError, OutputError

    place = _place(value) or Path(tempfile.mkdtemp(prefix="onnx-analyzer-")) / "result" / _name(value)
    place.parent.mkdir(parents=True, exist_ok=True)
    if value.endswith("/") or is_folder:
        place.mkdir(exist_ok=True)
    if is_folder:
        try:
            _fetch(value, place)
        except InputError as error:
            raise OutputError(error.message, error.hint) from None
    _places[str(place)] = value.rstrip("/")
    return str(place) + "/" * value.endswith("/")


def fetched(value: str) -> str:
    """A folder of runs to read: of an address the one here, where a run is under way, else a copy of what was kept.

    Raises:
        InputError: the address does not answer.
    """
    if not _is_address(value):
        return value
    place = _place(value)
    if place is None or not place.is_dir():
        folder = tempfile.mkdtemp(prefix="onnx-analyzer-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        place = Path(folder) / _name(value)
        place.mkdir()
        _fetch(value, place)
    _copies[str(place)] = value.rstrip("/")
    return str(place)


def _is_address(value: str) -> bool:
    scheme, found, rest = value.partition("://")
    return bool(found and scheme.isalnum() and rest.strip("/"))


def _place(url: str) -> Path | None:
    """Where the results of an address are in the user's cache until they are uploaded; None without a cache."""
    from analyzer.store import key_of, user_cache

    cache = user_cache()
    return cache.folder / "uploads" / key_of(url.rstrip("/"))[:16] / _name(url) if cache else None


def _name(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


def _fetch(url: str, place: Path) -> None:
    """What was kept at an address, but for what is here already."""
    from analyzer.data.remote import get_all

    get_all(f"{url.rstrip('/')}/{KEPT}", place)


def addressed(text: str) -> str:
    """A text with addresses where results are written here."""
    for place, url in (_places | _copies).items():
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
        with suppress(OSError):  # a temporary one, for this command alone
            path.parent.parent.rmdir()
        del _places[place]


def upload_kept() -> None:
    """What runs kept so far, for another machine to go on from; nothing where that cannot be done."""
    from analyzer.data.remote import put
    from analyzer.errors import InputError

    for place, url in _places.items():
        for file in Path(place).glob(KEPT):
            with suppress(InputError):
                put(file, f"{url}/{file.name}")
