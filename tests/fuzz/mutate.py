"""Mutations: of bytes, of any protobuf message, of what a graph means, and of text. Each is drawn by a generator."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, TensorProto, helper, numpy_helper

NUMBERS = (0, 1, -1, 2, 3, 7, 127, 255, 65536, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "", "x", "a\0b", "../../etc/passwd", "/dev/zero", "x" * 5000, "\x1b[31mred\x1b[0m", "\u202eabc\u200b", "<script>",
    "ümlaut", "%s%n", "a\nb", "-o", "🂡", "NaN", "ai.onnx", "com.microsoft",
)  # fmt: skip


def mutated(model: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A model after one to four mutations of one kind."""
    times = rng.choice((1, 1, 1, 2, 4))
    if rng.random() < 0.1:
        return bytes_of(model, rng, times)
    proto, other = onnx.ModelProto.FromString(model), onnx.ModelProto.FromString(rng.choice(others))
    change: Callable[[onnx.ModelProto, onnx.ModelProto, random.Random], None]
    change = structure if rng.random() < 0.3 else semantics
    for _ in range(times):
        change(proto, other, rng)
    return proto.SerializeToString()


# ---- Bytes ----


def bytes_of(data: bytes, rng: random.Random, times: int = 1) -> bytes:
    """Any file: bytes flipped, removed, doubled, set to extremes, cut off."""
    made = bytearray(data)
    for _ in range(times):
        if not made:
            return b""
        at, length = rng.randrange(len(made)), rng.choice((1, 1, 2, 4, 8, 64))
        match rng.randrange(6):
            case 0:
                made[at] ^= 1 << rng.randrange(8)
            case 1:
                del made[at : at + length]
            case 2:
                made[at:at] = made[at : at + length]
            case 3:
                made[at : at + length] = bytes(rng.choice((0, 0x7F, 0x80, 0xFF)) for _ in range(length))
            case 4:
                made[at:at] = rng.randbytes(length)
            case 5 if rng.random() < 0.3:
                del made[at:]
    return bytes(made)


# ---- Protobuf ----


def structure(proto: onnx.ModelProto, other: onnx.ModelProto, rng: random.Random) -> None:
    """A field anywhere in the message: cleared, set to an extreme, doubled, removed, replaced by that of another."""
    message = _inside(proto, rng)
    fields = [field for field, _ in message.ListFields()] or list(message.DESCRIPTOR.fields)
    if rng.random() < 0.1:
        fields = list(message.DESCRIPTOR.fields)
    field = rng.choice(fields)
    if field.is_repeated:
        _repeated(message, field, other, rng)
    elif rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, _extreme(field, rng))


def _inside(message: Message, rng: random.Random) -> Message:
    """A message in it, at a random depth."""
    while rng.random() < 0.8:
        held: list[Message] = []
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                held += [rng.choice(value)] if field.is_repeated else [value]
        if not held:
            break
        message = rng.choice(held)
    return message


def _repeated(message: Message, field: FieldDescriptor, other: Message, rng: random.Random) -> None:
    values = getattr(message, field.name)
    at = rng.randrange(len(values)) if len(values) else 0
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    match rng.randrange(4):
        case 0 if len(values):
            del values[at]
        case 1 if len(values):
            values.append(values[at])
        case 2 if is_message:
            donor = _inside(other, rng)
            if donor.DESCRIPTOR is field.message_type:
                values.add().CopyFrom(donor)
        case 3 if is_message and len(values) > 1:
            values[at].CopyFrom(values[rng.randrange(len(values))])
        case _ if not is_message:
            if len(values) and rng.random() < 0.7:
                values[at] = _extreme(field, rng)
            else:
                values.append(_extreme(field, rng))


def _extreme(field: FieldDescriptor, rng: random.Random) -> int | float | str | bytes:
    kind = field.cpp_type
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice([v.number for v in field.enum_type.values])
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = rng.choice(TEXTS)
        return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
    low, high = {
        FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
        FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
        FieldDescriptor.CPPTYPE_BOOL: (0, 1),
    }.get(kind, (-(2**63), 2**63 - 1))
    return min(max(rng.choice(NUMBERS), low), high)


# ---- Graphs ----


def semantics(proto: onnx.ModelProto, other: onnx.ModelProto, rng: random.Random) -> None:
    """What a graph means: operators, wires, attributes, shapes, types, constants and opsets."""
    graph = proto.graph
    if not graph.node:
        return
    node = rng.choice(graph.node)
    names = [n for o in graph.node for n in [*o.input, *o.output]] + [t.name for t in graph.initializer]
    changes = (_operator, _wires, _attributes, _attributes, _constants, _constants, _shapes, _nodes, _opset)
    rng.choice(changes)(proto, other, node, names, rng)


def _operator(proto: onnx.ModelProto, other: onnx.ModelProto, node: onnx.NodeProto, names: list, rng: random.Random):
    donor = rng.choice(other.graph.node) if other.graph.node else node
    node.op_type, node.domain = donor.op_type, donor.domain
    if rng.random() < 0.5:
        del node.attribute[:]
        node.attribute.extend(donor.attribute)


