"""An audit's report as one page, or as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from analyzer.report import formats, plots
from analyzer.report.formats import Case, placed, plain
from analyzer.report.page import Picture, counted, figure, identity_rows, render

HISTOGRAMS = (  # of a number of every picture: title, path, extent, check whose threshold is drawn
    ("Confidence", ("confidence",), (0.0, 1.0), "probability of the top class", ""),
    ("Heat on the border", ("border",), (0.0, 3.0), "times the uniform share", "border"),
    ("Heat in the corners", ("corners",), (0.0, 4.0), "times the uniform share", "corners"),
    ("Similarity to a random head", ("sanity", "random_head"), (-1.0, 1.0), "rank correlation", "random_head"),
    ("Similarity to another class", ("sanity", "other_class"), (-1.0, 1.0), "rank correlation", "other_class"),
    ("Map follows shifts", ("sanity", "follows_shift"), (-1.0, 1.0), "rank correlation", "follows_shift"),
)
FP16 = {
    "tensor": "tensor", "kind": "kind", "node": "node", "operator": "operator", "largest": "largest magnitude",
    "overflow": "share that overflows", "vanishing": "share that vanishes", "pictures": "pictures",
}  # fmt: skip
CONTRACT = {  # {key of a preprocessing's figures: heading}
    "accuracy": "accuracy", "confidence": "confidence", "gain": "gain", "gain_low": "95 % interval", "size": "size",
    "options": "options",
}  # fmt: skip
SHOWN = 3  # pictures beside a finding
CURVES = (
    {"deletion": "map", "deletion_random": "random cells"},
    {"insertion": "map", "insertion_random": "random cells"},
)
ROW = ("picture", "top", "confidence", "label", "border", "corners", "diagnosis", "not_finite")


def html(
    document: Mapping[str, Any],
    pictures: Iterable[Picture] = (),
    command: str = "",
    examples: Mapping[str, Picture] | None = None,
) -> Iterator[str]:
    """One page, in parts.

    Args:
        pictures: mean maps and further ones; an iterator is read while the page is written.
        examples: {name: picture} of those that speak most for a finding.
        command: the command line that made it.
    """
    report = document["audit"]
    identity, checks, found = report["identity"], report.get("checks", []), document["findings"]
    contract = report["contract"]
    keys = [key for key in CONTRACT if any(key in row for row in contract.values())]
    layers, rows = report["layers"], report.get("rows", [])
    columns = [key for key in ROW if any(row.get(key) not in (None, "") for row in rows)]
    shown = {
        "findings": ("Findings", bool(found)),
        "checks": ("Checks", bool(checks)),
        "fp16": ("Values that float16 cannot represent", bool(report.get("fp16"))),
        "distributions": ("Distributions", bool(rows)),
        "maps": ("Maps", bool(pictures)),
        "preprocessing": ("Preprocessing", bool(contract)),
        "layers": ("Layers", bool(layers)),
        "pictures": ("Pictures", bool(rows)),
        "run": ("How it was run", True),
    }
    return render(
        "audit.html",
        title=f"Audit of {identity['model']}",
        state="bad" if found else "good",
        verdict=counted(len(found), "finding") if found else "No findings",
        about=_about(report),
        sections=[(name, title) for name, (title, there) in shown.items() if there],
        findings=[_explained(one, checks, examples or {}) for one in found],
        checks=_check_rows(checks),
        fp16=[[row[key] for key in FP16] for row in report.get("fp16", ())],
        fp16_header=list(FP16.values()),
        left_out=[(", ".join(titles), why) for why, titles in left_out(report)],
        plots=_plots(rows, checks),
        pictures=pictures,
        contract=[
            [name, *(_bounds(row, "gain_") if key == "gain_low" else row.get(key) for key in keys)]
            for name, row in contract.items()
        ],
        contract_header=["preprocessing", *(CONTRACT[key] for key in keys)],
        layers=[_layer(row) for row in layers],
        layer_plots=_layer_plots(layers, checks),
        rows=[[row.get(key) for key in columns] for row in rows],
        row_header=[key.replace("_", " ") for key in columns],
        identity=identity_rows([*identity.items(), *document.get("run", {}).items()]),
        command=command,
    )


def markdown(document: Mapping[str, Any]) -> str:
    """The findings and the summary."""
    report = document["audit"]
    lines = [f"# Audit of {plain(report['identity']['model'])}", ""]
    lines += [f"- **{f['code']}** {plain(f['where'])}: {plain(f['words'])}" for f in document["findings"]] or [
        "- no findings"
    ]
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {plain(k.replace('_', ' '))} | {v:.4g} |" for k, v in report["summary"].items()]
    why = [f"- {plain(', '.join(titles))}: {plain(why)}" for why, titles in left_out(report)]
    lines += ["", "Not measured:", "", *why] if why else []
    return "\n".join(lines) + "\n"


def junit(document: Mapping[str, Any]) -> str:
    """A test case per finding code, skipped if none of its checks applies."""
    checks, failures = document["audit"].get("checks", ()), dict[str, list[str]]()
    for finding in document["findings"]:
        failures.setdefault(finding["code"], []).append(placed(finding))
    why = {row["code"]: row["why"] for row in checks if "why" in row}
    applied = {row["code"] for row in checks if "why" not in row}
    codes = dict.fromkeys([*(row["code"] for row in checks if row["code"]), *failures])
    cases = [Case(code, failures.get(code, ()), "" if code in applied else why.get(code, "")) for code in codes]
    summary = "\n".join(f"{key.replace('_', ' ')}: {value:.4g}" for key, value in document["audit"]["summary"].items())
    return formats.junit("audit", cases, summary)


def sarif(document: Mapping[str, Any]) -> str:
    """SARIF 2.1.0: a result per finding, at the model's file."""
    report = document["audit"]
    rules = {row["code"]: row["definition"] for row in report.get("checks", ())}
    return formats.sarif(report["identity"]["model"], [("error", one) for one in document["findings"]], rules)


