"""Pictures and arrays out: each file appears whole under its name, or not at all."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from analyzer.errors import InputError
from analyzer.files import atomic_file, atomic_write, shortened
from analyzer.images._opencv import quiet

FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def encode(rgb: np.ndarray, format: str = ".png", quality: int = 92) -> bytes:
    """The bytes of a picture file.

    Args:
        rgb: (H, W, 3) uint8 RGB.
        format: .png, .jpg, .jpeg or .webp.
        quality: of JPEG and WebP, from 0 to 100.

    Raises:
        InputError: another format, or a picture that it cannot hold.
    """
    if format.lower() not in FORMATS:
        raise InputError(f"a picture cannot be written as {format or 'a file without extension'}", f"use {_LIST}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
        raise InputError(f"a picture must be (H, W, 3) uint8 RGB, not {rgb.shape} {rgb.dtype}")
    return _encoded(rgb[..., ::-1], format, quality)


def encode_gray(gray: np.ndarray) -> bytes:
    """A gray picture, (H, W) uint8, as PNG, quickly."""
    return _encoded(gray, ".png", 0)


def encode_plain(rgb: np.ndarray) -> bytes:
    """A picture, (H, W, 3) uint8 RGB, as BMP: not compressed, for a reader on this machine."""
    return _encoded(rgb[..., ::-1], ".bmp", 0)


def _encoded(pixels: np.ndarray, format: str, quality: int) -> bytes:
    with quiet() as cv2:
        options = {
            # OpenCV's own choice, fast, and for drawn pictures a fifth larger than the smallest.
            ".png": [],
            ".bmp": [],
            ".webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
        }.get(format.lower(), [cv2.IMWRITE_JPEG_QUALITY, quality])
        try:
            done, data = cv2.imencode(format.lower(), np.ascontiguousarray(pixels), options)
        except cv2.error:
            done = False
    if not done:
        raise InputError(f"a picture of {pixels.shape[1]}×{pixels.shape[0]} pixels cannot be written as {format}")
    return data.tobytes()


def write_png(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
    """The picture as a file of the format that `path` ends in: .png, .jpg, .jpeg or .webp.

    Raises:
        InputError: another extension, not a (H, W, 3) uint8 picture, or as `atomic_file`.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        raise InputError(
            f"{path}: a picture cannot be written as {suffix or 'a file without extension'}", f"use {_LIST}"
        )
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
        raise InputError(f"{path}: arrays of Python objects cannot be written")


def file_name(name: str) -> str:
    """The name of a tensor or target with only what every file system takes, in at most 100 bytes.

    A longer one is cut, and ends in a hash of all of it.
    """
    return shortened(re.sub(r"[^\w.-]+", "_", name).strip("_") or "tensor", 100)
