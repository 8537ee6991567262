"""`invariance`: what moving, scaling and turning a picture does to features and classes."""

from __future__ import annotations

from pathlib import Path

from click import Choice

from analyzer.commands.common import Progress, finish, note, table
from analyzer.commands.options import (
    WRITE_FILE,
    FloatRange,
    Given,
    Pictures,
    Setup,
    format_option,
    group,
    labels_option,
    layers_option,
    model_argument,
    option,
    several,
)
from analyzer.commands.stdout import ToStdout
from analyzer.files import claim, write_text


class Invariance(Given):
    model: str = model_argument
    inputs: Pictures = group(Pictures)
    layers: tuple[str, ...] = layers_option
    targets: tuple[str, ...] = several(
        "-t --target",
        "True class, as index or label: one for all pictures, or one for each. Default: the class with the highest "
        "score.",
        metavar="CLASS",
    )
    transforms: tuple[str, ...] = several(
        "--transform",
        "Repeatable. Default: translation, scaling and rotation.",
        type=Choice(["translation", "horizontal", "scaling", "rotation"]),
    )
    out: str | None = option(
        "-o --out",
        "PNG file for the curves, or - for stdout. A CSV file with the same name is written next to it.",
        type=WRITE_FILE,
        metavar="FILE",
    )
    fill: float = option(
        "--fill", "Gray value (0 to 255) outside the picture.", type=FloatRange(0, 255), default=127.0, metavar="GRAY"
    )
    relative: bool = option("--relative", "Plot distances divided by the norm of the features.", is_flag=True)
    labels: str | None = labels_option
    setup: Setup = group(Setup)
    form: str = format_option


@Invariance.command("invariance")
def command(given: Invariance) -> None:
    """Measure how features and the class probability change when PICTURES are shifted, scaled and rotated.

    For each layer, the Euclidean distance between the features of the transformed and the original picture
    (Zeiler & Fergus 2014, figure 5).

    \b
    Example:
      onnx-analyzer invariance model.onnx a.jpg b.jpg -l conv1 -o curves.png
    """
    from analyzer.attribution.invariance import invariance
    from analyzer.errors import InputError
    from analyzer.images import decode, write_png
    from analyzer.report.invariance import as_csv, figure
    from analyzer.tasks.base import TOP1
    from analyzer.tasks.targets import resolve_class

    out, targets = given.out, given.targets
    beside = Path(out).with_suffix(".csv") if out and not isinstance(out, ToStdout) else None
    if beside:
        claim(beside)
    samples = given.inputs.samples()
    if len(targets) not in (0, 1, len(samples)):
        raise InputError(f"{len(targets)} targets for {len(samples)} pictures", "give one for each, or one for all")
    chosen = given.transforms or ("translation", "scaling", "rotation")
    explainer, card = given.setup.load(given.model, given.labels)
    classes = [resolve_class(t, card.labels) for t in targets] * (len(samples) if len(targets) == 1 else 1)
    known = {s.id: c for s, c in zip(samples, classes, strict=False) if c != TOP1}
    images = {s.id: decode(s.source) for s in samples}
    progress = Progress(len(images) * len(chosen), "invariance")
    layers = given.layers or (card.default_layer or "auto",)
    curves = invariance(explainer, images, layers, card.feeds, known, chosen, given.fill, progress.step)
    for picture, why in {c.picture: c.diagnosis for c in curves if c.diagnosis}.items():
        note(f"warning: {picture}: {why}")
    if out:
        write_png(out, figure(curves, given.relative, card.label))
    if beside:
        write_text(beside, as_csv(curves))
    cells = []
    for c in curves:
        low, high = c.range
        largest = ", ".join(f"{share:.0%}" for share in c.largest.values())
        cells.append((c.picture, c.transform, card.label(c.target), f"{low:.3f} … {high:.3f}", largest))
    rows = [vars(c) | {"diagnosis": c.diagnosis or None} for c in curves]
    text = table(cells, ("picture", "transform", "class", "probability", "largest distance / norm, per layer"))
    finish(
        given.form,
        "invariance",
        {"model": given.model, "curves": rows},
        [text],
        [str(place) for place in (out, beside) if place],
    )
