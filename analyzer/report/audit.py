"""An audit's report as one page, or as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from analyzer.report.page import findings_table, page, shown, table

DEFINITIONS = {
    "confidence, accuracy": "mean probability of the top class; share of pictures with the right top class, if "
    "labels are given",
    "input contract": "mean top probability, and accuracy if labels are given, under each preprocessing; size: "
    "magnitude of the input values relative to the declared preprocessing's. Finding if another one is better by "
    "more than 0.1 (without labels, only among those of similar size)",
    "dead": "channels that have the same value everywhere, on all pictures; finding above a quarter of a layer",
    "saturated": "channels with more than half of their values at the layer's maximum on every picture, such as the "
    "upper bound of a clip, a sigmoid or a quantizer; finding above a quarter of a layer",
    "saturated scores": "share of pictures whose top scores tie at the maximum of the output's quantizer; finding "
    "above 5 %",
    "corner on padding": "share of a corner unit's receptive field that lies outside the picture",
    "label kept when shifted": "share of 4-pixel shifts, in four directions, that do not change the top class; "
    "finding below 80 %",
    "change when shifted": "mean change of the top class's probability for these shifts",
    "random head": "rank correlation of the map with that of the model with its last weights shuffled; lower is "
    "better, finding above 0.7",
    "other class": "rank correlation of the map with that of another class; lower is better, finding above 0.9",
    "deletion, insertion": "area under the curve of the class's probability as pixels are removed, or inserted, in "
    "order of heat (Petsiuk et al. 2018); “random”: the same for random cells. Finding if the map is worse in both",
    "average drop": "share of the class's probability that is lost when cold pixels fade to the picture's mean: heat "
    "· picture + (1 − heat) · mean (Chattopadhay et al. 2018)",
    "border, corners": "share of the heat in the outer tenth on each side, or in the corners (a fifth of each side), "
    "divided by its share of the area; 1 is uniform, finding above 1.5 (border) or 2 (corners)",
    "maxima together": "largest share of the maxima that lie within a tenth of the picture's size of one maximum; "
    "finding above 60 % if there are at least 8 pictures",
    "peak of mean map": "highest value of the mean of all maps",
    "degenerate maps, not finite": "number of empty or constant maps, and of pictures with NaN or ∞; finding if any",
    "pointing game": "share of pictures whose maximum lies inside a given box (Zhang et al. 2016)",
    "energy in boxes": "share of the heat inside the given boxes",
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
    words = "no findings" if not found else f"{len(found)} finding{'s' if len(found) > 1 else ''}"
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
    lines += [f"- **{f['code']}** {f['where']}: {f['words']}" for f in document["findings"]] or ["- no findings"]
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {k.replace('_', ' ')} | {v:.4g} |" for k, v in report["summary"].items()]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> Any:
    return "–" if value is None else value


def _field(field: Any) -> str:
    return "all" if field == "all" else "×".join(map(str, field))


def _share(row: Mapping[str, Any]) -> str:
    return f"{row['corner_on_padding']:.0%}" if "corner_on_padding" in row else ""
