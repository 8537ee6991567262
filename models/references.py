"""Gradients and maps of the trained networks by torch.autograd in float64, for tests that need no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from networks import CNN, SIDE, ViT
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from training import preprocess

KEPT_BITS = 13  # of the 23 of a float32's fraction: an error of 2⁻¹⁴ at most, and files of half the length


class GuidedRelu(torch.autograd.Function):
    """y = max(x, 0) with x̄ = 1[x > 0] ⊙ 1[ȳ > 0] ⊙ ȳ (Springenberg et al. 2014, section 3.4)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (gradient > 0) * (x > 0)


class Guided(TorchFunctionMode):
    """Puts `GuidedRelu` in the place of every rectifier that runs inside."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (nn.functional.relu, torch.relu, torch.relu_):
            return GuidedRelu.apply(args[0])
        return function(*args, **(kwargs or {}))


def gradients(network: nn.Module, layer: nn.Module, image: Tensor, target: int) -> tuple[Tensor, ...]:
    """The logits, the layer's output A, and ∂y/∂image and ∂y/∂A of y = logits[target]."""
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    image = image.clone().requires_grad_()
    logits = network(image)
    hook.remove()
    return (logits, kept[0], *torch.autograd.grad(logits[0, target], (image, kept[0])))


def cnn_references(network: CNN, image: Tensor, target: int) -> dict[str, Tensor]:
    """On A, (1, 72, 12, 12): grad-cam = ReLU(Σ_k w_k A_k), w_k = mean_ij ∂y/∂A_kij."""
    logits, features, to_image, to_features = gradients(network, network.stage3, image, target)
    weights = to_features.mean((2, 3), keepdim=True)
    with Guided():
        guided = gradients(network, network.stage3, image, target)[2]
    return {
        "logits": logits,
        "input_gradient": to_image,
        "layer_gradient": to_features,
        "grad_cam": torch.relu((weights * features).sum(1)),
        "guided_backprop": guided,
    }


def vit_references(network: ViT, image: Tensor, target: int) -> dict[str, Tensor]:
    """On A, the tokens (1, 145, 64) that the last attention reads; grad-cam is over the 12 × 12 behind the first."""
    logits, features, to_image, to_features = gradients(network, network.blocks[-1].norm1, image, target)
    weights = to_features[:, 1:].mean(1, keepdim=True)
    heat = torch.relu((weights * features[:, 1:]).sum(2))
    return {
        "logits": logits,
        "input_gradient": to_image,
        "layer_gradient": to_features,
        "grad_cam": heat.unflatten(1, (network.cells, network.cells)),
    }


def write(references: dict[str, Tensor], pixels: np.ndarray, target: int, path: Path) -> None:
    """Writes `pixels` (96, 96, 3) uint8 RGB, `target`, and the references, shaped as computed, as rounded float32."""
    path.parent.mkdir(exist_ok=True)
    arrays = {name: rounded(value.detach().numpy()) for name, value in references.items()}
    np.savez_compressed(path, pixels=pixels, target=np.int64(target), **arrays)


def rounded(values: np.ndarray) -> np.ndarray:
    """The nearest float32 with `KEPT_BITS` bits of fraction."""
    fraction, exponent = np.frexp(values)
    scale = 2.0 ** (KEPT_BITS + 1)
    return np.ldexp(np.rint(fraction * scale) / scale, exponent).astype(np.float32)


def small(path: Path) -> np.ndarray:
    """An example picture at the networks' size, (96, 96, 3) uint8 RGB."""
    pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    return cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def double(pixels: np.ndarray, preset: str) -> Tensor:
    """One picture (96, 96, 3) uint8 as the network's (1, 3, 96, 96) float64."""
    return preprocess(pixels[None], preset).double()
