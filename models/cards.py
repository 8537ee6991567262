"""models.toml, the cards of the model files, and the table of their figures in README.md."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from export import feature_map, sha256
from networks import SIDE
from training import Pool, measure, preprocess

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def card(path: Path, preset: str, description: str, made: str, held_out: Pool) -> dict[str, Any]:
    """The table of a file in models.toml; its figures are measured with onnxruntime on the held-out pictures."""
    model = onnx.load(path)
    return {
        "description": description,
        "task": "multi-label classification",
        "labels": list(LABELS),
        "default-layer": feature_map(model),
        "sha256": sha256(path),
        "source": "models/make.py",
        "licence": "Apache-2.0",
        "made": made,
        "preprocess": {"preset": preset, "layout": "NCHW", "size": [SIDE, SIDE], "resize": "resize"},
        "about": {
            "opset": max(each.version for each in model.opset_import if not each.domain),
            "held-out": measure(predict(path, held_out.pixels, preset), held_out.targets),
        },
    }


def predict(path: Path, pixels: np.ndarray, preset: str) -> np.ndarray:
    """Probabilities (N, 10) of uint8 pictures (N, 96, 96, 3), by onnxruntime on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    parts = np.array_split(pixels, -(-len(pixels) // 100))
    return np.concatenate([session.run(None, {"image": preprocess(part, preset).numpy()})[0] for part in parts])


def write(cards: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Writes models.toml, and the table between the two marks of README.md."""
    text = "# Written by models/make.py.\n"
    for name, table in cards.items():
        text += f"\n[{json.dumps(name)}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in table.items())
    (folder / "models.toml").write_text(text, encoding="utf-8")
    readme = folder / "README.md"
    start, end = "<!-- figures -->\n", "<!-- end of figures -->"
    before, _, rest = readme.read_text(encoding="utf-8").partition(start)
    readme.write_text(before + start + figures(folder) + end + rest.partition(end)[2], encoding="utf-8")


def toml(value: Any) -> str:
    """A value as TOML on one line; strings are JSON's, which TOML's basic strings include."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def figures(folder: Path) -> str:
    """models.toml as a Markdown table."""
    rows = ["| file | bytes | opset | mean AP | exact set | default layer |", "|---|---|---|---|---|---|"]
    for name, table in tomllib.loads((folder / "models.toml").read_text(encoding="utf-8")).items():
        about = table["about"]
        score = about["held-out"]
        rows.append(
            f"| `{name}` | {(folder / name).stat().st_size} | {about['opset']} | {score['mean-ap']:.4f} "
            f"| {100 * score['exact']:.1f} % | `{table['default-layer']}` |"
        )
    return "\n".join(rows) + "\n"
