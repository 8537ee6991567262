"""The command line: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from analyzer.commands import main
from analyzer.images import write_png
from tests.models import small_cnn


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model and a picture."""
    folder = tmp_path_factory.mktemp("commands")
    onnx.save(small_cnn(), folder / "model.onnx")
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    write_png(folder / "picture.png", noise)
    write_png(folder / "second.png", noise[::-1])
    return folder


@pytest.fixture
def run(monkeypatch, capsys, place):
    """run(*arguments) → (exit code, stdout, stderr), in the folder of the model."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


# ---- What works ----


def test_explain_writes_an_overlay_and_prints_the_classes(run, place):
    code, out, _ = run("explain", "model.onnx", "picture.png", "-o", "heat.png", "--raw", "heat.npy", "--preset", "0-1")
    assert code == 0
    assert "grad-cam of" in out and "written: heat.png" in out
    assert (place / "heat.png").read_bytes().startswith(b"\x89PNG")
    assert np.load(place / "heat.npy").ndim == 3


def test_options_of_methods(run):
    asked = ("explain", "model.onnx", "picture.png", "--preset", "0-1", "-m", "occlusion", "-m", "grad-cam")
    code, out, _ = run(*asked, "-O", "patch=6", "-O", "stride=6", "--format", "json")
    maps = json.loads(out)["results"][0]["maps"]
    assert code == 0 and np.array(maps[0]["details"]["score"]).shape == (2, 2) and maps[1]["details"] == {}
    code, _, err = run(*asked, "-O", "patchs=6")
    assert code == 2 and "did you mean 'patch'" in err
    code, _, err = run(*asked, "-O", "patch")
    assert code == 2 and "NAME=VALUE" in err
    code, out, _ = run("explain", "model.onnx", "picture.png", "--preset", "0-1", "-m", "integrated-gradients")
    assert code == 0 and "which should be" in out


def test_explain_as_json(run):
    code, out, err = run("explain", "model.onnx", "picture.png", "--preset", "0-1", "--format", "json", "-t", "1")
    document = json.loads(out)
    assert code == 0 and document["schema_version"] == 1 and document["kind"] == "explain"
    assert document["results"][0]["maps"][0]["class"] == 1
    assert "Traceback" not in err


def test_several_methods_and_targets_make_a_grid(run, place):
    arguments = ["-m", "grad-cam", "-m", "gradient", "-t", "0", "-t", "1", "-o", "grid.png", "--preset", "0-1"]
    assert run("explain", "model.onnx", "picture.png", *arguments)[0] == 0
    assert (place / "grid.png").exists()


def test_several_pictures_go_into_a_folder_and_one_bad_one_is_told(run, place):
    (place / "bad.png").write_text("no picture")
    code, _out, err = run(
        "explain", "model.onnx", "picture.png", "bad.png", "second.png", "-o", "maps", "--preset", "0-1"
    )
    assert code == 5
    assert sorted(p.name for p in (place / "maps").iterdir()) == ["picture.png", "second.png"]
    assert "bad.png" in err and "Traceback" not in err


def test_features_writes_grids_and_arrays(run, place):
    code, _out, _ = run("features", "model.onnx", "picture.png", "-l", "r1", "-o", "features", "--preset", "0-1")
    assert code == 0
    names = [p.name for p in (place / "features").rglob("*")]
    assert any(n.endswith(".png") for n in names) and any(n.endswith(".npz") for n in names)


def test_export_runs_without_this_package(run, place):
    import onnxruntime as ort

    assert run("export", "model.onnx", "-o", "deploy.onnx")[0] == 0
    session = ort.InferenceSession(str(place / "deploy.onnx"))
    assert "heatmap" in [o.name for o in session.get_outputs()]


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor"],
        ["inspect", "model.onnx"],
        ["plan", "model.onnx"],
        ["receptive-field", "model.onnx"],
        ["ops"],
        ["methods"],
    ],
    ids=lambda a: a[0],
)
def test_reports_in_both_forms(run, arguments):
    code, out, _ = run(*arguments)
    assert code == 0 and out.strip()
    code, out, _ = run(*arguments, "--format", "json")
    assert code == 0 and json.loads(out)["kind"] == arguments[0]


def test_help_is_quick_and_complete(run):
    _code, out, _ = run("--help")
    for command in ("doctor", "inspect", "plan", "explain", "features", "receptive-field", "export", "ops", "methods"):
        assert command in out


# ---- What fails: one sentence, the right code, nothing half-written ----


def model_of(*nodes: onnx.NodeProto, output: str = "y", domain: str = "", weights: dict | None = None) -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "bad",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value(output, TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def external(location: str) -> bytes:
    model = onnx.load_from_string(model_of(helper.make_node("Mul", ["x", "w"], ["y"]), weights={"w": np.ones(1, "f")}))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model.SerializeToString()


node = helper.make_node
BAD_MODELS = {
    "empty": (b"", 2, "empty"),
    "text": (b"this is no model at all", 2, "ONNX"),
    "web page": (b"<!DOCTYPE html><html>404</html>", 2, "ONNX"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(64), 2, "ONNX"),
    "truncated": (small_cnn().SerializeToString()[:-200], 2, "model"),
    "no nodes": (model_of(output="x"), (2, 3), "bad"),
    "cycle": (model_of(node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), output="b"), 2, "cycl"),
    "unknown operator": (model_of(node("Frobnicate", ["x"], ["y"])), 3, "Frobnicate"),
    "unknown domain": (model_of(node("Magic", ["x"], ["y"], domain="acme"), domain="acme"), 3, "Magic"),
    "missing tensor": (model_of(node("Add", ["x", "nowhere"], ["y"])), 2, "nowhere"),
    "missing data": (external("weights.bin"), 2, "weights.bin"),
    "data elsewhere": (external("../../etc/passwd"), 2, "passwd"),
    "absolute data": (external("/etc/passwd"), 2, "passwd"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models(run, place, name):
    content, code, words = BAD_MODELS[name]
    (place / "bad.onnx").write_bytes(content)
    for command in (
        ["inspect", "bad.onnx"],
        ["explain", "bad.onnx", "picture.png", "-o", "never.png", "--preset", "0-1"],
    ):
        found, out, err = run(*command)
        if command[0] == "inspect" and found == 0:
            continue  # what cannot be differentiated can still be looked at
        assert found in (code if isinstance(code, tuple) else (code,)), err
        assert err.startswith("error: ") and words in err and "Traceback" not in err
        assert out == ""
    assert not (place / "never.png").exists()


EXPLAIN = ["explain", "model.onnx", "picture.png", "--preset", "0-1", "-o", "never.png"]
BAD_CALLS = {
    "no model": (["explain", "modle.onnx", "picture.png", "-o", "never.png"], 2, "modle.onnx"),
    "a folder": (["inspect", "."], 2, "."),
    "no picture": (["explain", "model.onnx", "pictrue.png", "-o", "never.png"], 2, "picture.png"),
    "layer": ([*EXPLAIN, "-l", "r9"], 2, "r9"),
    "class": ([*EXPLAIN, "-t", "1000"], 2, "1000"),
    "label": ([*EXPLAIN, "-t", "tabby"], 2, "tabby"),
    "expression": ([*EXPLAIN, "-t", "logits[:, 99999].max("], 2, "logits"),
    "method": ([*EXPLAIN, "-m", "gradcam"], 2, "grad-cam"),
    "provider": ([*EXPLAIN, "-p", "tpu"], 2, "tpu"),
    "preset": (["explain", "model.onnx", "picture.png", "--preset", "imagnet"], 2, "imagenet"),
    "folder of the result": ([*EXPLAIN[:-1], "nowhere/never.png"], 2, "nowhere"),
    "layer behind the target": ([*EXPLAIN, "-l", "logits", "-t", "logits"], (2, 3), ""),
    "command": (["explian", "model.onnx"], 2, "explain"),
    "size": (["explain", "model.onnx", "picture.png", "--size", "axb"], 2, "axb"),
    "shape": (["inspect", "model.onnx", "--shape", "1x3x0x0"], 2, "1x3x0x0"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(run, place, name):
    arguments, code, words = BAD_CALLS[name]
    found, out, err = run(*arguments)
    assert found in (code if isinstance(code, tuple) else (code,)), err
    assert words in err and "Traceback" not in err
    assert out == ""
    assert not list(place.glob("**/never.png")) and not list(place.glob("**/.*"))


def test_what_a_map_sums_to():
    from analyzer.commands.explain import completeness

    assert completeness("integrated-gradients", 0.001, 2.0) == "sums to 2.001, which should be 2"
    assert completeness("integrated-gradients", 0.1, 2.0).endswith("more steps bring it nearer: -O steps=200")
    assert "ReLU" in completeness("full-grad", -18.0, 1.606)


def test_a_memory_limit_is_for_cuda(run):
    code, out, err = run(*EXPLAIN, "--memory-limit", "0.5")
    assert code == 2 and "no memory limit" in err and "--provider cuda" in err and not out


def test_a_provider_that_cannot_be_made_is_no_silent_fallback(run):
    from analyzer.runtime.providers import cuda_problem

    if not cuda_problem():
        pytest.skip("this machine has a GPU")
    code, out, err = run(*EXPLAIN, "-p", "cuda")
    assert code == 4 and "CUDA" in err and out == ""


def test_a_target_that_does_not_depend_on_the_layer(run, place):
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 8, 8]), ("y", [1, 3])))
    graph = helper.make_graph(
        [
            node("Relu", ["x"], ["side"]),
            node("GlobalAveragePool", ["x"], ["g"]),
            node("Flatten", ["g"], ["y"]),
        ],
        "sides",
        [x],
        [y, helper.make_tensor_value_info("side", TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), place / "sides.onnx")
    code, out, err = run("explain", "sides.onnx", "picture.png", "-l", "side", "--preset", "0-1")
    assert code in (2, 3) and "depend" in err and out == ""
