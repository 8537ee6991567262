"""Files at addresses, such as s3://bucket/cats/1.jpg: read by fsspec's file systems, listed in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from analyzer.errors import InputError
from analyzer.images.decode import MAX_FILE_BYTES
from analyzer.images.sources import Stored

WITH_FOLDERS = ("file://", "local://", "sftp://", "ssh://", "hdfs://", "webhdfs://", "smb://")


def is_remote(source: Any) -> bool:
    """Whether a source is an address."""
    return "://" in str(source)


@dataclass(frozen=True)
class Remote(Stored):
    """A picture at an address."""

    url: str

    def __str__(self) -> str:
        return self.url

    def read(self) -> bytes:
        with opened(self.url) as file:
            data: bytes = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise InputError(f"{self.url}: over the limit of {MAX_FILE_BYTES >> 20} MiB for a picture file")
        return data


@contextmanager
def opened(source: str) -> Iterator[IO[bytes]]:
    """A file at an address or on this machine, to be read from any place in it.

    Raises:
        InputError: it cannot be read; inside as well.
    """
    try:
        if is_remote(source):
            files, path = _files(source)
            with files.open(path, "rb") as file:
                yield file
        else:
            with open(source, "rb") as file:
                yield file
    except FileNotFoundError as error:
        raise InputError(f"{source}: no such file") from error
    except InputError:
        raise
    except Exception as error:  # every store has errors of its own
        raise InputError(f"{source}: cannot be read ({_said(error)})") from error


def put(file: Path, url: str) -> None:
    """Uploads a file.

    Raises:
        InputError: it cannot be.
    """
    files, path = _files(url)
    try:
        if url.startswith(WITH_FOLDERS):  # elsewhere that would make a bucket
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
        files.put_file(str(file), path)
    except Exception as error:  # every store has errors of its own
        raise InputError(f"{url}: cannot be written ({_said(error)})", _hint(url)) from error


def addresses(url: str) -> list[str]:
    """The files that an address stands for, sorted: itself, those below it, or those that match a pattern.

    Raises:
        InputError: there is none; the store cannot be reached.
    """
    files, path = _files(url)
    try:
        if any(letter in path for letter in "*?["):
            found = files.glob(path)
        elif url.startswith(("http://", "https://")) or files.isfile(path):  # the web has no folders
            return [url]
        else:
            found = files.find(path)
    except Exception as error:
        raise InputError(f"{url}: cannot be listed ({_said(error)})", _hint(url)) from error
    return sorted(files.unstrip_protocol(name) for name in found)


def _files(url: str) -> tuple[Any, str]:
    """(the file system of an address, its path there)"""
    try:
        import fsspec
    except ImportError as error:
        hint = 'install them with: pip install "onnx-analyzer[remote]"'
        raise InputError(f"{url}: reading from addresses needs fsspec", hint) from error
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
        return found
    except ImportError as error:  # the package of this kind of store
        hint = 'pip install "onnx-analyzer[remote]" has those of S3 and of the web'
        raise InputError(f"{url}: {_said(error)}", hint) from error
    except ValueError as error:
        raise InputError(f"{url}: {_said(error)}") from error  # no such kind


def _hint(url: str) -> str:
    if url.startswith("s3://"):
        return "credentials and endpoint are those of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
    return ""


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
