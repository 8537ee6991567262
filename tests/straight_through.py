"""What the gradient of a deployed file should be: the ONNX graph carried out in torch, in float64, with its autograd.

An independent reading of the file: nothing of `analyzer` is imported. Quantised values are whole numbers in float64.
Rounding counts as the identity, a saturated value passes nothing, and the quantisers between a target and the model's
output saturate without a mask. At kinks torch's own choices are those of docs/architecture.md.

    found = Interpreter(onnx.load(path)).run({"image": picture})
    torch.autograd.grad(found["logits"][0, 3], found["image"])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
RANGES = {
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT4: (-8, 7),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
}
HALF_STEP = 0.5 + 1e-3  # a value further from its quantised one was saturated


@dataclass
class Interpreter:
    """A model as a function of torch tensors.

    Args:
        rounded: every floating-point tensor is rounded to this type, straight through: what a precision alone costs.
        jitter: standard deviation of a noise, in steps, that is added before each rounding to whole numbers: what
            ties and the runtime's own float32 cost.
        passing: outputs of quantising nodes that saturate without a mask, as `target_of` finds them.
        guided: max(ȳ, 0) behind every rectifier.
    """

    model: onnx.ModelProto
    rounded: torch.dtype | None = None
    jitter: float = 0.0
    passing: frozenset[str] = frozenset()
    guided: bool = False
    seed: int = 0
    kinds: dict[str, int] = field(default_factory=dict)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Every tensor of the graph by its name; the floating-point inputs require gradients."""
        self.random = torch.Generator().manual_seed(self.seed)
        graph = self.model.graph
        self.opset = {o.domain: o.version for o in self.model.opset_import}
        self.producers = {o: n for n in graph.node for o in n.output}
        self.negated = {n.input[0]: n.output[0] for n in graph.node if n.op_type == "Neg"}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.rectified = {n.input[0] for n in graph.node if n.op_type == "Relu"}
        values: dict[str, Tensor] = {}
        for weight in graph.initializer:
            self.kinds[weight.name] = weight.data_type
            values[weight.name] = self._rounded(tensor(numpy_helper.to_array(weight)))
        for given in graph.input:
            if given.name in feeds:
                self.kinds[given.name] = given.type.tensor_type.elem_type
                values[given.name] = tensor(feeds[given.name])
                if values[given.name].is_floating_point():
                    values[given.name].requires_grad_()
        for node in graph.node:
            call = Call(self, node, {a.name: helper.get_attribute_value(a) for a in node.attribute})
            known = OPERATORS.get(node.op_type)
            if known is None:
                raise NotImplementedError(f"{node.domain}::{node.op_type}")
            outputs = known(call, *(values[n] if n else None for n in node.input))
            outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
            for name, value in zip(node.output, outputs, strict=False):
                if name:
                    self.kinds.setdefault(name, call.made)
                    values[name] = self._kept(call, value)
        return values

    def only_roots_read(self, name: str) -> bool:
        """Whether a tensor is the argument of roots alone, perhaps quantised or after an Add: √(max(var, 0) + ε)."""
        found = self.readers.get(name, [])
        passed = ("Add", "DequantizeLinear", "QuantizeLinear")
        return bool(found) and all(
            n.op_type == "Sqrt" or (n.op_type in passed and self.only_roots_read(n.output[0])) for n in found
        )

    def _kept(self, call: Call, value: Tensor) -> Tensor:
        value = self._rounded(value)
        if self.guided and value.requires_grad and call.rectifies():
            value = value * 1.0
            value.register_hook(lambda ct: ct.clamp(min=0))
        return value

    # ---- Rounding ----

    def _rounded(self, x: Tensor) -> Tensor:
        if self.rounded is None or not x.is_floating_point():
            return x
        return x + (x.to(self.rounded).double() - x).detach()

    def round(self, x: Tensor) -> Tensor:
        if self.jitter:
            x = x + self.jitter * torch.randn(x.shape, generator=self.random, dtype=x.dtype)
        return x.detach().round()

    def quantise(self, x: Tensor, scale: Tensor, zero: Tensor, limits: tuple[int, int], mask: bool = True) -> Tensor:
        """q = clip(round(x / s) + z): straight through, but for saturated values."""
        exact = x / scale + zero
        q = (self.round(x / scale) + zero).clamp(*limits)
        inside = (exact - q).abs() < HALF_STEP + 10 * self.jitter if mask else torch.ones_like(exact, dtype=torch.bool)
        passed = torch.where(inside, exact, q.detach())
        return passed + (q - passed).detach()


