"""An audit's report as one page, or as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from analyzer.report.page import findings_table, page, shown, table

DEFINITIONS = {
    "contract": "mean highest probability, and accuracy where labels are known, when pictures are prepared in other "
    "ways; size: of the numbers that are fed, in units of the declared ones",
    "dead": "channels with one value everywhere, on all pictures",
    "saturated": "channels of which more than half of the values are the layer's highest, on every picture: the upper "
    "end of a clip, a sigmoid or a quantiser",
    "corner on padding": "share of the corner unit's receptive field that lies outside the picture",
    "label kept when shifted": "share of shifts by 4 pixels, in four directions, that leave the top class as it is",
    "random head": "rank correlation of the map with that of the model with its last weights shuffled; low is right",
    "other class": "rank correlation of the map with that of another class; low is right",
    "deletion, insertion": "area under the class's probability as pixels are taken out, or put in, highest heat first "
    "(Petsiuk et al. 2018); beside it the same for random cells",
    "average drop": "share of the probability that is lost where the picture is multiplied by the map, the picture's "
    "mean elsewhere (Chattopadhay et al. 2018)",
    "border, corners": "share of the map on the outer tenth, in the corners, over their share of the area; 1 is even",
    "maxima together": "largest share of the maxima that lie within a tenth of the picture of one of them",
    "pointing game": "share of pictures whose maximum lies in a given box (Zhang et al. 2016)",
}


def html(document: Mapping[str, Any], figures: Sequence[tuple[str, bytes]] = ()) -> str:
    """One self-contained page.

    Args:
        figures: (caption, PNG): mean maps and examples.
    """
    report = document["audit"]
    identity = report["identity"]
    title = f"Audit of {identity['model']}"
    found = document["findings"]
    words = "nothing found" if not found else f"{len(found)} finding{'s' if len(found) > 1 else ''}"
    plain = {k: v for k, v in identity.items() if not isinstance(v, dict)}
    plain |= {k: ", ".join(f"{n} {c}" for n, c in v.items()) for k, v in identity.items() if isinstance(v, dict)}
    keys = sorted({k for row in report["contract"].values() for k in row})
    contract = [[name, *(_cell(row.get(k, "")) for k in keys)] for name, row in report["contract"].items()]
    layers = [
        [
            r["layer"],
            "×".join(map(str, r["size"])),
            r["channels"],
            r["dead"],
            r["saturated"],
            _field(r["field"]),
            _share(r),
        ]
        for r in report["layers"]
    ]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="{"bad" if found else "good"}">{escape(words)}, on {report["pictures"]} pictures</p>',
        findings_table(found),
        "<h2>Identity</h2>" + table(["", ""], [[k, str(v)] for k, v in plain.items()]),
        "<h2>Over all pictures</h2>"
        + table(["", ""], [[k.replace("_", " "), v] for k, v in report["summary"].items()]),
        "<h2>Input contract</h2>" + table(["preprocessing", *keys], contract),
        shown("Maps", figures),
        '<h2>Layers</h2><div class="scroll" tabindex="0">'
        + table(["layer", "size", "channels", "dead", "saturated", "receptive field", "corner on padding"], layers)
        + "</div>",
        "<h2>Definitions</h2>" + table(["", ""], [[k, v] for k, v in DEFINITIONS.items()]),
        table(["", ""], [[k, str(v)] for k, v in document.get("run", {}).items()]),
    ]
    return page(title, parts)


def markdown(document: Mapping[str, Any]) -> str:
    """The findings and the summary."""
    report = document["audit"]
    lines = [f"# Audit of {report['identity']['model']}", ""]
    lines += [f"- **{f['code']}** {f['where']}: {f['words']}" for f in document["findings"]] or ["- nothing found"]
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {k.replace('_', ' ')} | {v:.4g} |" for k, v in report["summary"].items()]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> Any:
    return "–" if value is None else value


def _field(field: Any) -> str:
    return "all" if field == "all" else "×".join(map(str, field))


def _share(row: Mapping[str, Any]) -> str:
    return f"{row['corner_on_padding']:.0%}" if "corner_on_padding" in row else ""
