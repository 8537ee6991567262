"""Activation maximization beside lucid's recipe (Olah et al. 2017), rerun in PyTorch on the weights of the same file.

    python -m benchmarks.dreaming squeezenet.onnx --unit LAYER:CHANNEL --unit … --steps 128 --seeds 5

The file has Conv, Relu, Clip, MaxPool and Concat alone before the layer, as SqueezeNet and MobileNet have. Both start
from their own random coefficients, take as many steps, and end with a picture whose objective, the mean of a channel,
is computed by onnxruntime. Prints a Markdown table: per channel the mean objective of both over seeds, their ratio, the
share of the energy of both spectra at periods below 8 pixels, and seconds of processor time per picture. --pictures
FOLDER writes those of the first seed side by side.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import numpy_helper

from analyzer import features
from analyzer.attribution import Explainer
from analyzer.attribution.cards import read_card
from analyzer.attribution.dream import Dreamer
from analyzer.attribution.parametrizations import COLOURS, DreamOptions
from analyzer.images import grid, write_png

Tensor = torch.Tensor


def network(path: str) -> Any:
    """{tensor: value} of a picture (1, 3, H, W), by torch's operators on the file's weights, up to a tensor."""
    import onnx

    graph = onnx.load(path).graph
    weights = {t.name: torch.tensor(numpy_helper.to_array(t).copy()) for t in graph.initializer}

    def run(given: Tensor, last: str, redirected: bool = False) -> Tensor:
        known = {graph.input[0].name: given}
        for node in graph.node:
            attrs = {a.name: _attribute(a) for a in node.attribute}
            values = [known[n] if n in known else weights[n] for n in node.input if n in known or n in weights]
            known[node.output[0]] = _computed(node.op_type, values, attrs, redirected)
            if node.output[0] == last:
                return known[last]
        raise SystemExit(f"{path} has no tensor {last!r}")

    return run


def _attribute(attribute: Any) -> Any:
    return attribute.i if attribute.type == 2 else list(attribute.ints)


def _computed(op: str, values: Sequence[Tensor], attrs: dict[str, Any], redirected: bool) -> Tensor:
    f = torch.nn.functional
    if op == "Conv":
        top, left, bottom, right = attrs.get("pads", [0, 0, 0, 0])
        padded, bias = f.pad(values[0], [left, right, top, bottom]), values[2] if len(values) > 2 else None
        return f.conv2d(padded, values[1], bias, stride=attrs["strides"], groups=attrs.get("group", 1))
    if op == "MaxPool":
        size, padding, up = attrs["kernel_shape"], attrs.get("pads", [0, 0])[:2], bool(attrs.get("ceil_mode"))
        return f.max_pool2d(values[0], size, attrs["strides"], padding, ceil_mode=up)
    if op == "Relu":
        return Rectified.apply(values[0], float("inf"), redirected)
    if op == "Clip":
        assert float(values[1]) == 0
        return Rectified.apply(values[0], float(values[2]), redirected)
    if op == "Concat":
        return torch.cat(list(values), attrs["axis"])
    if op == "Dropout":
        return values[0]
    raise SystemExit(f"{op} is not among the operators of this benchmark")


class Rectified(torch.autograd.Function):
    """Clip to 0 … limit. Where it blocks a whole gradient, what would open it passes, as lucid's redirected ReLU."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, limit: float, redirected: bool) -> Tensor:
        ctx.save_for_backward(given)
        ctx.limit, ctx.redirected = limit, redirected
        return given.clamp(0, limit)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (given,) = ctx.saved_tensors
        below, above = given < 0, given > ctx.limit
        plain = gradient.masked_fill(below | above, 0)
        if not ctx.redirected or plain.any():
            return plain, None, None
        # of what is descended: a negative gradient pushes up
        return gradient.masked_fill((below & (gradient > 0)) | (above & (gradient < 0)), 0), None, None


