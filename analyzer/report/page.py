"""Self-contained HTML pages from the templates: no request to any network, nothing of others is markup."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analyzer.images import encode
from analyzer.images.resample import resize
from analyzer.version import __version__

LARGEST = 150_000  # bytes of a picture on a page
QUALITIES = 85, 70, 50  # of WebP, tried in this order


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


def picture(caption: str, pixels: np.ndarray, largest: int = LARGEST) -> Picture:
    """A picture as WebP of at most so many bytes, compressed more, then made smaller, until it is; (H, W, 3) uint8."""
    for quality in QUALITIES:
        data = encode(pixels, ".webp", quality)
        if len(data) <= largest:
            break
    else:
        return picture(caption, resize(pixels, (pixels.shape[0] // 2, pixels.shape[1] // 2)), largest)
    height, width = pixels.shape[:2]
    return Picture(caption, f"data:image/webp;base64,{base64.b64encode(data).decode()}", width, height)


def render(template: str, **given: Any) -> str:
    """A page from a template that extends `page.html`; foreign texts are escaped."""
    return _templates().get_template(template).render(given)


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


def counted(count: int, thing: str) -> str:
    """«1 finding», «2 findings»"""
    return f"{count} {thing}{'s' * (count != 1)}"


def identity_rows(pairs: Sequence[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Names and values for a table; of a dictionary its entries in a line."""
    return [
        (name, ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value))
        for name, value in pairs
    ]


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("analyzer.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style, script = (_own(name) for name in ("style.css", "script.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    found.globals.update(version=__version__, style=Markup(style), script=Markup(script), policy=policy)
    found.filters.update(figure=figure, sentence=sentence, counted=counted)
    return found


def _own(name: str) -> str:
    return files("analyzer.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
