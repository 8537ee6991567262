"""Files appear whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from analyzer.errors import InputError
from analyzer.images import atomic_file, atomic_write, decode, write_npy, write_npz, write_png

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_pictures_come_back(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", PICTURE)
    assert np.array_equal(decode(tmp_path / "a.png"), PICTURE)
    smooth = np.dstack([np.tile(np.arange(0, 240, 4), (60, 1))] * 3).astype(np.uint8)
    for name in ("a.jpg", "a.JPEG", "a.webp"):
        write_png(tmp_path / name, smooth)
        assert np.abs(decode(tmp_path / name).astype(int) - smooth).max() <= 6
    assert only(tmp_path) == ["a.JPEG", "a.jpg", "a.png", "a.webp"]


def test_arrays_come_back(tmp_path: Path) -> None:
    write_npy(tmp_path / "a.npy", PICTURE[::2])
    assert np.array_equal(np.load(tmp_path / "a.npy"), PICTURE[::2])
    names = {"/layer4/Relu_output_0": PICTURE, "file": np.float32(3), "a:b c": np.zeros((0, 3))}
    write_npz(tmp_path / "a.npz", names)
    with np.load(tmp_path / "a.npz") as stored:
        assert set(stored) == set(names)
        assert all(np.array_equal(stored[name], array) for name, array in names.items())
    with pytest.raises(InputError, match="objects"):
        write_npz(tmp_path / "b.npz", {"x": np.array([{}])})
    assert only(tmp_path) == ["a.npy", "a.npz"]


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"use \.png"):
        write_png(tmp_path / name, PICTURE)
    assert only(tmp_path) == []


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    for wrong in (PICTURE[..., 0], PICTURE.astype(float), PICTURE[:0]):
        with pytest.raises(InputError, match="uint8 RGB"):
            write_png(tmp_path / "a.png", wrong)
    with pytest.raises(InputError, match="cannot be written as"):
        write_png(tmp_path / "a.webp", np.zeros((1, 17000, 3), np.uint8))


def test_missing_folders_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_png(tmp_path / "sub" / "a.png", PICTURE)
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_png(tmp_path / "dir.png", PICTURE)
    with pytest.raises(InputError, match="cannot be written"):
        write_png(tmp_path / ("x" * 300 + ".png"), PICTURE)
    assert only(tmp_path) == ["dir.png"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    atomic_write(path, b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half of the n")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and only(tmp_path) == ["a.bin"]
    with pytest.raises(FileNotFoundError), atomic_file(path):
        (tmp_path / "another").read_bytes()
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new" and only(tmp_path) == ["a.bin"]


@pytest.mark.skipif(os.name != "posix", reason="permissions, links and devices of POSIX")
def test_permissions_links_and_devices(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "a", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    (tmp_path / "link").symlink_to(tmp_path / "a")
    atomic_write(tmp_path / "link", b"2")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a").read_bytes() == b"2"
    atomic_write("/dev/null", b"3")
    assert not Path("/dev/null").is_file()
