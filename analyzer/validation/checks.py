"""The checks of an audit, a row each: what is measured, how it is summed up, and what is a finding."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from analyzer.metrics.intervals import Interval, bootstrap, wilson
from analyzer.validation.thresholds import read_table
from analyzer.validation.verdict import Finding

SHIFT = 4  # pixels of the network's input
SATURATED = 0.5  # share of a channel's values at the highest of the layer, on every picture
ENOUGH = 3  # pictures of a class from which its answers are judged
TOGETHER = 8  # pictures from which a position that they share is judged
NEAR = 0.1  # of a picture's size: maxima as near as that are at the same position
WORST = 6  # pictures that are named for a check

CLASSES, DETECTIONS, MASKS, TEXTS, EMBEDDINGS, VALUES = (
    "classes", "detections", "masks", "texts", "embeddings", "values",
)  # fmt: skip
# What deletion, insertion and average drop measure of an answer.
SCORES = {
    CLASSES: "the top class's probability",
    DETECTIONS: "the score of the strongest detection, found again by its class and an IoU of at least 0.5",
    MASKS: "the IoU of the class's mask with that of the unchanged picture",
    TEXTS: "the similarity to the text of the unchanged picture (1 − edit distance / length)",
    EMBEDDINGS: "the cosine with the embedding of the unchanged picture",
    VALUES: "",
}

Report: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """A figure of a check.

    Attributes:
        interval: its value with the 95 % interval over pictures; infinite where there is none.
        where: a layer, a preprocessing, a class; "" for the model.
        by_picture: {picture: its value}, where it is made of those.
        words: what the sentence of a finding needs besides the value.
    """

    interval: Interval
    where: str = ""
    by_picture: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, Any] = field(default_factory=dict)


Measure: TypeAlias = "Callable[[Report], Sequence[Measured]]"


@dataclass(frozen=True)
class Check:
    """A row of an audit.

    Attributes:
        name: its key in the summary.
        title: what a report calls it.
        definition: a sentence about what is measured, with {score} for what `SCORES` says.
        measure: its figures; none where the report has nothing to measure.
        code: of its finding; "" for a figure that is not judged.
        limit: threshold.
        worse: the side of the threshold that is a finding.
        words: sentence of the finding, with {value} and the figure's words.
        advice: what to do about it.
        needs: why there is no figure where there is nothing to measure it by.
    """

    name: str
    title: str
    definition: str
    measure: Measure
    code: str = ""
    limit: float | None = None
    worse: Literal["above", "below"] = "above"
    words: str = ""
    advice: str = ""
    needs: str = "no picture has a value"

    def fails(self, value: float) -> bool:
        if self.limit is None or not math.isfinite(value) or math.isclose(value, self.limit):
            return False
        return value > self.limit if self.worse == "above" else value < self.limit


# ---- Measures ----


def mean_of(*path: str, where: str = "") -> Measure:
    """The mean of a number of every picture's row; `where` may name an entry of the identity in braces."""

    def measured(report: Report) -> list[Measured]:
        known = _by_picture(report, path)
        place = where.format_map(report["identity"])
        return [Measured(bootstrap(list(known.values())), place, known)] if known else []

    return measured


def rate_of(*path: str, above: float = 0) -> Measure:
    """The share of the pictures whose row has a number (or a truth) above that."""

    def measured(report: Report) -> list[Measured]:
        known = {name: float(value > above) for name, value in _by_picture(report, path).items()}
        return [Measured(wilson(int(sum(known.values())), len(known)), "", known)] if known else []

    return measured


def _by_picture(report: Report, path: Sequence[str]) -> dict[str, float]:
    found = {}
    for row in _judged(report):
        value: Any = row
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None and math.isfinite(value):
            found[row["picture"]] = float(value)
    return found


