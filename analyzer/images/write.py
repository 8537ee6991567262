"""Pictures and arrays out: each file appears whole under its name, or not at all."""

from __future__ import annotations

import os
import secrets
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np

from analyzer.errors import InputError
from analyzer.images._opencv import quiet

FORMATS = (".png", ".jpg", ".jpeg", ".webp")


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that takes the name `path` when the block ends well, and vanishes when it does not.

    Written beside `path` and renamed. A symbolic link keeps pointing where it points; a device or a pipe is written to
    directly.

    Raises:
        InputError: the folder is missing, `path` is a folder, or the system refuses.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        mode = target.stat().st_mode if target.exists() else stat.S_IFREG
        if stat.S_ISDIR(mode):
            raise InputError(f"{path}: is a folder, a file name is needed")
        if not stat.S_ISREG(mode):
            with target.open("wb") as file:
                yield file
            return
        try:
            with open(temporary, "xb") as file:
                yield file
            os.replace(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except OSError as error:
        if error.filename not in (None, str(temporary), str(target)):
            raise
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{path}: there is no folder {str(target.parent)!r}", "create it first") from error
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """The file `path` holds `data`, or what it held before.

    Raises:
        InputError: as `atomic_file`.
    """
    with atomic_file(path) as file:
        file.write(data)


def encode(rgb: np.ndarray, format: str = ".png") -> bytes:
    """The bytes of a picture file; JPEG and WebP at quality 92.

    Args:
        rgb: (H, W, 3) uint8 RGB.
        format: .png, .jpg, .jpeg or .webp.

    Raises:
        InputError: another format, or a picture that it cannot hold.
    """
    if format.lower() not in FORMATS:
        raise InputError(f"pictures are not written as {format or 'a file without extension'}", f"use {_LIST}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
        raise InputError(f"a picture is (H, W, 3) uint8 RGB, this is {rgb.shape} {rgb.dtype}")
    with quiet() as cv2:
        options = {
            ".png": [cv2.IMWRITE_PNG_COMPRESSION, 6],
            ".webp": [cv2.IMWRITE_WEBP_QUALITY, 92],
        }.get(format.lower(), [cv2.IMWRITE_JPEG_QUALITY, 92])
        try:
            done, data = cv2.imencode(format.lower(), np.ascontiguousarray(rgb[..., ::-1]), options)
        except cv2.error:
            done = False
    if not done:
        raise InputError(f"a picture of {rgb.shape[1]}×{rgb.shape[0]} pixels cannot be written as {format}")
    return data.tobytes()


def write_png(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
    """The picture as a file of the format that `path` ends in: .png, .jpg, .jpeg or .webp.

    Raises:
        InputError: another extension, not a (H, W, 3) uint8 picture, or as `atomic_file`.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        raise InputError(f"{path}: pictures are not written as {suffix or 'a file without extension'}", f"use {_LIST}")
    atomic_write(path, encode(rgb, suffix))


def write_npy(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """The array as a .npy file.

    Raises:
        InputError: an array of Python objects, or as `atomic_file`.
    """
    _no_objects(path, array)
    with atomic_file(path) as file:
        np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """The arrays as one .npz file, uncompressed; any tensor name is a key.

    Raises:
        InputError: an array of Python objects, or as `atomic_file`.
    """
    for array in arrays.values():
        _no_objects(path, array)
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


_LIST = ", ".join(FORMATS)


def _no_objects(path: str | os.PathLike[str], array: np.ndarray) -> None:
    if np.asanyarray(array).dtype.hasobject:
        raise InputError(f"{path}: an array of Python objects is not written")
