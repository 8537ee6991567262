"""A page of the explorer that needs no server: one file, or a folder for any web server.

The same front end reads answers that were worked out before: the questions that the page would ask of the chosen
pictures, layers and units, answered by the same functions.
"""

from __future__ import annotations

import base64
import gzip
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from analyzer.explorer.answers import DIFFERENCE, Explorer, packed, unpacked
from analyzer.explorer.bench import POLICIES, Bench
from analyzer.explorer.cards import Cards
from analyzer.explorer.embedding import Embedded
from analyzer.explorer.jobs import Progress
from analyzer.explorer.layers import Layer, ranked
from analyzer.explorer.pictures import Picture
from analyzer.files import atomic_write, make_folder
from analyzer.images import decode, encode
from analyzer.plain import as_json

QUALITY = 85  # of pictures that are drawn, as WebP
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src {img}; script-src {own}; style-src {own}"

Question = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """What an exported page has, besides every activation of the layers.

    Attributes:
        units: of each layer, the strongest over the pictures in turn: with projections and card.
        targets: predictions of each picture that are explained. methods: by which; () for the default one.
        optima: work out the units' optima, too.
        pictures: their keys; () for those of the start.
    """

    units: int = 12
    targets: int = 3
    methods: tuple[str, ...] = ()
    optima: bool = False
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kept:
    """An answer. type: of its bytes, as HTTP says it."""

    status: int
    type: str
    data: bytes


def answers(explorer: Explorer, wanted: Wanted, progress: Progress = lambda done, total: None) -> dict[str, Kept]:
    """{question: its answer}"""
    explorer.cards.rank(explorer.benches[0].layers)
    asked = {named(*question): question for question in questions(explorer, wanted)}
    found = {}
    for key, (path, query) in asked.items():
        found[key] = _kept(explorer, path, query, wanted)
        progress(len(found), len(asked))
    return found


def named(path: str, query: Mapping[str, Any]) -> str:
    """The name of a question, as `question` in source.js."""
    said = "&".join(f"{name}={query[name]}" for name in sorted(query))
    return f"{path}?{said}" if said else path


# ---- Questions ----


def questions(explorer: Explorer, wanted: Wanted) -> Iterator[Question]:
    """What the page asks, in the order of its panes."""
    yield "model", {}
    yield "pictures", {}
    shown = shown_units(explorer, wanted)
    for picture in shown_pictures(explorer, wanted):
        yield from _of_picture(explorer, picture, wanted, shown)
    for number, units in shown.items():
        explorer.cards.collect(explorer.benches[0].layer(number), units)
        for unit in units:
            yield from _of_card(explorer, number, unit, wanted)


def _of_picture(
    explorer: Explorer, picture: Picture, wanted: Wanted, shown: Mapping[int, list[int]]
) -> Iterator[Question]:
    key, count = picture.key, len(explorer.benches)
    targets = dict.fromkeys(one for bench in explorer.benches for one in _targets(bench, picture, wanted.targets))
    yield f"picture/{key}", {"side": 96}
    if count > 1:
        yield f"drifts/{key}", {}
    for model in range(count):
        yield f"picture/{key}", {"seen": 1, "model": model}
        yield f"predictions/{key}", {"model": model}
        for method in wanted.methods or (explorer.benches[0].method,):
            for target in ("top1", *targets):
                yield f"explain/{key}", {"target": target, "model": model, "method": method, "layer": -1}
    for number, units in shown.items():
        for model in range(count):
            yield f"spans/{key}/{number}", {"model": model}
            for unit in units:
                for policy in POLICIES:
                    yield f"project/{key}/{number}/{unit}", {"policy": policy, "model": model, "y": -1, "x": -1}
        for model in (*range(count), *([DIFFERENCE] if count > 1 else [])):
            yield f"activations/{key}/{number}", {"model": model}


def _of_card(explorer: Explorer, number: int, unit: int, wanted: Wanted) -> Iterator[Question]:
    layer = explorer.benches[0].layer(number)
    yield f"unit/{number}/{unit}", {"start": 0}
    yield f"unit/{number}/{unit}/patches", {}
    yield f"unit/{number}/{unit}/projections", {}
    if explorer.cards.optimum(layer, unit, start=wanted.optima) is not None:
        yield f"unit/{number}/{unit}/optimum", {}


def _targets(bench: Bench, picture: Picture, count: int) -> list[str]:
    return [one.target for one in bench.predictions(picture)[:count]]


def shown_pictures(explorer: Explorer, wanted: Wanted) -> list[Picture]:
    return [explorer.pictures[key] for key in wanted.pictures] or list(explorer.pictures)


def shown_units(explorer: Explorer, wanted: Wanted) -> dict[int, list[int]]:
    """{number of a layer: its strongest units}: the first of each picture, the second of each, and so on."""
    bench = explorer.benches[0]

    def chosen(layer: Layer) -> list[int]:
        best = [ranked(bench.one(picture, layer)) for picture in shown_pictures(explorer, wanted)]
        in_turn = dict.fromkeys(unit for row in zip(*best, strict=True) for unit in row)
        return sorted(list(in_turn)[: wanted.units])

    return {number: chosen(layer) for number, layer in enumerate(bench.layers)}


# ---- Answers ----


def _kept(explorer: Explorer, path: str, query: Mapping[str, Any], wanted: Wanted) -> Kept:
    if path.startswith("unit/"):
        _, number, unit, *_ = path.split("/")
        layer = explorer.benches[0].layer(int(number))
        explorer.cards.ranking(layer).finished.wait()
        if wanted.optima and (job := explorer.cards.optimum(layer, int(unit))) is not None:
            job.finished.wait()
    answer = explorer.ask(path, query)
    data = bytes(answer.body)
    if path == "model":
        data = _with_methods(explorer, wanted)
    elif path == "pictures":
        keys = {picture.key for picture in shown_pictures(explorer, wanted)}
        data = as_json({"pictures": [one for one in explorer.pictures.as_data() if one["key"] in keys]}).encode()
    elif answer.status_code == 200:
        data = _smaller(path.partition("/")[0], data)
    return Kept(answer.status_code, answer.media_type or "application/octet-stream", data)


def _with_methods(explorer: Explorer, wanted: Wanted) -> bytes:
    """What is known of the models, with the methods alone that are in the page."""
    known = explorer.known()
    for model in known["models"]:
        model["methods"] = list(wanted.methods or [explorer.benches[0].method])
        model["method"] = model["methods"][0]
    for number, units in shown_units(explorer, wanted).items():
        known["models"][0]["layers"][number]["units"] = units
    return as_json(known).encode()


