"""Larger networks against PyTorch's own autograd: input gradients of a logit, guided backpropagation.

Needs the `torch` extra (torch, torchvision, timm); skipped without it. Random weights, both exporters.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from analyzer.attribution import Explainer

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")
torch.set_num_threads(1)  # for one small picture, threads mostly wait for each other

# name: (where from, picture size, exporter)
NETWORKS = {
    "alexnet": ("torchvision", 224, "script"),
    "vgg11_bn": ("torchvision", 224, "script"),
    "resnet18": ("torchvision", 96, "dynamo"),
    "resnext50_32x4d": ("torchvision", 64, "script"),
    "densenet121": ("torchvision", 64, "script"),
    "googlenet": ("torchvision", 96, "script"),
    "squeezenet1_1": ("torchvision", 96, "script"),
    "mobilenet_v2": ("torchvision", 96, "script"),
    "mobilenet_v3_small": ("torchvision", 96, "dynamo"),
    "mnasnet0_5": ("torchvision", 96, "script"),
    "shufflenet_v2_x0_5": ("torchvision", 96, "script"),
    "efficientnet_b0": ("torchvision", 96, "script"),
    "regnet_y_400mf": ("torchvision", 96, "script"),
    "convnext_tiny": ("torchvision", 96, "script"),
    "vit_b_16": ("torchvision", 64, "dynamo"),
    "swin_t": ("torchvision", 96, "script"),
    "maxvit_t": ("torchvision", 224, "script"),
    "deit_tiny_patch16_224": ("timm", 64, "dynamo"),
    "mixer_s32_224": ("timm", 96, "script"),
    "poolformer_s12": ("timm", 96, "script"),
    "repvgg_a0": ("timm", 96, "script"),
    "ghostnet_100": ("timm", 96, "script"),
    "edgenext_xx_small": ("timm", 96, "dynamo"),
}


def narrow(head: torch.nn.Sequential) -> None:
    """Linear layers of at most 64 units between the features and the classes."""
    linear = [i for i, part in enumerate(head) if isinstance(part, torch.nn.Linear)]
    for i in linear:
        inside = head[i].in_features if i == linear[0] else 64
        head[i] = torch.nn.Linear(inside, head[i].out_features if i == linear[-1] else 64)


def network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    family, size, _ = NETWORKS[name]
    if family == "timm":
        options = {"img_size": size} if name in ("deit_tiny_patch16_224", "mixer_s32_224") else {}
        net = timm.create_model(name, pretrained=False, **options).eval()
    else:
        options = {"googlenet": {"init_weights": True}, "vit_b_16": {"image_size": size}}.get(name, {})
        net = torchvision.models.get_model(name, weights=None, **options).eval()
    if name in ("alexnet", "vgg11_bn"):  # linear layers of 4,096 units: 55 and 120 million weights, and nothing new
        narrow(net.classifier)
    for parameter in net.parameters():
        if parameter.ndim > 1 and not parameter.any():  # a head that starts at zero has no gradient to compare
            torch.nn.init.normal_(parameter, std=0.02)
    return net


def exported(net: torch.nn.Module, image: torch.Tensor, exporter: str) -> bytes:
    file = io.BytesIO()
    torch.backends.mha.set_fastpath_enabled(False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            program = torch.onnx.export(net, (image,), dynamo=True, input_names=["image"], verbose=False)
            program.save(file)
        else:
            torch.onnx.export(net, (image,), file, dynamo=False, opset_version=17, input_names=["image"])
    return file.getvalue()


def gradient(net: torch.nn.Module, image: torch.Tensor, target: int) -> np.ndarray:
    image = image.clone().requires_grad_()
    net(image)[0, target].backward()
    return image.grad.numpy()


def guide(net: torch.nn.Module) -> None:
    """Guided backpropagation by PyTorch's own hooks."""
    for part in net.modules():
        if isinstance(part, torch.nn.ReLU):
            part.inplace = False
            part.register_full_backward_pre_hook(lambda _, grads: tuple(g.clamp(min=0) for g in grads))


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 distance."""
    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected))


def check(name: str, method: str, prepare: Callable[[torch.nn.Module], None] | None = None) -> None:
    """Agreement to the contract on one of three pictures, and near it on all.

    Any float32 runtime may put a unit on the other side of a kink (ReLU, MaxPool), which moves single elements; no
    picture may be off by more than that.
    """
    _, size, exporter = NETWORKS[name]
    net = network(name)
    pictures = [np.random.default_rng(seed).standard_normal((1, 3, size, size)).astype(np.float32) for seed in range(3)]
    explainer = Explainer(exported(net, torch.from_numpy(pictures[0]), exporter))
    if prepare:
        prepare(net)
    for picture in pictures:
        image = torch.from_numpy(picture)
        target = int(net.float()(image).argmax())
        single = gradient(net, image, target)
        double = gradient(net.double(), image.double(), target)
        off = distance(explainer.explain(picture, method, target).raw, double)
        assert off <= 1e-2
        if off <= max(1e-4, 10 * distance(single, double)):
            return
    raise AssertionError(f"{name}: {method} is off by {off} from autograd in float64")


@pytest.mark.parametrize("name", NETWORKS)
def test_input_gradient(name):
    check(name, "gradient")


@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn", "resnext50_32x4d", "squeezenet1_1"])
def test_guided_backprop(name):
    check(name, "guided-backprop", guide)
