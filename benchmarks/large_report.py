"""Size, memory and time to open of a report with many pictures.

    python -m benchmarks.large_report [--pictures 500]

Compares the digits model with its INT8 build on synthetic pictures, writes the report as a folder, and opens it in
Chromium if there is one.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

import analyzer
from analyzer.images import write_png
from analyzer.report.files import write_comparison
from analyzer.report.page import Shot

ROOT = Path(__file__).resolve().parents[1]


def peak() -> float:
    """MiB"""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=500)
    count = parser.parse_args().pictures
    with tempfile.TemporaryDirectory() as folder:
        place, random = Path(folder), np.random.default_rng(0)
        for number in range(8):
            coarse = random.integers(0, 256, (12, 16, 3), np.uint8)
            write_png(place / f"{number}.png", np.kron(coarse, np.ones((20, 20, 1), np.uint8)))
        models = [ROOT / "models" / f"digits_cnn{kind}.onnx" for kind in ("", "_int8")]
        done = analyzer.compare(*models, [place], draw=0)
        names = done.least()
        shots = [
            Shot(f"{at}: {names[at % len(names)]}", lambda at=at: done.figure(names[at % len(names)]))
            for at in range(count)
        ]
        document = done.as_data()
        document["comparison"] = document["comparison"] | {"rows": done.report["rows"] * (count // 8 + 1)}
        write_comparison(f"{folder}/warm/", document, shots[:50])
        before = peak()
        for path in (f"{folder}/report/", f"{folder}/report.html"):
            start = time.process_time()
            write_comparison(path, document, shots)
            size = (
                sum(p.stat().st_size for p in Path(path).rglob("*"))
                if path.endswith("/")
                else Path(path).stat().st_size
            )
            page = Path(path, "index.html") if path.endswith("/") else Path(path)
            opened = seconds_to_open(page, place / "user")
            print(f"{Path(path).name}: {size / 1e6:.1f} MB, {time.process_time() - start:.0f} s of CPU to write, "
                  f"memory grew by {peak() - before:.0f} MiB, opened in {opened:.1f} s", flush=True)  # fmt: skip


def seconds_to_open(page: Path, user: Path) -> float:
    """Until the page is loaded in a new headless Chromium, its start included; NaN if there is none."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return float("nan")
    start = time.monotonic()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={user}", f"--screenshot={user}.png"]
    subprocess.run([browser, *flags, page.as_uri()], capture_output=True, timeout=120, check=True)
    return time.monotonic() - start


if __name__ == "__main__":
    main()
