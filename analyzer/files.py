"""Files: written whole or not at all, never over an input; and what they hold, as a hash.

Whoever works on files opens a `guard`: the command line does for every command, a function of the library that writes
for itself. Inside it, what is read is `protect`ed (loading a model, decoding a picture and reading a text do so by
themselves), and `atomic_file`, which everything is written with, refuses to replace any of it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import select
import shutil
import stat
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import IO

from analyzer.errors import InputError, OutputError
from analyzer.heartbeat import gone, made
from analyzer.plain import visible

AnyPath = str | os.PathLike[str]
Identity = tuple[int, int]  # device and inode: equal for all names and links of one file


class Guard:
    """The inputs and outputs of one piece of work."""

    def __init__(self) -> None:
        self._inputs: dict[Identity, AnyPath] = {}
        self._unread: list[Iterable[AnyPath]] = []  # inputs whose identity nobody has needed yet
        self._outputs: dict[str, AnyPath] = {}
        self._existing: dict[Identity, AnyPath] = {}  # outputs of which there was a file when they were claimed
        self._lock = threading.Lock()

    def protect(self, paths: Iterable[AnyPath]) -> None:
        self._unread.append(paths)
        if not self._outputs:
            return
        for path in paths:
            identity = _identity(path)
            output = self._outputs.get(_key(path)) or (self._existing.get(identity) if identity else None)
            if output is not None:
                self.check(output)

    def claim(self, path: AnyPath) -> None:
        key, identity = _key(path), _identity(path)
        if identity is not None:
            self._existing[identity] = path
        if key in self._outputs:
            raise OutputError(f"{path}: two outputs would be written to this file", "use a different name for each")
        self._outputs[key] = path
        self.check(path)

    def check(self, path: AnyPath) -> None:
        identity = _identity(path)
        if identity is None:
            return
        with self._lock:
            for paths in self._unread:
                for given in paths:
                    known = _identity(given)
                    if known is not None:
                        self._inputs.setdefault(known, given)
            self._unread.clear()
            found = self._inputs.get(identity)
        if found is not None:
            same = "" if os.fspath(found) == os.fspath(path) else f" (as {path})"
            raise OutputError(f"{found} is an input and would be overwritten{same}", "choose another name or folder")


_guard: ContextVar[Guard | None] = ContextVar("guard", default=None)


@contextmanager
def guard(*inputs: AnyPath) -> Iterator[None]:
    """Inside the block, or the function that this decorates, nothing that is read is overwritten.

    A guard inside a guard is the outer one.
    """
    if _guard.get() is not None:
        protect(*inputs)
        yield
        return
    token = _guard.set(Guard())
    try:
        protect(*inputs)
        yield
    finally:
        _guard.reset(token)


def protect(*paths: AnyPath) -> None:
    """These are inputs: never written to while the guard around us lasts.

    Raises:
        OutputError: one of them is claimed as an output already.
    """
    current = _guard.get()
    if current is not None and paths:
        current.protect(paths)


def claim(path: AnyPath) -> None:
    """This file will be written, by nobody else.

    Raises:
        OutputError: it is an input, or the name of another output.
    """
    current = _guard.get()
    if current is not None:
        current.claim(path)


def check_output(path: AnyPath) -> None:
    """Refuses to write to an input.

    Raises:
        OutputError: `path` is one, by this or another name or link.
    """
    current = _guard.get()
    if current is not None:
        current.check(path)


def _key(path: AnyPath) -> str:
    """The same for all names of a file but hard links; file systems may ignore case."""
    return os.path.realpath(path).casefold()


def _identity(path: AnyPath) -> Identity | None:
    """Of a regular file; None for everything else, and where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def shortened(name: str, limit: int) -> str:
    """`name` in at most `limit` bytes: where it is longer, its beginning and a hash of all of it."""
    data = os.fsencode(name)
    if len(data) <= limit:
        return name
    beginning = data[: limit - 9].decode(errors="ignore")
    return f"{beginning}-{hashlib.sha256(data).hexdigest()[:8]}"


