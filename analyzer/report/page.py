"""Self-contained HTML pages from the templates: no request to any network, nothing of others is markup."""

from __future__ import annotations

import base64
import hashlib
import math
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from analyzer.files import atomic_write, make_folder
from analyzer.images.showing import LARGEST, compressed, inline
from analyzer.version import __version__

WHOLE = 50_000_000  # bytes of all pictures inside one page, before base64
LONG, BREAK = re.compile(r"\S{24,}"), re.compile(r"(?<=[/._:])(?=\w)")  # a name, and where it may be broken
SMALL = 20_000  # bytes that each of them may have however many there are


@dataclass(frozen=True)
class Picture:
    """A picture on a page."""

    caption: str
    source: str
    width: int
    height: int

    @property
    def alt(self) -> str:
        return self.caption


class Shot(NamedTuple):
    """A picture that is not drawn yet, so that memory does not grow with their number."""

    caption: str
    draw: Callable[[], np.ndarray]


def picture(caption: str, pixels: np.ndarray, largest: int = LARGEST) -> Picture:
    """A picture inside a page, (H, W, 3) uint8; see `showing.compressed`."""
    return Picture(caption, *inline(pixels, largest))


def inside(shots: Sequence[Shot]) -> Iterator[Picture]:
    """Pictures inside a page, one after the other; smaller where they are many."""
    largest = min(LARGEST, max(SMALL, WHOLE // max(1, len(shots))))
    return (picture(shot.caption, shot.draw(), largest) for shot in shots)


def beside(folder: Path, shots: Sequence[Shot], name: str = "picture") -> Iterator[Picture]:
    """Pictures in files of `folder/pictures`, written one after the other."""
    make_folder(folder / "pictures")
    for number, shot in enumerate(shots, 1):
        data, height, width = compressed(shot.draw())
        source = f"pictures/{name}-{number:04}.webp"
        atomic_write(folder / source, data)
        yield Picture(shot.caption, source, width, height)


def render(template: str, **given: Any) -> Iterator[str]:
    """A page, in parts, from a template that extends `page.html`; foreign texts are escaped."""
    return _templates().get_template(template).generate(given)


def figure(value: Any) -> str:
    """A number with four digits, "–" for none, anything else as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def sentence(words: str) -> str:
    """With a capital letter and a period."""
    words = words if words[1:2].isupper() else words[:1].upper() + words[1:]  # mAP
    return words if words.endswith((".", "!", "?")) else words + "."


def breakable(text: str) -> Markup:
    """With places where long names may be broken: after their slashes, dots and underscores."""
    return Markup(LONG.sub(lambda name: BREAK.sub("<wbr>", name[0]), escape(text)))


def counted(count: int, thing: str) -> str:
    """«1 finding», «2 findings»"""
    return f"{count} {thing}{'s' * (count != 1)}"


def identity_rows(pairs: Sequence[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Names and values for a table, this program's version first; of a dictionary its entries in a line."""
    return [
        (name, ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value))
        for name, value in (("onnx-analyzer", __version__), *pairs)
    ]


def ran_on(environment: Mapping[str, Any]) -> str:
    """Where a model ran, in words; see `runtime.environment`."""
    python = environment.get("python", platform.python_version())
    where = f"{environment['provider']} of onnxruntime {environment['onnxruntime']}"
    return f"{where}, {environment['machine']}, Python {python}"


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("analyzer.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style, script = (_own(name) for name in ("style.css", "script.js"))
    policy = (
        f"default-src 'none'; img-src 'self' data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    found.globals.update(version=__version__, style=Markup(style), script=Markup(script), policy=policy)
    found.filters.update(figure=figure, sentence=sentence, counted=counted, breakable=breakable)
    return found


def _own(name: str) -> str:
    return files("analyzer.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
