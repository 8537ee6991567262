"""The command line: what it prints, what it writes, how it fails."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from analyzer.commands import COMMANDS, cli
from analyzer.images import write_png
from tests.models import small_cnn

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model and a picture."""
    folder = tmp_path_factory.mktemp("commands")
    onnx.save(small_cnn(), folder / "model.onnx")
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    write_png(folder / "picture.png", noise)
    write_png(folder / "second.png", noise[::-1])
    return folder


# ---- What works ----


def test_raw_has_the_maps_of_all_methods_by_name(run, place):
    """A row per target; a .npy file has room for one method only."""
    two = ("-m", "grad-cam", "-m", "gradient", "-t", "0", "-t", "1", "--preset", "0-1")
    code, _, _ = run("explain", "model.onnx", "picture.png", *two, "--raw", "maps.npz")
    with np.load(place / "maps.npz") as maps:
        assert code == 0 and list(maps) == ["grad-cam", "gradient"]
        assert maps["grad-cam"].shape[0] == maps["gradient"].shape[0] == 2 and maps["gradient"].ndim == 4
        for method in maps:
            one = ("-m", method, "-t", "0", "-t", "1", "--preset", "0-1", "--raw", f"{method}.npy")
            assert run("explain", "model.onnx", "picture.png", *one)[0] == 0
            assert np.array_equal(np.load(place / f"{method}.npy"), maps[method])
    assert run("explain", "model.onnx", "picture.png", "--preset", "0-1", "--raw", "one.npz")[0] == 0
    with np.load(place / "one.npz") as maps:
        assert list(maps) == ["grad-cam"]
    code, _, err = run("explain", "model.onnx", "picture.png", "second.png", *two, "--raw", "all")
    assert code == 0 and sorted(p.name for p in (place / "all").iterdir()) == ["picture.npz", "second.npz"], err
    code, _, err = run("explain", "model.onnx", "picture.png", *two, "--raw", "maps.npy", "-o", "not.png")
    assert code == 2 and "end the name of --raw in .npz" in err
    assert not (place / "maps.npy").exists() and not (place / "not.png").exists()


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
    assert code == 0 and "expected: " in out


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

    assert completeness("integrated-gradients", 0.001, 2.0) == "sum of the map: 2.001, expected: 2"
    assert completeness("integrated-gradients", 0.1, 2.0).endswith("to reduce the difference: -O steps=200")
    assert "ReLU" in completeness("full-grad", -18.0, 1.606)


def test_a_memory_limit_is_for_every_provider(run):
    code, out, err = run(*EXPLAIN, "--memory-limit", "0.5")
    assert code == 0 and out and "memory" not in err


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


# ---- What commands have in common ----


