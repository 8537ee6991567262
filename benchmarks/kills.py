"""What kill -9 costs: each command is killed at random moments and run again until it ends.

    python -m benchmarks.kills [--kills 10] [--seed 1] [--only export]

Two workers, 24 pictures. Half of the kills are of the process that the user sees, half of its child, which works.
After every kill, a file under its final name must be whole: the same as without a kill. In the end all results must be
the same to the byte; unfinished files are counted (`.part`, temporary folders). The last row is of eight processes
at once that share a cache, and a folder of `mine` that one of them may write to.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from analyzer.images import write_png

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "digits_cnn.onnx"
INT8 = MODEL.with_name("digits_cnn_int8.onnx")
COMMANDS = {
    "mine": "mine {model} {pictures} -o {out} --draw 0 --batch 2",
    "explain": "explain {model} {pictures} -m grad-cam -m occlusion -o {out} --format json",
    "compare": "compare {model} {int8} -d {pictures} --store {out} --format json",
    "audit": "audit {model} -d {pictures} --probes 4 --store {out} --format json",
    "record": "record {model} -d {pictures} --store {out}",
    "export": "export {model} -o {out}/out.onnx",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each command")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=[], help="without the last row")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pictures(place / "pictures")
        good = [
            killed(command, place, given.kills, random.Random(f"{given.seed} {command}"))
            for command in given.only or COMMANDS
        ]
        if not given.only:
            good.append(shared(place))
    return 0 if all(good) else 1


def pictures(folder: Path) -> None:
    """24 of 96 × 96 pixels."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        colors = rng.integers(0, 256, (6, 6, 3), np.uint8)
        write_png(folder / f"{number:02}.png", np.kron(colors, np.ones((16, 16, 1), np.uint8)))


def killed(command: str, place: Path, kills: int, rng: random.Random) -> bool:
    """Whether nothing is lost, with a row of figures."""
    start = time.monotonic()
    expected = outcome(*run(command, place, place / f"{command}-straight"))
    seconds = time.monotonic() - start
    out = place / command
    out.mkdir()
    late = torn = 0
    for number in range(kills):
        process = started(command, place, out)
        time.sleep(rng.uniform(0.2, 1.0) * seconds)
        late += process.poll() is not None
        with suppress(OSError):  # it has ended
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[0]) if number % 2 and children else process.pid, signal.SIGKILL)
        process.communicate()
        time.sleep(0.1)  # until the child has heard of it
        torn += sum(expected[1].get(name, data) != data for name, data in files(out).items())
    found = outcome(*run(command, place, out))
    left = [p.name for p in out.rglob(".*")]
    good = found == expected and not torn
    print(
        f"{command}: {kills} kills ({late} after its end), {torn} torn files, "
        f"results {'equal' if found == expected else 'DIFFER'}, {len(left)} unfinished files left",
        flush=True,
    )
    return good


def shared(place: Path) -> bool:
    """Whether eight processes that share a cache and a folder of `mine` give what one gives."""
    cache = {"ONNX_ANALYZER_CACHE": str(place / "cache")}
    expected = outcome(*run("explain", place, place / "explain-alone"))
    mined = (place / "mine-straight" / "top.json").read_bytes()
    explaining = [started("explain", place, place / f"explain-{i}", cache) for i in range(4)]
    mining = [started("mine", place, place / "mine-shared", cache) for _ in range(4)]
    said = [process.communicate() for process in mining]
    codes = [process.returncode for process in mining]
    refused = sum(
        code == 2 and b"another process is using this folder" in err for code, (_, err) in zip(codes, said, strict=True)
    )
    run("mine", place, place / "mine-shared")
    equal = (place / "mine-shared" / "top.json").read_bytes() == mined
    same = sum(
        outcome(process.communicate()[0], place / f"explain-{i}") == expected for i, process in enumerate(explaining)
    )
    mine = f"mine: {codes.count(0)} did it, {refused} were refused, result equal: {equal}"
    print(f"8 processes: {same} of 4 explain equal; {mine}")
    return same == 4 and equal and codes.count(0) + refused == 4 and codes.count(0) > 0


def started(command: str, place: Path, out: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """The command, under way."""
    names = {
        "model": MODEL,
        "int8": MODEL.with_name("digits_cnn_int8.onnx"),
        "pictures": place / "pictures",
        "out": out,
    }
    words = COMMANDS[command].format(**names).split() + (["--workers", "2"] if command != "export" else [])
    return subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"ONNX_ANALYZER_CACHE": ""} | (environment or {}),
    )


def run(command: str, place: Path, out: Path) -> tuple[bytes, Path]:
    """The command until it ends."""
    out.mkdir(exist_ok=True)
    process = started(command, place, out)
    printed, err = process.communicate()
    if process.returncode not in (0, 1):
        raise SystemExit(f"{command}: {err.decode()}")
    return printed, out


def outcome(printed: bytes, out: Path) -> tuple[str, dict[str, bytes]]:
    """What the command gave, without where it was written: JSON, and files."""
    text = printed.decode().replace(str(out), "OUT")
    if text.startswith("{"):
        text = json.dumps(json.loads(text), sort_keys=True)
    return text, files(out)


def files(out: Path) -> dict[str, bytes]:
    """{name: content} of results: not of what a run keeps for the next one."""
    found = (p for p in sorted(out.rglob("*")) if p.is_file() and p.suffix in (".png", ".onnx", ".json", ".npz"))
    names = {p.relative_to(out): p for p in found}
    return {str(n): p.read_bytes() for n, p in names.items() if not any(part.startswith(".") for part in n.parts)}


if __name__ == "__main__":
    raise SystemExit(main())
