"""True classes of pictures, from files and folders, and a comparison that knows them."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import analyzer
from analyzer import metrics
from analyzer.attribution import Explainer
from analyzer.attribution.cards import read_card
from analyzer.data import (
    annotated,
    find_pictures,
    read_classes,
    read_mask,
    read_masks,
    read_true_boxes,
    with_box_classes,
    with_classes,
)
from analyzer.errors import InputError
from analyzer.images import write_png
from analyzer.metrics.detections import Detections
from analyzer.validation import Side
from tests.models import small_cnn
from tests.test_seen import Run

LABELS = "ant", "bee", "cat", "dog"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two builds that are some per cent apart, their labels, and twelve pictures in folders of classes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    onnx.save(small_cnn(softmax=False, batch=1), "model.onnx")
    other = small_cnn(softmax=False, batch=1)
    for tensor in other.graph.initializer:
        if tensor.name == "w3":
            weight = onnx.numpy_helper.to_array(tensor)
            noise = 0.02 * np.abs(weight).mean() * rng.standard_normal(weight.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array((weight + noise).astype(np.float32), "w3"))
    onnx.save(other, "other.onnx")
    Path("labels.txt").write_text("\n".join(LABELS))
    for i in range(12):
        folder = Path("photos") / LABELS[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        write_png(folder / f"{i}.png", rng.integers(0, 256, (12, 12, 3), np.uint8))
    return tmp_path


def truth(place: Path, text: str, name: str = "truth.csv") -> str:
    (place / name).write_text(text, encoding="utf-8")
    return name


def test_classes_of_a_table(place: Path) -> None:
    table = "\ufeffpicture,class,light\nphotos/ant/0.png,2,day\n1.png, bee ,night\n2.png,,day\n3.png,1,\n"
    assert read_classes(truth(place, table), "light") == {
        "0.png": {"label": 2, "group": "light=day"},
        "1.png": {"label": "bee", "group": "light=night"},
        "2.png": {"group": "light=day"},
        "3.png": {"label": 1},
    }
    tabs = "picture\tclass\n0.png\t2\n"
    assert read_classes(truth(place, tabs, "truth.tsv")) == {"0.png": {"label": 2}}
    assert read_classes(truth(place, '{"0.png": 2, "1.png": "bee", "2.png": 1.0}', "truth.json")) == {
        "0.png": {"label": 2}, "1.png": {"label": "bee"}, "2.png": {"label": 1},
    }  # fmt: skip
    assert read_classes(None) == {}


@pytest.mark.parametrize(
    ("name", "text", "column", "words"),
    [
        ("t.csv", "file,class\n0.png,1\n", None, "a header with picture and class is missing"),
        ("t.csv", "", None, "a header with picture and class is missing"),
        ("t.csv", "picture,class,light\n0.png,1,day\n", "lihgt", "no column 'lihgt'"),
        ("t.json", '{"0.png": 1}', "light", "has no columns to group by"),
        ("t.json", '{"0.png": 1.5}', None, "1.5 is not a class"),
        ("t.json", '{"0.png": true}', None, "True is not a class"),
    ],
)
def test_what_is_no_table_of_classes(place: Path, name: str, text: str, column: str | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_classes(truth(place, text, name), column)
    with pytest.raises(InputError, match="no file has the column"):
        read_classes(None, "light")


def test_names_of_classes_are_numbers_by_the_labels(place: Path) -> None:
    known = {"0.png": {"label": "Ant"}, "1.png": {"label": 3, "group": "g"}}
    samples = with_classes(find_pictures(["photos"], annotations=known), LABELS)
    found = {Path(s.id).name: s.annotations for s in samples}
    assert found["0.png"]["label"] == 0 and found["1.png"] == {"label": 3, "group": "g"} and found["2.png"] == {}
    by_folder = with_classes(find_pictures(["photos"]), LABELS, by_folder=True)
    assert all(s.annotations["label"] == int(Path(s.id).stem) % 3 for s in by_folder)
    with pytest.raises(InputError, match="no class is named 'bat'") as error:
        with_classes(find_pictures(["photos"], annotations={"0.png": {"label": "bat"}}), LABELS)
    assert "'cat'" in (error.value.hint or "")
    with pytest.raises(InputError) as error:
        with_classes(find_pictures(["photos"], annotations={"0.png": {"label": "bat"}}), None)
    assert "--labels" in (error.value.hint or "")


def test_compare_knows_the_true_classes(run: Run, place: Path) -> None:
    table = "picture,class,kind\n" + "".join(
        f"{i}.png,{LABELS[i % 3]},{'odd' if i % 2 else 'even'}\n" for i in range(12)
    )
    asked = "compare", "model.onnx", "other.onnx", "photos", "--preset", "0-1", "--labels", "labels.txt"
    for classes in (truth(place, table), "folders"):
        code, out, err = run(*asked, "--classes", classes, "--format", "json")
        document = json.loads(out)
        outputs = document["comparison"]["outputs"]
        assert code == 0 and document["findings"] == [], err
        assert {d["code"] for d in document["inconclusive"]} == {"labels-differ", "accuracy-drops"}
        rows = document["comparison"]["rows"]
        expected = [r["top"][0] == int(Path(r["picture"]).stem) % 3 for r in rows]
        assert [r["right"][0] for r in rows] == expected and outputs["accuracy"][0] == pytest.approx(np.mean(expected))
    code, out, _ = run(*asked, "--classes", "folders", "--strict")
    assert code == 1 and out.startswith("inconclusive: no findings, but labels agree on 12 of 12 pictures")
    assert "73 pictures would show 95.0% if all others agreed" in out and "annotations: 12 pictures, accuracy" in out
    code, out, _ = run(*asked, "--classes", "folders", "--strict", "--exit-zero")
    assert code == 0
    asked_of_one = "audit", "model.onnx", "photos", "--preset", "0-1", "--labels", "labels.txt", "--probes", "12"
    for classes in ("truth.csv", "folders"):
        _, out, _ = run(*asked_of_one, "--classes", classes, "--format", "json")
        tried = json.loads(out)["audit"]["contract"]["declared"]
        assert tried["accuracy"] == pytest.approx(outputs["accuracy"][0])
    code, out, _ = run(*asked, "--classes", "truth.csv", "--slice", "kind")
    assert "kind=even: 6 pictures, 100.0% of labels agree" in out and "kind=odd: 6 pictures" in out
    code, out, err = run(*asked, "--slice", "kind")
    assert code == 2 and "no file has the column 'kind'" in err and "--classes FILE.csv" in err


def test_inconclusive_in_every_form(run: Run, place: Path) -> None:
    reports = [f"report.{ending}" for ending in ("json", "html", "md", "xml", "sarif")]
    asked = [word for report in reports for word in ("--report", report)]
    code, _, _ = run("compare", "model.onnx", "other.onnx", "photos", "--preset", "0-1", *asked)
    words = "labels agree on 12 of 12 pictures"
    assert code == 0 and all(words in (place / report).read_text() for report in reports)
    assert '<skipped message="inconclusive: labels agree' in (place / "report.xml").read_text()
    (result,) = json.loads((place / "report.sarif").read_text())["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("labels-differ", "note")
    assert "Inconclusive</h2>" in (place / "report.html").read_text()
    code, out, _ = run("compare", "--judge", "report.json", "--strict")
    assert code == 1 and words in out
    code, out, _ = run("compare", "--judge", "report.json", "--strict", "--threshold", "label_agreement=0.7")
    assert code == 0 and out.startswith("pass")


def test_the_function_knows_them_too(place: Path) -> None:
    found = analyzer.compare("model.onnx", "other.onnx", "photos", labels=LABELS, classes="folders", preset="0-1")
    assert found.passed and found.inconclusive and "inconclusive" in repr(found)
    by_name = {f"{i}.png": LABELS[i % 3] for i in range(12)}
    again = analyzer.compare("model.onnx", "other.onnx", "photos", labels=LABELS, classes=by_name, preset="0-1")
    assert again.report["outputs"] == found.report["outputs"] and "accuracy" in found.report["outputs"]


# ---- Boxes and masks ----

ROOT = Path(__file__).resolve().parent.parent


def drawn() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """True boxes and detections of twelve pictures, in COCO's form."""
    rng = np.random.default_rng(7)
    truths, found = list[dict[str, Any]](), list[dict[str, Any]]()
    for image in range(12):
        for _ in range(int(rng.integers(0, 7))):
            x, y = rng.uniform(0, 140, 2).round(2)
            w, h = rng.uniform(20, 60, 2).round(2)
            kind = int(rng.integers(1, 4))
            truths.append({"image_id": image, "category_id": kind, "bbox": [x, y, w, h]})
            for _ in range(int(rng.integers(0, 3))):
                d = rng.normal(0, 5, 4)
                other = kind if rng.random() < 0.85 else int(rng.integers(1, 4))
                box = np.round([x + d[0], y + d[1], max(w + d[2], 5), max(h + d[3], 5)], 2).tolist()
                score = float(np.round(rng.random(), 4))
                found.append({"image_id": image, "category_id": other, "bbox": box, "score": score})
        for _ in range(2):
            x, y = rng.uniform(0, 140, 2).round(2)
            kind, score = int(rng.integers(1, 5)), float(np.round(rng.random() * 0.6, 4))
            found.append({"image_id": image, "category_id": kind, "bbox": [x, y, 30.0, 30.0], "score": score})
    return truths, found


