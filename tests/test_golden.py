"""What every command prints, kept word for word in `tests/golden`.

    python -m tests.test_golden             write all of it again, after the words or the numbers changed on purpose
    python -m tests.test_golden explain     that of one command

What differs from machine to machine is left out: folders, hashes, times, versions, processors. Numbers with a fraction
are equal up to a hundredth, so that another processor's last digit does not matter; whole numbers are equal.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest

from analyzer.commands import main
from analyzer.commands.names import COMMANDS
from analyzer.images import write_png
from analyzer.passes.journal import Journal
from tests.models import small_cnn

GOLDEN = Path(__file__).parent / "golden"
WITHOUT_JSON = {"record", "merge", "explore", "run"}
PLAIN = "--preset 0-1 --threads 1"
CALLS = {
    "doctor": "doctor",
    "inspect": "inspect model.onnx",
    "plan": "plan model.onnx -m guided-grad-cam",
    "plan-tensorrt": "plan model.onnx --provider tensorrt",
    "explain": f"explain model.onnx a.png --labels labels.txt -o out/explain.png {PLAIN}",
    "explain-several": f"explain model.onnx a.png b.png bad.png -m grad-cam -m integrated-gradients -t dog -t bee "
    f"--labels labels.txt -o out/several {PLAIN}",
    "localize": f"localize model.onnx a.png b.png --boxes boxes.json --labels labels.txt --top-channels 2 {PLAIN}",
    "features": f"features model.onnx a.png -l relu2 -o out/features {PLAIN}",
    "features-summary": f"features model.onnx a.png b.png bad.png -l 'relu*' --summary -o out/summary {PLAIN}",
    "receptive-field": "receptive-field model.onnx --verify --shape 1x3x12x12",
    "receptive-field-effective": "receptive-field model.onnx --effective a.png b.png bad.png --positions 2 "
    f"-o out/field.png --raw out/field.npz {PLAIN}",
    "filters": "filters model.onnx -o out/filters.png",
    "project": f"project model.onnx a.png -l relu2 -u 1 -u max -o out/project.png {PLAIN}",
    "explore": "explore model.onnx --no-browser",
    "dream": f"dream model.onnx -l relu1 -u 2 -o out/dream.png --steps 4 {PLAIN}",
    "occlusion": f"occlusion model.onnx a.png -l relu1 --stride 6 -o out/occlusion.png --raw out/maps.npz {PLAIN}",
    "invariance": f"invariance model.onnx a.png -l relu1 --transform scaling -o out/invariance.png {PLAIN}",
    "correspondence": f"correspondence model.onnx parts.json -l relu1 --repeats 3 {PLAIN}",
    "mine": f"mine model.onnx a.png b.png bad.png -l relu2 -k 1 --draw 2 -o out/mined {PLAIN}",
    "merge": "merge first second -o out/merged",
    "status": "status first",
    "run": "run job.toml",
    "evolution": "evolution model.onnx later.onnx --data a.png --data b.png -l relu2 --draw 2 -o out/drawn.png "
    "--preset 0-1",
    "compare": f"compare model.onnx later.onnx -d a.png -d b.png {PLAIN}",
    "compare-equal": f"compare model.onnx model.onnx -d a.png -d b.png {PLAIN}",
    "record": f"record model.onnx -d a.png --store out/recorded {PLAIN}",
    "audit": f"audit model.onnx -d a.png -d b.png --classes classes.json --probes 1 --threshold border=0.5 {PLAIN}",
    "export": "export model.onnx -o out/exported.onnx",
    "ops": "ops",
    "methods": "methods",
    "error-label": f"explain model.onnx a.png --labels labels.txt -t dgo {PLAIN}",
    "error-layer": f"explain model.onnx a.png -l relu9 {PLAIN}",
    "error-file": "inspect modle.onnx",
}
NAMES = [*CALLS, *(f"{name}.json" for name in CALLS if name.split("-")[0] not in WITHOUT_JSON)]


def place(folder: Path) -> None:
    """The files that the calls name."""
    onnx.save(small_cnn(), folder / "model.onnx")
    onnx.save(small_cnn(seed=1), folder / "later.onnx")
    rng = np.random.default_rng(5)
    for name in ("a", "b"):
        picture = rng.integers(0, 90, (24, 32, 3)).astype(np.uint8)
        picture[6:14, 10:20] = rng.integers(150, 255, 3)
        write_png(folder / f"{name}.png", picture)
    (folder / "bad.png").write_text("no picture")
    (folder / "labels.txt").write_text("ant\nbee\ncat\ndog\n")
    (folder / "classes.json").write_text('{"a.png": 2, "b.png": 1}')
    (folder / "boxes.json").write_text(json.dumps({n: {"bee": [10, 6, 20, 14]} for n in ("a.png", "b.png")}))
    parts = {"middle": [10, 6, 20, 14], "corner": [0, 0, 8, 8]}
    (folder / "parts.json").write_text(json.dumps(dict.fromkeys(("a.png", "b.png"), parts)))
    (folder / "job.toml").write_text('command = "inspect"\narguments = ["model.onnx"]\n')
    (folder / "out").mkdir()
    for shard, name in (((1, 2), "first"), ((2, 2), "second")):
        Journal(folder / name, "mine", {"of": "a golden test"}, shard).close()


def said(name: str, folder: Path) -> str:
    """The call, its exit code, what it printed, and the files it wrote."""
    call, _, form = name.partition(".")
    words = CALLS[call] + (" --format json" if form else "")
    out, err, code = io.StringIO(), io.StringIO(), 0
    environment = {"ONNX_ANALYZER_CACHE": "", "COLUMNS": "80"}
    with (
        inside(folder),
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "argv", ["onnx-analyzer", *shlex.split(words)]),
    ):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as stopped:
                code = int(stopped.code or 0)
        written = sorted(p.relative_to(folder).as_posix() for p in (folder / "out").rglob("*") if p.is_file())
    printed = [same(text, folder) for text in (out.getvalue(), err.getvalue())]
    if call in SHORTENED:
        printed = [SHORTENED[call](text) for text in printed]
    written = sorted({re.sub(r"[0-9a-f]{16,}", "HASH", name) for name in written})
    parts = [f"$ onnx-analyzer {words}", f"exit {code}", "--- stdout", printed[0], "--- stderr", printed[1]]
    return "\n".join([*parts, "--- written", *written]).rstrip() + "\n"


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def same(text: str, folder: Path) -> str:
    """Without what differs from machine to machine."""
    text = text.replace(str(folder), "FOLDER").replace(folder.as_posix(), "FOLDER")
    text = re.sub(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{12,}…?", "HASH", text)
    text = re.sub(r"\b\d+\.\d+\.\d+[\w.+-]*", "VERSION", text)
    text = re.sub(r"(onnx_analyzer\": \")[^\"]*", r"\1VERSION", text)
    text = re.sub(r"(on onnxruntime|of onnxruntime) VERSION[^\";]*", r"\1 VERSION, MACHINE", text)
    text = re.sub(r"(least cosine 1\.0000 at) \S+", r"\1 LAYER", text)  # of equal ones the first
    text = re.sub(r"─+", "─", re.sub(r"(?<=\S) {2,}", "  ", text))
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def some_of_doctor(text: str) -> str:
    """What is installed differs: only the headings, and the names in JSON, are kept."""
    if text.startswith("{"):
        document = json.loads(text)
        return json.dumps({name: type(value).__name__ for name, value in document.items()}, indent=1, sort_keys=True)
    headings = [x for x in text.splitlines() if re.match(r"(package|execution provider|onnxruntime loads)", x)]
    return re.sub(r"\d+", "N", "\n".join(headings))


def some_of_ops(text: str) -> str:
    """Which operators there are depends on the installed onnx: one of each kind is kept."""
    kept = ("Abs", "ArgMax", "CastLike", "CumProd", "FusedConv", "GroupNormalization", "If", "SequenceAt", "Softsign")
    if text.startswith("{"):
        document = json.loads(text)
        document["operators"] = [row for row in document["operators"] if row["op"] in kept]
        return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    first, *rows = text.splitlines() or [""]
    return "\n".join([first, *(row for row in rows if row.startswith(kept))])


def without_times(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-01-01T00:00:00Z", text)


SHORTENED = {"doctor": some_of_doctor, "ops": some_of_ops, "status": without_times}
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])")


def differing(found: str, kept: str) -> list[str]:
    """The lines in which two texts differ by more than a number's last digits."""
    ours, theirs = found.splitlines(), kept.splitlines()
    lines = [f"- {b}\n+ {a}" for a, b in zip(ours, theirs, strict=False) if not alike(a, b)]
    longer, sign = (ours, "+") if len(ours) > len(theirs) else (theirs, "-")
    return lines + [f"{sign} {line}" for line in longer[min(len(ours), len(theirs)) :]]


