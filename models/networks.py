"""Small networks over the ten digits: two multi-label classifiers, a segmenter, a reader of lines, a detector
and a network of keypoints.

The classifiers' `forward` gives logits (N, 10); `WithSigmoid` wraps one for export, so that files give probabilities.
"""

from __future__ import annotations

import torch
from pictures import CLASSES
from torch import Tensor, nn
from torch.nn.functional import interpolate, softplus

SIDE = 96  # input height and width, pixels
LINE = (32, 128)  # input height and width of the reader


class ConvBlock(nn.Sequential):
    """y = ReLU(BN(W ∗ x)), a 3×3 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int | tuple[int, int] = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )


class Residual(nn.Module):
    """y = ReLU(x + BN(W₂ ∗ ReLU(BN(W₁ ∗ x))))"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBlock(channels, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm2(self.conv2(self.conv1(x))))


class CNN(nn.Module):
    """Residual blocks at stride 4 and 8, then logits = W · mean_ij A_ij + b: CAM is exact on A, (N, 72, 12, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBlock(3, 16, stride=2), ConvBlock(16, 32, stride=2))
        self.stage1 = nn.Sequential(Residual(32), ConvBlock(32, 56, stride=2))
        self.stage2 = nn.Sequential(Residual(56), ConvBlock(56, 72))
        self.stage3 = Residual(72)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(72, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return self.head(self.pool(features).flatten(1))


class Attention(nn.Module):
    """y = W_o · softmax(q kᵀ / √d) v, by head; q, k, v = W x."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x ← x + Attention(LN x); x ← x + MLP(LN x)"""

    def __init__(self, width: int, heads: int, ratio: int = 2) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patch tokens, class token and position embedding, pre-norm blocks, then logits = W · LN(class token) + b.

    Three convolutions at stride 2 make the tokens of a patch of 8×8 pixels (Xiao et al. 2021, Early Convolutions Help
    Transformers See Better): with one convolution at stride 8, networks this small take many times the steps to learn.
    """

    patch = 8  # pixels

    def __init__(self, width: int = 64, depth: int = 5, heads: int = 2) -> None:
        super().__init__()
        self.cells = SIDE // self.patch
        self.embed = nn.Sequential(
            ConvBlock(3, 16, stride=2),
            ConvBlock(16, 32, stride=2),
            ConvBlock(32, 64, stride=2),
            nn.Conv2d(64, width, 1),
        )
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 1 + self.cells**2, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def tokens(self, x: Tensor, position: Tensor) -> Tensor:
        """The normalised tokens after the last block, class token first: (N, 1 + cells, width)."""
        patches = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], 1) + position
        return self.norm(self.blocks(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x, self.position)[:, 0])

    def window_position(self, row: int, column: int, cells: int) -> Tensor:
        """The position embedding of the class token and of a square window of cells."""
        grid = self.position[:, 1:].unflatten(1, (self.cells, self.cells))
        window = grid[:, row : row + cells, column : column + cells].flatten(1, 2)
        return torch.cat([self.position[:, :1], window], 1)


class Segmenter(nn.Module):
    """Logits (N, 11, H, W), background first: an encoder to stride 8 and a decoder to stride 2, then enlarged twice.

    The decoder adds what the encoder had at the same stride (Lin et al. 2017, Feature Pyramid Networks).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBlock(3, 16, stride=2)
        self.stage1 = nn.Sequential(ConvBlock(16, 32, stride=2), Residual(32))
        self.stage2 = nn.Sequential(ConvBlock(32, 44, stride=2), Residual(44), Residual(44))
        self.reduce2, self.up2 = nn.Conv2d(44, 32, 1), ConvBlock(32, 24)
        self.reduce1, self.up1 = nn.Conv2d(24, 16, 1), ConvBlock(16, 16)
        self.head = nn.Conv2d(16, 1 + CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        stride2 = self.stem(image)
        stride4 = self.stage1(stride2)
        stride8 = self.stage2(stride4)
        x = self.up2(enlarged(self.reduce2(stride8)) + stride4)
        x = self.up1(enlarged(self.reduce1(x)) + stride2)
        return enlarged(self.head(x))


def enlarged(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class Reader(nn.Module):
    """Logits (N, T, 11) of a grey line (N, 1, 32, 4 T), the blank first: one step per four columns, for CTC."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBlock(1, 16, stride=2), ConvBlock(16, 32, stride=2), Residual(32))
        self.stage = nn.Sequential(ConvBlock(32, 48, stride=(2, 1)), ConvBlock(48, 64, stride=(2, 1)))
        self.collapse = nn.Sequential(
            nn.Conv2d(64, 64, (2, 3), padding=(0, 1), bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        )
        self.head = nn.Linear(64, 1 + CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        columns = self.collapse(self.stage(self.stem(image))).squeeze(2)
        return self.head(columns.transpose(1, 2))


class Detector(nn.Module):
    """Scores and boxes (N, 14, P) of P places at strides 8 and 16, as YOLOv8 gives them: centre x, y, width, height in
    pixels, then a probability per digit.

    The map of stride 8 adds what the one of stride 16 says (Lin et al. 2017); boxes are distances to the four sides
    (Tian et al. 2019, FCOS).
    """

    strides = (8, 16)

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBlock(3, 16, stride=2), ConvBlock(16, 32, stride=2), Residual(32))
        self.stage2 = nn.Sequential(ConvBlock(32, width, stride=2), Residual(width), Residual(width))
        self.stage3 = nn.Sequential(ConvBlock(width, 48, stride=2), Residual(48))
        self.reduce = nn.Conv2d(48, width, 1)
        self.neck2, self.neck3 = ConvBlock(width, width), ConvBlock(48, width)
        self.classify = nn.ModuleList(
            nn.Sequential(ConvBlock(width, width), nn.Conv2d(width, CLASSES, 1)) for _ in "ab"
        )
        self.locate = nn.ModuleList(nn.Sequential(ConvBlock(width, 32), nn.Conv2d(32, 4, 1)) for _ in "ab")
        for head in self.classify:
            nn.init.constant_(head[1].bias, -4.0)

    def heads(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 10, P) and distances to the left, top, right and bottom (N, 4, P) in pixels."""
        stride8 = self.stage2(self.stem(image))
        stride16 = self.stage3(stride8)
        maps = self.neck2(stride8 + enlarged(self.reduce(stride16))), self.neck3(stride16)
        logits = [head(x).flatten(2) for head, x in zip(self.classify, maps, strict=True)]
        sides = [
            stride * softplus(head(x)).flatten(2)
            for head, x, stride in zip(self.locate, maps, self.strides, strict=True)
        ]
        return torch.cat(logits, 2), torch.cat(sides, 2)

    def forward(self, image: Tensor) -> Tensor:
        logits, sides = self.heads(image)
        low, high = sides[:, :2], sides[:, 2:]
        boxes = torch.cat([places(self.strides) + (high - low) / 2, low + high], 1)
        return torch.cat([boxes, logits.sigmoid()], 1)


class Keypoints(nn.Module):
    """Logits (N, 10, H / 4, W / 4) of a heat map for each digit, highest at the middle of its box (Xiao et al. 2018).

    An encoder to stride 8; what it had at stride 4 is added to that, enlarged.
    """

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBlock(3, 16, stride=2)
        self.stage1 = nn.Sequential(ConvBlock(16, 32, stride=2), Residual(32))
        self.stage2 = nn.Sequential(ConvBlock(32, 44, stride=2), Residual(44), Residual(44))
        self.reduce, self.up = nn.Conv2d(44, 32, 1), ConvBlock(32, 32)
        self.head = nn.Conv2d(32, CLASSES, 1)
        nn.init.constant_(self.head.bias, -4.0)

    def forward(self, image: Tensor) -> Tensor:
        stride4 = self.stage1(self.stem(image))
        return self.head(self.up(enlarged(self.reduce(self.stage2(stride4))) + stride4))


def places(strides: tuple[int, ...]) -> Tensor:
    """(1, 2, P) x and y in pixels of the middle of every cell, stride by stride, row by row."""
    grids = []
    for stride in strides:
        middle = torch.arange(stride / 2, SIDE, stride)
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        grids.append(torch.stack([x, y]).flatten(1))
    return torch.cat(grids, 1)[None]


class WithSoftmax(nn.Module):
    """p = softmax(logits) over the last axis"""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image).softmax(-1)


class WithSigmoid(nn.Module):
    """p = sigmoid(logits)"""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(self.network(image))
