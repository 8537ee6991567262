"""Networks of the corpus and of `models/`, their cards, and pictures that mean something to them.

Photographs are the corpus'; handwritten digits and composed pictures are made from scikit-learn's and scikit-image's
packages. The pictures on which an INT8 build is calibrated are others than those it is compared on.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
PHOTOS = CORPUS / "images"
LARGEST = 400  # pixels on the long side of a photograph: decoding and resizing is not what is measured


@dataclass(frozen=True)
class Network:
    """A float network.

    Attributes:
        file: below the corpus' `models/` or `cases/`, or below `models/`.
        pictures: a name of `PICTURES`.
        card: the keys of its card; a shipped model has its own.
        classes: whether its first output is one vector of class scores.
        logits: whether its first output are logits of classes, or logarithms of probabilities: a constant added to all,
            or a Sigmoid of them, says the same.
        every: of larger networks every so-manieth case is run.
    """

    file: str
    pictures: str
    card: dict[str, Any]
    classes: bool = True
    logits: bool = False
    every: int = 1

    @property
    def path(self) -> Path:
        places = (ROOT / "models", CORPUS / "models", CORPUS / "cases")
        return next((p / self.file for p in places if (p / self.file).exists()), places[0] / self.file)


def _card(preset: str, layout: str, height: int, width: int, **more: Any) -> dict[str, Any]:
    return {"preset": preset, "layout": layout, "size": [height, width], "resize": "resize"} | more


_GRAY = {"channels": "GRAY"}
_MNIST = _card("raw", "NCHW", 28, 28, channels="GRAY", scale=1 / 255, mean=[0.1307], std=[0.3081])
_YOLOX = _card("raw", "NCHW", 416, 416, channels="BGR", resize="letterbox-corner")

NETWORKS: dict[str, Network] = {
    "mnist-cntk": Network("mnist_cntk_8.onnx", "digits", _card("raw", "NCHW", 28, 28, **_GRAY), logits=True),
    "mnist-burn": Network("mnist_pytorch_burn.onnx", "digits", _MNIST, logits=True),
    "mnist-ort": Network("ort_cnn_mnist_pytorch.onnx", "digits", _MNIST, logits=True),
    "cifar-winml": Network("cifar10_pytorch_winml_tutorial.onnx", "animals", _card("-1-1", "NCHW", 32, 32),
                           logits=True),
    "resnet8": Network("resnet8_cifar_float.onnx", "animals", _card("raw", "NHWC", 32, 32)),
    "resnet20": Network("resnet20_cifar10_torchscript_op15_preservebn.onnx", "animals",
                        _card("imagenet", "NCHW", 32, 32), logits=True),
    "fer": Network("fer_mini_xception_keras_op15.onnx", "heads", _card("-1-1", "NHWC", 64, 64, **_GRAY)),
    "vww": Network("vww_96_keras_op18.onnx", "people", _card("0-1", "NHWC", 96, 96)),
    "mobilenet1": Network("mobilenet_v1_0.25_128_float.onnx", "animals", _card("-1-1", "NHWC", 128, 128)),
    "stm32": Network("stm32_mobilenet_v2_035_128_tfs_chfirst.onnx", "flowers", _card("-1-1", "NCHW", 128, 128)),
    "squeezenet": Network("squeezenet1.1_torchscript_op17_dynHW.onnx", "animals",
                          _card("imagenet", "NCHW", 224, 224), every=6, logits=True),
    "digits-cnn": Network("digits_cnn.onnx", "composed", _card("imagenet", "NCHW", 96, 96), classes=False),
    "digits-vit": Network("digits_vit.onnx", "composed", _card("-1-1", "NCHW", 96, 96), classes=False, every=2),
    "digits-detector": Network("digits_detector.onnx", "composed", {}, classes=False),
    "ultraface": Network("ultraface_rfb320.onnx", "people",
                         _card("raw", "NCHW", 240, 320, mean=[127.0], std=[128.0]), classes=False, every=3),
    "pnet": Network("real/mtcnn_pnet.onnx", "people", _card("raw", "NHWC", 64, 64, mean=[127.5], std=[128.0]),
                    classes=False),
    "yunet": Network("yunet_120x160.onnx", "people", _card("raw", "NCHW", 120, 160, channels="BGR"),
            classes=False, every=2),
    "blazeface": Network("blazeface_front_barracuda.onnx", "people", _card("-1-1", "NHWC", 128, 128),
            classes=False, every=2),
    "fastestdet": Network("fastestdet.onnx", "people", _card("0-1", "NCHW", 352, 352, channels="BGR"),
            classes=False, every=8),
    "yolox": Network("yolox_nano_opencvzoo.onnx", "people", _YOLOX, classes=False, every=16),
    "digits-segmenter": Network("digits_segmenter.onnx", "composed", {}, classes=False, logits=True),
    "c14-segmenter": Network("situations/c14c_softmax_seg.onnx", "discs", _card("0-1", "NCHW", 96, 96), classes=False),
    "deeplab": Network("deeplab_v3_mnv2_tf2onnx.onnx", "people", _card("-1-1", "NHWC", 257, 257),
            classes=False, every=8, logits=True),
    "digits-keypoints": Network("digits_keypoints.onnx", "composed", {}, classes=False),
    "digits-reader": Network("digits_reader.onnx", "lines", {}, classes=False),
    "facemesh": Network("facemesh_opt.onnx", "heads", _card("0-1", "NHWC", 192, 192), classes=False, every=3),
    "person-reid": Network("person_reid_0248.onnx", "people", _card("raw", "NHWC", 256, 128, channels="BGR"),
                           classes=False, every=8),
    "c06-age": Network("situations/c06_age.onnx", "discs", {}, classes=False),
    "c04-detector": Network("situations/c04d_det.onnx", "discs", {}, classes=False),
}  # fmt: skip


# ---- Pictures: the first COMPARED are compared on, the others are for calibration ----

COMPARED = 4


def pictures(kind: str) -> list[np.ndarray]:
    """RGB uint8, (H, W, 3) each."""
    return PICTURES[kind]()


def photo(name: str, part: tuple[float, float, float, float] = (0, 0, 1, 1)) -> np.ndarray:
    """A photograph, or a part of it (x0, y0, x1, y1 from 0 to 1), small."""
    pixels = cv2.imread(str(PHOTOS / name))[..., ::-1]
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = part
    pixels = pixels[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]
    factor = min(1, LARGEST / max(pixels.shape[:2]))
    size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
    return np.ascontiguousarray(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA))


def varied(taken: list[np.ndarray], count: int = 12) -> list[np.ndarray]:
    """Mirrored, brighter and darker versions."""
    found = []
    for index in range(count):
        pixels = taken[index % len(taken)].astype(np.float32)
        pixels = pixels[:, ::-1] if index % 2 else pixels
        cut = 0.03 * (index % 4)
        height, width = pixels.shape[:2]
        pixels = pixels[round(cut * height) : round((1 - cut) * height), round(cut * width) : round((1 - cut) * width)]
        found.append(np.clip(pixels * (1, 0.85, 1.15)[index % 3], 0, 255).astype(np.uint8))
    return found


@functools.cache
def animals() -> list[np.ndarray]:
    shown = [photo(n) for n in ("coral_parrot.jpg", "coral_bird.bmp", "ort_dog.jpeg", "ort_kitten_224.png")]
    others = ("coral_cat_720p.jpg", "coral_owl.jpg", "coral_dragonfly.bmp", "ort_fish_720.png", "orie_goldfish.jpg",
              "coral_hot_dog.jpg", "coral_bird_segmentation.bmp", "coral_sunflower.bmp")  # fmt: skip
    return shown + varied([photo(n) for n in others] + shown, 16)


@functools.cache
def flowers() -> list[np.ndarray]:
    flower = "coral_sunflower.bmp"
    shown = [
        photo(flower),
        photo(flower, (0.1, 0, 0.8, 1)),
        photo(flower, (0.25, 0.1, 1, 0.9)),
        photo("coral_bird.bmp"),
    ]
    return shown + varied([*shown, photo("coral_dragonfly.bmp"), photo("coral_parrot.jpg")], 12)


@functools.cache
def people() -> list[np.ndarray]:
    hopper, group = "coral_grace_hopper.bmp", "zoo_ultraface_1.jpg"
    shown = [photo(hopper), photo(group), photo(group, (0, 0, 0.55, 1)), photo("ort_dog.jpeg")]
    more = [photo(group, (0.4, 0.1, 1, 1)), photo(hopper, (0.1, 0, 0.9, 0.8)), photo("coral_cat_720p.jpg")]
    return shown + varied([*more, *shown], 12)


@functools.cache
def heads() -> list[np.ndarray]:
    hopper = "coral_grace_hopper.bmp"
    parts = ((0.25, 0.05, 0.75, 0.5), (0.2, 0.0, 0.8, 0.55), (0.28, 0.1, 0.72, 0.48), (0.22, 0.06, 0.72, 0.52))
    shown = [photo(hopper, p) for p in parts]
    return shown + varied([photo(hopper, (0.15, 0, 0.85, 0.6)), *shown], 12)


@functools.cache
def digits() -> list[np.ndarray]:
    """White on black, 28 × 28, from scikit-learn's 8 × 8 ones."""
    from sklearn.datasets import load_digits

    given = load_digits()
    order = [int(np.flatnonzero(given.target == d)[k]) for k in range(3) for d in (3, 0, 4, 7, 2, 5, 8, 1, 6, 9)]
    found = []
    for index in order[:20]:
        small = np.clip(given.images[index] / 16 * 255, 0, 255).astype(np.uint8)
        field = np.pad(cv2.resize(small, (20, 20), interpolation=cv2.INTER_CUBIC), 4)
        found.append(np.repeat(field[..., None], 3, axis=2))
    return found


@functools.cache
def composed() -> list[np.ndarray]:
    return [p.pixels for p in _composer().Composer("held-out", 5).batch(20)]


@functools.cache
def lines() -> list[np.ndarray]:
    composer = _composer().line_composer("held-out", 5)
    return [composer.line().pixels for _ in range(20)]


def _composer() -> Any:
    sys.path.insert(0, str(ROOT / "models"))
    import pictures as composing

    return composing


@functools.cache
def discs() -> list[np.ndarray]:
    """A red and a green disc on noise."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(16):
        pixels = rng.integers(60, 120, (96, 96, 3)).astype(np.uint8)
        for color in ((230, 30, 30), (30, 220, 40)):
            x, y = (int(v) for v in rng.integers(18, 78, 2))
            cv2.circle(pixels, (x, y), int(rng.integers(8, 16)), color, -1)
        found.append(pixels)
    return found


PICTURES = {f.__name__: f for f in (animals, flowers, people, heads, digits, composed, lines, discs)}
