"""`dream`: the picture that drives a unit most."""

from __future__ import annotations

from typing import Any

import click
from click import Choice

from analyzer.commands.common import Progress, finish, note, table
from analyzer.commands.options import (
    READ,
    WRITE_FILE,
    FloatRange,
    Given,
    IntRange,
    Setup,
    format_option,
    group,
    labels_option,
    layer_option,
    model_argument,
    option,
    seed_option,
    several,
)


class Size(click.ParamType):
    """HEIGHTxWIDTH in pixels."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        sides = str(value).lower().split("x")
        if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
            self.fail(f"{value!r} is not HEIGHTxWIDTH", param, ctx)
        return int(sides[0]), int(sides[1])


class Climb(Given):
    """Options of the ascent, as `DreamOptions`."""

    steps: int = option("--steps", "Number of gradient steps.", type=IntRange(1), default=128, metavar="N")
    rate: float | None = option(
        "--rate", "Step size. Default: 0.05 for fourier, 0.1 for maco, 1 for pixels.", type=FloatRange(), metavar="X"
    )
    parametrization: str = option(
        "--parametrization",
        "Optimize Fourier coefficients, only their phases (maco, with --photos), or the pixels themselves.",
        old="--parametrisation",
        type=Choice(["fourier", "maco", "pixels"]),
        default="fourier",
    )
    decorrelate: bool = option(
        "--decorrelate/--plain-colors", "Correlate colors as in ImageNet.", old="--plain-colours", default=True
    )
    jitter: int = option("--jitter", "Maximum random shift, in pixels.", type=IntRange(0), default=8, metavar="PIXELS")
    degrees: float = option(
        "--degrees", "Maximum random rotation, in degrees.", type=FloatRange(0), default=10.0, metavar="X"
    )
    rescale: bool = option("--rescale/--no-rescale", "Scale randomly in each step.", default=True)
    decay: float = option("--decay", "L2 decay per step.", type=FloatRange(0, 1), default=0.0, metavar="0..1")
    blur: float = option(
        "--blur", "Standard deviation of the Gaussian blur, in pixels.", type=FloatRange(0), default=0.0, metavar="X"
    )
    blur_every: int = option("--blur-every", "Blur every N steps.", type=IntRange(1), default=4, metavar="N")
    clip_norm: float = option(
        "--clip-norm",
        "Set the pixels of smallest norm to 0, this percentage of them.",
        type=FloatRange(0, 100),
        default=0.0,
        metavar="PERCENT",
    )
    clip_contribution: float = option(
        "--clip-contribution",
        "Set the pixels of smallest contribution to 0, this percentage of them.",
        type=FloatRange(0, 100),
        default=0.0,
        metavar="PERCENT",
    )
    seed: int = seed_option
    picture_size: tuple[int, int] | None = option(
        "--picture-size",
        "Size of the picture, if larger than the model's input: tiles of it are optimized at random offsets.",
        type=Size(),
        metavar="HEIGHTxWIDTH",
    )
    variants: int = option("--variants", "Pictures of each unit.", type=IntRange(1), default=1, metavar="N")
    diversity: float = option(
        "--diversity",
        "How strongly variants avoid each other's textures.",
        type=FloatRange(0),
        default=0.5,
        metavar="X",
    )


class Dream(Given):
    model: str = model_argument
    layer: str | None = layer_option
    chosen: tuple[str, ...] = several(
        "-u --unit", "Unit to maximize: a channel of the layer, or CHANNEL@y,x. Repeatable.", metavar="UNIT"
    )
    targets: tuple[str, ...] = several(
        "-t --target", "Class to maximize instead, as index or label. Repeatable.", metavar="CLASS"
    )
    directions: tuple[str, ...] = several(
        "--direction",
        "Direction to maximize instead: a .npy file of one weight per channel of the layer. Repeatable.",
        type=READ,
        metavar="FILE",
    )
    photos: tuple[str, ...] = several(
        "--photos",
        "Photographs whose spectrum maco keeps: a file, folder or pattern. Repeatable.",
        type=READ,
        metavar="PATH",
    )
    out: str = option("-o --out", "PNG file to write, or - for stdout.", required=True, type=WRITE_FILE, metavar="FILE")
    raw: str | None = option(
        "--raw",
        "Also write the pictures as .npy, with shape (pictures, H, W, 3) and uint8 values.",
        type=WRITE_FILE,
        metavar="FILE",
    )
    labels: str | None = labels_option
    climb: Climb = group(Climb)
    setup: Setup = group(Setup)
    form: str = format_option


@Dream.command("dream")
def command(given: Dream) -> None:
    """Generate the picture that maximizes a unit, class or direction, by gradient ascent on the input.

    The default settings follow lucid: Fourier parametrization, decorrelated colors and random transforms. To
    reproduce Yosinski et al. 2015, use --parametrization pixels, with --decay, --blur and the clip options. The same
    seed gives the same picture. With --variants, each picture avoids the textures of the others.

    \b
    Examples:
      onnx-analyzer dream model.onnx -l conv4 -u 12 -u 40 -o dream.png
      onnx-analyzer dream model.onnx -t 281 -o cat.png
      onnx-analyzer dream model.onnx -l conv4 -u 12 --variants 4 -o facets.png
      onnx-analyzer dream model.onnx -t 281 --picture-size 512x768 -o large.png
    """
    from analyzer.api.dreaming import RATES, check_units, maximized, photographed
    from analyzer.attribution.parametrizations import DreamOptions
    from analyzer.data import find_pictures
    from analyzer.images import write_npy, write_png

    settings = dict(vars(given.climb))
    if given.climb.rate is None:
        settings["rate"] = RATES[given.climb.parametrization]
    check_units(given.chosen, given.targets, given.directions)
    explainer, card = given.setup.load(given.model, given.labels)
    pictures = len(given.chosen or given.targets or given.directions) * given.climb.variants
    progress = Progress(pictures * given.climb.steps, "dream")
    options = DreamOptions(**settings)
    spectrum = photographed(card, find_pictures(given.photos) if given.photos else [], options)
    asked = given.layer, given.chosen, given.targets, given.directions, options
    done = maximized(explainer, card, *asked, progress.step, spectrum)
    for unit, one in zip(done.units, done.dreams, strict=True):
        if one.stopped:
            note(f"warning: {unit}: {one.stopped}")
    write_png(given.out, done.figure())
    if given.raw:
        write_npy(given.raw, done.stacked())
    document = done.as_data() | {"model": given.model}
    cells = [
        (
            r["unit"],
            "–" if r["first"] is None else f"{r['first']:.4g}",
            f"{r['score']:.4g}",
            *([] if r["similarity"] is None else [f"{r['similarity']:.2f}"]),
        )
        for r in document["units"]
    ]
    columns = ("unit", "first step", "last step", *(["similarity"] if given.climb.variants > 1 else []))
    written = [place for place in (given.out, given.raw) if place]
    finish(given.form, "dream", document, [table(cells, columns)], written)
