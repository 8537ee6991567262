"""Boxes and masks from heatmaps, how well they match given boxes, and the channels that contribute to a class.

Boxes are (x0, y0, x1, y1) in pixels of the heatmap, which spans [0, W] × [0, H]. Heat is scaled to its maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.attribution.layers import float_image, pick_layer
from analyzer.attribution.model import Model
from analyzer.attribution.registry import Context
from analyzer.attribution.seeds import seeded
from analyzer.attribution.shown import shown_outputs
from analyzer.errors import InputError
from analyzer.graph import Builder
from analyzer.graph.query import image_input
from analyzer.metrics.boxes import iou
from analyzer.tasks import recognise
from analyzer.tasks.base import TOP1
from analyzer.tasks.targets import is_expression, resolve_class

Box = tuple[float, float, float, float]

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))


@dataclass(frozen=True)
class Region:
    """A connected part of the heat above a threshold: its box, its mask (H, W), its peak, and its share of the heat."""

    box: Box
    mask: np.ndarray
    peak: float
    energy: float


def regions(heat: np.ndarray, threshold: float = 0.2, smallest: float = 0.001) -> list[Region]:
    """The connected parts of heat ≥ threshold · max, largest first (Zhou et al. 2016, section 3.2: threshold 0.2).

    Args:
        heat: (H, W); NaN where nothing is known.
        smallest: parts smaller than this share of the picture are dropped, except the largest part.
    """
    from analyzer.images import connected_components

    if not 0 < threshold <= 1:
        raise InputError(f"threshold {threshold} is not between 0 and 1", "0.2 is the paper's")
    heat = np.nan_to_num(np.asarray(heat, np.float64))
    peak, total = heat.max(), np.maximum(heat, 0).sum()
    if peak <= 0:
        return []
    labels, boxes = connected_components(heat >= threshold * peak)
    order = np.argsort(-boxes[:, 4], kind="stable")
    chosen = [i for rank, i in enumerate(order) if not rank or boxes[i, 4] >= smallest * heat.size]
    found = []
    for index in chosen:
        mask = labels == index + 1
        x0, y0, x1, y1 = (float(v) for v in boxes[index, :4])
        found.append(Region((x0, y0, x1, y1), mask, float(heat[mask].max() / peak), float(heat[mask].sum() / total)))
    return found


# ---- How well heat fits a given box ----


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """|a ∩ b| / |a ∪ b|"""
    return float(iou(np.array([a]), np.array([b]))[0, 0])


def sweep(heat: np.ndarray, box: Sequence[float], thresholds: Sequence[float] = THRESHOLDS) -> np.ndarray:
    """IoU of the box with the largest region's, per threshold; the best over a data set at one threshold is the
    MaxBoxAcc of Choe et al. 2020 (2001.07437)."""
    best = []
    for threshold in thresholds:
        found = regions(heat, threshold)
        best.append(box_iou(found[0].box, box) if found else 0.0)
    return np.array(best)


# ---- Class-specific units ----


def class_units(
    model: Model,
    inputs: np.ndarray | Mapping[str, np.ndarray],
    target: Any = "top1",
    layer: str = "auto",
    output: str | None = None,
    labels: Sequence[str] | None = None,
) -> tuple[np.ndarray, str]:
    """((N, K), layer): c_k = Σ_ij g_kij A_kij, what each channel of the layer adds to the target score.

    If global average pooling and a linear layer follow, it is W_ck mean_ij A_kij, CAM's class-specific units
    (Zhou et al. 2016, section 5), and Σ_k c_k = y − b.
    """
    feeds = model.feeds(inputs)
    graph = model.graph_of(feeds)
    op = Builder(graph, "units")
    scores = recognise(graph, output, model.declared, labels)
    given = target if is_expression(target) else resolve_class(target, labels)
    read: list[str] = []
    top = given == TOP1 and model.quantised
    seeds, _, about = seeded(op, read, None if top else given, scores)
    if top:
        said = scores.said(shown_outputs(model, feeds, scores.reading))
        shown = scores.read(said, len(feeds[image_input(graph).name]))
        feeds = feeds | {read[0]: scores.best(shown)}
    feature = pick_layer(graph, layer, about)
    image, axes = float_image(graph)
    ctx = Context(op, seeds, about, image, axes, feature)
    value = op.ReduceSum(op.Mul(ctx.gradients, ctx.activations), ctx.space, keepdims=0)
    return model.run(graph, feeds, [graph.add_output(value, "units").name])[0], feature.name
