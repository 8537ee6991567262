"""Policies: the gradient table with the rows of the rectifiers replaced.

A rectifier is what computes max(x, 0), whichever operator an exporter wrote it with: Relu, Clip from 0 (ReLU6 too),
Max with 0, and QuantizeLinear with the lowest zero point right behind a linear operator. Everything else keeps its
gradient; MaxPool's gradient already is unpooling with the switches.

The papers define no more than that, nor do the frameworks' own versions. The policies ending in "-all" extend the
definition, by our choice, to activations that tend to 0 or a line below and to x above: LeakyRelu, PRelu, Elu, Celu,
Selu, Gelu, HardSwish, Mish and products x g(x) with a gate that saturates, however they are composed. Guided
backpropagation is then x̄ = f′(x) ⊙ 1[x > 0] ⊙ max(ȳ, 0), deconvnet x̄ = max(ȳ, 0).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from analyzer.errors import NotFoundError, suggest
from analyzer.gradient.registry import Builder, Primal, Rule, Table, Value, load_rules, override
from analyzer.graph import Graph, Node
from analyzer.graph.through import constant, origin, producer, readers


def rectified_input(graph: Graph, node: Node) -> int | None:
    """Which input of `node` it rectifies; None where `node` is no rectifier.

    Halves of a PRelu that an exporter wrote as max(x, 0) − α max(−x, 0) are none, nor is what only keeps the argument
    of a root from being negative, or the gate of a hard swish, x clip(x + 3, 0, 6) / 6.
    """
    if node.domain or _guards_a_root(graph, node) or _half_of_prelu(node) or _gates_its_input(graph, node):
        return None
    if node.op == "Relu":
        return 0
    if node.op == "Clip":
        low = constant(graph, node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else None
        return 0 if low is not None and low.size == 1 and float(low.item()) == 0 else None
    if node.op == "QuantizeLinear":
        return 0 if _quantises_from_zero(graph, node) else None
    if node.op == "Max" and len(node.inputs) == 2:
        for index in (0, 1):
            known = constant(graph, node.inputs[1 - index])
            if known is not None and not np.any(known):
                return index
    return None


def _gates_its_input(graph: Graph, node: Node) -> bool:
    """Whether a Clip is the gate of x g(x), perhaps times a number."""
    if node.op != "Clip":
        return False
    following = readers(node.outputs[0])
    following = [m for n in following for m in ([n] if gated_input(graph, n) else readers(n.outputs[0]))]
    return any(gated_input(graph, n) is not None for n in following)


_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "BatchNormalization")


def _quantises_from_zero(graph: Graph, node: Node) -> bool:
    """Whether the lowest number stands for 0, so that a ReLU between the linear operator and this node was left out."""
    producer = graph.producer(node.inputs[0])
    zero = graph.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2].name else None
    if zero is None or zero.dtype.kind not in "iu" or producer is None or producer.op not in _LINEAR:
        return False
    return bool((zero == np.iinfo(zero.dtype).min).all())


def _half_of_prelu(node: Node) -> bool:
    """Whether both max(x, 0) and max(−x, 0) are computed, this node being one of them."""
    if node.op != "Relu":
        return False
    x = origin(node.inputs[0])
    negated = [n.outputs[0] for n in readers(x) if n.op == "Neg"]
    if x.inputs and x.inputs[0].op == "Neg":
        negated.append(origin(x.inputs[0].inputs[0]))
    return any(n.op == "Relu" for v in negated for n in readers(v))


def _guards_a_root(graph: Graph, node: Node) -> bool:
    """Whether all that reads the output is a root, perhaps after an Add (√(max(var, 0) + ε))."""
    following = readers(node.outputs[0])
    following = [m for n in following for m in (readers(n.outputs[0]) if n.op == "Add" else [n])]
    following = [n for n in following if graph.is_own(n)]
    return bool(following) and all(n.op == "Sqrt" for n in following)


# ---- Activations that are no rectifiers ----

ACTIVATIONS = ("LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "Gelu", "HardSwish", "Mish", "Swish")
_FAR = 1e3  # where every gate has reached its limit in float32


def _at_far(op: str, attrs: Mapping[str, Any], *args: float) -> float | None:
    """What an operator of a gate gives there."""
    if op in ("Sigmoid", "Erf", "Tanh"):
        return float(np.sign(args[0])) if op != "Sigmoid" else float(args[0] > 0)
    if op == "HardSigmoid":
        return float(np.clip(attrs.get("alpha", 0.2) * args[0] + attrs.get("beta", 0.5), 0, 1))
    if op == "Clip" and len(args) == 3:
        return float(np.clip(args[0], args[1], args[2]))
    plain: dict[str, Callable[..., float]] = {
        "Softplus": lambda x: max(x, 0.0),
        "Add": lambda a, b: a + b,
        "Mul": lambda a, b: a * b,
        "Div": lambda a, b: a / b,
        "Pow": lambda a, b: a**b,
        "Identity": lambda a: a,
    }
    return plain[op](*args) if op in plain else None


def gate_limit(graph: Graph, gate: Value, x: Value, depth: int = 12) -> tuple[float, bool] | None:
    """(value far above 0, whether that is a limit) of a tensor computed from `x` and numbers alone; else None."""
    if origin(gate) is origin(x):
        return _FAR, False
    known = constant(graph, gate)
    if known is not None:
        return (float(known.item()), True) if known.size == 1 else None
    node = producer(gate)
    if node is None or node.domain or depth == 0:
        return None
    parts = [gate_limit(graph, i, x, depth - 1) for i in node.inputs if i.name]
    if any(p is None for p in parts):
        return None
    value = _at_far(node.op, node.attrs, *(p[0] for p in parts if p is not None))
    saturates = node.op in ("Sigmoid", "HardSigmoid", "Erf", "Tanh", "Clip")
    return None if value is None else (value, saturates or all(p is not None and p[1] for p in parts))


def gated_input(graph: Graph, node: Node) -> tuple[int, Value, float] | None:
    """(which input of a product is x or a multiple of it, x, the limit of the gate) of x g(x), else None."""
    if node.op != "Mul" or node.domain:
        return None
    for index in (0, 1):
        direct, gate = node.inputs[index], node.inputs[1 - index]
        if constant(graph, direct) is not None or constant(graph, gate) is not None:
            continue
        scaled = producer(direct)
        multiple = scaled.inputs if scaled is not None and scaled.op in ("Mul", "Div") else []
        for x in [direct, *(i for i in multiple if constant(graph, i) is None)]:
            limit = gate_limit(graph, gate, x)
            if limit is not None and limit[1] and gate_limit(graph, direct, x) is not None and limit[0] > 0:
                return index, x, limit[0]
    return None


# ---- Rows ----


def _rectifier_rows(rule: Callable[[Builder, Primal, Rule, Value, int], Any]) -> dict[str, Rule]:
    """Rows for Relu, Clip, Max and QuantizeLinear: `rule` where the node is a rectifier, the gradient elsewhere."""
    gradient = load_rules()

    def row(name: str) -> Rule:
        plain = gradient["", name].rule

        def rectifier_vjp(op: Builder, node: Primal, ct: Value) -> Any:
            index = rectified_input(node.graph, node.node)
            if index is None:
                return plain(op, node, ct)
            return (None,) * index + (rule(op, node, plain, ct, index),)

        rectifier_vjp.__doc__ = rule.__doc__
        return rectifier_vjp

    return {name: row(name) for name in ("Relu", "Clip", "Max", "QuantizeLinear")}


def _guided_vjp(op: Builder, node: Primal, plain: Rule, ct: Value, index: int) -> Any:
    """x̄ = 1[x > 0] ⊙ 1[ȳ > 0] ⊙ ȳ   (Springenberg et al. 2014, 1412.6806, section 3.4)"""
    result = plain(op, node, op.Relu(ct))
    return result[index] if isinstance(result, tuple | list) else result


def _deconvnet_vjp(op: Builder, node: Primal, plain: Rule, ct: Value, index: int) -> Any:
    """x̄ = max(ȳ, 0)   (Zeiler & Fergus 2014, 1311.2901, section 2.1)"""
    if node.op == "QuantizeLinear":
        from analyzer.gradient.rules.quantization import like_x

        return op.Div(op.Relu(ct), op.cast(like_x(op, node, node.inputs[1]), ct.dtype))
    return op.Relu(ct)


def _redirected_vjp(op: Builder, node: Primal, plain: Rule, ct: Value, index: int) -> Any:
    """x̄ = ȳ ⊙ 1[x > 0 or ȳ > 0]   (lucid, Olah et al. 2017)"""
    if node.op == "QuantizeLinear":
        return plain(op, node, ct)
    open_ = op.Or(op.Greater(node.inputs[index], 0.0), op.Greater(ct, 0.0))
    return op.Where(open_, ct, op.scalar(0, ct))


def _activation_rows(guided: bool) -> dict[str, Rule]:
    """Rows for the activations that are no rectifiers."""
    from analyzer.gradient.rules.elementwise import masked

    gradient = load_rules()

    def row(name: str) -> Rule:
        plain = gradient["", name].rule

        def activation_vjp(op: Builder, node: Primal, ct: Value) -> Any:
            """x̄ = f′(x) ⊙ 1[x > 0] ⊙ max(ȳ, 0), in a deconvnet max(ȳ, 0)"""
            gated = gated_input(node.graph, node.node)
            if name == "Mul" and gated is None:
                return plain(op, node, ct)
            index, x, limit = gated or (0, node.x, 1.0)
            positive = op.Relu(ct)
            if guided:
                return plain(op, node, masked(op, node, op.Greater(x, op.scalar(0, x)), positive))
            return (None,) * index + (op.Mul(positive, limit),)

        return activation_vjp

    return {name: row(name) for name in (*ACTIVATIONS, "Mul") if ("", name) in gradient}


def gradient() -> Table:
    """The true gradient."""
    return load_rules()


def guided() -> Table:
    """Guided backpropagation."""
    return override(load_rules(), _rectifier_rows(_guided_vjp))


def deconvnet() -> Table:
    """The deconvolutional network."""
    return override(load_rules(), _rectifier_rows(_deconvnet_vjp))


def redirected() -> Table:
    """The gradient through rectifiers that it would open: for gradient ascent where all of them block."""
    return override(load_rules(), _rectifier_rows(_redirected_vjp))


def guided_all() -> Table:
    """Guided backpropagation, extended to all activations."""
    return override(guided(), _activation_rows(guided=True))


def deconvnet_all() -> Table:
    """The deconvolutional network, extended to all activations."""
    return override(deconvnet(), _activation_rows(guided=False))


POLICIES: dict[str, Callable[[], Table]] = {
    "gradient": gradient,
    "guided": guided,
    "guided-all": guided_all,
    "deconvnet": deconvnet,
    "deconvnet-all": deconvnet_all,
    "redirected": redirected,
}


def table_of(policy: str | dict[str, Rule] | Table) -> Table:
    """The rule table of a policy: its name, a full table, or {operator: rule} over the gradient's."""
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise NotFoundError(
                f"no policy {policy!r}", suggest(policy, POLICIES) or f"choose one of {', '.join(POLICIES)}"
            )
        return POLICIES[policy]()
    if all(isinstance(key, tuple) for key in policy):
        return policy  # type: ignore[return-value]
    return override(load_rules(), policy)  # type: ignore[arg-type]


