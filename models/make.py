"""Makes models/, examples/ and tests/references/ from nothing but Python packages: `python models/make.py`.

It wants `pip install '.[torch]'` and, where no weights are kept in build/ yet, some 25 minutes on two idle CPU cores.
Trained weights stay in build/, and a second run starts from them; `--train` trains again, `--only reader` makes only
the files of one network.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path

import cards
import onnx
import references
import showcase
import torch
from export import export, save, to_float16, to_int8
from networks import CNN, LINE, SIDE, Detector, Keypoints, Reader, Segmenter, ViT, WithSigmoid, WithSoftmax
from torch import nn
from training import (
    Pool,
    box_pool,
    line_pool,
    mask_pool,
    measure_boxes,
    measure_keypoints,
    measure_lines,
    measure_masks,
    pool,
    preprocess,
    train_cnn,
    train_detector,
    train_keypoints,
    train_reader,
    train_segmenter,
    train_vit,
)

ROOT = Path(__file__).resolve().parents[1]
MODELS, BUILD = ROOT / "models", ROOT / "build"
TRAINING, HELD_OUT, CALIBRATION = 24_000, 2_000, 512  # pictures
SMALL_TRAINING, SMALL_HELD_OUT = 4_000, 1_000  # pictures of the segmenter, and lines of the reader
BATCH, SMALL_BATCH = 64, 32
CNN_STEPS, VIT_STEPS, SEGMENTER_STEPS, READER_STEPS = 4_000, 5_000, 900, 1_000
DETECTOR_STEPS, KEYPOINTS_STEPS = 2_800, 2_000
CNN_PRESET, VIT_PRESET, SEGMENTER_PRESET, READER_PRESET, DETECTOR_PRESET = "imagenet", "-1-1", "imagenet", "-1-1", "0-1"
NETWORKS = ("cnn", "vit", "segmenter", "reader", "detector", "keypoints")
REFERENCE = ROOT / "examples" / "digits_rocket.png"


def trained(file: Path, again: bool, network: nn.Module, train: Callable[[], nn.Module]) -> nn.Module:
    """The network with the weights in `file`; they are trained and put there if `again`, or where there is none."""
    if again or not file.exists():
        start = time.monotonic()
        made = train()
        file.parent.mkdir(exist_ok=True)
        torch.save(made.state_dict(), file)
        print(f"{file.name}: trained in {(time.monotonic() - start) / 60:.0f} min", flush=True)
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval()


def export_cnn(network: CNN, held_out: Pool) -> dict[str, dict]:
    """Writes the four files of the CNN; their cards by file name."""
    calibration = pool("train", 3, CALIBRATION).pixels
    plain, dynamo, half, int8 = (MODELS / f"digits_cnn{kind}.onnx" for kind in ("", "_dynamo", "_fp16", "_int8"))
    export(WithSigmoid(network), plain, dynamo=False, opset=17)
    export(WithSigmoid(network), dynamo, dynamo=True, opset=18)
    save(to_float16(onnx.load(plain)), half)
    to_int8(plain, int8, preprocess(calibration, CNN_PRESET).numpy())
    what = "Residual CNN, global average pooling, linear layer, sigmoid: which digits are in the picture"
    made = f"{CNN_STEPS} steps of {BATCH} composed pictures, labels of pictures and of windows in them"
    return {
        path.name: cards.card(path, CNN_PRESET, what, f"{made}; {how}", held_out)
        for path, how in (
            (plain, "TorchScript exporter"),
            (dynamo, "dynamo exporter"),
            (half, f"{plain.name} with float16 weights and arithmetic"),
            (int8, f"{plain.name}, onnxruntime static QDQ, int8 weights per channel, uint8 activations"),
        )
    }


def export_vit(network: ViT, held_out: Pool) -> dict[str, dict]:
    """Writes the file of the vision transformer; its card by file name."""
    path = MODELS / "digits_vit.onnx"
    export(WithSigmoid(network), path, dynamo=True, opset=18)
    what = "Vision transformer behind three convolutions, class token, sigmoid: which digits are in the picture"
    made = f"{VIT_STEPS} steps of {BATCH} composed pictures, labels of pictures, windows and patches; dynamo exporter"
    return {path.name: cards.card(path, VIT_PRESET, what, made, held_out)}


def export_segmenter(network: Segmenter) -> dict[str, dict]:
    """Writes the file of the segmenter; its card by file name."""
    path = MODELS / "digits_segmenter.onnx"
    export(network, path, dynamo=False, opset=17, output="logits")
    pixels, masks = mask_pool("held-out", 6, SMALL_HELD_OUT)
    card = cards.table(
        path,
        "segmentation",
        ("background", *cards.LABELS),
        "Encoder to stride 8, decoder to stride 2, enlarged to the input's size: which digit every pixel belongs to",
        f"{SEGMENTER_STEPS} steps of {SMALL_BATCH} composed pictures, masks of their digits; TorchScript exporter",
        {"preset": SEGMENTER_PRESET, "layout": "NCHW", "size": [SIDE, SIDE], "resize": "resize"},
        measure_masks(cards.predict(path, pixels, SEGMENTER_PRESET).argmax(1), masks),
        {},
    )
    return {path.name: card}


def export_reader(network: Reader) -> dict[str, dict]:
    """Writes the file of the reader of lines; its card by file name."""
    path = MODELS / "digits_reader.onnx"
    export(WithSoftmax(network), path, dynamo=True, opset=18, shape=(1, *LINE))
    lines, texts = line_pool("held-out", 7, SMALL_HELD_OUT)
    card = cards.table(
        path,
        "text recognition",
        ("blank", *"0123456789"),
        "Convolutions to one row of 32 steps, softmax over a blank and ten digits: a line of digits, by CTC",
        f"{READER_STEPS} steps of {SMALL_BATCH} composed lines of four to six digits, CTC loss; dynamo exporter",
        {"preset": READER_PRESET, "layout": "NCHW", "channels": "GRAY", "size": list(LINE), "resize": "resize"},
        measure_lines(cards.predict(path, lines, READER_PRESET), texts),
        {"decode": "ctc-blank-first"},
    )
    return {path.name: card}


def export_detector(network: Detector) -> dict[str, dict]:
    """Writes the two files of the detector; their cards by file name."""
    plain, int8 = MODELS / "digits_detector.onnx", MODELS / "digits_detector_int8.onnx"
    export(network, plain, dynamo=False, opset=17, output="output0")
    calibration = box_pool("train", 9, CALIBRATION).pixels
    to_int8(plain, int8, preprocess(calibration, DETECTOR_PRESET).numpy(), kinds=["Conv", "Add", "Relu", "Resize"])
    held_out = box_pool("held-out", 10, SMALL_HELD_OUT)
    what = "Two strides with a head each, decoded as YOLOv8 does: where the digits are"
    made = f"{DETECTOR_STEPS} steps of {SMALL_BATCH} composed pictures, boxes of their digits; TorchScript exporter"
    return {
        path.name: cards.table(
            path,
            "detection",
            cards.LABELS,
            what,
            made + how,
            {"preset": DETECTOR_PRESET, "layout": "NCHW", "size": [SIDE, SIDE], "resize": "resize"},
            measure_boxes(cards.predict(path, held_out.pixels, DETECTOR_PRESET), held_out),
            {},
        )
        for path, how in ((plain, ""), (int8, f"; {plain.name}, onnxruntime static QDQ"))
    }


def export_keypoints(network: Keypoints) -> dict[str, dict]:
    """Writes the file of the network of keypoints; its card by file name."""
    path = MODELS / "digits_keypoints.onnx"
    export(WithSigmoid(network), path, dynamo=False, opset=17, output="heatmaps")
    held_out = box_pool("held-out", 12, SMALL_HELD_OUT)
    card = cards.table(
        path,
        "keypoints",
        cards.LABELS,
        "Encoder to stride 8, decoder to stride 4, a heat map for each digit: where the middle of each one is",
        f"{KEYPOINTS_STEPS} steps of {SMALL_BATCH} composed pictures, middles of their digits; TorchScript exporter",
        {"preset": DETECTOR_PRESET, "layout": "NCHW", "size": [SIDE, SIDE], "resize": "resize"},
        measure_keypoints(cards.predict(path, held_out.pixels, DETECTOR_PRESET), held_out),
        {},
    )
    return {path.name: card}


def write_references(cnn: CNN, vit: ViT) -> None:
    """tests/references/digits_cnn.npz and digits_vit.npz, for the first digit of an example picture."""
    pixels, target = references.small(REFERENCE), showcase.labels(REFERENCE)[0]
    for network, compute, preset, name in (
        (cnn, references.cnn_references, CNN_PRESET, "digits_cnn"),
        (vit, references.vit_references, VIT_PRESET, "digits_vit"),
    ):
        found = compute(network.double(), references.double(pixels, preset), target)
        references.write(found, pixels, target, ROOT / "tests" / "references" / f"{name}.npz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="train again where weights are kept")
    parser.add_argument("--only", choices=NETWORKS, action="append", help="make the files of this network; repeatable")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    again, only = arguments.train, arguments.only or NETWORKS
    source = functools.cache(lambda: pool("train", 1, TRAINING))
    held_out = functools.cache(lambda: pool("held-out", 2, HELD_OUT))
    made: dict[str, dict] = {}
    if "cnn" in only:
        cnn = trained(BUILD / "cnn.pt", again, CNN(), lambda: train_cnn(source(), CNN_STEPS, seed=0, size=BATCH))
        made |= export_cnn(cnn, held_out())
    if "vit" in only:
        vit = trained(BUILD / "vit.pt", again, ViT(), lambda: train_vit(source(), VIT_STEPS, seed=0, size=BATCH))
        made |= export_vit(vit, held_out())
    if "segmenter" in only:
        made |= export_segmenter(trained(BUILD / "segmenter.pt", again, Segmenter(), new_segmenter))
    if "reader" in only:
        made |= export_reader(trained(BUILD / "reader.pt", again, Reader(), new_reader))
    if "keypoints" in only:
        made |= export_keypoints(trained(BUILD / "keypoints.pt", again, Keypoints(), new_keypoints))
    if "detector" in only:
        made |= export_detector(trained(BUILD / "detector.pt", again, Detector(), new_detector))
    showcase.write(ROOT / "examples")
    cards.write(made, MODELS)
    print(cards.figures(MODELS))
    if "cnn" in only and "vit" in only:
        write_references(cnn, vit)


def new_segmenter() -> Segmenter:
    pixels, masks = mask_pool("train", 4, SMALL_TRAINING)
    return train_segmenter(pixels, masks, SEGMENTER_STEPS, seed=0, preset=SEGMENTER_PRESET, size=SMALL_BATCH)


def new_reader() -> Reader:
    lines, texts = line_pool("train", 5, SMALL_TRAINING)
    return train_reader(lines, texts, READER_STEPS, seed=0, preset=READER_PRESET, size=SMALL_BATCH)


def new_detector() -> Detector:
    source = box_pool("train", 8, 2 * SMALL_TRAINING)
    return train_detector(source, DETECTOR_STEPS, seed=0, preset=DETECTOR_PRESET, size=SMALL_BATCH)


def new_keypoints() -> Keypoints:
    source = box_pool("train", 11, 2 * SMALL_TRAINING)
    return train_keypoints(source, KEYPOINTS_STEPS, seed=0, preset=DETECTOR_PRESET, size=SMALL_BATCH)


if __name__ == "__main__":
    main()
