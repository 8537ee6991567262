"""Where maps lie under each placement of a layer's units: hand-made detectors, the digits networks, detectors and
classifiers of the corpus.

    python -m benchmarks.placement [--pictures 130] [--out docs/localization.md]

The tables replace the part of docs/localization.md after its heading. What needs the corpus is left out if that is not
beside the checkout; digits need scikit-image and scikit-learn.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from analyzer.attribution import Explainer, Job, Question, answer
from analyzer.attribution.centers import Lines, Probe, even_offsets, offsets
from analyzer.attribution.layers import pick_layer
from analyzer.attribution.lines import PLACEMENTS
from analyzer.attribution.localization import Box, regions
from analyzer.graph.query import fillings, image_input
from analyzer.images import decode, model_card
from analyzer.metrics.energy import energy_inside
from analyzer.metrics.pointing_game import pointing_game
from analyzer.tasks import recognise
from benchmarks.detectors import CORPUS, MODELS, Judge

ROOT = Path(__file__).resolve().parents[1]
STRIDES = (8, 16, 32, 64)
UNITS = 60  # whose centers are measured
HEADING = "## Placement"
# Kernel size, and (padding before, padding after) of every convolution of stride 2.
PADDINGS = {
    "PyTorch, 3×3": (3, 1, 1),
    "TensorFlow SAME, 3×3": (3, 0, 1),
    "PyTorch, 5×5": (5, 2, 2),
    "none, 3×3": (3, 0, 0),
}


def red_detector(stride: int, padding: str, size: int) -> onnx.ModelProto:
    """ReLU of red less green, then binomial convolutions of stride 2 until the effective stride is `stride`."""
    kernel, before, after = PADDINGS[padding]
    row = np.poly1d([0.5, 0.5]) ** (kernel - 1)
    weights = {
        "red": np.array([1, -1, 0], np.float32).reshape(1, 3, 1, 1),
        "blur": np.outer(row.c, row.c).astype(np.float32)[None, None],
        "scores": np.array([[1.0, 0.0]], np.float32),
    }
    nodes = [helper.make_node("Conv", ["image", "red"], ["c0"]), helper.make_node("Relu", ["c0"], ["stage0"])]
    for at in range(int(np.log2(stride))):
        pads = [before, before, after, after]
        nodes += [
            helper.make_node("Conv", [f"stage{at}", "blur"], [f"c{at + 1}"], strides=[2, 2], pads=pads),
            helper.make_node("Relu", [f"c{at + 1}"], [f"stage{at + 1}"]),
        ]
    last = nodes[-1].output[0]
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "scores"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "red",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@dataclass(frozen=True)
class Photograph:
    """A photograph of the corpus with the box of its main object, drawn by hand around all that is seen of it.

    Attributes:
        digest: the first digits of the SHA-256 of the file in which the box was drawn.
        box: (x0, y0, x1, y1) in pixels.
        names: {kind of classifier: the classes that name the object}.
    """

    digest: str
    box: Box
    names: dict[str, tuple[int, ...]]


CAT = {"imagenet": (281, 282, 285), "cifar": (3,)}
CHICKADEE = {"imagenet": (19,), "cifar": (2,), "bird": (659,)}
MACAW = {"imagenet": (88,), "cifar": (2,), "bird": (923,)}
# Not among them: the dragonfly, which fills its photograph; the crow, which no classifier knows; the group of people.
PHOTOGRAPHS = {
    "coral_bird.bmp": Photograph(
        "3fd22d6ed352", (37, 79, 484, 300), {"imagenet": (19,), "cifar": (2,), "bird": (659,)}
    ),
    "coral_cat_720p.jpg": Photograph("cfb1dbdf64b3", (115, 76, 905, 720), CAT),
    "coral_grace_hopper.bmp": Photograph("c43444bf3b1b", (18, 22, 512, 600), {"imagenet": (652,), "person": (1,)}),
    "coral_hot_dog.jpg": Photograph("ed6952e022eb", (92, 84, 482, 230), {"imagenet": (934,)}),
    "coral_owl.jpg": Photograph("ea9a0e3943bb", (160, 14, 332, 372), {"imagenet": (24,), "cifar": (2,)}),
    "coral_parrot.jpg": Photograph(
        "a8fba9e7e294", (98, 104, 466, 900), {"imagenet": (88,), "cifar": (2,), "bird": (923,)}
    ),
    "coral_sunflower.bmp": Photograph("896b5e31cee4", (65, 17, 423, 340), {"imagenet": (985,), "flower": (3,)}),
    "orie_cat_224x224.png": Photograph("a64ebe4e5359", (59, 4, 173, 219), CAT),
    "orie_goldfish.jpg": Photograph("61ff9f1e0c4e", (28, 47, 298, 212), {"imagenet": (1,)}),
    "ort_dog.jpeg": Photograph("1f1dae53069b", (58, 10, 140, 169), {"imagenet": (207,), "cifar": (5,)}),
    "ort_fish_720.png": Photograph("344b8dd79d2e", (0, 165, 658, 485), {"imagenet": (0,)}),
    "ort_kitten_224.png": Photograph("e49fb5cd0c31", (36, 15, 213, 209), CAT),
}
# File, kind, preprocessing, and how many classes come before the first that is named.
IMAGENET, SIGNED, RAW = {"preset": "imagenet", "resize": "crop"}, {"preset": "-1-1"}, {"preset": "raw"}
CLASSIFIERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "squeezenet1.1_torchscript_op7": ("imagenet", IMAGENET, 0),
    "squeezenet1.1_torchscript_op17_dynHW": ("imagenet", IMAGENET | {"size": (224, 224)}, 0),
    "squeezenet1.1_dynamo_op23": ("imagenet", IMAGENET, 0),
    "squeezenet1.1_ortquant_qdq_perchannel_s8": ("imagenet", IMAGENET | {"size": (224, 224)}, 0),
    "squeezenet_winml_fp16": ("imagenet", {"preset": "caffe"}, 0),
    "shufflenet_v2_12_int8": ("imagenet", IMAGENET, 0),
    "mobilenet_v1_0.25_128_float": ("imagenet", SIGNED, 1),
    "mobilenet_v1_0.25_128_float_nchw_op17": ("imagenet", SIGNED, 1),
    "mobilenet_v1_0.25_128_quant": ("imagenet", RAW, 1),
    "mobilenet_v1_0.5_160_quant": ("imagenet", RAW, 1),
    "mobilenet_v2_1.0_224_quant": ("imagenet", RAW, 1),
    "mobilenet_v2_inat_bird_quant": ("bird", RAW, 0),
    "stm32_mobilenet_v2_035_128_tfs_chfirst": ("flower", SIGNED, 0),
    "resnet20_cifar10_torchscript_op15_preservebn": ("cifar", {"preset": "imagenet"}, 0),
    "cifar10_pytorch_winml_tutorial": ("cifar", SIGNED, 0),
    "resnet8_cifar_float": ("cifar", RAW, 0),
    "vww_96_keras_op18": ("person", {"preset": "0-1"}, 0),
    "vww_96_int8": ("person", {"preset": "raw", "mean": (128.0,)}, 0),
}


@dataclass
class Tally:
    """Offsets (dy, dx) of heat from the middle of its box, and whether the hottest pixel is inside."""

    offsets: list[tuple[float, float]] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)

    def add(self, heat: np.ndarray, box: tuple[float, ...], threshold: float = 0) -> None:
        """The centroid of the heat, or of its largest part above a share of its maximum."""
        found = regions(heat, threshold) if threshold else []
        kept = np.where(found[0].mask, heat, 0) if found else heat
        total = max(float(kept.sum()), 1e-12)
        y, x = (float(kept.sum(axis=1 - a) @ (np.arange(kept.shape[a]) + 0.5)) / total for a in (0, 1))
        self.offsets.append((y - (box[1] + box[3]) / 2, x - (box[0] + box[2]) / 2))
        self.hits.append(bool(pointing_game(heat, box)))
        self.energy.append(energy_inside(heat, box))

    def farther(self, other: Tally) -> tuple[float, float]:
        """(mean, standard error) over the boxes of how much farther the heat is from the middle than in `other`."""
        ours, theirs = (np.linalg.norm(t.offsets, axis=1) for t in (self, other))
        return float(np.mean(ours - theirs)), float(np.std(ours - theirs)) / len(ours) ** 0.5

    @property
    def offset(self) -> str:
        return "{:+.1f}, {:+.1f}".format(*np.mean(self.offsets, axis=0))

    @property
    def error(self) -> float:
        """Standard error of the offset, that of the axis where it is larger."""
        return float(np.std(self.offsets, axis=0).max() / len(self.offsets) ** 0.5)


def discs(stride: int, padding: str, grid: int = 5) -> dict[str, Tally]:
    """Grad-CAM of a red disc at a grid of places, two strides from the border."""
    size, radius = max(256, 8 * stride), 0.7 * stride
    explainer = Explainer(red_detector(stride, padding, size))
    middles = np.arange(size) + 0.5
    places = np.linspace(2 * stride, size - 2 * stride, grid)
    found = {name: Tally() for name in PLACEMENTS}
    for y in places:
        for x in places:
            disc = (middles[:, None] - y) ** 2 + (middles - x) ** 2 < radius**2
            image = np.stack([disc, 0 * disc, 0 * disc]).astype(np.float32)[None]
            for name, tally in found.items():
                heat = explainer.explain(image, "grad-cam", 0, placement=name).heatmap[0]
                tally.add(heat, (x - radius, y - radius, x + radius, y + radius))
    return found


def digits(name: str, method: str, count: int) -> dict[str, Tally]:
    """Digits that the network finds in held-out pictures: the middle of the heat's largest part above ½."""
    sys.path.insert(0, str(ROOT / "models"))
    from pictures import Composer  # type: ignore[import-not-found]

    path = ROOT / "models" / name
    explainer, card = Explainer(path), model_card(path)
    composer, found = Composer("held-out", seed=20_000), {p: Tally() for p in PLACEMENTS}
    for _ in range(count):
        picture = composer.picture()
        batch, placed = card.preprocess.apply(picture.pixels)
        known = dict(zip(map(int, picture.labels), picture.boxes, strict=True))
        scores = explainer.explain(batch, method).scores[0]
        wanted = [label for label in known if scores[label] > 0.5]
        for label in wanted:
            box = placed.box_to_input(tuple(float(v) for v in known[label]))
            for name, tally in found.items():
                tally.add(explainer.explain(batch, method, label, placement=name).heatmap[0], box, 0.5)
    return found


