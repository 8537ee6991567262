"""Thresholds of a comparison, and the findings that violate them: stable codes, each with a sentence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from analyzer.metrics.intervals import pictures_needed
from analyzer.validation.thresholds import read_table

EQUAL = 1e-3  # score drift and output error up to which outputs are equal up to rounding
EQUAL_HALF = 1e-2  # the same where one of the files is half precision
EQUAL_DB = 60.0  # SQNR above which two layers are equal up to rounding
COMPENSATED_DB = 12.0, 20.0  # least gain of the first layer over the inputs, and least SQNR of that layer,
# where one of the files makes up for what differs between them
# SQNR that layers keep if nothing but rounding differs, by the coarser precision of the two files.
ROUNDED_DB = {"float": EQUAL_DB, "half": 40.0, "quantized": 30.0}
SATURATED_DB = 20.0  # SQNR below which values outside a layer's range matter
STEP_DB = 3.0  # drops of SQNR up to which noise only adds up


@dataclass(frozen=True)
class Thresholds:
    """Limits of agreement; a TOML file or flags override single values.

    Attributes:
        label_agreement: least share of pictures with the same top class.
        accuracy_loss: largest accuracy of the reference minus that of the candidate, where true classes are known.
        score_drift: largest mean of max |a − b| / max |a| over the scores.
        score_drift_max: largest drift of the scores on any picture; at least `score_drift`.
        feature_cosine: least mean cosine of a layer's activations.
        evidence_correlation: least median rank correlation of the class maps.
        evidence_iou: least median overlap of the highest fifth of the class maps.
        prediction_agreement: least mean agreement of detections, keypoints, masks or texts, by the task's measure.
        output_error: largest mean relative error of an output other than class scores.
        output_error_max: largest relative error of such an output on any picture; at least `output_error`.
        weight_error: largest relative difference of a weight.
        saturated: largest share of a quantised layer's values outside its range.
        float_sqnr: least SQNR of a layer, and of an output on any picture, where neither file is quantized or half
            precision, dB.
    """

    label_agreement: float = 0.95
    accuracy_loss: float = 0.02
    score_drift: float = 0.15
    score_drift_max: float = 0.6
    feature_cosine: float = 0.95
    evidence_correlation: float = 0.8
    evidence_iou: float = 0.6
    prediction_agreement: float = 0.75
    output_error: float = 0.15
    output_error_max: float = 0.6
    weight_error: float = 0.05
    saturated: float = 0.002
    float_sqnr: float = 30.0


@dataclass(frozen=True)
class Finding:
    """`code` is stable; `where` names a layer, weight, output or method; `value` violates `limit`."""

    code: str
    where: str
    value: float
    limit: float
    words: str


@dataclass(frozen=True)
class Doubt:
    """A rate that the pictures do not settle: its threshold lies inside its 95 % interval, `low` to `high`.

    `needed` is the number of pictures that would settle it if all others agreed, None where that is not known.
    """

    code: str
    where: str
    value: float
    limit: float
    low: float
    high: float
    needed: int | None
    words: str


Cause: TypeAlias = tuple[int, Finding]  # with the number of the layer at which it shows


def read_thresholds(path: str | Path | None, overrides: Mapping[str, float] | None = None) -> Thresholds:
    """Thresholds of `compare` from a TOML file, then from `overrides`; see `thresholds.read_table`."""
    return Thresholds(**read_table(path, "compare", [f.name for f in fields(Thresholds)], overrides))


def judge(report: Mapping[str, Any], limits: Thresholds) -> list[Finding]:
    """The findings of a comparison's report: causes first, in the order of the layers, then what they lead to.

    Where outputs and evidence are equal, there is nothing to find a cause of; inputs that differ are said all the same.
    """
    effects = [*_layers(report, limits), *_outputs(report, limits), *_evidence(report, limits)]
    causes = _inputs(report) if _equal(report) and not effects else _causes(report, limits, effects)
    return [*_not_finite(report), *causes, *effects]


def _causes(report: Mapping[str, Any], limits: Thresholds, effects: Sequence[Finding]) -> list[Finding]:
    """Inputs, then weights, ranges and the first deviation in the order of the layers."""
    inputs, weights = _inputs(report), _weights(report, limits)
    causes = [*weights, *_ranges(report, limits, bool(effects))]
    # In a quantized build noise is everywhere, and a weight that differs says more than where noise seems to begin.
    known = inputs or (weights and report.get("precision") == "quantized")
    first = None if known else _first_deviation(report, limits, bool(effects))
    said = [*(finding for _, finding in causes), *effects][:1]
    if (
        first is not None
        and all(place > first[0] for place, _ in causes)
        and [f.where for f in said] != [first[1].where]
    ):
        causes.append(first)
    return [*inputs, *(finding for _, finding in sorted(causes, key=lambda cause: cause[0]))]


def _first_deviation(report: Mapping[str, Any], limits: Thresholds, effects: bool) -> Cause | None:
    """Where noise beyond rounding begins: the first layer at which SQNR falls half as far as anywhere, or further.

    Of float builds it is a finding by itself where their outputs differ, too.
    """
    precision = report.get("precision", "quantized")  # missing in early saved reports
    rows, normal = report["layers"], ROUNDED_DB[precision]
    lowest = min((row["sqnr_db"] for row in rows), default=200.0)
    alone = precision == "float" and lowest < limits.float_sqnr and not _equal(report)
    if not effects and not alone:
        return None
    before = list(itertools.accumulate((row["sqnr_db"] for row in rows), min, initial=200.0))
    drops = [min(normal, known) - row["sqnr_db"] for known, row in zip(before, rows, strict=False)]
    largest = max(drops, default=0.0)
    if largest < STEP_DB:
        return None
    place = next(i for i, drop in enumerate(drops) if drop >= largest / 2)
    layer, at = rows[place]["layer"], rows[place]["sqnr_db"]
    words = f"the deviation begins at {layer}: SQNR falls from {before[place]:.1f} to {at:.1f} dB"
    words += _leads(report, rows[place])
    return place, Finding("first-deviation", layer, at, limits.float_sqnr if alone else normal, words)


def _unsorted(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The outputs that were compared, except those whose rows the model orders by what it found."""
    return [row for row in report.get("compared", ()) if not row.get("sorted")]  # missing in early saved reports


