"""True classes of pictures, from files and folders, and a comparison that knows them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import analyzer
from analyzer.data import find_pictures, read_classes, with_classes
from analyzer.errors import InputError
from analyzer.images import write_png
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
    assert "73 pictures would show 95.0% if all others agreed" in out and "true classes: 12 pictures, accuracy" in out
    code, out, _ = run(*asked, "--classes", "folders", "--strict", "--exit-zero")
    assert code == 0
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
