"""Samples of operators that move elements about."""

import numpy as np

from tests.samples import Sample, ints, normal

ALL = ("float32", "float64")
X = normal(3, 6, 8)
BACK = np.iinfo(np.int64).min
PADS = [ints(0, 1, 2, 1, 0, 3), ints(0, 0, 2, 0, 2, 1), ints(1, 0, 0, 0, 0, 0)]
SAMPLES = [
    Sample("Reshape", (normal(2, 6), ints(3, -1)), types=ALL),
    Sample("Reshape", (normal(2, 3, 4), ints(0, 12)), note="0"),
    Sample("Flatten", (normal(2, 3, 4),), {"axis": 2}),
    Sample("Squeeze", (normal(2, 1, 3, 1), ints(1, -1))),
    Sample("Squeeze", (normal(2, 1, 3, 1), None), note="all"),
    Sample("Unsqueeze", (normal(2, 3), ints(0, -1))),
    Sample("Transpose", (normal(2, 3, 4),), {"perm": [2, 0, 1]}, types=ALL),
    Sample("Transpose", (normal(2, 3, 4),), note="reversed"),
    Sample("Expand", (normal(3, 1), ints(2, 3, 4)), types=ALL),
    Sample("Expand", (normal(2, 1, 4), ints(1, 3, 1)), note="partly"),
    Sample("Tile", (normal(2, 3), ints(2, 3)), types=ALL),
    Sample("Tile", (normal(2, 3, 2), ints(1, 2, 1)), note="one axis"),
    Sample("Concat", (normal(2, 3), normal(2, 1), normal(2, 4)), {"axis": -1}, types=ALL),
    Sample("Concat", (normal(2, 3), normal(2, 1), normal(2, 4)), {"axis": 1}, wrt=(1,), note="one wanted"),
    Sample("Split", (normal(2, 6), ints(1, 3, 2)), {"axis": 1}, outputs=3, cotangents=(0, 2), types=ALL),
    Sample("Split", (normal(6, 2),), {"num_outputs": 2}, outputs=2, cotangents=(0, 1), note="halves"),
    Sample("Slice", (X, ints(1, 2), ints(5, 7), ints(1, 2), ints(1, 1)), types=ALL),
    Sample("Slice", (X, ints(-3, 1), ints(100, -1), ints(-1, 0), ints(1, 1)), note="from the end"),
    Sample("Slice", (X, ints(1, 0), ints(6, 8), ints(1, 2), ints(2, 3)), note="steps"),
    Sample("Slice", (X, ints(-1, 6), ints(BACK, 0), ints(1, 2), ints(-1, -2)), note="backwards"),
    Sample("Slice", (X, ints(0, 1, 2), ints(2, 4, 6)), note="all axes"),
    *(Sample("Pad", (X, p, np.array(0.3)), types=ALL, note=f"constant {i}") for i, p in enumerate(PADS)),
    Sample("Pad", (X, ints(0, 1, 0, 0, -2, 3), None), wrt=(0,), note="crop"),
    Sample("Pad", (X, ints(2, 1), None, ints(2)), wrt=(0,), note="axes"),
    Sample("Pad", (X, ints(2, 0, 1, 3), np.array(0.3), ints(-1, 0)), note="axes out of order"),
    *(
        Sample("Pad", (X, ints(2, 0, 1, 2), None, ints(-1, 0)), {"mode": m}, wrt=(0,), note=f"{m} axes")
        for m in ("reflect", "edge", "wrap")
    ),
    *(
        Sample("Pad", (X, p, None), {"mode": m}, wrt=(0,), note=f"{m} {i}")
        for m in ("reflect", "edge", "wrap")
        for i, p in enumerate(PADS[:2])
    ),
    Sample("DepthToSpace", (normal(2, 8, 3, 4),), {"blocksize": 2}),
    Sample("DepthToSpace", (normal(2, 8, 3, 4),), {"blocksize": 2, "mode": "CRD"}, note="CRD"),
    Sample("SpaceToDepth", (normal(2, 3, 4, 6),), {"blocksize": 2}),
]