def _equal(report: Mapping[str, Any]) -> bool:
    """Whether all outputs are equal up to rounding; rows that a model orders cannot tell."""
    limit, rows = EQUAL_HALF if report.get("precision") == "half" else EQUAL, report.get("compared", ())
    errors = [row.get("error_max") for row in rows] + [report["outputs"].get("score_drift_max") or 0.0]
    return len(_unsorted(report)) == len(rows) > 0 and all(e is not None and e <= limit for e in errors)


def _places(report: Mapping[str, Any]) -> dict[str, int]:
    """The layers and outputs by their order."""
    names = [row["layer"] for row in report["layers"]] + [row["output"] for row in report.get("compared", ())]
    return {name: place for place, name in reversed(list(enumerate(names)))}


def _inputs(report: Mapping[str, Any]) -> list[Finding]:
    """Inputs that differ, unless layers agree much better: then a weight of one of the files makes up for it."""
    different, layers = report.get("input"), report["layers"]
    if not different or (layers and all(row["sqnr_db"] >= EQUAL_DB for row in layers)):
        return []
    known = different.get("sqnr_db")  # missing in early saved reports
    gain, least = COMPENSATED_DB
    if known is not None and layers and layers[0]["sqnr_db"] >= max(known + gain, least):
        return []
    return [Finding("input-differs", different["kind"], 1.0, 0.0, different["words"])]


def _not_finite(report: Mapping[str, Any]) -> list[Finding]:
    """What is NaN or ∞ on one side only; or on both, where no picture is left to judge."""
    rows, count = report.get("not_finite", []), report["pictures"]
    found = []
    for side in ("candidate", "reference"):
        own = [row for row in rows if row["side"] == side]
        if own:
            where, other = own[0]["where"], "reference" if side == "candidate" else "candidate"
            words = f"{where}: NaN or ∞ in the {side} but not in the {other}, on {len(own)} of {count} pictures"
            words += f" ({', '.join(row['picture'] for row in own[:3])}{' …' if len(own) > 3 else ''})"
            words += f": {own[0]['why']}" if own[0]["why"] else ""
            found.append(Finding("not-finite", where, len(own) / count, 0.0, words))
    both = [row for row in rows if row["side"] == "both"]
    if both and not found and not report["outputs"].get("judged", count):
        words = f"NaN or ∞ in both sides on every picture, so no scores were compared: {both[0]['why']}"
        found.append(Finding("not-finite", both[0]["where"], 1.0, 0.0, words))
    return found


def _weights(report: Mapping[str, Any], limits: Thresholds) -> list[Cause]:
    places, found = _places(report), []
    for row in report["weights"]:
        if row["relative_error"] > limits.weight_error and (row.get("sqnr_db") or 0.0) < EQUAL_DB:
            words = (
                f"the weight of {row['node'] or row['weight']} differs by {row['relative_error']:.1%} "
                f"(relative L2 norm){': ' if row['words'] else ''}{row['words']}"
            )
            error = Finding("weight-differs", row["weight"], row["relative_error"], limits.weight_error, words)
            found.append((places.get(row.get("layer", ""), 0), error))
    return found


