"""A comparison's report as one page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from analyzer.report import plots, sensitivity
from analyzer.report.comparison import COLUMNS, DEFINITIONS, FIGURES, coverage, percent, verdict
from analyzer.report.page import Picture, counted, figure, identity_rows, render

EXPLAINED = {  # finding: (the definition that it is measured by, what to do about it)
    "not-finite": ("", "Look at the node that is named: often an overflow of float16, or a division by zero."),
    "input-differs": ("", "Give both sides the same preprocessing, or check that of the training."),
    "weight-differs": ("relative error", "Check the export of this weight, or its scale and zero point."),
    "saturated": ("", "Calibrate with more pictures, or with a method that does not cut off outliers."),
    "features-diverge": ("cosine", "Start at this layer: earlier layers agree. Keep it in float, or export it again."),
    "labels-differ": ("label agreement", "Look at the pictures below whose labels differ, and at the first layer that "
                      "diverges."),
    "scores-drift": ("score drift", "Look at the first layer that diverges; check for a missing Softmax or scale."),
    "outputs-differ": ("output error", "Look at the first layer that diverges before this output."),
    "predictions-differ": ("", "Look at the pictures below, and at the first layer that diverges."),
    "evidence-moves": ("rank correlation", "Labels may agree for other reasons than before: look at the maps below."),
}  # fmt: skip
HISTOGRAMS = (  # of evidence, by method: key, title, extent, unit
    ("rank_correlation", "rank correlation", (0.0, 1.0), "rank correlation of the two maps"),
    ("top_iou", "top IoU", (0.0, 1.0), "IoU of the highest fifths"),
)


PAIRED = {"candidate": "candidate layer", "rule": "matched by"}  # columns where layers have other names
WORST, SHOWN = 3, 1  # pictures that are named for a finding; of them shown: four maps or more need the width


def worst(found: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """The pictures that speak most for a finding, of those whose maps can be drawn; none for one of layers."""
    rows = {row["picture"]: row for row in report.get("rows", ()) if row["evidence"]}
    speaks = {name: _speaks(found, row) for name, row in rows.items()}
    return sorted((name for name, most in speaks.items() if most > 0), key=lambda name: (-speaks[name], name))[:WORST]


def _speaks(found: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """How much a picture speaks for a finding; not at all at 0."""
    evidence = row["evidence"]
    match found["code"]:
        case "labels-differ" | "accuracy-drops":
            return float(row.get("agree") is False)
        case "scores-drift" | "outputs-differ":
            return float(row.get("score_drift") or 0.0)
        case "predictions-differ" | "evidence-moves":
            measured = [evidence[found["where"]]] if found["where"] in evidence else list(evidence.values())
            return 1.0 - min((each.get("rank_correlation") or 0.0 for each in measured), default=1.0)
        case _:
            return 0.0


def to_show(document: Mapping[str, Any]) -> list[str]:
    """The pictures beside the findings, and the layers whose channels are."""
    report = document["comparison"]
    names = [name for found in document["findings"] for name in beside(found, report)]
    return list(dict.fromkeys(names))


def beside(found: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """What is drawn beside a finding: pictures, or the layer it is about."""
    layers = {row["layer"] for row in report["layers"]}
    return worst(found, report)[:SHOWN] or ([found["where"]] if found["where"] in layers else [])


def html(
    document: Mapping[str, Any],
    pictures: Iterable[Picture] = (),
    command: str = "",
    examples: Mapping[str, Picture] | None = None,
) -> Iterator[str]:
    """One page, in parts.

    Args:
        pictures: those that agree least; an iterator is read while the page is written.
        command: the command line that made it.
        examples: {name: picture} of those that speak most for a finding.
    """
    report, findings, doubts = document["comparison"], document["findings"], document.get("inconclusive", ())
    reference, candidate = (report[side]["model"] for side in ("reference", "candidate"))
    rows, row_header = _rows(report.get("rows", ()))
    left_out = [(row["layer"], row["why"]) for row in report.get("layers_not_compared", ())]
    distributions = _plots(report.get("rows", ()))
    renamed = any(row["candidate"] != row["layer"] for row in report["layers"])
    shown = {
        "findings": ("Findings", bool(findings)),
        "inconclusive": ("Inconclusive", bool(doubts)),
        "summary": ("Summary", True),
        "distributions": ("Distributions", bool(distributions)),
        "pictures": ("Least agreement", bool(pictures)),
        "sensitivity": ("Keep in float", bool(report.get("sensitivity"))),
        "layers": ("Layers", bool(report["layers"])),
        "by-picture": ("Every picture", bool(rows)),
        "weights": ("Weights", bool(report["weights"])),
        "definitions": ("Definitions", True),
        "run": ("How it was run", True),
    }
    return render(
        "comparison.html",
        title=f"{candidate} against {reference}",
        reference=reference,
        candidate=candidate,
        state="bad" if findings else "open" if doubts else "good",
        verdict=counted(len(findings), "finding") if findings else verdict(findings, report, doubts),
        count=report["pictures"],
        sections=[(name, title) for name, (title, there) in shown.items() if there],
        findings=[_explained(found) | _shown(found, report, examples or {}) for found in findings],
        doubts=[_explained(doubt) | {"advice": _more_pictures(doubt)} for doubt in doubts],
        tiles=_tiles(report),
        coverage=_coverage(report),
        plots=distributions,
        pictures=pictures,
        sensitivity=sensitivity.section(report["sensitivity"]) if report.get("sensitivity") else None,
        jump=_jump(report),
        layer_plots=_layer_plots(report["layers"], findings),
        layer_header=("layer", *PAIRED.values(), *COLUMNS.values()) if renamed else ("layer", *COLUMNS.values()),
        layers=[[row["layer"], *(row[k] for k in PAIRED if renamed), *(float(row[k]) for k in COLUMNS)]
                for row in report["layers"]],
        layers_left_out=left_out,
        rows=rows,
        row_header=row_header,
        weights=[[row["weight"], row["node"], row["relative_error"], row["words"]] for row in report["weights"][:20]],
        definitions=list(DEFINITIONS.items()),
        run=_run(document),
        command=command,
    )  # fmt: skip


def _explained(found: Mapping[str, Any]) -> dict[str, Any]:
    """A finding with how it is measured and what to do."""
    name, advice = EXPLAINED.get(found["code"], ("", ""))
    definition = f"{name}: {DEFINITIONS[name]}." if name else ""
    return {"definition": definition, "advice": advice, "worst": [], "pictures": [], **found}


def _shown(found: Mapping[str, Any], report: Mapping[str, Any], examples: Mapping[str, Picture]) -> dict[str, Any]:
    drawn = [examples[name] for name in beside(found, report) if name in examples]
    return {"worst": worst(found, report), "pictures": drawn}


def _more_pictures(doubt: Mapping[str, Any]) -> str:
    return f"Compare on {doubt['needed']} pictures or more." if doubt.get("needed") else "Compare on more pictures."


def _tiles(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, what belongs to it) of the figures that matter most."""
    outputs, tiles = report["outputs"], list[tuple[str, str, str]]()
    if outputs["label_agreement"] is not None:
        more = _interval(outputs.get("label_interval")) or f"of {outputs.get('judged', report['pictures'])} pictures"
        tiles.append(("label agreement", percent(outputs["label_agreement"]), more))
    if "accuracy" in outputs:
        first, second = (f"{value:.1%}" for value in outputs["accuracy"])
        tiles.append(("accuracy", second, f"reference {first}"))
    if outputs["score_drift_mean"] is not None:
        more = _interval(outputs.get("score_drift_interval")) or f"largest {percent(outputs['score_drift_max'], 2)}"
        tiles.append(("mean score drift", percent(outputs["score_drift_mean"], 2), more))
    predictions = report.get("predictions")
    if predictions:
        lowest = f"lowest {predictions['lowest']:.3f} on {predictions['lowest_picture']}"
        tiles.append((predictions["measure"], f"{predictions['mean']:.3f}", lowest))
    if report["layers"]:
        worst = min(report["layers"], key=lambda row: float(row["cosine"]))
        tiles.append(("least mean cosine of a layer", f"{worst['cosine']:.4f}", worst["layer"]))
    for method, row in report["evidence"].items():
        others = {key: value for key, value in row.items() if key != "rank_correlation" and not isinstance(value, list)}
        more = ", ".join(f"{FIGURES.get(key, key.replace('_', ' '))} {figure(value)}" for key, value in others.items())
        tiles.append((f"{method}: rank correlation", figure(row.get("rank_correlation")), more))
    return tiles


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"95 % interval {ends[0]:.1%} to {ends[1]:.1%}"