def corners(rows: list[dict[str, Any]]) -> np.ndarray:
    boxes = np.array([row["bbox"] for row in rows], float).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def matched(truths: list[dict[str, Any]], found: list[dict[str, Any]]) -> metrics.Matched:
    kinds, scores = (np.array([row[key] for row in found]) for key in ("category_id", "score"))
    true = np.array([row["category_id"] for row in truths], np.int64)
    detections = Detections(corners(found), scores.astype(float), kinds.astype(np.int64))
    return metrics.matched_to_truth(detections, corners(truths), true)


def test_average_precision_is_that_of_pycocotools() -> None:
    """pycocotools 2.0.11: COCOeval(…, "bbox").stats[:2] of these boxes."""
    sides = ([[row for row in rows if row["image_id"] == i] for i in range(12)] for rows in drawn())
    pictures = [matched(*both) for both in zip(*sides, strict=True)]
    assert metrics.average_precision(pictures) == pytest.approx((0.21311977948450744, 0.5104945611618018), rel=1e-9)
    assert np.isnan(metrics.average_precision([])).all()


def test_average_precision_of_what_is_found_exactly_and_of_nothing() -> None:
    truths, _ = drawn()
    first = [row for row in truths if row["image_id"] == truths[0]["image_id"]]
    assert metrics.average_precision([matched(first, [row | {"score": 0.5} for row in first])]) == (1, 1)
    assert metrics.average_precision([matched(first, [])]) == (0, 0)


