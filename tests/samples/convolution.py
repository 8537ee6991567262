"""Samples of convolutions: strides, paddings, dilations, groups, 1 to 3 dimensions."""

from typing import Any

from analyzer.gradient.idioms.convolution import BLOCKS, WIDE
from tests.samples import Sample, ints, normal


def conv(note: str, size: tuple[int, ...], weight: tuple[int, ...], group: int = 1, **attrs: Any) -> list[Sample]:
    """With the weights as an input, to differentiate all of them, and in the file."""
    x = normal(2, weight[1] * group, *size)
    inputs = (x, normal(*weight, seed=1), normal(weight[0], seed=2))
    attrs = {"group": group, **attrs}
    return [
        Sample("Conv", inputs, attrs, note=note),
        Sample("Conv", inputs[:2], attrs, wrt=(0,), constant=(1,), note=f"{note}, weights in the file"),
    ]


def transpose(note: str, size: tuple[int, ...], weight: tuple[int, ...], group: int = 1, **attrs: Any) -> Sample:
    x = normal(2, weight[0], *size)
    inputs = (x, normal(*weight, seed=1), normal(weight[1] * group, seed=2))
    return Sample("ConvTranspose", inputs, {"group": group, **attrs}, note=note)


SAMPLES = [
    *conv("3x3", (6, 7), (4, 3, 3, 3), pads=[1, 1, 1, 1]),
    *conv("valid", (6, 7), (4, 3, 3, 2)),
    *conv("stride", (7, 8), (4, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
    *conv("stride, rest", (8, 9), (4, 2, 2, 3), strides=[3, 2]),
    *conv("uneven pads", (7, 8), (4, 2, 3, 3), pads=[0, 1, 1, 2], strides=[2, 2]),
    *conv("wide pads", (4, 4), (2, 2, 2, 2), pads=[2, 2, 2, 2]),
    *conv("1x1", (4, 5), (4, 3, 1, 1)),
    *conv("1x1 stride", (7, 8), (4, 3, 1, 1), strides=[2, 3]),
    *conv("dilated", (8, 9), (4, 2, 3, 3), dilations=[2, 3], pads=[2, 3, 2, 3]),
    *conv("dilated stride", (9, 9), (4, 2, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2], strides=[2, 2]),
    *conv("groups", (6, 6), (6, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    *conv("groups stride", (6, 6), (6, 2, 3, 3), group=2, pads=[1, 1, 1, 1], strides=[2, 2]),
    *conv("depthwise", (6, 6), (4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    *conv("depthwise stride", (6, 8), (4, 1, 3, 3), group=4, pads=[1, 1, 1, 1], strides=[2, 2]),
    *conv("depthwise stride, rest", (7, 9), (3, 1, 5, 3), group=3, pads=[2, 0, 1, 1], strides=[2, 2]),
    *conv("depthwise stride, dilated", (9, 9), (3, 1, 3, 3), group=3, dilations=[2, 1], strides=[2, 2]),
    *conv("1x1 stride 2", (6, 7), (4, 3, 1, 1), strides=[2, 2]),
    *conv("wide stride", (4, 6), (WIDE // 9, BLOCKS, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
    *conv("wide patches", (4, 6), (WIDE // 4, BLOCKS, 2, 2), strides=[2, 2]),
    *conv("wide stride, uneven", (4, 6), (WIDE // 20 + 1, BLOCKS, 5, 4), pads=[2, 2, 1, 0], strides=[2, 2]),
    *conv("SAME_UPPER stride", (7, 8), (4, 2, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    *conv("SAME_LOWER", (6, 6), (4, 2, 2, 2), auto_pad="SAME_LOWER"),
    *conv("SAME_UPPER stride, rest", (4, 7), (4, 2, 3, 4), auto_pad="SAME_UPPER", strides=[3, 4]),
    *conv("VALID", (6, 6), (4, 2, 2, 2), auto_pad="VALID", strides=[2, 2]),
    *conv("1d", (9,), (4, 3, 3), pads=[1, 1]),
    *conv("1d stride", (9,), (4, 3, 4), strides=[3]),
    *conv("3d", (4, 5, 4), (2, 2, 2, 3, 2), pads=[0, 1, 0, 1, 1, 1]),
    transpose("plain", (3, 4), (3, 2, 3, 3)),
    transpose("stride", (3, 4), (3, 2, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    transpose("groups", (3, 4), (4, 2, 2, 2), group=2, strides=[2, 2]),
    transpose("dilated", (3, 4), (3, 2, 2, 3), dilations=[2, 1], pads=[1, 0, 0, 1]),
    transpose("1d", (5,), (3, 2, 3), strides=[2]),
    Sample("Col2Im", (normal(2, 2 * 6, 9), ints(4, 5), ints(2, 3)), note="plain"),
    Sample(
        "Col2Im",
        (normal(1, 4, 9), ints(6, 5), ints(2, 2)),
        {"strides": [2, 1], "dilations": [1, 2], "pads": [0, 0, 1, 0]},
        note="strides",
    ),
]
