"""Samples of matrix products."""

import numpy as np

from tests.samples import Sample, normal

ALL = ("float32", "float64")
EQUATIONS = {
    "ij,jk->ik": ((3, 4), (4, 5)),
    "bij,bjk": ((2, 3, 4), (2, 4, 5)),
    "...ij,...jk->...ik": ((2, 3, 4), (1, 4, 5)),
    "bhqd,bhkd->bhqk": ((2, 2, 3, 4), (2, 2, 5, 4)),
    "ij,j->i": ((3, 4), (4,)),
    "ij->j": ((3, 4),),
    "ij->ji": ((3, 4),),
    "ii->i": ((4, 4),),
    "ii": ((4, 4),),
    "i,j,k->ijk": ((2,), (3,), (4,)),
    "...hwc,khc->...hwk": ((2, 3, 4, 5), (6, 3, 5)),
    "ij,kj->i": ((3, 4), (2, 4)),
}
SAMPLES = [
    Sample("MatMul", (normal(3, 4), normal(4, 5)), types=ALL),
    Sample("MatMul", (normal(2, 3, 4), normal(4, 5)), constant=(1,), wrt=(0,), types=ALL, note="weight"),
    Sample("MatMul", (normal(2, 3, 4), normal(4, 4)), constant=(1,), wrt=(0,), types=ALL, note="square weight"),
    Sample("MatMul", (normal(2, 1, 3, 4), normal(5, 4, 2)), types=ALL, note="stacks"),
    Sample("MatMul", (normal(4), normal(2, 4, 5)), note="row"),
    Sample("MatMul", (normal(2, 3, 4), normal(4)), note="column"),
    Sample("MatMul", (normal(4), normal(4)), note="vectors"),
    *(
        Sample(
            "Gemm",
            (normal(*((4, 3) if a else (3, 4))), normal(*((5, 4) if b else (4, 5))), normal(5)),
            {"transA": a, "transB": b, "alpha": 0.7, "beta": 1.3},
            types=ALL,
            note=f"{a}{b}",
        )
        for a in (0, 1)
        for b in (0, 1)
    ),
    Sample("Gemm", (normal(3, 4), normal(4, 5), normal(3, 1)), note="column bias"),
    Sample("Gemm", (normal(3, 4), normal(4, 5)), note="no bias"),
    *(
        Sample("Einsum", tuple(normal(*s, seed=i) for i, s in enumerate(shapes)), {"equation": equation}, note=equation)
        for equation, shapes in EQUATIONS.items()
    ),
    *(
        Sample("Det", (normal(*shape),), types=ALL, note="x".join(map(str, shape)))
        for shape in ((2, 2), (3, 3, 3), (2, 1, 4, 4), (2, 1, 1))
    ),
    Sample("Det", (np.array([[1.0, 2, 3], [2, 4, 6], [0, 1, 1]]),), note="singular"),
]