NAME_LIMIT = 255  # bytes that file systems take


class Places:
    """Names for the files of a folder, each given once: `cat.png`, then `cat-2.png`."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = Path(folder)
        self._given: set[str] = set()

    def place(self, stem: str, suffix: str) -> Path:
        """A file that no other caller got, claimed as an output; a stem too long for a file's name is `shortened`."""
        stem = shortened(stem, NAME_LIMIT - len(suffix) - 8)
        name, count = f"{stem}{suffix}", 1
        while name.casefold() in self._given:
            count += 1
            name = f"{stem}-{count}{suffix}"
        self._given.add(name.casefold())
        claim(self.folder / name)
        return self.folder / name


MACHINE = hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:6] if hasattr(os, "uname") else ""
OURS = f".onnx-analyzer-{MACHINE}-"  # what our temporary files begin with; folders can be shared by machines
_swept: set[Path] = set()


@contextmanager
def _temporary(folder: Path, make: Callable[[Path], None], suffix: str = "") -> Iterator[Path]:
    """What `make` makes in a folder, under a new name, locked so that no other process takes it for left over."""
    if folder not in _swept:
        _swept.add(folder)
        _sweep(folder)
    path, lock = folder / f"{OURS}{secrets.token_hex(8)}{suffix}", None
    made(path)  # before it is there: the supervisor removes it whenever this process ends
    try:
        while True:
            make(path)
            lock = _locked(path, wait=True)
            if path.exists():  # else another process took it for left over before it was locked
                break
            if lock is not None:
                os.close(lock)
        yield path
    finally:
        with suppress(OSError):
            _remove(path)
        gone(path)
        if lock is not None:
            os.close(lock)


def _sweep(folder: Path) -> None:
    """Removes temporary files and folders that processes have left there which were killed."""
    user = os.geteuid() if hasattr(os, "geteuid") else None
    with suppress(OSError), os.scandir(folder) as found:
        for path in [Path(entry.path) for entry in found if entry.name.startswith(OURS)]:
            with suppress(OSError):
                if path.lstat().st_uid == user and (lock := _locked(path)) is not None:
                    _remove(path)
                    os.close(lock)


def _locked(path: Path, wait: bool = False) -> int | None:
    """A file descriptor that holds a lock on a file or folder, as long as this process lives.

    None if another process holds it, or where there are no such locks, as on Windows: nothing is left over there.

    Args:
        wait: for another process that holds it.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(lock)
        return None
    return lock


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def destination(path: AnyPath) -> Path:
    """Where `path` is: links are followed, and stay.

    Raises:
        OutputError: a link leads to itself.
    """
    target = Path(os.path.realpath(path))
    if os.path.islink(target):
        raise OutputError(f"{path}: cannot be written (a link that leads to itself)")
    return target


@contextmanager
def atomic_file(path: AnyPath) -> Iterator[IO[bytes]]:
    """A binary file that takes the name `path` when the block ends well, and vanishes when it does not.

    Written beside `path` and renamed. A symbolic link keeps pointing where it points; a device or a pipe is written to
    directly.

    Raises:
        OutputError: `path` is an input or a folder, its folder is missing, or the system refuses.
    """
    check_output(path)
    target = destination(path)
    try:
        mode = target.stat().st_mode if target.exists() else stat.S_IFREG
        if stat.S_ISDIR(mode):
            raise OutputError(f"{path}: is a folder, not a file")
        if not stat.S_ISREG(mode):
            with target.open("wb") as file:
                yield file
            return
        with _temporary(target.parent, lambda new: new.touch(exist_ok=False), ".part") as temporary:
            with open(temporary, "wb") as file:
                yield file
            os.replace(temporary, target)
    except OSError as error:
        name = str(error.filename or target)
        if name != str(target) and not name.startswith(str(target.parent / OURS)):
            raise
        if isinstance(error, FileNotFoundError):
            raise OutputError(f"{path}: the folder {str(target.parent)!r} does not exist", "create it first") from error
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextmanager
def temporary_folder(beside: AnyPath | None = None) -> Iterator[Path]:
    """A folder that is removed when the block ends, or by the supervisor if this process crashes in it.

    What was left by processes that were killed themselves, with their supervisor, is removed by the next one.

    Args:
        beside: a folder that it is made in, hidden; else that of the system.
    """
    with _temporary(Path(beside or tempfile.gettempdir()), lambda new: new.mkdir(0o700)) as folder:
        yield folder


def atomic_write(path: AnyPath, data: bytes) -> None:
    """The file `path` holds `data`, or what it held before.

    Raises:
        OutputError: as `atomic_file`.
    """
    with atomic_file(path) as file:
        file.write(data)


def write_text(path: AnyPath, text: str) -> None:
    """The file `path` holds `text` as UTF-8, and what cannot be seen of it as escapes, see `plain.visible`.

    Raises:
        OutputError: as `atomic_file`.
    """
    write_parts(path, [text])


def write_parts(path: AnyPath, parts: Iterable[str]) -> None:
    """As `write_text`, a part after the other."""
    with atomic_file(path) as file:
        for part in parts:
            file.write(visible(part).encode())


def make_folder(path: AnyPath) -> Path:
    """The folder `path`, made with all above it where it is missing.

    Raises:
        OutputError: the system refuses, or a file has that name.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot create this folder ({error.strerror or error})") from error
    return folder


