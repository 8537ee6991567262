"""Samples of operators that act on each element."""

import numpy as np

from tests.samples import Sample, normal, positive, spread

ALL = ("float32", "float64")
HALF = (*ALL, "float16")
SMOOTH = [
    "Exp",
    "Sin",
    "Cos",
    "Tanh",
    "Sigmoid",
    "Erf",
    "Atan",
    "Softplus",
    "Softsign",
    "Mish",
    "Sinh",
    "Cosh",
    "Asinh",
]
KINKED = ["Abs", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "HardSwish", "ThresholdedRelu", "Shrink", "HardSigmoid"]
ATTRS: dict[str, list[dict]] = {
    "LeakyRelu": [{}, {"alpha": 0.3}],
    "Elu": [{}, {"alpha": 1.7}],
    "Selu": [{}, {"alpha": 1.2, "gamma": 0.8}],
    "Celu": [{}, {"alpha": 0.4}],
    "ThresholdedRelu": [{"alpha": 0.2}],
    "Shrink": [{"lambd": 0.2, "bias": 0.1}],
    "HardSigmoid": [{}, {"alpha": 0.9, "beta": 0.4}],
}
SAMPLES = [
    Sample("Identity", (normal(3, 4),), types=ALL),
    Sample("Dropout", (normal(3, 4),), types=ALL),
    Sample("Neg", (normal(3, 4),), types=ALL),
    Sample("Add", (normal(2, 3, 4), normal(3, 1)), types=HALF, note="broadcast"),
    Sample("Sub", (normal(2, 3, 4), normal(1, 4)), types=HALF, note="broadcast"),
    Sample("Mul", (normal(2, 1, 4), normal(3, 1)), types=HALF, note="broadcast both"),
    Sample("Mul", (normal(3), np.array(0.7)), types=ALL, note="scalar"),
    Sample("Div", (normal(2, 3, 4), positive(4)), types=ALL, note="broadcast"),
    Sample("Mod", (spread(3, 4) + 7, np.array(0.53)), {"fmod": 1}, note="fmod", types=ALL),
    Sample("Pow", (positive(3, 4), normal(3, 4)), types=ALL, note="elementwise"),
    Sample("Pow", (normal(3, 4), np.array(2.0)), wrt=(0,), constant=(1,), types=ALL, note="square"),
    Sample("Pow", (normal(3, 4), np.array(3.0)), wrt=(0,), constant=(1,), types=ALL, note="cube"),
    Sample("Pow", (positive(3, 4), np.array(0.5)), wrt=(0,), constant=(1,), types=ALL, note="root"),
    Sample("Pow", (positive(3, 4), np.array(0.0)), wrt=(0,), constant=(1,), note="zero"),
    Sample("Pow", (normal(3, 4), np.array([2, 3, 0, 1], np.int64)), types=ALL, note="integers"),
    Sample("Sum", (normal(2, 3), normal(3), normal(2, 1)), types=ALL),
    Sample("Mean", (normal(2, 3), normal(3), normal(2, 1)), types=ALL),
    Sample("Max", (spread(4, 5), spread(4, 5, seed=1) + 0.011), types=ALL),
    Sample("Max", (spread(4, 5), np.array(0.0)), types=ALL, note="zero"),
    Sample("Min", (spread(4, 5), spread(5, seed=1) + 0.011, spread(4, 1, seed=2) - 0.013), types=ALL, note="three"),
    Sample("Where", (spread(3, 1) > 0, normal(2, 1, 4), normal(3, 4)), types=ALL),
    Sample("Cast", (normal(3, 4),), {"to": 11}),
    Sample("Sqrt", (positive(3, 4),), types=ALL),
    Sample("Log", (positive(3, 4),), types=ALL),
    Sample("Reciprocal", (positive(3, 4),), types=ALL),
    Sample("Tan", (positive(3, 4) / 2,)),
    Sample("Asin", (spread(3, 4),)),
    Sample("Acos", (spread(3, 4),)),
    Sample("Atanh", (spread(3, 4),)),
    Sample("Acosh", (positive(3, 4) + 1,)),
    Sample("Gelu", (normal(3, 4),), {"approximate": "none"}),
    Sample("Gelu", (normal(3, 4),), {"approximate": "tanh"}, note="tanh"),
    Sample("PRelu", (spread(2, 3, 4), positive(3, 1)), types=ALL),
    Sample("Clip", (spread(4, 6), np.array(-0.31), np.array(0.42)), types=ALL),
    Sample("Clip", (spread(4, 6), np.array(0.0), None), wrt=(0,), types=HALF, note="from 0"),
    Sample("Clip", (spread(4, 6), None, np.array(0.3)), wrt=(0,), types=ALL, note="above"),
    Sample("Clip", (spread(4, 6), np.array(0.0), np.array(0.5)), constant=(1, 2), wrt=(0,), note="bounds in the file"),
    *(Sample(name, (normal(3, 4),)) for name in SMOOTH),
    *(
        Sample(name, (spread(4, 6),), attrs, types=HALF if name == "Relu" else ("float32",), note=f"{i}" if i else "")
        for name in KINKED
        for i, attrs in enumerate(ATTRS.get(name, [{}]))
    ),
]
