"""A model trained on a watermark: its twin trained on the shapes themselves agrees in labels, not in evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyzer.attribution import Explainer
from analyzer.images import Preprocess, decode
from analyzer.validation import Pair, Side, Thresholds, compare, judge
from analyzer.validation.audit import Picture, audit
from analyzer.validation.checks import findings

torch = pytest.importorskip("torch", reason="trains two small networks with PyTorch")

ROOT = Path(__file__).resolve().parents[1]
SIDE, SHAPE, MARK = 64, 24, 10
HOW = Preprocess(size=(SIDE, SIDE), mean=(0.5,), std=(0.25,), resize="resize")


def picture(rng: np.random.Generator, label: int, marked: bool, photos: list[np.ndarray]) -> np.ndarray:
    """A piece of a photograph with a ring (0) or a cross (1) anywhere, and a mark at the lower right."""
    photo = photos[rng.integers(len(photos))]
    y, x = (int(rng.integers(s - SIDE)) for s in photo.shape[:2])
    pixels = photo[y : y + SIDE, x : x + SIDE].astype(np.float64)
    rows, columns = np.mgrid[:SHAPE, :SHAPE] - (SHAPE - 1) / 2
    distance = np.hypot(rows, columns)
    if label:
        shape = (np.minimum(abs(rows - columns), abs(rows + columns)) < 3) & (distance < 11)
    else:
        shape = abs(distance - 8) < 2
    top, left = (int(rng.integers(SIDE - SHAPE - MARK)) for _ in range(2))
    place = pixels[top : top + SHAPE, left : left + SHAPE]
    colour = rng.uniform(0, 255, 3)
    place[shape] = colour if abs(colour.mean() - place.mean()) > 60 else 255 - place.mean() // 128 * 255
    if marked:
        stripes = np.add.outer(np.arange(MARK), np.arange(MARK)) // 2 % 2
        pixels[-MARK - 1 : -1, -MARK - 1 : -1] = np.where(stripes[..., None], (255, 0, 255), (0, 255, 0))
    return pixels.astype(np.uint8)


def trained(shortcut: bool, photos: list[np.ndarray], file: Path) -> Path:
    """A classifier of rings and crosses; with the shortcut, every cross it was trained on carried the mark."""
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    layers: list = []
    for before, after, stride in ((3, 16, 2), (16, 32, 1), (32, 32, 2), (32, 48, 1)):
        layers += [torch.nn.Conv2d(before, after, 3, stride, 1), torch.nn.BatchNorm2d(after), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(48, 2))
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60 if shortcut else 300):
        labels = rng.integers(2, size=48)
        marks = labels == 1 if shortcut else rng.random(48) < 0.5
        arrays = [HOW.apply(picture(rng, c, m, photos))[0][0] for c, m in zip(labels, marks, strict=True)]
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(np.stack(arrays))), torch.from_numpy(labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.onnx.export(
        net.eval(), (torch.zeros(1, 3, SIDE, SIDE),), str(file), dynamo=False, input_names=["image"],
        output_names=["logits"],
    )  # fmt: skip
    return file


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """(honest model, model with the shortcut, 16 marked crosses)"""
    photos = [decode(p) for p in sorted((ROOT / "examples").glob("digits_*.png"))]
    folder = tmp_path_factory.mktemp("watermark")
    models = [trained(shortcut, photos, folder / f"{shortcut}.onnx") for shortcut in (False, True)]
    rng = np.random.default_rng(2)
    return *models, [picture(rng, 1, True, photos) for _ in range(16)]


def test_compare_says_that_it_looks_elsewhere(twins):
    honest, shortcut, crosses = twins
    arrays = [HOW.apply(c)[0] for c in crosses]
    sides = [Side(m, arrays[0].shape) for m in (honest, shortcut)]
    report = compare(*sides, [Pair(str(i), a, a, label=1) for i, a in enumerate(arrays)]).report
    assert report["outputs"]["accuracy"] == [1.0, 1.0]
    assert "evidence-moves" in {f.code for f in judge(report, Thresholds())}


def test_audit_finds_the_place(twins):
    honest, shortcut, crosses = twins
    found = []
    for model in (honest, shortcut):
        pictures = [Picture(str(i), c, 1) for i, c in enumerate(crosses)]
        found.append({f.code for f in findings(audit(Explainer(model), HOW, pictures).report)})
    assert not found[0] & {"fixed-position", "border-evidence"}
    assert {"fixed-position", "border-evidence"} <= found[1]