def alike(a: str, b: str) -> bool:
    if a == b:
        return True
    if re.sub(r"\s+", " ", NUMBER.sub("#", a)) != re.sub(r"\s+", " ", NUMBER.sub("#", b)):
        return False
    return all(near(x, y) for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True))


def near(x: str, y: str) -> bool:
    if x == y:
        return True
    if all(n.lstrip("-").isdigit() for n in (x, y)):
        return False
    return bool(np.isclose(float(x), float(y), rtol=1e-2, atol=1e-3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("golden")
    place(made)
    return made


@pytest.fixture
def clean(folder: Path) -> Iterator[Path]:
    yield folder
    empty(folder)


def empty(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder / "out")
    (folder / "out").mkdir()


@pytest.mark.parametrize("name", NAMES)
def test_what_a_command_says(name: str, clean: Path) -> None:
    kept = GOLDEN / f"{name}.txt"
    assert kept.exists(), "python -m tests.test_golden writes it"
    found = differing(said(name, clean), kept.read_text(encoding="utf-8"))
    assert not found, "\n".join(["not as kept; python -m tests.test_golden writes it again:", *found[:40]])


def test_every_command_is_kept_and_nothing_else() -> None:
    assert {CALLS[name].split()[0] for name in CALLS} == set(COMMANDS)
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(NAMES)


def test_numbers_may_differ_in_their_last_digits_only() -> None:
    assert alike("score 0.1234 at x=3", "score  0.1235 at x=3")
    assert not alike("score 0.1234 at x=3", "score 0.1234 at x=4")
    assert not alike("score 0.12", "score 0.15") and not alike("a 1", "b 1")


def write(commands: list[str]) -> None:
    GOLDEN.mkdir(exist_ok=True)
    for path in GOLDEN.glob("*.txt"):
        if path.stem not in NAMES:
            path.unlink()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        place(folder)
        for name in NAMES:
            if not commands or CALLS[name.split(".")[0]].split()[0] in commands:
                text = said(name, folder)
                path = GOLDEN / f"{name}.txt"
                if not path.exists() or differing(text, path.read_text(encoding="utf-8")):
                    path.write_text(text, encoding="utf-8")
                    print(f"written: {path.relative_to(GOLDEN.parents[1])}")
                empty(folder)


if __name__ == "__main__":
    write(sys.argv[1:])
