"""The examples of docs/ci.md: what they name exists, and its Python runs, with stand-ins for FiftyOne and MLflow."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

import analyzer
from analyzer.commands import cli
from analyzer.images import decode
from analyzer.validation.checks import CHECKS
from analyzer.validation.verdict import Thresholds

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def commands_of(text: str) -> list[list[str]]:
    """The command lines of onnx-analyzer in a text; those of a YAML file go on over indented lines."""
    joined = re.sub(r"\n +(?=--)", " ", text)
    lines = re.findall(r"onnx-analyzer ((?:compare|audit|explain|mine) [^\n`>]*)", joined)
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("arguments", commands_of(PAGE), ids=" ".join)
def test_the_commands_exist(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are parsed as the program does; their files need not be there."""
    monkeypatch.chdir(tmp_path)
    name, *rest = arguments
    command = cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    given = {word.split("=")[0] for word in rest if word.startswith("--")}
    assert given and given <= known


def test_the_jobs_are_yaml_with_these_commands() -> None:
    yaml = pytest.importorskip("yaml")
    github, gitlab, hooks = (yaml.safe_load(text) for text in blocks("yaml"))
    steps = github["jobs"]["model"]["steps"]
    runs = [step["run"] for step in steps if "run" in step]
    assert [words[0] for run in runs for words in commands_of(run)] == ["compare", "audit"]
    uploaded = next(step["with"]["sarif_file"] for step in steps if "sarif" in step.get("uses", ""))
    assert f"--report {uploaded}" in runs[1]
    assert github["jobs"]["model"]["permissions"]["security-events"] == "write"
    (line,) = [words for line in gitlab["model"]["script"] for words in commands_of(line)]
    assert gitlab["model"]["artifacts"]["reports"]["junit"] in line
    assert gitlab["model"]["artifacts"]["when"] == "always"
    (hook,) = hooks["repos"][0]["hooks"]
    assert commands_of(hook["entry"]) and re.match(hook["files"], "models/int8.onnx")


def test_the_thresholds_have_these_names() -> None:
    tables = tomllib.loads(blocks("toml")[0])["tool"]["onnx-analyzer"]
    assert set(tables["compare"]["thresholds"]) <= set(Thresholds.__dataclass_fields__)
    assert set(tables["audit"]["thresholds"]) <= {check.name for check in CHECKS if check.code}


def test_the_exit_codes_are_those_of_the_program() -> None:
    from analyzer import errors

    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert listed >= {kind.exit_code for kind in vars(errors).values() if hasattr(kind, "exit_code")}


class Sample(dict[str, Any]):
    def __init__(self, filepath: str, **fields: Any) -> None:
        super().__init__(fields, filepath=filepath)


class Dataset:
    made: ClassVar[list[Dataset]] = []

    def __init__(self, name: str) -> None:
        self.name, self.samples = name, list[Sample]()
        self.made.append(self)

    def add_sample(self, sample: Sample) -> None:
        self.samples.append(sample)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report of two builds on two pictures."""
    folder = tmp_path_factory.mktemp("ci")
    card = tomllib.loads((ROOT / "models" / "models.toml").read_text())["digits_cnn.onnx"]["preprocess"]
    for name, file in (("fp32", "digits_cnn"), ("int8", "digits_cnn_int8")):
        shutil.copy(ROOT / "models" / f"{file}.onnx", folder / f"{name}.onnx")
        (folder / f"{name}.toml").write_text(f'[preprocess]\npreset = "{card["preset"]}"\n')
    (folder / "photos").mkdir()
    for name in ("camera", "coffee"):
        shutil.copy(ROOT / "examples" / f"digits_{name}.png", folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        analyzer.compare("fp32.onnx", "int8.onnx", "photos/", method="grad-cam", report="report/", draw=1)
    return folder


def test_the_python_of_trackers_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    fiftyone, mlflow, logged = ModuleType("fiftyone"), ModuleType("mlflow"), dict[str, Any]()
    fiftyone.__dict__.update(Sample=Sample, Dataset=Dataset, Heatmap=lambda **fields: fields)
    mlflow.__dict__.update(log_metrics=logged.update, log_artifacts=lambda *given: logged.update(artifacts=given))
    monkeypatch.setitem(sys.modules, "fiftyone", fiftyone)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    for code in blocks("python")[:2]:
        exec(compile(code, "docs/ci.md", "exec"), {"__name__": "example"})
    assert logged["artifacts"] == ("report", "onnx-analyzer") and Path("report/index.html").is_file()
    assert all(isinstance(value, float | int) for name, value in logged.items() if name != "artifacts")
    rows = json.loads(Path("report/result.json").read_text())["comparison"]["rows"]
    samples = Dataset.made[-1].samples
    assert [sample["filepath"] for sample in samples] == [row["picture"] for row in rows]
    for sample in samples:
        assert Path(sample["filepath"]).is_file() and sample["labels_agree"] in (True, False)
        maps = [np.asarray(sample[model]["map"]) for model in ("fp32", "int8")]
        assert all(m.shape == decode(sample["filepath"]).shape[:2] and 0 <= m.min() <= m.max() <= 1 for m in maps)
        assert np.corrcoef(*(m.ravel() for m in maps))[0, 1] > 0.9
