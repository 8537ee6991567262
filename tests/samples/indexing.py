"""Samples of operators with indices."""

import numpy as np

from tests.samples import Sample, ints, normal, spread

ALL = ("float32", "float64")
X = normal(3, 4, 5)
PLACES = np.array([[0, 2, -1], [1, 1, 0]], np.int64)
SAMPLES = [
    Sample("Gather", (X, np.array(1, np.int64)), {"axis": 1}, types=ALL, note="one"),
    Sample("Gather", (X, np.array(-1, np.int64)), {"axis": 0}, note="last"),
    Sample("Gather", (X, ints(2)), {"axis": 2}, note="one kept"),
    Sample("Gather", (X, ints(2, 0, 2)), {"axis": 1}, types=(*ALL, "float16"), note="repeated"),
    Sample("Gather", (X, ints(2, 0, 1)), {"axis": 0}, note="permutation"),
    Sample("Gather", (X, PLACES), {"axis": 1}, note="matrix"),
    Sample("GatherElements", (normal(3, 3), PLACES), {"axis": 0}, types=ALL),
    Sample("GatherElements", (normal(2, 4), PLACES), {"axis": 1}, note="axis"),
    Sample("GatherND", (X, np.array([[0, 1], [2, -1], [0, 1]], np.int64)), types=ALL),
    Sample("GatherND", (X, np.array([[[1], [0]], [[3], [3]], [[2], [0]]], np.int64)), {"batch_dims": 1}, note="batch"),
    Sample("ScatterElements", (normal(3, 3), PLACES, normal(2, 3, seed=1)), {"axis": 0}, types=ALL),
    Sample(
        "ScatterElements", (normal(3, 3), PLACES, normal(2, 3, seed=1)), {"axis": 1, "reduction": "add"}, note="add"
    ),
    Sample("ScatterND", (X, np.array([[0, 1], [2, 3]], np.int64), normal(2, 5, seed=1)), types=ALL),
    Sample("ScatterND", (X, np.array([[1], [1]], np.int64), normal(2, 4, 5, seed=1)), {"reduction": "add"}, note="add"),
    Sample("TopK", (spread(3, 6), ints(2)), outputs=2, types=ALL),
    Sample("TopK", (spread(3, 6), ints(2)), {"axis": 0, "largest": 0}, outputs=2, note="smallest"),
    Sample("Trilu", (normal(2, 4, 5),), types=ALL),
    Sample("Trilu", (normal(4, 4), np.array(-1, np.int64)), {"upper": 0}, note="lower"),
    Sample("Compress", (normal(4, 3), np.array([True, False, True, True])), {"axis": 0}),
    Sample("Compress", (normal(4, 3), np.array([True, False, True])), {"axis": 1}, note="columns"),
    Sample("Compress", (normal(2, 4, 3), np.array([True, False, True])), {"axis": -2}, note="counted from the end"),
    Sample("Compress", (normal(2, 3), np.array([True, False, True, False, True])), note="flat"),
    Sample("ReverseSequence", (normal(4, 3, 2), ints(1, 4, 3))),
    *(
        Sample(
            "ScatterElements",
            (spread(3, 3), np.array([[0, 2, 0], [1, 1, 0]], np.int64), spread(2, 3, seed=1) + 0.01),
            {"axis": 1, "reduction": how},
            types=ALL,
            note=f"{how} repeated",
        )
        for how in ("mul", "max", "min")
    ),
    Sample(
        "ScatterElements",
        (np.array([[0.0, 2, 3], [0, 5, 0]]), np.array([[0, 1], [0, 1]], np.int64), np.array([[0.0, 2], [3, 0]])),
        {"axis": 1, "reduction": "mul"},
        note="product of zeros",
    ),
    *(
        Sample(
            "ScatterND",
            (spread(4, 3), np.array([[1], [3], [1]], np.int64), spread(3, 3, seed=1) + 0.01),
            {"reduction": how},
            types=ALL,
            note=f"{how} repeated",
        )
        for how in ("mul", "max", "min")
    ),
    *(
        Sample(
            "TensorScatter",
            (normal(2, 3, 6, 4), normal(2, 3, 2, 4, seed=1), ints(1, start)),
            {"mode": mode},
            opset=24,
            types=ALL,
            note=mode,
        )
        for mode, start in (("linear", 4), ("circular", 5))
    ),
    Sample("TensorScatter", (normal(2, 6, 4), normal(2, 6, 4, seed=1)), opset=24, note="whole"),
    Sample("OneHot", (np.array([[0, 2], [-1, 1]], np.int64), ints(4), normal(2)), {"axis": 1}, types=ALL),
    Sample(
        "MaxUnpool",
        (normal(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]], np.int64)),
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
]
