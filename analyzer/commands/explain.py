"""`explain`: the heatmap over the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from analyzer.commands.common import (
    InputPath,
    OutputPath,
    RunProgress,
    each_picture,
    format_option,
    layer_option,
    model_argument,
    note,
    parse_options,
    preprocess_options,
    print_json,
    provider_option,
    stacked,
    table,
    tell_doubt,
    with_session,
)


@click.command(name="explain")
@model_argument
@click.argument("pictures", nargs=-1, required=True, type=InputPath())
@click.option("-o", "--out", type=OutputPath(), help="PNG to write; a folder where there are several pictures.")
@click.option("-m", "--method", "methods", multiple=True, help="See `methods`; several give a grid.  [grad-cam]")
@click.option(
    "-t",
    "--target",
    "targets",
    multiple=True,
    help="top1, class index, label or expression; several give a grid.  [top1]",
)
@layer_option
@click.option(
    "-O", "--option", "options", multiple=True, metavar="NAME=VALUE", help="Option of a method, see `methods`."
)
@click.option("--output", help="Which output of the model holds the scores.")
@click.option("--reference", type=InputPath(), help="Picture whose embedding `.cosine(reference)` compares with.")
@click.option("--mask", type=InputPath(), help="Picture whose brighter half is `mask` in `.where(mask)`.")
@click.option("--labels", type=InputPath(), help="Class names: one per line, or JSON.")
@click.option("--raw", type=OutputPath(), help="Also write the raw map as .npy (a folder for several pictures).")
@click.option("--colormap", default="turbo", show_default=True, help="turbo, viridis, cividis, inferno, magma or gray.")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Weight of the heatmap.")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes to print.")
@stacked(preprocess_options)
@provider_option
@with_session
@click.option("-v", "--verbose", is_flag=True, help="Say what was assumed and how exact the rewriting is.")
@format_option
def command(
    model: str,
    pictures: tuple[str, ...],
    out: str | None,
    methods: tuple[str, ...],
    targets: tuple[str, ...],
    layer: str | None,
    options: tuple[str, ...],
    output: str | None,
    reference: str | None,
    mask: str | None,
    labels: str | None,
    raw: str | None,
    colormap: str,
    alpha: float,
    top: int,
    provider: str,
    session: dict[str, Any],
    verbose: bool,
    form: str,
    **preprocess: Any,
) -> int:
    """Show what MODEL looks at in PICTURES: a heatmap over each, and the classes it sees.

    \b
    onnx-analyzer explain model.onnx cat.jpg -o heatmap.png
    onnx-analyzer explain model.onnx cat.jpg -m grad-cam -m guided-backprop -t 281 -t 285 -o grid.png
    """
    from analyzer.attribution import Explainer
    from analyzer.commands.pictures import read_card

    methods, targets = methods or ("grad-cam",), targets or ("top1",)
    asked = options_of(methods, parse_options(options))
    places = destinations(out, pictures, ".png")
    raws = destinations(raw, pictures, ".npy")
    explainer = Explainer(model, provider, **session)
    card = read_card(explainer, labels, preprocess)
    explainer.labels = card.labels
    explainer.progress = RunProgress()
    explainer.arrays = named_arrays(explainer, card, reference, mask)
    if verbose:
        note(f"preprocessing: {card.source}")
    layer = layer or card.default_layer or "auto"
    task = Task(explainer, card, asked, targets, layer, output, colormap, alpha, top)
    results, failed = each_picture("explain", pictures, lambda p: task.run(p, places.get(p), raws.get(p)))
    if verbose:
        report_receipt(explainer, model)
    if form == "json":
        print_json("explain", {"model": model, "results": results, "failed": failed})
    else:
        for result in results:
            print_result(result, len(pictures) > 1)
    return 5 if failed else 0


class Task:
    """One picture after another, with the same methods and targets."""

    def __init__(
        self,
        explainer: Any,
        card: Any,
        methods: dict[str, dict[str, Any]],
        targets: tuple[str, ...],
        layer: str,
        output: str | None,
        colormap: str,
        alpha: float,
        top: int,
    ) -> None:
        from analyzer.attribution import Job

        self.explainer, self.card, self.targets = explainer, card, targets
        self.jobs = [Job(method, layer, options) for method, options in methods.items()]
        self.output, self.colormap, self.alpha, self.top = output, colormap, alpha, top
        self.doubt = ""

    def run(self, picture: str, out: Path | None, raw: Path | None) -> dict[str, Any]:
        """Explain a picture, write what was asked for, and say what was found."""
        import numpy as np

        from analyzer.images import ColourBar, decode, grid, overlay, write_npy, write_png

        image = decode(picture)
        array, placement = self.card.preprocess.apply(image)
        target: Any = list(self.targets) if len(self.targets) > 1 else self.targets[0]
        self.explainer.grey = self.card.preprocess.apply(np.full_like(image, 128))[0]
        found = self.explainer.explain_all(array, self.jobs, target, self.output)
        self.doubt = tell_doubt(found[0].doubt, self.doubt)
        result: dict[str, Any] = {"picture": picture, "top": self.classes(found[0]), "maps": []}
        result["doubt"] = found[0].doubt or None
        tiles, titles = [], []
        for attribution in found:
            for row in range(len(attribution.heatmap)):
                title = f"{attribution.method}: {self.name(attribution, row)}"
                heat = placement.map_to_image(attribution.heatmap[row])
                heat[~placement.covered] = np.nan  # what the model was not shown
                result["maps"].append(self.about(picture, attribution, row, heat))
                if out:
                    tiles.append((image, heat))
                    titles.append(title)
        if out and len(tiles) == 1:
            write_png(out, overlay(image, tiles[0][1], alpha=self.alpha, colormap=self.colormap, title=titles[0]))
        elif out:
            drawn = [overlay(i, h, alpha=self.alpha, colormap=self.colormap, colorbar=False) for i, h in tiles]
            write_png(out, grid(drawn, titles, len(tiles) // len(found), bar=ColourBar(self.colormap)))
        if raw:
            write_npy(
                raw, np.concatenate([a.raw for a in found]) if len({a.raw.shape for a in found}) == 1 else found[0].raw
            )
        if out:
            result["written"] = str(out)
        return result

    def classes(self, attribution: Any) -> list[dict[str, Any]]:
        """The highest scores of the picture."""
        from analyzer.attribution.targets import ranked

        scores = attribution.scores[0].astype(float)
        order = ranked(scores)[: self.top]
        return [{"class": int(i), "label": self.label(int(i)), "score": float(scores[i])} for i in order]

    def label(self, index: int) -> str:
        return str(self.card.label(index))

    def name(self, attribution: Any, row: int) -> str:
        index = int(attribution.target[row])
        if not attribution.legible[row]:
            return "not finite"
        if index < 0:
            return self.targets[row % len(self.targets)]
        return f"{self.label(index)} ({attribution.scores[attribution.image[row]].flat[index]:.3g})"

    def about(self, picture: str, attribution: Any, row: int, heat: Any) -> dict[str, Any]:
        """A map as data: where its maximum lies in the picture, and what is wrong with it if anything."""
        import numpy as np

        y, x = np.unravel_index(np.nanargmax(heat), heat.shape)
        legible, index = bool(attribution.legible[row]), int(attribution.target[row])
        if not legible and self.targets[row % len(self.targets)] == "top1":
            index = -1  # no class is the highest
        if attribution.diagnosis[row]:
            note(f"warning: {picture}: {attribution.method}: {attribution.diagnosis[row]}")
        return {
            "method": attribution.method,
            "class": index if index >= 0 else None,
            "label": self.label(index) if index >= 0 else None,
            "layer": attribution.layer or None,
            "maximum": [int(x), int(y)] if legible else None,
            "diagnosis": attribution.diagnosis[row] or None,
            "details": {name: values[row].tolist() for name, values in attribution.details.items()},
        }


def options_of(methods: tuple[str, ...], given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{method: its options}: each option goes to every method that has it.

    Raises:
        NotFoundError: no such method. InputError: an option that none of them has.
    """
    from analyzer.attribution import find_method

    known = {m: find_method(m, {}).options for m in methods}
    for name in given:
        if not any(name in options for options in known.values()):
            find_method(methods[0], {name: given[name]})
    return {m: {n: v for n, v in given.items() if n in options} for m, options in known.items()}


