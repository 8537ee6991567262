"""`explain --table`: the JSON document as rows."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from analyzer.errors import OutputError
from analyzer.images import decode, write_png
from analyzer.report import results_table
from analyzer.report.results_table import ResultsTable

MODELS = Path(__file__).resolve().parents[1] / "models"
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra remote)")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    whole = decode(MODELS.parent / "examples" / "digits_camera.png")
    for number, (y, x) in enumerate([(0, 0), (120, 60), (200, 200)]):
        write_png(folder / f"{number}.png", np.ascontiguousarray(whole[y : y + 180, x : x + 150]))
    (folder / "broken.png").write_text("no picture")
    return folder


def explained(run, model, *words):
    code, out, _ = run("explain", str(MODELS / model), ".", "--format", "json", *words)
    assert code == 5
    return json.loads(out)


def test_rows_are_the_document(run, tmp_path, monkeypatch):
    monkeypatch.setattr(results_table, "ROWS", 2)  # written in several groups
    words = "-m", "layer-cam", "-m", "gradient", "-t", "all", "--table", str(tmp_path / "out")
    document = explained(run, "digits_detector.onnx", *words)
    rows = parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    maps = [(r, m) for r in document["results"] for m in r["maps"]]
    assert len(maps) >= 6 and [r["error"] for r in rows if r["error"]] == [document["failed"][0]["error"]]
    for row, (result, found) in zip([r for r in rows if r["method"]], maps, strict=True):
        assert (row["picture"], [row["width"], row["height"]]) == (result["picture"], result["size"])
        for name in ("method", "target", "class", "label", "value", "layer", "diagnosis"):
            assert row[name] == found[name]
        assert [row["x"], row["y"]] == found["maximum"]
        (box,) = [p["box"] for p in result["predictions"] if found["target"].startswith(f"{p['target']} ")]
        assert [row[side] for side in ("left", "top", "right", "bottom")] == box
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["pictures"], manifest["failed"], manifest["rows"]) == (3, 1, len(rows))
    assert manifest["identity"] == hashlib.sha256((MODELS / "digits_detector.onnx").read_bytes()).hexdigest()
    assert list(manifest["columns"]) == list(rows[0])


def test_a_picture_of_which_nothing_is_said_has_a_row(run, tmp_path):
    words = "--score-threshold", "0.9999", "--table", str(tmp_path)
    document = explained(run, "digits_detector.onnx", *words)
    rows = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    said = {r["picture"]: r["diagnosis"] for r in rows if not r["error"]}
    assert said == {r["picture"]: r["nothing"] for r in document["results"]} and all(said.values())


def test_an_error_leaves_neither_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), ResultsTable(tmp_path, {}) as table:
        table.add([], {"a.png": OutputError("gone")})
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_without_pyarrow_there_is_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run("explain", str(MODELS / "digits_cnn.onnx"), ".", "--table", str(tmp_path / "out"))
    assert code == 3 and 'pip install "onnx-analyzer[remote]"' in err
    assert not (tmp_path / "out").exists()
