"""A crash is never a verdict: whatever the environment refuses, no command ends in 1, in a traceback or in silence."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import onnx
import pytest

from analyzer import files
from analyzer.analysis.cost import MACS
from analyzer.analysis.moves import origins
from analyzer.attribution.methods import METHODS, find_method
from analyzer.commands import COMMANDS, boundary, cli, main
from analyzer.errors import InputError, OutputError, ProviderError, UnsupportedError
from analyzer.files import OURS, atomic_write
from analyzer.graph import Builder, Graph
from analyzer.images import write_png
from analyzer.passes.journal import Journal
from analyzer.passes.tree import Block
from tests.models import model, node, small_cnn

ROOT = Path(__file__).resolve().parents[1]
# What each command needs to end in 0, in the folder of `place`; `{out}` is what it writes.
CALLS = {
    "doctor": [],
    "inspect": ["m.onnx"],
    "plan": ["m.onnx"],
    "explain": ["m.onnx", "0.png", "-o", "{out}.png"],
    "localize": ["m.onnx", "0.png", "-o", "{out}.png"],
    "features": ["m.onnx", "0.png", "-l", "r1", "-o", "{out}"],
    "receptive-field": ["m.onnx"],
    "filters": ["m.onnx", "-o", "{out}.png"],
    "project": ["m.onnx", "0.png", "-l", "r1", "-o", "{out}.png"],
    "explore": ["m.onnx", "--no-browser"],
    "dream": ["m.onnx", "-t", "1", "--steps", "1", "-o", "{out}.png"],
    "occlusion": ["m.onnx", "0.png", "-l", "r1", "--stride", "6", "-o", "{out}.png"],
    "invariance": ["m.onnx", "0.png", "--transform", "scaling", "-o", "{out}.png"],
    "correspondence": ["m.onnx", "parts.json", "--repeats", "1", "-o", "{out}.png"],
    "mine": ["m.onnx", "0.png", "1.png", "-l", "r1", "-o", "{out}"],
    "merge": ["first", "second", "-o", "{out}"],
    "status": ["first"],
    "run": ["job.toml"],
    "evolution": ["m.onnx", "m2.onnx", "-i", "0.png", "-l", "r1", "-o", "{out}.png"],
    "compare": ["m.onnx", "m2.onnx", "-d", "0.png", "-m", "gradient", "--report", "{out}.json"],
    "record": ["m.onnx", "-d", "0.png", "-m", "gradient", "--store", "{out}"],
    "audit": ["m.onnx", "-d", "0.png", "--probes", "1", "--report", "{out}.json"],
    "export": ["m.onnx", "-o", "{out}.onnx"],
    "ops": [],
    "methods": [],
}
WRITES = [name for name, arguments in CALLS.items() if any("{out}" in a for a in arguments)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("crash")
    for name in ("m.onnx", "m2.onnx"):
        onnx.save(small_cnn(), folder / name)
        (folder / name).with_suffix(".toml").write_text('[preprocess]\npreset = "0-1"\nsize = [12, 12]\n')
    for i in range(2):
        write_png(folder / f"{i}.png", np.random.default_rng(i).integers(0, 255, (12, 12, 3), np.uint8))
    for shard, name in (((1, 2), "first"), ((2, 2), "second")):
        journal = Journal(folder / name, "mine", {}, shard)
        journal.append(Block(0, shard[0] - 1, {}, {}, ""))
        journal.close()
    parts = {f"{i}.png": {"eye": [1, 1, 4, 4], "nose": [6, 6, 9, 9]} for i in range(2)}
    (folder / "parts.json").write_text(json.dumps(parts))
    (folder / "job.toml").write_text('command = "inspect"\narguments = ["m.onnx"]\n')
    return folder


def arguments(name: str, out: str) -> list[str]:
    return [name, *(a.format(out=out) for a in CALLS[name])]


def test_every_command_is_called():
    assert set(CALLS) == set(COMMANDS)


# ---- Outputs that the system refuses ----


def call(monkeypatch, capsys, place, asked: list[str]) -> tuple[int, str, str]:
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["onnx-analyzer", *asked])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("kind", ["too long", "a file for a folder", "nowhere"])
def test_outputs_that_cannot_be_written(monkeypatch, capsys, place, name, kind):
    (place / "file").write_text("")
    out = {"too long": "x" * 300, "a file for a folder": "file/out", "nowhere": "/proc/nowhere/out"}[kind]
    code, _, err = call(monkeypatch, capsys, place, arguments(name, out))
    assert code == 2 and "Traceback" not in err
    assert err.splitlines()[-1].strip() and ("rror: " in err)
    assert not list(place.rglob(".*.part"))


KILLED = """
import os, signal, sys
from analyzer.files import atomic_file, temporary_folder
with temporary_folder(".") as folder, atomic_file("result") as file, atomic_file(folder / "inner"):
    file.write(b"half")
    file.flush()
    if sys.argv[1:]:
        print("ready", flush=True)
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_what_a_killed_process_left_is_removed(tmp_path):
    """By the next one that writes there; what a living process is writing, and what is not ours, stays."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment)
    orphans = set(os.listdir(tmp_path))
    assert len(orphans) == 2 and all(name.startswith(OURS) for name in orphans)
    (tmp_path / f"{OURS}link").symlink_to(tmp_path / "other")
    (tmp_path / ".other.part").touch()
    command = [sys.executable, "-c", KILLED, "wait"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=-1, stdout=-1) as living:
        assert living.stdout is not None and living.stdout.readline() == b"ready\n"
        held = set(os.listdir(tmp_path)) - {f"{OURS}link", ".other.part"}
        assert len(held) == 2 and not held & orphans
        atomic_write(tmp_path / "result", b"whole")
        assert set(os.listdir(tmp_path)) == held | {f"{OURS}link", ".other.part", "result"}
    files._swept.clear()
    atomic_write(tmp_path / "result", b"whole")
    assert set(os.listdir(tmp_path)) == {f"{OURS}link", ".other.part", "result"}


def test_a_temporary_file_that_is_taken_for_left_over_is_made_again(tmp_path, monkeypatch):
    locked, taken = files._locked, []

    def late(path: Path, wait: bool = False) -> int | None:
        if not taken:
            taken.append(path)
            path.unlink()
        return locked(path, wait)

    monkeypatch.setattr(files, "_locked", late)
    atomic_write(tmp_path / "result", b"whole")
    assert taken and [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("result", b"whole")]


@pytest.mark.parametrize("size", [0, 4096])
@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk(monkeypatch, capsys, place, name, size):
    """As a limit on the size of files."""
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        code, _, err = call(monkeypatch, capsys, place, arguments(name, f"full-{name}-{size}"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    if size and code != 2:
        assert code == 0  # what it writes is smaller than that
        return
    assert code == 2 and "Traceback" not in err and "rror: " in err
    assert not list(place.rglob(".*.part"))
    whole = [p for p in place.rglob(f"full-{name}-{size}*") if p.is_file()]
    assert not whole or name == "invariance", whole  # of several outputs the first may be there, whole


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no modes there")
@pytest.mark.parametrize("kind", ["read-only", "of another user"])
@pytest.mark.parametrize("name", ["explain", "mine", "export"])
def test_folders_without_the_right_to_write(monkeypatch, capsys, place, tmp_path, name, kind):
    folder = tmp_path
    if os.geteuid() == 0 or kind == "of another user":
        folder = Path("/sys" if os.geteuid() == 0 else "/")  # root may write everywhere but there
    if not folder.is_dir():
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o555)
    before = os.listdir(folder)
    code, _, err = call(monkeypatch, capsys, place, arguments(name, str(folder / "out")))
    tmp_path.chmod(0o755)
    assert code == 2 and "Traceback" not in err and "rror: " in err
    assert "denied" in err or "permitted" in err, err
    assert os.listdir(folder) == before


@pytest.mark.skipif(sys.platform == "win32", reason="only some users may make links there")
@pytest.mark.parametrize("name", ["explain", "mine", "export"])
def test_links_as_outputs(monkeypatch, capsys, place, tmp_path, name):
    """They are followed, and stay; a link to nowhere or to itself is a sentence."""
    suffix = Path(next(a for a in CALLS[name] if "{out}" in a)).suffix
    places = [tmp_path / f"{kind}{suffix}" for kind in ("good", "nowhere", "circle", "file")]
    good, nowhere, circle, file = places
    (file.write_bytes if suffix else lambda _: file.mkdir())(b"old")
    good.symlink_to(file)
    nowhere.symlink_to(tmp_path / "missing" / "folder")
    circle.symlink_to(circle)
    for link, expected in ((good, 0), (nowhere, 2), (circle, 2)):
        code, _, err = call(monkeypatch, capsys, place, arguments(name, str(link.with_suffix(""))))
        assert code == expected or (link == nowhere and not suffix), (link, err)
        assert "Traceback" not in err and link.is_symlink()
    assert list(file.iterdir()) if file.is_dir() else file.read_bytes() != b"old"
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("name", [n for n in WRITES if "{out}" not in CALLS[n]])
def test_outputs_that_are_folders(monkeypatch, capsys, place, name):
    (place / "folder.png").mkdir(exist_ok=True)
    (place / "folder.onnx").mkdir(exist_ok=True)
    (place / "folder.json").mkdir(exist_ok=True)
    code, _, err = call(monkeypatch, capsys, place, arguments(name, "folder"))
    if name in ("explain", "localize", "compare", "audit"):  # they take folders
        assert code == 0
    else:
        assert code == 2 and "Traceback" not in err


# ---- Pipes and devices ----


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize(
    "asked",
    [
        "explain m.onnx pipe.png", "explain m.onnx 0.png --labels pipe.png", "inspect pipe.png",
        "mine m.onnx pipe.png -l r1 -o mined", "compare m.onnx m2.onnx -d pipe.png",
        "record m.onnx -d pipe.png --store s",
    ],
)  # fmt: skip
def test_a_pipe_that_nothing_is_written_to_does_not_block(monkeypatch, capsys, place, asked):
    if not (place / "pipe.png").exists():
        os.mkfifo(place / "pipe.png")
    monkeypatch.setattr("analyzer.files.PATIENCE", 0.05)
    code, _, err = call(monkeypatch, capsys, place, asked.split())
    assert code == 2 and "nothing is written to this pipe" in err


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs devices")
def test_devices_are_no_models_and_are_not_replaced(monkeypatch, capsys, place, tmp_path):
    code, _, err = call(monkeypatch, capsys, place, ["inspect", "/dev/zero"])
    assert code == 2 and "is a device" in err
    os.mkfifo(tmp_path / "out.onnx")  # what a device is in a folder of ours
    code, _, err = call(monkeypatch, capsys, place, ["export", "m.onnx", "-o", str(tmp_path / "out.onnx")])
    assert code == 2 and "is a device or a pipe" in err and (tmp_path / "out.onnx").is_fifo()


# ---- Models that break a promise ----


def test_what_a_node_does_not_fit_names_the_node(monkeypatch):
    graph = Graph.read(small_cnn())
    conv = next(n for n in graph.forward_nodes() if n.op == "Conv")
    monkeypatch.setitem(MACS.rows, ("", "Conv"), lambda op: [][1])
    with pytest.raises(UnsupportedError, match=r"node 'conv1' \(Conv\) does not fit the table"):
        MACS.at(graph, conv)
    monkeypatch.setattr(Builder, "_infer", lambda *_: [][1])
    with pytest.raises(UnsupportedError, match=f"a node Relu of '{conv.outputs[0].name}' cannot be appended"):
        Builder(graph).Relu(conv.outputs[0])


def test_numbers_that_move_nowhere_name_the_node():
    nodes = [
        node("Conv", ["x", "w"], ["c"], "conv"),
        node("Concat", ["c", "c"], ["j"], "joined", axis=1),
        node("Flatten", ["j"], ["y"], "flat"),
    ]
    graph = Graph.read(model(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 4]}, {"w": np.ones((2, 3, 4, 4), np.float32)}))
    assert origins(graph, graph["y"]) is not None
    next(n for n in graph.forward_nodes() if n.op == "Concat").attrs["axis"] = 65536
    with pytest.raises(UnsupportedError, match=r"node 'joined' \(Concat\) does not fit its inputs"):
        origins(graph, graph["y"])


def test_a_recipe_that_fails_names_the_layer(monkeypatch, capsys, place):
    method = find_method("grad-cam", {})
    monkeypatch.setitem(METHODS, "grad-cam", replace(method, recipe=lambda ctx, **_: [][1]))
    code, _, err = call(monkeypatch, capsys, place, ["export", "m.onnx", "-m", "grad-cam", "-o", "o.onnx"])
    assert code == 3 and "grad-cam does not fit this model at the layer 'r2': list index out of range" in err


# ---- Whatever is raised ----


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 4, "out of memory"),
        (RecursionError("maximum recursion depth"), 3, "nested too deeply"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 2, "No space left on device: 'a.png'"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), 2, "TMPDIR"),
        (BlockingIOError(errno.EAGAIN, "would block"), 2, "would block"),
        (ImportError("libfoo.so"), 2, "libfoo.so"),
        (TypeError("no\nway"), 70, "internal error: TypeError: no way"),
        (AssertionError(), 70, "internal error: AssertionError"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "no"), 70, "internal error"),
        (ZeroDivisionError(), 70, "report it"),
        (SystemExit("odd"), 70, ""),
        (SystemExit(5), 5, ""),
        (GeneratorExit(), 70, "internal error"),
        (InputError("bad", "mend"), 2, "error: bad\n  hint: mend"),
        (OutputError("full"), 2, "error: full"),
        (UnsupportedError("no rule"), 3, "no rule"),
        (ProviderError("no GPU"), 4, "no GPU"),
        (click.UsageError("what"), 2, "what"),
        (click.Abort(), 130, "interrupted"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_every_exception_has_its_code(monkeypatch, capsys, place, error, code, words):
    command = cli.get_command(click.Context(cli), "methods")

    def fails(**_):
        raise error

    monkeypatch.setattr(command, "callback", fails)
    found, out, err = call(monkeypatch, capsys, place, ["methods"])
    assert (found, out) == (code, "") and words in err and "Traceback" not in err


def test_the_traceback_is_shown_when_asked_for(monkeypatch, capsys, place):
    command = cli.get_command(click.Context(cli), "methods")

    def fails(**_):
        raise TypeError("no way")

    monkeypatch.setattr(command, "callback", fails)
    monkeypatch.setenv(boundary.TRACEBACK, "1")
    code, _, err = call(monkeypatch, capsys, place, ["methods"])
    assert code == 70 and "in fails" in err and "report it" in err


# ---- Streams, in processes of their own ----


def shell(place: Path, script: str, **environment: str) -> subprocess.CompletedProcess:
    """`$RUN` is the program."""
    program = f"{sys.executable} {ROOT / 'cli.py'}"
    env = {**os.environ, "RUN": program, "ONNX_ANALYZER_CACHE": "", **environment}
    env = {k: v for k, v in env.items() if v is not None}
    return subprocess.run(["bash", "-c", script], cwd=place, env=env, capture_output=True, timeout=120, check=False)


COMPARE = "compare m.onnx m2.onnx -d 0.png -m gradient"
STREAMS = {
    "stdout full": ("$RUN methods > /dev/full", 2, "stdout cannot be written to"),
    "stdout full, a comparison": (f"$RUN {COMPARE} > /dev/full", 2, "stdout cannot be written to"),
    "stdout full, help": ("$RUN --help > /dev/full", 2, "stdout cannot be written to"),
    "stdout closed": ("$RUN methods >&-", 2, "stdout cannot be written to"),
    "stderr closed": ("$RUN explain m.onnx 0.png -v 2>&-", 0, ""),
    "stderr full": ("$RUN explain m.onnx 0.png -v 2>/dev/full", 0, ""),
    "stderr closed, an error": ("$RUN explain no.onnx 0.png 2>&-", 2, ""),
    "stdin closed": ("$RUN methods <&- > /dev/null", 0, ""),
    "all closed": ("$RUN methods <&- >&- 2>&-", 2, ""),
    "nobody reads": ("$RUN methods | true; exit ${PIPESTATUS[0]}", 0, ""),
    "nobody reads a comparison": (f"$RUN {COMPARE} | true; exit ${{PIPESTATUS[0]}}", 0, ""),
    "no folder for outputs": ("$RUN explain m.onnx 0.png -o no/where.png", 2, "no"),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", STREAMS)
def test_streams(place, name):
    script, code, words = STREAMS[name]
    done = shell(place, script)
    err = done.stderr.decode()
    assert done.returncode == code, err
    assert words in err and "Traceback" not in err and "Exception ignored" not in err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_encodings(place, encoding):
    (place / "labels.txt").write_text("Kätzchen\n猫\n🐈\nplain\n", encoding="utf-8")
    done = shell(place, "$RUN explain m.onnx 0.png --labels labels.txt", PYTHONIOENCODING=encoding)
    text = done.stdout.decode(encoding)
    assert done.returncode == 0 and "Traceback" not in done.stderr.decode()
    assert ("猫" if encoding == "utf-8" else "\\u732b") in text
    done = shell(place, "$RUN explain m.onnx 0.png --labels labels.txt --format json", PYTHONIOENCODING=encoding)
    top = json.loads(done.stdout.decode(encoding))["results"][0]["top"]
    assert {row["label"] for row in top} == {"Kätzchen", "猫", "🐈", "plain"}


def test_file_names_that_are_no_text(monkeypatch, capsys, place):
    name = os.fsdecode(b"\xff.png")
    try:
        (place / name).write_bytes((place / "0.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes text only")
    for ending in ("json", "html"):
        asked = ["compare", "m.onnx", "m2.onnx", "-d", name, "-m", "gradient", "--report", f"r.{ending}"]
        assert call(monkeypatch, capsys, place, asked)[0] == 0
    assert json.loads((place / "r.json").read_text("utf-8"))["comparison"]["rows"][0]["picture"] == name
    assert "\\udcff" in (place / "r.html").read_text("utf-8")
    done = shell(place, "$RUN explain m.onnx $'\\xff.png' --format json")
    assert done.returncode == 0 and json.loads(done.stdout)["results"][0]["picture"] == name


def test_no_temporary_folder_is_no_finding(place):
    script = (
        "import tempfile, sys\n"
        "def none(): raise FileNotFoundError(2, 'No usable temporary directory found in []')\n"
        "tempfile._get_default_tempdir = none\n"
        f"sys.argv = ['onnx-analyzer', *{COMPARE.split()!r}]\n"
        "from analyzer.commands import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2 and b"TMPDIR" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["click", "numpy", "analyzer.commands.boundary", "analyzer.commands.methods"])
def test_an_interrupt_while_importing(place, module):
    asked = ["explain", "m.onnx", "0.png"] if module == "numpy" else ["methods"]
    script = (
        "import sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        f"sys.argv = {['onnx-analyzer', *asked]!r}\n"
        "from analyzer.commands import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 130 and b"Traceback" not in done.stderr, done.stderr


def test_a_signal_while_it_runs(place):
    script = (
        "import os, signal, threading, sys\n"
        "from analyzer.commands import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits that it is ignored
        "threading.Timer(float(sys.argv.pop()), lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "main()"
    )
    for seconds in ("0.05", "0.6"):
        done = subprocess.run(
            [sys.executable, "-c", script, "dream", "m.onnx", "-t", "1", "--steps", "100000", "-o", "d.png", seconds],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 130 and b"Traceback" not in done.stderr, done.stderr
    assert not (place / "d.png").exists()


# ---- The crash file ----


def test_an_internal_error_leaves_a_file_for_its_report(monkeypatch, capsys, place, tmp_path):
    command = cli.get_command(click.Context(cli), "inspect")

    def fails(**_):
        raise TypeError("no way")

    monkeypatch.setattr(command, "callback", fails)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, _, err = call(monkeypatch, capsys, place, ["inspect", "m.onnx"])
    (file,) = tmp_path.iterdir()
    text = file.read_text()
    assert code == 70 and str(file) in err
    for words in ("command: onnx-analyzer inspect m.onnx", "TypeError: no way", "in fails", "'conv1': c1 = Conv(x, w1"):
        assert words in text
    assert "weight w1: type 1 [8, 3, 3, 3]" in text and len(text) < 8000


# ---- Foreign text ----


def test_text_that_acts_on_a_terminal_is_shown(place):
    net = small_cnn()
    net.graph.node[0].name = "\x1b[2Jgone\u202eabc\x9b1m"
    onnx.save(net, place / "odd.onnx")
    labels = ["\x1b[31mcat", "a\rb\nc", "\u200bx", "dog"]
    (place / "odd.txt").write_text(json.dumps(labels))
    for asked in ("inspect odd.onnx", "plan odd.onnx", "explain odd.onnx 0.png --labels odd.txt -l none\x1b[1m"):
        told = shell(place, f"$RUN {asked}")
        text = (told.stdout + told.stderr).decode()
        assert not set(text) & set("\x1b\x9b\r\u202e\u200b"), asked
    asked = "explain odd.onnx 0.png --labels odd.txt --top 4"
    shown = shell(place, f"$RUN {asked}").stdout.decode()
    assert all(words in shown for words in ("\\u001b[31mcat", "a\\u000db\\nc", "\\u200bx", "dog"))
    found = json.loads(shell(place, f"$RUN {asked} --format json").stdout)
    assert {c["label"] for c in found["results"][0]["top"]} == set(labels)


@pytest.mark.parametrize("asked", [False, True])
def test_warnings_of_native_code_are_shown_only_if_asked_for(asked: bool, tmp_path: Path) -> None:
    """A kernel of onnxruntime warns in color, through a logger that no session has a hold of."""
    rois = {"rois": np.array([[0, 0, 8, 8]], np.float32), "batch": np.zeros(1, np.int64)}
    nodes = [
        node("RoiAlign", ["x", "rois", "batch"], ["r"], mode="max", sampling_ratio=2, output_height=4, output_width=4),
        node("GlobalAveragePool", ["r"], ["g"]),
        node("Flatten", ["g"], ["y"]),
    ]
    onnx.save(model(nodes, {"x": [1, 3, 12, 12]}, {"y": [1, 3]}, rois), tmp_path / "m.onnx")
    write_png(tmp_path / "p.png", np.full((12, 12, 3), 99, np.uint8))
    script = "$RUN explain m.onnx p.png -o heat.png -m occlusion"
    done = shell(tmp_path, script, **{boundary.TRACEBACK: "1" if asked else ""})
    assert done.returncode == 0, done.stderr
    assert (b"\x1b" in done.stderr, b"roialign" in done.stderr) == (asked, asked)
