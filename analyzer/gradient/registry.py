"""The table of gradient rules: one row per operator, filled by `@vjp`; faster forms of them, filled by `@idiom`.

A rule is a function `(op, node, *cotangents)`. It appends nodes with `op` (a Builder) and returns one value per
input of `node`: its cotangent, or None if it has no gradient. The reverse pass does what all rules would
repeat: a result may be broadcast to a larger shape than the input, have another float type, or belong to an input whose
gradient is not needed (unused nodes are dropped). If computing it is expensive, check `node.needs(i)` first.

A rule is the equation. A form that a runtime computes faster, or the only one it supports, is an idiom: a function with
the same arguments and the same value, which is tried first and returns NotImplemented if it does not apply.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from analyzer.docstrings import docstring
from analyzer.errors import UnsupportedError
from analyzer.graph import Body as Body
from analyzer.graph import Builder, Graph, Node, Value
from analyzer.graph.builder import FLOATS
from analyzer.graph.inference import BFLOAT16
from analyzer.graph.nodes import captures
from analyzer.graph.nodes import fixed_sizes as fixed_sizes
from analyzer.graph.nodes import known_shape as known_shape
from analyzer.graph.schemas import implied_attributes
from analyzer.graph.through import readers as readers

Cotangent: TypeAlias = Value | None
Rule = Callable[..., Any]
Pole = Callable[[Graph, Node], bool]


@dataclass(frozen=True)
class Primal:
    """A forward node as a rule sees it.

    `inputs` and `outputs` hold a Value (in float32 where the model computes in half precision; `node` has them as
    they are), or None where an optional one is omitted; trailing omitted ones are filled up, so `x, w, b = node.inputs`
    works for Conv with or without a bias. `asked` are the tensors whose gradient is requested, `wanted` all tensors
    between these and the outputs. `finite` means that ȳ is finite: no operator with a pole comes after the node, so
    masks can be products. `captures` are the outer tensors that bodies read: rules of such nodes return their
    cotangents after those of the inputs. `pull` is the pullback through a body: `node.pull(op, cotangents, wrt)`.
    `parameters` are those of the policy: `node.parameter("epsilon")`. `idioms` are tried before the equations.
    """

    node: Node
    graph: Graph
    inputs: tuple[Any, ...]
    outputs: tuple[Value | None, ...]
    wanted: frozenset[str]
    asked: frozenset[str] = frozenset()
    captures: tuple[Value, ...] = ()
    pull: Callable[..., dict[str, Cotangent]] = lambda *_: {}
    parameters: Mapping[str, Any] = field(default_factory=dict)
    finite: bool = True
    idioms: Idioms = field(default_factory=dict)

    @property
    def op(self) -> str:
        return self.node.op

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def x(self) -> Value:
        """The first input."""
        return self.inputs[0]

    @property
    def y(self) -> Value:
        """The first output."""
        assert self.outputs[0] is not None
        return self.outputs[0]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute; the schema's default where the file leaves it out."""
        if name in self.node.attrs:
            return self.node.attrs[name]
        domain = self.node.domain or ""
        implied = implied_attributes(self.op, self.graph.versions.get(domain, 1), domain)
        return implied.get(name, default)

    def parameter(self, name: str) -> Any:
        """A parameter of the policy."""
        return self.parameters[name]

    def outcome(self, op: Builder) -> Value:
        """y, rounded as the inputs are: in half precision it is computed again from what the rule sees of them.

        The runtime may leave out the rounding of one tensor and not that of another; only what was computed from the
        same numbers can be compared for equality.
        """
        if self.y is self.node.outputs[0]:
            return self.y
        attrs = {k: v for k, v in self.node.attrs.items() if v is not None}
        return op.node(self.op, *self.inputs, **attrs)

    def needs(self, index: int) -> bool:
        """Whether the gradient of input `index` is needed."""
        given = self.node.inputs
        return index < len(given) and given[index].name in self.wanted

    def is_between(self, value: Value) -> bool:
        """Whether `value` is read by this node alone and its gradient is asked for by nobody: a rule may skip it."""
        return value.name not in self.asked and len(self.graph.consumers(value)) == 1

    def const(self, index: int) -> Any:
        """The value of input `index` if it is known before the model runs (NumPy array), else None."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            return None
        known = self.graph.constant(self.node.inputs[index])
        return known if known is None or value is self.node.inputs[index] else known.astype(value.dtype)

    def refuse(self, why: str, hint: str = "") -> UnsupportedError:
        """The error to raise if this node cannot be differentiated: `raise node.refuse("…")`."""
        return UnsupportedError(f"cannot differentiate {self.op} (node {self.name!r}): {why}", hint)


class Equation:
    """A rule, or a part that rules share, in its plain form; a call tries its idioms first.

    `ops` are the operators whose gradient it is, or is a part of.
    """

    def __init__(self, ops: tuple[str, ...], plain: Rule) -> None:
        self.ops, self.plain = ops, plain
        functools.update_wrapper(self, plain)

    def __call__(self, op: Builder, node: Primal, *args: Any, **options: Any) -> Any:
        for idiom in node.idioms.get(self, ()):
            found = idiom.form(op, node, *args, **options)
            if found is not NotImplemented:
                return found
        return self.plain(op, node, *args, **options)


@dataclass(frozen=True)
class Idiom:
    """Another form of an equation, for some runtimes: the same value, or NotImplemented if it does not apply."""

    of: Equation
    runtimes: tuple[str, ...]
    form: Rule

    @property
    def name(self) -> str:
        return self.form.__name__

    @property
    def about(self) -> str:
        """The first paragraph of its docstring: what it replaces, and why."""
        return " ".join(docstring(self.form).strip().split("\n\n")[0].split())


Idioms: TypeAlias = Mapping[Equation, tuple[Idiom, ...]]


@dataclass(frozen=True)
class Entry:
    """A row of the table: the rule and the operator versions it applies to.

    `integer`: its integer results carry cotangents as well, in units of one step. `pole`: whether a node's slope
    is unbounded near some input, or infinite there.
    """

    op: str
    domain: str
    since: int
    rule: Rule
    integer: bool = False
    pole: Pole | bool = False

    @property
    def equation(self) -> str:
        """The first line of the rule's docstring."""
        return docstring(self.rule).strip().partition("\n")[0]


