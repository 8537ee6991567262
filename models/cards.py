"""models.toml, the cards of the model files, and the table of their figures in README.md."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from export import feature_map, sha256
from networks import SIDE
from training import Pool, measure, preprocess

FIGURES = {  # how the README words each figure
    "mean-ap": "mean AP {:.4f}".format,
    "exact": "exact set {:.1%}".format,
    "mean-iou": "mean IoU {:.4f}".format,
    "pixels": "pixels {:.1%}".format,
    "map50": "mAP at IoU 0.5 {:.4f}".format,
    "pck10": "middles within a tenth of the picture {:.1%}".format,
    "absent": "absent digits below 0.3 {:.1%}".format,
    "lines": "whole lines {:.1%}".format,
}
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def card(path: Path, preset: str, description: str, made: str, held_out: Pool) -> dict[str, Any]:
    """The table of a classifier in models.toml; its figures are measured with onnxruntime on the held-out pictures."""
    return table(
        path,
        "multi-label classification",
        LABELS,
        description,
        made,
        {"preset": preset, "layout": "NCHW", "size": [SIDE, SIDE], "resize": "resize"},
        measure(predict(path, held_out.pixels, preset), held_out.targets),
        {"default-layer": feature_map(onnx.load(path))},
    )


def table(
    path: Path,
    task: str,
    labels: Sequence[str],
    description: str,
    made: str,
    preprocess: Mapping[str, Any],
    score: Mapping[str, Any],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """The table of a file in models.toml, `score` measured on held-out pictures; `more` are other keys."""
    opsets = onnx.load(path).opset_import
    return {
        "description": description,
        "task": task,
        "labels": list(labels),
        **more,
        "sha256": sha256(path),
        "source": "models/make.py",
        "licence": "Apache-2.0",
        "made": made,
        "preprocess": dict(preprocess),
        "about": {"opset": max(each.version for each in opsets if not each.domain), "held-out": dict(score)},
    }


def predict(path: Path, pixels: np.ndarray, preset: str) -> np.ndarray:
    """The output for uint8 pictures (N, H, W, C), by onnxruntime on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    parts = np.array_split(pixels, -(-len(pixels) // 100))
    return np.concatenate([session.run(None, {"image": preprocess(part, preset).numpy()})[0] for part in parts])


def write(cards: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Writes models.toml, where files that have no new card keep theirs, and the table in README.md."""
    text = "# Written by models/make.py.\n"
    for name, table in (read(folder) | cards).items():
        text += f"\n[{json.dumps(name)}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in table.items())
    (folder / "models.toml").write_text(text, encoding="utf-8")
    readme = folder / "README.md"
    start, end = "<!-- figures -->\n", "<!-- end of figures -->"
    before, _, rest = readme.read_text(encoding="utf-8").partition(start)
    readme.write_text(before + start + figures(folder) + end + rest.partition(end)[2], encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """The tables of models.toml by file name, none if there is no such file."""
    file = folder / "models.toml"
    return tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def toml(value: Any) -> str:
    """A value as TOML on one line; strings are JSON's, which TOML's basic strings include."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def figures(folder: Path) -> str:
    """models.toml as a Markdown table."""
    rows = ["| file | bytes | opset | on held-out pictures | default layer |", "|---|---|---|---|---|"]
    for name, table in read(folder).items():
        about = table["about"]
        score = ", ".join(FIGURES[key](value) for key, value in about["held-out"].items() if key in FIGURES)
        layer = table.get("default-layer")
        rows.append(
            f"| `{name}` | {(folder / name).stat().st_size} | {about['opset']} | {score} "
            f"| {f'`{layer}`' if layer else 'chosen automatically'} |"
        )
    return "\n".join(rows) + "\n"
