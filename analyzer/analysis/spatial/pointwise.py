"""Operators whose every element comes from its own place, and those whose place is computed."""

from __future__ import annotations

from dataclasses import replace

from analyzer.analysis.interpreter import HiddenError, Site
from analyzer.analysis.intervals import Field
from analyzer.analysis.spatial.table import Maybe, alone, everywhere, meet, parametrised, spatial, with_all
from analyzer.graph.through import origin, producer


@spatial(
    "Identity", "Neg", "Abs", "Sign", "Exp", "Log", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Erf", "Not",
    "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Sigmoid", "Tanh", "Relu",
    "LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "ThresholdedRelu", "Softplus", "Softsign", "HardSigmoid", "HardSwish",
    "Mish", "Gelu", "Shrink", "Clip", "IsNaN", "IsInf", "Cast", "BitCast", "BitwiseNot", "Dropout", "Bernoulli",
    "Swish", "Trilu",
)  # fmt: skip
@spatial("Imputer", "Scaler", "Binarizer", domain="ai.onnx.ml")
def elementwise_transfer(op: Site, *inputs: Maybe) -> Field:
    """i ← {i}"""
    return meet(op, *inputs)


@spatial("QuantizeLinear", "DequantizeLinear", "BatchNormalization")
def scaled_transfer(op: Site, x: Maybe, *parameters: Maybe) -> Field:
    """i ← {i}, and all of parameters that are computed: a gate"""
    if op.attr("training_mode", 0):
        raise HiddenError("it is in training mode")
    return parametrised(op, x, parameters)


@spatial("CastLike")
def cast_like_transfer(op: Site, x: Maybe, like: Maybe) -> Maybe:
    """i ← {i}, nothing of what only gives the type"""
    return x


@spatial("OneHot")
def one_hot_transfer(op: Site, x: Maybe, *rest: Maybe) -> Field:
    """i ← {i}, along a new axis"""
    x = alone(x, *rest)
    return x.insert([op.attr("axis", -1) % (x.rank + 1)]).fit(op.out())


@spatial(
    "Add", "Pow", "Mod", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "And", "Or", "Xor", "Equal", "Less",
    "LessOrEqual", "Greater", "GreaterOrEqual", "Where", "Max", "Min", "Sum", "Mean",
)  # fmt: skip
def arithmetic_transfer(op: Site, *inputs: Maybe) -> Field:
    """i ← {i} in each operand, broadcast"""
    return meet(op, *inputs)


@spatial("Sub")
def sub_transfer(op: Site, a: Maybe, b: Maybe) -> Field:
    """i ← {i} in each operand; x − mean(x) is a statistic, as in a normalisation"""
    left, right = op.node.inputs
    mean = producer(right)
    pools = mean is not None and mean.op in ("ReduceMean", "GlobalAveragePool")
    of_itself = mean is not None and pools and origin(mean.inputs[0]) is origin(left)
    return meet(op, a, b.gated() if b is not None and of_itself else b)


@spatial("Mul", "Div")
def product_transfer(op: Site, *inputs: Maybe) -> Field:
    """i ← {i} in each operand; one pooled over the whole image that scales one that is not is a gate"""
    present = [f for f in inputs if f is not None]
    if len(present) != 2:
        return meet(op, *present)
    a, b = present
    return meet(op, _as_gate(a, b), _as_gate(b, a))


def _as_gate(x: Field, other: Field) -> Field:
    """`x`, its whole-image paths marked as gates along the axes where `other` has a place of its own."""
    paths = tuple(
        tuple(replace(p, gate=True) for p in ours)
        if all(p.unbounded and not p.walks for p in ours) and any(p.walking and not p.gate for p in theirs)
        else ours
        for ours, theirs in zip(x.paths, other.paths, strict=True)
    )
    return replace(x, paths=paths)


@spatial(
    "MaxUnpool", "Col2Im", "DeformConv", "GridSample", "RoiAlign", "MaxRoiPool", "AffineGrid", "GatherND",
    "GatherElements", "ScatterND", "ScatterElements", "Compress", "NonZero", "NonMaxSuppression", "Unique",
    "ReverseSequence",
)  # fmt: skip
@spatial("CropAndResize", domain="com.microsoft")
def anywhere_transfer(op: Site, *inputs: Maybe) -> tuple[Field, ...]:
    """o ← anywhere: the place that it reads is computed"""
    y = replace(with_all(None, *map(everywhere, inputs)), exact=False)
    if any(op.out(k) is None for k in range(len(op.node.outputs))):
        raise HiddenError("the rank of its output is not known")
    return tuple(y.fit(op.out(k)) for k in range(len(op.node.outputs)))


@spatial("Shape", "Size", "EyeLike", "RandomNormalLike", "RandomUniformLike")
def shape_transfer(op: Site, x: Maybe) -> None:
    """nothing: sizes do not depend on pixels"""