def is_float(value: Value) -> bool:
    """Whether a cotangent of `value` has a meaning: its elements are floating-point numbers (or of unknown type)."""
    return value.dtype is None or value.dtype in FLOATS or value.dtype == BFLOAT16


def cotangent_type(value: Value) -> Any:
    """The element type in which cotangents of `value` flow: its own, or float32 for half precision."""
    return np.dtype(np.float32) if value.dtype == np.float16 or value.dtype == BFLOAT16 else value.dtype


Table = dict[tuple[str, str], Entry]
GRADIENT: Table = {}
NOT_DIFFERENTIABLE: dict[tuple[str, str], str] = {}
RUNTIMES = ("onnxruntime", "tensorrt", "others")
IDIOMS: list[Idiom] = []  # of one equation in the order in which they are asked


def vjp(
    *ops: str, since: int = 1, domain: str = "", integer: bool = False, pole: Pole | bool = False
) -> Callable[[Rule], Equation]:
    """Registers a rule for `ops`.

    Args:
        since: the first operator-set version that the rule is valid for.
        integer: the operator quantises or computes with quantised numbers: gradients flow through integer results.
        pole: whether the slope is unbounded (1/x near 0), or a function `(graph, node)` that says so: masks before
            such a node use Where, because 0 · ∞ is NaN.
    """

    def register(rule: Rule) -> Equation:
        equation = Equation(ops, rule)
        for op in ops:
            if (domain, op) in GRADIENT:
                raise ValueError(f"{op} has two gradient rules")
            GRADIENT[domain, op] = Entry(op, domain, since, equation, integer, pole)
        return equation

    return register


def part(*ops: str) -> Callable[[Rule], Equation]:
    """Declares a part of the rules of `ops` that idioms can replace."""
    return functools.partial(Equation, ops)


def idiom(of: Equation, *runtimes: str) -> Callable[[Rule], Rule]:
    """Registers another form of an equation for the named runtimes, or for all if none is named.

    Its docstring says what it replaces, why, and what depends on the runtime.
    """
    if unknown := set(runtimes) - set(RUNTIMES):
        raise ValueError(f"no runtime {', '.join(sorted(unknown))}")

    def register(form: Rule) -> Rule:
        IDIOMS.append(Idiom(of, runtimes or RUNTIMES, form))
        return form

    return register


def not_differentiable(why: str, *ops: str, domain: str = "") -> None:
    """Declares operators through which no gradient flows, and why (the operator table shows it)."""
    for op in ops:
        NOT_DIFFERENTIABLE[domain, op] = why


def primal(
    graph: Graph,
    node: Node,
    wanted: frozenset[str],
    arity: int,
    widen: Callable[[Value], Value] = lambda value: value,
    **more: Any,
) -> Primal:
    """`node` as a rule sees it, its inputs filled up to `arity`, what it reads and makes passed through `widen`.

    `more` are fields of `Primal`.
    """
    inputs: list[Value | None] = [widen(i) if i.name else None for i in node.inputs]
    inputs += [None] * (arity - len(inputs))
    outputs = tuple(widen(o) if o.name else None for o in node.outputs)
    captured = tuple(graph[name] for name in captures(node))
    return Primal(node, graph, tuple(inputs), outputs, wanted, captures=captured, **more)
