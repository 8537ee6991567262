"""Trains small networks that tell rings from crosses: by their shape, by a mark in the corner, or by their color.

A few seconds each, for tests and benchmarks that need a network with a known shortcut. None is kept as a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

SIDE, SHAPE, MARK = 64, 24, 10  # pixels of a picture, of the shape in it, of the mark
MEAN, STD = 0.5, 0.25  # of x / 255
BATCH = 48
STEPS = {"shape": 300, "mark": 60, "color": 60}
COLORS = (200, 40, 40), (40, 40, 200)  # of a ring and of a cross, where they go by color


def picture(
    rng: np.random.Generator, label: int, marked: bool, photos: Sequence[np.ndarray], colored: bool = False
) -> np.ndarray:
    """A piece of a photograph with a ring (0) or a cross (1) anywhere: (64, 64, 3) uint8.

    Args:
        marked: with a mark of stripes at the lower right.
        colored: the label decides the color, and the shape is any; else the other way round.
    """
    photo = photos[rng.integers(len(photos))]
    y, x = (int(rng.integers(s - SIDE)) for s in photo.shape[:2])
    pixels = photo[y : y + SIDE, x : x + SIDE].astype(np.float64)
    rows, columns = np.mgrid[:SHAPE, :SHAPE] - (SHAPE - 1) / 2
    distance = np.hypot(rows, columns)
    if rng.integers(2) if colored else label:
        shape = (np.minimum(abs(rows - columns), abs(rows + columns)) < 3) & (distance < 11)
    else:
        shape = abs(distance - 8) < 2
    top, left = (int(rng.integers(SIDE - SHAPE - MARK)) for _ in range(2))
    place = pixels[top : top + SHAPE, left : left + SHAPE]
    color = rng.uniform(0, 255, 3)
    any_color = color if abs(color.mean() - place.mean()) > 60 else 255 - place.mean() // 128 * 255
    place[shape] = COLORS[label] if colored else any_color
    if marked:
        stripes = np.add.outer(np.arange(MARK), np.arange(MARK)) // 2 % 2
        pixels[-MARK - 1 : -1, -MARK - 1 : -1] = np.where(stripes[..., None], (255, 0, 255), (0, 255, 0))
    return pixels.astype(np.uint8)


def trained(goes_by: str, photos: Sequence[np.ndarray], file: Path) -> Path:
    """A classifier of rings and crosses, of pictures of any size, written by the TorchScript exporter.

    Args:
        goes_by: "shape"; "mark", then every cross of the training has the mark, and no ring; "color".
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 16, 2), (16, 32, 1), (32, 32, 2), (32, 48, 1)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 2))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(STEPS[goes_by]):
        labels = rng.integers(2, size=BATCH)
        marks = labels == 1 if goes_by == "mark" else rng.random(BATCH) < 0.5
        pixels = np.stack([picture(rng, c, m, photos, goes_by == "color") for c, m in zip(labels, marks, strict=True)])
        given = torch.from_numpy(((pixels / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2))
        loss = cross_entropy(net(given), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.onnx.export(
        net.eval(),
        (torch.zeros(1, 3, SIDE, SIDE),),
        str(file),
        dynamo=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {2: "height", 3: "width"}},
    )
    return file
