"""Makes models/, examples/ and tests/references/ from nothing but Python packages: `python models/make.py`.

It wants `pip install '.[torch]'` and, where no weights are kept in build/ yet, some 20 minutes on two idle CPU cores.
Trained weights stay in build/cnn.pt and build/vit.pt, and a second run starts from them; `--train` trains again.
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
from networks import CNN, ViT
from torch import nn
from training import Pool, pool, preprocess, train_cnn, train_vit

ROOT = Path(__file__).resolve().parents[1]
MODELS, BUILD = ROOT / "models", ROOT / "build"
TRAINING, HELD_OUT, CALIBRATION = 24_000, 2_000, 512  # pictures
BATCH = 64
CNN_STEPS, VIT_STEPS = 4_000, 5_000
CNN_PRESET, VIT_PRESET = "imagenet", "-1-1"
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
    export(network, plain, dynamo=False, opset=17)
    export(network, dynamo, dynamo=True, opset=18)
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
    export(network, path, dynamo=True, opset=18)
    what = "Vision transformer behind three convolutions, class token, sigmoid: which digits are in the picture"
    made = f"{VIT_STEPS} steps of {BATCH} composed pictures, labels of pictures, windows and patches; dynamo exporter"
    return {path.name: cards.card(path, VIT_PRESET, what, made, held_out)}


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
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    again = arguments.train
    source = functools.cache(lambda: pool("train", 1, TRAINING))
    cnn = trained(BUILD / "cnn.pt", again, CNN(), lambda: train_cnn(source(), CNN_STEPS, seed=0, size=BATCH))
    vit = trained(BUILD / "vit.pt", again, ViT(), lambda: train_vit(source(), VIT_STEPS, seed=0, size=BATCH))
    held_out = pool("held-out", 2, HELD_OUT)
    showcase.write(ROOT / "examples")
    cards.write(export_cnn(cnn, held_out) | export_vit(vit, held_out), MODELS)
    print(cards.figures(MODELS))
    write_references(cnn, vit)


if __name__ == "__main__":
    main()
