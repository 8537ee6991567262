"""Every method against its formula in float64 NumPy, on networks small enough to be written out here.

Networks are matrices, derivatives are central differences: nothing of the package is used but `explain`. A method
without a row in `CASES` fails, and so does an option of one that no row changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import pytest

from analyzer import explain
from analyzer.attribution.methods import METHODS
from tests.models import model, node

Array = np.ndarray
RNG = np.random.default_rng(7)
CHANNELS, SIDE, MAPS, GRID, DEEP, CLASSES = 2, 8, 6, 4, 5, 3  # x: 2 × 8 × 8, the layer: 6 × 4 × 4


def differences(f: Callable[[Array], Array], x: Array, step: float = 1e-6) -> Array:
    """∂f/∂x of a number."""
    found = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        moved = x.copy()
        moved[at] += step
        above = f(moved)
        moved[at] -= 2 * step
        found[at] = (above - f(moved)) / (2 * step)
    return found


def convolved(x: Array, weights: Array, bias: Array, stride: int) -> Array:
    """(C, H, W) → (K, H / stride, W / stride), 3 × 3 and padded by 1, by its definition."""
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    size = x.shape[1] // stride
    found = np.empty((len(weights), size, size))
    for k, i, j in np.ndindex(found.shape):
        found[k, i, j] = (wide[:, i * stride : i * stride + 3, j * stride : j * stride + 3] * weights[k]).sum() + bias[
            k
        ]
    return found


def enlarged(heat: Array, size: int) -> Array:
    """(h, w) → (size, size), bilinear, half-pixel centres, edges repeated."""
    found = np.empty((size, size))
    for i, j in np.ndindex(found.shape):
        y, x = (np.clip((p + 0.5) * len(heat) / size - 0.5, 0, len(heat) - 1) for p in (i, j))
        top, left = int(y), int(x)
        below, right = min(top + 1, len(heat) - 1), min(left + 1, len(heat) - 1)
        v, u = y - top, x - left
        found[i, j] = (1 - v) * ((1 - u) * heat[top, left] + u * heat[top, right])
        found[i, j] += v * ((1 - u) * heat[below, left] + u * heat[below, right])
    return found


def unit(values: Array) -> Array:
    """(x − min) / (max − min)"""
    reach = values.max() - values.min()
    return (values - values.min()) / (reach or 1)


class Net:
    """Conv (stride 2), ReLU (the layer), Conv, ReLU, global average pooling, Gemm; scores are logits."""

    def __init__(self) -> None:
        self.w1, self.b1 = RNG.standard_normal((MAPS, CHANNELS, 3, 3)) / 3, RNG.standard_normal(MAPS) / 3
        self.w2, self.b2 = RNG.standard_normal((DEEP, MAPS, 3, 3)) / 4, RNG.standard_normal(DEEP) / 4
        self.w3, self.b3 = RNG.standard_normal((CLASSES, DEEP)), RNG.standard_normal(CLASSES)
        self.x = RNG.standard_normal((CHANNELS, SIDE, SIDE))
        for name in ("w1", "b1", "w2", "b2", "w3", "b3", "x"):
            setattr(self, name, getattr(self, name).astype(np.float32).astype(np.float64))
        self.target = 1

    @cached_property
    def file(self) -> onnx.ModelProto:
        weights = {n: getattr(self, n).astype(np.float32) for n in ("w1", "b1", "w2", "b2", "w3", "b3")}
        nodes = [
            node("Conv", ["x", "w1", "b1"], ["h1"], pads=[1, 1, 1, 1], strides=[2, 2]),
            node("Relu", ["h1"], ["r1"]),
            node("Conv", ["r1", "w2", "b2"], ["h2"], pads=[1, 1, 1, 1]),
            node("Relu", ["h2"], ["r2"]),
            node("GlobalAveragePool", ["r2"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "w3", "b3"], ["logits"], transB=1),
        ]
        return model(nodes, {"x": ["N", CHANNELS, SIDE, SIDE]}, {"logits": ["N", CLASSES]}, weights)

    def before(self, x: Array) -> Array:
        return convolved(x, self.w1, self.b1, 2)

    def head(self, deep: Array) -> Array:
        """All scores, of what the second convolution gives."""
        return self.w3 @ np.maximum(deep, 0).mean(axis=(1, 2)) + self.b3

    def behind(self, maps: Array) -> Array:
        """All scores, of the layer."""
        return self.head(convolved(maps, self.w2, self.b2, 1))

    def scores(self, x: Array) -> Array:
        return self.behind(np.maximum(self.before(x), 0))

    def y(self, x: Array) -> float:
        return float(self.scores(x)[self.target])

    def probability(self, scores: Array) -> float:
        powers = np.exp(scores - scores.max())
        return float((powers / powers.sum())[self.target])

    @cached_property
    def maps(self) -> Array:
        return np.maximum(self.before(self.x), 0)

    @cached_property
    def deep(self) -> Array:
        return convolved(self.maps, self.w2, self.b2, 1)

    @cached_property
    def g(self) -> Array:
        return differences(lambda a: self.behind(a)[self.target], self.maps + 1e-9)

    @cached_property
    def gradient(self) -> Array:
        return differences(self.y, self.x)

    def image_gradient(self, x: Array) -> Array:
        """∂y/∂x by the chain rule, quicker than differences."""
        shallow = self.before(x)
        deep = convolved(np.maximum(shallow, 0), self.w2, self.b2, 1)
        flowing = self.second.T @ ((deep > 0) * self.w3[self.target][:, None, None] / GRID**2).ravel()
        return (self.first.T @ ((shallow > 0).ravel() * flowing)).reshape(x.shape)

    @cached_property
    def first(self) -> Array:
        """The first convolution as a matrix."""
        columns = [convolved(e.reshape(self.x.shape), self.w1, 0 * self.b1, 2).ravel() for e in np.eye(self.x.size)]
        return np.stack(columns, axis=1)

    @cached_property
    def second(self) -> Array:
        columns = [
            convolved(e.reshape(self.maps.shape), self.w2, 0 * self.b2, 1).ravel() for e in np.eye(self.maps.size)
        ]
        return np.stack(columns, axis=1)

    def rectified(self, guided: bool) -> Array:
        """Backwards with ReLU at the rectifiers, and their own mask where guided."""

        def through(values: Array, flowing: Array) -> Array:
            passed = np.maximum(flowing, 0)
            return passed * (values.ravel() > 0) if guided else passed

        seed = np.repeat(self.w3[self.target] / GRID**2, GRID**2)
        flowing = self.second.T @ through(self.deep, seed)
        return (self.first.T @ through(self.before(self.x), flowing)).reshape(self.x.shape)


NET = Net()


# ---- The formulas ----


def cam(net: Net) -> Array:
    return np.einsum("k,kij->ij", net.w3[net.target], np.maximum(net.deep, 0))


def grad_cam(net: Net) -> Array:
    return np.maximum(np.einsum("k,kij->ij", net.g.mean(axis=(1, 2)), net.maps), 0)


def grad_cam_plus_plus(net: Net, eps: float) -> Array:
    """Eq. 19, with the total of each channel."""
    total = net.maps.sum(axis=(1, 2), keepdims=True)
    alpha = net.g**2 / (2 * net.g**2 + total * net.g**3 + eps)
    weights = (np.where(net.g == 0, 0, alpha) * np.maximum(net.g, 0)).sum(axis=(1, 2))
    return np.maximum(np.einsum("k,kij->ij", weights, net.maps), 0)


def xgrad_cam(net: Net) -> Array:
    totals = net.maps.sum(axis=(1, 2))
    weights = (net.g * net.maps).sum(axis=(1, 2)) / np.where(totals, totals, 1)
    return np.maximum(np.einsum("k,kij->ij", weights, net.maps), 0)


def eigen_cam(net: Net) -> Array:
    flat = net.maps.reshape(MAPS, -1).T
    centred = flat - flat.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    found = u[:, 0] * s[0]
    return (found * np.sign(found @ centred.mean(axis=1))).reshape(GRID, GRID)


def guided_grad_cam(net: Net) -> Array:
    return net.rectified(guided=True) * enlarged(grad_cam(net), SIDE)


def full_grad(net: Net) -> Array:
    def psi(part: Array) -> Array:
        return sum(enlarged(channel, SIDE) for channel in unit(np.abs(part)))

    deep = differences(lambda h: net.head(h)[net.target], net.deep)
    shallow = differences(lambda h: net.behind(np.maximum(h, 0))[net.target], net.before(net.x))
    parts = net.x * net.gradient, net.b1[:, None, None] * shallow, net.b2[:, None, None] * deep
    return sum(psi(part) for part in parts)


def occlusion(net: Net, patch: int, stride: int, fill: str | float, score: str) -> Array:
    y = net.y if score == "score" else lambda x: net.probability(net.scores(x))
    grey = {"zero": 0.0, "mean": net.x.mean(axis=(1, 2))[:, None, None]}.get(fill, fill)
    if fill == "gray":
        grey = (net.x.min() + net.x.max()) / 2
    total, covered = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    count = -(-(SIDE - patch) // stride) + 1
    for i, j in np.ndindex(count, count):
        at = slice(i * stride, i * stride + patch), slice(j * stride, j * stride + patch)
        changed = net.x.copy()
        changed[:, *at] = np.broadcast_to(grey, net.x.shape)[:, *at]
        total[at] += y(net.x) - y(changed)
        covered[at] += 1
    return total / np.maximum(covered, 1)


def random_masks(side: int, masks: int, cells: int, keep: float, seed: int) -> Iterator[Array]:
    cell = -(-side // cells)
    for index in range(masks):
        rng = np.random.default_rng([seed, index])
        wide = enlarged((rng.random((cells, cells)) < keep).astype(float), (cells + 1) * cell)
        down, right = int(rng.integers(cell)), int(rng.integers(cell))
        yield wide[down : down + side, right : right + side]


def rise(net: Net, masks: int, cells: int, keep: float, score: str, seed: int) -> Array:
    total = np.zeros((SIDE, SIDE))
    for mask in random_masks(SIDE, masks, cells, keep, seed):
        scores = net.scores(net.x * mask)
        total += mask * (net.probability(scores) if score == "probability" else scores[net.target])
    return total / (masks * keep)


def d_rise(net: Finder, masks: int, cells: int, keep: float, seed: int) -> Array:
    side = Finder.side
    boxes, scores, _ = net.candidates(net.x)
    wanted = int(scores[:, net.target].argmax())
    total = np.zeros((side, side))
    for mask in random_masks(side, masks, cells, keep, seed):
        alike = []
        for box, row, sure in zip(*net.candidates(net.x * mask), strict=True):
            (x0, y0, x1, y1), (u0, v0, u1, v1) = box, boxes[wanted]
            shared = max(min(x1, u1) - max(x0, u0), 0) * max(min(y1, v1) - max(y0, v0), 0)
            overlap = shared / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - shared)
            cosine = row @ scores[wanted] / np.sqrt(row @ row * (scores[wanted] @ scores[wanted]))
            alike.append(overlap * cosine * sure)
        total += mask * max(alike)
    return total / (masks * keep)


def score_cam(net: Net, channels: int) -> Array:
    maps = net.maps
    if channels:
        maps = maps[np.sort(np.argsort(-maps.reshape(MAPS, -1).std(axis=1))[:channels])]
    scores = np.array([net.y(net.x * unit(enlarged(m, SIDE))) for m in maps])
    weights = np.exp(scores) / np.exp(scores).sum()
    return np.maximum(np.einsum("k,kij->ij", weights, maps), 0)


def ablation_cam(net: Net) -> Array:
    y = net.y(net.x)
    without = [net.behind(net.maps * (np.arange(MAPS) != k)[:, None, None])[net.target] for k in range(MAPS)]
    return np.maximum(np.einsum("k,kij->ij", (y - np.array(without)) / abs(y), net.maps), 0)


def recipro_cam(net: Net, gaussian: bool, score: str) -> Array:
    found = np.zeros((GRID, GRID))
    for i, j in np.ndindex(found.shape):
        mask = np.zeros((GRID + 2, GRID + 2))
        window = np.outer([1, 2, 1], [1, 2, 1]) / 16 if gaussian else np.outer([0, 1, 0], [0, 1, 0])
        mask[i : i + 3, j : j + 3] = window
        scores = net.behind(net.maps * mask[1:-1, 1:-1])
        found[i, j] = net.probability(scores) if score == "probability" else scores[net.target]
    return found


def integrated_gradients(net: Net, steps: int, baseline: str | float) -> Array:
    """The integral itself, by 2,000 midpoints."""
    start = net.x.mean(axis=(1, 2), keepdims=True) if baseline == "mean" else np.zeros((1, 1, 1))
    points = (np.arange(2000) + 0.5) / 2000
    return (net.x - start) * np.mean([net.image_gradient(start + a * (net.x - start)) for a in points], axis=0)


def quadrature(net: Net, steps: int) -> Array:
    """Gauss and Legendre's rule of that many points, from 0 to 1."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    return net.x * sum(w / 2 * net.image_gradient((a + 1) / 2 * net.x) for a, w in zip(points, weights, strict=True))


