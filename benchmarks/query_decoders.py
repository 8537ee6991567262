"""Whether detectors with queries (DETR and its kin) are decoded as Hugging Face's transformers do: random weights.

    python -m benchmarks.query_decoders [NAME …]

Needs transformers, torch and onnx in an environment of its own. The detections of a picture of 480 × 640 pixels, from
the twentieth score on, are compared with those of the image processor's `post_process_object_detection`, of each query
the surest class. Prints a row per network: how many detections each side has, the largest difference of a box's side in
pixels and of a score, and how many detections of the package are not found within a pixel.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from analyzer.attribution import Explainer, Question
from analyzer.attribution.asked import task_for
from analyzer.tasks import Declared
from analyzer.tasks.detection import Detection

CLASSES, HEIGHT, WIDTH, LEAST = 80, 480, 640, 20
OUTPUTS = ["logits", "pred_boxes"]


@dataclass(frozen=True)
class Network:
    """A network of the package: its module and class, whose image processor it has, whether its scores are those of a
    softmax, whether it gets a small ResNet for the one that is downloaded, and the size of its input."""

    module: str
    name: str
    processor: str = "rt_detr.RTDetr"
    softmax: bool = False
    small: bool = False
    size: tuple[int, int] = (192, 256)


NETWORKS = {
    "DETR": Network("detr", "Detr", "detr.Detr", softmax=True, small=True),
    "Conditional DETR": Network("conditional_detr", "ConditionalDetr", "conditional_detr.ConditionalDetr", small=True),
    "Deformable DETR": Network("deformable_detr", "DeformableDetr", "deformable_detr.DeformableDetr", small=True),
    "RT-DETR": Network("rt_detr", "RTDetr"),
    "D-FINE": Network("d_fine", "DFine"),
    "DEIMv2": Network("deimv2", "Deimv2"),
}
BACKBONE = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}  # of the first three


class Exported(torch.nn.Module):
    """What is exported of a network."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        said = self.net(pixel_values=images)
        return said.logits, said.pred_boxes


def exported(network: Network, x: torch.Tensor, path: Path) -> None:
    torch.manual_seed(0)
    from transformers import ResNetConfig

    root = f"transformers.models.{network.module}"
    config: Any = getattr(importlib.import_module(f"{root}.configuration_{network.module}"), f"{network.name}Config")
    kind = getattr(importlib.import_module(f"{root}.modeling_{network.module}"), f"{network.name}ForObjectDetection")
    given: dict[str, Any] = {"num_labels": CLASSES, "attn_implementation": "eager"}
    if network.small:
        given |= {"init_std": 0.05, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
        given["backbone_config"] = ResNetConfig(**BACKBONE, out_features=["stage2", "stage3", "stage4"])
    net = Exported(kind(config(**given)).eval())
    with torch.no_grad():
        torch.onnx.export(
            net, (x,), path, input_names=["images"], output_names=OUTPUTS, opset_version=17, dynamo=False
        )  # fmt: skip
    made = onnx.load(path)
    for node in [n for n in made.graph.node if n.op_type == "GridSample"]:  # places in double precision, as traced
        cast = onnx.helper.make_node("Cast", [node.input[1]], [f"{node.input[1]}/float"], to=onnx.TensorProto.FLOAT)
        node.input[1] = cast.output[0]
        made.graph.node.insert(list(made.graph.node).index(node), cast)
    onnx.save(made, path)


def row(name: str, folder: Path) -> str:
    network, path = NETWORKS[name], folder / f"{name}.onnx"
    x = torch.rand(1, 3, *network.size, generator=torch.Generator().manual_seed(5))
    exported(network, x, path)
    said = dict(zip(OUTPUTS, onnxruntime.InferenceSession(str(path)).run(OUTPUTS, {"images": x.numpy()}), strict=True))
    given = SimpleNamespace(**{name: torch.from_numpy(array) for name, array in said.items()})
    sure = given.logits.softmax(-1)[..., :-1] if network.softmax else given.logits.sigmoid()
    least = float(sure.amax(-1).flatten().sort().values[-LEAST - 1 :][:2].mean())  # between two scores
    folder_of, kind = network.processor.split(".")
    module = importlib.import_module(f"transformers.models.{folder_of}.image_processing_{folder_of}")
    post = getattr(module, f"{kind}ImageProcessor")().post_process_object_detection
    known = {key: value.numpy() for key, value in post(given, least, [(HEIGHT, WIDTH)])[0].items()}
    surest = np.unique(known["boxes"], axis=0, return_index=True)[1]  # of several classes of a query
    known = {key: array[surest] for key, array in known.items()}
    explainer = Explainer(str(path))
    question = Question(declared=Declared(score_threshold=least))
    task = task_for(explainer, question, explainer.feeds({"images": x.numpy()}))
    if not isinstance(task, Detection):
        return f"| {name} | {task.kind} |"
    found = task.predictions(task.answer(said))
    scale = np.array([WIDTH, HEIGHT] * 2) / np.array([*network.size[::-1]] * 2)
    boxes = np.array([p.box for p in found]).reshape(-1, 4) * scale
    scores = np.array([[p.score, p.index] for p in found]).reshape(-1, 2)
    largest, alone = np.zeros(2), 0
    for box, score, label in zip(known["boxes"], known["scores"], known["labels"], strict=True):
        if not len(boxes):
            alone += 1
            continue
        away = np.abs(boxes - box).max(axis=1) + 1e6 * (scores[:, 1] != label)
        best = int((away + 1e6 * np.abs(scores[:, 0] - score)).argmin())
        if away[best] > 1:
            alone += 1
            continue
        largest = np.maximum(largest, [away[best], abs(scores[best, 0] - score)])
    cells = " | ".join(f"{one:.1e}" for one in largest)
    return f"| {name} | {task.decoder.family} | {len(found)} | {len(known['boxes'])} | {cells} | {alone} |"


def main() -> None:
    warnings.filterwarnings("ignore")
    print("| network | recognized as | detections | of the package | side, pixels | score | not found |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or NETWORKS:
            print(row(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
