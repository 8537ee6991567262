"""Writes docs/gallery.md and its pictures: one real result per method and per command that draws.

    python docs/gallery.py
    python docs/gallery.py --photographs squeezenet1.1.onnx --labels synset.txt

Runs the commands as a reader would, on the shipped models and pictures; takes a few minutes. With `--photographs` only
the section of that name: photographs that scikit-image ships, explained by a SqueezeNet 1.1 that the reader has.
"""

from __future__ import annotations

import argparse
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
DETECTOR, QUANTIZED = "models/digits_detector.onnx", "models/digits_cnn_int8.onnx"
PICTURE, TARGET = "examples/digits_coffee.png", "eight"
MODELS = {"attention-rollout": VIT, "gradient-rollout": VIT, "d-rise": DETECTOR}  # others: CNN
RELU = "/network/stage1/stage1.0/Relu_output_0"
# What else is explained: title, arguments before the output.
TASKS: dict[str, tuple[str, list[str]]] = {
    "detector": ("Detections", ["explain", DETECTOR, PICTURE, "-t", "all"]),
    "keypoints": ("Keypoints", ["explain", "models/digits_keypoints.onnx", PICTURE, "-t", "all"]),
    "segmenter": ("Classes of a segmenter", ["explain", SEGMENTER, PICTURE, "-t", "all"]),
    "quantized": (
        "A class of a quantized network",
        ["explain", QUANTIZED, PICTURE, "-m", "grad-cam", "-m", "guided-backprop", "-m", "occlusion", "-t", TARGET],
    ),
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
    "localize": ("Boxes around the hottest parts", ["localize", CNN, PICTURE, "-t", TARGET], ""),
    "occlusion-figure": ("What changes while a part is hidden", ["occlusion", CNN, PICTURE, "-t", TARGET], ""),
    "compare": (
        "A quantized network beside the original",
        ["compare", CNN, QUANTIZED, PICTURE],
        "pictures/picture-*.webp",
    ),
    "correspondence": ("Whether a layer recognizes parts", ["correspondence", CNN, "examples/boxes.json"], ""),
    "invariance": ("Features as a picture is turned", ["invariance", CNN, PICTURE], ""),
}

# Photographs of `skimage.data`: what they are, whose, and under which license.
PHOTOGRAPHS = {
    "chelsea": "Chelsea the cat, by Stéfan van der Walt, CC0",
    "coffee": "a cup of coffee, by Rachel Michetti, courtesy of Pikolo Espresso Bar, CC0",
    "rocket": "the launch of DSCOVR, by SpaceX, public domain",
    "astronaut": "Eileen Collins, by NASA, public domain",
}
HEADING = "## Photographs"
SHOWN = ("grad-cam", "guided-grad-cam", "smooth-grad", "occlusion")


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
    return [f"### {title}", "", f"`onnx-analyzer {' '.join(arguments)} {out_option(arguments)} …`", "", picture, ""]


def out_option(arguments: list[str]) -> str:
    """The option that says where a command writes."""
    return "--report" if arguments[0] == "compare" else "-o"


def commands(folder: Path) -> list[str]:
    """A section per command."""
    lines = []
    for name, (title, arguments, shown) in COMMANDS.items():
        out = folder / (name if shown else f"{name}.png")
        run(*arguments, out_option(arguments), f"{out}/" if shown else str(out))
        source = sorted(out.glob(shown))[0] if shown else out
        keep(source, name, 1000)
        lines += section(name, title, arguments)
    return lines


def photographs(model: Path, labels: Path, folder: Path) -> list[str]:
    """The section of the photographs."""
    import skimage  # type: ignore[import-not-found]

    flags = ["--preset", "imagenet", "--resize", "crop"]
    asked = [word for name in SHOWN for word in ("-m", name)]
    lines = [
        HEADING,
        "",
        f"Photographs that scikit-image {skimage.__version__} ships (`skimage.data`), explained by a SqueezeNet 1.1",
        "trained on ImageNet, which is not part of this repository: the most probable class by four methods.",
        f"Made by `python docs/gallery.py --photographs {model.name} --labels {labels.name}`.",
        "",
        f"`onnx-analyzer explain {model.name} PHOTOGRAPH {' '.join([*flags, *asked])} --labels {labels.name} -o …`",
        "",
    ]
    for name, what in PHOTOGRAPHS.items():
        source, out = folder / f"{name}.png", folder / f"photograph-{name}.png"
        atomic_write(source, encode(getattr(skimage.data, name)()))
        run("explain", str(model), str(source), *flags, *asked, "--labels", str(labels), "-o", str(out))
        keep(out, out.stem, 1600)
        lines += [f"### {what[0].upper()}{what[1:]}", "", f"![{name}](images/gallery/{out.stem}.jpg)", ""]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, metavar="MODEL", help="Only explain photographs with this model.")
    parser.add_argument("--labels", type=Path, help="The names of its classes, one on each line.")
    given = parser.parse_args()
    if given.photographs and not given.labels:
        parser.error("--photographs needs --labels")
    FOLDER.mkdir(parents=True, exist_ok=True)
    written = ROOT / "docs" / "gallery.md"
    before, heading, after = written.read_text().partition(HEADING) if written.exists() else ("", "", "")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.photographs:
            model, labels = given.photographs.resolve(), given.labels.resolve()
            os.chdir(ROOT)
            text = before.rstrip() + "\n\n" + "\n".join(photographs(model, labels, folder))
        else:
            os.chdir(ROOT)
            text = "\n".join(shipped(folder)).rstrip() + "\n\n" + heading + after
    atomic_write(written, text.rstrip().encode() + b"\n")


def shipped(folder: Path) -> list[str]:
    """All but the photographs."""
    return [
        "# Gallery",
        "",
        f"Every method on one picture, `{PICTURE}`, for the class *{TARGET}*, with `{CNN}`",
        f"(rollouts: `{VIT}`; D-RISE: `{DETECTOR}`). Made by `python docs/gallery.py`.",
        "",
        *methods(folder),
        "",
        "## Other tasks",
        "",
        *tasks(folder),
        "## Looking inside",
        "",
        *commands(folder),
    ]


if __name__ == "__main__":
    main()