def _ranges(report: Mapping[str, Any], limits: Thresholds, effects: bool) -> list[Cause]:
    """Values cut off are no fault where the layer is as near as eight bits come, nor a few of a few without effects."""
    places, found = _places(report), []
    noise = {row["layer"]: row["sqnr_db"] for row in report["layers"]}
    for row in report.get("ranges", ()):  # missing in early saved reports
        after = row.get("next", row["layer"])
        few = row.get("values", math.inf) * limits.saturated < 1  # a single one would be too large a share
        if row["saturated"] > limits.saturated and noise.get(after, 0.0) < SATURATED_DB and (effects or not few):
            words = f"{row['saturated']:.1%} of the reference's values lie outside the candidate's quantized range"
            finding = Finding("saturated", row["layer"], row["saturated"], limits.saturated, words)
            found.append((places.get(after, 0), finding))
    return found


def _layers(report: Mapping[str, Any], limits: Thresholds) -> list[Finding]:
    found = []
    diverged = [r for r in report["layers"] if r["cosine"] < limits.feature_cosine or not r["finite"]]
    if _equal(report):  # then an unlike layer is another one: identity is no name
        diverged = [r for r in diverged if not r["finite"]]
    if diverged:
        first = diverged[0]
        kind = (
            "not finite on one side"
            if not first["finite"]
            else f"cosine {first['cosine']:.3f}, SQNR {first['sqnr_db']:.1f} dB"
        )
        words = f"first divergence at {first['layer']} ({kind}); layers that diverge: {len(diverged)}"
        words += _leads(report, first)
        found.append(Finding("features-diverge", first["layer"], first["cosine"], limits.feature_cosine, words))
    return found


def _leads(report: Mapping[str, Any], layer: Mapping[str, Any]) -> str:
    """The outputs that a layer leads to, "" where these are all."""
    leads, every = layer.get("outputs", []), {name for row in report["layers"] for name in row.get("outputs", [])}
    return f"; it leads to {', '.join(map(repr, leads))} only" if 0 < len(leads) < len(every) else ""


def _outputs(report: Mapping[str, Any], limits: Thresholds) -> list[Finding]:
    outputs, found = report["outputs"], []
    scores = next((row["output"] for row in report.get("compared", ())), "")  # they come first
    for row in report.get("compared", ()):  # missing in early saved reports
        if row["kind"] == "values" and not row.get("sorted"):
            found += _values(report, row, limits)
    predictions = report.get("predictions")  # missing in early saved reports
    if predictions and predictions["mean"] < limits.prediction_agreement and not _equal(report):  # ties say nothing
        value = predictions["mean"]
        words = f"predictions differ: mean {predictions['measure']} {value:.3f} over {predictions['pictures']} pictures"
        words += f", lowest {predictions['lowest']:.3f} on {predictions['lowest_picture']}"
        where = ", ".join(predictions["outputs"])
        found.append(Finding("predictions-differ", where, value, limits.prediction_agreement, words))
    found += [replace(r, where=r.where or scores) for r in _rates(report, limits) if isinstance(r, Finding)]
    if outputs["score_drift_mean"] is not None and outputs["score_drift_mean"] > limits.score_drift:
        words = f"scores differ by {outputs['score_drift_mean']:.1%} of the highest score on average"
        found.append(Finding("scores-drift", scores, outputs["score_drift_mean"], limits.score_drift, words))
    elif (outputs.get("score_drift_max") or 0.0) > _on_any_picture(report, limits, "score_drift"):
        value = outputs["score_drift_max"]
        picture = next((r["picture"] for r in report["rows"] if r["score_drift"] == value), "")
        words = f"scores differ by {value:.1%} of the highest score on {picture}"
        limit = _on_any_picture(report, limits, "score_drift")
        found.append(Finding("scores-drift", scores or picture, value, limit, words))
    return found


def _on_any_picture(report: Mapping[str, Any], limits: Thresholds, name: str) -> float:
    """The largest error that one picture may have; of two float builds no more than `float_sqnr` allows."""
    largest = max(getattr(limits, f"{name}_max"), getattr(limits, name))
    return float(min(largest, 10 ** (-limits.float_sqnr / 20)) if report.get("precision") == "float" else largest)


