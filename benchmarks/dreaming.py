"""Activation maximization beside lucid's recipe (Olah et al. 2017), rerun in PyTorch on the weights of the same file.

    python -m benchmarks.dreaming squeezenet.onnx --unit LAYER:CHANNEL --unit … --steps 128 --seeds 5

The file has Conv, Relu, MaxPool, Concat and pools alone before its last feature map, as SqueezeNet has. Both start from
their own random coefficients, take as many steps, and end with a picture whose objective, the mean of a channel, is
computed by onnxruntime. The rerun does not redirect gradients at ReLUs that block, as lucid does: a channel that no
gradient reaches stays gray there. Prints a Markdown table: per channel the mean objective of both over seeds, their
ratio, and seconds of processor time per picture.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import numpy_helper

from analyzer import features
from analyzer.attribution import Explainer
from analyzer.attribution.cards import read_card
from analyzer.attribution.dream import COLOURS, Dreamer, DreamOptions
from analyzer.attribution.units import WHOLE

Tensor = torch.Tensor


def network(path: str) -> Any:
    """{tensor: value} of a picture (1, 3, H, W), by torch's operators on the file's weights, up to a tensor."""
    import onnx

    graph = onnx.load(path).graph
    weights = {t.name: torch.tensor(numpy_helper.to_array(t).copy()) for t in graph.initializer}

    def run(given: Tensor, last: str) -> Tensor:
        known = {graph.input[0].name: given}
        for node in graph.node:
            attrs = {a.name: _attribute(a) for a in node.attribute}
            values = [known[n] if n in known else weights[n] for n in node.input if n in known or n in weights]
            known[node.output[0]] = _computed(node.op_type, values, attrs)
            if node.output[0] == last:
                return known[last]
        raise SystemExit(f"{path} has no tensor {last!r}")

    return run


def _attribute(attribute: Any) -> Any:
    return attribute.i if attribute.type == 2 else list(attribute.ints)


def _computed(op: str, values: Sequence[Tensor], attrs: dict[str, Any]) -> Tensor:
    f = torch.nn.functional
    if op == "Conv":
        return f.conv2d(*values, stride=attrs["strides"], padding=attrs["pads"][:2], groups=attrs.get("group", 1))
    if op == "MaxPool":
        size, padding, up = attrs["kernel_shape"], attrs.get("pads", [0, 0])[:2], bool(attrs.get("ceil_mode"))
        return f.max_pool2d(values[0], size, attrs["strides"], padding, ceil_mode=up)
    if op == "Relu":
        return torch.relu(values[0])
    if op == "Concat":
        return torch.cat(list(values), attrs["axis"])
    if op == "Dropout":
        return values[0]
    raise SystemExit(f"{op} is not among the operators of this benchmark")


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

    for _ in range(steps):
        adam.zero_grad()
        shown = transformed(picture(), rng)[None]
        (-run((shown * 255 * how.scale - mean) / std, layer)[0, channel].mean()).backward()
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
    given = parser.parse_args()
    torch.set_num_threads(1)
    run, explainer = network(given.model), Explainer(given.model, threads=1)
    card = read_card(explainer, None, {}, ())
    print("| layer | channel | here | lucid in torch | ratio | s here | s torch |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for unit in given.unit:
        layer, _, number = unit.rpartition(":")
        dreamer, channel = Dreamer(explainer, layer, card.preprocess), int(number)
        check(run, explainer, layer, dreamer.shape)
        weights, size = dreamer._weights(channel, WHOLE), dreamer.size
        ours, theirs, spent = list[float](), list[float](), [0.0, 0.0]
        for seed in range(given.seeds):
            start = time.process_time()
            ours.append(dreamer.run(channel, options=DreamOptions(given.steps, seed=seed)).score)
            middle = time.process_time()
            found = lucid(run, layer, channel, size, card.preprocess, given.steps, seed)
            spent = [spent[0] + middle - start, spent[1] + time.process_time() - middle]
            theirs.append(dreamer._climb(found.astype(np.float32), weights)[0])
        a, b = float(np.mean(ours)), float(np.mean(theirs))
        seconds = [s / given.seeds for s in spent]
        cells = [layer, channel, f"{a:.4g}", f"{b:.4g}", f"{a / b:.2f}" if b else "–", *(f"{s:.1f}" for s in seconds)]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
