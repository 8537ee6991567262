"""`dream`: the picture that drives a unit most."""

from __future__ import annotations

from click import Choice, FloatRange, IntRange

from analyzer.commands.common import Progress, finish, note, table
from analyzer.commands.options import (
    WRITE_FILE,
    Given,
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


class Climb(Given):
    """Options of the ascent, as `DreamOptions`."""

    steps: int = option("--steps", type=IntRange(1), default=128)
    rate: float | None = option("--rate", "Step size.  [0.05 for fourier, 1 for pixels]", type=float)
    parametrisation: str = option("--parametrisation", type=Choice(["fourier", "pixels"]), default="fourier")
    decorrelate: bool = option("--decorrelate/--plain-colours", "Colours as ImageNet's correlate.", default=True)
    jitter: int = option("--jitter", "Pixels of random movement.", type=IntRange(0), default=8)
    degrees: float = option("--degrees", "Of random rotation.", type=FloatRange(0), default=5.0)
    rescale: bool = option("--rescale/--no-rescale", "Random scaling.", default=True)
    decay: float = option("--decay", "L2 decay per step.", type=FloatRange(0, 1), default=0.0)
    blur: float = option("--blur", "Sigma of the Gaussian.", type=FloatRange(0), default=0.0)
    blur_every: int = option("--blur-every", "Steps between two blurs.", type=IntRange(1), default=4)
    clip_norm: float = option(
        "--clip-norm", "Percent of pixels of smallest norm.", type=FloatRange(0, 100), default=0.0, show_default=False
    )
    clip_contribution: float = option(
        "--clip-contribution",
        "Percent of least contribution.",
        type=FloatRange(0, 100),
        default=0.0,
        show_default=False,
    )
    seed: int = seed_option


class Dream(Given):
    model: str = model_argument
    layer: str | None = layer_option
    chosen: tuple[str, ...] = several("-u --unit", "Channels or units; repeatable.", metavar="CHANNEL[@y,x]")
    targets: tuple[str, ...] = several("-t --target", "Classes by index or label, instead of units.")
    out: str = option("-o --out", "PNG to write.", required=True, type=WRITE_FILE)
    labels: str | None = labels_option
    climb: Climb = group(Climb)
    setup: Setup = group(Setup)
    form: str = format_option


@Dream.command("dream")
def command(given: Dream) -> None:
    """Make the picture that drives a channel, unit or class most, by gradient ascent on the input.

    Regularisers are those of Yosinski et al. 2015 (--parametrisation pixels with --decay, --blur, --clip-norm,
    --clip-contribution) and of lucid (fourier, decorrelated colours, random transforms). The same seed gives the same
    picture.

    \b
    onnx-analyzer dream model.onnx -l conv4 -u 12 -u 40 -o dream.png
    onnx-analyzer dream model.onnx -t 281 -o cat.png
    """
    from analyzer.attribution.dream import Dreamer, DreamOptions
    from analyzer.attribution.targets import find_scores, resolve_class
    from analyzer.attribution.units import STRONGEST, WHOLE, parse_unit
    from analyzer.errors import InputError
    from analyzer.images import grid, write_png

    chosen, targets, settings = given.chosen, given.targets, vars(given.climb)
    if given.climb.rate is None:
        settings["rate"] = {"fourier": 0.05, "pixels": 1.0}[given.climb.parametrisation]
    if bool(chosen) == bool(targets):
        raise InputError("say what is to be driven", "give -u CHANNEL (with -l LAYER), or -t CLASS")
    explainer, card = given.setup.load(given.model, given.labels)
    name = find_scores(explainer.plain).logits.name if targets else given.layer or card.default_layer or "auto"
    dreamer = Dreamer(explainer, name, card.preprocess)
    if targets:
        units = [(resolve_class(t, card.labels), WHOLE) for t in targets]
        names = [card.label(c) for c, _ in units]
    else:
        units = [parse_unit(dreamer.units, text) for text in chosen]
        units = [(c, WHOLE if p == STRONGEST else p) for c, p in units]
        names = [f"channel {text}" for text in chosen]
    if any(c < 0 for c, _ in units):
        raise InputError("there is no picture yet whose strongest activation could be meant", "give a channel")
    progress = Progress(len(units) * given.climb.steps, "dream")
    found = [dreamer.run(c, p, DreamOptions(**settings), progress.step) for c, p in units]
    for unit, one in zip(names, found, strict=True):
        if one.stopped:
            note(f"warning: {unit}: {one.stopped}")
    scores = [f"{n} ({d.score:.3g})" for n, d in zip(names, found, strict=True)]
    write_png(given.out, grid([d.image for d in found], scores, title=f"what drives {dreamer.units.name}"))
    rows = [
        {
            "unit": n,
            "channel": c,
            "first": d.scores[0] if d.scores else None,
            "score": d.score,
            "stopped": d.stopped or None,
        }
        for n, (c, _), d in zip(names, units, found, strict=True)
    ]
    document = {"model": given.model, "layer": dreamer.units.name, "options": settings, "units": rows}
    cells = [(r["unit"], "–" if r["first"] is None else f"{r['first']:.4g}", f"{r['score']:.4g}") for r in rows]
    finish(given.form, "dream", document, [table(cells, ("unit", "at first", "at last"))], [given.out])
