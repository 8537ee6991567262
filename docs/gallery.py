"""Writes docs/gallery.md and its pictures: one real result per method and per command that draws.

    python docs/gallery.py

Runs the commands as a reader would, on the shipped models and pictures; takes a few minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from analyzer.attribution.methods import METHODS  # noqa: E402
from analyzer.images import atomic_write, decode, encode, fit  # noqa: E402

FOLDER = ROOT / "docs" / "images" / "gallery"
CNN, VIT = "models/digits_cnn.onnx", "models/digits_vit.onnx"
SEGMENTER, READER = "models/digits_segmenter.onnx", "models/digits_reader.onnx"
DETECTOR = "models/digits_detector.onnx"
PICTURE, TARGET = "examples/digits_coffee.png", "eight"
MODELS = {"attention-rollout": VIT, "gradient-rollout": VIT, "d-rise": DETECTOR}  # others: CNN
RELU = "/network/stage1/stage1.0/Relu_output_0"
# What else is explained: title, arguments before the output.
TASKS: dict[str, tuple[str, list[str]]] = {
    "detector": ("Detections", ["explain", DETECTOR, PICTURE, "-t", "all"]),
    "keypoints": ("Keypoints", ["explain", "models/digits_keypoints.onnx", PICTURE, "-t", "all"]),
    "segmenter": ("Classes of a segmenter", ["explain", SEGMENTER, PICTURE, "-t", "all"]),
    "reader": ("Characters of a text recognizer", ["explain", READER, "examples/line.png", "-t", "all"]),
}
# What draws besides `explain`: title, arguments before the output, the file to show (in the output folder, or itself).
COMMANDS: dict[str, tuple[str, list[str], str]] = {
    "features": ("Feature maps", ["features", CNN, PICTURE, "-l", RELU, "--max-channels", "16"], "*.png"),
    "filters": ("Filters of the first layer", ["filters", CNN, "-l", "/network/stem/stem.0/stem.0.0/Conv"], ""),
    "receptive-field": (
        "The receptive field of a unit, its neighbors', and how many units see each pixel",
        ["receptive-field", CNN, PICTURE, "-l", "/network/stage?/*.0/Relu_output_0", "--at", "7,7"],
        "",
    ),
    "effective-field": (
        "Effective receptive fields over depth",
        ["receptive-field", CNN, "--effective", "--data", "examples/digits_*.png", "--positions", "40"],
        "",
    ),
    "project": ("A unit carried back to the pixels", ["project", CNN, PICTURE, "-l", RELU, "-u", "3"], ""),
    "mine": (
        "The strongest activations of channels",
        ["mine", CNN, "examples/digits_*.png", "-l", RELU, "-k", "9", "--draw", "4"],
        "**/*.png",
    ),
    "dream": ("What drives a channel most", ["dream", CNN, "-l", "/network/stage3/Relu_output_0", "-u", "5"], ""),
    "invariance": ("Features as a picture is turned", ["invariance", CNN, PICTURE], ""),
}


def run(*arguments: str) -> None:
    """The command line, as a reader would call it."""
    done = subprocess.run([sys.executable, "cli.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stderr}")


def keep(source: Path, name: str, width: int) -> None:
    """A copy, made small."""
    atomic_write(FOLDER / f"{name}.jpg", encode(fit(decode(str(source)), largest=width), ".jpg"))


def methods(folder: Path) -> list[str]:
    """A row per method."""
    rows = ["| | |", "| --- | --- |"]
    for name, method in METHODS.items():
        model = MODELS.get(name, CNN)
        out = folder / f"{name}.png"
        run("explain", model, PICTURE, "-m", name, "-t", TARGET, "-o", str(out))
        keep(out, name, 420 if method.views[0] == "overlay" else 840)
        rows.append(f"| ![{name}](images/gallery/{name}.jpg) | **`{name}`**<br>{method.formula}<br>{method.paper} |")
    return rows


def tasks(folder: Path) -> list[str]:
    """A section per task."""
    lines = []
    for name, (title, arguments) in TASKS.items():
        out = folder / f"{name}.png"
        run(*arguments, "-o", str(out))
        keep(out, name, 1000)
        lines += section(name, title, arguments)
    return lines


def section(name: str, title: str, arguments: list[str]) -> list[str]:
    picture = f"![{title}](images/gallery/{name}.jpg)"
    return [f"### {title}", "", f"`onnx-analyzer {' '.join(arguments)} -o …`", "", picture, ""]


def commands(folder: Path) -> list[str]:
    """A section per command."""
    lines = []
    for name, (title, arguments, shown) in COMMANDS.items():
        out = folder / (name if shown else f"{name}.png")
        run(*arguments, "-o", str(out))
        source = sorted(out.glob(shown))[0] if shown else out
        keep(source, name, 1000)
        lines += section(name, title, arguments)
    return lines


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        page = [
            "# Gallery",
            "",
            f"Every method on one picture, `{PICTURE}`, for the class *{TARGET}*, with `{CNN}`",
            f"(rollouts: `{VIT}`; D-RISE: `{DETECTOR}`). Made by `python docs/gallery.py`.",
            "",
            *methods(Path(folder)),
            "",
            "## Other tasks",
            "",
            *tasks(Path(folder)),
            "## Looking inside",
            "",
            *commands(Path(folder)),
        ]
    atomic_write(ROOT / "docs" / "gallery.md", "\n".join(page).rstrip().encode() + b"\n")


if __name__ == "__main__":
    main()