def answered(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The pictures for which the model gives an answer that is finite."""
    return [row for row in rows if "not_finite" not in row and "nothing" not in row]


def _judged(report: Report) -> list[Mapping[str, Any]]:
    return answered(report["rows"])


def _exact(value: float) -> Interval:
    return Interval(float(value), -math.inf, math.inf)


def _not_finite(report: Report) -> list[Measured]:
    bad = [row for row in report["rows"] if "not_finite" in row]
    if not report["rows"]:
        return []
    names = f"{', '.join(row['picture'] for row in bad[:3])}{' …' if len(bad) > 3 else ''}"
    words = {"bad": len(bad), "pictures": report["pictures"], "names": names}
    words["why"] = bad[0]["not_finite"] if bad else ""
    pictures = {row["picture"]: 1.0 for row in bad}
    return [Measured(wilson(len(bad), len(report["rows"])), bad[0]["picture"] if bad else "", pictures, words)]


def _preprocessing(report: Report) -> list[Measured]:
    contract = {n: row for n, row in report["contract"].items() if row["confidence"] is not None}
    if "declared" not in contract:
        return []
    key = "accuracy" if "accuracy" in contract["declared"] else "confidence"
    fair = [name for name, row in contract.items() if key == "accuracy" or _alike(name, row)]
    sure = [name for name in fair if contract[name].get("gain_low", 1.0) > 0]
    best = max(sure, key=lambda n: (contract[n][key], contract[n]["confidence"]))  # of equal accuracy the surest
    row, declared = contract[best], contract["declared"][key]
    words = {"figure": key, "best": best, "with_it": row[key], "declared": declared}
    words["try"] = row.get("options", "")
    bounds = row.get("gain_low", -math.inf), row.get("gain_high", math.inf)
    return [Measured(Interval(row[key] - declared, *bounds), best, {}, words)]


def _alike(name: str, row: Mapping[str, Any]) -> bool:
    """Whether confidence says which of two preprocessings is better: larger values and smaller pictures raise it."""
    return 1 / 3 < row["size"] < 3 and not name.startswith("size ")


def _channels(kind: str) -> Measure:
    def measured(report: Report) -> list[Measured]:
        return [Measured(_exact(row[kind] / row["channels"]), row["layer"], {}, row) for row in report["layers"]]

    return measured


def _faithfulness(report: Report) -> list[Measured]:
    """Of deletion and insertion, the one in which the map is better than random cells by more."""
    signs = {"deletion": -1, "insertion": 1}
    gains = []
    for kind, sign in signs.items():
        ours, random = (_by_picture(report, ("faithfulness", kind + order)) for order in ("", "_random"))
        gains.append({name: sign * (value - random[name]) for name, value in ours.items() if name in random})
    if not all(gains):
        return []
    better = max(gains, key=lambda gain: float(np.mean(list(gain.values()))))
    return [Measured(bootstrap(list(better.values())), report["identity"]["method"], better)]


def maxima_together(rows: Sequence[Mapping[str, Any]]) -> tuple[float, np.ndarray, str]:
    """(the largest share of the maxima near one of them, which ones, where that is)"""
    places = np.array([[row["maximum_y"], row["maximum_x"]] for row in rows])
    near = np.abs(places[:, None] - places[None]).max(axis=2) <= NEAR
    center = int(near.mean(axis=1).argmax())
    y, x = places[center]
    place = f"{_third(y, ('top', 'middle', 'bottom'))} {_third(x, ('left', 'center', 'right'))}"
    return float(near[center].mean()), near[center], place


def _third(at: float, names: tuple[str, str, str]) -> str:
    return names[min(2, int(3 * at))]


def _fixed_position(report: Report) -> list[Measured]:
    rows = [row for row in _judged(report) if "maximum_y" in row]
    if len(rows) < TOGETHER:
        return []
    share, near, place = maxima_together(rows)
    pictures = {row["picture"]: float(close) for row, close in zip(rows, near, strict=True)}
    return [Measured(_exact(share), "", pictures, {"place": place})]  # of a place chosen by it: no interval is true


def _nothing(report: Report) -> list[Measured]:
    pictures = {row["picture"]: float("nothing" in row) for row in report["rows"]}
    return [Measured(wilson(int(sum(pictures.values())), len(pictures)), "", pictures)] if pictures else []


def _degenerate(report: Report) -> list[Measured]:
    pictures = {row["picture"]: float(bool(row["diagnosis"])) for row in _judged(report)}
    return [Measured(_exact(sum(pictures.values())), "", pictures)] if pictures else []


def _answers(report: Report) -> dict[int, Counter[int]]:
    """{true class: how often each class is the answer}, of classes with enough pictures."""
    found: dict[int, Counter[int]] = defaultdict(Counter)
    for row in _judged(report):
        if "label" in row:
            found[row["label"]][row["top"]] += 1
    return {label: answers for label, answers in sorted(found.items()) if answers.total() >= ENOUGH}


def _silent(report: Report) -> list[Measured]:
    answers, won = _answers(report), {row["top"] for row in _judged(report)}
    silent = [label for label in answers if label not in won]
    if not answers:
        return []
    words = {"silent": len(silent), "classes": ", ".join(map(str, silent[:8])) + (" …" if len(silent) > 8 else "")}
    pictures = {row["picture"]: float(row.get("label") in silent) for row in _judged(report) if "label" in row}
    return [Measured(wilson(len(silent), len(answers)), f"class {silent[0]}" if silent else "", pictures, words)]


def _mixed_up(report: Report) -> list[Measured]:
    """Classes most of whose pictures are called by one other class, which is not the answer of a third."""
    usual = {label: answers.most_common(1)[0] for label, answers in _answers(report).items()}
    answered = Counter(answer for answer, _ in usual.values())
    wrong = {
        label: answer
        for label, (answer, times) in usual.items()
        if answer != label and answered[answer] == 1 and 2 * times > _answers(report)[label].total()
    }
    if len(usual) < 2:
        return []
    pairs = ", ".join(f"{label} as {answer}" for label, answer in list(wrong.items())[:4])
    pictures = {row["picture"]: float(row.get("label") in wrong) for row in _judged(report) if "label" in row}
    words = {"wrong": len(wrong), "of": len(usual), "pairs": pairs}
    return [Measured(wilson(len(wrong), len(usual)), "", pictures, words)]


def _peak(report: Report) -> list[Measured]:
    value = report["summary"].get("peak_of_mean_map")
    return [] if value is None else [Measured(_exact(value))]


# ---- The checks ----

NO_TRUTH = "needs true classes (--classes)"
NO_BOXES = "needs true boxes (--boxes)"

CHECKS = (
    Check(
        "not_finite", "pictures that are not finite", "Pictures whose scores or map are NaN or ∞; all other checks "
        "leave them out.", _not_finite, "not-finite", 0.0, "above",
        "{bad} of {pictures} pictures skipped ({names}): {why}",
        "Look at the node that is named, often an overflow of float16 or a division by zero.",
    ),
    Check(
        "accuracy", "accuracy", "Share of the pictures with a given true class whose top class it is.",
        rate_of("right"), needs=NO_TRUTH,
    ),
    Check(
        "confidence", "confidence", "Mean probability of the top class, highest score of a detection, or probability "
        "of the characters.", mean_of("confidence"),
    ),
    Check(
        "preprocessing", "gain of another preprocessing", "Accuracy, or without true classes the mean probability of "
        "the top class, with the best of other presets, channel orders, ways to fit a picture to the input, and sizes, "
        "minus that with the declared preprocessing. Gains whose 95 % interval contains 0 do not count.",
        _preprocessing, "preprocessing-doubtful", 0.1, "above",
        "{figure} is {with_it:.2f} with {best!r} and {declared:.2f} with the declared preprocessing (+{value:.2f})",
        "Compare the preprocessing with that of the training, and try {try}.",
    ),
    Check(
        "silent_classes", "classes that never win", f"Share of the classes with at least {ENOUGH} pictures that are "
        "the top class of no picture at all.", _silent, "silent-classes", 0.0, "above",
        "{silent} classes are never the top class, although pictures of them are given: {classes}",
        "Check the order of the labels, and whether the class was trained.", NO_TRUTH,
    ),
    Check(
        "mixed_up", "classes mixed up", f"Share of the classes with at least {ENOUGH} pictures, most of which are "
        "answered with one and the same other class.", _mixed_up, "labels-mixed-up", 0.5, "above",
        "{wrong} of {of} classes are answered with another one each ({pairs}): the labels seem to be in another order",
        "Compare the order of the labels with that of the training.", NO_TRUTH,
    ),
    Check(
        "dead", "dead channels", "Share of a layer's channels that have the same value everywhere, on all pictures.",
        _channels("dead"), "dead-channels", 0.4, "above",
        "{dead} of {channels} channels are constant on all pictures",
        "Use more pictures; if they stay constant, the weights before the layer were lost or never trained.",
    ),
    Check(
        "saturated", "saturated channels", "Share of a layer's channels with more than half of their values at the "
        "layer's maximum on every picture, such as the upper bound of a clip, a sigmoid or a quantizer.",
        _channels("saturated"), "saturated-channels", 0.25, "above",
        "{saturated} of {channels} channels are mostly at the layer's maximum",
        "Check the scale of the input, and of a quantized layer its calibrated range.",
    ),
    Check(
        "saturated_scores", "saturated scores", "Share of the pictures whose top scores tie at the maximum of the "
        "output's quantizer.", rate_of("tied", above=1), "saturated-scores", 0.05, "above",
        "the top scores of {value:.0%} of the pictures tie at the maximum of the output's quantizer: its calibrated "
        "range is too narrow", "Calibrate with pictures of which the model is sure, or keep the last layer in float.",
    ),
    Check(
        "label_kept_when_shifted", "label kept when shifted", f"Share of {SHIFT}-pixel shifts, in four directions, "
        "that do not change the top class.", mean_of("shift", "label_kept"), "shift-sensitive", 0.7, "below",
        f"only {{value:.0%}} of {SHIFT}-pixel shifts keep the label",
        "Train with random crops, or use low-pass filters before strides (Zhang 2019, 1904.11486).",
    ),
    Check(
        "change_when_shifted", "change when shifted", "Mean change of the top class's probability for these shifts.",
        mean_of("shift", "change"),
    ),
    Check(
        "nothing", "pictures without an answer", "Share of the pictures in which the model finds nothing; the other "
        "checks leave them out.", _nothing, "no-answer", 0.9, "above",
        "the model finds nothing in {value:.0%} of the pictures",
        "Use pictures of what the model was trained on; check its preprocessing and its score threshold.",
    ),
    Check(
        "own_region", "heat in its own box or mask", "Share of the heat inside the box of the detection (or the mask "
        "of the class) that is explained, divided by its share of the area; 1 is uniform.",
        mean_of("own_region", where="{method}"), "evidence-outside", 1.0, "below",
        "the heat lies outside the box or mask that it explains: {value:.2f} times the uniform share",
        "Look at the maps: the model may use the surroundings, or the layer does not see the object.",
    ),
    Check(
        "missed", "detections missed when shifted", f"Share of a picture's detections that have no partner (same "
        f"class, IoU of at least 0.5) after {SHIFT}-pixel shifts, in four directions.", mean_of("steady", "missed"),
        "shift-sensitive", 0.2, "above", f"{{value:.0%}} of the detections are missed after {SHIFT}-pixel shifts",
        "Train with random crops; check the threshold of the scores.",
    ),
    Check(
        "doubled", "detections doubled when shifted", "Share of detections beside which a second one of the class "
        "appears after these shifts (IoU of at least 0.3).", mean_of("steady", "doubled"),
        "doubled-detections", 0.1, "above",
        "{value:.0%} of the detections appear twice after shifts", "Check the non-maximum suppression and its IoU.",
    ),
    Check(
        "missed_when_smaller", "detections missed when smaller", "Share of a picture's detections that have no partner "
        "if the picture is shown at 80 % of its size.", mean_of("steady", "missed_when_smaller"), "size-sensitive",
        0.5, "above", "{value:.0%} of the detections are missed if the picture is a fifth smaller",
        "Train with random scales, or fix the distance of the camera.",
    ),
    Check(
        "answer_kept", "answer kept when shifted", f"Mean over {SHIFT}-pixel shifts, in four directions, of {{score}} "
        "(a mask is shifted back first).", mean_of("steady", "answer_kept"), "shift-sensitive", 0.8, "below",
        f"after {SHIFT}-pixel shifts the answers agree by only {{value:.2f}}", "Train with random crops.",
    ),
    Check(
        "random_head", "similarity to a random head", "Rank correlation of the map with that of the model with its "
        "last weights shuffled; lower is better (Adebayo et al. 2018).",
        mean_of("sanity", "random_head", where="{method}"),
        "sanity-parameters", 0.7, "above",
        "the map hardly changes when the last weights are shuffled: it does not explain the decision",
        "Do not draw conclusions from maps of this method.",
    ),
    Check(
        "other_class", "similarity to another class", "Rank correlation of the map with that of another class; lower "
        "is better.", mean_of("sanity", "other_class", where="{method}"), "sanity-labels", 0.9, "above",
        "the map of another class is nearly the same: it does not separate classes",
        "Use a method that depends on the class, such as grad-cam.",
    ),
    Check(
        "follows_shift", "map follows shifts", f"Rank correlation of the map with that of the picture shifted by "
        f"{SHIFT} pixels, shifted back; 1 is best (Crabbé & van der Schaar 2023).",
        mean_of("sanity", "follows_shift", where="{method}"),
        "map-unstable", 0.5, "below", "maps of pictures shifted by a few pixels correlate by only {value:.2f}",
        "Do not draw conclusions from a single map; average over shifts.",
    ),
    Check(
        "deletion", "deletion", "Area under {score}, as pixels are removed in order of heat, filled with the mean; "
        "lower is better (Petsiuk et al. 2018).", mean_of("faithfulness", "deletion"),
    ),
    Check(
        "deletion_random", "deletion of random cells", "The same for random cells instead of the hottest pixels.",
        mean_of("faithfulness", "deletion_random"),
    ),
    Check(
        "insertion", "insertion", "Area under {score}, as pixels are inserted in order of heat; higher is better "
        "(Petsiuk et al. 2018).", mean_of("faithfulness", "insertion"),
    ),
    Check(
        "insertion_random", "insertion of random cells", "The same for random cells instead of the hottest pixels.",
        mean_of("faithfulness", "insertion_random"),
    ),
    Check(
        "faithfulness", "faithfulness over random", "How much better the map is than random cells, in deletion or in "
        "insertion, whichever is more; below 0 it is worse in both.", _faithfulness, "unfaithful", 0.0, "below",
        "the regions that the map marks affect the score less than random regions",
        "Use another method or layer; `docs/faithfulness.md` ranks them.",
    ),
    Check(
        "average_drop", "average drop", "Share that is lost of {score}, when cold pixels fade to the mean: "
        "heat · picture + (1 − heat) · mean; lower is better (Chattopadhay et al. 2018).",
        mean_of("faithfulness", "average_drop"),
    ),
    Check(
        "border", "heat on the border", "Share of the heat in the outer tenth on each side, divided by its share of "
        "the area; 1 is uniform.", mean_of("border", where="border"), "border-evidence", 1.5, "above",
        "border: {value:.1f} times the heat expected from their area; check padding and watermarks",
        "Look at the pictures: frames, watermarks, and padding are typical reasons.",
    ),
    Check(
        "corners", "heat in the corners", "Share of the heat in the corners (a fifth of each side), divided by their "
        "share of the area; 1 is uniform.", mean_of("corners", where="corners"), "border-evidence", 2.0, "above",
        "corners: {value:.1f} times the heat expected from their area; check padding and watermarks",
        "Look at the corners of the pictures for a watermark, a logo, or a time stamp.",
    ),
    Check(
        "maxima_together", "maxima together", "Largest share of the maxima that lie within a tenth of the picture's "
        f"size of one maximum; judged from {TOGETHER} pictures on.", _fixed_position, "fixed-position", 0.6, "above",
        "{value:.0%} of the maxima are at the same position ({place}); check for a watermark",
        "Look at that position in the pictures; cover it and explain again.",
        f"needs at least {TOGETHER} pictures with a map",
    ),
    Check(
        "degenerate_maps", "degenerate maps", "Number of empty or constant maps.", _degenerate, "degenerate-maps",
        0.0, "above", "{value:.0f} maps are empty or constant", "Try layer-cam or another layer.",
    ),
    Check(
        "peak_of_mean_map", "peak of mean map", "Highest value of the mean of all maps.", _peak,
    ),
    Check(
        "pointing_game", "pointing game", "Share of the pictures whose maximum lies inside a given box (Zhang et al. "
        "2016).", rate_of("pointing_hit"), needs=NO_BOXES,
    ),
    Check(
        "energy_in_boxes", "energy in boxes", "Share of the heat inside the given boxes (Wang et al. 2020).",
        mean_of("energy_in_boxes"), needs=NO_BOXES,
    ),
)  # fmt: skip


# ---- Which checks do not apply ----

_NO_CLASS = {
    DETECTIONS: "a picture has any number of detections, not one class",
    MASKS: "every pixel has a class of its own",
    TEXTS: "a text has no class",
    EMBEDDINGS: "a vector has no class",
    VALUES: "the outputs are no classes",
}
_ALWAYS = dict.fromkeys((CLASSES, EMBEDDINGS, VALUES), "the model always gives an answer")
_NO_PLACE = {
    CLASSES: "a class has no box of its own; give true ones with --boxes",
    TEXTS: "a text has no box",
    EMBEDDINGS: "a vector has no box",
    VALUES: "the outputs have no boxes",
}
_NOT_DETECTED = dict.fromkeys((CLASSES, MASKS, TEXTS, EMBEDDINGS, VALUES), "only detections can be missed or doubled")
_OTHER_SHIFT = {
    CLASSES: "see “label kept when shifted”",
    DETECTIONS: "see “detections missed when shifted”",
    VALUES: "how alike numbers of this kind are has no common measure",
}
_OWN_PLACE = {
    DETECTIONS: "the heat lies where the object is; see “heat in its own box or mask”",
    MASKS: "the heat lies where the class is; see “heat in its own box or mask”",
    TEXTS: "a line of text fills the picture up to its border",
}
_UNSCORED = {VALUES: "the outputs have no score that could fall"}
_UNSURE = {
    MASKS: "a mask has no confidence",
    EMBEDDINGS: "a vector has no confidence",
    VALUES: "no output is a confidence",
}
_RANDOM = {DETECTIONS: "a detector with random weights detects other things, if any"}
_WITHOUT: dict[str, Mapping[str, str]] = {
    name: why
    for names, why in (
        (("accuracy", "silent_classes", "mixed_up", "saturated_scores", "other_class"), _NO_CLASS),
        (("label_kept_when_shifted", "change_when_shifted"), _NO_CLASS),
        (("nothing",), _ALWAYS),
        (("own_region",), _NO_PLACE),
        (("missed", "doubled", "missed_when_smaller"), _NOT_DETECTED),
        (("answer_kept",), _OTHER_SHIFT),
        (("border", "corners", "maxima_together"), _OWN_PLACE),
        (("deletion", "deletion_random", "insertion", "insertion_random", "faithfulness", "average_drop"), _UNSCORED),
        (("confidence", "preprocessing"), _UNSURE),
        (("random_head",), _RANDOM),
    )
    for name in names
}


def why_not(check: str, answers: str) -> str:
    """Why a check does not apply to answers of a kind; "" where it does."""
    return _WITHOUT.get(check, {}).get(answers, "")


def read_limits(path: str | Path | None, overrides: Mapping[str, float] | None = None) -> dict[str, float]:
    """{check: threshold} from a TOML file, then from `overrides`; see `thresholds.read_table`."""
    return read_table(path, "audit", [check.name for check in CHECKS if check.code], overrides)


def checked(report: Report, limits: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """Every check as plain data: its figures, or why it does not apply.

    Args:
        limits: {check: threshold in place of its own}.
    """
    rows, kind = list[dict[str, Any]](), report["identity"].get("answers", CLASSES)
    for check in (replace(check, limit=(limits or {}).get(check.name, check.limit)) for check in CHECKS):
        about: dict[str, Any] = {"check": check.name, "title": check.title, "code": check.code}
        about["definition"] = check.definition.format(score=SCORES[kind])
        why = why_not(check.name, kind)
        figures = () if why else check.measure(report)
        if not figures:
            rows.append(about | {"why": why or check.needs, "applies": not why})
        for figure in figures:
            value, low, high = figure.interval
            found = check.fails(value)
            words = check.words.format(value=value, **figure.words) if found else ""
            advice = check.advice.format(value=value, **figure.words) if found else ""
            rows.append(
                about
                | {"where": figure.where, "value": value, "limit": check.limit, "worse": check.worse}
                | ({"low": low, "high": high} if math.isfinite(low) else {})
                | {"found": found, "words": words, "advice": advice, "worst": _worst(check, figure)}
            )
    return rows


def _worst(check: Check, figure: Measured) -> list[str]:
    """The pictures that speak most for a finding."""
    sign = -1 if check.worse == "above" else 1
    ordered = sorted(figure.by_picture.items(), key=lambda item: (sign * item[1], item[0]))
    yes_or_no = set(figure.by_picture.values()) <= {0.0, 1.0}
    return [name for name, value in ordered if not yes_or_no or value == (sign < 0)][:WORST]


def findings(report: Report) -> list[Finding]:
    """What a reviewer should look at; each finding with its value and the threshold."""
    rows = report["checks"] if "checks" in report else checked(report)  # missing in early saved reports
    return [
        Finding(row["code"], row["where"], float(row["value"]), row["limit"], row["words"])
        for row in rows
        if row.get("found")
    ]
