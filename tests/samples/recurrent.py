"""Samples of recurrent layers: a few steps, written out, and more of them, as a Scan."""

import itertools

import numpy as np

from tests.samples import Sample, normal

I, H, B = 3, 4, 2
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def layer(
    note: str, op: str, steps: int = 3, lengths: tuple | None = None, extra: bool = True, **attrs: object
) -> Sample:
    """Weights on a third of the usual scale, so that gates are not saturated; `extra`: every optional input."""
    count = 2 if attrs.get("direction") == "bidirectional" else 1
    gates = GATES[op]
    inputs = [normal(steps, B, I), normal(count, gates * H, I) / 3, normal(count, gates * H, H) / 3]
    inputs += [
        normal(count, 2 * gates * H) / 3 if extra else None,
        None if lengths is None else np.array(lengths, np.int32),
    ]
    inputs += [normal(count, B, H) if extra else None]
    if op == "LSTM":
        inputs += [normal(count, B, H, seed=1), normal(count, 3 * H) / 3] if extra else []
    outputs = 3 if op == "LSTM" else 2
    return Sample(
        op, tuple(inputs), {"hidden_size": H, **attrs}, outputs=outputs, cotangents=tuple(range(outputs)), note=note
    )


SAMPLES = [
    *(
        layer(f"{direction} {steps}", op, steps, direction=direction)
        for op, direction, steps in itertools.product(GATES, ("forward", "reverse", "bidirectional"), (3, 9))
    ),
    *(
        layer(f"lengths {direction} {steps}", op, steps, lengths=(steps, 2), direction=direction)
        for op, direction, steps in itertools.product(GATES, ("forward", "bidirectional"), (3, 9))
    ),
    *(layer("plain", op, extra=False) for op in GATES),
    *(layer("clip", op, clip=0.3) for op in GATES),
    *(layer("relu", op, activations=["Relu", "Tanh", "Softsign"][: {"RNN": 1, "GRU": 2}.get(op, 3)]) for op in GATES),
    layer("input_forget", "LSTM", input_forget=1),
    layer(
        "activations",
        "LSTM",
        activations=["HardSigmoid", "ScaledTanh", "Elu"],
        activation_alpha=[0.3, 1.2, 0.7],
        activation_beta=[0.4, 0.8],
    ),
    layer("linear_before_reset", "GRU", linear_before_reset=1),
    layer("linear_before_reset 9", "GRU", 9, linear_before_reset=1, direction="bidirectional"),
]
