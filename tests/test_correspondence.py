"""Occluded parts: the table against the paper's formula, and a network that must find parts."""

from __future__ import annotations

import itertools
import json
import math
import sys

import numpy as np
import onnx
import pytest

from analyzer import features
from analyzer.attribution import Explainer
from analyzer.attribution.correspondence import RANDOM, correspondence, read_boxes, sign_distance
from analyzer.errors import InputError
from analyzer.images import Preprocess, write_png
from analyzer.images.plot import COLOURS, Whiskers, plot_whiskers
from tests.models import small_cnn

RNG = np.random.default_rng(6)
HOW = Preprocess(size=(12, 12))
PICTURES = {str(i): RNG.integers(0, 256, (12, 12, 3)).astype(np.uint8) for i in range(4)}
BOXES = {name: {"eye": [1 + i, 2, 4 + i, 6], "alone": [0, 0, 2, 2]} for i, name in enumerate(PICTURES)}
BOXES["0"] = {"eye": BOXES["0"]["eye"], "mouth": [5, 5, 9, 9]}


def test_the_table_is_the_papers_formula() -> None:
    network = small_cnn()
    found = correspondence(Explainer(network), PICTURES, BOXES, ["r1", "r2"], HOW, 100, 3)
    assert {row.part for row in found.rows} == {"eye", "alone", RANDOM}
    for layer in ("r1", "r2"):
        signs = []
        for name, picture in PICTURES.items():
            x0, y0, x1, y1 = BOXES[name]["eye"]
            hidden = picture.copy()
            hidden[y0:y1, x0:x1] = 100
            whole, part = (features(network, HOW.apply(p)[0], layer)[layer].ravel() for p in (picture, hidden))
            signs.append(np.sign(whole - part))
        row = next(r for r in found.rows if (r.part, r.layer) == ("eye", layer))
        pairs = [np.mean(a != b) for a, b in itertools.permutations(signs, 2)]
        assert row.mean == pytest.approx(np.mean(pairs)) and row.pictures == 4
        per_picture = np.reshape(pairs, (4, 3)).mean(1)
        assert row.error == pytest.approx(per_picture.std(ddof=1) / 2)


def test_the_same_part_of_the_same_picture_changes_all_in_the_same_way() -> None:
    same = dict.fromkeys("abc", PICTURES["0"])
    boxes = {name: {"eye": [2, 2, 6, 6]} for name in "abc"}
    found = correspondence(Explainer(small_cnn()), same, boxes, ["r1"], HOW, repeats=5)
    eye, random = found.rows
    assert eye.mean == eye.error == 0 < random.mean
    again = correspondence(Explainer(small_cnn()), same, boxes, ["r1"], HOW, repeats=5)
    assert again.rows == found.rows
    shown = found.occluded["a"]
    assert set(shown) == {"eye", RANDOM} and (shown["eye"][2:6, 2:6] == 127).all()


def test_the_error_of_two_pictures_is_undefined() -> None:
    mean, error = sign_distance([np.zeros((1, 4))] * 2)
    assert mean == 0 and math.isnan(error)
    assert all(math.isnan(value) for value in sign_distance([np.zeros((1, 4))]))


def test_boxes_that_cannot_be_used(tmp_path) -> None:
    explainer = Explainer(small_cnn())
    with pytest.raises(InputError, match="two pictures"):
        correspondence(explainer, PICTURES, {"0": {"eye": [0, 0, 2, 2]}}, ["r1"], HOW)
    with pytest.raises(InputError, match="outside"):
        correspondence(explainer, PICTURES, {n: {"eye": [20, 20, 22, 22]} for n in PICTURES}, ["r1"], HOW)
    with pytest.raises(InputError, match="x0, y0"):
        correspondence(explainer, PICTURES, {n: {"eye": [20, 20]} for n in PICTURES}, ["r1"], HOW)
    (tmp_path / "list.json").write_text("[1]")
    for name, words in (("nowhere.json", "no such"), ("list.json", "not a boxes file")):
        with pytest.raises(InputError, match=words):
            read_boxes(tmp_path / name)


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    from analyzer.commands import main

    onnx.save(small_cnn(), tmp_path / "model.onnx")
    for name, picture in PICTURES.items():
        write_png(tmp_path / f"{name}.png", picture)
    (tmp_path / "boxes.json").write_text(json.dumps({f"{n}.png": parts for n, parts in BOXES.items()}))
    command = ["correspondence", "model.onnx", "boxes.json", "-l", "r2", "--size", "12x12", "--preset", "0-1"]
    monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *command, "-o", "out.png", "--format", "json"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert not stopped.value.code and [r["part"] for r in rows] == ["eye", "alone", "random"]
    assert (tmp_path / "out.png").exists()


def test_dots_lie_at_their_values_and_errors_around_them() -> None:
    """All on one scale: the middle of every dot, the ends of its error, and the line, by their colors alone."""
    rows = {"eye": (0.1, 0.05), "ear": (0.2, math.nan), "nose": (0.4, 0.1), "none": (math.nan, math.nan)}
    drawn = plot_whiskers([Whiskers("layer", "share", rows, 0.3)])
    blue, red = ((drawn == COLOURS[i]).all(axis=2) for i in (0, 1))
    lines = np.flatnonzero(blue.any(axis=1))
    dots = np.split(lines, np.flatnonzero(np.diff(lines) > 1) + 1)
    assert len(dots) == 3
    spans = [np.flatnonzero(blue[dot].any(axis=0)) for dot in dots]
    middles = [np.flatnonzero(blue[dot].sum(axis=0) > 6).mean() for dot in dots]
    scale = (middles[2] - middles[0]) / 0.3
    assert middles[1] == pytest.approx(middles[0] + 0.1 * scale, abs=1.5)
    assert np.flatnonzero(red.any(axis=0)).mean() == pytest.approx(middles[0] + 0.2 * scale, abs=1.5)
    assert np.ptp(spans[2]) == pytest.approx(0.2 * scale, abs=2) and np.ptp(spans[1]) < 12
