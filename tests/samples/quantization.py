"""Samples of quantised operators: with respect to scales, which have a true derivative."""

import numpy as np

from tests.samples import Sample, positive

CODES = np.random.default_rng(3).integers(-100, 100, (2, 6, 5)).astype(np.int8)
ZEROS = np.array([3, -2, 0, 7, 1, 4], np.int8)

SAMPLES = [
    Sample("DequantizeLinear", (CODES, positive(), np.array(5, np.int8)), note="one scale"),
    Sample("DequantizeLinear", (CODES, positive(6), ZEROS), {"axis": 1}, note="per channel"),
    Sample("DequantizeLinear", (CODES, positive(2, 3, 5)), {"axis": 1, "block_size": 2}, note="blocks"),
    Sample("DequantizeLinear", (CODES, positive(2, 6, 2)), {"axis": -1, "block_size": 3}, note="last block cut short"),
]
