"""Mutated models, pictures and cards, read by every command.

python -m tests.fuzz --seconds 120 --seed N     as many cases as fit; exit code 1 if one goes wrong
python -m tests.fuzz --count 20000 --keep DIR   so many; what goes wrong is made small and kept in DIR
python -m tests.fuzz --only 17 --seed N         one case, with all that it prints
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.cases import made
from tests.fuzz.finds import save
from tests.fuzz.harness import Case, Verdict, run
from tests.fuzz.minimize import minimized


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no case after so many")
    parser.add_argument("--count", type=int, default=sys.maxsize, help="run at most so many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="run the case of this number")
    parser.add_argument("--keep", type=Path, help="folder for what goes wrong")
    parser.add_argument("--figures", type=Path, help="JSON file for the counts")
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))  # no TemporaryDirectory: each forked command would remove it
    try:
        if given.only is not None:
            return _show(made(given.seed, given.only), place / "case")
        return _many(given, place / "case")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _many(given: argparse.Namespace, folder: Path) -> int:
    counts: Counter[str] = Counter()
    commands: Counter[str] = Counter()
    seen: Counter[tuple[str, str]] = Counter()
    start, number, slowest = time.monotonic(), given.start, 0.0
    while number < given.start + given.count and time.monotonic() - start < given.seconds:
        case = made(given.seed, number)
        verdict = run(case, folder)
        commands[case.command[0]] += 1
        counts[verdict.kind or f"exit {verdict.code}"] += 1
        counts[f"contained: {verdict.contained}"] += bool(verdict.contained)
        slowest = max(slowest, verdict.seconds)
        if verdict.kind or verdict.contained:
            key = verdict.kind or f"contained {verdict.contained}", verdict.place
            seen[key] += 1
            if seen[key] == 1:
                print(f"{number}: {key[0]}: {verdict.place} ({' '.join(case.command)})", flush=True)
                if given.keep:
                    _keep(case, verdict, folder, given.keep / f"{key[0].replace(' ', '-')}-{given.seed}-{number}")
        number += 1
    _report(given, number - given.start, time.monotonic() - start, slowest, (counts, commands, seen))
    return 1 if any(not kind.startswith("contained") for kind, _ in seen) else 0


def _report(
    given: argparse.Namespace, cases: int, seconds: float, slowest: float, counted: tuple[Counter, Counter, Counter]
) -> None:
    counts, commands, seen = counted
    figures = {
        "seed": given.seed, "cases": cases, "seconds": round(seconds), "slowest": round(slowest, 1),
        "ends": dict(sorted((+counts).items())), "commands": dict(sorted(commands.items())),
        "kinds": [[*key, count] for key, count in seen.most_common()],
    }  # fmt: skip
    print(json.dumps(figures["ends"]), f"{cases} cases in {seconds:.0f} s, the slowest {slowest:.1f} s")
    if given.figures:
        given.figures.write_text(json.dumps(figures, indent=1))


def _keep(case: Case, verdict: Verdict, folder: Path, place: Path) -> None:
    def is_same(tried: Case) -> bool:
        found = run(tried, folder)
        return (found.kind, found.contained, found.place) == (verdict.kind, verdict.contained, verdict.place)

    if verdict.kind not in ("hang",) and verdict.contained not in ("time", "memory"):
        case = minimized(case, is_same, 120)
    save(case, place)


def _show(case: Case, folder: Path) -> int:
    verdict = run(case, folder)
    print(" ".join(case.command), verdict.out, verdict.err, sep="\n")
    for crash in (folder / "tmp").glob("onnx-analyzer-crash-*"):
        print(crash.read_text())
    print(verdict.kind or "as it should", verdict.code, verdict.contained, verdict.place, verdict.left)
    return 1 if verdict.kind else 0


if __name__ == "__main__":
    raise SystemExit(main())