def noisy_gradients(net: Net, samples: int, noise: float, seed: int) -> Array:
    sigma = noise * (net.x.max() - net.x.min())
    draws = [np.random.default_rng([seed, i]).standard_normal((1, *net.x.shape))[0] for i in range(samples)]
    return np.array([net.image_gradient(net.x + sigma * draw) for draw in draws])


# ---- A transformer of two blocks with two heads: its attention, multiplied through ----

TOKENS, WIDTH, HEADS = 5, 6, 2


class Finder:
    """A detector of 4 × 4 candidates: centre, size, perhaps objectness, and the scores of three classes."""

    side, stride = 32, 8

    def __init__(self, thing: bool = True) -> None:
        rng = np.random.default_rng(3)
        self.thing = thing
        self.w1 = rng.standard_normal((MAPS, CHANNELS, 8, 8)).astype(np.float32).astype(np.float64) / 8
        self.w2 = rng.standard_normal((8, MAPS)).astype(np.float32).astype(np.float64)
        places = np.stack(np.meshgrid(np.arange(4), np.arange(4))).reshape(2, 16) * 8.0 + 4
        self.base = np.concatenate([places, np.full((2, 16), 14.0)])
        self.x = rng.standard_normal((CHANNELS, self.side, self.side)).astype(np.float32).astype(np.float64)
        self.target = 1

    @cached_property
    def file(self) -> onnx.ModelProto:
        ends = {"sides": self.w2[:4], "sure": self.w2[4:5], "kinds": self.w2[5:]}
        weights = {n: w[:, :, None, None].astype(np.float32) for n, w in ends.items()}
        weights |= {"w1": self.w1.astype(np.float32), "base": self.base[None].astype(np.float32)}
        weights |= {f"{n}_rows": np.array([0, len(w), 16]) for n, w in ends.items()}
        nodes = [node("Conv", ["x", "w1"], ["h"], strides=[8, 8]), node("Relu", ["h"], ["r"])]
        for name in ends:
            nodes += [
                node("Conv", ["r", name], [f"{name}_map"]),
                node("Reshape", [f"{name}_map", f"{name}_rows"], [f"{name}_raw"]),
                node("Add", [f"{name}_raw", "base"], [f"{name}_end"])
                if name == "sides"
                else node("Sigmoid", [f"{name}_raw"], [f"{name}_end"]),
            ]
        ends = ["sides_end", "sure_end", "kinds_end"] if self.thing else ["sides_end", "kinds_end"]
        nodes.append(node("Concat", ends, ["output0"], axis=1))
        count = 8 if self.thing else 7
        return model(nodes, {"x": ["N", CHANNELS, self.side, self.side]}, {"output0": ["N", count, 16]}, weights)

    def candidates(self, x: Array) -> tuple[Array, Array, Array]:
        """(16, 4) corners, (16, 3) scores, and how sure each is to be anything."""
        patches = x.reshape(CHANNELS, 4, 8, 4, 8).transpose(1, 3, 0, 2, 4).reshape(16, -1)
        raw = self.w2 @ np.maximum(self.w1.reshape(MAPS, -1) @ patches.T, 0)
        x, y, width, height = raw[:4] + self.base
        boxes = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
        thing, kinds = 1 / (1 + np.exp(-raw[4])), 1 / (1 + np.exp(-raw[5:].T))
        return (boxes, kinds * thing[:, None], thing) if self.thing else (boxes, kinds, kinds.max(axis=1))