def lucid(run: Any, layer: str, channel: int, size: tuple[int, int], how: Any, steps: int, seed: int) -> np.ndarray:
    """(H, W, 3) in 0 … 1: `param.image(fft=True, decorrelate=True)`, `transform.standard_transforms`, Adam at 0.05."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    height, width = size
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    scale = torch.tensor(np.sqrt(width * height) / np.maximum(frequencies, 1 / max(width, height)), dtype=torch.float32)
    state = (0.01 * torch.randn(3, *scale.shape, 2)).requires_grad_()
    colors = torch.tensor(COLOURS / np.linalg.norm(COLOURS, axis=0).max())
    mean, std = (torch.tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in (how.mean, how.std))
    adam = torch.optim.Adam([state], lr=0.05)

    def picture() -> Tensor:
        planes = torch.fft.irfft2(torch.view_as_complex(state) * scale, s=(height, width)) / 4
        return torch.sigmoid(torch.einsum("chw,dc->dhw", planes, colors))

    for step in range(steps):
        adam.zero_grad()
        shown = transformed(picture(), rng)[None]
        (-run((shown * 255 * how.scale - mean) / std, layer, step <= 16)[0, channel].mean()).backward()
        adam.step()
    return picture().detach().numpy().transpose(1, 2, 0)


def transformed(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Padded by 12 pixels of gray, moved by up to 8, scaled by 0.9 … 1.1, turned by up to 10 degrees, moved by up to 4;
    the middle, as large as the picture."""
    height, width = picture.shape[1:]
    padded = torch.nn.functional.pad(picture[None], [12] * 4, value=0.5)
    factor = 1 + (rng.integers(11) - 5) / 50
    turn = np.radians(rng.choice([*range(-10, 11), *[0] * 5]))
    moved = rng.integers(-8, 9, 2) + rng.integers(-4, 5, 2)
    cos, sin = np.cos(turn) / factor, np.sin(turn) / factor
    h, w = height / padded.shape[2], width / padded.shape[3]
    shift = 2 * moved / padded.shape[2]
    matrix = torch.tensor([[[cos * w, -sin * h, shift[0]], [sin * w, cos * h, shift[1]]]], dtype=torch.float32)
    grid = torch.nn.functional.affine_grid(matrix, [1, 3, height, width], align_corners=False)
    return torch.nn.functional.grid_sample(padded, grid, padding_mode="border", align_corners=False)[0]


def fine(picture: np.ndarray) -> float:
    """The share of the energy, but for the mean color, of periods below 8 pixels."""
    height, width = picture.shape[:2]
    energy = np.abs(np.fft.fft2(picture.astype(np.float64) - picture.mean(axis=(0, 1)), axes=(0, 1))) ** 2
    high = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]) > 1 / 8
    return float(energy[high].sum() / energy.sum())


def check(run: Any, explainer: Explainer, layer: str, shape: tuple[int, ...]) -> None:
    """Raise AssertionError unless torch and onnxruntime compute the same layer."""
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = run(torch.tensor(noise), layer).detach().numpy()
    np.testing.assert_allclose(found, features(explainer, noise, layer)[layer], rtol=1e-3, atol=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--unit", action="append", default=[], metavar="LAYER:CHANNEL")
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--preset", help="pixel normalization, as the command takes it")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    torch.set_num_threads(1)
    run, explainer = network(given.model), Explainer(given.model, threads=1)
    card = read_card(explainer, None, {"preset": given.preset}, ())
    print("| layer | channel | here | lucid in torch | ratio | fine here | fine lucid | s here | s torch |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for unit in given.unit:
        layer, _, number = unit.rpartition(":")
        dreamer, channel = Dreamer(explainer, layer, card.preprocess), int(number)
        check(run, explainer, layer, dreamer.shape)
        found = [
            compared(run, dreamer, layer, channel, card.preprocess, given.steps, seed) for seed in range(given.seeds)
        ]
        a, b, *rest = np.mean([row for row, _ in found], axis=0)
        ratio = f"{a / b:.2f}" if b else "–"
        cells = [
            layer,
            number,
            f"{a:.4g}",
            f"{b:.4g}",
            ratio,
            *(f"{v:.2f}" for v in rest[:2]),
            *(f"{v:.1f}" for v in rest[2:]),
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
        if given.pictures:
            titles = [f"{name}, channel {number} of {layer}" for name in ("here", "lucid")]
            write_png(given.pictures / f"{len(list(given.pictures.iterdir())):02d}.png", grid(found[0][1], titles))


def compared(
    run: Any, dreamer: Dreamer, layer: str, channel: int, how: Any, steps: int, seed: int
) -> tuple[list[float], list[np.ndarray]]:
    """Objectives, shares of fine energy and seconds of both, and their pictures."""
    start = time.process_time()
    ours = dreamer.run(channel, options=DreamOptions(steps, seed=seed))
    middle = time.process_time()
    picture = lucid(run, layer, channel, dreamer.size, how, steps, seed).astype(np.float32)
    end = time.process_time()
    theirs = dreamer.score(channel, picture)
    images = [ours.image, np.rint(255 * picture).astype(np.uint8)]
    return [ours.score, theirs, *map(fine, images), middle - start, end - middle], images


if __name__ == "__main__":
    main()
