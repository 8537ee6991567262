"""How alike the gradients of differently built files of one network are, on photographs of the corpus.

    python -m benchmarks.precision

Cosine of the input gradients of the reference's top class, and rank correlation of the Grad-CAM maps; means over the
pictures. Needs the corpus beside the checkout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution import Explainer
from analyzer.graph.query import image_input
from analyzer.images import decode, model_card
from analyzer.metrics.similarity import cosine_of, spearman

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
IMAGENET = {"preset": "imagenet", "resize": "crop"}
SIGNED = {"preset": "-1-1"}
# Reference, build, preprocessing of each.
PAIRS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("squeezenet1.1_torchscript_op7", "squeezenet1.1_dynamo_op23", IMAGENET, IMAGENET),
    ("squeezenet1.1_torchscript_op7", "squeezenet1.1_ortquant_qdq_perchannel_s8", IMAGENET, IMAGENET),
    ("resnet20_cifar10_torchscript_op15_preservebn", "resnet20_cifar10_ortopt_extended", IMAGENET, IMAGENET),
    ("mobilenet_v1_0.25_128_float", "mobilenet_v1_0.25_128_float_nchw_op17", SIGNED, SIGNED),
    ("mobilenet_v1_0.25_128_float", "mobilenet_v1_0.25_128_quant", SIGNED, {"preset": "raw"}),
]
PICTURES = ("coral_bird.bmp", "coral_parrot.jpg", "coral_hot_dog.jpg", "orie_goldfish.jpg", "ort_kitten_224.png")


class Build:
    """A file and how it is fed."""

    def __init__(self, name: str, flags: dict[str, Any]) -> None:
        path = CORPUS / "models" / f"{name}.onnx"
        self.explainer = Explainer(path)
        given = image_input(self.explainer.plain)
        self.preprocess = model_card(path, flags, given.shape, given.dtype).preprocess

    def maps(self, picture: np.ndarray, target: Any) -> tuple[int, np.ndarray, np.ndarray]:
        """(class, input gradient with channels first, heatmap of Grad-CAM)"""
        array = self.preprocess.apply(picture)[0]
        found = self.explainer.explain(array, "gradient", target)
        gradient = found.raw[0].astype(np.float64)
        gradient = gradient if gradient.shape[0] == 3 else np.moveaxis(gradient, -1, 0)
        target = int(found.target[0])
        return target, gradient, self.explainer.explain(array, "grad-cam", target).heatmap[0]


def main() -> None:
    print("| reference | build | cosine of gradients | rank correlation of Grad-CAM |\n|---|---|---|---|")
    for reference, build, ours, theirs in PAIRS:
        sides = Build(reference, ours), Build(build, theirs)
        cosines, ranks = [], []
        for name in PICTURES:
            picture = decode(CORPUS / "images" / name)
            target, a, heat = sides[0].maps(picture, "top1")
            _, b, other = sides[1].maps(picture, target)
            cosines.append(cosine_of(a, b))
            ranks.append(spearman(heat, other))
        print(f"| {reference} | {build} | {np.mean(cosines):.4f} | {np.mean(ranks):.4f} |", flush=True)


if __name__ == "__main__":
    main()
