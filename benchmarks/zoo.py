"""The benchmark's networks: exported once from torchvision and timm (random weights) into benchmarks/cache/."""

from __future__ import annotations

import warnings
from pathlib import Path

CACHE = Path(__file__).parent / "cache"
NETWORKS = {
    "resnet50": "torchvision",
    "vgg16": "torchvision",
    "mobilenet_v2": "torchvision",
    "efficientnet_b0": "torchvision",
    "densenet121": "torchvision",
    "convnext_tiny": "torchvision",
    "vit_small_patch16_224": "timm",
    "vit_b_16": "torchvision",
    "swin_t": "torchvision",
}


def build(name: str):
    """The PyTorch network, in inference mode, with a fixed seed."""
    import torch

    torch.manual_seed(0)
    if NETWORKS.get(name) == "timm":
        import timm

        return timm.create_model(name, pretrained=False).eval()
    import torchvision

    return torchvision.models.get_model(name, weights=None).eval()


def network(name: str) -> Path:
    """Path of the exported network; exported by the TorchScript exporter, opset 17, with a free batch axis.

    Raises:
        SystemExit: PyTorch is not installed.
    """
    path = CACHE / f"{name}.onnx"
    if path.exists():
        return path
    try:
        import torch
    except ImportError:
        raise SystemExit("benchmarks need PyTorch to export their networks: pip install '.[torch]'") from None
    CACHE.mkdir(exist_ok=True)
    torch.backends.mha.set_fastpath_enabled(False)
    partial = path.with_suffix(".partial")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # ViT by the dynamo exporter: its graphs have no chains of shape arithmetic.
        dynamo = "vit" in name
        batch = (
            {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
            if dynamo
            else {"dynamic_axes": {"image": {0: "batch"}}}
        )
        torch.onnx.export(
            build(name),
            (torch.randn(2, 3, 224, 224),),
            str(partial),
            dynamo=dynamo,
            opset_version=20 if dynamo else 17,
            input_names=["image"],
            output_names=["logits"],
            external_data=False,
            **batch,
        )
    partial.rename(path)
    return path