def test_true_boxes_of_every_form(place: Path) -> None:
    truths, _ = drawn()
    images = [{"id": i, "file_name": f"photos/{i}.png"} for i in range(12)]
    names = [{"id": i, "name": LABELS[i - 1]} for i in range(1, 4)]
    coco = {"images": images, "annotations": [*truths, truths[0] | {"iscrowd": 1}], "categories": names}
    Path("coco.json").write_text(json.dumps(coco))
    found = read_true_boxes("coco.json")
    assert len(found) == 12 and sum(len(known["boxes"]) for known in found.values()) == len(truths)
    rows = [row for row in truths if row["image_id"] == 3]
    assert np.allclose(found["3.png"]["boxes"], corners(rows))
    assert found["3.png"]["box_classes"] == [LABELS[row["category_id"] - 1] for row in rows]
    named = {"0.png": {"ant": [0, 0, 4, 4], "bee": [[1, 1, 2, 2], [2, 2, 3, 3]]}, "1.png": [[0, 0, 1, 1]], "2.png": []}
    Path("boxes.json").write_text(json.dumps(named))
    found = read_true_boxes("boxes.json")
    assert found["0.png"]["box_classes"] == ["ant", "bee", "bee"] and found["0.png"]["boxes"].shape == (3, 4)
    assert "box_classes" not in found["1.png"] and found["2.png"]["boxes"].shape == (0, 4)
    (sample, *_) = with_box_classes(annotated(find_pictures(["photos/ant/0.png"]), found), LABELS)
    assert sample.annotations["box_classes"] == [0, 1, 1]


