"""Published architectures as ONNX graphs: the layers of torchvision's models, one channel wide."""

from __future__ import annotations

import numpy as np
import onnx

from tests.models import model, node

WEIGHTS = {k: np.ones((1, 1, k, k), np.float32) for k in (1, 2, 3, 4, 5, 7, 11)}


class Net:
    """Layers appended one after the other; each returns the name of its output, which is `at` until the next."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.at = "x"

    def layer(self, op: str, *inputs: str, name: str = "", **attrs: object) -> str:
        self.at = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(node(op, list(inputs), [self.at], **attrs))
        return self.at

    def conv(self, k: int, s: int = 1, p: int | None = None, x: str = "", name: str = "") -> str:
        pads = [k // 2 if p is None else p] * 4
        self.layer("Conv", x or self.at, f"w{k}", strides=[s, s], pads=pads)
        return self.layer("Relu", self.at, name=name)

    def pool(self, k: int, s: int, p: int = 0, op: str = "MaxPool", name: str = "") -> str:
        return self.layer(op, self.at, name=name, kernel_shape=[k, k], strides=[s, s], pads=[p] * 4)

    def model(self, size: int = 224) -> onnx.ModelProto:
        self.layer("GlobalAveragePool", self.at, name="gap")
        weights = {f"w{k}": w for k, w in WEIGHTS.items()}
        return model(self.nodes, {"x": [1, 1, size, size]}, {"gap": [1, 1, 1, 1]}, weights)


def alexnet() -> onnx.ModelProto:
    """AlexNet without padding in its first layer, as in Araujo et al."""
    net = Net()
    net.conv(11, 4, 0, name="conv1")
    net.pool(3, 2, name="pool1")
    net.conv(5, name="conv2")
    net.pool(3, 2, name="pool2")
    for i in (3, 4, 5):
        net.conv(3, name=f"conv{i}")
    net.pool(3, 2, name="pool5")
    return net.model()


def vgg16() -> onnx.ModelProto:
    net = Net()
    for stage, depth in enumerate((2, 2, 3, 3, 3), 1):
        for i in range(depth):
            net.conv(3, name=f"conv{stage}_{i + 1}")
        net.pool(2, 2, name=f"pool{stage}")
    return net.model()


def resnet50(stride_last: bool = False) -> onnx.ModelProto:
    """torchvision's ResNet-50; with `stride_last` that of TF-Slim, which strides in the last unit of a block
    and pads its first pool as SAME does."""
    net = Net()
    net.conv(7, 2)
    same = {"auto_pad": "SAME_UPPER"} if stride_last else {"pads": [1] * 4}
    x = net.layer("MaxPool", net.at, kernel_shape=[3, 3], strides=[2, 2], **same)
    for stage, depth in enumerate((3, 4, 6, 3), 1):
        for i in range(depth):
            strides = stage < 4 and i == depth - 1 if stride_last else stage > 1 and i == 0
            stride = 2 if strides else 1
            net.conv(1, x=x)
            net.conv(3, stride)
            branch = net.conv(1)
            skip = net.conv(1, stride, x=x) if i == 0 or stride > 1 else x
            x = net.layer("Add", branch, skip, name=f"block{stage}" if i == depth - 1 else "")
    return net.model()


def mobilenet_v2() -> onnx.ModelProto:
    net = Net()
    x = net.conv(3, 2)
    for t, depth, stride in ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1)):
        for i in range(depth):
            if t > 1:
                net.conv(1)
            net.conv(3, stride if i == 0 else 1)
            y = net.conv(1)
            x = net.layer("Add", x, y) if i > 0 else y
    net.conv(1, name="features")
    return net.model()


def densenet121() -> onnx.ModelProto:
    """DenseNet-121; what a layer reads is summed up to one channel by its 1×1 convolution."""
    net = Net()
    net.conv(7, 2)
    net.pool(3, 2, 1)
    for stage, depth in enumerate((6, 12, 24, 16), 1):
        parts = [net.at]
        for _ in range(depth):
            joined = net.layer("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
            net.layer("ReduceMean", joined, axes=[1])
            parts.append(net.conv(3))
        net.layer("Concat", *parts, axis=1, name="features" if stage == 4 else "")
        if stage < 4:
            net.layer("ReduceMean", net.at, axes=[1])
            net.pool(2, 2, op="AveragePool")
    return net.model()


def vit(front: int = 1, end: int = 0, heads: str = "apart", dim: int = 16, depth: int = 2) -> onnx.ModelProto:
    """A transformer over 4 × 5 patches of 4 × 4 pixels, two heads; its class is read from the first further token.

    Further tokens, of which a twin with as many has the same, are put in front of the patches and at the end. `heads`:
    "apart", (N, heads, L, d), or "merged", (N · heads, L, d).
    """
    rng = np.random.default_rng(0)
    patches, others = 20, front + end
    length = patches + others
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    tokens, places, grid = draw(1, others, dim), draw(1, others, dim), draw(1, patches, dim)
    weights = {
        "wp": draw(dim, 3, 4, 4) * 0.2,
        "front": tokens[:, :front],
        "end": tokens[:, front:],
        "places": np.concatenate([places[:, :front], grid, places[:, front:]], 1) * 0.3,
        "flat": np.array([1, dim, patches], np.int64),
        "split": np.array([1, length, 3, 2, dim // 2], np.int64),
        "joined": np.array([1, length, dim], np.int64),
        "heads": np.array([2, length, dim // 2], np.int64),
        "apart": np.array([1, 2, length, dim // 2], np.int64),
        "class": np.array(0 if front else patches, np.int64),
        "head": draw(dim, 3),
        "scale": np.array(2 / dim**0.5, np.float32),
        **{name: np.array(i, np.int64) for i, name in enumerate(("zero", "one", "two"))},
        **{f"{n}{i}": draw(a, b) / a**0.5 for i in range(depth) for n, a, b in
           (("qkv", dim, 3 * dim), ("o", dim, dim), ("up", dim, 2 * dim), ("down", 2 * dim, dim))},
        **{f"{n}{k}": 1 + 0.2 * draw(dim) if n == "gain" else 0.2 * draw(dim)
           for k in range(2 * depth + 1) for n in ("gain", "bias")},
    }  # fmt: skip
    net = Net()
    net.layer("Conv", "x", "wp", strides=[4, 4])
    net.layer("Reshape", net.at, "flat")
    net.layer("Transpose", net.at, perm=[0, 2, 1])
    parts = [*(["front"] if front else []), net.at, *(["end"] if end else [])]
    x = net.layer("Add", net.layer("Concat", *parts, axis=1), "places", name="embedded")
    for i in range(depth):
        net.layer("LayerNormalization", x, f"gain{2 * i}", f"bias{2 * i}", axis=-1, name=f"norm{i}")
        net.layer("MatMul", net.at, f"qkv{i}")
        net.layer("Reshape", net.at, "split")
        every = net.layer("Transpose", net.at, perm=[2, 0, 3, 1, 4])
        q, k, v = (net.layer("Gather", every, name, axis=0) for name in ("zero", "one", "two"))
        if heads == "merged":
            q, k, v = (net.layer("Reshape", part, "heads") for part in (q, k, v))
        turned = net.layer("Transpose", k, perm=[0, 2, 1] if heads == "merged" else [0, 1, 3, 2])
        net.layer("Mul", net.layer("MatMul", q, turned), "scale")
        net.layer("MatMul", net.layer("Softmax", net.at, axis=-1), v)
        if heads == "merged":
            net.layer("Reshape", net.at, "apart")
        net.layer("Reshape", net.layer("Transpose", net.at, perm=[0, 2, 1, 3]), "joined")
        x = net.layer("Add", x, net.layer("MatMul", net.at, f"o{i}"))
        net.layer("LayerNormalization", x, f"gain{2 * i + 1}", f"bias{2 * i + 1}", axis=-1)
        net.layer("Relu", net.layer("MatMul", net.at, f"up{i}"))
        x = net.layer("Add", x, net.layer("MatMul", net.at, f"down{i}"))
    net.layer("LayerNormalization", x, f"gain{2 * depth}", f"bias{2 * depth}", axis=-1, name="last")
    net.layer("MatMul", net.layer("Gather", net.at, "class", axis=1), "head", name="y")
    used = {name for n in net.nodes for name in n.input}
    return model(net.nodes, {"x": [1, 3, 16, 20]}, {"y": [1, 3]}, {n: w for n, w in weights.items() if n in used})