@dataclass
class Call:
    """A node at work."""

    interpreter: Interpreter
    node: onnx.NodeProto
    attrs: dict[str, Any]

    def __call__(self, name: str, default: Any = None) -> Any:
        value = self.attrs.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    @property
    def opset(self) -> int:
        return self.interpreter.opset.get("", 21)

    def kind(self, index: int) -> int | None:
        """Element type of an input."""
        names = self.node.input
        return self.interpreter.kinds.get(names[index]) if index < len(names) and names[index] else None

    @property
    def made(self) -> int:
        """Element type of the outputs, where a zero point can come from them."""
        if self.node.op_type == "Constant" and "value" in self.attrs:
            return int(self.attrs["value"].data_type)
        return self.kind(0) or TensorProto.UNDEFINED

    def limits(self, zero: int) -> tuple[int, int]:
        """Of the type of a zero point."""
        kind = self.kind(zero) or self("output_dtype") or TensorProto.UINT8
        return RANGES[kind]

    @property
    def masks(self) -> bool:
        return self.node.output[0] not in self.interpreter.passing

    def rectifies(self) -> bool:
        """Whether the node is how an exporter or a quantiser writes max(x, 0)."""
        own, node = self.interpreter, self.node
        if node.op_type == "Relu":
            x = node.input[0]
            other = own.producers.get(x)
            before = other.input[0] if other is not None and other.op_type == "Neg" else ""
            return own.negated.get(x) not in own.rectified and before not in own.rectified
        if node.op_type == "FusedConv":
            return self("activation") == "Relu" or self.attrs.get("from_zero", False)
        if node.op_type in ("Clip", "Max"):
            return self.attrs.get("from_zero", False)
        zero = {"QuantizeLinear": 2, "QLinearConv": 7, "QLinearMatMul": 7, "QLinearAdd": 7, "QGemm": 8}
        index = zero.get(node.op_type)
        if index is None or not self.attrs.get("from_lowest", False) or own.only_roots_read(node.output[0]):
            return False
        producer = own.producers.get(node.input[0])
        linear = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "BatchNormalization")
        return node.op_type != "QuantizeLinear" or (producer is not None and producer.op_type in linear)


def tensor(array: np.ndarray) -> Tensor:
    """Floating-point numbers in float64, whole ones in int64."""
    if array.dtype == bool:
        return torch.from_numpy(np.array(array))
    whole = array.dtype.kind in "iu" or "int" in array.dtype.name
    return torch.from_numpy(np.array(array.astype(np.int64 if whole else np.float64)))


@dataclass(frozen=True)
class Target:
    """What a class of an output is explained at.

    Attributes:
        name: the tensor; a squashing function behind it is left out.
        scale: name of the scale where `name` holds whole numbers.
        passing: outputs of the quantisers between the tensor's operator and the output.
    """

    name: str
    scale: str
    passing: frozenset[str]


def target_of(model: onnx.ModelProto, output: str, strip: bool = True) -> Target:
    """Args: strip: whether squashing functions in front of the output are left out."""
    producers = {o: n for n in model.graph.node for o in n.output}
    passing, name, target, scale = set[str](), output, output, ""
    while name in producers:
        node = producers[name]
        quantises = node.op_type.startswith("Q") and node.op_type != "QuickGelu"
        squashes = node.op_type.removeprefix("QLinear") in ("Softmax", "LogSoftmax", "Sigmoid")
        if quantises:
            passing.add(name)
        if squashes and strip:
            target, scale = node.input[0], node.input[1] if quantises else ""
        elif node.op_type not in ("QuantizeLinear", "DequantizeLinear", "Cast", "Identity"):
            break
        name = node.input[0]
    return Target(target, scale, frozenset(passing))


