"""What the HTML reports are made of: one self-contained page, tables, pictures inside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c0392b; --good: #1e8449; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; } td.name { overflow-wrap: anywhere; }
.bad { color: var(--bad); font-weight: 600; } .good { color: var(--good); font-weight: 600; }
figure { margin: 1rem 0; } figure img { max-width: 100%; } figcaption { opacity: .8; }
.scroll { max-height: 32rem; overflow: auto; } svg { width: 100%; height: auto; }
"""


WORD = 20  # characters of a text that is not broken within words


def page(title: str, parts: Sequence[str]) -> str:
    """An HTML document that opens offline."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Numbers are set to the right; anything else is text."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f'<td class="n">{value:.4g}</td>'
        if isinstance(value, int):
            return f'<td class="n">{value}</td>'
        text = str(value)
        return f'<td class="{"name" if len(text) > WORD else "word"}">{escape(text)}</td>'

    numeric = [isinstance(v, int | float) for v in rows[0]] if rows else [False] * len(header)
    classes = ["n" if n else "name" for n in numeric]
    head = "".join(f'<th scope="col" class="{c}">{escape(h)}</th>' for h, c in zip(header, classes, strict=True))
    body = "".join("<tr>" + "".join(cell(v) for v in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def findings_table(findings: Sequence[Mapping[str, Any]]) -> str:
    if not findings:
        return ""
    rows = [[f["code"], f["where"], f["value"], f["limit"], f["words"]] for f in findings]
    return "<h2>Findings</h2>" + table(["code", "where", "value", "limit", "what it means"], rows)


def shown(title: str, figures: Sequence[tuple[str, bytes]]) -> str:
    """(caption, PNG) under a heading; nothing where there are none."""
    if not figures:
        return ""
    pictures = "".join(
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, png in figures
    )
    return f"<h2>{escape(title)}</h2>" + pictures
