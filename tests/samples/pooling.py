"""Samples of pools."""

from tests.samples import Sample, normal, positive, spread

WINDOWS = {
    "2x2": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "3x3 stride 2": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "3x3 same": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "3x2 valid": {"kernel_shape": [3, 2]},
    "ceil": {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "uneven": {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [0, 1, 1, 1]},
    "SAME_UPPER": {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "dilated": {"kernel_shape": [2, 2], "dilations": [2, 2]},
}
X = spread(2, 3, 6, 8)
SAMPLES = [
    *(
        Sample("MaxPool", (X,), a, types=("float32", "float16") if n == "2x2" else ("float32",), note=n)
        for n, a in WINDOWS.items()
    ),
    *(Sample("AveragePool", (X,), a, note=n) for n, a in WINDOWS.items()),
    *(
        Sample("AveragePool", (X,), {**a, "count_include_pad": 1}, note=f"{n}, pads count")
        for n, a in WINDOWS.items()
        if "pads" in a
    ),
    Sample("MaxPool", (X,), {"kernel_shape": [2, 2], "storage_order": 1}, outputs=2, note="switches asked for"),
    Sample("MaxPool", (spread(2, 3, 9),), {"kernel_shape": [3], "strides": [2]}, note="1d"),
    Sample("MaxPool", (spread(1, 2, 4, 4, 4),), {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}, note="3d"),
    Sample("AveragePool", (normal(2, 3, 9),), {"kernel_shape": [3], "strides": [2]}, note="1d"),
    Sample("AveragePool", (normal(1, 2, 5, 4, 6),), {"kernel_shape": [2, 2, 3], "strides": [2, 1, 3]}, note="3d"),
    Sample("LpPool", (positive(2, 3, 6, 6),), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Sample("LpPool", (normal(2, 3, 6, 6),), {"kernel_shape": [3, 3], "p": 3}, note="p3"),
    Sample("GlobalAveragePool", (normal(2, 3, 4, 5),), types=("float32", "float64", "float16")),
    Sample("GlobalAveragePool", (normal(2, 3, 4),), note="1d"),
    Sample("GlobalMaxPool", (spread(2, 3, 4, 5),)),
    Sample("GlobalLpPool", (normal(2, 3, 4, 5),)),
    Sample("GlobalLpPool", (normal(2, 3, 4, 5),), {"p": 3}, note="p3"),
]