# ---- Reading ----

PATIENCE = 5.0  # seconds until there must be something in a pipe


def opened(path: AnyPath) -> BufferedReader:
    """A file or a pipe, open for reading. A named pipe would wait forever for somebody to write to it.

    Raises:
        OSError: it cannot be opened. InputError: nothing is written to this pipe.
    """
    if not stat.S_ISFIFO(os.stat(path).st_mode):
        return open(path, "rb")
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    ready = select.poll()
    ready.register(number)
    if not ready.poll(PATIENCE * 1000):
        os.close(number)
        raise InputError(f"{path}: nothing is written to this pipe")
    os.set_blocking(number, True)
    return open(number, "rb")


# ---- What files hold ----


@dataclass(frozen=True)
class FileState:
    """Changes when a file does; `settled` tells whether that is sure.

    A file that was written a moment ago may be written again within one tick of its file system's clock.
    """

    size: int
    modified: int
    changed: int
    identity: Identity
    settled: bool = field(compare=False)

    @classmethod
    def of(cls, path: AnyPath) -> FileState:
        """Raises: OSError: there is no such file."""
        return cls.from_stat(os.stat(path))

    @classmethod
    def from_stat(cls, status: os.stat_result) -> FileState:
        latest = max(status.st_mtime_ns, status.st_ctime_ns)
        tick = 100_000_000 if latest % 1_000_000_000 else 2_000_000_000  # some file systems count whole seconds
        settled = time.time_ns() - latest > tick
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, (status.st_dev, status.st_ino), settled)


_hashes: OrderedDict[str, tuple[FileState, str]] = OrderedDict()
_KEPT_HASHES = 256


def content_hash(path: AnyPath) -> str:
    """SHA-256 of a file, read in pieces, once per process and state of the file.

    Raises:
        OSError: it cannot be read. InputError: it is written to meanwhile, or is no file but a pipe or a device, which
            can be read once only.
    """
    key = os.path.realpath(path)
    if not stat.S_ISREG(os.stat(key).st_mode):
        raise InputError(f"{path}: is not a regular file")
    with open(key, "rb") as file:
        state = FileState.from_stat(os.fstat(file.fileno()))
        known = _hashes.get(key)
        if known is not None and known[0] == state:
            return known[1]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if FileState.from_stat(os.fstat(file.fileno())) != state:
            raise InputError(f"{path}: the file changed while it was read", "try again when the file is complete")
    if state.settled:
        _hashes[key] = state, digest
        if len(_hashes) > _KEPT_HASHES:
            with suppress(KeyError):  # another thread was quicker
                _hashes.popitem(last=False)
    return digest
