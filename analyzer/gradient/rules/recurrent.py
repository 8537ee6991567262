"""Recurrent layers: LSTM, GRU, RNN. The layer is repeated in operators of its own and the gradient pulled back through.

The steps are a Scan, whose gradient is a Scan in reverse.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from analyzer.gradient.registry import Body, Builder, Cotangent, Primal, Value, known_shape, part, vjp

Activation = Callable[[Builder, Value], Value]
Step = Callable[[Builder, Value, Sequence[Value]], list[Value]]  # (W xₜ + b, states) → states; the first one is hₜ


@vjp("RNN", since=7)
def rnn_vjp(op: Builder, node: Primal, *cts: Cotangent) -> tuple[Cotangent, ...]:
    """hₜ = f(W xₜ + R hₜ₋₁ + b)   ⇒   x̄ₜ, W̄, R̄, b̄, h̄₀ through the steps in reverse"""

    def step_of(inputs: Sequence[Any], functions: Sequence[Activation]) -> Step:
        weights = inputs[2]

        def step(op: Builder, z: Value, states: Sequence[Value]) -> list[Value]:
            return [functions[0](op, _clip(op, node, op.Add(z, op.MatMul(states[0], weights))))]

        return step

    return _through(op, node, cts, step_of, ["Tanh"])


@vjp("GRU", since=7)
def gru_vjp(op: Builder, node: Primal, *cts: Cotangent) -> tuple[Cotangent, ...]:
    """z, r = f(W xₜ + R hₜ₋₁ + b), c = g(W xₜ + R (r ⊙ hₜ₋₁) + b), hₜ = (1 − z) c + z hₜ₋₁   ⇒   as for RNN"""
    size = node.attr("hidden_size")

    def step_of(inputs: Sequence[Any], functions: Sequence[Activation]) -> Step:
        f, g = functions
        weights, bias, reset_first = inputs[2], inputs[3], not node.attr("linear_before_reset")
        gates, candidate = op.Split(weights, [2 * size, size], axis=1, outputs=2)

        def step(op: Builder, z: Value, states: Sequence[Value]) -> list[Value]:
            h = states[0]
            of_gates, of_candidate = op.Split(z, [2 * size, size], axis=1, outputs=2)
            of_gates = op.Add(of_gates, op.MatMul(h, gates))
            update, reset = (f(op, _clip(op, node, v)) for v in op.Split(of_gates, [size, size], axis=1, outputs=2))
            if reset_first:
                inner = op.MatMul(op.Mul(reset, h), candidate)
            else:
                inner = op.MatMul(h, candidate)
                inner = op.Mul(reset, inner if bias is None else op.Add(inner, op.Slice(bias, [5 * size], [6 * size])))
            c = g(op, _clip(op, node, op.Add(of_candidate, inner)))
            return [op.Add(c, op.Mul(update, op.Sub(h, c)))]

        return step

    return _through(op, node, cts, step_of, ["Sigmoid", "Tanh"])


@vjp("LSTM", since=7)
def lstm_vjp(op: Builder, node: Primal, *cts: Cotangent) -> tuple[Cotangent, ...]:
    """i, o, f, g of W xₜ + R hₜ₋₁ + P ⊙ c + b, cₜ = f cₜ₋₁ + i g, hₜ = o h(cₜ)   ⇒   as for RNN; c̄₀ and P̄ too"""
    size = node.attr("hidden_size")

    def step_of(inputs: Sequence[Any], functions: Sequence[Activation]) -> Step:
        f, g, h = functions
        weights, peepholes = inputs[2], inputs[7]
        looks = [None] * 3 if peepholes is None else op.Split(peepholes, [size] * 3, axis=0, outputs=3)

        def step(op: Builder, z: Value, states: Sequence[Value]) -> list[Value]:
            before = states[1]
            gates = op.Split(op.Add(z, op.MatMul(states[0], weights)), [size] * 4, axis=1, outputs=4)

            def gate(index: int, look: Value | None, cell: Value) -> Value:
                value = gates[index] if look is None else op.Add(gates[index], op.Mul(look, cell))
                return f(op, _clip(op, node, value))

            i = gate(0, looks[0], before)
            forget = op.Sub(1.0, i) if node.attr("input_forget") else gate(2, looks[2], before)
            cell = op.Add(op.Mul(forget, before), op.Mul(i, g(op, _clip(op, node, gates[3]))))
            return [op.Mul(gate(1, looks[1], cell), h(op, cell)), cell]

        return step

    return _through(op, node, cts, step_of, ["Sigmoid", "Tanh", "Tanh"])


# ---- The layer, repeated ----


def _through(
    op: Builder,
    node: Primal,
    cts: Sequence[Cotangent],
    step_of: Callable[[Sequence[Any], Sequence[Activation]], Step],
    usual: list[str],
) -> tuple[Cotangent, ...]:
    # Copies of the inputs: what they depend on among each other is not part of this node's derivative.
    wanted = [i for i, v in enumerate(node.inputs) if v is not None and i != 4 and node.needs(i)]
    inputs = list(node.inputs) + [None] * (8 - len(node.inputs))
    for i in wanted:
        inputs[i] = op.control("Identity", [inputs[i]], [(inputs[i].dtype, inputs[i].shape)])[0]
    outputs = _layer(op, node, inputs, step_of, usual)
    ends = {o.name: ct for o, ct in zip(outputs, cts, strict=False) if ct is not None}
    found = node.pull(op, ends, [inputs[i].name for i in wanted])
    return tuple(found[inputs[i].name] if i in wanted else None for i in range(len(node.inputs)))


def _layer(op: Builder, node: Primal, inputs: list[Any], step_of: Callable[..., Step], usual: list[str]) -> list[Value]:
    """Y (T, D, B, H), Y_h and, of an LSTM, Y_c (D, B, H)."""
    batch_first, states_at = node.attr("layout", 0), ([5, 6] if node.op == "LSTM" else [5])
    x, lengths = inputs[0], inputs[4] and op.cast(inputs[4], np.dtype(np.int64))
    swapped = {i: inputs[i] and op.Transpose(inputs[i], perm=[1, 0, 2]) for i in (0, 5, 6)} if batch_first else {}
    x = swapped.get(0, x)
    directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[node.attr("direction")]
    every, last = [], []
    for d, backward in enumerate(directions):
        own = [
            v if v is None or i in (0, 4) else op.Gather(swapped.get(i, v), np.int64(d), axis=0)
            for i, v in enumerate(inputs)
        ]
        own[2] = op.Transpose(own[2], perm=[1, 0])
        turned = backward and lengths is not None  # each sequence by itself, so that it begins with its last step
        read = op.ReverseSequence(x, lengths, batch_axis=1, time_axis=0) if turned else x
        z = op.MatMul(read, op.Transpose(own[1], perm=[1, 0]))
        bias = _bias(op, node, own[3])
        z = z if bias is None else op.Add(z, bias)
        none = op.Expand(op.scalar(0, x), op.Concat(op.shape(x, 1, 2), op.value([node.attr("hidden_size")]), axis=0))
        starts = [none if own[i] is None else own[i] for i in states_at]
        step = step_of(own, _activations(node, d, usual))
        running = None if lengths is None else _running(op, z, lengths)
        steps, ends = run(op, node, step, z, starts, running, backward and not turned)
        every.append(op.ReverseSequence(steps, lengths, batch_axis=1, time_axis=0) if turned else steps)
        last.append(ends)
    outputs = [op.Concat(*(op.Unsqueeze(y, [1]) for y in every), axis=1)]
    outputs += [op.Concat(*(op.Unsqueeze(v, [0]) for v in ends), axis=0) for ends in zip(*last, strict=True)]
    if batch_first:
        outputs = [op.Transpose(outputs[0], perm=[2, 0, 1, 3]), *(op.Transpose(v, perm=[1, 0, 2]) for v in outputs[1:])]
    return outputs


def _bias(op: Builder, node: Primal, bias: Value | None) -> Value | None:
    """What the file adds to W x and to R h; a GRU with linear_before_reset resets the latter of its last gate."""
    if bias is None:
        return None
    width = node.attr("hidden_size") * {"RNN": 1, "GRU": 3, "LSTM": 4}[node.op]
    of_x, of_h = op.Split(bias, [width, width], axis=0, outputs=2)
    if node.op == "GRU" and node.attr("linear_before_reset"):
        size = node.attr("hidden_size")
        of_h = op.Mul(of_h, op.constant(np.repeat([1, 1, 0], size).astype(bias.dtype)))
    return op.Add(of_x, of_h)


def _running(op: Builder, z: Value, lengths: Value) -> Value:
    """Which sequences are not over yet: (T, B, 1)"""
    line = op.Range(np.int64(0), op.Squeeze(op.shape(z, 0, 1), [0]), np.int64(1))
    return op.Unsqueeze(op.Less(op.Unsqueeze(line, [1]), op.Unsqueeze(lengths, [0])), [2])


@part("RNN", "GRU", "LSTM")
def run(
    op: Builder, node: Primal, step: Step, z: Value, states: Sequence[Value], running: Value | None, backward: bool
) -> tuple[Value, Sequence[Value]]:
    """All hₜ, (T, B, H), and the states at the end; a sequence that is over keeps them and gives zeros.

    `backward`: from the last step to the first.
    """
    body = Body(op.graph)
    inner = Builder(body, op.prefix)
    held = [body.add_input("state", v.dtype, v.shape) for v in states]
    slices = [body.add_input("slice", v.dtype, known_shape(v)[1:]) for v in (z, running) if v is not None]
    result, after = once(inner, step, slices[0], held, slices[1] if len(slices) > 1 else None)
    after = [inner.shaped_as(a, b) for a, b in zip(after, states, strict=True)]
    kinds = [*((v.dtype, v.shape) for v in states), (z.dtype, [known_shape(z)[0], *known_shape(states[0])])]
    series = [z] if running is None else [z, running]
    attrs: dict[str, Any] = {"num_scan_inputs": len(series)}
    if backward:
        attrs |= {"scan_input_directions": [1] * len(series), "scan_output_directions": [1]}
    outputs = op.control("Scan", [*states, *series], kinds, body=body.close([*after, result]), **attrs)
    return outputs[-1], outputs[:-1]


def once(
    op: Builder, step: Step, z: Value, states: Sequence[Value], goes_on: Value | None
) -> tuple[Value, Sequence[Value]]:
    """hₜ and the states after one step."""
    after = step(op, z, states)
    if goes_on is None:
        return after[0], after
    held = [op.Where(goes_on, a, b) for a, b in zip(after, states, strict=True)]
    return op.Where(goes_on, after[0], op.scalar(0, z)), held


def _clip(op: Builder, node: Primal, value: Value) -> Value:
    """Held between −clip and clip, where the file says so."""
    limit = node.attr("clip")
    return value if not limit else op.Clip(value, -float(limit), float(limit))


# ---- Activations, with their default α and β ----

_ACTIVATIONS: dict[str, tuple[Callable[..., Value], dict[str, float]]] = {
    "relu": (lambda op, x: op.Relu(x), {}),
    "tanh": (lambda op, x: op.Tanh(x), {}),
    "sigmoid": (lambda op, x: op.Sigmoid(x), {}),
    "softsign": (lambda op, x: op.Softsign(x), {}),
    "softplus": (lambda op, x: op.Softplus(x), {}),
    "affine": (lambda op, x, alpha, beta: op.Add(op.Mul(x, alpha), beta), {"alpha": 1.0, "beta": 0.0}),
    "leakyrelu": (lambda op, x, alpha: op.LeakyRelu(x, alpha=alpha), {"alpha": 0.01}),
    "thresholdedrelu": (lambda op, x, alpha: op.ThresholdedRelu(x, alpha=alpha), {"alpha": 1.0}),
    "scaledtanh": (lambda op, x, alpha, beta: op.Mul(op.Tanh(op.Mul(x, beta)), alpha), {"alpha": 1.0, "beta": 1.0}),
    "hardsigmoid": (lambda op, x, alpha, beta: op.HardSigmoid(x, alpha=alpha, beta=beta), {"alpha": 0.2, "beta": 0.5}),
    "elu": (lambda op, x, alpha: op.Elu(x, alpha=alpha), {"alpha": 1.0}),
}


def _activations(node: Primal, direction: int, usual: list[str]) -> list[Activation]:
    """The functions of a direction; the file lists α and β of those that have one, over all directions."""
    names = [(n.decode() if isinstance(n, bytes) else n).lower() for n in node.attr("activations") or usual * 2]
    given = {k: list(node.attr(f"activation_{k}") or []) for k in ("alpha", "beta")}
    functions: list[Activation] = []
    for name in names:
        function, parameters = _ACTIVATIONS[name]
        chosen = {k: float(given[k].pop(0)) if given[k] else default for k, default in parameters.items()}
        functions.append(functools.partial(function, **chosen))
    return functions[direction * len(usual) : (direction + 1) * len(usual)]
