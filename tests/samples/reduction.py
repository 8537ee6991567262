"""Samples of reductions."""

import numpy as np

from tests.samples import Sample, ints, normal, positive, spread

ALL = ("float32", "float64")
NAMES = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"]
NAMES += ["ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"]


def values(name: str) -> np.ndarray:
    """Values on which the operator is smooth."""
    if name in ("ReduceProd", "ReduceLogSum"):
        return positive(2, 3, 4)
    return spread(2, 3, 4, gap=0.09)


ZERO = positive(3, 4)
ZERO[0, 1] = ZERO[1, 0] = ZERO[1, 2] = 0
SAMPLES = [
    *(Sample(n, (values(n), ints(-1, 0)), {"keepdims": 0}, types=ALL, note="axes") for n in NAMES),
    *(Sample(n, (values(n), ints(1)), types=ALL, note="keepdims") for n in NAMES),
    *(Sample(n, (values(n), None), {"keepdims": 0}, note="all") for n in NAMES),
    Sample("ReduceSum", (normal(2, 3), None), {"noop_with_empty_axes": 1}, note="none"),
    Sample("ReduceProd", (ZERO, ints(1)), note="zeros"),
    Sample("CumSum", (normal(3, 4), np.array(1, np.int64)), types=ALL),
    Sample("CumSum", (normal(3, 4), np.array(0, np.int64)), {"exclusive": 1, "reverse": 1}, note="exclusive reverse"),
    *(
        Sample(
            "CumProd",
            (np.array([[1.5, 0, 2, -1], [0.5, 2, -3, 1], [2, 0, 3, 0]]), np.array(axis, np.int64)),
            {"exclusive": exclusive, "reverse": reverse},
            opset=26,
            types=ALL,
            note=f"{axis}{exclusive}{reverse}",
        )
        for axis in (0, -1)
        for exclusive in (0, 1)
        for reverse in (0, 1)
    ),
    Sample("Range", (np.array(0.5), np.array(3.2), np.array(0.7)), types=ALL),
]
