"""Boxes from heat: brute force by counting pixels, identities, and the digits of the examples."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from analyzer import explain, features
from analyzer.api.features import features as pictured
from analyzer.attribution import Explainer
from analyzer.attribution.drawn import maps_of
from analyzer.attribution.localization import (
    THRESHOLDS,
    box_iou,
    class_units,
    regions,
    sweep,
)
from analyzer.commands import main
from analyzer.errors import InputError
from analyzer.images import decode, model_card, write_png
from analyzer.metrics.energy import energy_inside
from analyzer.metrics.pointing_game import points_inside
from analyzer.passes.localizing import Localizing, beginnings
from tests.models import small_cnn

ROOT = Path(__file__).parents[1]
CNN = ROOT / "models" / "digits_cnn.onnx"


def two_parts() -> np.ndarray:
    heat = np.zeros((12, 20))
    heat[2:5, 3:9] = 0.6
    heat[8:10, 12:15] = 1.0
    heat[11, 0] = 0.1
    return heat


def test_regions_are_the_connected_parts():
    heat = two_parts()
    found = regions(heat)
    assert [r.box for r in found] == [(3, 2, 9, 5), (12, 8, 15, 10)]
    assert [r.peak for r in found] == [0.6, 1.0]
    assert [r.mask.sum() for r in found] == [18, 6]
    assert np.isclose(sum(r.energy for r in found), 1 - 0.1 / heat.sum())
    assert [r.box for r in regions(heat, 0.7)] == [(12, 8, 15, 10)]
    assert len(regions(heat, 0.05)) == 3 and len(regions(heat, 0.05, smallest=0.01)) == 2
    corner = np.eye(4)
    assert [r.box for r in regions(corner)] == [(0, 0, 4, 4)]
    assert regions(np.zeros((3, 3))) == []
    with pytest.raises(InputError, match="between 0 and 1"):
        regions(heat, 0)


def test_iou_by_counting_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        boxes = []
        for _ in range(2):
            x, y = np.sort(rng.choice(21, 2, replace=False)), np.sort(rng.choice(21, 2, replace=False))
            boxes.append((x[0], y[0], x[1], y[1]))
        masks = np.zeros((2, 20, 20), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
            mask[y0:y1, x0:x1] = True
        assert box_iou(*boxes) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())
        heat = rng.random((20, 20))
        assert energy_inside(heat, boxes[0]) == pytest.approx((heat * masks[0]).sum() / heat.sum())
    assert energy_inside(np.ones((2, 2)), (0.5, 0, 1, 2)) == pytest.approx(0.25)


def test_pointing_game():
    heat = two_parts()
    heat[9, 13] = 2
    assert points_inside(heat, (13, 9, 14, 10)) and not points_inside(heat, (14, 9, 16, 10))
    assert points_inside(heat, (14, 9, 16, 10), tolerance=1)
    heat[0, 0] = np.nan
    assert points_inside(heat, (13, 9, 14, 10))


def test_sweep_finds_the_threshold():
    y, x = np.mgrid[0:40, 0:40]
    heat = np.exp(-((x - 19.5) ** 2 + (y - 19.5) ** 2) / 50)
    found = sweep(heat, (14, 14, 26, 26))
    # A Gaussian of σ = 5 is 0.5 at 5.9 pixels: a box of 12.
    assert abs(THRESHOLDS[int(found.argmax())] - 0.5) <= 0.051 and found.max() == 1


def test_class_units_are_cams_and_add_up():
    """Global average pooling and a linear layer: c_k = W_ck mean A_k, Σ c = y − b."""
    import onnx

    net = small_cnn()
    image = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in net.graph.initializer}
    found, layer = class_units(Explainer(net), image, 2)
    values = features(net, image, ["r2", "logits"])
    assert layer == "r2"
    assert np.allclose(found, weights["w3"][:, 2] * values["r2"].mean(axis=(2, 3)), atol=1e-5)
    assert np.allclose(found.sum(axis=1), values["logits"][:, 2] - weights["b3"][2], atol=1e-5)


@pytest.mark.parametrize("method", ["grad-cam", "layer-cam", "score-cam", "ablation-cam", "occlusion"])
def test_digits_are_found(method):
    boxes = json.loads((ROOT / "examples" / "boxes.json").read_text())
    card = model_card(CNN)
    hits, overlaps = [], []
    for picture, given in boxes.items():
        batch, placement = card.preprocess.apply(decode(ROOT / "examples" / picture))
        found = explain(CNN, batch, method, list(given), labels=card.labels)
        for heat, box in zip(found.heatmap, given.values(), strict=True):
            inside = placement.box_to_input(box)
            hits.append(points_inside(heat, inside))
            overlaps.append(sweep(heat, inside))
    assert np.mean(hits) >= 0.9
    assert np.mean(overlaps, axis=0).max() > 0.6


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


def test_the_command(run, tmp_path):
    pictures = sorted((ROOT / "examples").glob("digits_*.png"))
    asked = ("localize", CNN, *pictures, "--boxes", ROOT / "examples" / "boxes.json", "--threshold", "0.6")
    code, out, _ = run(*asked, "-o", tmp_path / "out", "--masks-out", tmp_path / "masks", "--units", "2")
    assert code == 0 and "12 boxes: mean IoU 0.6" in out and "pointing game 100%" in out and "channels of" in out
    assert len(list((tmp_path / "out").glob("*.png"))) == 4 and len(list((tmp_path / "masks").glob("*.png"))) == 12
    code, out, _ = run(*asked, "--format", "json")
    document = json.loads(out)
    assert code == 0 and document["kind"] == "localize" and document["summary"]["compared"] == 12
    first = document["results"][0]["targets"][0]
    assert first["iou"] == pytest.approx(box_iou(first["boxes"][0], first["given"]))


def test_the_picture_has_the_overlap_and_the_channels_that_speak_for_the_class(run, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "analyzer.passes.localizing.channel_grid", lambda maps, labels, **_: drawn.append((maps, labels))
    )
    monkeypatch.setattr("analyzer.passes.localizing.stacked", lambda pictures: pictures[0])
    titles = []
    kept = maps_of
    monkeypatch.setattr("analyzer.passes.localizing.maps_of", lambda *a: titles.append(a[4]) or kept(*a))
    picture, boxes = ROOT / "examples" / "digits_chelsea.png", ROOT / "examples" / "boxes.json"
    asked = ("localize", CNN, picture, "--boxes", boxes, "--top-channels", "3", "-o", tmp_path / "out.png")
    code, out, _ = run(*asked, "--format", "json")
    targets = json.loads(out)["results"][0]["targets"]
    assert code == 0 and len(targets) == len(titles) == len(drawn)
    for target, title, (maps, labels) in zip(targets, titles, drawn, strict=True):
        assert title.endswith(f"IoU {target['iou']:.2f}")
        channels = target["units"]["channels"]
        assert [label.split()[0] for label in labels] == [str(channel) for channel in channels]
        array = pictured(CNN, decode(picture), target["units"]["layer"])[target["units"]["layer"]]
        np.testing.assert_allclose(maps, array[0][channels], rtol=1e-5, atol=1e-6)


def test_the_command_without_boxes(run):
    picture = ROOT / "examples" / "digits_chelsea.png"
    code, out, _ = run("localize", CNN, picture, "--several", "--threshold", "0.5", "-t", "four", "-t", "zero")
    assert code == 0 and "four" in out and "IoU" not in out


@pytest.mark.parametrize(("text", "says"), [
    ("{", "cannot read boxes"), ("[1, 2]", "no labeled boxes"),
    ('{"a.png": {"one": [1, 2, 3]}}', "'a.png' has no labeled boxes"),
    ('{"a.png": [[1, 2, 3, 4]]}', "'a.png' has no labeled boxes"),
])  # fmt: skip
def test_bad_boxes_are_one_clear_error(run, tmp_path, text, says):
    (tmp_path / "boxes.json").write_text(text)
    code, _, err = run("localize", CNN, ROOT / "examples" / "digits_chelsea.png", "--boxes", tmp_path / "boxes.json")
    assert code == 2 and says in err and "Traceback" not in err


# ---- As a pass ----


@pytest.fixture
def folder(tmp_path) -> Path:
    """Pictures of one name in two folders, one whose name goes on with a dot, and one that is none."""
    for index, name in enumerate(("a/one.png", "b/one.png", "b/one.zero.png", "b/two.png", "b/zwei.png")):
        (tmp_path / "pics" / name).parent.mkdir(parents=True, exist_ok=True)
        rolled = np.roll(decode(sorted((ROOT / "examples").glob("digits_*.png"))[index % 4]), 3 * index, axis=1)
        write_png(tmp_path / "pics" / name, rolled)
    (tmp_path / "pics" / "b" / "torn.png").write_bytes(b"no picture")
    boxes = {"one.png": {"zero": [1, 1, 20, 20], "four": [5, 5, 30, 30]}, "two.png": {"one": [9, 9, 30, 40]}}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return tmp_path


def localised(run, folder: Path, name: str, *options: str) -> tuple[str, dict[str, bytes]]:
    """The document and every file that is written, without the name of their folder; one picture is no picture."""
    out, masks = folder / f"out-{name}", folder / f"masks-{name}"
    asked = ("localize", CNN, folder / "pics", "--boxes", folder / "boxes.json", "--units", "2", "--format", "json")
    code, text, err = run(*asked, "-o", out, "--masks-out", masks, *options)
    assert code == 5 and "torn.png" in err
    files = {
        f"{place.name[:4]}/{p.name}": p.read_bytes()
        for place in (out, masks)
        for p in sorted(place.iterdir())
        if p.is_file()
    }
    return text.replace(f"out-{name}", "").replace(f"masks-{name}", ""), files


def test_results_do_not_depend_on_the_number_of_workers(run, folder):
    alone = localised(run, folder, "1", "--workers", "1")
    assert json.loads(alone[0])["summary"]["compared"] == 5
    assert len(alone[1]) == 5 + 7 and {"mask/one.zero.png", "mask/one-2.zero.png"} <= set(alone[1])
    for workers in ("2", "4"):
        assert localised(run, folder, workers, "--workers", workers) == alone


def test_a_run_that_was_cut_off_goes_on(run, folder, monkeypatch):
    whole = localised(run, folder, "whole")
    step, done = Localizing.step, []

    def failing(work, batch):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(batch[0].sample.id)
        return step(work, batch)

    asked = ("localize", CNN, folder / "pics", "--boxes", folder / "boxes.json", "--units", "2", "--workers", "1")
    places = ("-o", folder / "out-cut", "--masks-out", folder / "masks-cut")
    with monkeypatch.context() as patched:
        patched.setattr(Localizing, "step", failing)
        assert run(*asked, *places)[0] == 130
    before = list(done)
    (folder / "out-cut" / Path(before[0]).name).unlink()  # what is gone is made again
    monkeypatch.setattr(Localizing, "step", lambda work, batch: done.append(batch[0].sample.id) or step(work, batch))
    assert localised(run, folder, "cut") == whole
    assert len(before) == 3 and len(done) == 3 + 3 and before[0] in done[3:] and before[1] not in done[3:]
    assert {p.suffix for p in (folder / "out-cut").iterdir()} == {".png"}


def test_names_of_masks_are_each_pictures_own():
    given = ["p/a.png", "q/a.png", "q/a.b.png", "q/A-2.png", "q/c.d.png"]
    names = [path.name for path in beginnings(Path("m"), [*given, "p/a.png"]).values()]
    assert names == ["a", "a-2", "a_b", "A-2-2", "c.d"]