def _values(report: Mapping[str, Any], row: Mapping[str, Any], limits: Thresholds) -> list[Finding]:
    """Of one output other than class scores."""
    name, error, largest = row["output"], row["error_mean"], row.get("error_max") or 0.0
    any_picture = _on_any_picture(report, limits, "output_error")
    if error > limits.output_error:
        words = f"the mean error of the output {name!r} is {_share(error)} of its magnitude"
        words += f", largest in {row['part']}" if row["part"] else ""
        if "scale" in row:
            words += f": one scale, {row['scale']:.3g}, quantizes the whole output, "
            words += f"but the values there are at most {row['largest']:.3g}"
        return [Finding("outputs-differ", name, error, limits.output_error, words)]
    if largest > any_picture:
        picture = max(report["rows"], key=lambda r: r.get("outputs", {}).get(name, 0.0))["picture"]
        words = f"the error of the output {name!r} is {_share(largest)} of its magnitude on {picture}"
        return [Finding("outputs-differ", name, largest, any_picture, words)]
    return []


def _share(value: float) -> str:
    return f"{value:.1%}" if value < 10 else f"{value:.0f} times"


def doubts(report: Mapping[str, Any], limits: Thresholds) -> list[Doubt]:
    """The rates of all pictures that they do not settle. Outputs that are equal up to rounding leave no doubt."""
    return [rate for rate in _rates(report, limits) if isinstance(rate, Doubt) and not rate.where]


def _rates(report: Mapping[str, Any], limits: Thresholds) -> Iterator[Finding | Doubt]:
    """Of all pictures, then of each group of them."""
    outputs = report["outputs"]
    errors = [row.get("error_max") or 0.0 for row in _unsorted(report)]
    if max([outputs.get("score_drift_max") or 0.0, *errors]) <= EQUAL:
        return
    for rates in (outputs, *outputs.get("slices", ())):
        where = rates.get("group", "")
        yield from _labels(where, rates, limits.label_agreement)
        yield from _loss(where, rates, limits.accuracy_loss)


def _labels(where: str, rates: Mapping[str, Any], limit: float) -> Iterator[Finding | Doubt]:
    value = rates.get("label_agreement")
    if value is None:
        return
    count = rates.get("labels", rates.get("judged", 0))  # missing in early saved reports, like the interval
    low, high = (value, value) if limit >= 1 else rates.get("label_interval") or (value, value)
    said = f"labels agree on {round(value * count)} of {count} pictures{f' of {where}' if where else ''} ({value:.1%})"
    if high < limit:
        yield Finding("labels-differ", where, value, limit, said)
    elif low < limit:
        needed = pictures_needed(count - round(value * count), limit)
        words = f"{said}: between {low:.1%} and {high:.1%} with 95% confidence"
        words += f"; {needed} pictures would show {limit:.1%} if all others agreed"
        yield Doubt("labels-differ", where, value, limit, low, high, needed, words)


def _loss(where: str, rates: Mapping[str, Any], limit: float) -> Iterator[Finding | Doubt]:
    """Of accuracy, mAP or mIoU, where the true classes, boxes or masks are known."""
    losses = []
    if loss := rates.get("accuracy_loss"):
        said = f" (McNemar's p = {loss['p']:.2g})"
        losses.append(("accuracy", rates["accuracy"], loss["value"], loss["interval"], loss["pictures"], said))
    if truth := rates.get("truth"):
        losses.append((*(truth[k] for k in ("measure", "accuracy", "loss", "interval", "pictures")), ""))
    for measure, (ours, theirs), value, (low, high), pictures, said in losses:
        words = (
            f"{measure} is {theirs:.1%} instead of {ours:.1%} on {pictures} pictures{f' of {where}' if where else ''}"
        )
        words += f": a loss between {low:.1%} and {high:.1%} with 95% confidence{said}"
        if low > limit:
            yield Finding("accuracy-drops", where, value, limit, words)
        elif high > limit:
            yield Doubt("accuracy-drops", where, value, limit, low, high, None, words)


def _evidence(report: Mapping[str, Any], limits: Thresholds) -> list[Finding]:
    """None of predictions of equal outputs: where they differ, another one of several equally sure is explained."""
    found: list[Finding] = []
    if report.get("predictions") and _equal(report):
        return found
    for method, row in report["evidence"].items():
        if method == "gradient":
            continue  # quantisation moves single pixels of a gradient at will; it is shown, not judged
        figures = (
            ("rank_correlation", limits.evidence_correlation, "rank correlation"),
            ("top_iou", limits.evidence_iou, "top IoU"),
        )
        for key, limit, name in figures:
            if row[key] < limit:
                words = f"{method} maps differ: median {name} {row[key]:.3f}"
                found.append(Finding("evidence-moves", method, row[key], limit, words))
    return found


def as_data(findings: Sequence[Finding | Doubt]) -> list[dict[str, Any]]:
    return [asdict(f) for f in findings]