# ---- Operators ----

OPERATORS: dict[str, Callable[..., Any]] = {}


def operator(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def numbers(x: Tensor | None) -> list[int] | None:
    return None if x is None else [int(v) for v in x.reshape(-1)]


ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Pow": torch.pow,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Neg": torch.neg,
    "Erf": torch.erf,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Reciprocal": torch.reciprocal,
    "HardSwish": functional.hardswish,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Identity": lambda x: x,
    "Dropout": lambda x, *_: x,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Not": torch.logical_not,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Where": torch.where,
}
for _name, _function in ELEMENTWISE.items():
    OPERATORS[_name] = lambda call, *xs, f=_function: f(*xs)


@operator("Div")
def div(call: Call, a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or b.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


@operator("Mod")
def mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if call("fmod", 0) else torch.remainder(a, b)


@operator("Clip")
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    bounds = [call("min") if low is None else low.item(), call("max") if high is None else high.item()]
    call.attrs["from_zero"] = bounds[0] == 0
    return x.clamp(*bounds)


@operator("Max", "Min")
def extreme(call: Call, *xs: Tensor) -> Tensor:
    call.attrs["from_zero"] = len(xs) == 2 and any(not x.requires_grad and not x.any() for x in xs)
    found, function = xs[0], torch.maximum if call.node.op_type == "Max" else torch.minimum
    for x in xs[1:]:
        found = function(found, x)
    return found


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, call("alpha", 0.01))


@operator("PRelu")
def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


