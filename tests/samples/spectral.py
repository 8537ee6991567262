"""Samples of Fourier transforms."""

import numpy as np

from tests.samples import Sample, normal, positive

ALL = ("float32", "float64")


def dft(note: str, x: np.ndarray, length: int | None = None, axis: int | None = None, **attrs: int) -> Sample:
    given = (
        x,
        None if length is None else np.array(length, np.int64),
        None if axis is None else np.array(axis, np.int64),
    )
    return Sample("DFT", given, attrs, types=ALL, note=note)


SAMPLES = [
    dft("real", normal(2, 6, 1)),
    dft("complex", normal(2, 5, 2), axis=1),
    dft("axis", normal(2, 5, 3, 2), axis=-3),
    dft("filled up", normal(2, 5, 1), length=8, axis=1),
    dft("cut", normal(2, 7, 2), length=4, axis=1),
    dft("half", normal(2, 6, 1), axis=1, onesided=1),
    dft("half, odd, filled up", normal(2, 5, 1), length=7, axis=1, onesided=1),
    dft("half, cut", normal(2, 9, 1), length=6, axis=1, onesided=1),
    dft("inverse", normal(2, 6, 2), axis=1, inverse=1),
    dft("inverse, real", normal(2, 6, 1), axis=1, inverse=1),
    dft("inverse, cut", normal(2, 6, 2), length=4, axis=1, inverse=1),
    dft("inverse, filled up", normal(2, 4, 2), length=7, axis=1, inverse=1),
    dft("inverse, half", normal(2, 4, 2), axis=1, inverse=1, onesided=1),
    dft("inverse, half, odd", normal(2, 4, 2), length=7, axis=1, inverse=1, onesided=1),
    Sample(
        "STFT",
        (normal(2, 12, 1), np.array(3, np.int64), positive(5), np.array(5, np.int64)),
        {"onesided": 1},
        types=ALL,
    ),
    Sample("STFT", (normal(2, 12, 1), np.array(2, np.int64), positive(6)), {"onesided": 0}, types=ALL, note="window"),
    Sample(
        "STFT",
        (normal(1, 12, 2), np.array(4, np.int64), None, np.array(4, np.int64)),
        {"onesided": 0},
        types=ALL,
        note="complex",
    ),
]
