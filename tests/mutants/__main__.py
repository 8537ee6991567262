"""Counts the faults that tests notice.

python -m tests.mutants own                 the list of own.toml: each must be noticed
python -m tests.mutants some --count 30     as many of those generated ones that were noticed before: each must be
python -m tests.mutants sample --lines DIR  draws them, runs each against the tests of its line, writes drawn.json
python -m tests.mutants again TESTS         runs those that survived against these test files, writes drawn.json
python -m tests.mutants score               the score of drawn.json, and what survived
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.mutants.generate import Mutant, mutants, sample
from tests.mutants.run import LATE, ROOT, UNKNOWN, Copy, Verdict

HERE = Path(__file__).parent
OWN, DRAWN = HERE / "own.toml", HERE / "drawn.json"
PAGE, MARKS = ROOT / "docs" / "tests.md", ("<!-- score -->", "<!-- end -->")
SEED = 15
AREAS = {
    "gradient/rules": (["analyzer/gradient/rules"], 110),
    "attribution": (["analyzer/attribution", "analyzer/tasks"], 130),
    "images/placement": (["analyzer/images/placement.py"], 20),
    "validation": (["analyzer/validation"], 80),
}
TABLES = ["tests/test_registry.py::test_what_has_no_gradient_is_an_operator_and_has_a_reason"]
SECONDS = 40.0  # of tests for a generated mutant, by what they took before


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    own = commands.add_parser("own")
    own.add_argument("--only", default="", help="those whose name holds this text")
    some = commands.add_parser("some")
    some.add_argument("--count", type=int, default=30)
    drawn = commands.add_parser("sample")
    drawn.add_argument("--lines", type=Path, required=True, help="folder of what tests.mutants.lines wrote")
    again = commands.add_parser("again")
    again.add_argument("tests", nargs="+", help="files, or files::names")
    again.add_argument("--only", default="", help="those in files whose name starts with this text")
    commands.add_parser("score")
    given = parser.parse_args(arguments)
    if given.command == "own":
        return run_own(given.only)
    if given.command == "some":
        return run_some(given.count)
    if given.command == "sample":
        return run_sample(given.lines)
    if given.command == "again":
        return run_again(given.tests, given.only)
    write_score()
    return 0


# ---- The own list ----


def own_list() -> list[dict[str, Any]]:
    """The rows of own.toml, each with the `content` that its file gets.

    Raises:
        SystemExit: of any the old text does not occur exactly once.
    """
    rows = tomllib.loads(OWN.read_text(encoding="utf-8"))["mutant"]
    wrong = []
    for row in rows:
        text = (ROOT / row["file"]).read_text(encoding="utf-8") if (ROOT / row["file"]).exists() else ""
        if text.count(row["old"]) != 1:
            wrong.append(
                f"{row['name']}: {row['file']} holds its old text {text.count(row['old'])} times: {row['old']}"
            )
        row["content"] = text.replace(row["old"], row["new"]).encode()
    if wrong:
        raise SystemExit("\n".join([*wrong, f"{OWN}: write these again for the code as it is now"]))
    return rows


def run_own(only: str = "") -> int:
    rows = [row for row in own_list() if only in row["name"]]
    with Copy() as copy:
        every = sorted({test for row in rows for test in row["tests"]})
        as_it_is = copy.run(every, 900)
        if not as_it_is.survived:
            print(as_it_is.output, "the tests do not pass as it is: nothing can be said", sep="\n")
            return 2
        found = [copy.changed(row["file"], row["content"], row["tests"], 300) for row in _told(rows)]
    return _table([(row["name"], row["file"]) for row in rows], found)


def _told(rows: Sequence[Any]) -> Any:
    for index, row in enumerate(rows):
        print(f"\r{index + 1}/{len(rows)}", end="", file=sys.stderr, flush=True)
        yield row
    print(file=sys.stderr)


def _table(names: Sequence[tuple[str, str]], found: Sequence[Verdict]) -> int:
    width = max((len(name) for name, _ in names), default=0)
    for (name, file), verdict in zip(names, found, strict=True):
        how = "killed" if verdict.killed else "SURVIVED" if verdict.survived else f"NOT RUN ({verdict.code})"
        print(f"{name:{width}}  {how:8}  {verdict.seconds:5.1f} s  {verdict.test or file}")
        if not verdict.killed and not verdict.survived:
            print(verdict.output)
    alive = sum(not verdict.killed for verdict in found)
    print(f"{len(found) - alive} of {len(found)} killed")
    return 1 if alive else 0


# ---- Generated ones ----


def run_sample(folder: Path) -> int:
    tests = _tests(folder)
    before = json.loads(DRAWN.read_text(encoding="utf-8")) if DRAWN.exists() else []
    rows = []
    drawn = sample(ROOT, list(AREAS.values()), SEED)
    seen = {_key(row) for row in before}
    drawn.sort(key=lambda mutant: _key(vars(mutant)) in seen)  # the new ones first
    with Copy() as copy:
        for index, mutant in enumerate(drawn):
            row = _verdict(copy, mutant, tests)
            rows.append(row)
            print(f"{index + 1}/{len(drawn)} {'killed' if row['killed'] else 'SURVIVED'} {mutant.file}:{mutant.line} "
                  f"{mutant.old!r} → {mutant.new!r} {row['test']}", flush=True)  # fmt: skip
            done = {_key(r) for r in rows}
            DRAWN.write_text(
                json.dumps(rows + [r for r in before if _key(r) not in done], indent=1, ensure_ascii=False) + "\n",
                encoding="utf-8",
            )
    DRAWN.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(score(rows))
    return 0


def _key(row: dict[str, Any]) -> str:
    return "\0".join(str(row[name]) for name in ("file", "function", "kind", "old", "new", "number"))


def _tests(folder: Path) -> dict[str, Any]:
    """{test: its seconds and lines} of all records in a folder."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("lines*.json")):
        found |= json.loads(path.read_text(encoding="utf-8"))
    return found


