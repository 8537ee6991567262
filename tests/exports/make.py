"""Exports a dozen small networks and stores what torch.autograd says of them in float64, from fixed seeds.

    python -m tests.exports.make            all
    python -m tests.exports.make dense      those named

Needs the `torch` extra. A network is exported as it is, by torch's older exporter or the one that traces (dynamo); its
references are of the module in float64: the scores, the gradient of the highest with respect to the image, Grad-CAM at
the layer `see`, and guided backpropagation where all rectifiers are ReLU.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

HERE = Path(__file__).parent
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, bool]] = {}


def network(size: tuple[int, ...], opset: int, dynamo: bool = False) -> Callable:
    """Registers a module: the shape of its image, and how it is exported."""

    def register(made: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        NETWORKS[made.__name__.lower()] = (made, size, opset, dynamo)
        return made

    return register


def convolution(
    channels: int, wide: int, k: int = 3, act: Callable[..., nn.Module] = nn.ReLU, **how: int
) -> nn.Sequential:
    """Conv, BatchNorm, activation."""
    conv = nn.Conv2d(channels, wide, k, padding=k // 2, bias=False, **how)
    return nn.Sequential(conv, nn.BatchNorm2d(wide), act())


class Head(nn.Module):
    """Global average pooling and a linear layer."""

    def __init__(self, channels: int, classes: int = 5) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


@network((3, 16, 16), 11)
class Plain(nn.Module):
    """VGG's kind: convolutions, max-pooling, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.see = nn.Sequential(convolution(3, 8), nn.MaxPool2d(2), convolution(8, 12)), nn.Identity()
        self.tail = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.see(self.body(x)))


@network((3, 16, 16), 18, dynamo=True)
class Residual(nn.Module):
    """ResNet's kind: a strided block with a projected shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = convolution(3, 8, 3), convolution(8, 12, stride=2)
        self.two, self.short = (
            nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)),
            nn.Conv2d(8, 12, 1, 2),
        )
        self.see, self.head = nn.ReLU(), Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.see(self.two(self.one(x)) + self.short(x)))


@network((3, 16, 16), 13)
class Inverted(nn.Module):
    """MobileNetV2's kind: depthwise convolution and ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = convolution(3, 12, 1, nn.ReLU6)
        self.deep = convolution(12, 12, 3, nn.ReLU6, groups=12, stride=2)
        self.narrow, self.see = nn.Conv2d(12, 6, 1), nn.Identity()
        self.last, self.head = convolution(6, 16, 1, nn.ReLU6), Head(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.see(self.narrow(self.deep(self.wide(3 * x))))))


@network((3, 16, 16), 17)
class Squeeze(nn.Module):
    """EfficientNet's kind: SiLU, squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.see = convolution(3, 10, 3, nn.SiLU, stride=2), nn.Identity()
        self.down, self.up = nn.Conv2d(10, 4, 1), nn.Conv2d(4, 10, 1)
        self.two, self.head = convolution(10, 12, 5, nn.SiLU), Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.see(self.one(x))
        gate = torch.sigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(self.two(x * gate))


@network((3, 16, 16), 18, dynamo=True)
class Dense(nn.Module):
    """DenseNet's kind: concatenation, average pooling; Hardswish and Hardsigmoid as in MobileNetV3."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = convolution(3, 6, 3, nn.Hardswish), convolution(9, 6, 3, nn.Hardsigmoid)
        self.see, self.head = nn.AvgPool2d(2), Head(15)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([x, self.one(x)], 1)
        return self.head(F.elu(self.see(torch.cat([x, self.two(x)], 1))))


@network((3, 16, 16), 17)
class Normed(nn.Module):
    """Group, instance and local response normalisation; leaky, parametric and smooth rectifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.leaky = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.LeakyReLU(0.1)
        self.two, self.inst = nn.Conv2d(8, 8, 3, 2, 1), nn.InstanceNorm2d(8, affine=True)
        self.soft, self.see, self.head = nn.PReLU(8, 0.3), nn.LocalResponseNorm(3, 0.5), Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.leaky(self.norm(self.one(x)))
        return self.head(F.mish(F.softplus(self.see(self.soft(self.inst(self.two(x)))))))


@network((3, 16, 16), 18, dynamo=True)
class ConvNext(nn.Module):
    """ConvNeXt's kind: LayerNorm and linear layers over channels that come last, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale, self.see, self.head = nn.Parameter(0.5 * torch.ones(8)), nn.Identity(), Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        inner = self.down(F.gelu(self.up(self.norm(self.deep(x).permute(0, 2, 3, 1))))) * self.scale
        return self.head(self.see(x + inner.permute(0, 3, 1, 2)))


