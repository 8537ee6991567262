"""The faults of `tests/mutants` fit the code as it is, and the generator makes those it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mutants.__main__ import DRAWN, PAGE, own_list, score
from tests.mutants.generate import mutants
from tests.mutants.run import ROOT, Verdict

SOURCE = '''
"""A docstring: 1 < 2."""
from __future__ import annotations

LIMIT: int = 3  # an annotation is left alone, a value is not


def f(x: int, y: float = 0.5) -> bool:
    """Another one."""
    assert x < 7, "left alone"
    if not x:
        raise ValueError(f"{x + 1} is too small " + "for this")
    for i in range(x):
        if i == 2:
            continue
        g(i, -y)
    return x < y and min(x, 2) >= 1 if x else True
'''


@pytest.fixture
def made(tmp_path: Path) -> list[tuple[str, str, str]]:
    (tmp_path / "a.py").write_text(SOURCE)
    return [(m.kind, m.old, m.new) for m in mutants(tmp_path, "a.py")]


def test_what_is_generated(made: list[tuple[str, str, str]]) -> None:
    expected = {
        ("constant", "3", "(4)"), ("constant", "0.5", "(1.0)"), ("condition", "not x", "not (not x)"),
        ("unary", "not x", "(x)"), ("condition", "i == 2", "not (i == 2)"), ("comparison", "i == 2", "(i != 2)"),
        ("statement", "continue", "break"), ("removed", "g(i, -y)", "pass"), ("arguments", "g(i, -y)", "(g(-y, i))"),
        ("unary", "-y", "(y)"), ("comparison", "x < y", "(x <= y)"), ("comparison", "x < y", "(x >= y)"),
        ("boolean", "x < y and min(x, 2) >= 1", "(x < y or min(x, 2) >= 1)"), ("constant", "True", "(False)"),
        ("condition", "x < y and min(x, 2) >= 1 if x else True", "(x < y and min(x, 2) >= 1 if not x else True)"),
    }  # fmt: skip
    assert expected <= set(made)


def test_texts_types_and_assertions_are_left_alone(made: list[tuple[str, str, str]]) -> None:
    for _, old, _ in made:
        assert not any(word in old for word in ("docstring", "int", "assert", "too small", "x < 7")), old
    assert not any(kind == "arguments" and old.startswith("min") for kind, old, _ in made)


def test_each_is_applied_in_its_place(tmp_path: Path) -> None:
    source = SOURCE.replace("A docstring", "Ein Übel ∂ȳ").encode()
    (tmp_path / "a.py").write_bytes(source)
    every = mutants(tmp_path, "a.py")
    for mutant in every:
        changed = mutant.applied(source)
        compile(changed, "a.py", "exec")
        assert changed != source and len(changed) - len(source) == len(mutant.new) - len(mutant.old)
    assert len({m.key for m in every}) == len(every)


def test_the_list_fits_the_code() -> None:
    rows = own_list()
    assert len(rows) >= 39 and len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        assert row["content"] != (ROOT / row["file"]).read_bytes() and row["tests"]
        assert all((ROOT / test.split("::")[0]).exists() for test in row["tests"])


def test_what_a_run_means() -> None:
    assert Verdict(1, 0, "FAILED tests/a.py::b[c] - AssertionError: no").test == "tests/a.py::b[c]"
    assert [Verdict(code, 0, "").killed for code in (0, 1, 2, 4, 5, -1, 139)] == [
        False, True, True, False, False, False, True,
    ]  # fmt: skip


def test_the_score_is_in_the_docs() -> None:
    table = score(json.loads(DRAWN.read_text(encoding="utf-8")))
    assert table in PAGE.read_text(encoding="utf-8"), "python -m tests.mutants score writes it"
