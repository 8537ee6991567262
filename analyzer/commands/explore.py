"""`explore`: layers, units and evidence, live in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from analyzer.commands.common import alive, draw_bar, note, say_written, shows_progress
from analyzer.commands.options import (
    READ,
    READ_ANY_MODEL,
    WRITE_REPORT,
    DataSet,
    Given,
    IntRange,
    Setup,
    group,
    labels_option,
    model_argument,
    option,
    several,
)

if TYPE_CHECKING:
    from analyzer.explorer.answers import Explorer


class Explore(Given):
    model: str = model_argument
    data: DataSet = group(DataSet)
    against: str | None = option(
        "--against", "Another build of the model, shown side by side.", type=READ_ANY_MODEL, metavar="MODEL"
    )
    mined: str | None = option(
        "--mined", "Folder that `mine -o` wrote: its layers need not be mined again.", type=READ, metavar="DIR"
    )
    labels: str | None = labels_option
    layers: tuple[str, ...] = several(
        "-l --layer", "Layer to show: tensor or node name, or a glob. Repeatable. Default: all.", metavar="LAYER"
    )
    export: str | None = option(
        "--export",
        "Write a page that needs no server, instead of serving: an .html file, or a folder for a web server. Default "
        "layers: the last of each size.",
        type=WRITE_REPORT,
        metavar="PATH",
    )
    methods: tuple[str, ...] = several(
        "-m --method", "Method of the maps in an exported page. Repeatable.", metavar="METHOD"
    )
    units: int = option(
        "--draw",
        "Units of each layer that have projections and a card in an exported page: those with the highest activation.",
        type=IntRange(0),
        default=12,
        metavar="N",
    )
    optima: bool = option("--optima", "Also generate the pictures that maximize these units.", is_flag=True)
    with_model: bool = option(
        "--with-model",
        "Put the model into an exported page: pictures that are dropped on the page are explained there, without a "
        "server. Classifiers only; needs npm, which brings onnxruntime-web.",
        is_flag=True,
    )
    host: str = option(
        "--host",
        "Address to listen on. Any but 127.0.0.1 lets other machines connect.",
        default="127.0.0.1",
        metavar="ADDRESS",
    )
    port: int = option(
        "--port", "Port to listen on; 0 for any free one.", type=IntRange(0, 65535), default=0, metavar="N"
    )
    no_browser: bool = option("--no-browser", "Do not open a browser.", is_flag=True)
    setup: Setup = group(Setup)


@Explore.command("explore")
def command(given: Explore) -> None:
    """Explore MODEL in the browser: its layers, its units on your pictures, and what they respond to.

    PICTURES (or --data) are files, folders, glob patterns, or text files with one path per line. Prints the URL and
    serves until Ctrl-C. Needs the extra `explore`: pip install 'onnx-analyzer[explore]'.

    \b
    Example:
      onnx-analyzer explore model.onnx photos/
    """
    from analyzer.errors import InputError

    samples = given.data.samples()
    explainer, card = given.setup.load(given.model, given.labels)
    try:
        from analyzer.explorer.answers import Explorer, Settings
        from analyzer.explorer.serve import serve
    except ImportError:
        raise InputError(
            "explore needs the extra `explore`", "install it: pip install 'onnx-analyzer[explore]'"
        ) from None
    from analyzer.explorer.bench import Bench, first_readable
    from analyzer.explorer.cards import Cards
    from analyzer.explorer.pictures import Pictures
    from analyzer.store import user_cache

    if given.with_model and (given.against or not given.export):
        raise InputError("--with-model puts one model into a page", "give --export, and no --against")
    pictures = Pictures(given.data.opened(samples, card.feeds))
    first = first_readable(pictures, card.feeds)
    benches = [Bench(explainer, card, first, given.layers)]
    if given.against:
        benches.append(Bench(*given.setup.load(given.against, given.labels), first))
    if given.host not in ("127.0.0.1", "localhost", "::1"):
        note(f"warning: {given.host} can be reached from other machines; whoever has the URL sees your pictures")
    cards = Cards(benches[0], given.data.opened(samples, card.feeds), given.mined, user_cache())
    explorer = Explorer(benches, pictures, cards, Settings(*_settings()))
    if given.export:
        _export(given, explorer)
        return
    serve(explorer, given.host, given.port, click.echo, not given.no_browser)


def _export(given: Explore, explorer: Explorer) -> None:
    from analyzer.attribution.methods import find_method
    from analyzer.explorer.embedding import embedded
    from analyzer.explorer.exporting import Wanted, answers, write_folder, write_page
    from analyzer.report.files import is_folder

    assert given.export is not None
    for method in given.methods:
        find_method(method, {})
    bench = explorer.benches[0]
    if not given.layers:
        bench.narrow()
    model = embedded(bench, given.methods) if given.with_model else None
    found = answers(explorer, Wanted(given.units, methods=given.methods, optima=given.optima), _show)
    explorer.cards.jobs.stop()
    (write_folder if is_folder(given.export) else write_page)(given.export, found, model)
    say_written(given.export)


def _show(done: int, total: int) -> None:
    alive()
    if shows_progress():
        draw_bar("exporting", done, total)


def _settings() -> tuple[tuple[str, ...], dict[str, Any]]:
    """The options that were given and that `explain` takes too: as words, and as keywords."""
    from analyzer.api.models import FLAGS, SESSION

    context, shared = click.get_current_context(), {"labels", *Setup.fields()}
    named = {"labels", "provider", "explain_input", *FLAGS, *SESSION}
    words, keywords = list[str](), dict[str, Any]()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in shared or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        flag = max(parameter.opts, key=len)
        for one in value if isinstance(value, tuple) else [value]:
            words += [flag] if value is True else [flag, str(one)]
        if name == "given":
            keywords["input"] = dict(one.split("=", 1) for one in value)
        elif name in named:
            keywords[name] = value
    return tuple(words), keywords
