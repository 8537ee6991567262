"""Time and memory of explaining one large picture, against decoding it.

    python -m benchmarks.large_pictures [--rounds 3] [--model models/digits_cnn.onnx] [--small]

Whole processes in turn, medians of wall-clock and of CPU seconds and the highest peak of resident memory; then where
the time for a PNG goes. The pictures are made of a shipped one, 11,500×8,600 pixels: a JPEG, and PNGs of 8 bits, of 16,
with alpha.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from analyzer.images import png_strips, read
from analyzer.images.decode import read_file, read_header
from benchmarks.cold_start import ROOT, environment

NAMES = {
    "JPEG": "large.jpg",
    "PNG": "large.png",
    "PNG of 16 bits": "deep.png",
    "PNG with alpha": "alpha.png",
}
SIZE = (11500, 8600)
DECODE = "import sys, cv2; assert cv2.imread(sys.argv[1], cv2.IMREAD_UNCHANGED) is not None"


def measured(command: list[str]) -> tuple[float, float, float]:
    """Wall-clock seconds, CPU seconds (user and system) and peak resident memory in GB of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(""))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def make(folder: Path, small: bool) -> None:
    """Writes the pictures."""
    source = cv2.imread(str(ROOT / "examples" / "digits_coffee.png"))
    grain = np.random.default_rng(0).integers(-6, 7, (500, 500, 3)).astype(np.int16)
    width, height = (side // (8 if small else 1) for side in SIZE)
    made = cv2.resize(source, (width, height), interpolation=cv2.INTER_CUBIC)
    for top in range(0, height, 500):
        rows = made[top : top + 500]
        rows[:] = np.clip(rows + np.tile(grain, (1, width // 500 + 1, 1))[: len(rows), :width], 0, 255)
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    cv2.imwrite(str(folder / "large.jpg"), made)
    cv2.imwrite(str(folder / "large.png"), made, fast)
    cv2.imwrite(str(folder / "deep.png"), made.astype(np.uint16) * 257, fast)
    cv2.imwrite(str(folder / "alpha.png"), cv2.cvtColor(made, cv2.COLOR_BGR2BGRA), fast)


def parts(picture: Path) -> str:
    """CPU seconds of what happens to a PNG."""
    at = [time.process_time()]
    data = read_file(picture)
    read_header(data)
    at.append(time.process_time())
    for _ in png_strips._inflated(data):
        pass
    at.append(time.process_time())
    read(picture, enough=1024)
    at.append(time.process_time())
    opened, inflated, all_of_it = np.diff(at)
    return (
        f"reading and checking the file {opened:.2f}, inflating {inflated:.2f}, "
        f"undoing PNG's filters and reducing {all_of_it - opened - inflated:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "digits_cnn.onnx")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--make", type=Path, help="Only write the pictures into this folder.")
    parser.add_argument("--parts", type=Path, help="Only measure what happens to this PNG.")
    parser.add_argument("--small", action="store_true", help="An eighth of the sizes, to try the script.")
    given = parser.parse_args()
    if given.make:
        make(given.make, given.small)
        return
    if given.parts:
        print(parts(given.parts))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: a child's peak is at least what its parent holds.
        again = [sys.executable, "-m", "benchmarks.large_pictures", "--make", name, *["--small"] * given.small]
        subprocess.run(again, check=True, stderr=subprocess.DEVNULL)
        for what, file in NAMES.items():
            picture = folder / file
            cli = [sys.executable, str(ROOT / "cli.py"), "explain", str(given.model), str(picture), "-q"]
            tiny = [*cli[:-2], str(ROOT / "examples" / "digits_coffee.png"), "-q"]
            commands = {
                "decoding alone (OpenCV)": [sys.executable, "-c", DECODE, str(picture)],
                "explain": cli,
                "explain -o": [*cli, "-o", str(folder / "out.png")],
                "explain of a small picture": tiny,
            }
            seen: dict[str, list[tuple[float, float, float]]] = {who: [] for who in commands}
            for _ in range(given.rounds):
                for who, command in commands.items():
                    seen[who].append(measured(command))
            print(what)
            for who, record in seen.items():
                wall, cpu = (statistics.median(each[at] for each in record) for at in (0, 1))
                print(f"  {who}: {wall:.2f} s, {cpu:.2f} CPU s, {max(each[2] for each in record):.2f} GB")
            if picture.suffix == ".png":
                own = [sys.executable, "-m", "benchmarks.large_pictures", "--parts", str(picture)]
                print(
                    f"  CPU s of it: {subprocess.run(own, check=True, capture_output=True, text=True).stdout.strip()}"
                )


if __name__ == "__main__":
    main()
