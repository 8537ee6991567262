"""Passes that count, for tests of engines: their result is the numbers of the samples, in order; and their pictures."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyzer import InputError
from analyzer.data import Sample
from analyzer.images import decode, write_png
from analyzer.passes import Loaded, Pass

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "digits_chelsea.png"


class Numbers(Pass[list[Any]]):
    """The numbers of its samples, in order."""

    name, identity = "numbers", {}  # type: ignore[assignment]

    def load(self, sample: Sample) -> int:
        return sample.number

    def step(self, batch: Sequence[Loaded]) -> list[Any]:
        return [number for _, number in batch]

    def merge(self, left: list[Any], right: list[Any]) -> list[Any]:
        return left + right


class Deadly(Numbers):
    """The same by processes that die.

    Args:
        grave: a file: the process that does number 7 dies unless it is there, and makes it.
        always: of samples on which every process dies.
        refused: of a sample that is an error. broken: of one that raises what is none of ours.
        batch: samples of a step. takes: seconds of it.
        by: the signal.
    """

    name = "deadly"

    def __init__(
        self, grave: str = "", always: Sequence[int] = (), refused: int = -1, broken: int = -1, batch: int = 1,
        takes: float = 0, by: int = getattr(signal, "SIGKILL", signal.SIGTERM),
    ) -> None:  # fmt: skip
        self.grave, self.always, self.refused, self.broken, self.batch = grave, always, refused, broken, batch
        self.takes, self.by = takes, by

    def step(self, batch: Sequence[Loaded]) -> list[Any]:
        time.sleep(self.takes)
        for sample, number in batch:
            if number in self.always or (number == 7 and self.grave and not Path(self.grave).exists()):
                if self.grave:
                    Path(self.grave).touch()
                os.kill(os.getpid(), self.by)
            if number == self.refused:
                raise InputError(f"{sample.id} is refused", "leave it out")
            if number == self.broken:
                raise ZeroDivisionError("by mistake")
        return super().step(batch)


def numbered(count: int) -> list[Sample]:
    return [Sample(f"sample {number}", number, b"") for number in range(count)]


def pictures_in(folder: Path, count: int) -> Path:
    """Parts of an example, and a file that is no picture."""
    whole, rng = decode(EXAMPLE), np.random.default_rng(0)
    for number in range(count):
        y, x = (int(rng.integers(0, size - 96)) for size in whole.shape[:2])
        write_png(folder / f"{number:02}.png", np.ascontiguousarray(whole[y : y + 96, x : x + 96]))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder
