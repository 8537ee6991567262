"""Effective receptive fields: the claims of Luo et al. 2016 on random networks, and trained against shuffled weights.

    python -m benchmarks.effective_field [--pictures 8] [--positions 6] [--out docs/effective-field.md]

The networks and photographs of the second part are those of tests/corpus.py, which are not shipped; without them only
the first part is written.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from analyzer.analysis.effective_field import EffectiveField
from analyzer.attribution import Explainer
from analyzer.attribution.effective_field import effective_field
from analyzer.images import decode, model_card
from tests.corpus import CORPUS

ROOT = Path(__file__).resolve().parents[1]
DEPTHS = (5, 10, 20, 40)
NETWORKS = (
    "squeezenet1.1_torchscript_op7.onnx",
    "mobilenet_v1_0.25_128_float.onnx",
    "stm32_mobilenet_v2_035_128_tfs_chfirst.onnx",
    "mobilenet_v2_1.0_224_quant.onnx",
)
PHOTOGRAPHS = (
    "coral_cat_720p.jpg", "coral_parrot.jpg", "coral_sunflower.bmp", "coral_hot_dog.jpg", "coral_owl.jpg",
    "coral_bird.bmp", "coral_dragonfly.bmp", "ort_fish_720.png", "ort_kitten_224.png", "orie_goldfish.jpg",
)  # fmt: skip
REPEATS = 3
PAGE = """# Effective receptive fields

