"""`explain`: the heatmap over the picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import FloatRange, IntRange

from analyzer.commands.common import (
    Progress,
    RunProgress,
    failed_as_data,
    note,
    parse_options,
    print_json,
    table,
    tell_doubt,
    tell_left_out,
)
from analyzer.commands.options import (
    READ,
    WRITE,
    Given,
    OverPictures,
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
    from analyzer.attribution import Model


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
    over: OverPictures = group(OverPictures)
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
    from analyzer.data import find_pictures
    from analyzer.passes import run
    from analyzer.passes.explaining import Explaining

    targets, mask, reference = given.targets or ("top1",), given.mask, given.reference
    asked = options_of(given.methods or ("grad-cam",), parse_options(given.options))
    samples = find_pictures(given.pictures)
    names = tuple(sample.id for sample in samples)
    overlays = destinations(given.out, given.pictures, names, ".png")
    raws = destinations(given.raw, given.pictures, names, ".npy")
    model, card = given.setup.load(given.model, given.labels, many=len(samples) > 1)
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
    drawing = {"alpha": given.alpha, "colormap": given.colormap}
    single = RunProgress() if len(samples) == 1 else None
    work = Explaining(model, question, card, targets, overlays, raws, given.top, drawing, single)
    done = run(work, samples, **given.over.keywords(given.out, Progress(len(samples), "explain")))
    tell_left_out(done)
    doubt = ""
    for result in done.result:
        doubt = tell_doubt(result["doubt"] or "", doubt)
        for m in result["maps"]:
            if m["diagnosis"]:
                note(f"warning: {result['picture']}: {m['method']}: {m['diagnosis']}")
    if given.verbose:
        report_receipt(model, given.model)
    if given.form == "json":
        print_json("explain", {"model": given.model, "results": done.result, "failed": failed_as_data(done)})
    else:
        for result in done.result:
            print_result(result, len(samples) > 1)
    return 5 if done.failed else 0


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


def destinations(given: str | None, asked: tuple[str, ...], pictures: tuple[str, ...], suffix: str) -> dict[str, Path]:
    """{picture: file to write}; unless just one was asked for, they go into a folder, which is made."""
    from analyzer.errors import OutputError
    from analyzer.files import Places, claim, make_folder

    if given is None:
        return {}
    path = Path(given)
    if asked == pictures and len(pictures) == 1 and not path.is_dir():
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")
        claim(path)
        return {pictures[0]: path}
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file; several pictures need a folder")
    places = Places(path)
    found = {picture: places.place(Path(picture).stem, suffix) for picture in pictures}
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