def test_pictures_are_named_by_paths_or_files(place: Path) -> None:
    samples = find_pictures(["photos/ant/0.png"])
    for name in ("photos/ant/0.png", "elsewhere/0.png", "0.png", "0"):
        (sample,) = annotated(samples, {"1.png": {"label": 2}, name: {"label": 3}})
        assert sample.annotations["label"] == 3
    (sample,) = annotated(samples, {samples[0].id: {"label": 3}, "other/0.png": {"label": 2}})
    assert sample.annotations["label"] == 3  # the whole path before the name
    with pytest.raises(InputError, match=r"none of the pictures, such as .*0.png"):
        annotated(samples, {"1.png": {"label": 2}})
    assert not annotated(samples, {"1.png": {"boxes": np.zeros((1, 4))}})[0].annotations  # it may hold no object


def test_classes_of_boxes_are_no_matter_for_classifiers(place: Path, run: Run) -> None:
    """Which have no labels here."""
    Path("boxes.json").write_text(json.dumps({"0.png": {"zebra": [0, 0, 4, 4]}}))
    code, _, err = run("compare", "model.onnx", "model.onnx", "photos/ant", "--boxes", "boxes.json")
    assert code == 0, err
    code, out, err = run("audit", "model.onnx", "photos/ant", "--boxes", "boxes.json")
    assert code in (0, 1) and "pointing" in out, err


def test_compare_measures_map_of_detectors(run: Run, tmp_path: Path) -> None:
    models = [str(ROOT / "models" / f"digits_detector{kind}.onnx") for kind in ("", "_int8")]
    pictures = [str(p) for p in sorted((ROOT / "examples").glob("digits_*.png"))]
    boxes = ROOT / "examples" / "boxes.json"
    code, out, err = run("compare", *models, *pictures, "--boxes", str(boxes), "--format", "json")
    document = json.loads(out)
    truth = document["comparison"]["outputs"]["truth"]
    assert code == 0 and truth["measure"] == "mAP" and truth["pictures"] == 4, err
    assert truth["accuracy"][0] > 0.9 and truth["loss"] == pytest.approx(np.subtract(*truth["accuracy"]), abs=1e-6)
    low, high = truth["interval"]
    assert low <= truth["loss"] <= high
    swapped = json.loads(boxes.read_text())
    names = sorted({name for entry in swapped.values() for name in entry})
    other = dict(zip(names, [*names[1:], names[0]], strict=True))
    wrong = {picture: {other[name]: box for name, box in entry.items()} for picture, entry in swapped.items()}
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    _, out, _ = run("compare", *models, *pictures, "--boxes", str(tmp_path / "wrong.json"), "--format", "json")
    assert json.loads(out)["comparison"]["outputs"]["truth"]["accuracy"][0] < 0.1
    places = {picture: list(entry.values()) for picture, entry in swapped.items()}
    (tmp_path / "places.json").write_text(json.dumps(places))
    _, out, _ = run("compare", *models, *pictures, "--boxes", str(tmp_path / "places.json"))
    assert "annotations: 4 pictures, mAP 9" in out