def _wires(proto: onnx.ModelProto, other: onnx.ModelProto, node: onnx.NodeProto, names: list, rng: random.Random):
    wires = node.input if rng.random() < 0.8 else node.output
    at = rng.randrange(len(wires)) if wires else 0
    match rng.randrange(5):
        case 0 if wires:
            del wires[at]
        case 1:
            wires.append(rng.choice(names))
        case 2 if wires:
            wires[at] = rng.choice(names)
        case 3 if wires:
            wires[at] = ""
        case _:
            del wires[:]


def _attributes(proto: onnx.ModelProto, other: onnx.ModelProto, node: onnx.NodeProto, names: list, rng: random.Random):
    number, several = rng.choice(NUMBERS), [rng.choice(NUMBERS) for _ in range(rng.randrange(6))]
    if not node.attribute or rng.random() < 0.2:
        name = rng.choice(("axis", "axes", "kernel_shape", "strides", "pads", "group", "to", "perm", "alpha", "mode"))
        node.attribute.append(helper.make_attribute(name, rng.choice((number, several, "x", 0.5)), attr_type=None)
                              if several else helper.make_attribute(name, number))  # fmt: skip
        return
    attribute = rng.choice(node.attribute)
    match rng.randrange(4):
        case 0:
            node.attribute.remove(attribute)
        case 1:
            attribute.type = rng.choice([v.number for v in AttributeProto.AttributeType.DESCRIPTOR.values])
        case 2 if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = number
        case 2 | 3 if attribute.ints:
            del attribute.ints[:]
            attribute.ints.extend(several)
        case _ if attribute.type == AttributeProto.INT:
            attribute.i = number
        case _ if attribute.type == AttributeProto.FLOAT:
            attribute.f = rng.choice(FLOATS)
        case _ if attribute.type == AttributeProto.STRING:
            attribute.s = rng.choice(TEXTS).encode()


def _constants(proto: onnx.ModelProto, other: onnx.ModelProto, node: onnx.NodeProto, names: list, rng: random.Random):
    if not proto.graph.initializer:
        return
    tensor = rng.choice(proto.graph.initializer)
    try:
        array = numpy_helper.to_array(tensor).copy()
    except (TypeError, ValueError):
        return
    match rng.randrange(5):
        case 0 if array.size and array.dtype.kind in "iu":
            bounds = np.iinfo(array.dtype)
            number = min(max(rng.choice(NUMBERS), int(bounds.min)), int(bounds.max))
            array.reshape(-1)[rng.randrange(array.size)] = number
        case 0 if array.size and array.dtype.kind == "f":
            with np.errstate(over="ignore"):
                array.reshape(-1)[rng.randrange(array.size)] = rng.choice(FLOATS)
        case 1:
            array = array.reshape(-1)
        case 2:
            array = array.reshape(rng.choice(((1, *array.shape), (*array.shape, 1))))
        case 3:
            array = array[:0] if array.ndim else array
        case 4 if array.size:
            array = np.asarray(array.reshape(-1)[0])
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _shapes(proto: onnx.ModelProto, other: onnx.ModelProto, node: onnx.NodeProto, names: list, rng: random.Random):
    values = [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]
    if not values:
        return
    kind = rng.choice(values).type.tensor_type
    match rng.randrange(4):
        case 0 if kind.shape.dim:
            kind.shape.dim[rng.randrange(len(kind.shape.dim))].dim_value = rng.choice(NUMBERS)
        case 1 if kind.shape.dim:
            del kind.shape.dim[rng.randrange(len(kind.shape.dim))]
        case 2:
            kind.shape.dim.add().dim_value = rng.choice((1, 2, 3))
        case 3 if rng.random() < 0.5:
            kind.ClearField("shape")
        case _:
            kind.elem_type = rng.choice([v.number for v in TensorProto.DataType.DESCRIPTOR.values])


def _nodes(proto: onnx.ModelProto, other: onnx.ModelProto, node: onnx.NodeProto, names: list, rng: random.Random):
    match rng.randrange(3):
        case 0:
            proto.graph.node.remove(node)
        case 1 if other.graph.node:  # beside its own input, and read in its place
            made = proto.graph.node.add()
            made.CopyFrom(rng.choice(other.graph.node))
            for at in range(len(made.input)):
                made.input[at] = rng.choice(names)
            for at in range(len(made.output)):
                made.output[at] = f"fuzz{at}"
            if node.input and made.output:
                made.input[0:1] = [node.input[0]]
                node.input[0] = made.output[0]
        case _:
            node.CopyFrom(rng.choice(proto.graph.node))


def _opset(proto: onnx.ModelProto, other: onnx.ModelProto, node: onnx.NodeProto, names: list, rng: random.Random):
    if proto.opset_import:
        rng.choice(proto.opset_import).version = rng.choice((*range(1, 28), *NUMBERS[9:]))


# ---- Text ----


def text_of(text: str, rng: random.Random) -> bytes:
    """A card or a list: a line, a word or some bytes of it."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del lines[at]
        case 1:
            key = lines[at].partition("=")[0]
            values = ("[]", "{}", "1e999", "nan", '"x"', "true", "[[1], 2]", "2000-01-01", *map(str, NUMBERS))
            lines[at] = f"{key}= {rng.choice(values)}"
        case 2:
            lines.insert(at, rng.choice((*lines, "x = 1", "[preprocess]", "[[task]]", f"k = '{rng.choice(TEXTS)}'")))
        case 3:
            return bytes_of(text.encode(), rng, rng.choice((1, 4)))
    return "\n".join(lines).encode()
