"""Samples of operators that act on each element."""

import numpy as np

from tests.samples import Sample, normal, spread

ALL = ("float32", "float64")
SAMPLES = [
    Sample("Identity", (normal(3, 4),), types=ALL),
    Sample("Neg", (normal(3, 4),), types=ALL),
    Sample("Add", (normal(2, 3, 4), normal(3, 1)), types=ALL, note="broadcast"),
    Sample("Mul", (normal(2, 1, 4), normal(3, 1)), types=ALL, note="broadcast both"),
    Sample("Relu", (spread(3, 5),), types=(*ALL, "float16")),
    Sample("Clip", (spread(4, 6), np.array(-0.31), np.array(0.42)), wrt=(0,), types=ALL),
    Sample("Max", (spread(4, 5), spread(4, 5, seed=1) + 0.011), types=ALL),
]
