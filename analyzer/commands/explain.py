"""`explain`: the heatmap over the picture."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import Choice

from analyzer.commands.common import (
    Progress,
    RunProgress,
    Warnings,
    command_line,
    end_bar,
    failed_as_data,
    note,
    parse_options,
    print_json,
    say_written,
    table,
    tell_doubt,
    tell_failed,
)
from analyzer.commands.film import Film
from analyzer.commands.options import (
    METHOD,
    READ,
    WRITE,
    WRITE_FOLDER,
    FloatRange,
    Given,
    IntRange,
    OverPictures,
    Pictures,
    Setup,
    colormap_option,
    group,
    labels_option,
    layer_option,
    model_argument,
    option,
    options_option,
    output_option,
    pictures_out_option,
    placement_option,
    several,
)
from analyzer.commands.places import destinations
from analyzer.commands.stdout import ToStdout
from analyzer.version import __version__

if TYPE_CHECKING:
    from analyzer.attribution import Model
    from analyzer.errors import AnalyzerError
    from analyzer.images import ModelCard
    from analyzer.report.results_table import ResultsTable

IMAGE_FORMATS = {None: ".png", "png": ".png", "jpeg": ".jpg", "webp": ".webp"}


class Explain(Given):
    model: str = model_argument
    inputs: Pictures = group(Pictures)
    out: str | None = pictures_out_option
    methods: tuple[str, ...] = several(
        "-m --method",
        "Method, see the methods command. Repeatable; several make a grid. Default: grad-cam; for text, detections "
        "and keypoints, layer-cam.",
        **METHOD,
    )
    targets: tuple[str, ...] = several(
        "-t --target",
        "What to explain: top1, a class index or label, detection:N, or an expression (docs/targets.md). Repeatable; "
        "several make a grid. Default: top1, the prediction with the highest score.",
        metavar="TARGET",
    )
    layer: str | None = layer_option
    placement: str = placement_option
    options: tuple[str, ...] = options_option
    output: str | None = output_option
    reference: str | None = option(
        "--reference", "Picture for targets such as `embedding.cosine(reference)`.", type=READ, metavar="FILE"
    )
    mask: str | None = option(
        "--mask",
        "Mask image for targets such as `logits.where(mask)`; pixels above half its maximum are selected.",
        type=READ,
        metavar="FILE",
    )
    labels: str | None = labels_option
    raw: str | None = option(
        "--raw",
        "Also write the maps before normalization, one per target: .npy, or for several methods .npz, where each "
        "array has the name of its method. For several pictures: a folder.",
        type=WRITE,
        metavar="PATH",
    )
    rows: str | None = option(
        "--table",
        "Also write a table, a row per map: results.parquet in this folder, and manifest.json, which says what was "
        "run. Needs the extra `remote`.",
        type=WRITE_FOLDER,
        metavar="FOLDER",
    )
    view: str | None = option(
        "--view",
        "How the map is drawn: overlay (over the picture), map (without the picture), signed (red for the target, "
        "blue against it), rgb (its channels as colors) or contour. Default: as in the method's paper.",
        type=Choice(["overlay", "map", "signed", "rgb", "contour"]),
    )
    percentile: float | None = option(
        "--percentile",
        "Percentile of the map's magnitudes that is drawn in full color. Default: 100, for gradients of pixels 99.5.",
        type=FloatRange(0, 100, min_open=True),
        metavar="P",
    )
    range_: str = option(
        "--range",
        "own: each map on its own scale; shared: all maps of a method on one.",
        type=Choice(["own", "shared"]),
        default="own",
    )
    colormap: str | None = colormap_option(
        "Color map, such as turbo, viridis, jet or gray; for signed views blue-red or purple-green. Default: by view."
    )
    alpha: float = option(
        "--alpha", "Opacity of the overlay where it is hottest.", type=FloatRange(0, 1), default=0.6, metavar="0..1"
    )
    each: bool = option(
        "--each", "Write a file for every target (name-0.png, name-1.png…) instead of a grid.", is_flag=True
    )
    image_format: str | None = option(
        "--image-format",
        "Format of the pictures in a folder: png, jpeg or webp. Default: png.",
        type=Choice(["png", "jpeg", "webp"]),
    )
    size_out: int | None = option(
        "--size-out",
        "Long side of the drawn pictures, in pixels (tiny ones are enlarged by a whole factor). Default: at least 448, "
        "in "
        "folders 128; at most 1024.",
        type=IntRange(16, 16384),
        metavar="N",
    )
    top: int = option("--top", "Number of classes to print.", type=IntRange(1), default=5, metavar="N")
    over: OverPictures = group(OverPictures)
    setup: Setup = group(Setup)
    verbose: bool = option(
        "-v --verbose", "Print the preprocessing, and how exactly the rewritten model matches the file.", is_flag=True
    )
    form: str = option(
        "--format",
        "Output format; jsonl: a JSON document per picture, each on a line, as soon as it is done; coco: "
        "detections or keypoints in COCO's format.",
        type=Choice(["text", "json", "jsonl", "coco"]),
        default="text",
    )


@Explain.command("explain")
def command(given: Explain) -> int:
    """Show what MODEL looks at in PICTURES: print the top classes and draw a heatmap over each picture.

    PICTURES are files, folders, glob patterns, tar archives, Parquet files, addresses, text files with one path per
    line, or - for stdin.

    \b
    Examples:
      onnx-analyzer explain model.onnx cat.jpg -o heatmap.png
      onnx-analyzer explain model.onnx photos/ -t 281 -o heatmaps/
      onnx-analyzer explain model.onnx cat.jpg -m grad-cam -m gradient -o grid.png
    """
    from analyzer.attribution import Job, Question
    from analyzer.attribution.cards import default_method
    from analyzer.attribution.methods import options_of
    from analyzer.errors import InputError, UnsupportedError
    from analyzer.images import Drawing
    from analyzer.images.mask import read_mask
    from analyzer.images.video import is_video
    from analyzer.passes import run
    from analyzer.passes.explaining import IN_FOLDER, SIDE, Explaining
    from analyzer.tasks import Declared

    targets = given.targets or ("top1",)
    samples = given.inputs.samples()
    many = len(samples) > 1 or any(is_video(sample.source) for sample in samples)
    model, card = given.setup.load(given.model, given.labels, many=many)
    samples, sources = given.inputs.opened(samples, card.feeds)
    film = Film.of(given.out, samples)
    if given.each and (film or isinstance(given.out, ToStdout)):
        raise InputError("--each writes a picture for every target", "give --out the name of a picture or a folder")
    methods = given.methods or (default_method(model, given.output),)
    if len(set(methods)) > 1 and given.raw and given.raw.lower().endswith(".npy"):
        raise InputError(f"{given.raw}: a .npy file has one array, not one per method", "end the name of --raw in .npz")
    overlays = film.places if film else destinations(given.out, sources, samples, IMAGE_FORMATS[given.image_format])
    if given.image_format and given.out and not isinstance(given.out, ToStdout) and not Path(given.out).is_dir():
        raise InputError(
            f"--image-format {given.image_format} is for folders; the extension of {given.out} is its format",
            f"end the name in {IMAGE_FORMATS[given.image_format]}",
        )
    raws = destinations(given.raw, sources, samples, ".npz" if len(set(methods)) > 1 else ".npy")
    if given.verbose:
        note(f"preprocessing: {card.source}")
        for line in card.feeds.describe():
            note(line)
    asked = options_of(methods, parse_options(given.options))
    layer = given.layer or card.default_layer or "auto"
    question = Question(
        tuple(Job(method, layer, options) for method, options in asked.items()),
        list(targets) if len(targets) > 1 else targets[0],
        given.output,
        card.labels,
        {} if given.mask is None else {"mask": read_mask(given.mask, card.preprocess)},
        {} if given.reference is None else {"reference": card.feeds.feed(given.reference).feeds},
        placement=given.placement,
        declared=Declared.of(card),
    )
    drawing = Drawing(given.view or "", given.percentile, given.range_, given.colormap or "", given.alpha)
    single = RunProgress() if len(samples) == 1 else None
    side = IN_FOLDER if overlays and not film and Path(given.out or "").is_dir() else SIDE
    work = Explaining(
        model, question, card, targets, overlays, raws, given.top, drawing, single, film is not None, given.each,
        side, given.size_out,
    )  # fmt: skip
    keywords = given.over.keywords(None if film else given.out, Progress(len(samples), "explain"))
    with _table(given, model, card) as rows:
        printer = Printer(given, len(samples) > 1, film is not None, rows)
        done = run(work, samples, **keywords, each=printer)
    if film:
        film.write(done.result, given.inputs.every)
    printer.warnings.sum_up()
    for result in done.result:
        result.pop("remark")
    if done.doubt:
        note(f"note: {done.doubt}")
    if done.result and len(model.plain.outputs) > 1 and not given.output:
        chosen = done.result[0]["task"]["output"]
        read = {chosen, *done.result[0]["task"]["reads"]}
        others = ", ".join(v.name for v in model.plain.outputs if v.name not in read)
        if others:
            note(f"note: output {chosen} is explained; for another one ({others}), add --output NAME")
    if given.verbose:
        if done.result:
            task = done.result[0]["task"]
            note(f"task: {task['kind']}: {task['evidence']}")
        report_receipt(model, given.model)
    if given.form == "json":
        print_json("explain", {"model": given.model, "results": done.result, "failed": failed_as_data(done.failed)})
    elif given.form == "coco":
        from analyzer.plain import as_json
        from analyzer.report.coco import coco

        kinds = {result["task"]["kind"] for result in done.result}
        if kinds - {"detection", "keypoints"}:
            raise UnsupportedError(
                f"{given.model} finds no boxes or keypoints: it is {', '.join(kinds)}", "use --format json"
            )
        click.echo(as_json(coco(done.result), indent=2))
    elif given.form == "text":
        for place in [film.written if film else None, *((rows.path, rows.manifest) if rows else ())]:
            if place:
                say_written(place)
    return given.over.engine.code(len(done.failed), len(samples))


def _table(given: Explain, model: Model, card: ModelCard) -> AbstractContextManager[ResultsTable | None]:
    """What --table asks for."""
    if given.rows is None:
        return nullcontext()
    from analyzer.report.results_table import ResultsTable

    about = {
        "command": command_line(),
        "onnx_analyzer": __version__,
        "model": given.model,
        "identity": model.loaded.identity,
        "environment": model.environment,
        "preprocessing": repr(card.preprocess),
    }
    return ResultsTable(given.rows, about)


class Printer:
    """Prints what was found in each picture as soon as it is done, and what is wrong with it.

    Args:
        rows: a table that gets it as well.
    """

    def __init__(self, given: Explain, many: bool, film: bool, rows: ResultsTable | None = None) -> None:
        self.given, self.many, self.film, self.rows = given, many, film, rows
        self.warnings, self.doubt = Warnings(), ""

    def __call__(self, found: list[dict[str, Any]] | None, failed: dict[str, AnalyzerError]) -> None:
        from analyzer.passes.asking import shown

        results = shown(found)
        if self.rows is not None:
            self.rows.add(results, failed)
        for picture, error in failed.items():
            tell_failed(picture, error)
        for result in results:
            self._warn(result)
            if self.film:
                result.pop("written", None)
            if self.given.form == "text":
                end_bar()
                print_result(result, self.many)
            elif self.given.form == "jsonl":
                print_json("explain", {"model": self.given.model, "results": [result], "failed": []}, None)
        if failed and self.given.form == "jsonl":
            print_json("explain", {"model": self.given.model, "results": [], "failed": failed_as_data(failed)}, None)

    def _warn(self, result: dict[str, Any]) -> None:
        picture = result["picture"]
        self.doubt = tell_doubt(result["doubt"] or "", self.doubt)
        if remark := result.pop("remark"):
            self.warnings.tell("note", picture, remark)
        for m in result["maps"]:
            if m["diagnosis"]:
                self.warnings.tell("warning", picture, f"{m['method']}: {m['diagnosis']}")


def print_result(result: dict[str, Any], several: bool) -> None:
    """The classes as a table, then one line per map."""
    if several:
        click.echo(f"\n{result['picture']}")
    task = result["task"]
    unit = task["unit"] or "score"
    if result["top"]:
        rows = [(c["class"], c["label"], f"{c['score']:.4g}") for c in result["top"]]
        click.echo(table(rows, ("class", "label", unit)))
    elif "text" in result:
        click.echo(f"text: {result['text'] or '(none)'}")
    elif any("box" in p for p in result["predictions"]):
        click.echo(detections(result["predictions"], unit))
    elif any("points" in p for p in result["predictions"]):
        click.echo(keypoints(result["predictions"], unit))
    elif result["predictions"]:
        click.echo(table([(p["label"], f"{p['score']:.4g}") for p in result["predictions"]], ("", unit)))
    for head in result["heads"]:
        said = ", ".join(f"{p['label']} ({p['score']:.3g})" for p in head["predictions"])
        click.echo(f"output {head['output']}: {said or head['role']}")
    if result["nothing"]:
        click.echo(result["nothing"])
    for m in result["maps"]:
        where = f" at layer {m['layer']}" if m["layer"] else ""
        if m["maximum"]:
            x, y = m["maximum"]
            value = "" if m["value"] is None else f" ({m['value']:.4g})"
            frame = f" in frame {m['frame']}" if "frame" in m else ""
            click.echo(f"{m['method']} of {m['label'] or m['target']}{value}{where}: maximum at x={x}, y={y}{frame}")
        elif m.get("values"):
            click.echo(numbers(m))
        else:
            click.echo(f"{m['method']}{where}: empty, because values are not finite")
        if "completeness" in m["details"] and m["maximum"]:
            click.echo("  " + completeness(m["method"], m["details"]["completeness"], m["details"]["difference"]))
    for one in result.get("inputs", ()):
        if one["values"]:
            click.echo(numbers(one))
    if "written" in result:
        say_written(result["written"])


MOST = 20  # detections, or keypoints, that are listed


def detections(found: list[dict[str, Any]], unit: str) -> str:
    """What is found, one line each: its number, its name, its score and its box in the picture's pixels."""
    rows = [
        (str(at), p["label"], f"{p['score']:.4g}", *(f"{side:.0f}" for side in p["box"])) for at, p in enumerate(found)
    ]
    return _listed(rows, ("#", "label", unit, "left", "top", "right", "bottom"))


