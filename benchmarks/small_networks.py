"""A dozen small networks of different kinds, each as a float32 ONNX file, with torch's own gradient beside it.

Random weights, made sensible: BatchNormalization has statistics of real activations and the last layer is wide enough
that classes differ. Made once into a folder; needs `pip install '.[torch]'`. Two are the shipped demo models, one is
from the corpus where it lies beside the checkout.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        make: the torch module, or the path of a file.
        shape: of a picture, the batch axis included.
        opset: of the export; the dynamo exporter is used from 18 on.
        target: "top1" or an expression of our language.
        score: the same number from {output: array or torch tensor}, for expressions.
    """

    make: Callable[[], Any]
    shape: tuple[int, ...] = (1, 3, 64, 64)
    opset: int = 17
    outputs: tuple[str, ...] = ("logits",)
    target: str = "top1"
    score: Callable[[dict[str, Any]], Any] | None = None

    def pictures(self, seed: int, count: int) -> np.ndarray:
        """Coloured blobs and noise, (count, …); every value is a number of float16."""
        rng = np.random.default_rng(seed)
        _, *size = self.shape
        coarse = [s if s in (1, 3) else max(s // 8, 1) for s in size]
        blobs = rng.standard_normal((count, *coarse))
        for axis, (small, large) in enumerate(zip(coarse, size, strict=True), 1):
            blobs = np.repeat(blobs, -(-large // small), axis).take(range(large), axis)
        noise = rng.standard_normal(blobs.shape)
        return (0.8 * blobs + 0.6 * noise).astype(np.float16).astype(np.float32)


# ---- Modules ----


def torchvision_net(name: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import torchvision

        return torchvision.models.get_model(name, weights=None, num_classes=20, **options)

    return make


def mobilenet_v2() -> Any:
    from torchvision.models import MobileNetV2

    blocks = [[1, 12, 1, 1], [6, 16, 2, 2], [6, 24, 2, 2], [6, 40, 1, 2]]
    return MobileNetV2(num_classes=20, inverted_residual_setting=blocks)


def inception() -> Any:
    from torch import cat, nn

    class Unit(nn.Sequential):
        def __init__(self, given: int, made: int, size: int, **options: Any) -> None:
            super().__init__(
                nn.Conv2d(given, made, size, padding=size // 2, **options), nn.BatchNorm2d(made), nn.ReLU()
            )

    class Block(nn.Module):
        def __init__(self, given: int, made: int) -> None:
            super().__init__()
            self.one, self.three = Unit(given, made, 1), nn.Sequential(Unit(given, made, 1), Unit(made, made, 3))
            self.five = nn.Sequential(Unit(given, made // 2, 1), Unit(made // 2, made, 5))
            self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), Unit(given, made, 1))

        def forward(self, x: Any) -> Any:
            return cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)

    return nn.Sequential(
        Unit(3, 16, 7, stride=2), nn.MaxPool2d(3, 2, 1, ceil_mode=True), Block(16, 12),
        nn.MaxPool2d(3, 2, ceil_mode=True), Block(48, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 20),
    )  # fmt: skip


def densenet() -> Any:
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=8, block_config=(2, 3, 3, 2), num_init_features=16, num_classes=20)


def swin() -> Any:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=64, patch_size=4, embed_dim=32, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=20
    )


def vit() -> Any:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=64, patch_size=8, embed_dim=64, depth=3, num_heads=4, num_classes=20)


def convnext() -> Any:
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(depths=(1, 1, 2, 1), dims=(24, 32, 48, 64), num_classes=20)


def unet() -> Any:
    from torch import cat, nn

    def block(given: int, made: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(given, made, 3, padding=1), nn.BatchNorm2d(made), nn.ReLU(), nn.Conv2d(made, made, 3, padding=1),
            nn.BatchNorm2d(made), nn.LeakyReLU(0.1),
        )  # fmt: skip

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = block(3, 12), block(12, 24), block(24, 48)
            self.up_c, self.up_b = nn.ConvTranspose2d(48, 24, 2, 2), nn.Upsample(scale_factor=2, mode="bilinear")
            self.d, self.e = block(48, 24), block(36, 12)
            self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(12, 6, 1)

        def forward(self, x: Any) -> Any:
            a = self.a(x)
            b = self.b(self.pool(a))
            d = self.d(cat([self.up_c(self.c(self.pool(b))), b], 1))
            return self.head(self.e(cat([self.up_b(d), a], 1)))

    return UNet()


def detector() -> Any:
    from torch import cat, nn

    class Detector(nn.Module):
        """Two levels of a pyramid; boxes by distances from the cell's centre, scores by a sigmoid."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(*(self.unit(*c) for c in ((3, 16), (16, 24), (24, 32))))
            self.deep, self.lateral, self.up = self.unit(32, 48), nn.Conv2d(48, 32, 1), nn.Upsample(scale_factor=2)
            self.heads = nn.ModuleList(nn.Conv2d(c, 4 + 5, 3, padding=1) for c in (32, 48))

        @staticmethod
        def unit(given: int, made: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(given, made, 3, 2, 1), nn.BatchNorm2d(made), nn.SiLU())

        def forward(self, x: Any) -> Any:
            shallow = self.stem(x)
            deep = self.deep(shallow)
            levels = shallow + self.up(self.lateral(deep)), deep
            found = cat([head(level).flatten(2) for head, level in zip(self.heads, levels, strict=True)], 2)
            return found[:, :4].exp().transpose(1, 2), found[:, 4:].sigmoid().transpose(1, 2)

    return Detector()


def recogniser() -> Any:
    from torch import nn

    class Recogniser(nn.Module):
        """A line of text to log-probabilities (T, N, C), by convolutions and an LSTM in both directions."""

        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1),
                nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 32, (6, 3), (6, 1), (0, 1)), nn.ReLU(),
            )  # fmt: skip
            self.lstm, self.head = nn.LSTM(32, 24, bidirectional=True), nn.Linear(48, 11)

        def forward(self, x: Any) -> Any:
            steps = self.features(x).squeeze(2).permute(2, 0, 1)
            return self.head(self.lstm(steps)[0]).log_softmax(2)

    return Recogniser()


def channels_last() -> Any:
    from torch import nn

    class ChannelsLast(nn.Module):
        """As TensorFlow's exporters write networks: NHWC outside, padding at one side, batch statistics kept."""

        def __init__(self) -> None:
            super().__init__()
            self.pad = nn.ZeroPad2d((0, 1, 0, 1))
            self.first, self.deep = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 32, 3, 2)
            self.norms = nn.ModuleList((nn.BatchNorm2d(16), nn.BatchNorm2d(32)))
            self.act, self.pool, self.head = nn.ReLU6(), nn.AvgPool2d(2), nn.Linear(32, 20)

        def forward(self, x: Any) -> Any:
            x = self.act(self.norms[0](self.first(self.pad(x.permute(0, 3, 1, 2)))))
            x = self.act(self.norms[1](self.deep(self.pad(self.pool(x)))))
            return self.head(x.permute(0, 2, 3, 1).mean((1, 2)))

    return ChannelsLast()


DETECTION = "scores[:, :, 2].sum() + boxes[:, 7, 1]"

NETWORKS: dict[str, Network] = {
    "digits_cnn": Network(lambda: ROOT / "models" / "digits_cnn.onnx", (1, 3, 96, 96), outputs=("probabilities",)),
    "digits_vit": Network(lambda: ROOT / "models" / "digits_vit.onnx", (1, 3, 96, 96), outputs=("probabilities",)),
    "squeezenet": Network(torchvision_net("squeezenet1_1")),
    "mobilenet_v2": Network(mobilenet_v2),
    "mobilenet_v3": Network(torchvision_net("mobilenet_v3_small"), opset=20),
    "densenet": Network(densenet),
    "inception": Network(inception),
    "vit": Network(vit, opset=20),
    "swin": Network(swin),
    "convnext": Network(convnext, opset=20),
    "unet": Network(unet),
    "detector": Network(
        detector,
        outputs=("boxes", "scores"),
        target=DETECTION,
        score=lambda out: out["scores"][:, :, 2].sum() + out["boxes"][:, 7, 1].sum(),
    ),
    "channels_last": Network(channels_last, (1, 64, 64, 3)),
    "recogniser": Network(recogniser, (1, 1, 24, 64), outputs=("log_probabilities",)),
    "keras": Network(lambda: CORPUS / "exports" / "keras_minicnn.tf2onnx17.onnx", (1, 64, 64, 3)),
}
FILES = ("digits_cnn", "digits_vit", "keras")


# ---- Files ----


def module(name: str) -> Any:
    """The torch module in inference mode, with a fixed seed and sensible weights."""
    import torch
    from torch import nn

    network = NETWORKS[name]
    torch.manual_seed(0)
    net = network.make()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the mean over all batches
            nn.init.uniform_(part.weight, 0.7, 1.3)
            nn.init.normal_(part.bias, std=0.2)
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    for key, parameter in net.named_parameters():
        if parameter.ndim == 1 and key.endswith("gamma"):  # layer scale begins near 0
            nn.init.uniform_(parameter, 0.5, 1.0)
        if parameter.ndim == 1 and not parameter.any():  # equal weights would be shared in the file
            nn.init.normal_(parameter, std=0.05)
        if parameter.ndim > 1 and (not parameter.any() or parameter.std() < 0.021):
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    with torch.no_grad():
        net.train()
        for seed in range(4):
            net(torch.from_numpy(network.pictures(100 + seed, 8)))
    return net.eval()


def export(name: str, net: Any, path: Path, opset: int, half: bool = False) -> None:
    """Write the module with a free batch axis, by dynamo's exporter where the network's own opset is 18 or more."""
    import torch

    network = NETWORKS[name]
    pictures = torch.from_numpy(network.pictures(0, 2))
    torch.backends.mha.set_fastpath_enabled(False)
    dynamo = network.opset >= 18 and opset >= 18
    batch = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    axes = {"image": {0: "batch"}} | {n: {0: "batch"} for n in network.outputs}
    if name == "recogniser":
        axes = {"image": {0: "batch"}, network.outputs[0]: {1: "batch"}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (pictures.half() if half else pictures,),
            str(path),
            dynamo=dynamo,
            opset_version=opset,
            input_names=["image"],
            output_names=list(network.outputs),
            external_data=False,
            verbose=False,
            **(batch if dynamo else {"dynamic_axes": axes}),
        )


def file(name: str, folder: Path) -> Path | None:
    """The float32 file in `folder`, made on the first call; None where the corpus is needed and absent."""
    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    if not is_module(name):
        given = NETWORKS[name].make()
        return Path(shutil.copy(given, path)) if given.exists() else None
    partial = path.with_suffix(".partial")
    export(name, module(name), partial, NETWORKS[name].opset)
    partial.rename(path)
    return path


def is_module(name: str) -> bool:
    """Whether torch makes the network; else it is a file."""
    return name not in FILES