def detections(name: str) -> dict[str, Tally]:
    """The surest three detections of each corpus photograph; none of a network that finds points, not boxes."""
    file, flags, pictures = MODELS[name]
    judge, found = Judge(CORPUS / "models" / file, flags), {p: Tally() for p in PLACEMENTS}
    for picture in pictures:
        if not judge.read(CORPUS / "images" / picture):
            return {}
        found_here = judge.task.predictions(judge.said(judge.image))[:3]
        for one in (each for each in found_here if each.box is not None):
            for placement, tally in found.items():
                question = Question((Job("layer-cam"),), one.target, placement=placement)
                heat = answer(judge.explainer, question, judge.feeds)[0].heatmap[0]
                tally.add(heat, one.box, 0.5)
    return found


def photograph(name: str) -> np.ndarray:
    """The picture in which the box was drawn.

    Raises:
        SystemExit: the file has changed since.
    """
    path = CORPUS / "images" / name
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(PHOTOGRAPHS[name].digest):
        sys.exit(f"{path} is not the picture in which its box was drawn")
    return decode(path)


def turned(picture: np.ndarray, box: Box) -> Iterator[tuple[np.ndarray, Box]]:
    """A picture and its box: as they are, mirrored, upside down, and both."""
    (height, width), (x0, y0, x1, y1) = picture.shape[:2], box
    for down in (False, True):
        for across in (False, True):
            pixels = picture[:: -1 if down else 1, :: -1 if across else 1]
            top, bottom = (height - y1, height - y0) if down else (y0, y1)
            left, right = (width - x1, width - x0) if across else (x0, x1)
            yield np.ascontiguousarray(pixels), (left, top, right, bottom)