def rows_for(runtime: str) -> dict[str, Rule]:
    """Rules for a runtime that takes less than onnxruntime, over any policy: {operator: rule}.

    TensorRT has no Indices of MaxPool and adds at indices by a plugin only.
    """
    from analyzer.gradient.rules.pooling import max_pool_by_offsets_vjp

    runtimes: dict[str, dict[str, Rule]] = {"onnxruntime": {}, "tensorrt": {"MaxPool": max_pool_by_offsets_vjp}}
    if runtime not in runtimes:
        raise NotFoundError(
            f"no runtime {runtime!r}", suggest(runtime, runtimes) or f"choose one of {', '.join(runtimes)}"
        )
    return runtimes[runtime]


def passing(table: Table, quantised: Collection[str]) -> Table:
    """`table` with the QuantizeLinear nodes that give these tensors passing the gradient where they saturate, too."""
    plain = table["", "QuantizeLinear"].rule

    def unmasked_quantize_linear_vjp(op: Builder, node: Primal, ct: Value) -> Any:
        """x̄ = q̄ / s   (straight through)"""
        from analyzer.gradient.rules.quantization import like_x

        if node.node.outputs[0].name not in quantised:
            return plain(op, node, ct)
        return op.Div(ct, op.cast(like_x(op, node, node.inputs[1]), ct.dtype))

    return override(table, {"QuantizeLinear": unmasked_quantize_linear_vjp})


def with_switches(table: Table, switches: Mapping[str, Value]) -> Table:
    """`table` with MaxPool undone by given switches: those of the pooled tensor's name, its own where it has none."""
    from analyzer.gradient.rules.pooling import unpool

    plain = table["", "MaxPool"].rule

    def switched_max_pool_vjp(op: Builder, node: Primal, ct: Value, *rest: Any) -> Any:
        """x̄[switches] = Σ ȳ, 0 elsewhere"""
        given = switches.get(node.y.name)
        return plain(op, node, ct, *rest) if given is None else unpool(op, given, ct, node.x)

    return override(table, {"MaxPool": switched_max_pool_vjp})


def overridden(graph: Graph, nodes: list[Node], policy: str = "guided") -> list[Node]:
    """Those of `nodes` that guided backpropagation and deconvnet treat in their own way."""
    found = [n for n in nodes if rectified_input(graph, n) is not None]
    if policy.endswith("-all"):
        found += [n for n in nodes if (n.op in ACTIVATIONS and not n.domain) or gated_input(graph, n) is not None]
    return found