def named_arrays(explainer: Any, card: Any, reference: str | None, mask: str | None) -> dict[str, Any]:
    """What `reference` and `mask` stand for in a target."""
    from analyzer.images import decode

    found: dict[str, Any] = {}
    if reference:
        found["reference"] = explainer.reference(card.preprocess.apply(decode(reference))[0])
    if mask:
        placed = card.preprocess.replace(mean=(0.0,), std=(1.0,), scale=1.0, dtype="float32")
        pixels = placed.apply(decode(mask))[0][0]
        grey = pixels.max(axis=card.preprocess.layout.index("C") - 1)
        found["mask"] = grey > grey.max() / 2
    return found


def destinations(given: str | None, pictures: tuple[str, ...], suffix: str) -> dict[str, Path]:
    """{picture: file to write}; several pictures go into a folder, which is made."""
    from analyzer.errors import OutputError
    from analyzer.files import Places, claim, make_folder

    if given is None:
        return {}
    path = Path(given)
    if len(pictures) == 1 and not path.is_dir():
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")
        claim(path)
        return {pictures[0]: path}
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file; several pictures need a folder")
    places = Places(path)
    found = {picture: places.place(Path(picture).stem, suffix) for picture in dict.fromkeys(pictures)}
    make_folder(path)
    return found