Written by `python -m benchmarks.effective_field`. A unit can see every pixel of its theoretical receptive field, but
most of them hardly matter to it (Luo, Li, Urtasun, Zemel: *Understanding the Effective Receptive Field in Deep
Convolutional Neural Networks*, 2016, [1701.04128](https://arxiv.org/abs/1701.04128)).
`onnx-analyzer receptive-field MODEL --effective --data photos/` and `analyzer.effective_field` measure how much:

- **map**: the mean of (∂A/∂x)² over the channels of a unit, positions of the layer and pictures, each unit's map laid
  on its theoretical field. One gradient per unit is enough: with random signs s of the channels, E (sᵀJ)² = Σ J².
  `--measure absolute` averages |∂A/∂x| of one channel at a time instead; it weighs weak, distant pixels more.
- **theoretical**: side of the theoretical field, the window of the map. Along an axis that is seen as a whole it is the
  picture.
- **4σ**: the effective size. σ is the standard deviation of the map along an axis, that of the Gaussian that fits best
  (maximum likelihood); ±2σ holds 95.45 % of a Gaussian.
- **ratio**: 4σ / theoretical. A field that is uniform in its window has 115 %.
- **inside ½**: share of the map in the middle of the window, of half its width and height.
- **cut**: share of the units whose window reaches outside the picture. Pixels outside do not count, so where all units
  are cut, 4σ is limited by the picture and not by the network. Units that see all of their window are preferred.

A single picture with a few positions gives a speckled map, of which R² of the Gaussian (`gaussian` in the JSON output)
is low; σ and shares settle sooner than the map does.

## Random networks

Convolutions of 3×3 with independent normal weights, 16 channels, no biases; {seeds} networks, each with four pictures
of noise and 8 positions. In theory the variance of the map is n(k² − 1)/12 along each axis, so σ = √(2n/3) grows as √n,
and 4σ / (2n + 1) falls as 1/√n: at these depths, 2n + 1 makes the exponent −0.46.

{random}

With kernels of ones instead, the map is a binomial distribution to seven digits; `tests/test_effective_field.py`
checks that, strides, dilations and pools, and single units against PyTorch's autograd.

## Trained against shuffled weights

*Shuffled*: the weights of each filter are put in random order, the same values and biases without what training
arranged. *In place*: they change only among the input channels and keep their place in the kernel, so that kernels
stay as concentrated as they were; depthwise filters stay as trained. {pictures} photographs, {positions} positions per
layer and picture; means (and range) over {repeats} draws of the positions of the trained network, and over {repeats}
networks of either kind.

Luo et al. saw fields grow while residual networks were trained on CIFAR-10 and CamVid, from their own random weights.
Against shuffled weights, most trained fields here are smaller instead. Part of it is that training concentrates
kernels at their middle (an even 3×3 kernel has 11 % of its squared weights there), most of all in MobileNetV1; the
comparison in place shows how much remains.

{trained}
"""


# ---- Random networks ----


def plain_cnn(depth: int, size: int, channels: int, activation: str, seed: int) -> onnx.ModelProto:
    """3×3 convolutions of independent normal weights that keep the variance, padded by 1, without biases."""
    rng = np.random.default_rng(seed)
    nodes, weights, at = [], [], "x"
    for i in range(depth):
        shape = (channels, 3 if i == 0 else channels, 3, 3)
        scale = np.sqrt((2 if activation == "Relu" else 1) / np.prod(shape[1:]))
        weights.append(numpy_helper.from_array((scale * rng.standard_normal(shape)).astype(np.float32), f"w{i}"))
        out = f"c{i}" if activation or i < depth - 1 else "y"
        nodes.append(helper.make_node("Conv", [at, f"w{i}"], [out], pads=[1] * 4))
        at = out
        if activation:
            at = f"a{i}" if i < depth - 1 else "y"
            nodes.append(helper.make_node(activation, [out], [at]))
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, size, size])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "plain", [image], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def random_networks(seeds: int = 5) -> str:
    """A table by activation and depth, and the exponents that fit it."""
    lines = ["| activation | depth n | theoretical | σ | √(2n/3) | 4σ / theoretical | · √n | R² |", "|" + " --- |" * 8]
    exponents = []
    for activation in ("", "Relu", "Tanh"):
        sigmas, ratios = [], []
        for depth in DEPTHS:
            found = []
            for seed in range(seeds):
                network = plain_cnn(depth, 2 * max(DEPTHS) + 19, 16, activation, seed)
                pixels = np.random.default_rng(seed).standard_normal((4, 3, *(2 * max(DEPTHS) + 19,) * 2))
                found.append(effective_field(network, pixels.astype(np.float32), "y", positions=8, seed=seed)["y"])
            sigma, ratio = (float(np.mean([getattr(f, name) for f in found])) for name in ("sigma", "ratio"))
            fit = float(np.mean([f.gaussian for f in found]))
            sigmas.append(sigma)
            ratios.append(ratio)
            lines.append(
                f"| {activation or 'none'} | {depth} | {found[0].window[0]} | {sigma:.2f} | "
                f"{np.sqrt(depth * 2 / 3):.2f} | {ratio:.1%} | {ratio * np.sqrt(depth):.2f} | {fit:.3f} |"
            )
        slopes = [np.polyfit(np.log(DEPTHS), np.log(values), 1)[0] for values in (sigmas, ratios)]
        exponents.append(f"{activation or 'none'}: σ ∝ n^{slopes[0]:.2f}, ratio ∝ n^{slopes[1]:.2f}")
    return "\n".join(lines) + "\n\nFitted exponents. " + "; ".join(exponents) + "."


# ---- Trained against shuffled ----


def shuffled(path: Path, seed: int, in_place: bool = False) -> onnx.ModelProto:
    """The network with the weights of every filter in another order: same values, no structure.

    Args:
        in_place: only among the input channels, each weight at its own place in the kernel.
    """
    rng, proto = np.random.default_rng(seed), onnx.load(path)
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 4 and array.dtype.kind in "fiu" and array.dtype.itemsize <= 4:
            shape = (*array.shape[:2], -1) if in_place else (len(array), -1)
            rows = rng.permuted(array.reshape(shape), axis=1).reshape(array.shape)
            tensor.CopyFrom(numpy_helper.from_array(rows, tensor.name))
    return proto


def compared(path: Path, pictures: Sequence[Path], positions: int) -> str:
    """A table by layer, and what it amounts to."""
    trained = Explainer(path)
    preprocess = model_card(path).preprocess
    batch = np.concatenate([preprocess.apply(decode(picture))[0] for picture in pictures])
    layers = list(effective_field(trained, batch[:1], positions=1))
    found: dict[tuple[str, str], list[EffectiveField]] = {}
    for seed in range(REPEATS):
        others = {"shuffled": shuffled(path, seed), "in place": shuffled(path, seed, in_place=True)}
        for kind, network in {"trained": trained, **others}.items():
            fields = effective_field(network, batch, layers, positions=positions, seed=seed if kind == "trained" else 0)
            for layer, field in fields.items():
                found.setdefault((kind, layer), []).append(field)
    lines = [
        "| layer | theoretical | 4σ trained | shuffled | trained / shuffled | shuffled in place | trained / in place |"
    ]
    lines[0] += " inside ½ | shuffled | cut |"
    lines.append("|" + " --- |" * 10)
    gains = []
    for layer in layers:
        mine, theirs, placed = ([f for f in found[k, layer] if not f.empty] for k in ("trained", *others))
        sizes = [np.array([np.prod(f.effective_size) ** 0.5 for f in fields]) for fields in (mine, theirs, placed)]
        middles = [np.mean([f.inside(0.5) for f in fields]) for fields in (mine, theirs)]
        texts = [f"{s.mean():.1f} ({s.min():.1f}–{s.max():.1f})" for s in sizes]
        gains.append([float(sizes[0].mean() / s.mean()) for s in sizes[1:]])
        lines.append(
            f"| `{short(layer)}` | {mine[0].window[0]} | {texts[0]} | {texts[1]} | {gains[-1][0]:.2f} | {texts[2]} | "
            f"{gains[-1][1]:.2f} | {middles[0]:.0%} | {middles[1]:.0%} | {mine[0].cut / mine[0].units:.0%} |"
        )
    ratio = np.array(gains)
    smaller, larger = (ratio[:, 0] < 0.95).sum(), (ratio[:, 0] > 1.05).sum()
    medians = np.median(ratio, axis=0)
    summary = (
        f"Trained fields are smaller than shuffled ones by more than 5 % in {smaller} of {len(ratio)} layers, and "
        f"larger by more than 5 % in {larger}. Median of trained / shuffled: {medians[0]:.2f}; of trained / shuffled "
        f"in place: {medians[1]:.2f}. {middles_of(path)}"
    )
    return "\n".join([*lines, "", summary])


def middles_of(path: Path) -> str:
    """How much of the squared weights of 3×3 kernels is in their middle: 1/9 where training left them even."""
    arrays = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.data_type == TensorProto.FLOAT]
    energies = [(a.astype(np.float64) ** 2).sum(axis=(0, 1)) for a in arrays if a.shape[2:] == (3, 3)]
    if not energies:
        return "Its weights are quantized."
    return f"The middle of its 3×3 kernels has {np.median([e[1, 1] / e.sum() for e in energies]):.0%} of their squares."


def short(name: str) -> str:
    parts = name.split(";")[0].split("/")
    return "/".join(parts[-3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--positions", type=int, default=6)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "effective-field.md")
    given = parser.parse_args()
    begun = time.perf_counter()
    pictures = [CORPUS / "images" / name for name in PHOTOGRAPHS[: given.pictures]]
    text = PAGE
    found = {"random": random_networks()}
    print(found["random"], flush=True)
    tables = []
    for name in NETWORKS if pictures[0].exists() else ():
        table = compared(CORPUS / "models" / name, pictures, given.positions)
        tables.append(f"### {name.removesuffix('.onnx')}\n\n{table}")
        print(tables[-1], f"\n{time.perf_counter() - begun:.0f} s", flush=True)
    found["trained"] = "\n\n".join(tables)
    found |= {
        "pictures": str(len(pictures)),
        "positions": str(given.positions),
        "repeats": str(REPEATS),
        "seeds": "five",
    }
    for key, value in found.items():
        text = text.replace(f"{{{key}}}", value)
    given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