class Transformer:
    """Patches of 2 × 2, a class token, attention with residual twice, the class token's score."""

    def __init__(self) -> None:
        rng = np.random.default_rng(11)
        self.weights = {
            "patch": rng.standard_normal((WIDTH, 1, 2, 2)),
            "token": rng.standard_normal((1, 1, WIDTH)),
            **{f"{n}{b}": rng.standard_normal((WIDTH, WIDTH)) / 2 for b in range(2) for n in "qkvo"},
            "head": rng.standard_normal((WIDTH, CLASSES)),
        }
        self.weights = {n: w.astype(np.float32).astype(np.float64) for n, w in self.weights.items()}
        self.x = rng.standard_normal((1, 4, 4)).astype(np.float32).astype(np.float64)
        self.target = 2

    @cached_property
    def file(self) -> onnx.ModelProto:
        weights: dict[str, Array] = {n: w.astype(np.float32) for n, w in self.weights.items()}
        weights |= {
            "tokens": np.array([1, WIDTH, TOKENS - 1]), "split": np.array([1, TOKENS, HEADS, WIDTH // HEADS]),
            "joined": np.array([1, TOKENS, WIDTH]), "scale": np.float32((WIDTH // HEADS) ** -0.5),
            "zero": np.array(0), "grid": np.array([0]),
        }  # fmt: skip
        nodes = [
            node("Conv", ["x", "patch"], ["p"], strides=[2, 2]),
            node("Reshape", ["p", "tokens"], ["pt"]),
            node("Transpose", ["pt"], ["t"], perm=[0, 2, 1]),
            node("Concat", ["token", "t"], ["s0"], axis=1),
        ]
        for b in range(2):
            for n in "qkv":
                turned = [0, 2, 3, 1] if n == "k" else [0, 2, 1, 3]
                nodes += [
                    node("MatMul", [f"s{b}", f"{n}{b}"], [f"{n}{b}m"]),
                    node("Reshape", [f"{n}{b}m", "split"], [f"{n}{b}r"]),
                    node("Transpose", [f"{n}{b}r"], [f"{n}{b}t"], perm=turned),
                ]
            nodes += [
                node("MatMul", [f"q{b}t", f"k{b}t"], [f"a{b}r"]),
                node("Mul", [f"a{b}r", "scale"], [f"a{b}s"]),
                node("Softmax", [f"a{b}s"], [f"a{b}"], axis=-1),
                node("MatMul", [f"a{b}", f"v{b}t"], [f"c{b}"]),
                node("Transpose", [f"c{b}"], [f"c{b}t"], perm=[0, 2, 1, 3]),
                node("Reshape", [f"c{b}t", "joined"], [f"c{b}j"]),
                node("MatMul", [f"c{b}j", f"o{b}"], [f"o{b}m"]),
                node("Add", [f"s{b}", f"o{b}m"], [f"s{b + 1}"]),
            ]
        nodes += [node("Gather", ["s2", "zero"], ["cls"], axis=1), node("MatMul", ["cls", "head"], ["logits"])]
        return model(nodes, {"x": [1, 1, 4, 4]}, {"logits": [1, CLASSES]}, weights)

    def run(self, change: dict[int, Array] | None = None) -> tuple[float, list[Array]]:
        """(y, the attention of each block), with something added to attentions."""
        w, found = self.weights, []
        patches = [
            (self.x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] * w["patch"]).sum(axis=(1, 2, 3))
            for i in range(2)
            for j in range(2)
        ]
        s = np.concatenate([w["token"][0], np.stack(patches)])
        for b in range(2):
            q, k, v = ((s @ w[f"{n}{b}"]).reshape(TOKENS, HEADS, WIDTH // HEADS).transpose(1, 0, 2) for n in "qkv")
            powers = np.exp(q @ k.transpose(0, 2, 1) * (WIDTH // HEADS) ** -0.5)
            attention = powers / powers.sum(axis=-1, keepdims=True) + (change or {}).get(b, 0)
            found.append(attention)
            s = s + (attention @ v).transpose(1, 0, 2).reshape(TOKENS, WIDTH) @ w[f"o{b}"]
        return float((s[0] @ w["head"])[self.target]), found


def attention_rollout(net: Transformer) -> Array:
    product = np.eye(TOKENS)
    for attention in net.run()[1]:
        product = (0.5 * attention.mean(axis=0) + 0.5 * np.eye(TOKENS)) @ product
    return product[0, 1:].reshape(2, 2)


def gradient_rollout(net: Transformer) -> Array:
    relevance = np.eye(TOKENS)
    for b, attention in enumerate(net.run()[1]):
        slopes = differences(lambda d, b=b: net.run({b: d})[0], np.zeros(attention.shape))
        relevance = relevance + np.maximum(slopes * attention, 0).mean(axis=0) @ relevance
    return relevance[0, 1:].reshape(2, 2)


# ---- A row each: options, the layer, the formula ----

SMOOTH = {"samples": 8, "noise": 0.3, "seed": 4}
CASES: list[tuple[str, dict[str, Any], str, Callable[[Any], Array]]] = [
    ("attention-rollout", {}, "", attention_rollout),
    ("gradient-rollout", {}, "", gradient_rollout),
    ("cam", {}, "r2", cam),
    ("grad-cam", {}, "r1", grad_cam),
    ("grad-cam++", {}, "r1", lambda net: grad_cam_plus_plus(net, 1e-6)),
    ("grad-cam++", {"eps": 1e-2}, "r1", lambda net: grad_cam_plus_plus(net, 1e-2)),
    ("hires-cam", {}, "r1", lambda net: np.maximum((net.g * net.maps).sum(axis=0), 0)),
    ("xgrad-cam", {}, "r1", xgrad_cam),
    ("layer-cam", {}, "r1", lambda net: np.maximum((np.maximum(net.g, 0) * net.maps).sum(axis=0), 0)),
    ("eigen-cam", {}, "r1", eigen_cam),
    ("guided-backprop", {}, "", lambda net: net.rectified(guided=True)),
    ("guided-backprop", {"activations": "all"}, "", lambda net: net.rectified(guided=True)),
    ("deconvnet", {}, "", lambda net: net.rectified(guided=False)),
    ("deconvnet", {"activations": "all"}, "", lambda net: net.rectified(guided=False)),
    ("guided-grad-cam", {}, "r1", guided_grad_cam),
    ("full-grad", {}, "", full_grad),
    ("gradient", {}, "", lambda net: net.gradient),
    ("input-x-gradient", {}, "", lambda net: net.x * net.gradient),
    ("occlusion", {"patch": 3, "stride": 2}, "", lambda net: occlusion(net, 3, 2, "gray", "score")),
    (
        "occlusion",
        {"patch": 2, "stride": 3, "fill": "mean", "score": "probability"},
        "",
        lambda net: occlusion(net, 2, 3, "mean", "probability"),
    ),
    (
        "rise",
        {"masks": 30, "cells": 3, "keep": 0.3, "seed": 5},
        "",
        lambda net: rise(net, 30, 3, 0.3, "probability", 5),
    ),
    ("rise", {"masks": 20, "cells": 4, "score": "score"}, "", lambda net: rise(net, 20, 4, 0.5, "score", 0)),
    (
        "d-rise",
        {"masks": 30, "cells": 3, "keep": 0.7, "seed": 5},
        "",
        lambda net: d_rise(net, 30, 3, 0.7, 5),
    ),
    ("score-cam", {}, "r1", lambda net: score_cam(net, 0)),
    ("score-cam", {"channels": 3}, "r1", lambda net: score_cam(net, 3)),
    ("ablation-cam", {}, "r1", ablation_cam),
    ("recipro-cam", {}, "r1", lambda net: recipro_cam(net, False, "probability")),
    ("recipro-cam", {"gaussian": True, "score": "score"}, "r1", lambda net: recipro_cam(net, True, "score")),
    ("integrated-gradients", {"steps": 7}, "", lambda net: quadrature(net, 7)),
    ("integrated-gradients", {"steps": 300}, "", lambda net: integrated_gradients(net, 300, "zero")),
    (
        "integrated-gradients",
        {"steps": 200, "baseline": "mean"},
        "",
        lambda net: integrated_gradients(net, 200, "mean"),
    ),
    ("smooth-grad", SMOOTH, "", lambda net: noisy_gradients(net, **SMOOTH).mean(axis=0)),
    ("var-grad", SMOOTH, "", lambda net: noisy_gradients(net, **SMOOTH).var(axis=0)),
]
TOLERANCES = {("integrated-gradients", 200): 2e-2, ("integrated-gradients", 300): 2e-2, ("eigen-cam", None): 2e-3}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case[0], *case[1]]))
def test_a_method_is_its_formula(case: tuple[str, dict[str, Any], str, Callable[[Any], Array]]) -> None:
    method, options, layer, formula = case
    net: Any = Transformer() if "rollout" in method else Finder() if method == "d-rise" else NET
    image = net.x[None].astype(np.float32)
    found = explain(net.file, image, method, net.target, layer or "auto", **options).raw[0]
    expected = formula(net)
    assert found.shape == expected.shape and np.ptp(expected) > 0
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < TOLERANCES.get((method, options.get("steps")), 1e-4), (
        f"{method} {options}: off by {error:.2g} of the largest value"
    )


def test_d_rise_without_objectness_takes_the_highest_score() -> None:
    net = Finder(thing=False)
    found = explain(net.file, net.x[None].astype(np.float32), "d-rise", net.target, masks=20, cells=4).raw[0]
    assert np.allclose(found, d_rise(net, 20, 4, 0.5, 0), rtol=1e-4)


def test_every_method_has_a_formula() -> None:
    assert {method for method, *_ in CASES} == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_every_option_of_a_method_is_tried(method: str) -> None:
    tried = {
        name
        for given, options, *_ in CASES
        for name, value in options.items()
        if given == method and value != METHODS[method].options[name]
    }
    assert tried == set(METHODS[method].options)