def test_compare_measures_miou_of_segmenters(run: Run, tmp_path: Path) -> None:
    """The masks are what the model says."""
    reference = ROOT / "models" / "digits_segmenter.onnx"
    pictures = sorted((ROOT / "examples").glob("digits_*.png"))[:3]
    (tmp_path / "masks").mkdir()
    explainer = Explainer(reference)
    card = read_card(explainer, None, {})
    for picture in pictures:
        fed = card.feeds.feed(picture)
        side = Side(explainer, fed.main.array.shape)
        classes = side.task.mask(side.task.answer(side.all_outputs(fed.main.array)))
        assert classes is not None
        rows, columns = fed.placement.centres()
        places = [
            np.clip((c * n / whole).astype(int), 0, n - 1)
            for c, n, whole in zip((rows, columns), classes.shape, fed.placement.input_size, strict=True)
        ]
        write_mask(tmp_path / "masks" / f"{picture.stem}.png", classes[np.ix_(*places)])
    asked = "compare", str(reference), str(reference), *map(str, pictures), "--masks", str(tmp_path / "masks")
    code, out, err = run(*asked, "--format", "json")
    truth = json.loads(out)["comparison"]["outputs"]["truth"]
    assert code == 0 and truth["measure"] == "mIoU" and truth["accuracy"] == [1, 1] and truth["loss"] == 0, err
    moved = read_mask(str(tmp_path / "masks" / f"{pictures[0].stem}.png"))
    write_mask(tmp_path / "masks" / f"{pictures[0].stem}.png", np.where(moved == 0, 255, moved))  # unknown
    _, out, _ = run(*asked, "--format", "json")
    assert json.loads(out)["comparison"]["outputs"]["truth"]["accuracy"] == [1, 1]
    write_mask(tmp_path / "masks" / f"{pictures[0].stem}.png", np.where(moved == 0, 9, moved))
    _, out, _ = run(*asked, "--format", "json")
    truth = json.loads(out)["comparison"]["outputs"]["truth"]
    assert truth["accuracy"][0] < 1
    for data in stored(pictures, tmp_path / "masks", tmp_path):
        code, out, err = run("compare", str(reference), str(reference), data, "--masks", "dataset", "--format", "json")
        assert json.loads(out)["comparison"]["outputs"]["truth"] == truth, err
    asked = "compare", str(reference), str(reference), str(tmp_path / "t.tar"), "--format", "json"
    assert "truth" not in json.loads(run(*asked)[1])["comparison"]["outputs"]


def stored(pictures: list[Path], masks: Path, folder: Path) -> Iterator[str]:
    """Pictures and their masks as a data set: a folder with metadata, an archive, a table."""
    (folder / "set").mkdir()
    with tarfile.open(folder / "t.tar", "w") as tar, (folder / "set" / "metadata.csv").open("w") as said:
        said.write("file_name,mask\n")
        for number, picture in enumerate(pictures):
            mask = masks / f"{picture.stem}.png"
            shutil.copy(picture, folder / "set" / f"{number}.png")
            said.write(f"{number}.png,../masks/{mask.name}\n")
            tar.add(picture, f"{number}.png")
            tar.add(mask, f"{number}.mask.png")
    yield str(folder / "set")
    yield str(folder / "t.tar")
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra remote)")
    rows = {
        "image": [picture.read_bytes() for picture in pictures],
        "mask": [{"bytes": (masks / f"{picture.stem}.png").read_bytes(), "path": None} for picture in pictures],
    }
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(rows), folder / "t.parquet", row_group_size=2)
    yield str(folder / "t.parquet")


def write_mask(path: Path, classes: np.ndarray) -> None:
    Image.fromarray(classes.astype(np.uint8)).save(path)


def test_what_is_no_mask(place: Path) -> None:
    with pytest.raises(InputError, match="no folder of masks"):
        read_masks("photos/none")
    with pytest.raises(InputError, match="a mask of 3 channels"):
        read_mask("photos/ant/0.png")
    Path("mask.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"cannot read the mask mask\.png"):
        read_mask("mask.png")
    assert read_masks(None) == {} and set(read_masks("photos")) >= {"0", "11"}