def photographs(file: str) -> dict[str, Tally]:
    """The photographs whose object a classifier recognises, as they are, mirrored and upside down.

    Turned pictures tell where heat is put from what a network looks at: heat on a head left of the middle is right of
    the middle in the mirrored picture, heat that is put too far to the left is not.
    """
    kind, flags, first = CLASSIFIERS[file]
    path, found = CORPUS / "models" / f"{file}.onnx", {p: Tally() for p in PLACEMENTS}
    explainer = Explainer(path)
    given = image_input(explainer.plain)
    preprocess = model_card(path, flags, given.shape, given.dtype).preprocess
    for name, known in PHOTOGRAPHS.items():
        classes = [first + index for index in known.names.get(kind, ())]
        picture = photograph(name) if classes else None
        for pixels, box in turned(picture, known.box) if picture is not None else ():
            batch, placed = preprocess.apply(pixels)
            scores = explainer.explain(batch, "grad-cam").scores[0].ravel()
            if scores.argmax() not in classes:
                continue
            size = placed.input_size
            x0, y0, x1, y1 = placed.box_to_input(box)
            seen = max(x0, 0), max(y0, 0), min(x1, size[1]), min(y1, size[0])
            for placement, tally in found.items():
                heat = explainer.explain(batch, "grad-cam", int(scores.argmax()), placement=placement).heatmap[0]
                tally.add(heat, seen, 0.5)
    return found


