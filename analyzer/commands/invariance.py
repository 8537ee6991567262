"""`invariance`: what moving, scaling and turning a picture does to features and classes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from click import Choice, FloatRange

from analyzer.commands.common import Progress, finish, note, table
from analyzer.commands.options import (
    WRITE_FILE,
    Given,
    Setup,
    format_option,
    group,
    labels_option,
    layers_option,
    model_argument,
    option,
    pictures_argument,
    several,
)
from analyzer.files import claim, write_text


class Invariance(Given):
    model: str = model_argument
    pictures: tuple[str, ...] = pictures_argument
    layers: tuple[str, ...] = layers_option
    targets: tuple[str, ...] = several("-t --target", "True class of each picture (or of all).  [top1]")
    transforms: tuple[str, ...] = several(
        "--transform",
        "May be repeated.  [translation, scaling, rotation]",
        type=Choice(["translation", "horizontal", "scaling", "rotation"]),
    )
    out: str | None = option("-o --out", "PNG of the curves; the CSV is written beside it.", type=WRITE_FILE)
    fill: float = option("--fill", "Grey beyond the border.", type=FloatRange(0, 255), default=127.0)
    relative: bool = option("--relative", "Draw distances as shares of the norm of the features.", is_flag=True)
    labels: str | None = labels_option
    setup: Setup = group(Setup)
    form: str = format_option


@Invariance.command("invariance")
def command(given: Invariance) -> None:
    """Measure how features and the true class's probability change as pictures are moved, scaled and turned.

    The curves of Zeiler & Fergus 2014, figure 5: Euclidean distance of each layer's features to those of the picture
    as it is, and the probability of its class.

    \b
    onnx-analyzer invariance model.onnx a.jpg b.jpg -l conv1 -l fc7 -o invariance.png
    """
    import numpy as np

    from analyzer.attribution.invariance import TRANSFORMS, invariance
    from analyzer.attribution.targets import TOP1, resolve_class
    from analyzer.errors import InputError
    from analyzer.images import decode, write_png

    out, pictures, targets = given.out, given.pictures, given.targets
    beside = Path(out).with_suffix(".csv") if out else None
    if beside:
        claim(beside)
    if len(targets) not in (0, 1, len(pictures)):
        raise InputError(f"{len(targets)} targets for {len(pictures)} pictures", "give one for each, or one for all")
    chosen = given.transforms or ("translation", "scaling", "rotation")
    explainer, card = given.setup.load(given.model, given.labels)
    classes = [resolve_class(t, card.labels) for t in targets] * (len(pictures) if len(targets) == 1 else 1)
    known = {p: c for p, c in zip(pictures, classes, strict=False) if c != TOP1}
    images = {p: decode(p) for p in pictures}
    progress = Progress(len(images) * len(chosen), "invariance")
    layers = given.layers or (card.default_layer or "auto",)
    curves = invariance(explainer, images, layers, card.preprocess, known, chosen, given.fill, progress.step)
    said = {c.picture: c.diagnosis for c in curves if c.diagnosis}
    for picture, why in said.items():
        note(f"warning: {picture}: {why}")
    written = []
    if out and beside:
        units = {name: TRANSFORMS[name].unit for name in chosen}
        write_png(out, figure(curves, units, given.relative, card))
        write_csv(beside, curves)
        written = [out, str(beside)]
    cells = [
        (
            c.picture,
            c.transform,
            card.label(c.target),
            f"{np.fmin.reduce(c.probability):.3f} … {np.fmax.reduce(c.probability):.3f}",
            ", ".join(f"{np.fmax.reduce(d) / (c.norms[n] or 1):.0%}" for n, d in c.distances.items()),
        )
        for c in curves
    ]
    rows = [vars(c) | {"diagnosis": c.diagnosis or None} for c in curves]
    text = table(cells, ("picture", "transform", "class", "probability", "largest distance / norm, per layer"))
    finish(given.form, "invariance", {"model": given.model, "curves": rows}, [text], written)


def figure(curves: list[Any], units: dict[str, str], relative: bool, card: Any) -> Any:
    """A row of panels per transform: distance per layer, then the probability."""
    from analyzer.images.plot import Panel, plot

    layers = list(curves[0].distances)
    panels = []
    for transform, unit in units.items():
        own = [c for c in curves if c.transform == transform]
        names = {id(c): f"{Path(c.picture).stem} ({card.label(c.target)})" for c in own}
        for layer in layers:
            scale = {id(c): c.norms[layer] or 1.0 if relative else 1.0 for c in own}
            series = {names[id(c)]: (c.values, c.distances[layer] / scale[id(c)]) for c in own}
            label = "distance / norm" if relative else "Euclidean distance"
            panels.append(Panel(f"{transform}: {layer}", unit, label, series, low=0))
        series = {names[id(c)]: (c.values, c.probability) for c in own}
        panels.append(Panel(f"{transform}: probability", unit, "of the true class", series, 0, 1))
    return plot(panels, len(layers) + 1, "Invariance of features and class")


def write_csv(path: Path, curves: list[Any]) -> None:
    """A row per picture, transform and value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    layers = list(curves[0].distances)
    heads = [f"{kind} {layer}" for layer in layers for kind in ("distance", "norm")]
    writer.writerow(["picture", "transform", "value", "class", "probability", *heads])
    for c in curves:
        for i, value in enumerate(c.values):
            cells = [n for layer in layers for n in (c.distances[layer][i], c.norms[layer])]
            writer.writerow([c.picture, c.transform, value, c.target, c.probability[i], *cells])
    write_text(path, text.getvalue())
