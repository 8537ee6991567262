"""The structure the design promises: imports point down, heavy imports stay out of start-up, code is clean."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A room may import from rooms of a smaller number only; siblings share a number and do not import each other.
LEVEL = {
    "errors": 0, "version": 0, "plain": 0, "deprecated": 0, "docstrings": 0, "heartbeat": 0, "limits": 0,
    "native": 0, "files": 0.5, "child": 0.5,
    "graph": 1, "images": 1, "metrics": 1,
    "runtime": 2, "store": 2, "data": 2,
    "analysis": 3,
    "gradient": 4,
    "tasks": 4.5,
    "attribution": 5,
    "passes": 6,
    "mining": 7, "validation": 7,
    "report": 8, "__main__": 10,
    "api": 8.5,
    "explorer": 8.7,
    "commands": 9, "testing": 9,
}  # fmt: skip


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for item in ast.walk(tree):
        if isinstance(item, ast.ImportFrom) and item.module:
            found.add(item.module)
        elif isinstance(item, ast.Import):
            found.update(a.name for a in item.names)
    return found


FILES = sorted((ROOT / "analyzer").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    parts = path.relative_to(ROOT / "analyzer").with_suffix("").parts
    if parts == ("__init__",):
        return
    for name in imports(path):
        if not name.startswith("analyzer."):
            continue
        other = name.split(".")[1]
        assert other == parts[0] or LEVEL[other] < LEVEL[parts[0]], f"{path.name} imports {name}"
        if parts[:2] in (("gradient", "rules"), ("gradient", "idioms")) and parts[-1] != "__init__":
            seen = ("registry", "rules") if parts[1] == "rules" else ("registry", "rules", "idioms")
            assert name.startswith(("analyzer.errors", *(f"analyzer.gradient.{n}" for n in seen))), name


def test_no_file_imports_itself_by_others():
    """No circle of imports anywhere, those inside functions and under TYPE_CHECKING included."""
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}
    reads = {}
    for name, path in names.items():
        found = set()
        for item in ast.walk(ast.parse(path.read_text())):
            if isinstance(item, ast.ImportFrom) and item.module in names:
                found |= {f"{item.module}.{a.name}" if f"{item.module}.{a.name}" in names else item.module
                          for a in item.names}  # fmt: skip
        reads[name] = found - {name}
    left = dict(reads)
    while done := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in done:
            del left[name]
    assert not left, sorted(left)


@pytest.mark.parametrize(
    ("library", "room"), [("onnxruntime", "runtime"), ("cv2", "images"), ("onnx_graphsurgeon", "graph")]
)
def test_one_room_per_library(library, room):
    users = {p for p in FILES if any(n.split(".")[0] == library for n in imports(p))}
    assert {p.relative_to(ROOT / "analyzer").parts[0] for p in users} <= {room}


def test_commands_only_parse_call_and_print():
    """No arrays, no graphs; the shell's completion reads names of tensors from the file itself."""
    for path in (ROOT / "analyzer" / "commands").glob("*.py"):
        read = {name.split(".")[0] for name in imports(path)}
        assert not read & {"numpy", "cv2", "csv", *(() if path.name == "complete.py" else ("onnx",))}, path.name


def test_the_loop_knows_no_operator():
    text = (ROOT / "analyzer/gradient/reverse.py").read_text()
    assert not any(op in text for op in ("Conv", "Relu", "MatMul", "Softmax", "MaxPool"))


def test_help_is_light():
    code = (
        "import sys; sys.argv = ['onnx-analyzer', '--help']\n"
        "from analyzer.commands import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'onnx', 'onnxruntime', 'numpy', 'cv2', 'onnx_graphsurgeon'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]])
def test_tools_are_content(command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed (pip install '.[dev]')")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
