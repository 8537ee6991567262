"""JSON documents are what the schema in the package says, for every command; so are errors."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from importlib.resources import files
from typing import Any

import numpy as np
import onnx
import pytest

from analyzer.commands.names import COMMANDS
from analyzer.version import JSON_SCHEMA
from tests.models import model, node
from tests.test_golden import CALLS, GOLDEN, WITHOUT_JSON

jsonschema = pytest.importorskip("jsonschema", reason="documents are validated with the package jsonschema")
SCHEMA = json.loads(files("analyzer").joinpath("schema.json").read_text(encoding="utf-8"))
CHECK = jsonschema.Draft202012Validator(SCHEMA)


def kept(name: str) -> dict[str, Any]:
    """The document that a golden file holds."""
    text = (GOLDEN / f"{name}.json.txt").read_text(encoding="utf-8")
    return dict(json.JSONDecoder().raw_decode(text[text.index("{") :])[0])


@pytest.mark.parametrize("name", [n for n in CALLS if n.split("-")[0] not in {"doctor", *WITHOUT_JSON}])
def test_every_document_is_as_the_schema_says(name: str) -> None:
    CHECK.validate(kept(name))


def test_doctor_is_as_the_schema_says() -> None:
    done = subprocess.run([sys.executable, "cli.py", "doctor", "--format", "json"], capture_output=True, text=True)
    CHECK.validate(json.loads(done.stdout))


def test_the_schema_names_every_command_and_the_version() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["$defs"]) == set(COMMANDS) - WITHOUT_JSON | {"error"}
    assert SCHEMA["properties"]["schema_version"]["const"] == JSON_SCHEMA


@pytest.mark.parametrize("name", [n for n in CALLS if n.split("-")[0] not in {"doctor", *WITHOUT_JSON}])
def test_the_schema_names_every_key_of_a_document(name: str) -> None:
    document = kept(name)
    entry = SCHEMA["$defs"][document["kind"]]
    assert not list(unnamed(document, {"properties": entry["properties"] | SCHEMA["properties"]}))


def unnamed(value: Any, entry: dict[str, Any], path: str = "") -> list[str]:
    """Keys of a document that the schema does not name, where it names any."""
    if isinstance(value, list) and isinstance(entry.get("items"), dict):
        return [p for item in value for p in unnamed(item, entry["items"], path)]
    if not isinstance(value, dict) or "properties" not in entry:
        return []
    found = [f"{path}{name}" for name in value if name not in entry["properties"]]
    known = [n for n in value if n in entry["properties"]]
    return found + [p for n in known for p in unnamed(value[n], entry["properties"][n], f"{path}{n}.")]


def test_a_document_with_a_key_less_or_of_another_type_is_refused() -> None:
    document = kept("explain")
    for spoil in (
        lambda d: d["results"][0].pop("maps"),
        lambda d: d["results"][0]["top"][0].update(score="high"),
        lambda d: d["results"][0]["maps"][0].pop("layer"),
        lambda d: d.update(kind="explained"),
        lambda d: d.pop("schema_version"),
    ):
        spoiled = deepcopy(document)
        spoil(spoiled)
        assert not CHECK.is_valid(spoiled)


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ("explain nothing.onnx a.png --format json", 2, "nothing.onnx"),
        ("explain models/digits_cnn.onnx examples/digits_chelsea.png -m grid-cam --format json", 2, "grid-cam"),
        ("explain models/digits_cnn.onnx examples/digits_chelsea.png -l nowhere --format=json", 2, "nowhere"),
        ("inspect models/digits_cnn.onnx --fromat json --format json", 2, "fromat"),
        ("audit models/digits_cnn.onnx --format json", 2, ""),
    ],
)
def test_an_error_is_a_document_on_stdout_and_the_same_sentence_on_stderr(words: str, code: int, part: str) -> None:
    done = subprocess.run([sys.executable, "cli.py", *words.split()], capture_output=True, text=True)
    document = json.loads(done.stdout)
    CHECK.validate(document)
    assert (done.returncode, document["kind"], document["exit_code"]) == (code, "error", code)
    assert part in document["error"] and document["error"] in " ".join(done.stderr.split()).replace("Error: ", "")
    assert document["hint"] in done.stderr
    text = subprocess.run(
        [sys.executable, "cli.py", *(w for w in words.split() if "json" not in w and w != "--format")],
        capture_output=True,
        text=True,
    )
    assert not text.stdout, "without JSON an error leaves stdout empty"


CNN, PICTURE = "models/digits_cnn.onnx", "examples/digits_chelsea.png"
NOTHING = {
    "filters without a spectrum": "filters POINTS -l c",
    "a unit that is a whole channel": f"project {CNN} {PICTURE} -u 3@all",
    "a channel that no picture activates": f"evolution POINTS POINTS --data {PICTURE} -l r -u 0 -o OUT/drawn.png",
    "a class without a label": f"dream {CNN} -t 4 --steps 1 -o OUT/dream.png",
    "no true boxes": f"localize {CNN} {PICTURE} --top-channels 2",
    "a target that is no class": f"explain {CNN} {PICTURE} -t probabilities[:,2:5].max() -m gradient",
}


def pointwise() -> onnx.ModelProto:
    """A 1×1 convolution whose first channel never rises above 0."""
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["logits"]),
    ]
    arrays = {"w": np.ones((2, 3, 1, 1), np.float32), "b": np.array([-1e4, 0], np.float32)}
    return model(nodes, {"x": [1, 3, 12, 12]}, {"logits": [1, 2]}, arrays)


@pytest.mark.parametrize("what", NOTHING)
def test_documents_with_something_missing_are_as_the_schema_says(what: str, tmp_path: Any) -> None:
    points = tmp_path / "points.onnx"
    onnx.save(pointwise(), points)
    words = NOTHING[what].replace("OUT", str(tmp_path)).replace("POINTS", str(points)).split()
    done = subprocess.run([sys.executable, "cli.py", *words, "--format", "json"], capture_output=True, text=True)
    document = json.loads(done.stdout)
    CHECK.validate(document)
    assert document["kind"] == words[0], document