def _verdict(copy: Copy, mutant: Mutant, tests: dict[str, Any]) -> dict[str, Any]:
    chosen = _chosen(mutant, tests)
    row = {name: getattr(mutant, name) for name in ("file", "function", "kind", "old", "new", "number")}
    if not chosen:
        return {**row, "killed": False, "test": "", "tests": 0}
    content = mutant.applied((ROOT / mutant.file).read_bytes())
    found = copy.changed(mutant.file, content, chosen, 4 * SECONDS)
    if found.code == UNKNOWN:  # a name in brackets is another one with the mutant, as that of a method
        found = copy.changed(mutant.file, content, list(dict.fromkeys(t.split("[")[0] for t in chosen)), 4 * SECONDS)
    if not found.killed and not found.survived and found.code != LATE:
        raise SystemExit(f"{mutant}: pytest ended with {found.code}:\n{found.output}")
    test = found.test or (chosen[0] if found.killed else "")
    return {**row, "killed": found.killed, "test": test, "tests": len(chosen)}


def _chosen(mutant: Mutant, tests: dict[str, Any]) -> list[str]:
    """The tests that run a line of the mutant, the quickest first, as many as `SECONDS` allow; of what is run at import
    all that run the file, and those that read the tables."""
    span = range(mutant.line, mutant.last + 1)
    outside = not mutant.function
    reach: dict[str, float] = {}
    for test, record in tests.items():
        lines = record["lines"].get(mutant.file)
        if lines and (outside or any(line in span for line in lines)):
            reach[test] = record["seconds"]
    chosen, spent = [], 0.0
    for test in sorted(reach, key=lambda t: reach[t]):
        spent += reach[test]
        if spent > SECONDS and chosen:
            break
        chosen.append(test)
    return [*chosen, *TABLES] if outside else chosen


def run_again(tests: Sequence[str], only: str = "") -> int:
    """Those that survived and have no reason to, against other tests."""
    rows = json.loads(DRAWN.read_text(encoding="utf-8"))
    alive = [row for row in rows if not row["killed"] and not row.get("why") and row["file"].startswith(only)]
    there = _there(alive)
    found = []
    with Copy() as copy:
        for row, mutant in _told(there):
            content = mutant.applied((ROOT / row["file"]).read_bytes())
            found.append(copy.changed(row["file"], content, tests, 600))
            if found[-1].killed:
                row |= {"killed": True, "test": found[-1].test or tests[0]}
                DRAWN.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return _table([(f"{m.file}:{m.line}", f"{m.old} → {m.new}") for _, m in there], found)


def _there(rows: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], Mutant]]:
    """The rows whose mutants the code still has, with these."""
    by_key = {
        _key(vars(m)): m for file in sorted({r["file"] for r in rows}) if (ROOT / file).exists()
        for m in mutants(ROOT, file)
    }  # fmt: skip
    return [(row, by_key[_key(row)]) for row in rows if _key(row) in by_key]


def run_some(count: int) -> int:
    """As many as that of the generated ones that were killed, each by the test that killed it."""
    rows = [row for row in json.loads(DRAWN.read_text(encoding="utf-8")) if row["killed"]]
    there = _there(rows)
    if len(there) < count:
        print(
            f"only {len(there)} of {len(rows)} mutants of {DRAWN.name} are still there: draw them again (docs/tests.md)"
        )
        return 2
    drawn = random.Random(SEED).sample(there, count)
    with Copy() as copy:
        found = [
            copy.changed(row["file"], mutant.applied((ROOT / row["file"]).read_bytes()), [row["test"]])
            for row, mutant in _told(drawn)
        ]
    return _table([(f"{m.file}:{m.line}", f"{m.old} → {m.new}") for _, m in drawn], found)


def score(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of the score by area, then what survived, and why where that is known."""
    areas: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        (area,) = (name for name, (places, _) in AREAS.items() if any(row["file"].startswith(p) for p in places))
        areas[area].append(row)
    lines = ["| | mutants | killed | equivalent | score |", "|---|---|---|---|---|"]
    for name, part in [*areas.items(), ("all", list(rows))]:
        killed, same = sum(r["killed"] for r in part), sum(bool(r.get("why")) and not r["killed"] for r in part)
        lines.append(f"| {name} | {len(part)} | {killed} | {same} | {killed / max(1, len(part) - same):.1%} |")
    lines.append("")
    for row in rows:
        if not row["killed"]:
            where = f"`{row['function']}`" if row["function"] else "at import"
            lines.append(f"- `{row['file']}`, {where}: `{' '.join(row['old'].split())}` → "
                         f"`{' '.join(row['new'].split())}`: {row.get('why') or 'SURVIVED'}")  # fmt: skip
    return "\n".join(lines)


def write_score() -> None:
    """Between the marks in the docs."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    table = score(json.loads(DRAWN.read_text(encoding="utf-8")))
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{table}\n\n{MARKS[1]}{after}", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    sys.exit(main())
