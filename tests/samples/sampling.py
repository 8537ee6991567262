"""Samples of operators that take values between elements."""

import itertools

import numpy as np

from tests.samples import Sample, ints, normal, positive, spread

ALL = ("float32", "float64")
X = normal(2, 3, 5, 6)
GRID = np.random.default_rng(5).uniform(-1.3, 1.3, (2, 4, 3, 2))
VOLUME = np.random.default_rng(6).uniform(-1.3, 1.3, (2, 2, 3, 2, 3))
ROIS = np.array([[0.4, 0.3, 3.3, 4.1], [-1.5, 0.6, 4.2, 9.7], [1.1, 0.2, 2.6, 3.7]])
PADDINGS = ["zeros", "border", "reflection"]


def deform(note: str, offset: tuple, mask: bool = True, **attrs: object) -> Sample:
    x, w = normal(2, 4, 5, 6), normal(6, 4 // attrs.get("group", 1), 3, 2)
    shift = np.random.default_rng(7).uniform(-1.2, 1.2, offset)
    weight = positive(offset[0], offset[1] // 2, *offset[2:]) if mask else None
    return Sample("DeformConv", (x, w, shift, normal(6) if mask else None, weight), attrs, types=ALL, note=note)


SAMPLES = [
    *(
        Sample(
            "GridSample",
            (X, GRID),
            {"mode": mode, "padding_mode": padding, "align_corners": corners},
            wrt=(0,) if mode == "nearest" else None,
            types=ALL,
            note=f"{mode} {padding} {corners}",
        )
        for mode, padding, corners in itertools.product(["linear", "nearest", "cubic"], PADDINGS, [0, 1])
    ),
    *(
        Sample(
            "GridSample",
            (normal(2, 2, 3, 4, 5), VOLUME),
            {"mode": mode, "padding_mode": padding},
            wrt=(0,) if mode == "nearest" else None,
            note=f"3d {mode} {padding}",
        )
        for mode, padding in itertools.product(["linear", "nearest"], PADDINGS)
    ),
    Sample("GridSample", (X, GRID), {"mode": "bicubic"}, wrt=(0,), opset=16, note="opset 16"),
    *(
        Sample(
            "AffineGrid",
            (normal(2, r, r + 1), ints(2, 3, *range(4, 4 + r))),
            {"align_corners": c},
            types=ALL,
            note=f"{r}{c}",
        )
        for r in (2, 3)
        for c in (0, 1)
    ),
    deform("plain", (2, 12, 3, 5), kernel_shape=[3, 2]),
    deform("no mask", (2, 12, 3, 5), mask=False, kernel_shape=[3, 2]),
    deform("strides", (2, 12, 2, 3), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1]),
    deform("groups", (2, 24, 3, 4), kernel_shape=[3, 2], group=2, offset_group=2, dilations=[1, 2]),
    *(
        Sample(
            "RoiAlign",
            (X, ROIS, ints(1, 0, 1)),
            {"output_height": 2, "output_width": 3, "sampling_ratio": ratio, "spatial_scale": 0.7, **mode},
            wrt=(0,),
            types=ALL,
            note=f"{ratio} {mode.get('coordinate_transformation_mode', 'half_pixel')}",
        )
        for ratio in (0, 2)
        for mode in ({}, {"coordinate_transformation_mode": "output_half_pixel"})
    ),
    Sample("RoiAlign", (X, ROIS, ints(1, 0, 1)), {"output_height": 2, "output_width": 3}, wrt=(0,), opset=10),
    *(
        Sample(
            "RoiAlign",
            (X, ROIS, ints(1, 0, 1)),
            {"mode": "max", "output_height": 2, "output_width": 3, "sampling_ratio": ratio},
            wrt=(0,),
            types=ALL,
            note=f"max {ratio}",
        )
        for ratio in (0, 2)
    ),
    Sample(
        "MaxRoiPool",
        (spread(2, 3, 6, 7), np.array([[0, 0.2, 0.3, 5.1, 4.2], [1, 1, 1, 3, 3], [1, 2, 0, 6, 5.4]])),
        {"pooled_shape": [2, 3], "spatial_scale": 0.9},
        wrt=(0,),
    ),
]
