"""Outputs never replace inputs, nor each other: in every command, by any name or link."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import click
import numpy as np
import onnx
import pytest

import analyzer
from analyzer.commands import COMMANDS, cli, main
from analyzer.commands.options import InputPath, OutputPath
from analyzer.errors import OutputError
from analyzer.files import Places, atomic_write, claim, guard, protect, temporary_folder
from analyzer.graph import Graph
from analyzer.graph.save import save
from analyzer.images import decode, load_labels, write_png
from tests.models import small_cnn

CARD = '[preprocess]\npreset = "0-1"\nsize = [12, 12]\n'


@pytest.fixture
def place(tmp_path) -> Path:
    """A model with external weights, its card, and everything else that a command can read."""
    (tmp_path / "pics").mkdir()
    (tmp_path / "others").mkdir()
    for name in ("m", "m2"):
        model = small_cnn()
        onnx.save(
            model, tmp_path / f"{name}.onnx", save_as_external_data=True, location=f"{name}.bin", size_threshold=0
        )
        (tmp_path / f"{name}.toml").write_text(CARD)
    for i, folder in enumerate(("pics", "pics", "others")):
        name = tmp_path / folder / f"{i % 2}.png"
        write_png(name, np.random.default_rng(i).integers(0, 255, (12, 12, 3), np.uint8))
    write_png(tmp_path / "mask.png", np.full((12, 12, 3), 255, np.uint8))
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    parts = {f"pics/{i}.png": {"eye": [1, 1, 4, 4]} for i in range(2)}
    (tmp_path / "parts.json").write_text(json.dumps(parts))
    (tmp_path / "boxes.json").write_text(json.dumps({"0.png": {"a": [1, 1, 4, 4]}}))
    (tmp_path / "list.txt").write_text("pics/0.png\npics/1.png\n")
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys, place):
    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), capsys.readouterr().err

    return call


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def kept(place: Path, before: dict[str, str]) -> bool:
    """Every file that was there is what it was."""
    now = contents(place)
    return all(now.get(name) == digest for name, digest in before.items())


# ---- Every command ----


def parameters() -> list[tuple[str, click.Parameter]]:
    found = [(name, cli.get_command(click.Context(cli), name)) for name in COMMANDS]
    return [(name, p) for name, command in found for p in command.params if isinstance(p.type, click.Path)]


def test_every_path_is_an_input_or_an_output():
    """A command whose author used click.Path itself would escape the guard."""
    assert {(n, p.name) for n, p in parameters() if not isinstance(p.type, InputPath | OutputPath)} == set()
    outputs = {p.name for _, p in parameters() if isinstance(p.type, OutputPath)}
    assert outputs == {"export", "out", "raw", "masks", "reports", "maps", "store", "rows", "save_switches"}


# {command: (arguments, {option: names it may take where an input lies})}
CALLS = {
    "explain": (["m.onnx", "pics/0.png", "--labels", "labels.txt"], ["-o", "--raw"]),
    "localize": (["m.onnx", "pics/0.png", "--boxes", "boxes.json", "--labels", "labels.txt"], ["-o"]),
    "project": (["m.onnx", "pics/0.png", "-l", "r1"], ["-o", "--raw", "--save-switches"]),
    "dream": (["m.onnx", "-t", "1", "--steps", "1", "--labels", "labels.txt", "-o", "-"], ["-o", "--raw"]),
    "occlusion": (["m.onnx", "pics/0.png", "--stride", "6", "--labels", "labels.txt"], ["-o", "--raw"]),
    "invariance": (["m.onnx", "pics/0.png", "--transform", "scaling", "--labels", "labels.txt"], ["-o"]),
    "correspondence": (["m.onnx", "parts.json", "--repeats", "1"], ["-o"]),
    "filters": (["m.onnx"], ["-o", "--raw"]),
    "evolution": (["m.onnx", "m2.onnx", "-i", "pics", "-l", "r1", "-o", "-"], ["-o", "--raw"]),
    "compare": (["m.onnx", "m2.onnx", "-d", "pics", "--boxes", "boxes.json"], ["--report"]),
    "audit": (["m.onnx", "-d", "list.txt", "--labels", "labels.txt"], ["--report", "--maps"]),
    "export": (["m.onnx", "--labels", "labels.txt"], ["-o"]),
    "receptive-field": (["m.onnx", "pics/0.png", "--effective"], ["-o", "--raw"]),
    "explore": (["m.onnx", "pics/0.png", "--labels", "labels.txt"], ["--export"]),
}


def inputs_of(arguments: list[str]) -> list[str]:
    """The model, its data and card, and every file among the arguments."""
    found = {"m.onnx", "m.bin"} | {a for a in arguments if Path(a).suffix}
    if {"pics", "list.txt", "parts.json"} & set(arguments):
        found.add("pics/1.png")
    return sorted(found)


@pytest.mark.parametrize("name", CALLS)
def test_no_command_overwrites_an_input(run, place, name):
    arguments, options = CALLS[name]
    (place / "link").symlink_to(place / "m.bin")
    os.link(place / "m.onnx", place / "hard")
    before = contents(place)
    for option in options:
        for target in [*inputs_of(arguments), "./pics/../m.onnx", str(place / "m.onnx"), "link", "hard"]:
            code, err = run(name, *arguments, *(["-o", "other.onnx"] if name == "-" else []), option, target)
            assert code == 2, (option, target, err)
            if not err.startswith("error: a report") and "cannot be written as" not in err:
                assert "input" in err and "overwritten" in err, (option, target, err)
            assert kept(place, before), (option, target)


def test_options_tested_are_all_there_are():
    known = {"-o": "out", "--raw": "raw", "--report": "reports", "--maps": "maps", "--save-switches": "save_switches"}
    known["--export"] = "export"
    tested = {(name, known[option]) for name, (_, options) in CALLS.items() for option in options}
    folders = {("explain", "rows"), ("localize", "masks"), ("features", "out"), ("mine", "out"), ("merge", "out")}
    going = "explain", "localize", "features", "compare", "audit", "record", "receptive-field"
    stores = {(name, "store") for name in going}
    assert {(n, p.name) for n, p in parameters() if isinstance(p.type, OutputPath)} == tested | folders | stores


@pytest.mark.parametrize("out", ["pics", "pics/", "./pics", "others/../pics"])
@pytest.mark.parametrize("command", [["explain"], ["localize"]])
def test_folders_of_photographs(run, place, command, out):
    before = contents(place)
    code, err = run(*command, "m.onnx", "pics/0.png", "pics/1.png", "-o", out)
    assert code == 2 and "0.png is an input" in err and kept(place, before)
    code, err = run(*command, "m.onnx", "pics/0.png", "-o", out)
    assert code == 2 and kept(place, before)
    assert run(*command, "m.onnx", "pics/0.png", "pics/1.png", "-o", "")[0] == 2


def test_the_folder_we_are_in(run, place, monkeypatch):
    write_png(place / "0.png", np.zeros((12, 12, 3), np.uint8))
    before = contents(place)
    for out in (".", ""):
        assert run("explain", "m.onnx", "0.png", "-o", out)[0] == 2 and kept(place, before)
    # The second picture would be replaced by the first one's map before it is read.
    assert run("explain", "m.onnx", "pics/0.png", "0.png", "-o", ".")[0] == 2 and kept(place, before)


def test_files_in_folders(run, place):
    before = contents(place)
    write_png(place / "pics" / "0.r1.png", np.zeros((12, 12, 3), np.uint8))
    pictures = ["pics/0.png", "pics/0.r1.png"]
    before = contents(place)
    code, err = run("features", "m.onnx", *pictures, "-l", "r1", "-o", "pics")
    assert code == 2 and "0.r1.png is an input" in err and kept(place, before)
    write_png(place / "pics" / "r1.png", np.zeros((12, 12, 3), np.uint8))
    before = contents(place)
    code, err = run("mine", "m.onnx", "pics", "-l", "r1", "-o", "pics")
    assert code == 2 and "r1.png is an input" in err and kept(place, before)
    write_png(place / "pics" / "0.a.png", np.zeros((12, 12, 3), np.uint8))
    before = contents(place)
    code, err = run(
        "localize", "m.onnx", "pics/0.png", "pics/0.a.png", "-t", "0", "--labels", "labels.txt", "--masks-out", "pics"
    )
    assert code == 2 and "0.a.png is an input" in err and kept(place, before)
    (place / "curves.csv").write_text("a\nb\nc\nd\n")
    before = contents(place)
    code, err = run("invariance", "m.onnx", "pics/0.png", "--labels", "curves.csv", "-o", "curves.png")
    assert code == 2 and "curves.csv is an input" in err and kept(place, before)


def test_cards_and_references(run, place):
    before = contents(place)
    code, err = run("explain", "m.onnx", "pics/0.png", "--raw", "m.toml")
    assert code == 2 and "m.toml is an input" in err and kept(place, before)
    code, err = run(
        "explain", "m.onnx", "pics/0.png", "--mask", "mask.png", "-t", "r1.where(mask).sum()", "-o", "mask.png"
    )
    assert code == 2 and "mask.png is an input" in err and kept(place, before)


# ---- Outputs among themselves ----


def test_pictures_of_one_name_get_files_of_their_own(run, place):
    pictures = ["pics/0.png", "others/0.png"]
    assert run("explain", "m.onnx", *pictures, "-o", "out", "--raw", "out")[0] == 0
    assert {p.name for p in (place / "out").iterdir()} == {"0.png", "0-2.png", "0.npy", "0-2.npy"}
    assert run("features", "m.onnx", *pictures, "-l", "r1", "-o", "maps")[0] == 0
    assert {p.name for p in (place / "maps").iterdir()} == {"0.npz", "0-2.npz", "0.r1.png", "0-2.r1.png"}
    assert run("localize", "m.onnx", *pictures, "-t", "0", "--masks-out", "masks")[0] == 0
    assert len(list((place / "masks").iterdir())) == 2
    assert run("explain", "m.onnx", "pics/0.png", "pics/0.png", "-o", "twice")[0] == 0
    assert {p.name for p in (place / "twice").iterdir()} == {"0.png"}
    (place / "one").mkdir()
    (place / "one" / "0.png").write_bytes((place / "pics" / "0.png").read_bytes())
    assert run("explain", "m.onnx", "one", "-o", "of-a-folder")[0] == 0
    assert {p.name for p in (place / "of-a-folder").iterdir()} == {"0.png"}


def test_two_outputs_of_one_name(run, place):
    before = contents(place)
    for arguments in (
        ["explain", "m.onnx", "pics/0.png", "-o", "same.png", "--raw", "./same.png"],
        ["project", "m.onnx", "pics/0.png", "-l", "r1", "-o", "same.png", "--raw", "same.png"],
        ["audit", "m.onnx", "-d", "pics", "--report", "same.html", "--maps", "same.html"],
    ):
        code, err = run(*arguments)
        assert code == 2 and "two outputs" in err and contents(place) == before, arguments


def test_a_second_run_replaces_what_the_first_one_wrote(run, place):
    for _ in range(2):
        assert run("explain", "m.onnx", "pics/0.png", "-o", "heat.png", "--raw", "heat.npy")[0] == 0
        assert run("mine", "m.onnx", "pics", "-l", "r1", "-o", "mined")[0] == 0
        assert run("export", "m.onnx", "-o", "deployed.onnx")[0] == 0


# ---- The library ----


def test_export_of_the_library_guards_itself(place, monkeypatch):
    monkeypatch.chdir(place)
    before = contents(place)
    for out in ("m.onnx", "m.bin", str(place / "m.bin")):
        with pytest.raises(OutputError, match="is an input"):
            analyzer.export("m.onnx", out)
        assert contents(place) == before
    assert analyzer.export("m.onnx", "new.onnx").exists()


def test_large_weights_beside_an_export(place, monkeypatch):
    """The model's weights lie where the export would put its own."""
    monkeypatch.chdir(place)
    (place / "m.bin").rename(place / "deployed.onnx.data")
    model = onnx.load(place / "m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = "deployed.onnx.data"
    (place / "m.onnx").write_bytes(model.SerializeToString())
    monkeypatch.setattr("analyzer.graph.save.PROTOBUF_LIMIT", 100)
    before = contents(place)
    with pytest.raises(OutputError, match=r"deployed\.onnx\.data is an input"):
        analyzer.export("m.onnx", "deployed.onnx")
    assert contents(place) == before
    graph = Graph.read("m2.onnx")
    save(graph, place / "apart.onnx")
    assert (place / "apart.onnx.data").exists() and Graph.read(place / "apart.onnx").outputs[0].name == "probabilities"


def test_the_guard(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    with guard(one):
        with pytest.raises(OutputError, match="one is an input"):
            atomic_write(one, b"")
        atomic_write(two, b"2")
        atomic_write(two, b"3")  # our own
        claim(tmp_path / "three")
        with pytest.raises(OutputError, match="two outputs"):
            claim(tmp_path / "sub" / ".." / "THREE")
        claim(two)
        with pytest.raises(OutputError, match="two is an input"), guard():  # an inner guard is the outer one
            protect(two)
    atomic_write(one, b"free again")
    assert one.read_text() == "free again" and not list(tmp_path.glob(".*"))


def test_what_is_read_is_protected(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "labels.txt").write_text("a\nb\n")
    onnx.save(small_cnn(), tmp_path / "m.onnx")
    with guard():
        decode(tmp_path / "a.png")
        load_labels(tmp_path / "labels.txt")
        Graph.read(tmp_path / "m.onnx")
        for name in ("a.png", "labels.txt", "m.onnx"):
            with pytest.raises(OutputError, match="is an input"):
                atomic_write(tmp_path / name, b"")


def test_places(tmp_path):
    places = Places(tmp_path)
    names = [places.place(stem, ".png").name for stem in ("a", "a", "A", "a-2", "b")]
    assert names == ["a.png", "a-2.png", "A-3.png", "a-2-2.png", "b.png"]


@pytest.mark.parametrize("write", [lambda place: atomic_write(place / "a", b"a"), lambda place: folder_in(place)])
def test_an_interrupt_before_a_temporary_file_is_locked_leaves_nothing(tmp_path, monkeypatch, write):
    def interrupted(path, wait=False):
        raise KeyboardInterrupt

    monkeypatch.setattr("analyzer.files._locked", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def folder_in(place: Path) -> None:
    with temporary_folder(place):
        pass