def _coverage(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(line.partition(": ")[0], line.partition(": ")[2]) for line in coverage(report)]
    return rows + [(f"{method} not available", why) for method, why in report["unavailable"].items()]


def _plots(rows: Sequence[Mapping[str, Any]]) -> list[plots.Plot]:
    """How the pictures' agreement is distributed."""
    drifts = [row["score_drift"] for row in rows if row.get("score_drift") is not None]
    found = []
    if drifts:
        top = max(0.05, max(drifts))
        found.append(plots.histogram("Score drift", drifts, (0.0, top), "share of the highest score"))
    methods = dict.fromkeys(method for row in rows for method in row.get("evidence", {}))
    for method in methods:
        for key, name, extent, unit in HISTOGRAMS:
            values = [row["evidence"][method][key] for row in rows if key in row.get("evidence", {}).get(method, {})]
            if values:
                extent = min(extent[0], *values), extent[1]
                found.append(plots.histogram(f"{method}: {name}", values, extent, unit))
    return found


def _jump(report: Mapping[str, Any]) -> str:
    jump = report["largest_jump"]
    if not jump:
        return ""
    return f"SQNR drops most at {jump['layer']}: from {jump['before_db']:.1f} to {jump['at_db']:.1f} dB."


def _layer_plots(layers: Sequence[Mapping[str, Any]], findings: Sequence[Mapping[str, Any]]) -> list[plots.Plot]:
    """SQNR and cosine over depth, the first divergence marked."""
    if len(layers) < 2:
        return []
    names = [row["layer"] for row in layers]
    diverged = [found for found in findings if found["code"] == "features-diverge" and found["where"] in names]
    first = names.index(diverged[0]["where"]) if diverged else None
    mark = None if first is None else (first, f"first divergence: {names[first]}")
    levels = [float(row["sqnr_db"]) for row in layers]
    top = max(20.0, min(120.0, max(levels)))
    ends = ((0.0, "first layer"), (1.0, "last"))
    cosines = {"mean over pictures": [row["cosine"] for row in layers], "lowest": [row["cosine_low"] for row in layers]}
    least = min(0.9, *(float(value) for values in cosines.values() for value in values))
    limit = float(diverged[0]["limit"]) if diverged else None
    levels_plot = plots.lines(
        "SQNR over depth (dB, higher is better)", {"SQNR": levels}, (0.0, top), "layers", ends, None, mark, plots.WIDE
    )
    title = "Cosine of the activations over depth"
    return [levels_plot, plots.lines(title, cosines, (least, 1.0), "layers", ends, limit, size=plots.WIDE)]


def _rows(rows: Sequence[Mapping[str, Any]]) -> tuple[list[list[Any]], list[str]]:
    """A row per picture, those that agree least first."""
    methods = list(dict.fromkeys(method for row in rows for method in row.get("evidence", {})))
    header = ["picture", "labels agree", "score drift", *(f"{method}: rank correlation" for method in methods)]
    found = [
        [
            row["picture"],
            row.get("agree"),
            row.get("score_drift"),
            *(row.get("evidence", {}).get(method, {}).get("rank_correlation") for method in methods),
        ]
        for row in rows
    ]
    return found, header


def _run(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    report = document["comparison"]
    rows: list[tuple[str, Any]] = []
    for side in ("reference", "candidate"):
        about = report[side]
        rows += [(side, about["model"]), (f"{side}: SHA-256", about.get("identity", about["sha256"]))]
    for side, plan in report.get("plan", {}).items():
        rows.append((f"{side}: kernels that change while layers are read", plan["words"] or "none"))
    return identity_rows([*rows, *document.get("run", {}).items()])