@operator("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    return functional.elu(x, call("alpha", 1.0))


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return (call("alpha", 0.2) * x + call("beta", 0.5)).clamp(0, 1)


@operator("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=call("approximate", "none"))


@operator("Softmax", "LogSoftmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    function = torch.softmax if call.node.op_type == "Softmax" else torch.log_softmax
    if call.opset >= 13:
        return function(x, call("axis", -1))
    return function(x.flatten(call("axis", 1)), -1).reshape(x.shape)


@operator("Cast")
def cast(call: Call, x: Tensor) -> Tensor:
    to = int(call("to"))
    if to == TensorProto.BOOL:
        return x.bool()
    if to in FLOATS:
        return x.double()
    return x if x.requires_grad else x.to(torch.int64)


# ---- Products ----


@operator("MatMul")
def matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return a @ b


@operator("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if call("transA", 0) else a
    b = b.T if call("transB", 0) else b
    y = call("alpha", 1.0) * (a @ b)
    return y if c is None else y + call("beta", 1.0) * c


@operator("FusedMatMul")
def fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    assert not call("transBatchA", 0) and not call("transBatchB", 0)
    a = a.mT if call("transA", 0) else a
    b = b.mT if call("transB", 0) else b
    return call("alpha", 1.0) * (a @ b)


def padded(call: Call, x: Tensor, kernel: list[int], fill: float = 0.0) -> Tensor:
    """The input of a window operator with its padding carried out."""
    rank = len(kernel)
    strides, dilations = call("strides", [1] * rank), call("dilations", [1] * rank)
    pads, auto = call("pads", [0] * 2 * rank), call("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        total = [
            max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, s, k, d in zip(x.shape[2:], strides, kernel, dilations, strict=True)
        ]
        before = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
        pads = before + [t - b for t, b in zip(total, before, strict=True)]
    if not any(pads):
        return x
    return functional.pad(x, [p for a in reversed(range(rank)) for p in (pads[a], pads[a + rank])], value=fill)


@operator("Conv")
def conv(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    rank = w.ndim - 2
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    given = padded(call, x, list(w.shape[2:]))
    return function(given, w, b, call("strides", [1] * rank), 0, call("dilations", [1] * rank), call("group", 1))


@operator("FusedConv")
def fused_conv(call: Call, x: Tensor, w: Tensor, b: Any = None, z: Any = None) -> Tensor:
    """A convolution, a summand, and an activation."""
    y = conv(call, x, w, b)
    y = y if z is None else y + z
    name, numbers_ = call("activation"), call("activation_params", [])
    if name == "Clip":
        call.attrs["from_zero"] = numbers_[0] == 0
        return y.clamp(*numbers_)
    if name == "HardSigmoid":
        return (numbers_[0] * y + numbers_[1]).clamp(0, 1)
    if name == "LeakyRelu":
        return functional.leaky_relu(y, numbers_[0])
    return {"Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh}[name](y)


@operator("ConvTranspose")
def conv_transpose(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    rank = w.ndim - 2
    pads = call("pads", [0] * 2 * rank)
    assert pads[:rank] == pads[rank:] and call("auto_pad", "NOTSET") == "NOTSET"
    function = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    extra, dilations = call("output_padding", [0] * rank), call("dilations", [1] * rank)
    return function(x, w, b, call("strides", [1] * rank), pads[:rank], extra, call("group", 1), dilations)


# ---- Pooling and normalisation ----


@operator("MaxPool")
def max_pool(call: Call, x: Tensor) -> Tensor:
    kernel = call("kernel_shape")
    given = padded(call, x, kernel, -math.inf)
    strides, dilations = call("strides", [1, 1]), call("dilations", [1, 1])
    return functional.max_pool2d(given, kernel, strides, 0, dilations, bool(call("ceil_mode", 0)))


@operator("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    kernel, strides, ceil = call("kernel_shape"), call("strides", [1, 1]), bool(call("ceil_mode", 0))
    total = functional.avg_pool2d(padded(call, x, kernel), kernel, strides, 0, ceil)
    if call("count_include_pad", 0):
        return total
    return total / functional.avg_pool2d(padded(call, torch.ones_like(x), kernel), kernel, strides, 0, ceil).detach()


@operator("GlobalAveragePool")
def global_average_pool(call: Call, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(call: Call, x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


@operator("BatchNormalization")
def batch_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    wide = [1, -1] + [1] * (x.ndim - 2)
    factor = scale / torch.sqrt(var + call("epsilon", 1e-5))
    return (x - mean.reshape(wide)) * factor.reshape(wide) + bias.reshape(wide)


@operator("LayerNormalization")
def layer_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = tuple(range(call("axis", -1) % x.ndim, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    y = centred / torch.sqrt((centred**2).mean(axes, keepdim=True) + call("epsilon", 1e-5)) * scale
    return y if bias is None else y + bias


@operator("SkipLayerNormalization")
def skip_layer_normalization(call: Call, x: Tensor, skip: Tensor, scale: Tensor, shift: Any = None,
                             bias: Any = None) -> tuple[Tensor, None, None, Tensor]:  # fmt: skip
    total = x + skip if bias is None else x + skip + bias
    call.attrs["axis"] = -1
    return layer_normalization(call, total, scale, shift), None, None, total


@operator("BiasGelu", "FastGelu", "QuickGelu")
def biased_gelu(call: Call, x: Tensor, bias: Any = None) -> Tensor:
    x = x if bias is None else x + bias
    if call.node.op_type == "QuickGelu":
        return x * torch.sigmoid(call("alpha", 1.702) * x)
    return functional.gelu(x, approximate="tanh" if call.node.op_type == "FastGelu" else "none")


@operator("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def reduce(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along = tuple(call("axes") or numbers(axes) or [])
    if not along:
        if call("noop_with_empty_axes", 0):
            return x
        along = tuple(range(x.ndim))
    functions = {"Mean": torch.mean, "Sum": torch.sum, "Max": torch.amax, "Min": torch.amin}
    return functions[call.node.op_type[6:]](x, along, keepdim=bool(call("keepdims", 1)))


# ---- Shapes ----


@operator("Constant")
def constant(call: Call) -> Tensor:
    name, value = next(iter(call.attrs.items()))
    if name == "value":
        return tensor(numpy_helper.to_array(value))
    return torch.tensor(value, dtype=torch.float64 if "float" in name else torch.int64)


@operator("Shape")
def shape(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.shape)[call("start", 0) : call("end")]


@operator("ConstantOfShape")
def constant_of_shape(call: Call, size: Tensor) -> Tensor:
    value = tensor(numpy_helper.to_array(call.attrs["value"])) if "value" in call.attrs else torch.zeros(1).double()
    return value.expand(numbers(size) or [])


@operator("Range")
def arange(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item())


@operator("Reshape")
def reshape(call: Call, x: Tensor, size: Tensor) -> Tensor:
    wanted = [x.shape[i] if d == 0 and not call("allowzero", 0) else d for i, d in enumerate(numbers(size) or [])]
    return x.reshape(wanted)


@operator("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[: call("axis", 1)]), -1)


@operator("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call("perm", list(reversed(range(x.ndim)))))


@operator("Squeeze")
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along = call("axes") or numbers(axes)
    return x.squeeze() if along is None else x.squeeze(tuple(along))


@operator("Unsqueeze")
def unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along = call("axes") or numbers(axes) or []
    for axis in sorted(a % (x.ndim + len(along)) for a in along):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def expand(call: Call, x: Tensor, size: Tensor) -> Tensor:
    return x.expand(np.broadcast_shapes(x.shape, numbers(size) or []))


@operator("Tile")
def tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(numbers(repeats) or [])


@operator("Concat")
def concat(call: Call, *xs: Tensor) -> Tensor:
    return torch.cat(xs, call("axis"))


@operator("Split")
def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis, count = call("axis", 0), len(call.node.output)
    parts = call("split") or numbers(sizes)
    return x.split(parts if parts else math.ceil(x.shape[axis] / count), axis)


@operator("Slice")
def slice_(call: Call, x: Tensor, *given: Tensor) -> Tensor:
    starts, ends, axes, steps = ([numbers(g) for g in given] + [None] * 4)[:4]
    starts, ends = call("starts") or starts, call("ends") or ends
    axes = call("axes") or axes or list(range(len(starts or [])))
    for start, end, axis, step in zip(starts or [], ends or [], axes, steps or [1] * len(axes), strict=True):
        index = torch.tensor(range(x.shape[axis])[start:end:step], dtype=torch.int64)
        x = x.index_select(axis, index)
    return x


@operator("Gather")
def gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call("axis", 0) % x.ndim
    flat = torch.where(indices < 0, indices + x.shape[axis], indices).reshape(-1)
    return x.index_select(axis, flat).reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@operator("Pad")
def pad(call: Call, x: Tensor, pads: Tensor | None = None, fill: Tensor | None = None, axes: Any = None) -> Tensor:
    amounts = call("pads") or numbers(pads) or []
    along = numbers(axes) or list(range(x.ndim))
    wide = [0] * 2 * x.ndim  # from the last axis to the first
    for i, axis in enumerate(along):
        at = 2 * (x.ndim - 1 - axis % x.ndim)
        wide[at : at + 2] = amounts[i], amounts[i + len(along)]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}[call("mode", "constant")]
    return functional.pad(x, wide, mode, float(fill) if fill is not None and mode == "constant" else 0.0)


@operator("Resize")
def resize(call: Call, x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
    size = numbers(sizes) if sizes is not None else [math.floor(d * s) for d, s in zip(x.shape, scales, strict=True)]
    assert size is not None
    mode, how = call("mode", "nearest"), call("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        assert how == "asymmetric" and call("nearest_mode") == "floor"
        return functional.interpolate(x, size[2:], mode="nearest")
    assert mode == "linear" and how in ("half_pixel", "pytorch_half_pixel")
    return functional.interpolate(x, size[2:], mode="bilinear", align_corners=False)


# ---- Recurrent ----


def lstm_steps(
    project: Callable[[int], Tensor],
    recur: Callable[[Tensor, int], Tensor],
    steps: int,
    directions: int,
    h: Tensor,
    c: Tensor,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Y (T, D, N, H) and the last states: gates i, o, f, c are project(d)[t] + recur(h, d)."""
    assert peepholes is None
    outputs, last_h, last_c = [], [], []
    for d in range(directions):
        given, state, cell = project(d), h[d], c[d]
        order = range(steps) if d == 0 else reversed(range(steps))
        found: list[Any] = [None] * steps
        for t in order:
            i, o, f, g = (given[t] + recur(state, d)).chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            state = o.sigmoid() * cell.tanh()
            found[t] = state
        outputs.append(torch.stack(found))
        last_h.append(state)
        last_c.append(cell)
    return torch.stack(outputs, 1), torch.stack(last_h), torch.stack(last_c)


@operator("LSTM")
def lstm(call: Call, x: Tensor, w: Tensor, r: Tensor, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None,
         p: Any = None) -> tuple[Tensor, ...]:  # fmt: skip
    size = call("hidden_size")
    zero = torch.zeros(len(w), x.shape[1], size, dtype=torch.float64)
    bias = torch.zeros(len(w), 8 * size, dtype=torch.float64) if b is None else b
    both = bias[:, : 4 * size] + bias[:, 4 * size :]
    return lstm_steps(
        lambda d: x @ w[d].T + both[d], lambda state, d: state @ r[d].T, len(x), len(w),
        zero if h is None else h, zero if c is None else c, p,
    )  # fmt: skip


@operator("DynamicQuantizeLSTM")
def dynamic_quantize_lstm(call: Call, x: Tensor, w: Tensor, r: Tensor, b: Any, lengths: Any, h: Any, c: Any, p: Any,
                          ws: Tensor, wz: Tensor, rs: Tensor, rz: Tensor) -> tuple[Tensor, ...]:  # fmt: skip
    """The input is quantised over its whole range, the state over its range at each step; weights are transposed."""
    size = call("hidden_size")
    zero = torch.zeros(len(w), x.shape[1], size, dtype=torch.float64)
    bias = torch.zeros(len(w), 8 * size, dtype=torch.float64) if b is None else b
    both = bias[:, : 4 * size] + bias[:, 4 * size :]

    def product(call: Call, a: Tensor, q: Tensor, s: Tensor, z: Tensor) -> Tensor:
        number, scale, offset = dynamic_quantize(call, a)
        return ((number - offset) * scale) @ ((q - z) * s)

    def recur(state: Tensor, d: int) -> Tensor:
        return product(call, state, r[d], rs[d], rz[d])

    return lstm_steps(
        lambda d: product(call, x, w[d], ws[d], wz[d]) + both[d], recur, len(x), len(w),
        zero if h is None else h, zero if c is None else c, p,
    )  # fmt: skip


# ---- Quantised ----


def spread(call: Call, parameter: Tensor | None, x: Tensor, axis: int = 1) -> Tensor:
    """Scale or zero point, to go with x: one for all, or one per index of `axis` or per block of it."""
    if parameter is None:
        return torch.zeros((), dtype=torch.float64)
    parameter = parameter.double()
    if parameter.numel() == 1:
        return parameter.reshape(())
    axis = call("axis", axis) % x.ndim
    block = call("block_size", 0)
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return parameter.reshape([-1 if a == axis else 1 for a in range(x.ndim)])


def finish(call: Call, y: Tensor, scale: Tensor, zero: Tensor | None, index: int) -> Tensor:
    """The output quantiser of a QLinear operator, whose zero point is input `index`."""
    limits = call.limits(index)
    offset = torch.zeros((), dtype=torch.float64) if zero is None else zero.double().reshape(())
    call.attrs["from_lowest"] = bool(offset == limits[0])
    return call.interpreter.quantise(y, scale.reshape(()), offset, limits, call.masks)


def real(call: Call, q: Tensor, scale: Tensor, zero: Tensor | None, axis: int = 1) -> Tensor:
    """(q − z) s, per index of `axis` where there are several scales."""
    wide = [-1 if a == axis % max(q.ndim, 1) else 1 for a in range(q.ndim)]
    scale = scale.reshape(wide) if scale.numel() > 1 else scale.reshape(())
    if zero is None:
        return q * scale
    return (q - (zero.reshape(wide) if zero.numel() > 1 else zero.reshape(()))) * scale


@operator("QuantizeLinear")
def quantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    limits = call.limits(2)
    offset = spread(call, zero, x)
    call.attrs["from_lowest"] = bool((offset == limits[0]).all())
    return call.interpreter.quantise(x, spread(call, scale, x), offset, limits, call.masks)


@operator("DequantizeLinear")
def dequantize_linear(call: Call, q: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    return (q - spread(call, zero, q)) * spread(call, scale, q)


def dynamic_quantize(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    high, low = x.detach().max().clamp(min=0), x.detach().min().clamp(max=0)
    scale = ((high - low) / 255).float().double()
    scale = scale if scale else torch.ones_like(scale)
    zero = (-low / scale).round().clamp(0, 255)
    return call.interpreter.quantise(x, scale, zero, (0, 255), mask=False), scale, zero


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return dynamic_quantize(call, x)


@operator("MatMulInteger")
def matmul_integer(call: Call, a: Tensor, b: Tensor, za: Any = None, zb: Any = None) -> Tensor:
    one = torch.ones((), dtype=torch.float64)
    return real(call, a, one, za, -2) @ real(call, b, one, zb, -1)


@operator("ConvInteger")
def conv_integer(call: Call, x: Tensor, w: Tensor, zx: Any = None, zw: Any = None) -> Tensor:
    one = torch.ones((), dtype=torch.float64)
    return conv(call, real(call, x, one, zx), real(call, w, one, zw, 0))


@operator("MatMulIntegerToFloat")
def matmul_integer_to_float(call: Call, a: Tensor, b: Tensor, sa: Tensor, sb: Tensor, za: Any = None, zb: Any = None,
                            bias: Any = None) -> Tensor:  # fmt: skip
    y = real(call, a, sa, za, -2) @ real(call, b, sb, zb, -1)
    return y if bias is None else y + bias


@operator("DynamicQuantizeMatMul")
def dynamic_quantize_matmul(call: Call, a: Tensor, b: Tensor, sb: Tensor, zb: Any = None, bias: Any = None) -> Tensor:
    q, scale, zero = dynamic_quantize(call, a)
    y = (q - zero) * scale @ real(call, b, sb, zb, -1)
    return y if bias is None else y + bias


@operator("MatMulNBits")
def matmul_nbits(call: Call, a: Tensor, b: Tensor, scales: Tensor, zeros: Any = None, order: Any = None,
                 bias: Any = None) -> Tensor:  # fmt: skip
    """Y = A Ŵᵀ, Ŵ of N rows in blocks of numbers of few bits, the lowest bits first."""
    assert order is None
    bits, block, rows, depth = call("bits", 4), call("block_size"), call("N"), call("K")
    blocks = math.ceil(depth / block)

    def unpacked(packed: Tensor, count: int) -> Tensor:
        parts = [(packed >> shift) % 2**bits for shift in range(0, 8, bits)]
        return torch.stack(parts, -1).reshape(rows, -1)[:, :count]

    numbers_ = torch.stack([(b >> s) % 2**bits for s in range(0, 8, bits)], -1).reshape(rows, blocks, block)
    if zeros is None:
        zero = torch.full((rows, blocks, 1), 2.0 ** (bits - 1), dtype=torch.float64)
    elif zeros.is_floating_point():
        zero = zeros.reshape(rows, blocks, 1)
    else:
        zero = unpacked(zeros.reshape(rows, -1), blocks).reshape(rows, blocks, 1)
    weight = ((numbers_ - zero) * scales.reshape(rows, blocks, 1)).reshape(rows, -1)[:, :depth]
    y = a @ weight.T
    return y if bias is None else y + bias


@operator("QLinearConv")
def qlinear_conv(call: Call, x: Tensor, sx: Tensor, zx: Any, w: Tensor, sw: Tensor, zw: Any, sy: Tensor, zy: Any,
                 b: Tensor | None = None) -> Tensor:  # fmt: skip
    bias = None if b is None else b * sx.reshape(()) * sw
    return finish(call, conv(call, real(call, x, sx, zx), real(call, w, sw, zw, 0), bias), sy, zy, 7)


@operator("QLinearMatMul")
def qlinear_matmul(call: Call, a: Tensor, sa: Tensor, za: Any, b: Tensor, sb: Tensor, zb: Any, sy: Tensor,
                   zy: Any) -> Tensor:  # fmt: skip
    return finish(call, real(call, a, sa, za, -2) @ real(call, b, sb, zb, -1), sy, zy, 7)


@operator("QGemm")
def qgemm(call: Call, a: Tensor, sa: Tensor, za: Any, b: Tensor, sb: Tensor, zb: Any, c: Tensor | None = None,
          sy: Any = None, zy: Any = None) -> Tensor:  # fmt: skip
    by_column = 0 if call("transB", 0) else -1
    alpha = call("alpha", 1.0)
    bias = None if c is None else c * alpha * sa.reshape(()) * sb
    y = gemm(call, real(call, a, sa, za), real(call, b, sb, zb, by_column), bias)
    return y if sy is None else finish(call, y, sy, zy, 8)


@operator("QLinearAdd", "QLinearMul")
def qlinear_pair(call: Call, a: Tensor, sa: Tensor, za: Any, b: Tensor, sb: Tensor, zb: Any, sy: Tensor,
                 zy: Any = None) -> Tensor:  # fmt: skip
    function = torch.add if call.node.op_type == "QLinearAdd" else torch.mul
    return finish(call, function(real(call, a, sa, za), real(call, b, sb, zb)), sy, zy, 7)


@operator("QLinearSigmoid", "QLinearLeakyRelu", "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearReduceMean")
def qlinear_unary(call: Call, x: Tensor, sx: Tensor, zx: Any, sy: Tensor, zy: Any = None) -> Tensor:
    plain = OPERATORS[call.node.op_type.removeprefix("QLinear")]
    given = real(call, x, sx, zx)
    last = call("channels_last", 0)
    return finish(call, plain(call, given.movedim(-1, 1)).movedim(1, -1) if last else plain(call, given), sy, zy, 4)


@operator("QLinearSoftmax")
def qlinear_softmax(call: Call, x: Tensor, sx: Tensor, zx: Any, sy: Tensor, zy: Any = None) -> Tensor:
    given = real(call, x, sx, zx)
    if call("opset", 13) >= 13:
        y = torch.softmax(given, call("axis", -1))
    else:
        y = torch.softmax(given.flatten(call("axis", 1)), -1).reshape(given.shape)
    return finish(call, y, sy, zy, 4)


@operator("QLinearConcat")
def qlinear_concat(call: Call, sy: Tensor, zy: Any, *parts: Tensor) -> Tensor:
    triples: Any = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return finish(call, torch.cat([real(call, *t) for t in triples], call("axis")), sy, zy, 1)


@operator("QLinearWhere")
def qlinear_where(call: Call, condition: Tensor, x: Tensor, sx: Tensor, zx: Any, y: Tensor, sy: Tensor, zy: Any,
                  s: Tensor, z: Any) -> Tensor:  # fmt: skip
    return finish(call, torch.where(condition, real(call, x, sx, zx), real(call, y, sy, zy)), s, z, 8)
