"""Samples of Resize."""

import itertools

import numpy as np

from tests.samples import Sample, ints, normal

X = normal(1, 2, 4, 5)
MODES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]


def resize(
    note: str, scales: tuple | None = None, sizes: tuple | None = None, x: np.ndarray = X, **attrs: object
) -> Sample:
    """Scales and sizes are in the file, as exporters write them."""
    given = None if scales is None else np.array(scales, np.float32)
    inputs = (x, None, given, None if sizes is None else ints(*sizes))
    return Sample("Resize", inputs, attrs, wrt=(0,), constant=(2, 3), note=note, types=("float32",))


SAMPLES = [
    *(
        resize(f"{mode} {where}", (1, 1, 1.7, 0.8), mode=mode, coordinate_transformation_mode=where)
        for mode, where in itertools.product(["linear", "nearest", "cubic"], MODES)
    ),
    resize("2x", (1, 1, 2, 2), mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    resize("3x half pixel", (1, 1, 3, 2), mode="nearest"),
    resize("sizes", None, (1, 2, 7, 3), mode="linear"),
    resize("sizes, cubic", None, (1, 2, 7, 9), mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1),
    resize("antialias", None, (1, 2, 2, 3), mode="linear", antialias=1),
    resize("axes", None, (7, 8), mode="linear", axes=[2, 3]),
    resize("nearest, ceil", (1, 1, 0.6, 1.5), mode="nearest", nearest_mode="ceil"),
    resize("2d", (2.0, 1.5), x=normal(4, 5), mode="linear"),
    Sample(
        "Resize",
        (X, np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 1.3], np.float32), None, ints(1, 2, 5, 6)),
        {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 2.0},
        wrt=(0,),
        constant=(1, 3),
        note="crop",
    ),
    *(
        resize(f"{policy} {mode}", None, (7, 9), mode=mode, axes=[2, 3], keep_aspect_ratio_policy=policy)
        for policy in ("not_larger", "not_smaller")
        for mode in ("linear", "nearest", "cubic")
    ),
    resize("not_larger axes", None, (9, 3), mode="linear", axes=[3, 2], keep_aspect_ratio_policy="not_larger"),
]