def sharpness(model: Any) -> str:
    """Cells of the second table: how the centers of units of the default layer are measured."""
    explainer = Explainer(model)
    sizes = next(iter(fillings(explainer.plain)), {})
    graph = explainer.graph(sizes)
    layer = pick_layer(graph, "auto", recognise(graph).logits)
    lines = Lines.of(graph, layer)
    if lines is None or lines.theory is None:
        return ""
    off = offsets(Probe(explainer, explainer.graph(sizes), layer), lines, UNITS, first=UNITS)
    errors = [np.std(o, ddof=1) / len(o) ** 0.5 for o in off]
    measured = ", ".join(f"{np.mean(o):+.3f} ± {error:.3f}" for o, error in zip(off, errors, strict=True))
    even = ", ".join(f"{e:+.3f}" for e in even_offsets(lines))
    scatter = ", ".join(f"{np.std(o, ddof=1):.3f}" for o in off)
    return f"{lines.theory.step[0]:g} | {len(off[0])} | {measured} | {even} | {scatter}"


def row(name: str, found: dict[str, Tally]) -> str:
    """A network, of which every cell with several numbers has them in the order of PLACEMENTS."""
    tallies = [found[p] for p in PLACEMENTS]
    offsets = [t.offset for t in tallies]
    farther = ["{:+.1f} ± {:.1f}".format(*found[p].farther(found["half-pixel"])) for p in ("effective", "theoretical")]
    hits = " · ".join(f"{np.mean(t.hits):.0%}" for t in tallies)
    energy = " · ".join(f"{np.mean(t.energy):.0%}" for t in tallies)
    cells = [name, len(tallies[0].hits), *offsets, f"{max(t.error for t in tallies):.1f}", *farther, hits, energy]
    return f"| {' | '.join(map(str, cells))} |"


def headed(*titles: str) -> list[str]:
    return [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]


def table(pictures: int) -> list[str]:
    """Markdown, printed as it grows."""
    lines = headed(
        "network", "boxes", *PLACEMENTS, "standard error", "effective farther", "theoretical farther", "pointing game",
        "heat inside",
    )  # fmt: skip
    work: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("digits_cnn, grad-cam", digits, ("digits_cnn.onnx", "grad-cam", pictures))
    ]
    work += [(f"red detector, stride {s}, {p}", discs, (s, p)) for s in STRIDES for p in PADDINGS]
    if CORPUS.exists():
        work += [(f"{name}, layer-cam", detections, (name,)) for name in MODELS]
        work += [(f"{name}, grad-cam", photographs, (name,)) for name in CLASSIFIERS]
    for name, measure, arguments in work:
        start = time.perf_counter()
        found = measure(*arguments)
        measured = bool(found and found["effective"].hits)
        lines += [row(name, found)] if measured else []
        print(lines[-1] if measured else f"{name}: nothing found", f"{time.perf_counter() - start:.0f} s", flush=True)
    return lines


