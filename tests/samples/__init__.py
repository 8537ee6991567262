"""Samples: one table per operator family drives every rule test. A new operator is a rule and a row here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sample:
    """A single-operator model to differentiate.

    Attributes:
        op: operator name.
        inputs: arrays in the order of the operator's inputs, None for an omitted optional one. Floating-point
            arrays are given in float64 and cast to the type under test; others stay as they are.
        attrs: attributes.
        wrt: indices of the inputs to differentiate; every floating-point one by default.
        cotangents: indices of the outputs that receive a cotangent; the first by default.
        outputs: number of outputs the node is given.
        constant: indices of inputs that are initializers in every variant (weights are also tried as inputs).
        opset: version of the operator set the model is written in.
        domain: operator domain.
        types: floating-point types to test.
        note: tells samples of one operator apart.
    """

    op: str
    inputs: tuple[np.ndarray | None, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    wrt: tuple[int, ...] | None = None
    cotangents: tuple[int, ...] = (0,)
    outputs: int = 1
    constant: tuple[int, ...] = ()
    opset: int = 21
    domain: str = ""
    types: tuple[str, ...] = ("float32",)
    note: str = ""

    @property
    def id(self) -> str:
        return f"{self.op}{'-' + self.note if self.note else ''}"

    @property
    def targets(self) -> tuple[int, ...]:
        if self.wrt is not None:
            return self.wrt
        return tuple(i for i, a in enumerate(self.inputs) if a is not None and a.dtype.kind == "f")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal values."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    """Values between 0.5 and 2."""
    return np.random.default_rng([seed, *shape]).uniform(0.5, 2, shape)


def spread(*shape: int, seed: int = 0, gap: float = 0.05) -> np.ndarray:
    """Distinct values no closer to each other, or to 0, than `gap`/2: safe around kinks and ties."""
    count = int(np.prod(shape))
    values = (np.arange(count) - count // 2 + 0.5) * gap
    return np.random.default_rng([seed, *shape]).permutation(values).reshape(shape)


def ints(*values: int) -> np.ndarray:
    """An int64 vector."""
    return np.array(values, np.int64)
