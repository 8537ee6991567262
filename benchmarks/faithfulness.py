"""Deletion and insertion scores of every method (Petsiuk et al. 2018, 1806.07421, section 3.2; RISE's protocol).

    python -m benchmarks.faithfulness [--steps 28] [--methods grad-cam rise] [--out docs/faithfulness.md]

Deletion: pixels are replaced by the mean pixel, those with the highest heat first; insertion: they are put back onto
the blurred picture (Gaussian, σ = 5). The score is the area under the probability of the class the model saw first,
over the share of pixels. Deletion should be low, insertion high. Needs the corpus beside the checkout.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution import Explainer, Job, Question, answer
from analyzer.attribution.methods import METHODS
from analyzer.errors import UnsupportedError
from analyzer.graph.query import image_input, image_layout
from analyzer.images import decode, gaussian_blur, model_card
from analyzer.runtime import Session

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
IMAGENET_MEAN = (124, 116, 104)
MODELS: dict[str, tuple[Path, dict[str, Any], str]] = {
    "SqueezeNet 1.1 (float32, PyTorch)": (
        CORPUS / "models" / "squeezenet1.1_torchscript_op17_dynHW.onnx",
        {"preset": "imagenet", "resize": "crop", "size": (224, 224)},
        "photographs",
    ),
    "MobileNetV2 (uint8, quantized TFLite)": (
        CORPUS / "models" / "mobilenet_v2_1.0_224_quant.onnx",
        {"preset": "raw"},
        "photographs",
    ),
    "digits_cnn (shipped)": (ROOT / "models" / "digits_cnn.onnx", {}, "digits"),
    "digits_vit (shipped)": (ROOT / "models" / "digits_vit.onnx", {}, "digits"),
}
PHOTOGRAPHS = (
    "coral_cat_720p.jpg", "coral_parrot.jpg", "coral_sunflower.bmp", "coral_hot_dog.jpg", "coral_bird.bmp",
    "coral_dragonfly.bmp", "ort_kitten_224.png", "ort_fish_720.png", "ort_dog.jpeg", "orie_goldfish.jpg",
)  # fmt: skip
DIGITS = ("digits_chelsea.png", "digits_coffee.png", "digits_rocket.png", "digits_camera.png")
BASELINES = ("random", "center")
KEPT = ROOT / "benchmarks" / "cache" / "faithfulness.json"


class Judge:
    """A model, and the scores of a heatmap for a picture and a class."""

    def __init__(self, path: Path, flags: dict[str, Any], steps: int) -> None:
        self.explainer, self.steps = Explainer(path), steps
        self.given = image_input(self.explainer.plain)
        self.card = model_card(path, flags, self.given.shape, self.given.dtype)
        self.first = self.given.shape[0] if isinstance(self.given.shape[0], int) else 8
        self.axis = image_layout(self.explainer.plain, self.given).index("C")
        self.session: Session | None = None

    def picture(self, path: Path) -> np.ndarray:
        """The preprocessed picture; its grey and mean companions are kept."""
        pixels = decode(path)
        batch = self.card.preprocess.apply(pixels)[0]
        self.grey = self.card.preprocess.apply(np.full_like(pixels, 128))[0]
        mean = np.broadcast_to(np.array(IMAGENET_MEAN, np.uint8), pixels.shape)
        self.mean = self.card.preprocess.apply(np.ascontiguousarray(mean))[0][0].astype(np.float32)
        channels_last = np.moveaxis(batch[0].astype(np.float32), self.axis - 1, -1)
        self.blurred = np.moveaxis(gaussian_blur(channels_last, 5), -1, self.axis - 1)
        return np.asarray(batch)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """(n, classes): as the model gives them, softmax of logits."""
        if self.session is None:
            graph = self.explainer.graph({self.given.name: (self.first, *images.shape[1:])})
            self.stripped = bool(self.explainer.explain(images[:1].astype(self.given.dtype), "grad-cam").stripped)
            self.session = Session(graph, outputs=[graph.outputs[0].name])
        found = []
        for start in range(0, len(images), self.first):
            part = images[start : start + self.first]
            part = np.concatenate([part, np.repeat(part[-1:], self.first - len(part), axis=0)])
            part = np.rint(part).clip(0, 255).astype(np.uint8) if self.given.dtype == np.uint8 else part
            (scores,) = self.session.run({self.given.name: part}).values()
            found.append(scores.reshape(self.first, -1))
        whole = 255 if found[0].dtype == np.uint8 else 1  # a quantised file gives its probabilities in bytes
        scores = np.concatenate(found)[: len(images)].astype(np.float64) / whole
        if self.stripped:
            return scores
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def scores(self, image: np.ndarray, heat: np.ndarray, target: int) -> tuple[float, float]:
        """(deletion, insertion)"""
        order = np.argsort(-heat.ravel(), kind="stable")
        counts = np.rint(np.linspace(0, heat.size, self.steps + 1)).astype(int)
        rank = np.empty(heat.size, int)
        rank[order] = np.arange(heat.size)
        hot = np.expand_dims(np.stack([rank.reshape(heat.shape) < c for c in counts]), self.axis)
        plain = image[0].astype(np.float32)
        areas = []
        for start, end in ((plain, self.mean), (self.blurred, plain)):
            curve = self.probabilities(np.where(hot, end, start))[:, target]
            areas.append(float((curve.sum() - (curve[0] + curve[-1]) / 2) / self.steps))
        return areas[0], areas[1]


def baseline(name: str, size: tuple[int, int], picture: str) -> np.ndarray:
    """Noise, or the nearness to the centre."""
    if name == "random":
        return np.random.default_rng(zlib.crc32(picture.encode())).random(size)
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    return -np.hypot((y + 0.5) / size[0] - 0.5, (x + 0.5) / size[1] - 0.5)


def measure(judge: Judge, folder: Path, pictures: tuple[str, ...], methods: list[str]) -> dict[str, list[Any]]:
    """{method: [(deletion, insertion, seconds) per picture and class]}; digits are asked for each above ½."""
    table: dict[str, list[Any]] = {}
    for name in pictures:
        image = judge.picture(folder / name)
        probabilities = judge.probabilities(image)[0]
        targets = [int(probabilities.argmax())]
        if folder.name == "examples":
            targets = [int(t) for t in np.flatnonzero(probabilities > 0.5)]
        size = tuple(d for a, d in enumerate(image.shape) if a not in (0, judge.axis))
        for target in targets:
            for method in [*BASELINES, *methods]:
                start = time.perf_counter()
                if method in BASELINES:
                    heat = baseline(method, size, name)  # type: ignore[arg-type]
                else:
                    try:
                        question = Question((Job(method),), target, grey=judge.grey)
                        heat = answer(judge.explainer, question, image)[0].heatmap[0]
                    except UnsupportedError:
                        continue
                seconds = time.perf_counter() - start
                table.setdefault(method, []).append((*judge.scores(image, heat, target), seconds))
    return table


def rows(table: dict[str, list[Any]]) -> list[str]:
    """Markdown, the best difference first."""
    means = {m: np.mean([v[:2] for v in values], axis=0) for m, values in table.items()}
    seconds = {m: float(np.median([v[2] for v in values])) for m, values in table.items()}
    order = sorted(means, key=lambda m: means[m][0] - means[m][1])
    lines = ["| method | deletion ↓ | insertion ↑ | difference | seconds |", "| --- | --- | --- | --- | --- |"]
    for m in order:
        deletion, insertion = means[m]
        name = f"*{m}*" if m in BASELINES else f"`{m}`"
        lines.append(f"| {name} | {deletion:.3f} | {insertion:.3f} | {insertion - deletion:+.3f} | {seconds[m]:.2f} |")
    return lines


def page(tables: dict[str, dict[str, Any]], steps: int) -> str:
    """docs/faithfulness.md"""
    parts = [
        "# Faithfulness\n\nWritten by `python -m benchmarks.faithfulness`. Deletion and insertion scores "
        "(Petsiuk et al. 2018): the area under the probability of the class while the hottest pixels are replaced by "
        "the mean pixel (lower is better), or inserted into the blurred picture (higher is better). Baselines: "
        "*random* is noise, *center* is the closeness to the picture's center. All methods use their default options "
        f"and layer, with {steps} steps per curve. Scores are means over {len(PHOTOGRAPHS)} photographs of the corpus, "
        "for the model's top class; for the included models, over every digit with a probability above ½ in the "
        f"pictures of `examples/`. Seconds are medians per picture on {platform.machine()}, a shared machine with 2 "
        "cores.\n"
    ]
    return "\n".join(parts + [f"## {n}\n\n" + "\n".join(rows(tables[n])) + "\n" for n in MODELS if n in tables])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=28, help="shares of pixels per curve (RISE: one row of pixels)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="others keep the figures they had")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "faithfulness.md")
    given = parser.parse_args()
    if not CORPUS.exists():
        raise SystemExit(f"the corpus of models and photographs is not at {CORPUS}")
    for name in given.models:
        path, flags, kind = MODELS[name]
        judge = Judge(path, flags, given.steps)
        folder, pictures = (CORPUS / "images", PHOTOGRAPHS) if kind == "photographs" else (ROOT / "examples", DIGITS)
        table = measure(judge, folder, pictures, given.methods)
        print(f"## {name}\n\n" + "\n".join(rows(table)), flush=True)
        tables = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        KEPT.write_text(json.dumps(tables | {name: table}))
        given.out.write_text(page(tables | {name: table}, given.steps))


if __name__ == "__main__":
    main()
