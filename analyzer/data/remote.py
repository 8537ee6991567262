"""Files at addresses, such as s3://bucket/cats/1.jpg: read by fsspec's file systems, listed in order."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from analyzer.errors import InputError
from analyzer.images.decode import MAX_FILE_BYTES
from analyzer.images.sources import Stored

CONNECTED_IN, ANSWERED_IN = 5.0, 10.0  # seconds; S3's file system tries ten times, the web's twice
WITH_FOLDERS = ("file://", "local://", "sftp://", "ssh://", "hdfs://", "webhdfs://", "smb://")


def is_remote(source: Any) -> bool:
    """Whether a source is an address."""
    return "://" in str(source)


@dataclass(frozen=True, slots=True)
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


class UnreadableError(InputError):
    """A file, archive or table that cannot be read: missing, damaged, or its store does not answer."""


class MissingError(UnreadableError):
    """There is no such file."""


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Inside, whatever a store or a format raises is an error of this file.

    Raises:
        UnreadableError: it cannot be read.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        if (why := error.__cause__) is not None and not _is_missing(why):  # the web's: its server does not answer
            raise UnreadableError(f"{source}: cannot be read ({_said(why)})") from error
        raise MissingError(f"{source}: no such file") from error
    except Exception as error:  # every store has errors of its own
        raise UnreadableError(f"{source}: cannot be read ({_said(error)})") from error


@contextmanager
def opened(source: str) -> Iterator[IO[bytes]]:
    """A file at an address or on this machine, to be read from any place in it.

    Raises:
        UnreadableError: it cannot be read; inside as well.
    """
    with reading(source):
        if is_remote(source):
            files, path = _files(source)
            with files.open(path, "rb") as file:
                yield file
        else:
            with open(source, "rb") as file:
                yield file


def part_of(source: str, start: int, size: int) -> bytes:
    """Bytes from the middle of a file, of which nothing else is transferred.

    Raises:
        UnreadableError: it cannot be read, or only from its beginning.
    """
    with reading(source):
        if not is_remote(source):
            with open(source, "rb") as file:
                file.seek(start)
                return file.read(size)
        files, path = _files(source)
        found: bytes = files.cat_file(path, start=start, end=start + size)
    if len(found) > size:
        raise UnreadableError(f"{source}: its server sends no parts of files", "download the file")
    return found


def for_tables(url: str) -> Any:
    """A file at an address of which only what is read is transferred; all of it where its server sends no parts."""
    files, path = _files(url)
    with reading(url):
        file = files.open(path, "rb", cache_type="none")
        try:
            file.seek(1)
            file.read(1)
            return file
        except ValueError:
            return io.BytesIO(files.cat_file(path))


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


def get_all(pattern: str, folder: Path) -> None:
    """Downloads the files that match, with their times, but for those that the folder has; none where this may not be
    listed.

    Raises:
        InputError: the store does not answer.
    """
    files, path = _files(pattern)
    try:
        files.invalidate_cache()
        for name in files.glob(path):
            place = folder / name.rpartition("/")[2]
            if not place.exists():
                files.get_file(name, str(place))
                with suppress(NotImplementedError):
                    os.utime(place, (changed := files.modified(name).timestamp(), changed))
    except (FileNotFoundError, PermissionError, NotImplementedError):
        return
    except Exception as error:  # every store has errors of its own
        raise InputError(f"{pattern}: cannot be listed ({_said(error)})", _hint(pattern)) from error


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
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **_patience(url.partition("://")[0]))
        return found
    except ImportError as error:  # the package of this kind of store
        hint = 'pip install "onnx-analyzer[remote]" has those of S3 and of the web'
        raise InputError(f"{url}: {_said(error)}", hint) from error
    except ValueError as error:
        raise InputError(f"{url}: {_said(error)}") from error  # no such kind


def _patience(protocol: str) -> dict[str, Any]:
    """Options of a file system that gives up on a server that does not answer; fsspec's own configuration goes first.

    By themselves S3's tries 25 times, and the web's waits for five minutes.
    """
    from fsspec.config import conf

    own = conf.get(protocol, {})
    if protocol in ("s3", "s3a"):
        limits = {"connect_timeout": CONNECTED_IN, "read_timeout": ANSWERED_IN, "retries": {"max_attempts": 1}}
        return {"config_kwargs": limits | own.get("config_kwargs", {})}
    if protocol in ("http", "https") and "client_kwargs" not in own:
        from aiohttp import ClientTimeout

        return {"client_kwargs": {"timeout": ClientTimeout(sock_connect=CONNECTED_IN, sock_read=ANSWERED_IN)}}
    return {}


def _hint(url: str) -> str:
    if url.startswith("s3://"):
        return "credentials and endpoint are those of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
    return ""


def _is_missing(error: BaseException) -> bool:
    """Whether a store said that there is no such file; the web's file system says it of every failure."""
    by_itself = isinstance(error, OSError) or type(error).__module__.startswith("aiohttp")
    return not by_itself or getattr(error, "status", 0) in (404, 410)


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
