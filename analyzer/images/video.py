"""Videos in and out, by OpenCV: frames in order, and a file of the frames that were drawn."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.errors import InputError
from analyzer.files import atomic_write, protect, temporary_folder
from analyzer.images._opencv import most_pixels, opencv, quiet

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
WRITABLE = {".mp4": "mp4v", ".avi": "MJPG"}
_REMEMBERED = 16  # frames


def is_video(source: Any) -> bool:
    """Whether a path is a video's, by its ending."""
    return isinstance(source, str | os.PathLike) and os.path.splitext(source)[1].lower() in VIDEOS


class Video:
    """The frames of a file, read forwards; the last ones are remembered, since readers ask nearly in order."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        protect(path)
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{path}: no such file")
        self._lock = threading.Lock()
        self._seen: OrderedDict[int, np.ndarray] = OrderedDict()
        self._open()

    def _open(self) -> None:
        with quiet() as cv2:
            self._capture = cv2.VideoCapture(str(self.path))
            opened = self._capture.isOpened()
            self.rate = float(self._capture.get(cv2.CAP_PROP_FPS)) or 25.0
            size = [int(self._capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
        if not opened:
            raise InputError(f"{self.path}: OpenCV cannot read this video", "convert it to MP4 (H.264) or MJPG AVI")
        if size[0] * size[1] > most_pixels():
            raise InputError(f"{self.path}: frames of {size[0]}×{size[1]} pixels are over the limit")
        self._next = 0

    def count(self) -> int:
        """Frames that can be read: what a file says of itself may be wrong."""
        with self._lock:
            self._open()
            while self._capture.grab():
                self._next += 1
            found = self._next
            self._open()
        if not found:
            raise InputError(f"{self.path}: the video has no frames")
        return found

    def frame(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB.

        Raises:
            InputError: it has no such frame.
        """
        with self._lock:
            if index in self._seen:
                return self._seen[index]
            if index < self._next:
                self._open()
            while self._next < index:
                if not self._capture.grab():
                    break
                self._next += 1
            done, pixels = self._capture.read()
            self._next += 1
            if not done:
                raise InputError(f"{self.path}: frame {index} cannot be read")
            self._seen[index] = np.ascontiguousarray(pixels[..., ::-1])
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            return self._seen[index]


_open_videos: OrderedDict[tuple[str, int, int], Video] = OrderedDict()
_lock = threading.Lock()


def video(path: str | os.PathLike[str]) -> Video:
    """The video in a file; the last ones stay open as long as the file is the same."""
    protect(path)
    try:
        about = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: no such file") from error
    key = (str(path), about.st_mtime_ns, about.st_size)
    with _lock:
        if key not in _open_videos:
            _open_videos[key] = Video(path)
            if len(_open_videos) > 2:
                _open_videos.popitem(last=False)
        return _open_videos[key]


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuses a name of a video that cannot be written.

    Raises:
        InputError: it does not end in .mp4 or .avi.
    """
    if Path(path).suffix.lower() not in WRITABLE:
        raise InputError(f"{path}: a video cannot be written under this name", "end it in .mp4 or .avi")


def write_video(path: str | os.PathLike[str], frames: Iterable[np.ndarray], rate: float) -> None:
    """The (H, W, 3) uint8 RGB frames as a video: mp4v in .mp4, MJPG in .avi. All are brought to the size of the first.

    Raises:
        InputError: another ending, or OpenCV cannot write it.
    """

    check_writable(path)
    suffix = Path(path).suffix.lower()
    cv2 = opencv()
    with temporary_folder() as folder:
        place, writer, size = folder / f"video{suffix}", None, (0, 0)
        for frame in frames:
            if writer is None:
                size = frame.shape[1] // 2 * 2 or 2, frame.shape[0] // 2 * 2 or 2
                code = cv2.VideoWriter.fourcc(*WRITABLE[suffix])
                with quiet():
                    writer = cv2.VideoWriter(str(place), code, max(rate, 0.1), size)
                if not writer.isOpened():
                    raise InputError(f"{path}: this OpenCV cannot write {suffix} videos", "try the other of .mp4, .avi")
            if frame.shape[1::-1] != size:
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        if writer is None:
            raise InputError(f"{path}: no frames to write")
        writer.release()
        atomic_write(path, place.read_bytes())
