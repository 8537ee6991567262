"""`dream`: the picture that drives a unit most."""

from __future__ import annotations

from typing import Any

import click

from analyzer.commands.common import (
    InputPath,
    OutputPath,
    Progress,
    format_option,
    layer_option,
    model_argument,
    note,
    preprocess_options,
    print_json,
    provider_option,
    stacked,
    table,
    with_session,
)


@click.command(name="dream")
@model_argument
@layer_option
@click.option("-u", "--unit", "chosen", multiple=True, metavar="CHANNEL[@y,x]", help="Channels or units; repeatable.")
@click.option("-t", "--target", "targets", multiple=True, help="Classes by index or label, instead of units.")
@click.option("-o", "--out", required=True, type=OutputPath(dir_okay=False), help="PNG to write.")
@click.option("--labels", type=InputPath(), help="Class names: one per line, or JSON.")
@click.option("--steps", type=click.IntRange(1), default=128, show_default=True)
@click.option("--rate", type=float, default=None, help="Step size.  [0.05 for fourier, 1 for pixels]")
@click.option("--parametrisation", type=click.Choice(["fourier", "pixels"]), default="fourier", show_default=True)
@click.option("--decorrelate/--plain-colours", default=True, show_default=True, help="Colours as ImageNet's correlate.")
@click.option("--jitter", type=click.IntRange(0), default=8, show_default=True, help="Pixels of random movement.")
@click.option("--degrees", type=click.FloatRange(0), default=5.0, show_default=True, help="Of random rotation.")
@click.option("--rescale/--no-rescale", default=True, show_default=True, help="Random scaling.")
@click.option("--decay", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="L2 decay per step.")
@click.option("--blur", type=click.FloatRange(0), default=0.0, show_default=True, help="Sigma of the Gaussian.")
@click.option("--blur-every", type=click.IntRange(1), default=4, show_default=True, help="Steps between two blurs.")
@click.option("--clip-norm", type=click.FloatRange(0, 100), default=0.0, help="Percent of pixels of smallest norm.")
@click.option("--clip-contribution", type=click.FloatRange(0, 100), default=0.0, help="Percent of least contribution.")
@click.option("--seed", type=int, default=0, show_default=True)
@stacked(preprocess_options)
@provider_option
@with_session
@format_option
def command(
    model: str,
    layer: str | None,
    chosen: tuple[str, ...],
    targets: tuple[str, ...],
    out: str,
    labels: str | None,
    rate: float | None,
    provider: str,
    session: dict[str, Any],
    form: str,
    **options: Any,
) -> None:
    """Make the picture that drives a channel, unit or class most, by gradient ascent on the input.

    Regularisers are those of Yosinski et al. 2015 (--parametrisation pixels with --decay, --blur, --clip-norm,
    --clip-contribution) and of lucid (fourier, decorrelated colours, random transforms). The same seed gives the same
    picture.

    \b
    onnx-analyzer dream model.onnx -l conv4 -u 12 -u 40 -o dream.png
    onnx-analyzer dream model.onnx -t 281 -o cat.png
    """
    from analyzer.attribution import Explainer
    from analyzer.attribution.dream import Dreamer, DreamOptions
    from analyzer.attribution.targets import find_scores, resolve_class
    from analyzer.attribution.units import STRONGEST, WHOLE, parse_unit
    from analyzer.commands.pictures import read_card
    from analyzer.errors import InputError
    from analyzer.images import grid, write_png

    own = {f for f in DreamOptions.__dataclass_fields__ if f in options}
    settings = {name: options.pop(name) for name in own}
    settings["rate"] = rate if rate is not None else {"fourier": 0.05, "pixels": 1.0}[settings["parametrisation"]]
    if bool(chosen) == bool(targets):
        raise InputError("say what is to be driven", "give -u CHANNEL (with -l LAYER), or -t CLASS")
    explainer = Explainer(model, provider, **session)
    card = read_card(explainer, labels, options)
    name = find_scores(explainer.plain).logits.name if targets else layer or card.default_layer or "auto"
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
    progress = Progress(len(units) * settings["steps"], "dream")
    found = [dreamer.run(c, p, DreamOptions(**settings), progress.step) for c, p in units]
    for unit, one in zip(names, found, strict=True):
        if one.stopped:
            note(f"warning: {unit}: {one.stopped}")
    scores = [f"{n} ({d.score:.3g})" for n, d in zip(names, found, strict=True)]
    write_png(out, grid([d.image for d in found], scores, title=f"what drives {dreamer.units.name}"))
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
    if form == "json":
        document = {"model": model, "layer": dreamer.units.name, "options": settings, "units": rows}
        print_json("dream", {**document, "written": [out]})
        return
    cells = [(r["unit"], "–" if r["first"] is None else f"{r['first']:.4g}", f"{r['score']:.4g}") for r in rows]
    click.echo(table(cells, ("unit", "at first", "at last")))
    click.echo(f"written: {out}")
