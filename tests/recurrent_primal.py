"""LSTM, GRU and RNN in float64, from the equations of their specification; checks hold it against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[str, Any] = {
    "Tanh": np.tanh,
    "Sigmoid": sigmoid,
    "Relu": lambda x: np.maximum(x, 0),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: np.clip(alpha * x + beta, 0, 1),
    "ScaledTanh": lambda x, alpha=1.0, beta=1.0: alpha * np.tanh(beta * x),
    "Elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(x)),
}
PARAMETERS = {"HardSigmoid": ("alpha", "beta"), "ScaledTanh": ("alpha", "beta"), "Elu": ("alpha",)}
USUAL = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


def run(op: str, inputs: list[np.ndarray | None], attrs: dict[str, Any]) -> list[np.ndarray]:
    """Y (T, D, B, H), Y_h and, of an LSTM, Y_c (D, B, H)."""
    x, w, r, b, lengths, *states, p = [*inputs, *[None] * (8 - len(inputs))]
    steps, batch, _ = x.shape
    size = attrs["hidden_size"]
    lengths = np.full(batch, steps) if lengths is None else lengths
    directions = {"reverse": [True], "bidirectional": [False, True]}.get(attrs.get("direction"), [False])
    y = np.zeros((steps, len(directions), batch, size))
    ends = np.zeros((2, len(directions), batch, size))
    given = {k: list(attrs.get(f"activation_{k}", [])) for k in ("alpha", "beta")}
    for d, backward in enumerate(directions):
        names = (attrs.get("activations") or USUAL[op] * 2)[d * len(USUAL[op]) :][: len(USUAL[op])]
        functions = []
        for name in names:
            chosen = {k: given[k].pop(0) for k in PARAMETERS.get(name, ()) if given[k]}
            functions.append(lambda v, name=name, chosen=chosen: ACTIVATIONS[name](v, **chosen))
        bias = np.zeros(2 * w.shape[1]) if b is None else b[d]
        look = np.zeros(3 * size) if p is None else p[d]
        for n in range(batch):
            h, c = (np.zeros(size) if s is None else s[d, n] for s in states)
            order = range(lengths[n])
            for t in reversed(order) if backward else order:
                h, c = step(op, attrs, functions, w[d] @ x[t, n], r[d], bias, look, h, c)
                y[t, d, n] = h
            ends[:, d, n] = h, c
    return [y, *ends][: 3 if op == "LSTM" else 2]


def step(op: str, attrs: dict, functions: list, wx: Any, r: Any, bias: Any, look: Any, h: Any, c: Any) -> tuple:
    limit = attrs.get("clip", np.inf)

    def held(v: np.ndarray) -> np.ndarray:
        return np.clip(v, -limit, limit)

    of_x, of_h = np.split(bias, 2)
    if op == "RNN":
        return functions[0](held(wx + r @ h + of_x + of_h)), c
    if op == "GRU":
        f, g = functions
        a, e = (np.split(v, 3) for v in (wx + of_x, of_h))
        rows = np.split(r, 3)
        z, reset = (f(held(a[i] + rows[i] @ h + e[i])) for i in (0, 1))
        if attrs.get("linear_before_reset"):
            new = g(held(a[2] + reset * (rows[2] @ h + e[2])))
        else:
            new = g(held(a[2] + rows[2] @ (reset * h) + e[2]))
        return (1 - z) * new + z * h, c
    f, g, last = functions
    i, o, forget, cell = np.split(wx + r @ h + of_x + of_h, 4)
    look_i, look_o, look_f = np.split(look, 3)
    i = f(held(i + look_i * c))
    forget = 1 - i if attrs.get("input_forget") else f(held(forget + look_f * c))
    c = forget * c + i * g(held(cell))
    return f(held(o + look_o * c)) * last(c), c
