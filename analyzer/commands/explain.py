"""`explain`: the heatmap over the picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import FloatRange, IntRange

from analyzer.commands.common import RunProgress, each_picture, note, parse_options, print_json, table, tell_doubt
from analyzer.commands.options import (
    READ,
    WRITE,
    Given,
    Setup,
    format_option,
    group,
    labels_option,
    layer_option,
    model_argument,
    option,
    output_option,
    pictures_argument,
    pictures_out_option,
    several,
)

if TYPE_CHECKING:
    from analyzer.attribution import Model, Question


class Explain(Given):
    model: str = model_argument
    pictures: tuple[str, ...] = pictures_argument
    out: str | None = pictures_out_option
    methods: tuple[str, ...] = several("-m --method", "See `methods`; several give a grid.  [grad-cam]")
    targets: tuple[str, ...] = several(
        "-t --target", "top1, class index, label or expression; several give a grid.  [top1]"
    )
    layer: str | None = layer_option
    options: tuple[str, ...] = several("-O --option", "Option of a method, see `methods`.", metavar="NAME=VALUE")
    output: str | None = output_option
    reference: str | None = option(
        "--reference", "Picture whose embedding `.cosine(reference)` compares with.", type=READ
    )
    mask: str | None = option("--mask", "Picture whose brighter half is `mask` in `.where(mask)`.", type=READ)
    labels: str | None = labels_option
    raw: str | None = option("--raw", "Also write the raw map as .npy (a folder for several pictures).", type=WRITE)
    colormap: str = option("--colormap", "turbo, viridis, cividis, inferno, magma or gray.", default="turbo")
    alpha: float = option("--alpha", "Weight of the heatmap.", type=FloatRange(0, 1), default=0.5)
    top: int = option("--top", "How many classes to print.", type=IntRange(1), default=5)
    setup: Setup = group(Setup)
    verbose: bool = option("-v --verbose", "Say what was assumed and how exact the rewriting is.", is_flag=True)
    form: str = format_option


@Explain.command("explain")
def command(given: Explain) -> int:
    """Show what MODEL looks at in PICTURES: a heatmap over each, and the classes it sees.

    \b
    onnx-analyzer explain model.onnx cat.jpg -o heatmap.png
    onnx-analyzer explain model.onnx cat.jpg -m grad-cam -m guided-backprop -t 281 -t 285 -o grid.png
    """
    from analyzer.attribution import Job, Question

    targets, mask, reference = given.targets or ("top1",), given.mask, given.reference
    asked = options_of(given.methods or ("grad-cam",), parse_options(given.options))
    places = destinations(given.out, given.pictures, ".png")
    raws = destinations(given.raw, given.pictures, ".npy")
    model, card = given.setup.load(given.model, given.labels)
    if given.verbose:
        note(f"preprocessing: {card.source}")
    layer = given.layer or card.default_layer or "auto"
    question = Question(
        tuple(Job(method, layer, options) for method, options in asked.items()),
        list(targets) if len(targets) > 1 else targets[0],
        given.output,
        card.labels,
        {} if mask is None else {"mask": read_mask(mask, card)},
        {} if reference is None else {"reference": read_reference(reference, card)},
    )
    task = Task(model, question, card, targets, given)
    results, failed = each_picture("explain", given.pictures, lambda p: task.run(p, places.get(p), raws.get(p)))
    if given.verbose:
        report_receipt(model, given.model)
    if given.form == "json":
        print_json("explain", {"model": given.model, "results": results, "failed": failed})
    else:
        for result in results:
            print_result(result, len(given.pictures) > 1)
    return 5 if failed else 0


class Task:
    """One picture after another, with the same methods and targets."""

    def __init__(self, model: Model, question: Question, card: Any, targets: tuple[str, ...], given: Explain) -> None:
        self.model, self.question, self.card, self.targets, self.given = model, question, card, targets, given
        self.progress = RunProgress()
        self.doubt = ""

    def run(self, picture: str, out: Path | None, raw: Path | None) -> dict[str, Any]:
        """Explain a picture, write what was asked for, and say what was found."""
        import numpy as np

        from analyzer.attribution import answer
        from analyzer.images import ColourBar, decode, grid, overlay, write_npy, write_png

        image = decode(picture)
        array, placement = self.card.preprocess.apply(image)
        grey = self.card.preprocess.apply(np.full_like(image, 128))[0]
        found = answer(self.model, replace(self.question, grey=grey), array, self.progress)
        self.doubt = tell_doubt(found[0].doubt, self.doubt)
        result: dict[str, Any] = {"picture": picture, "top": self.classes(found[0]), "maps": []}
        result["doubt"] = found[0].doubt or None
        heats, titles = [], []
        for attribution in found:
            for row in range(len(attribution.heatmap)):
                title = f"{attribution.method}: {self.name(attribution, row)}"
                heat = placement.map_to_image(attribution.heatmap[row])
                heat[~placement.covered] = np.nan  # what the model was not shown
                result["maps"].append(self.about(picture, attribution, row, heat))
                heats.append(heat)
                titles.append(title)
        colours: Any = {"alpha": self.given.alpha, "colormap": self.given.colormap}
        if out and len(heats) == 1:
            write_png(out, overlay(image, heats[0], title=titles[0], **colours))
        elif out:
            drawn = [overlay(image, heat, colorbar=False, **colours) for heat in heats]
            write_png(out, grid(drawn, titles, len(heats) // len(found), bar=ColourBar(self.given.colormap)))
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
        order = ranked(scores)[: self.given.top]
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


def read_reference(path: str, card: Any) -> Any:
    """What the model is given for a reference picture."""
    from analyzer.images import decode

    return card.preprocess.apply(decode(path))[0]


def read_mask(path: str, card: Any) -> Any:
    """(H, W) whether a pixel of the model's input is selected by a mask picture."""
    from analyzer.images import decode

    placed = card.preprocess.replace(mean=(0.0,), std=(1.0,), scale=1.0, dtype="float32")
    pixels = placed.apply(decode(path))[0][0]
    grey = pixels.max(axis=card.preprocess.layout.index("C") - 1)
    return grey > grey.max() / 2


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


def report_receipt(loaded: Model, model: str) -> None:
    """Says whose the scores are, and how far the normalised model's outputs are from the file's on random input."""
    from analyzer.runtime import receipt

    if loaded.quantised and loaded.deployed is None:
        note("receipt: stock onnxruntime does not load this file; scores are those of the rewritten model")
        return
    if loaded.quantised:
        note("receipt: scores are those of the file as it is in onnxruntime, bit for bit")
    difference = receipt(model, loaded.plain, as_it_is=loaded.quantised)
    note(f"receipt: outputs of the rewritten model differ from the file's by at most {difference:.2g} (relative)")
