"""How well heatmaps of detections point at what is detected, and what it is worth to look there.

    python -m benchmarks.detectors [--models yolox_nano …] [--methods layer-cam …] [--masks 200]

Of every photograph the three surest detections, each explained by every method at its default layer:

- pointing: share of maps whose hottest pixel lies in the detection's box; energy: share of the heat inside it; hit: of
  as many hottest pixels as the box has, the share inside it (`analyzer.metrics.energy`);
- deletion: the share of the detection's score that is left when the hottest fifth of the pixels becomes the mean pixel;
  insertion: when only that fifth is put onto the blurred photograph (σ = 20). Equally hot pixels come in random order;
  the score is the highest of the detection's class among candidates with an IoU of at least ½;
- below random: share of detections of which less is left than after deleting as many random pixels, in cells of 16 × 16
  (the mean of three draws);
- seconds: per detection, with compiling.

A keypoint's box is a square around it with a side of a fifth of the picture's longer one, and its score that of the
same keypoint; text on a map is judged as detections are. D-RISE explains detections only.

`layer-cam, last map` is LayerCAM at the last map that boxes and scores share instead of the default layer, where those
differ. Files that are not recognised as detectors, or find nothing, are left out. Needs the corpus beside the checkout.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.attribution import Explainer, Job, Question, answer
from analyzer.attribution.asked import task_for
from analyzer.graph.query import image_input, image_layout
from analyzer.images import decode, gaussian_blur, model_card
from analyzer.metrics.boxes import iou
from analyzer.metrics.energy import energy_inside, hit_rate
from analyzer.metrics.pointing_game import pointing_game
from analyzer.runtime import Session
from analyzer.tasks import Prediction
from analyzer.tasks.detection import Detection
from analyzer.tasks.detection.text_maps import TextMap
from analyzer.tasks.detection.view import View
from analyzer.tasks.keypoints import Keypoints

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
THINGS = ("coral_cat_720p.jpg", "coral_bird.bmp", "coral_owl.jpg", "coral_parrot.jpg", "ort_dog.jpeg",
          "coral_grace_hopper.bmp", "zoo_ultraface_1.jpg", "coral_hot_dog.jpg")  # fmt: skip
FACES = ("zoo_ultraface_1.jpg", "coral_grace_hopper.bmp")
MODELS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "YOLOX-nano": (
        "yolox_nano_opencvzoo.onnx",
        {"preset": "raw", "channels": "BGR", "resize": "letterbox"},
        THINGS,
    ),
    "FastestDet": ("fastestdet.onnx", {"preset": "0-1", "channels": "BGR", "resize": "resize"}, THINGS),
    "PicoDet-XS": ("picodet_xs_416.onnx", {"preset": "imagenet", "resize": "resize"}, THINGS),
    "UltraFace": ("ultraface_rfb320.onnx", {"preset": "-1-1", "resize": "resize"}, FACES),
    "YuNet": ("yunet_120x160.onnx", {"preset": "raw", "channels": "BGR", "resize": "resize"}, FACES),
    "UltraFace, optimized": ("ultraface_rfb320_maui.onnx", {"preset": "-1-1", "resize": "resize"}, FACES),
    "YuNet, open sizes": ("yunet_n_dynamic.onnx", {"preset": "raw", "channels": "BGR", "size": (480, 640)}, FACES),
    "BlazeFace": ("blazeface_back_opt.onnx", {"preset": "-1-1", "resize": "resize"}, FACES),
    "BlazeFace, front": ("blazeface_front_barracuda.onnx", {"preset": "-1-1", "resize": "resize"}, FACES),
    "MoveNet": ("movenet_lightning_ptq.onnx", {"preset": "raw", "resize": "letterbox"}, FACES),
    "PP-OCRv3": (
        "ppocrv3_en_det.onnx",
        {"preset": "imagenet", "channels": "BGR", "size": (384, 512)},
        ("coral_hot_dog.jpg", "coral_grace_hopper.bmp"),
    ),
    "DEIMv2-atto, INT8": (
        "../cases/real/deimv2_atto_int8.onnx",
        {"preset": "imagenet", "resize": "resize"},
        THINGS[:4],
    ),
}
METHODS = ("layer-cam", "hires-cam", "grad-cam", "gradient", "d-rise")
EACH, SHARE, CELL, DRAWS, SIGMA, NEAR = 3, 0.2, 16, 3, 20.0, 0.2
RANDOM = "random"


@dataclass(frozen=True)
class Row:
    """The measures of one map, in the order of the table."""

    pointing: float
    energy: float
    hit: float
    deletion: float
    insertion: float
    below: float
    seconds: float


class Judge:
    """A detector, and one photograph of it."""

    def __init__(self, path: Path, flags: dict[str, Any]) -> None:
        self.explainer = Explainer(path)
        self.graph = self.explainer.plain
        self.given = image_input(self.graph)
        self.card = model_card(path, flags, self.given.shape, self.given.dtype)
        self.axis = image_layout(self.graph, self.given).index("C") - 1
        self.task: Any = None
        self.session: Session | None = None

    def read(self, path: Path) -> bool:
        """The photograph, its mean and its blurred picture; False if the model is no detector."""
        batch = self.card.preprocess.apply(decode(path))[0]
        height, width = batch.shape[2:] if self.axis == 0 else batch.shape[1:3]
        sizes = {"orig_target_sizes": np.array([[width, height]])}  # so that boxes are in pixels of the input
        named = {given.name: sizes[given.name] for given in self.graph.inputs if given.name in sizes}
        self.feeds = self.explainer.feeds({self.given.name: batch} | named)
        self.image = batch[0].astype(np.float32)
        if self.session is None:
            self.task = task_for(self.explainer, Question(), self.feeds)
            if not isinstance(self.task, Detection | TextMap | Keypoints):
                return False
            self.session = self.explainer.session(self.explainer.graph_of(self.feeds), list(self.task.reading))
        last = np.moveaxis(self.image, self.axis, -1)
        self.size = last.shape[:2]
        self.blurred = np.moveaxis(gaussian_blur(last, SIGMA), -1, self.axis)
        self.mean = np.moveaxis(np.broadcast_to(last.mean(axis=(0, 1)), last.shape), -1, self.axis)
        self.noise = np.random.default_rng(zlib.crc32(path.name.encode()))
        return True

    def said(self, image: np.ndarray) -> Any:
        assert self.session is not None
        found = self.session.run(self.feeds | {self.given.name: image[None].astype(self.given.dtype)})
        return self.task.answer({name: known.real(found[name]) for name, known in self.task.reading.items()})

    def score(self, image: np.ndarray, wanted: Prediction) -> float:
        """The highest score of the detection's class where it is; of a keypoint, its score."""
        if isinstance(self.task, Keypoints):
            assert wanted.index is not None
            return float(self.task.points(self.said(image))[wanted.index, 2])
        if isinstance(self.task, TextMap):
            texts = replace(self.task, threshold_=0.0).predictions(self.said(image))
            boxes = np.array([text.box for text in texts]).reshape(-1, 4)
            over = iou(np.array([wanted.box]), boxes)[0]
            return max((t.score for t, o in zip(texts, over, strict=True) if o >= 0.5), default=0.0)
        found = self.task.decoder.candidates(self.said(image))
        near = iou(np.array([wanted.box]), found.boxes)[0] >= 0.5
        if found.labels is not None:
            near &= found.labels == wanted.index
        scores = found.scores[:, 0 if found.labels is not None else wanted.index]
        return float(scores[near].max(initial=0))

    def box(self, wanted: Prediction) -> tuple[float, ...]:
        """Where a detection is, or a keypoint, with some of what is around it."""
        if wanted.box is not None:
            return wanted.box
        assert wanted.points is not None
        (x, y, _), half = wanted.points[0], NEAR * max(self.size) / 2
        return (x - half, y - half, x + half, y + half)

    def cells(self) -> np.ndarray:
        """Noise in cells."""
        rows, columns = (-(-side // CELL) for side in self.size)
        return np.kron(self.noise.random((rows, columns)), np.ones((CELL, CELL)))[: self.size[0], : self.size[1]]

    def hottest(self, heat: np.ndarray) -> np.ndarray:
        """(1, H, W), or as the image has its channels: the hottest pixels."""
        order = np.lexsort((self.cells().ravel(), -heat.ravel()))
        chosen = np.zeros(heat.size, bool)
        chosen[order[: round(SHARE * heat.size)]] = True
        return np.expand_dims(chosen.reshape(heat.shape), self.axis)

    def judged(self, heat: np.ndarray, wanted: Prediction, plain: float, random: float, seconds: float) -> Row:
        hot, box = self.hottest(heat), self.box(wanted)
        deletion = self.score(np.where(hot, self.mean, self.image), wanted) / plain
        insertion = self.score(np.where(hot, self.image, self.blurred), wanted) / plain
        pointing, energy = pointing_game(heat, box), energy_inside(heat, box)
        return Row(pointing, energy, hit_rate(heat, box), deletion, insertion, deletion < random, seconds)

    def judge(self, methods: Sequence[str], masks: int) -> Iterator[tuple[str, Row]]:
        """The maps of the surest detections of the photograph by every method, and by chance."""
        wanted = self.task.predictions(self.said(self.image))[:EACH]
        plain = [self.score(self.image, one) for one in wanted]
        left = []
        for one, score in zip(wanted, plain, strict=True):
            draws = [self.judged(self.cells(), one, score, 0, 0) for _ in range(DRAWS)]
            left.append(float(np.mean([draw.deletion for draw in draws])))
            yield from ((RANDOM, draw) for draw in draws)
        if not wanted:
            return
        targets = [one.target for one in wanted]
        detector = isinstance(self.task, Detection)
        for method in methods if detector else [m for m in methods if m != "d-rise"]:
            job = Job(method, options={"masks": masks} if method == "d-rise" else {})
            start = time.perf_counter()
            heats = answer(self.explainer, Question((job,), targets), self.feeds)[0].heatmap
            seconds = (time.perf_counter() - start) / len(wanted)
            for at, heat in enumerate(heats):
                yield method, self.judged(heat, wanted[at], plain[at], left[at], seconds)
        for at, one in enumerate(wanted if detector else ()):
            layer = self.last_map(one)
            if layer not in ("", one.layer) and "layer-cam" in methods:
                start = time.perf_counter()
                heat = answer(self.explainer, Question((Job("layer-cam", layer),), targets[at]), self.feeds)[0].heatmap[
                    0
                ]
                seconds = time.perf_counter() - start
                yield "layer-cam, last map", self.judged(heat, one, plain[at], left[at], seconds)

    def last_map(self, wanted: Prediction) -> str:
        """The last map that box and score of a detection are computed from."""
        level = next((level for level in self.task.decoder.levels if level.layer == wanted.layer), None)
        last = self.view.last_shared(level) if level is not None else None
        return last.name if last is not None else ""

    @cached_property
    def view(self) -> View:
        return View(self.explainer.graph_of(self.feeds))


def lines(table: dict[str, list[Row]]) -> list[str]:
    """Markdown."""
    heads = ["method", "n", "pointing ↑", "energy ↑", "hit ↑", "deletion ↓", "insertion ↑", "below random ↑", "seconds"]
    rows = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for name, found in table.items():
        mean = np.mean([list(vars(row).values()) for row in found], axis=0)
        cells = [f"{mean[0]:.0%}", *(f"{m:.2f}" for m in mean[1:5]), f"{mean[5]:.0%}", f"{mean[6]:.2f}"]
        shown = [*cells[:5], "", ""] if name == RANDOM else cells
        rows.append("| " + " | ".join([name, str(len(found)), *shown]) + " |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--masks", type=int, default=200, help="of D-RISE")
    given = parser.parse_args()
    if not CORPUS.exists():
        raise SystemExit(f"the corpus of models and photographs is not at {CORPUS}")
    for name in given.models:
        file, flags, pictures = MODELS[name]
        judge, table = Judge(CORPUS / "models" / file, flags), dict[str, list[Row]]()
        for picture in pictures:
            if not judge.read(CORPUS / "images" / picture):
                break
            for method, row in judge.judge(given.methods, given.masks):
                table.setdefault(method, []).append(row)
        if table:
            print(f"## {name}\n\n" + "\n".join(lines(table)) + "\n", flush=True)
        else:
            print(f"## {name}\n\n{judge.task.kind}: nothing is found\n", flush=True)


if __name__ == "__main__":
    main()
