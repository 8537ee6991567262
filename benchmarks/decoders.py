"""Whether detectors with priors are decoded as the packages do that build them: torchvision and effdet, random weights.

    python -m benchmarks.decoders [NAME …]

Needs torch, torchvision and effdet in an environment of its own. Prints a row per network: the format that was
recognised, its candidates, and the largest deviation of a box's side in pixels and of a score.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from analyzer.attribution import Model, Question
from analyzer.attribution.asked import task_of
from analyzer.runtime import Session
from analyzer.tasks.detection import Detection

Said = tuple[torch.nn.Module, tuple[int, int], Callable[[torch.Tensor], tuple[np.ndarray, np.ndarray]]]


class Heads(torch.nn.Module):
    """What a network gives before its candidates are decoded."""

    def __init__(self, given: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], *parts: torch.nn.Module) -> None:
        super().__init__()
        self.given, self.parts = given, torch.nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.given(x)


def of_torchvision(name: str, size: tuple[int, int]) -> Said:
    from torchvision.models import detection
    from torchvision.models.detection.image_list import ImageList

    net = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=91).eval()

    def heads(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = net.head(list(net.backbone(x).values()))
        return found["cls_logits"], found["bbox_regression"]

    def decoded(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        logits, numbers = heads(x)
        anchors = net.anchor_generator(ImageList(x, [size]), list(net.backbone(x).values()))[0]
        scores = logits[0].sigmoid() if "retinanet" in name else logits[0].softmax(-1)[:, 1:]
        return net.box_coder.decode_single(numbers[0], anchors).numpy(), scores.numpy()

    return Heads(heads, net), size, decoded


def of_fcos(size: tuple[int, int], joined: bool) -> Said:
    """Rows of scores, sides and centerness for all strides, as torchvision's head gives them, or for each stride."""
    from torchvision.models import detection
    from torchvision.models.detection.image_list import ImageList

    net = detection.fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=80).eval()

    def rows(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = net.head(list(net.backbone(x).values()))
        return found["cls_logits"], found["bbox_regression"], found["bbox_ctrness"]

    def each(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        heads = [net.head([one]) for one in net.backbone(x).values()]
        return tuple(found[name] for found in heads for name in ("cls_logits", "bbox_regression", "bbox_ctrness"))

    def decoded(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        logits, numbers, centers = rows(x)
        maps = list(net.backbone(x).values())
        anchors = net.anchor_generator(ImageList(x, [size]), maps)[0]
        boxes = net.box_coder.decode(numbers[0], anchors)
        return boxes.numpy(), (logits[0].sigmoid() * centers[0].sigmoid()).sqrt().numpy()

    return Heads(rows if joined else each, net), size, decoded


def of_effdet(name: str, size: tuple[int, int], joined: bool) -> Said:
    from effdet import EfficientDet, get_efficientdet_config
    from effdet.anchors import Anchors, decode_box_outputs

    config = get_efficientdet_config(name)
    config.image_size = size
    net = EfficientDet(config, pretrained_backbone=False).eval()

    def rows(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = zip(net(x), (config.num_classes, 4), strict=True)
        return tuple(torch.cat([m.permute(0, 2, 3, 1).reshape(1, -1, n) for m in maps], 1) for maps, n in found)

    def maps(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores, boxes = net(x)
        return (*scores, *boxes)

    def decoded(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        logits, numbers = rows(x)
        boxes = decode_box_outputs(numbers[0], Anchors.from_config(config).boxes, output_xyxy=True)
        return boxes.numpy(), logits[0].sigmoid().numpy()

    return Heads(rows if joined else maps, net), size, decoded


NETWORKS: dict[str, Callable[[], Said]] = {
    "ssd300_vgg16": lambda: of_torchvision("ssd300_vgg16", (300, 300)),
    "ssdlite320_mobilenet_v3_large": lambda: of_torchvision("ssdlite320_mobilenet_v3_large", (320, 320)),
    "retinanet_resnet50_fpn": lambda: of_torchvision("retinanet_resnet50_fpn", (256, 320)),
    "fcos_resnet50_fpn, rows": lambda: of_fcos((256, 320), True),
    "fcos_resnet50_fpn, strides": lambda: of_fcos((256, 320), False),
    "efficientdet_d0, rows": lambda: of_effdet("efficientdet_d0", (256, 384), True),
    "efficientdet_d0, maps": lambda: of_effdet("efficientdet_d0", (256, 384), False),
    "tf_efficientdet_d0, rows": lambda: of_effdet("tf_efficientdet_d0", (256, 384), True),
}


def row(name: str) -> str:
    torch.manual_seed(0)
    net, size, decoded = NETWORKS[name]()
    x = torch.randn(1, 3, *size)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "net.onnx"
        torch.onnx.export(net.eval(), (x,), path, input_names=["x"], opset_version=17, dynamo=False)
        boxes, scores = decoded(x)
        model = Model(path)
        task = task_of(model, Question(), model.plain)
        if not isinstance(task, Detection):
            return f"{name:32} {task.kind}"
        said = Session(onnx.load(path)).run({"x": x.numpy()}, list(task.decoder.outputs))
        found = task.decoder.candidates(task.answer(said))
    off = np.abs(found.boxes - boxes).max(), np.abs(found.scores - scores).max()
    return f"{name:32} {task.decoder.family:14} {len(boxes):6} {off[0]:10.1e} {off[1]:10.1e}"


def main(names: list[str]) -> None:
    print(f"{'network':32} {'format':14} {'places':>6} {'pixels':>10} {'score':>10}")
    for name in names or NETWORKS:
        print(row(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