def commands() -> dict[str, click.Command]:
    return {name: cli.get_command(click.Context(cli), name) for name in COMMANDS}


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_fits_80_columns_and_every_option_says_what_it_does(run, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(*([name] if name else []), "--help")
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert not [line for line in out.splitlines() if line.endswith("...") and "Usage" not in line]
    silent = [
        p.name
        for p in (commands()[name].params if name else cli.params)
        if isinstance(p, click.Option) and not p.help and not p.hidden
    ]
    assert not silent


def test_the_line_for_completion_can_be_copied(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run("--help")
    assert '\n    eval "$(_ONNX_ANALYZER_COMPLETE=bash_source onnx-analyzer)"\n' in out


def test_one_word_has_one_meaning():
    flags = [(name, flag, p) for name, c in commands().items() for p in c.params for flag in p.opts]
    assert {p.opts[-1] for _, flag, p in flags if flag == "-u"} == {"--unit"}
    assert {p.metavar for _, flag, p in flags if flag in ("--limit", "--top", "--draw", "--top-channels")} == {"N"}
    assert not [name for name, flag, _ in flags if flag in ("--limit-of", "--channel", "--units")]
    helps: dict[str, set[str]] = {}
    for _, flag, p in flags:
        if flag in ("--masks", "--classes", "--slice"):
            helps.setdefault(flag, set()).add(" ".join(str(p.help).split(".")[0].split()))
    assert all(len(texts) == 1 for texts in helps.values()), helps


def test_fields_of_one_name_are_refused():
    from analyzer.commands.options import Given, group, option

    class Part(Given):
        size: int = option("--size")

    class Whole(Given):
        size: int = option("--width")
        part: Part = group(Part)

    with pytest.raises(AssertionError, match="one name"):
        Whole.command("whole")(lambda given: None)


def test_what_a_command_is_given_does_not_change():
    from analyzer.commands.options import Formatted

    given = Formatted({"form": "text"})
    with pytest.raises(AttributeError):
        given.form = "json"


@pytest.fixture
def folder(place) -> Path:
    (place / "photos").mkdir(exist_ok=True)
    for name in ("picture.png", "second.png"):
        (place / "photos" / name).write_bytes((place / name).read_bytes())
    (place / "photos.txt").write_text("photos/picture.png\nphotos/second.png\n")
    return place


PICTURES = {
    "folder": ["photos"],
    "pattern": ["photos/*.png"],
    "list": ["photos.txt"],
    "files": ["photos/picture.png", "photos/second.png"],
}
ASK = {
    "explain": [],
    "localize": [],
    "features": ["-l", "r1"],
    "occlusion": ["-l", "r1", "--stride", "6"],
    "invariance": ["-l", "r1", "--transform", "scaling"],
}


@pytest.mark.parametrize("given", PICTURES)
@pytest.mark.parametrize("name", ASK)
def test_pictures_are_given_in_the_same_way(run, folder, name, given):
    asked = [*ASK[name], "--preset", "0-1", "--format", "json"]
    code, out, err = run(name, "model.onnx", *PICTURES[given], *asked)
    document = json.loads(out)
    results = document.get("results") or document.get("curves") or document["pictures"]
    found = [r["picture"] for r in results]
    assert code == 0 and found == ["photos/picture.png", "photos/second.png"], err
    code, out, _ = run(name, "model.onnx", *PICTURES[given], *asked, "--limit", "1")
    document = json.loads(out)
    results = document.get("results") or document.get("curves") or document["pictures"]
    assert [r["picture"] for r in results] == ["photos/picture.png"]


DATA = {
    "mine": (["model.onnx"], ["-l", "r1", "-o", "mined", "--draw", "1"]),
    "audit": (["model.onnx"], ["--probes", "1", "--exit-zero"]),
    "compare": (["model.onnx", "model.onnx"], ["-m", "gradient"]),
}


@pytest.mark.parametrize("name", DATA)
def test_data_sets_are_given_as_arguments_or_by_an_option(run, folder, name):
    models, asked = DATA[name]
    asked = [*asked, "--preset", "0-1", "--format", "json"]
    code, positional, err = run(name, *models, "photos", *asked)
    assert code == 0, err
    code, by_option, _ = run(name, *models, "--data", "photos/*.png", *asked)
    count = [
        d.get("pictures") or d.get("audit", d.get("comparison"))["pictures"]
        for d in map(json.loads, (positional, by_option))
    ]
    assert code == 0 and count == [2, 2]
    code, out, err = run(name, *models, *asked)
    assert code == 2 and "no pictures given" in err and json.loads(out)["error"] == "no pictures given"


def test_a_picture_on_stdin(run, place, monkeypatch):
    class Piped:
        buffer = io.BytesIO((place / "picture.png").read_bytes())

    monkeypatch.setattr(sys, "stdin", Piped)
    code, piped, _ = run("explain", "model.onnx", "-", "--preset", "0-1", "--format", "json")
    result = json.loads(piped)["results"][0]
    _, named, _ = run("explain", "model.onnx", "picture.png", "--preset", "0-1", "--format", "json")
    assert code == 0 and result["picture"] == "stdin"
    assert result["maps"] == json.loads(named)["results"][0]["maps"]
    monkeypatch.setattr(sys, "stdin", Piped)
    Piped.buffer = io.BytesIO(b"no picture")
    code, _, err = run("explain", "model.onnx", "-", "--preset", "0-1")
    assert code == 2 and "not a picture" in err and "Traceback" not in err


def shell(place: Path, *arguments: str, **how) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "analyzer", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ONNX_ANALYZER_CACHE": ""} | how.pop("env", {})
    return subprocess.run(command, cwd=place, env=env, capture_output=True, **how)


def test_a_result_on_stdout(run, place, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    asked = ("explain", "model.onnx", "-", "-o", "-", "--preset", "0-1")
    picture = (place / "picture.png").read_bytes()
    done = shell(place, *asked, input=picture, env={"TMPDIR": str(temporary)})
    assert (
        done.returncode == 0 and done.stdout.startswith(b"\x89PNG") and done.stdout.rstrip().endswith(b"IEND\xaeB`\x82")
    )
    assert b"grad-cam of" in done.stderr and b"written" not in done.stderr
    assert not list(temporary.iterdir())
    named = tmp_path / "named.png"
    assert run("explain", "model.onnx", "picture.png", "-o", str(named), "--preset", "0-1")[0] == 0
    assert named.read_bytes() == done.stdout
    for arguments, words in (
        (["explain", "model.onnx", "picture.png", "-o", "-", "--format", "json"], "both write to stdout"),
        (["explain", "model.onnx", "picture.png", "second.png", "-o", "-"], "single picture"),
        (["explain", "model.onnx", "picture.png", "-o", "-", "--raw", "-"], "only one result"),
        (["export", "model.onnx", "-o", "-"], "cannot go to stdout"),
    ):
        code, out, err = run(*arguments)
        assert code == 2 and words in err and ("json" in arguments or out == ""), err


def test_quiet_leaves_results_and_errors(run, place, folder):
    (place / "photos" / "bad.png").write_text("no picture")
    asked = ("explain", "model.onnx", "photos", "--preset", "0-1", "-v")
    loud, quiet = run(*asked), run(*asked, "--quiet")
    (place / "photos" / "bad.png").unlink()
    assert loud[:2] == quiet[:2] and "receipt" in loud[2]
    assert quiet[2].startswith("error:") and "bad.png" in quiet[2] and "receipt" not in quiet[2]


# ---- Earlier names, and names of other tools ----


RENAMED = {
    "mine": (["mine", "model.onnx", "photos", "-o", "mined", "-l", "r1", "--channel", "1"], "--unit"),
    "compare": (["compare", "model.onnx", "model.onnx", "photos", "--limit-of", "score_drift=9"], "--threshold"),
    "compare=": (["compare", "model.onnx", "model.onnx", "photos", "--limit-of=score_drift=9"], "--threshold"),
    "localize": (["localize", "model.onnx", "photos", "--units", "1"], "--top-channels"),
    "localize masks": (["localize", "model.onnx", "photos", "--masks", "masks"], "--masks-out"),
    "evolution": (
        ["evolution", "model.onnx", "model.onnx", "--pictures", "photos", "--channel", "0", "-l", "r1", "-o", "e.png"],
        "--data",
    ),
    "evolution -i": (["evolution", "model.onnx", "model.onnx", "-iphotos", "-u0", "-l", "r1", "-o", "e.png"], "--data"),
    "audit": (["audit", "model.onnx", "photos", "--strict", "--exit-zero", "--probes", "1"], "exits with 1"),
    "dream": (
        ["dream", "model.onnx", "-t", "1", "-o", "d.png", "--steps", "1", "--parametrisation", "pixels"],
        "--parametrization",
    ),
}


@pytest.mark.parametrize("name", RENAMED)
def test_earlier_names_keep_working_with_a_note(run, folder, name):
    arguments, now = RENAMED[name]
    code, _, err = run(*arguments, "--preset", "0-1")
    assert code == 0 and "deprecated" in err and now in err, err


def test_checkpoints_can_be_named_by_unit(run, folder):
    asked = ["evolution", "model.onnx", "model.onnx", "-d", "photos", "-l", "r1", "-o", "e.png", "--preset", "0-1"]
    code, out, err = run(*asked, "-u", "2", "-u", "0", "--format", "json", "--channels", "BGR")
    assert code == 0 and [row["channel"] for row in json.loads(out)["channels"]] == [2, 0], err


ELSEWHERE = {
    "--class": (["--class", "1"], "--target"),
    "--device": (["--device", "cpu"], "--provider"),
    "--json": (["--json"], "--format json"),
    "--image": (["--image", "picture.png"], "PICTURES"),
    "--colomap": (["--colomap", "gray"], "--colormap"),
    "--version": (["--version"], "onnx-analyzer --version"),
    "--csv": (["--csv"], "Use --format json"),
    "--batch-size": (["--batch-size", "4"], "Use --workers"),
    "-f": (["-f", "json"], "Use --format"),
    "--layers": (["--layers"], "onnx-analyzer inspect MODEL"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_names_of_other_tools_get_a_hint(run, name):
    arguments, words = ELSEWHERE[name]
    code, out, err = run("explain", "model.onnx", "picture.png", *arguments)
    assert code == 2 and words in err and not out


# ---- Exit codes of findings ----


@pytest.mark.parametrize("name", ["audit", "compare"])
def test_findings_exit_with_1_unless_told_otherwise(run, folder, name):
    model = small_cnn()
    for weight in model.graph.initializer:
        weight.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(weight), weight.name))
    onnx.save(model, folder / "dead.onnx")
    models = ["dead.onnx"] if name == "audit" else ["model.onnx", "dead.onnx"]
    asked = [name, *models, "photos", "--preset", "0-1", "--format", "json"]
    code, out, err = run(*asked)
    assert code == 1 and json.loads(out)["findings"], err
    code, out, _ = run(*asked, "--exit-zero")
    assert code == 0 and json.loads(out)["findings"]
    (folder / "photos" / "bad.png").write_text("no picture")
    assert run(*asked)[0] == 1 and run(*asked, "--exit-zero")[0] == 5
    (folder / "photos" / "bad.png").unlink()


# ---- Completion ----


COMPLETED = {
    "methods": (["explain", "model.onnx", "picture.png", "-m", "grad-c"], {"grad-cam", "grad-cam++"}),
    "providers": (["explain", "model.onnx", "-p", "cuda"], {"cuda", "cuda:0", "cuda:1"}),
    "color maps": (["explain", "model.onnx", "--colormap", "vi"], {"viridis"}),
    "presets": (["explain", "model.onnx", "--preset", "im"], {"imagenet"}),
    "layers": (["explain", "model.onnx", "picture.png", "-l", "r"], {"r1", "r2"}),
    "no layers of what is no model": (["explain", "picture.png", "picture.png", "-l", ""], set()),
    "layers of checkpoints": (["evolution", "model.onnx", "model.onnx", "-l", "r"], {"r1", "r2"}),
    "options of a method": (["explain", "model.onnx", "-m", "occlusion", "-O", "pa"], {"patch="}),
    "operators": (["ops", "Conv"], {"Conv", "ConvInteger", "ConvTranspose"}),
    "commands": (["exp"], {"explain", "explore", "export"}),
    "choices": (["explain", "model.onnx", "--layout", "N"], {"NCHW", "NHWC"}),
}


@pytest.mark.parametrize("name", COMPLETED)
def test_completion(run, monkeypatch, name):
    words, expected = COMPLETED[name]
    monkeypatch.setenv("_ONNX_ANALYZER_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["onnx-analyzer", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    if not words[-1]:
        monkeypatch.setenv("COMP_WORDS", " ".join(["onnx-analyzer", *words[:-1], "''"]))
    _, out, err = run()
    found = {line.split(",")[1] for line in out.split()}
    assert expected <= found and (found == expected or name == "methods"), (found, err)


# ---- Everyday wishes that did not work at first ----


def test_help_is_a_command_too(run):
    assert run("help", "explain")[1] == run("explain", "--help")[1] != ""
    assert run("help")[1] == run("--help")[1]
    assert run("version")[1] == run("--version")[1] != ""


WISHES = {
    "a model's name mistyped": (["inspect", "modle.onnx"], "'model.onnx'"),
    "--output for the file": (["explain", "model.onnx", "picture.png", "--output", "heat.png"], "-o heat.png"),
    "a color map that is not there": (["explain", "model.onnx", "picture.png", "--colormap", "virdis"], "'viridis'"),
    "another tool's method": (["explain", "model.onnx", "picture.png", "-m", "lime"], "integrated-gradients"),
    "two methods at once": (["explain", "model.onnx", "picture.png", "-m", "grad-cam,gradient"], "-m A -m B"),
    "no classes": (["audit", "model.onnx", ".", "--classes", "no.csv"], "from no.csv: No such file or directory\n"),
    "a label that is not there": (
        ["explain", "model.onnx", "picture.png", "--labels", "names.txt", "-t", "zebra"],
        "cat, dog, cow, owl",
    ),
    "a folder that is not there": (["explain", "model.onnx", "picture.png", "-o", "no/a.png"], "mkdir -p no"),
    "a count of zero": (["explain", "model.onnx", "picture.png", "--top", "0"], "whole number of at least 1"),
    "a count in words": (["explain", "model.onnx", "picture.png", "--limit", "two"], "whole number of at least 1"),
    "an opacity in percent": (["explain", "model.onnx", "picture.png", "--alpha", "50"], "number from 0 to 1"),
    "no number": (["explain", "model.onnx", "picture.png", "--alpha", "nan"], "number from 0 to 1"),
    "no memory": (["explain", "model.onnx", "picture.png", "--session-memory", "0"], "number above 0"),
    "a unit where channels are ranked": (["mine", "model.onnx", ".", "-o", "m", "-u", "1@2,2"], "give its number"),
    "a pattern that matches nothing": (["explain", "model.onnx", "*.jpeg"], "no file matches *.jpeg"),
    "one model to compare": (["compare", "model.onnx"], "two models"),
    "no number for a method": (
        ["explain", "model.onnx", "picture.png", "second.png", "-m", "smooth-grad", "-O", "noise=nan"],
        "the option noise of smooth-grad is nan",
    ),
    "too large a number": (
        ["localize", "model.onnx", "picture.png", "-m", "rise", "-O", "keep=1e999"],
        "the option keep of rise is inf",
    ),
    "a method as papers spell it": (
        ["explain", "model.onnx", "picture.png", "-m", "GradCAM"],
        "did you mean 'grad-cam'?",
    ),
    "a method with underscores": (["explain", "model.onnx", "picture.png", "-m", "grad_cam++"], "mean 'grad-cam++'?"),
    "a URL of no kind": (["explain", "model.onnx", "wrong://example.com/cat.jpg"], "wrong://example.com/cat.jpg: "),
    "a list of methods": (["--list-methods"], "onnx-analyzer methods"),
    "no command": (["model.onnx", "picture.png"], "onnx-analyzer explain model.onnx picture.png"),
    "a table for a folder": (
        ["explain", "model.onnx", "picture.png", "second.png", "-o", "all.csv"],
        "name a folder: -o all/",
    ),
    "a report of a comparison": (
        ["compare", "model.onnx", "model.onnx", "picture.png", "-o", "a.html"],
        "Use --report",
    ),
    "a compressed model": (["explain", "model.onnx.gz", "picture.png"], "gunzip"),
}


@pytest.mark.parametrize("name", WISHES)
def test_everyday_mistakes_get_a_next_step(run, place, name):
    (place / "names.txt").write_text("cat\ndog\ncow\nowl\n")
    (place / "model.onnx.gz").write_bytes(gzip.compress((place / "model.onnx").read_bytes()))
    arguments, words = WISHES[name]
    code, out, err = run(*arguments)
    assert code == 2 and words in err and not out, err
    assert not (place / "all.csv").exists()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_models_come_first(run, place, name):
    (place / "folder").mkdir(exist_ok=True)
    command = cli.get_command(click.Context(cli), name)
    order = command.collect_usage_pieces(click.Context(command))[1:]
    if not {"MODEL", "REFERENCE", "CHECKPOINTS..."} & set(order):
        return
    needed = [f"{max(p.opts, key=len)}=x" for p in command.params if p.required and isinstance(p, click.Option)]
    for given, kind in (("picture.png", "picture"), ("folder", "folder")):
        code, out, err = run(name, given, *["model.onnx"] * (len(order) - 1), *needed)
        assert code == 2 and err.startswith(f"error: {given} is a {kind}, not an ONNX model\n") and not out, err
        hint = f"  hint: models come first: onnx-analyzer {name} {' '.join(order)}\n" if len(order) > 1 else ""
        assert err.partition("\n")[2] == hint


def test_a_folder_for_a_single_picture(run, place):
    assert run("explain", "model.onnx", "./picture.png", "-o", "fresh/", "--preset", "0-1")[0] == 0
    assert (place / "fresh" / "picture.png").is_file()
    assert run("explain", "model.onnx", "./picture.png", "-o", "dotted.png", "--preset", "0-1")[0] == 0
    assert (place / "dotted.png").is_file()


def test_one_method(run):
    _, out, _ = run("methods", "occlusion", "--format", "json")
    assert [m["name"] for m in json.loads(out)["methods"]] == ["occlusion"]
    code, out, err = run("methods", "ocluson")
    assert code == 2 and "'occlusion'" in err and not out
