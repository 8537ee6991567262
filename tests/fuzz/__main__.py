"""Mutated models, pictures and cards, read by every command.

python -m tests.fuzz --seconds 120 --seed N     as many cases as fit; exit code 1 if one goes wrong
python -m tests.fuzz --count 20000 --keep DIR   so many; what goes wrong is made small and kept in DIR
python -m tests.fuzz --only 17 --seed N         one case, with all that it prints
python -m tests.fuzz --models DIR               files that are hostile already, each read by every command
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from tests.fuzz.cases import every, made
from tests.fuzz.harness import SECONDS, Case, Verdict, run
from tests.fuzz.minimize import minimized
from tests.fuzz.replay import save


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no case after so many")
    parser.add_argument("--count", type=int, default=sys.maxsize, help="run at most so many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="run the case of this number")
    parser.add_argument("--models", type=Path, help="folder with the models to read, instead of mutated ones")
    parser.add_argument("--limit", type=float, default=SECONDS, help="seconds that a command may take")
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
    start, slowest, ran = time.monotonic(), 0.0, 0
    for name, case in islice(_cases(given), given.count):
        if time.monotonic() - start > given.seconds:
            break
        verdict = run(case, folder, given.limit)
        ran += 1
        commands[case.command[0]] += 1
        counts[verdict.kind or f"exit {verdict.code}"] += 1
        counts[f"contained: {verdict.contained}"] += bool(verdict.contained)
        slowest = max(slowest, verdict.seconds)
        if verdict.kind or verdict.contained:
            key = verdict.kind or f"contained {verdict.contained}", verdict.place
            seen[key] += 1
            if seen[key] == 1:
                print(f"{name}: {key[0]}: {verdict.place} ({' '.join(case.command)})", flush=True)
                if given.keep:
                    _keep(case, verdict, folder, given.keep / f"{key[0].replace(' ', '-')}-{name}")
    _report(given, ran, time.monotonic() - start, slowest, (counts, commands, seen))
    return 1 if any(not kind.startswith("contained") for kind, _ in seen) else 0


def _cases(given: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    """Cases, and what they are called."""
    if given.models is None:
        return ((f"{given.seed}-{number}", made(given.seed, number)) for number in count(given.start))
    files = sorted(given.models.rglob("*.onnx"))
    return ((f"{file.stem}-{at}", case) for file in files for at, case in enumerate(every(file.read_bytes())))


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