def sharpness_table() -> list[str]:
    """Markdown: hand-made networks, the digits networks, corpus classifiers whose units lie on a line."""
    lines = headed(
        "network", "stride (px)", "units", "measured (strides)", "evenly spaced (strides)", "scatter (strides)"
    )
    work: list[tuple[str, Any]] = [
        (f"red detector, stride {s}, {p}", red_detector(s, p, max(256, 8 * s))) for s in STRIDES for p in PADDINGS
    ]
    work += [(name, ROOT / "models" / f"{name}.onnx") for name in ("digits_cnn", "digits_detector")]
    if CORPUS.exists():
        work += [(name, CORPUS / "models" / f"{name}.onnx") for name in CLASSIFIERS]
    for name, model in work:
        cells = sharpness(model)
        lines += [f"| {name} | {cells} |"] if cells else []
        print(lines[-1], flush=True)
    return lines


INTRODUCTION = f"""\
Written by `python -m benchmarks.placement`. *Offset*, in pixels down and right: how far the heat's centroid is from the
box's middle on average, for each placement (for trained networks, of the heat's largest part above half its maximum).
*Farther*: how much farther from the middle than with half-pixel placement, in pixels, mean and standard error over
the boxes. *Pointing game* and *heat inside*: for {", ".join(PLACEMENTS)} placement.

A hand-made detector sees a red disc at 5 × 5 places, two strides from the border. Boxes of the digits are true ones;
those of detectors are what they detect. Those of the corpus classifiers are {len(PHOTOGRAPHS)} that were drawn by hand
around the main objects of photographs; each photograph counts up to four times, also mirrored and upside down,
as often as a network recognizes the object. A network that looks at heads more than at tails then does not look like
one whose heat is displaced.
"""

SHARPNESS = """\
On hand-made, symmetric weights, evenly spaced (half-pixel) units are half a stride off wherever the padding is
one-sided in effect, and theoretical centers are exact. On trained networks with padding it is mostly the other way
round. The measured centroid of a unit's squared gradients does not settle it by itself. The next table has, for
noise, how far measured and evenly spaced centers are from the theoretical ones, and how much the former scatter from
unit to unit. At `digits_cnn`, measured centers are nearer to the theoretical ones, and yet its heat is least displaced
if the units are evenly spaced. What separates the two kinds of network is how sharp the measurement is.

So `--placement effective`, the default, uses theoretical centers if the measured ones agree with them within 1/16 of a
stride at a standard error of at most 1/32; otherwise units stay centered in the image, with the stride of their
receptive fields. That stride matters where a network has no padding: its units are closer together than evenly spaced
ones, and heat is nearer to its boxes for it (the SqueezeNets, the CIFAR-10 tutorial). No trained network is clearly
worse than with half-pixel placement: the nearest is PicoDet-XS, by 1.8 ± 0.8 px over 15 boxes; among as many networks,
one that is two standard errors away is to be expected. Its coarsest level has 7 units 64 px apart over 416 px, 6.5
strides: with their own stride the outermost ones lie 14 px farther out than evenly spaced ones. One network would
be better with theoretical centers, the flower network, whose heat is about a stride off with either.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=130)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "localization.md")
    given = parser.parse_args()
    before = given.out.read_text().partition(HEADING)[0].rstrip()
    where, sharp = "\n".join(table(given.pictures)), "\n".join(sharpness_table())
    given.out.write_text(f"{before}\n\n{HEADING}\n\n{INTRODUCTION}\n{where}\n\n{SHARPNESS}\n{sharp}\n")


if __name__ == "__main__":
    main()