def keypoints(found: list[dict[str, Any]], unit: str) -> str:
    """The keypoints, one line each: number, name, score and place in the picture's pixels."""
    rows = [
        (str(p["class"]), p["label"], f"{p['score']:.4g}", *(f"{at:.0f}" for at in p["points"][0][:2])) for p in found
    ]
    return _listed(rows, ("#", "keypoint", unit, "x", "y"))


def _listed(rows: list[tuple[str, ...]], header: tuple[str, ...]) -> str:
    """The first rows as a table, and how many there are besides."""
    more = f"\n… {len(rows) - MOST} more (--format json lists all)" if len(rows) > MOST else ""
    return table(rows[:MOST], header) + more


def numbers(found: dict[str, Any]) -> str:
    """The gradient with respect to an input of numbers, as a line."""
    shown = " ".join(f"{value:.4g}" for value in found["values"][:16])
    more = f" … ({len(found['values'])} numbers)" if len(found["values"]) > 16 else ""
    return f"{found['method']} of {found['label'] or 'expression'} with respect to {found['input']}: {shown}{more}"


INCOMPLETE = {  # why, by method
    "integrated-gradients": "use more steps to reduce the difference: -O steps=200",
    "full-grad": "they are equal if every nonlinear operator is a ReLU or a maximum",
}


def completeness(method: str, error: float, expected: float) -> str:
    """Says what a map sums to, and why where that is more than a hundredth off what it is a share of."""
    said = f"sum of the map: {expected + error:.4g}, expected: {expected:.4g}"
    why = INCOMPLETE.get(method)
    return f"{said}; {why}" if why and abs(error) > 0.01 * abs(expected) else said


def report_receipt(loaded: Model, model: str) -> None:
    """Says whose the scores are, and how far the normalised model's outputs are from the file's on random input."""
    from analyzer.runtime import receipt

    if loaded.quantised and loaded.deployed is None:
        note("receipt: onnxruntime cannot load this file as it is; scores are from the rewritten model")
        return
    if loaded.quantised:
        note("receipt: scores are from the original file, bit for bit")
    difference = receipt(model, loaded.plain, as_it_is=loaded.quantised)
    note(f"receipt: outputs of the rewritten model differ from the file's by at most {difference:.2g} (relative)")