def _smaller(kind: str, data: bytes) -> bytes:
    """The same with its picture as WebP; not of activations, whose grays are numbers."""
    if kind in ("project", "explain"):
        about, picture = unpacked(data)
        return bytes(packed(about, _webp(picture)).body)
    return _webp(data) if kind in ("picture", "unit") and data[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0") else data


def _webp(data: bytes) -> bytes:
    return encode(decode(data), ".webp", QUALITY)


# ---- Files ----


def write_page(path: str, found: Mapping[str, Kept], model: Embedded | None = None) -> None:
    atomic_write(path, page(found, model).encode())


def page_of(explorer: Explorer, picture: str, number: int) -> str:
    """A page of one picture and one layer."""
    names = [explorer.benches[0].layer(number).name]
    first = explorer.pictures[picture]
    reference, *others = explorer.benches
    bench = Bench(reference.explainer, reference.card, first, names)
    cards = Cards(bench, explorer.cards.samples, cache=explorer.cards.cache)
    ranking = explorer.cards.ranking(bench.layer(0))
    ranking.finished.wait()
    if ranking.state == "done":
        cards.known = dict(ranking.result.rankings)
    narrow = Explorer([bench, *others], explorer.pictures, cards, explorer.settings)
    return page(answers(narrow, Wanted(pictures=(picture,))))


def page(found: Mapping[str, Kept], model: Embedded | None = None) -> str:
    """One HTML file, which opens by a double click: scripts, style, answers and the model are in it.

    Its modules find each other by an import map, since a page from a file may load none.
    """
    nonce = secrets.token_urlsafe(16)
    files = _static()
    modules = {f"explorer/{name}": _data(text) for name, text in files.items() if name.endswith(".js")}
    data = {key: [one.status, one.type, base64.b64encode(one.data).decode()] for key, one in found.items()}
    if model is not None:
        modules["explorer/ort.js"] = _data(model.script.decode())
    policy = _policy("blob: data:", f"'nonce-{nonce}'", model)
    head = [
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f'<link rel="icon" href="data:image/svg+xml;base64,{base64.b64encode(files["icon.svg"].encode()).decode()}">',
        f'<style nonce="{nonce}">{files["style.css"]}</style>',
        f'<script type="application/json" id="answers">{_in_script(data)}</script>',
        f'<script type="importmap" nonce="{nonce}">{_in_script({"imports": modules})}</script>',
        *_scripts(model),
        f'<script type="module" nonce="{nonce}">import "explorer/main.js";</script>',
    ]
    return _page(files["index.html"], head)


def _scripts(model: Embedded | None) -> list[str]:
    """The model in a page: what is to be known of it, and its parts, compressed, in base64."""
    if model is None:
        return []
    parts = {"model-file": model.model, "wasm": model.wasm}
    zipped = {name: base64.b64encode(gzip.compress(data, 6, mtime=0)).decode() for name, data in parts.items()}
    files = [f'<script type="application/gzip" id="{name}">{data}</script>' for name, data in zipped.items()]
    return [_about(model, "explorer/ort.js"), *files]


def _about(model: Embedded, runtime: str) -> str:
    """What is to be known of the model. runtime: the module that runs it, as local.js imports it."""
    return f'<script type="application/json" id="model-about">{_in_script(model.about | {"runtime": runtime})}</script>'


def write_folder(path: str, found: Mapping[str, Kept], model: Embedded | None = None) -> None:
    """The page as files, for any web server: scripts, style, answers one by one, and the model."""
    folder, files = make_folder(path), _static()
    static, data = make_folder(folder / "static"), make_folder(folder / "answers")
    policy = _policy("'self' blob: data:", "'self'", model) + "; connect-src 'self'"
    head = [
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<link rel="icon" href="static/icon.svg">',
        '<link rel="stylesheet" href="static/style.css">',
        '<link rel="alternate" type="application/json" id="answers" href="answers/index.json">',
        *_links(model),
        '<script type="module" src="static/main.js"></script>',
    ]
    if model is not None:
        atomic_write(static / "ort.js", _without_map(model.script.decode()).encode())
        atomic_write(folder / "model.onnx", model.model)
        atomic_write(folder / "ort.wasm", model.wasm)
    index = {}
    for number, (key, one) in enumerate(found.items()):
        atomic_write(data / f"{number:05}.bin", one.data)
        index[key] = [one.status, one.type, f"{number:05}.bin"]
    atomic_write(data / "index.json", as_json(index).encode())
    for name, text in files.items():
        if name != "index.html":
            atomic_write(static / name, text.encode())
    atomic_write(folder / "index.html", _page(files["index.html"], head).encode())


def _links(model: Embedded | None) -> list[str]:
    if model is None:
        return []
    return [
        _about(model, "./ort.js"),
        '<link rel="alternate" type="application/octet-stream" id="model-file" href="model.onnx">',
        '<link rel="alternate" type="application/wasm" id="wasm" href="ort.wasm">',
    ]


def _policy(images: str, scripts: str, model: Embedded | None) -> str:
    """The Content-Security-Policy of a page; with a model WebAssembly may be compiled."""
    policy = POLICY.format(img=images, own=scripts)
    return policy.replace("script-src", "script-src 'wasm-unsafe-eval'") if model is not None else policy


def _static() -> dict[str, str]:
    folder = resources.files("analyzer.explorer").joinpath("static")
    return {Path(file.name).name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.is_file()}


def _page(html: str, head: Iterable[str]) -> str:
    """The page with another head: links and scripts are replaced."""
    without = re.sub(r"\s*<(link|script)\b[^>]*>(</script>)?", "", html.partition("</head>")[0])
    return without + "\n" + "\n".join(head) + "\n</head>" + html.partition("</head>")[2]


def _data(script: str) -> str:
    """A module as a data URL; it imports the others by name."""
    script = re.sub(r'"\./([\w-]+\.js)"', r'"explorer/\1"', _without_map(script))
    return "data:text/javascript;base64," + base64.b64encode(script.encode()).decode()


def _without_map(script: str) -> str:
    """Without the name of a file that is not there, which the browser's tools would ask for."""
    return re.sub(r"\n//# sourceMappingURL=.*", "", script)


def _in_script(data: Any) -> str:
    """JSON that no parser of HTML mistakes for the end of its element."""
    return as_json(data).replace("<", "\\u003c")