@network((3, 16, 16), 17)
class Vision(nn.Module):
    """ViT's kind: patches, a class token, attention, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.see = nn.Conv2d(3, 12, 4, 4), nn.Identity()
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 17, 12) / 4)
        self.norm, self.qkv, self.out = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.mlp = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))
        self.last, self.fc = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.see(self.patch(x)).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], 17, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = ((q @ k.transpose(-2, -1)) * 0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return self.fc(self.last(x + self.mlp(x))[:, 0])


@network((3, 16, 16), 18)
class Windows(nn.Module):
    """Swin's kind: shifted windows, merged patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.see = nn.Conv2d(3, 8, 2, 2), nn.Identity()
        self.qkv, self.merge, self.norm, self.fc = (
            nn.Linear(8, 24),
            nn.Linear(32, 12),
            nn.LayerNorm(12),
            nn.Linear(12, 5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.see(self.patch(x)).permute(0, 2, 3, 1)
        moved = torch.roll(x, (-2, -2), (1, 2)).reshape(-1, 2, 4, 2, 4, 8).transpose(2, 3).reshape(-1, 16, 8)
        q, k, v = self.qkv(moved).chunk(3, -1)
        mixed = (q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v
        back = mixed.reshape(-1, 2, 2, 4, 4, 8).transpose(2, 3).reshape(-1, 8, 8, 8)
        x = x + torch.roll(back, (2, 2), (1, 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.fc(self.norm(self.merge(x)).mean((1, 2)))


@network((3, 16, 16), 17)
class Decoder(nn.Module):
    """Segmentation's kind: transposed convolution, bilinear and nearest resizing, a skip, scores per position."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = convolution(3, 8, stride=2), convolution(8, 10, stride=2)
        self.up, self.see, self.last = nn.ConvTranspose2d(10, 8, 2, 2), nn.ReLU(), nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.one(x)
        deep = self.two(skip)
        wide = F.interpolate(deep[:, :8], scale_factor=2, mode="bilinear", align_corners=False)
        near = F.interpolate(deep[:, 2:], scale_factor=2, mode="nearest")
        return self.last(self.see(self.up(deep) + skip + wide - near)).amax((2, 3))


@network((1, 12, 16), 17)
class Reader(nn.Module):
    """A recogniser's kind: convolution, then LSTM and GRU over columns."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.see = convolution(1, 6, stride=2), nn.Identity()
        self.lstm, self.gru = nn.LSTM(36, 8, bidirectional=True, batch_first=True), nn.GRU(16, 8, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.see(self.one(x)).flatten(1, 2).transpose(1, 2)
        return self.fc(self.gru(self.lstm(x)[0])[0][:, -1])


@network((3, 16, 16), 20)
class Odd(nn.Module):
    """What is rarer: pixel shuffling, a spatial transformer, einsum, reflected padding, pooling by powers, softmin."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.see, self.two = nn.Conv2d(3, 12, 3, 2), nn.Tanh(), nn.Conv2d(3, 6, 3, dilation=2, padding=2)
        self.turn = nn.Linear(3, 6)
        self.turn.weight.data *= 0.1
        self.turn.bias.data = torch.tensor([0.9, 0.1, 0.05, -0.1, 0.8, 0.0])
        self.mix, self.fc = nn.Parameter(torch.randn(6, 4)), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pixel_shuffle(self.see(self.one(F.pad(x, (1, 1, 1, 1), mode="reflect"))), 2)
        where = F.affine_grid(self.turn(x.mean((2, 3))).reshape(-1, 2, 3), [1, 3, 16, 16], align_corners=False)
        x = F.grid_sample(x, where, align_corners=False)
        x = (self.two(x).abs() ** 1.5 + 0.1).log()
        mixed = torch.einsum("nchw,cd->nd", x * F.softmin(x, 1), self.mix) / 64
        return self.fc(torch.atan(mixed) + mixed.clamp(-0.5, 0.5).erf())


def trained(module: nn.Module, size: tuple[int, ...]) -> nn.Module:
    """Running statistics as after training; nothing else needs to be learned to be differentiated."""
    module.train()
    with torch.no_grad():
        for _ in range(5):
            module(torch.randn(8, *size) if not isinstance(module, Odd) else torch.randn(1, *size))
    return module.eval()


def references(module: nn.Module, image: torch.Tensor) -> dict[str, np.ndarray]:
    """float64, stored as float32."""
    module = module.double()
    seen: list[torch.Tensor] = []
    hook = module.get_submodule("see").register_forward_hook(lambda _, __, out: seen.append(out))
    x = image.double().requires_grad_()
    scores = module(x)
    hook.remove()
    target = int(scores.argmax())
    gradient, flowing = torch.autograd.grad(scores[0, target], [x, seen[0]])
    weights = flowing.mean((2, 3), keepdim=True)
    found = {
        "image": image,
        "scores": scores,
        "gradient": gradient,
        "activations": seen[0],
        "grad_cam": (weights * seen[0]).sum(1).relu(),
    }
    kinds = {type(m) for m in module.modules()}
    rectified = (nn.SiLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.LeakyReLU, nn.PReLU, nn.Tanh, nn.GELU, nn.LSTM)
    if nn.ReLU in kinds and not kinds & set(rectified):
        for relu in [m for m in module.modules() if isinstance(m, nn.ReLU)]:
            relu.register_full_backward_hook(lambda _, given, __: (given[0].relu(),))
        found["guided"] = torch.autograd.grad(module(x)[0, target], x)[0]
    arrays = {name: value.detach().numpy().astype(np.float32) for name, value in found.items()}
    return arrays | {"target": np.array(target)}


def layer_of(file: Path, image: np.ndarray, activations: np.ndarray) -> str:
    """The tensor of the file that is `see` in the module: the first of equal values."""
    model = onnx.load(file)
    names = [name for n in model.graph.node for name in n.output if name]
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, value in zip(names, session.run(names, {"image": image}), strict=True):
        if getattr(value, "shape", None) == activations.shape and np.allclose(value, activations, atol=1e-4):
            return name
    raise ValueError(f"{file.name} has no tensor of what `see` gives")


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    for number, (name, (made, size, opset, dynamo)) in enumerate(NETWORKS.items()):
        if names and name not in names:
            continue
        torch.manual_seed(number)
        module = trained(made(), size)
        image = torch.randn(1, *size)
        file = HERE / f"{name}.onnx"
        how = {"opset_version": opset, "input_names": ["image"], "output_names": ["scores"]}
        torch.onnx.export(module, (image,), str(file), dynamo=dynamo, external_data=False, **how)
        found = references(module, image)
        found["layer"] = np.array(layer_of(file, found["image"], found.pop("activations")))
        np.savez_compressed(HERE / f"{name}.npz", **found)
        print(f"{name}: {file.stat().st_size / 1000:.0f} + {file.with_suffix('.npz').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
