"""OpenCV, imported when a picture is first touched: importing it takes longer than everything else of this room."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from analyzer.errors import InputError

MAX_PIXELS = 100_000_000  # of a picture, unless `allow_pixels` says more

_LOGGING = threading.Lock()
_allowed = [MAX_PIXELS]
_silenced: list[int] = []  # the level before, once for every thread that is inside `quiet`


def most_pixels() -> int:
    """Pixels of the largest picture that is read."""
    return _allowed[0]


def allow_pixels(count: int) -> None:
    """Read pictures of up to `count` pixels from now on, in this process."""
    _allowed[0] = count


@functools.cache
def opencv() -> Any:
    """The cv2 module, its own pixel limit lifted, since headers are read first, unless the environment sets one.

    Raises:
        InputError: OpenCV is missing or broken, or needs a system library that is missing.
    """
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 36))
    hint = "see `onnx-analyzer doctor`; opencv-python-headless needs no display libraries"
    try:
        import cv2
    except ImportError as error:
        raise InputError(f"OpenCV cannot be imported: {error}", hint) from error
    if not hasattr(cv2, "imdecode"):  # only its folder is left
        raise InputError("the package cv2 is empty: another build of OpenCV was removed", hint)
    return cv2


@functools.cache
def major_version() -> int:
    return int(opencv().__version__.split(".")[0])


@contextmanager
def quiet() -> Iterator[Any]:
    """OpenCV with its logger silenced: what goes wrong is said once, by our own error. Threads do not wait here."""
    cv2 = opencv()
    # OpenCV 5 moved these functions; level 0 is silence in both.
    logging = getattr(cv2.utils, "logging", cv2)
    with _LOGGING:
        _silenced.append(_silenced[0] if _silenced else logging.getLogLevel())
        logging.setLogLevel(0)
    try:
        yield cv2
    finally:
        with _LOGGING:
            before = _silenced.pop()
            if not _silenced:
                logging.setLogLevel(before)
