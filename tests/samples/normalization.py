"""Samples of normalisations and softmax."""

from tests.samples import Sample, normal, positive

ALL = ("float32", "float64")
SAMPLES = [
    Sample("BatchNormalization", (normal(2, 3, 4, 5), positive(3), normal(3), normal(3, seed=1), positive(3, seed=1))),
    Sample(
        "BatchNormalization",
        (normal(4, 3), positive(3), normal(3), normal(3, seed=1), positive(3, seed=1)),
        {"epsilon": 0.1},
        wrt=(0,),
        constant=(1, 2, 3, 4),
        types=("float32", "float64"),
        note="weights in the file",
    ),
    Sample("LayerNormalization", (normal(2, 3, 8), positive(8), normal(8)), types=ALL),
    Sample("LayerNormalization", (normal(2, 3, 4), positive(3, 4), None), {"axis": 1, "epsilon": 0.01}, note="axis"),
    Sample("InstanceNormalization", (normal(2, 3, 4, 5), positive(3), normal(3))),
    Sample("GroupNormalization", (normal(2, 6, 4, 5), positive(6), normal(6)), {"num_groups": 3}),
    Sample(
        "GroupNormalization", (normal(2, 4, 5), positive(4), normal(4)), {"num_groups": 2, "epsilon": 0.1}, note="1d"
    ),
    Sample("LRN", (normal(2, 6, 3, 4),), {"size": 5, "alpha": 0.5, "beta": 0.6, "bias": 1.5}),
    Sample("LpNormalization", (normal(3, 4),), {"axis": 1, "p": 2}, types=ALL),
    Sample("LpNormalization", (normal(3, 4) + 3,), {"axis": 0, "p": 1}, types=ALL, note="p1"),
    Sample("Softmax", (normal(3, 5),), types=ALL),
    Sample("Softmax", (normal(2, 4, 3),), {"axis": 1}, types=(*ALL, "float16"), note="axis"),
    Sample("LogSoftmax", (normal(2, 4, 3),), {"axis": 1}, types=ALL),
    *(
        Sample(
            "LayerNormalization",
            (normal(2, 3, 4), positive(3, 4), normal(3, 4)),
            {"axis": 1},
            outputs=3,
            cotangents=cotangents,
            note=f"outputs {cotangents}",
        )
        for cotangents in ((0, 1, 2), (1,), (2,))
    ),
    *(
        Sample(
            "BatchNormalization",
            (normal(3, 2, 4), positive(2), normal(2), normal(2, seed=1), positive(2, seed=1)),
            {"training_mode": 1, "momentum": 0.7},
            outputs=3,
            cotangents=cotangents,
            note=f"training {cotangents}",
        )
        for cotangents in ((0, 1, 2), (0,), (2,))
    ),
]
