"""A comparison's report in the forms that people and CI systems read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyzer.report import formats, sensitivity
from analyzer.report.formats import Case, code, placed, plain

COLUMNS = {"cosine": "mean cosine", "sqnr_db": "SQNR dB", "max_error": "max error", "q99_error": "99% error"}
CODES = (
    "not-finite", "input-differs", "weight-differs", "saturated", "first-deviation", "features-diverge",
    "labels-differ", "accuracy-drops", "scores-drift", "outputs-differ", "predictions-differ", "evidence-moves",
)  # fmt: skip
FIGURES = {
    "rank_correlation": "rank correlation", "top_iou": "top IoU", "maximum_shift": "shift of the maximum",
    "rank_correlation_low": "lowest rank correlation",
    "rank_correlation_interval": "95% interval of its median",
}  # fmt: skip
DEFINITIONS = {
    "label agreement": "share of pictures with the same top class, or with the same classes above ½ for sigmoid scores",
    "cosine": "⟨a, b⟩ / (‖a‖ ‖b‖) of a layer's activations; mean over pictures",
    "SQNR": "10 log₁₀(Σ a² / Σ (a − b)²) over all pictures, in decibels; 200 if both are equal",
    "rank correlation": "Spearman's rank correlation of the two heatmaps of a picture; median over pictures",
    "top IoU": "intersection over union of the highest fifth of each heatmap; median over pictures",
    "shift of the maximum": "distance between the maxima, as a share of the picture's diagonal; median over pictures",
    "score drift": "max |a − b| / max |a| over the scores of a picture, a the reference's and b the candidate's",
    "output error": "for outputs other than class scores: RMS(a − b) / RMS(a), the largest over the slices along the "
    "output's shortest axis. RMS(a) is taken over all pictures and is at least a tenth of the largest slice's; slices "
    "of probabilities count as one slice",
    "detection quality": "IoU · ratio of the scores of matched detections, 0 for those without a partner; mean over a "
    "picture's detections on both sides",
    "keypoint similarity": "OKS (COCO) of the keypoints that the reference finds, over half of the area of the box "
    "around them; 1 if both sides find none, 0 if only the candidate finds some; mean over pictures",
    "mask IoU": "intersection over union of the pixels of a class, mean over the classes that either side finds in "
    "a picture; mean over pictures",
    "equal text": "1 for a picture in which both sides read the same characters, else 0; mean over pictures",
    "evidence difference": "Grad-CAM of the candidate minus that of the reference, for the reference's top class. "
    "Share of a channel: its part of the sum of absolute differences; all shares add up to 100 %",
    "max error, 99% error": "largest |a − b| of a layer over all pictures, and its 99th percentile, mean over pictures",
    "relative squared drift": "Σ (b − a)² / Σ a² over all pictures, of the logits or of all outputs. A layer's "
    "estimated share is the half of the drift's derivative by its rounded tensors times what they lack to be exact",
    "relative error": "‖a − b‖ / ‖a‖ of a weight, dequantized",
}


def verdict(
    findings: Sequence[Mapping[str, Any]], report: Mapping[str, Any], doubts: Sequence[Mapping[str, Any]] = ()
) -> str:
    """One line."""
    if findings:
        return f"{len(findings)} finding{'s' if len(findings) > 1 else ''}: {placed(findings[0])}"
    left = len({row["picture"] for row in report.get("not_finite", ())})
    skipped = f"; {left} of {report['pictures']} pictures skipped: neither side is finite" if left else ""
    missing = [f"{total - done} of {total} {what}" for what, (done, total) in counts(report).items() if done < total]
    missing += [f"evidence by {' and '.join(report['unavailable'])}"] if report["unavailable"] else []
    if doubts:
        return f"inconclusive: no findings, but {placed(doubts[0])}{skipped}"
    if missing:
        return f"pass: all that was compared agrees; not compared: {', '.join(missing)}{skipped}"
    return f"pass: outputs, layers and evidence agree{skipped}"


def counts(report: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """{"outputs" | "layers": (how many of the reference's were compared, how many it has)}."""
    outputs = {row["output"] for row in report.get("compared", ())}
    outputs |= set((report.get("predictions") or {}).get("outputs", ()))
    missing = {row["output"] for row in _outputs_not_compared(report)}
    layers = len(report["layers"])
    return {
        "outputs": (len(outputs), len(outputs | missing)),
        "layers": (layers, layers + len(report.get("unmatched", ()))),
    }


def _outputs_not_compared(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of both sides, without those that were compared as part of what the model predicts."""
    read = set((report.get("predictions") or {}).get("outputs", ()))
    return [row for row in report.get("not_compared", ()) if row["output"] not in read]


def coverage(report: Mapping[str, Any]) -> list[str]:
    """What was compared and what was not, a line each."""
    rows, outputs = report.get("compared", []), report["outputs"]
    values = [row for row in rows if row["kind"] == "values" and not row.get("sorted")]
    scores = [row["output"] for row in rows if row["kind"] == "scores"]
    names = [*(f"{n} (class scores)" for n in scores), *(f"{r['output']} ({r['error_mean']:.2%})" for r in values)]
    total = ", ".join(f"{done} of {all_} {what}" for what, (done, all_) in counts(report).items() if all_)
    evidence = ", ".join(report["evidence"])
    lines = [f"compared: {total}" + (f"; evidence by {evidence}" if evidence else "")]
    lines += accuracies(report)
    lines += [f"outputs compared: {', '.join(names)}"] if names else []
    lines += [
        f"not judged: {row['output']}: {row['sorted']} sorts its rows, and the order may differ "
        f"({row['error_mean']:.2%})"
        for row in rows
        if row.get("sorted")
    ]
    predictions = report.get("predictions")
    if predictions:
        lines.append(
            f"predictions compared: {predictions['measure']} {predictions['mean']:.3f} on average, "
            f"lowest {predictions['lowest']:.3f}"
        )
    elif rows and outputs["label_agreement"] is None and outputs["judged"]:
        lines.append("labels not compared: the output is not one score per class")
    if outputs.get("compared_after"):
        lines.append(f"scores compared after {outputs['compared_after']}: only one of the files ends with it")
    lines += [f"not compared: {row['output']} ({row['side']}): {row['why']}" for row in _outputs_not_compared(report)]
    lines += _layers_left_out(report)
    lines += difference(report)
    for row in report.get("not_finite", ()):
        who = "both sides" if row["side"] == "both" else f"the {row['side']}"
        why = f": {row['why']}" if row["why"] else ""
        lines.append(f"not finite: {row['picture']}, {who}, at {row['where']}{why}")
    return lines


def difference(report: Mapping[str, Any]) -> list[str]:
    """The channels that make the Grad-CAMs differ, and where on the picture with the largest difference, a line."""
    found = report.get("evidence_difference")
    if not found or not found["channels"]:
        return []
    shares = ", ".join(f"{row['channel']} ({row['share']:.0%})" for row in found["channels"])
    most = max(found["pictures"], key=lambda row: row["size"])
    line = f"evidence difference at {found['layer']}: channels {shares}; "
    line += f"{most['size']:.1%} of the map on {most['picture']}"
    if most["regions"]:
        x0, y0, x1, y1 = most["regions"][0]["box"]
        where = f"{x0:.0%}–{x1:.0%} of the width, {y0:.0%}–{y1:.0%} of the height"
        line += f", {most['regions'][0]['change']} most at {where}"
    return [line]


def accuracies(report: Mapping[str, Any]) -> list[str]:
    """Accuracy of both sides, and what each group of pictures shows, a line each."""
    found = []
    for rates in (report["outputs"], *report["outputs"].get("slices", ())):
        said = []
        if "group" in rates and rates["label_agreement"] is not None:
            low, high = rates["label_interval"]
            said.append(f"{rates['label_agreement']:.1%} of labels agree ({low:.1%} to {high:.1%})")
        if "accuracy_loss" in rates:
            (ours, theirs), loss = rates["accuracy"], rates["accuracy_loss"]
            low, high = loss["interval"]
            said.append(f"accuracy {ours:.1%} and {theirs:.1%} (loss {low:.1%} to {high:.1%})")
        if "truth" in rates:
            truth = rates["truth"]
            (ours, theirs), (low, high) = truth["accuracy"], truth["interval"]
            said.append(f"{truth['measure']} {ours:.1%} and {theirs:.1%} (loss {low:.1%} to {high:.1%})")
        if said:
            known = rates if "group" in rates else rates.get("truth") or rates["accuracy_loss"]
            found.append(f"{rates.get('group', 'annotations')}: {known['pictures']} pictures, {', '.join(said)}")
    return found


def _layers_left_out(report: Mapping[str, Any], shown: int = 6) -> list[str]:
    """Layers that were not compared, a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for row in report.get("layers_not_compared", ()):  # missing in early saved reports
        by_reason.setdefault(row["why"], []).append(row["layer"])
    return [
        f"layers not compared: {', '.join(names[:shown])}"
        + (f" and {len(names) - shown} more" if len(names) > shown else "")
        + f": {why}"
        for why, names in by_reason.items()
    ]


def percent(value: float | None, digits: int = 1) -> str:
    """– where there is none."""
    return "–" if value is None else f"{value:.{digits}%}"


def markdown(document: Mapping[str, Any]) -> str:
    """For a pull request's comment."""
    report, findings = document["comparison"], document["findings"]
    lines = [f"# {plain(report['candidate']['model'])} against {plain(report['reference']['model'])}", ""]
    lines += [plain(verdict(findings, report, document.get("inconclusive", ()))), ""]
    if findings:
        lines += ["| code | where | value | limit | |", "|---|---|---|---|---|"]
        lines += [
            f"| {f['code']} | {code(f['where'])} | {f['value']:.4g} | {f['limit']:.4g} | {plain(f['words'])} |"
            for f in findings
        ]
        lines.append("")
    lines += [f"- inconclusive: {plain(placed(doubt))}" for doubt in document.get("inconclusive", ())]
    outputs = report["outputs"]
    lines += [f"- pictures: {report['pictures']}", f"- label agreement: {percent(outputs['label_agreement'])}"]
    drifts = (percent(outputs[f"score_drift_{kind}"], 2) for kind in ("mean", "max"))
    lines += ["- score drift: {} mean, {} at most".format(*drifts)]
    lines += [f"- {plain(line)}" for line in coverage(report)]
    for method, row in report["evidence"].items():
        lines.append(f"- {plain(method)}: rank correlation {row['rank_correlation']:.3f}, top IoU {row['top_iou']:.3f}")
    worst = sorted(report["layers"], key=lambda r: r["cosine"])[:10]
    lines += ["", "| layer | matched by | mean cosine | SQNR dB |", "|---|---|---|---|"]
    lines += [f"| {code(r['layer'])} | {plain(r['rule'])} | {r['cosine']:.4f} | {r['sqnr_db']:.1f} |" for r in worst]
    if report.get("sensitivity"):
        lines += sensitivity.markdown(report["sensitivity"])
    return "\n".join(lines) + "\n"


def junit(document: Mapping[str, Any]) -> str:
    """A test case per finding code, as CI systems show them."""
    by_code: dict[str, list[Mapping[str, Any]]] = {code: [] for code in CODES}
    for finding in document["findings"]:
        by_code.setdefault(finding["code"], []).append(finding)
    unsettled = {doubt["code"]: f"inconclusive: {placed(doubt)}" for doubt in document.get("inconclusive", ())}
    cases = [Case(name, [*map(placed, found)], unsettled.get(name, "")) for name, found in by_code.items()]
    return formats.junit("compare", cases, "\n".join(coverage(document["comparison"])))


def sarif(document: Mapping[str, Any]) -> str:
    """SARIF 2.1.0: a result per finding, and a note per rate that is not settled, at the candidate's file."""
    levels = ("error", document["findings"]), ("note", document.get("inconclusive", ()))
    found = [(level, one) for level, rows in levels for one in rows]
    report = document["comparison"]
    return formats.sarif(report["candidate"]["model"], found, properties={"coverage": coverage(report)})
