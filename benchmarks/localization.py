"""How well maps locate digits in held-out pictures: boxes, pointing game and energy per method.

    python -m benchmarks.localization [--pictures 60] [--out docs/localization.md]

Pictures are composed by models/pictures.py from digit samples and photographs that no training picture contains
(needs scikit-image and scikit-learn). Every digit that the model gives more than ½ is asked for.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from analyzer.attribution import Explainer, Job, Question, answer
from analyzer.attribution.localization import THRESHOLDS, sweep
from analyzer.attribution.methods import METHODS
from analyzer.errors import UnsupportedError
from analyzer.images import model_card
from analyzer.metrics.energy import energy_inside
from analyzer.metrics.pointing_game import points_inside
from benchmarks.faithfulness import baseline

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("digits_cnn.onnx", "digits_vit.onnx")
# Methods of many runs with fewer of them, so that the table is done in minutes.
OPTIONS = {"rise": {"masks": 300}}


def measure(name: str, count: int) -> dict[str, list[tuple[np.ndarray, bool, float]]]:
    """{method: [(IoU per threshold, pointing hit, energy inside) per digit]}"""
    sys.path.insert(0, str(ROOT / "models"))
    from pictures import Composer  # type: ignore[import-not-found]

    path = ROOT / "models" / name
    explainer, card = Explainer(path), model_card(path)
    composer = Composer("held-out", seed=20_000)
    table: dict[str, list[tuple[np.ndarray, bool, float]]] = {}
    for index in range(count):
        picture = composer.picture()
        batch, placement = card.preprocess.apply(picture.pixels)
        grey = card.preprocess.apply(np.full_like(picture.pixels, 128))[0]
        scores = explainer.explain(batch, "grad-cam").scores[0]
        wanted = [(d, b) for d, b in zip(picture.labels, picture.boxes, strict=True) if scores[d] > 0.5]
        if not wanted:
            continue
        for method in ("random", "center", *METHODS):
            if method in ("random", "center"):
                heats = np.stack([baseline(method, (96, 96), f"{index}")] * len(wanted))
                heats = (heats - heats.min()) / (heats.max() - heats.min())
            else:
                try:
                    asked = [int(d) for d, _ in wanted]
                    options = OPTIONS.get(method, {})
                    target = asked if len(asked) > 1 else asked[0]
                    question = Question((Job(method, options=options),), target, grey=grey)
                    heats = answer(explainer, question, batch)[0].heatmap
                except UnsupportedError:
                    continue
            for heat, (_, box) in zip(heats, wanted, strict=True):
                inside = placement.box_to_input(tuple(float(v) for v in box))
                measured = (sweep(heat, inside), points_inside(heat, inside), energy_inside(heat, inside))
                table.setdefault(method, []).append(measured)
    return table


def rows(table: dict[str, list[tuple[np.ndarray, bool, float]]]) -> list[str]:
    """Markdown, the best boxes first."""
    lines = []
    for method, values in table.items():
        sweeps = np.stack([v[0] for v in values])
        best = int(sweeps.mean(axis=0).argmax())
        name = f"*{method}*" if method in ("random", "center") else f"`{method}`"
        figures = (
            f"{sweeps[:, THRESHOLDS.index(0.2)].mean():.3f} | {THRESHOLDS[best]:g} | {sweeps[:, best].mean():.3f} | "
            f"{(sweeps[:, best] >= 0.5).mean():.1%} | {np.mean([v[1] for v in values]):.1%} | "
            f"{np.mean([v[2] for v in values]):.1%}"
        )
        lines.append((sweeps[:, best].mean(), f"| {name} | {figures} |"))
    head = "| method | IoU at 0.2 | best threshold | IoU there | IoU ≥ ½ there | pointing game | heat inside |"
    return [head, "|" + " --- |" * 7, *(text for _, text in sorted(lines, reverse=True))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "localization.md")
    given = parser.parse_args()
    found = given.out.read_text().partition("## Placement") if given.out.exists() else ("", "", "")
    kept = "\n" + found[1] + found[2] if found[1] else ""  # written by benchmarks.placement
    parts = [
        "# Localization\n\nWritten by `python -m benchmarks.localization`, for every digit with a probability above ½ "
        f"in {given.pictures} held-out pictures. The heat is thresholded at a share of its maximum, and the box of its "
        "largest connected part is compared with the digit's true box: at 0.2, as in Zhou et al. 2016, and at the "
        "method's best threshold from 0.05 to 0.95 (MaxBoxAcc, Choe et al. 2020). *Pointing game*: share of digits "
        "whose hottest pixel is inside the box. *Heat inside*: share of the heat inside the box. Baselines: *random* "
        "is noise, *center* is the closeness to the picture's center.\n"
    ]
    for name in MODELS:
        table = measure(name, given.pictures)
        parts.append(f"## {name}: {len(table['centre'])} digits\n\n" + "\n".join(rows(table)) + "\n")
        print(parts[-1], flush=True)
        given.out.write_text("\n".join(parts) + kept)


if __name__ == "__main__":
    main()