def left_out(report: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Why checks have no value, and the titles of the checks that have none for that reason."""
    found: dict[str, list[str]] = {}
    for row in report.get("checks", ()):
        if "why" in row:
            found.setdefault(row["why"], []).append(row["title"])
    return list(found.items())


def _about(report: Mapping[str, Any]) -> str:
    identity = report["identity"]
    if "fp16" in report:
        tensors, weights = (int(report["summary"][key]) for key in ("tensors", "weights"))
        return f"{counted(report['pictures'], 'picture')}, {tensors} tensors and {weights} weights in float16."
    how = f"{identity['method']} maps of the layer {identity['layer']}" if "method" in identity else "its maps"
    return f"{counted(report['pictures'], 'picture')}, {how}."


def _explained(
    found: Mapping[str, Any], checks: Sequence[Mapping[str, Any]], examples: Mapping[str, Picture]
) -> dict[str, Any]:
    """A finding with what its check says of it, and the pictures that speak most for it."""
    row = {"definition": "", "advice": "", "worst": [], **check_of(found, checks), **found}
    drawn = row["worst"][:SHOWN] or [row["where"]]  # pictures, or the layer it is about
    return row | {"pictures": [examples[name] for name in drawn if name in examples]}


def check_of(found: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The check whose figure is a finding; nothing if there is none."""
    same = (row for row in checks if row["code"] == found["code"] and row.get("where") == found["where"])
    return next(same, {})


def to_show(document: Mapping[str, Any]) -> list[str]:
    """The pictures that speak most for the findings, a few for each."""
    checks = document["audit"].get("checks", ())
    worst = [check_of(one, checks).get("worst", ())[:SHOWN] for one in document["findings"]]
    return list(dict.fromkeys(name for names in worst for name in names))


def _check_rows(checks: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """A row per check; of its figures (one per layer) the worst."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in checks:
        if "value" in row:
            by_name.setdefault(row["check"], []).append(row)
    rows = []
    for figures in by_name.values():
        sign = 1 if figures[0]["worse"] == "above" else -1
        worst = max(figures, key=lambda row: sign * (row["value"] or 0.0))
        title = worst["title"] + (f" (highest: {worst['where']})" if len(figures) > 1 and worst["value"] else "")
        judged = worst["limit"] is not None
        side = "at most" if sign > 0 else "at least"
        result = ("finding" if worst["found"] else "pass") if judged else "–"
        limit = f"{side} {figure(worst['limit'])}" if judged else "–"
        rows.append([title, worst["value"], _bounds(worst), limit, result, worst["definition"]])
    return rows


def _bounds(row: Mapping[str, Any], prefix: str = "") -> str:
    """Of an interval; "–" where there is none."""
    low, high = (row.get(f"{prefix}{end}") for end in ("low", "high"))
    return "–" if low is None else f"{figure(low)} to {figure(high)}"


def _plots(rows: Sequence[Mapping[str, Any]], checks: Sequence[Mapping[str, Any]]) -> list[plots.Plot]:
    limits = {row["check"]: (row.get("limit"), row.get("worse", "above")) for row in checks}
    found = []
    for title, path, extent, unit, check in HISTOGRAMS:
        values = [value for row in rows if isinstance(value := _at(row, path), int | float)]
        if values:
            limit, worse = limits.get(check, (None, "above"))
            found.append(plots.histogram(title, values, extent, unit, limit, worse))
    for names in CURVES:
        curves = {
            name: np.mean(known, axis=0).tolist()
            for key, name in names.items()
            if (known := [row["curves"][key] for row in rows if "curves" in row])
        }
        if curves:
            kind = next(iter(names)).capitalize()
            words = f"{kind}: mean probability of the class", curves, (0.0, 1.0), "share of the pixels"
            found.append(plots.lines(*words, x_ticks=((0.0, "0"), (0.5, "50 %"), (1.0, "100 %"))))
    return found


def _at(row: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _layer_plots(layers: Sequence[Mapping[str, Any]], checks: Sequence[Mapping[str, Any]]) -> list[plots.Plot]:
    if len(layers) < 3:
        return []
    limits = {row["check"]: row.get("limit") for row in checks}
    return [
        plots.lines(
            f"Share of the channels that are {name}, over depth",
            {name: [row[name] / row["channels"] for row in layers]},
            (0.0, 1.0),
            "layers, first to last",
            limit=limits.get(name),
            size=plots.WIDE,
        )
        for name in ("dead", "saturated")
    ]


def _layer(row: Mapping[str, Any]) -> list[Any]:
    field = "all" if row["field"] == "all" else "×".join(map(str, row["field"]))
    padding = f"{row['corner_on_padding']:.0%}" if "corner_on_padding" in row else "–"
    return [
        row["layer"],
        "×".join(map(str, row["size"])),
        row["channels"],
        row["dead"],
        row["saturated"],
        field,
        padding,
    ]