def print_result(result: dict[str, Any], several: bool) -> None:
    """The classes as a table, then one line per map."""
    if several:
        click.echo(f"\n{result['picture']}")
    click.echo(
        table([(c["class"], c["label"], f"{c['score']:.4g}") for c in result["top"]], ("class", "label", "score"))
    )
    for m in result["maps"]:
        where = f" at layer {m['layer']}" if m["layer"] else ""
        if m["maximum"]:
            x, y = m["maximum"]
            click.echo(f"{m['method']} of {m['label'] or 'expression'}{where}: maximum at x={x}, y={y}")
        else:
            click.echo(f"{m['method']}{where}: empty, because values are not finite")
        if "completeness" in m["details"] and m["maximum"]:
            click.echo("  " + completeness(m["method"], m["details"]["completeness"], m["details"]["difference"]))
    if "written" in result:
        click.echo(f"written: {result['written']}")


INCOMPLETE = {  # why, by method
    "integrated-gradients": "more steps bring it nearer: -O steps=200",
    "full-grad": "they are equal where all that is not linear is a ReLU or a maximum",
}


def completeness(method: str, error: float, expected: float) -> str:
    """Says what a map sums to, and why where that is more than a hundredth off what it is a share of."""
    told = f"sums to {expected + error:.4g}, which should be {expected:.4g}"
    why = INCOMPLETE.get(method)
    return f"{told}; {why}" if why and abs(error) > 0.01 * abs(expected) else told


def report_receipt(explainer: Any, model: str) -> None:
    """Says whose the scores are, and how far the normalised model's outputs are from the file's on random input."""
    from analyzer.runtime import receipt

    if explainer.quantised and explainer.deployed is None:
        note("receipt: stock onnxruntime does not load this file; scores are those of the rewritten model")
        return
    if explainer.quantised:
        note("receipt: scores are those of the file as it is in onnxruntime, bit for bit")
    difference = receipt(model, explainer.plain, as_it_is=explainer.quantised)
    note(f"receipt: outputs of the rewritten model differ from the file's by at most {difference:.2g} (relative)")
