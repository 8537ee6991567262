"""The figures of comparisons and audits, each against its definition on numbers that can be checked by eye."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from analyzer.attribution import Explainer
from analyzer.errors import InputError
from analyzer.graph import Graph
from analyzer.images import Preprocess
from analyzer.metrics.energy import energy_inside
from analyzer.metrics.overlap import top_iou
from analyzer.metrics.similarity import cosine_of, maximum_shift, ranks, spearman
from analyzer.validation import audit as auditing
from analyzer.validation import checks, inputs, metrics, preprocessings, summaries, verdict, weights
from analyzer.validation.audit import Auditing, Picture, shortcut_signs
from analyzer.validation.compare import Pair, compare, doubtful
from analyzer.validation.matching import Match, match_by_activations, match_by_name, undecorated, without_shifted_names
from analyzer.validation.randomised import randomised_head
from analyzer.validation.side import SAMPLE, Side, sampled
from tests.models import model, node, small_cnn
from tests.test_seen import compared

RNG = np.random.default_rng(0)


def near(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return set(found) == set(expected) and all(np.allclose(found[k], expected[k]) for k in expected)


# ---- How far two layers are apart ----

A = [np.array([3.0, 4.0]), np.array([1.0, 0.0, 1.0, 2.0]).reshape(2, 2)]
B = [np.array([3.0, 3.0]), np.array([1.0, 1.0, 0.0, 2.0]).reshape(2, 2)]


def test_drift_is_its_definition() -> None:
    drift = metrics.Drift()
    for a, b in zip(A, B, strict=True):
        drift.add(a, b)
    cosines = [(9 + 12) / (5 * np.sqrt(18)), (1 + 4) / 6]
    assert near(
        drift.summary(),
        {
            "cosine": np.mean(cosines), "cosine_low": min(cosines), "sqnr_db": 10 * np.log10((25 + 6) / (1 + 2)),
            "max_error": 1.0, "mean_error": 3 / 6, "finite": True,
            "q99_error": np.mean([np.quantile([0, 1], 0.99), np.quantile([0, 1, 1, 0], 0.99)]),
        },
    )  # fmt: skip


def test_small_drifts_are_their_own() -> None:
    drift = metrics.Drift()
    drift.add(np.array([1.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.75]))
    found = drift.summary()
    assert (found["max_error"], found["mean_error"]) == (0.25, 0.0625)
    assert np.isclose(found["sqnr_db"], 10 * np.log10(4 / 0.0625)) and found["cosine_low"] == found["cosine"] < 1


def test_drifts_of_parts_add_up() -> None:
    parts, whole = [metrics.Drift(), metrics.Drift()], metrics.Drift()
    for part, a, b in zip(parts, A, B, strict=True):
        part.add(a, b)
        whole.add(a, b)
    assert near(parts[0].merge(parts[1]).summary(), whole.summary())
    assert near(parts[1].merge(parts[0]).summary(), whole.summary())


def test_drift_leaves_out_what_is_not_finite_and_says_so() -> None:
    drift = metrics.Drift()
    drift.add(np.array([1.0, np.nan, 2.0]), np.array([1.0, np.nan, 3.0]))
    assert drift.finite and drift.elements == 2 and drift.largest == 1
    drift.add(np.array([1.0, 1.0]), np.array([1.0, np.inf]))
    assert not drift.finite and drift.elements == 3 and drift.pictures == 2
    drift.add(np.array([np.nan]), np.array([np.nan]))
    assert drift.pictures == 2
    assert metrics.one_sided(np.array([1.0]), np.array([np.nan])) == (False, True)
    assert metrics.one_sided(np.array([np.inf]), np.array([0.0])) == (True, False)


def test_sqnr_at_its_ends() -> None:
    same, other = metrics.Drift(), metrics.Drift()
    same.add(np.ones(4), np.ones(4))
    other.add(np.zeros(4), np.ones(4))
    assert same.sqnr == 200 and np.isclose(other.sqnr, -200)


def test_cosines() -> None:
    assert np.isclose(cosine_of(np.array([1.0, 0]), np.array([1.0, 1])), np.sqrt(0.5))
    assert cosine_of(np.zeros(3), np.zeros(3)) == 1 and cosine_of(np.zeros(3), np.ones(3)) == 0
    assert np.isclose(cosine_of(np.array([1e300, 1e300]), np.array([1e300, 1e300])), 1)
    assert np.isclose(cosine_of(np.array([1.0, np.nan, 2]), np.array([2.0, 5, 4])), 1)


def test_ranks_share_ties() -> None:
    assert ranks(np.array([[3.0, 1], [3, 2]])).tolist() == [2.5, 0, 2.5, 1]
    assert np.isclose(spearman(np.array([1.0, 2, 3, 4]), np.array([1.0, 10, 11, 1000])), 1)
    assert np.isclose(spearman(np.array([1.0, 2, 3, 4]), np.array([4.0, 3, 2, 1])), -1)
    assert spearman(np.ones(4), 2 * np.ones(4)) == 1 and spearman(np.ones(4), np.arange(4.0)) == 0


def test_overlap_of_the_highest_fifth() -> None:
    a = np.arange(10.0).reshape(2, 5)
    b = a.copy()
    b[0, 0] = 20  # the highest two are now 9 and 20
    assert top_iou(a, a) == 1 and np.isclose(top_iou(a, b), 1 / 3)
    assert top_iou(a, -a) == 0 and np.isclose(top_iou(a, b, 0.4), 3 / 5)


def test_shift_of_the_maximum_is_in_diagonals() -> None:
    a, b = np.zeros((4, 5)), np.zeros((4, 5))
    a[0, 0] = b[3, 4] = 1
    assert np.isclose(maximum_shift(a, b), 1) and maximum_shift(a, a) == 0
    b[0, 4] = 2
    assert np.isclose(maximum_shift(a, b), 4 / 5)
    assert maximum_shift(np.array([[1.0, 0]]), np.array([[0.0, 1]])) == np.float64(1 / np.sqrt(2))


def test_energy_inside_boxes() -> None:
    heat = np.ones((4, 6))
    heat[1, 2] = 5
    assert np.isclose(energy_inside(heat, np.array([[2, 1, 4, 3]])), 8 / 28)
    assert np.isclose(energy_inside(heat, np.array([[2, 1, 4, 3], [3, 1, 5, 3]])), 10 / 28)  # once each
    assert np.isclose(energy_inside(heat, np.array([[-5, -5, 1, 1]])), 1 / 28)
    assert energy_inside(np.zeros((4, 6)), np.array([[0, 0, 6, 4]])) == 0


def test_errors_of_outputs_add_up() -> None:
    a, b = RNG.standard_normal((3, 1, 7, 4)), RNG.standard_normal((3, 1, 7, 4))
    whole, parts = metrics.OutputError(), [metrics.OutputError() for _ in range(3)]
    for x, y, part in zip(a, b, parts, strict=True):
        whole.add(x, y)
        part.add(x, y)
    merged = parts[0].merge(parts[1]).merge(parts[2])
    for one in (whole, merged):
        errors, part, largest = one.summary()
        squares = (a[:, 0] ** 2).mean(axis=1)  # of each slice along the axis of 4
        off = np.sqrt(((a - b)[:, 0] ** 2).mean(axis=1))
        scales = np.sqrt(squares.mean(axis=0))
        relative = off / np.maximum(scales, scales.max() / 10)
        assert np.allclose(errors, relative.max(axis=1))
        worst = relative.mean(axis=0).argmax()
        assert part == f"slice {worst} of 4, counted from 0" and np.isclose(largest, np.abs(a[..., worst]).max())


def test_slices_of_probabilities_are_one_part() -> None:
    a = np.concatenate([RNG.uniform(0, 1, (1, 9, 2)), 50 + RNG.standard_normal((1, 9, 2))], axis=2)
    a[0, 0, :2] = 0, 1  # both ends belong to them
    error = metrics.OutputError()
    b = a.copy()
    b[..., :2] += 0.1
    error.add(a, b)
    errors, part, _ = error.summary()
    assert np.isclose(errors[0], 0.1 / np.sqrt((a[..., :2] ** 2).mean())) and part.startswith("slices 0 to 1 of 4")


# ---- Thresholds ----


@pytest.mark.parametrize("name", vars(verdict.Thresholds()))
def test_a_limit_is_broken_beyond_it_and_not_at_it(name: str) -> None:
    limits = verdict.Thresholds()
    limit = getattr(limits, name)
    low = name in (
        "label_agreement", "feature_cosine", "evidence_correlation", "evidence_iou", "prediction_agreement",
        "float_sqnr",
    )  # fmt: skip

    def codes(value: float) -> list[str]:
        noise = {"saturated": 19.0, "float_sqnr": value}.get(name, 50.0)
        sound = {"layer": "l", "cosine": 1.0, "sqnr_db": noise, "finite": True}
        report: dict[str, Any] = {
            "pictures": 10,
            "precision": "float" if name == "float_sqnr" else "half",
            "layers": [sound | ({"cosine": value} if name == "feature_cosine" else {})],
            "ranges": [{"layer": "l", "saturated": value if name == "saturated" else 0.0}],
            "weights": [
                {"weight": "w", "node": "n", "words": "", "relative_error": value if name == "weight_error" else 0}
            ],
            "outputs": {
                "label_agreement": value if name == "label_agreement" else 1.0,
                "score_drift_mean": value if name == "score_drift" else 0.0,
                "score_drift_max": value if name == "score_drift_max" else 0.03,
                "accuracy": [1.0, 1.0],
                "accuracy_loss": {
                    "value": 0.0,
                    "pictures": 10,
                    "p": 1.0,
                    "interval": [value, 1.0] if name == "accuracy_loss" else [-1.0, 0.0],
                },
            },
            "rows": [{"picture": "p", "score_drift": 0.0, "outputs": {"o": 0.0}}],
            "predictions": {
                "measure": "m",
                "outputs": ["o"],
                "pictures": 10,
                "lowest": 0.0,
                "lowest_picture": "p",
                "mean": value if name == "prediction_agreement" else 1.0,
            },
            "compared": [
                {
                    "output": "o",
                    "kind": "values",
                    "part": "",
                    "error_mean": value if name == "output_error" else 0.0,
                    "error_max": value if name == "output_error_max" else 0.0,
                }
            ],
            "evidence": {
                "grad-cam": {
                    "rank_correlation": value if name == "evidence_correlation" else 1.0,
                    "top_iou": value if name == "evidence_iou" else 1.0,
                },
                "gradient": {"rank_correlation": 0.0, "top_iou": 0.0},
            },
        }
        return [f.code for f in verdict.judge(report, limits)]

    code = {
        "label_agreement": "labels-differ", "score_drift": "scores-drift", "feature_cosine": "features-diverge",
        "evidence_correlation": "evidence-moves", "evidence_iou": "evidence-moves", "output_error": "outputs-differ",
        "weight_error": "weight-differs", "saturated": "saturated", "prediction_agreement": "predictions-differ",
        "float_sqnr": "first-deviation",
        "score_drift_max": "scores-drift", "output_error_max": "outputs-differ", "accuracy_loss": "accuracy-drops",
    }[name]  # fmt: skip
    assert codes(limit) == []
    assert codes(limit * (0.999 if low else 1.001)) == [code]
    assert codes(limit * (1.001 if low else 0.999)) == []


@pytest.mark.parametrize(
    ("precision", "sqnr_db", "where"),
    [
        ("float", [200, 130, 25, 20, 4], "l2"),  # the first one, not the one that is worst
        ("float", [200, 130, 110, 95, 70], None),  # rounding
        ("half", [70, 55, 48, 20, 15], "l3"),
        ("quantized", [40, 33, 27, 24, 9], "l4"),  # noise that adds up is no deviation
        ("quantized", [40, 8, 27, 24, 6], "l1"),
        (None, [40, 20, 20, 15, 10], "l1"),  # an early saved report
    ],
)
def test_the_first_deviation_is_where_noise_begins(precision: str | None, sqnr_db: list[float], where: str) -> None:
    report = {
        "precision": precision,
        "pictures": 4,
        "layers": [
            {"layer": f"l{i}", "cosine": 1.0, "sqnr_db": float(db), "finite": True} for i, db in enumerate(sqnr_db)
        ],
        "weights": [{"weight": "w", "node": "n", "layer": "l4", "words": "", "relative_error": 0.5, "sqnr_db": 5.0}],
        "compared": [{"output": "o", "kind": "scores"}],
        "outputs": {"label_agreement": None, "score_drift_mean": 0.5},
        "evidence": {},
    }
    if precision is None:
        del report["precision"]

    def found(**changed: Any) -> list[tuple[str, str]]:
        return [(f.code, f.where) for f in verdict.judge(report | changed, verdict.Thresholds())]

    first = [] if where is None else [("first-deviation", where)]
    assert found(weights=[]) == [*first, ("scores-drift", "o")]
    # A weight at the same layer or before it says more; so does any in a quantized build, where noise is everywhere.
    shown = first if precision != "quantized" else []
    assert found() == [*shown, ("weight-differs", "w"), ("scores-drift", "o")]
    # By itself it is a finding of float builds only, and only where their outputs differ.
    still = {"outputs": {"label_agreement": None, "score_drift_mean": 0.0}, "weights": []}
    assert found(**still) == (first if precision == "float" else [])
    assert found(**still, compared=[{"output": "o", "kind": "scores", "error_max": 1e-3}]) == []
    assert found(**still, compared=[{"output": "o", "kind": "scores", "error_max": 1.1e-3}]) == found(**still)


@pytest.mark.parametrize(("sqnr_db", "limit"), [(30.0, 10**-1.5), (20.0, 0.1), (-99.0, 0.6)])
def test_no_picture_of_two_float_builds_may_differ_more_than_their_layers(sqnr_db: float, limit: float) -> None:
    def found(drift: float, error: float, precision: str = "float") -> list[tuple[str, str]]:
        report = {
            "pictures": 2,
            "precision": precision,
            "layers": [],
            "weights": [],
            "rows": [{"picture": "p", "score_drift": drift, "outputs": {"o": error}}],
            "compared": [
                {"output": "s", "kind": "scores", "error_max": drift},
                {"output": "o", "kind": "values", "error_mean": 0.0, "error_max": error, "part": ""},
            ],
            "outputs": {"label_agreement": None, "score_drift_mean": 0.0, "score_drift_max": drift},
            "evidence": {},
        }
        return [(f.code, f.where) for f in verdict.judge(report, verdict.Thresholds(float_sqnr=sqnr_db))]

    assert found(limit, limit) == []
    assert found(1.01 * limit, limit) == [("scores-drift", "s")]
    assert found(limit, 1.01 * limit) == [("outputs-differ", "o")]
    assert found(0.6, 0.6, "half") == found(0.6, 0.6, "quantized") == []


def test_outputs_that_are_equal_up_to_rounding_leave_no_ties_to_judge() -> None:
    def found(error: float, precision: str, rule: str = "activations", **more: Any) -> set[str]:
        predicted = {"measure": "m", "outputs": ["o"], "pictures": 2, "mean": 0.0, "lowest": 0.0, "lowest_picture": "p"}
        layer = {"layer": "l", "cosine": 0.5, "sqnr_db": 2.0, "finite": True, "rule": rule}
        report = {
            "pictures": 2,
            "precision": precision,
            "layers": [layer],
            "weights": [],
            "predictions": predicted,
            "compared": [{"output": "o", "kind": "values", "error_mean": 0.0, "error_max": error, "part": ""} | more],
            "outputs": {"label_agreement": None, "score_drift_mean": None},
            "evidence": {"grad-cam": {"rank_correlation": 0.0, "top_iou": 0.0}},
        }
        return {f.code for f in verdict.judge(report, verdict.Thresholds())}

    every = {"features-diverge", "predictions-differ", "evidence-moves"}
    assert found(1e-3, "float") == found(1e-2, "half") == found(1e-3, "quantized") == set()
    assert found(1.1e-3, "float") == found(1.1e-2, "half") == found(1.1e-3, "quantized") == every
    assert found(0.0, "float", sorted="top") == every
    assert found(0.0, "float", rule="name") == set()


def test_a_range_is_a_cause_only_where_its_layer_is_far_off() -> None:
    def found(sqnr_db: float, layer: str, **after: Any) -> list[str]:
        rows = [{"layer": "l", "cosine": 1.0, "sqnr_db": sqnr_db, "finite": True}]
        ranges = [{"layer": layer, "saturated": 0.5} | after]
        about = {"label_agreement": None, "score_drift_mean": None}
        report = {"pictures": 1, "layers": rows, "ranges": ranges, "weights": [], "outputs": about, "evidence": {}}
        return [f.where for f in verdict.judge(report, verdict.Thresholds())]

    assert found(19.0, "l") == found(19.0, "l", next="l") == ["l"] and found(21.0, "l", next="l") == []
    assert found(19.0, "l", next="l", values=500) == ["l"] and found(19.0, "l", next="l", values=499) == []
    assert found(19.0, "before", next="l") == ["before"] and found(21.0, "before", next="l") == []


def test_findings_name_where_and_what() -> None:
    by_code = {f.code: f for f in verdict.judge(compared()["comparison"], verdict.Thresholds())}
    assert by_code["labels-differ"].words == "labels agree on 2 of 4 pictures (50.0%)"
    assert by_code["features-diverge"].words.endswith("(cosine 0.500, SQNR 3.0 dB); layers that diverge: 2")
    assert by_code["not-finite"].value == 0.25 and "1 of 4 pictures" in by_code["not-finite"].words
    assert "differs by 50.0%" in by_code["weight-differs"].words
    assert "is 50.0% of its magnitude" in by_code["outputs-differ"].words


def rates(agreeing: int, count: int, lost: int = 0, drift: float = 0.1, **more: Any) -> dict[str, Any]:
    """The report of a comparison in which `count - agreeing` labels differ and `lost` pictures are right no more."""
    rows = [
        {"picture": str(i), "agree": i >= count - agreeing, "score_drift": drift, "right": [True, i >= lost], **more}
        for i in range(count)
    ]
    nothing = {"layers": [], "weights": [], "evidence": {}, "pictures": count, "rows": rows}
    return nothing | {"outputs": summaries.labels_and_drifts(rows)}


@pytest.mark.parametrize(
    ("agreeing", "count", "lost", "found", "open_"),
    [
        (73, 73, 0, [], ["accuracy-drops"]),
        (72, 72, 0, [], ["labels-differ", "accuracy-drops"]),
        (7, 8, 0, [], ["labels-differ", "accuracy-drops"]),
        (2, 8, 0, ["labels-differ"], ["accuracy-drops"]),
        (1000, 1000, 5, [], []),
        (1000, 1000, 25, [], ["accuracy-drops"]),
        (1000, 1000, 60, ["accuracy-drops"], []),
        (900, 1000, 0, ["labels-differ"], []),
        (950, 1000, 0, [], ["labels-differ"]),
        (980, 1000, 0, [], []),
    ],
)
def test_rates_are_judged_by_their_intervals(
    agreeing: int, count: int, lost: int, found: list[str], open_: list[str]
) -> None:
    report = rates(agreeing, count, lost)
    assert [f.code for f in verdict.judge(report, verdict.Thresholds())] == found
    doubts = verdict.doubts(report, verdict.Thresholds())
    assert [d.code for d in doubts] == open_ and all(d.low <= d.limit <= d.high for d in doubts)


def test_the_pictures_that_would_settle_a_rate() -> None:
    (doubt, _) = verdict.doubts(rates(7, 8), verdict.Thresholds())
    assert doubt.needed is not None
    settled, short = (verdict.doubts(rates(n - 1, n), verdict.Thresholds()) for n in (doubt.needed, doubt.needed - 1))
    assert "labels-differ" not in [d.code for d in settled] and short[0].code == "labels-differ"
    assert verdict.doubts(rates(5, 5), verdict.Thresholds())[0].needed == 73


def test_outputs_that_are_equal_up_to_rounding_leave_no_doubt() -> None:
    assert verdict.doubts(rates(2, 2, drift=1e-3), verdict.Thresholds()) == []
    assert len(verdict.doubts(rates(2, 2, drift=1.1e-3), verdict.Thresholds())) == 2
    assert verdict.doubts(rates(2, 2), verdict.Thresholds(label_agreement=1.0, accuracy_loss=1.0)) == []
    assert verdict.judge(rates(99, 100), verdict.Thresholds(label_agreement=1.0))[0].code == "labels-differ"


def test_a_group_that_loses_more_is_named() -> None:
    report = rates(1000, 1000)
    for row in report["rows"]:
        row["group"] = "light=day" if int(row["picture"]) % 10 else "light=night"
        row["agree"] = row["group"] == "light=day" or int(row["picture"]) % 20 == 0  # half of a tenth
    report["outputs"] = summaries.labels_and_drifts(report["rows"])
    found = verdict.judge(report, verdict.Thresholds(label_agreement=0.9))
    assert [(f.code, f.where) for f in found] == [("labels-differ", "light=night")]
    day, night = report["outputs"]["slices"]
    assert (day["pictures"], night["pictures"], night["label_agreement"]) == (900, 100, 0.5)
    low, high = night["label_interval"]
    assert high - low > np.subtract(*summaries.wilson(50, 100)[:0:-1])  # wider: it holds for both groups together


def test_one_picture_far_off_is_a_finding() -> None:
    report = rates(1000, 1000)
    report["rows"][7]["score_drift"] = 0.7
    report["outputs"] = summaries.labels_and_drifts(report["rows"])
    (found,) = verdict.judge(report, verdict.Thresholds())
    assert (found.code, found.where, found.value, found.limit) == ("scores-drift", "7", 0.7, 0.6)
    assert verdict.judge(report, verdict.Thresholds(score_drift=0.8)) == []


def test_thresholds_of_a_file_and_of_flags(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text("[thresholds]\nscore_drift = 0.5\nevidence_iou = 1\n")
    found = verdict.read_thresholds(file, {"evidence_iou": 0.25})
    assert vars(found) == vars(verdict.Thresholds()) | {"score_drift": 0.5, "evidence_iou": 0.25}
    file.write_text("label_agreement = 0.5\n")
    assert verdict.read_thresholds(file).label_agreement == 0.5
    for content, words in (("score_drif = 1", "score_drift"), ("score_drift = true", "number"), ("=", "TOML")):
        file.write_text(content)
        with pytest.raises(InputError, match=words):
            verdict.read_thresholds(file)


# ---- Which layer is which ----


def test_names_without_what_tools_add() -> None:
    for name in ("conv_DequantizeLinear_Output", "conv_QuantizeLinear_Input", "conv_cast_3", "conv:0", "conv_fp16"):
        assert undecorated(name) == "conv"
    assert undecorated("conv_1") == "conv_1" and undecorated("cast_conv") == "cast_conv"


def test_layers_are_matched_by_name_and_behind_their_quantisers() -> None:
    weights_of = {"s": np.float32(0.1), "z": np.int8(0)}
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("QuantizeLinear", ["a", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["a_DequantizeLinear_Output"]),
        node("Relu", ["a_DequantizeLinear_Output"], ["b_cast"]),
        node("QuantizeLinear", ["b_cast", "s", "z"], ["k_QuantizeLinear_Output"]),
        node("Cast", ["k_QuantizeLinear_Output"], ["y"], to=1),
    ]
    graph = Graph.read(model(nodes, {"x": [2]}, {"y": [2]}, weights_of).SerializeToString())
    assert match_by_name(["a", "b", "c", "k", "x"], graph) == [
        Match("a", "a_DequantizeLinear_Output", "name, dequantised"),
        Match("b", "b_cast", "name alike"),
    ]


def test_layers_are_matched_by_what_they_hold_in_order() -> None:
    a = {name: RNG.standard_normal((2, 3)) for name in "abcd"}
    b = {"p": a["b"] + 0.01, "q": a["a"], "r": a["d"] * 2, "s": RNG.standard_normal((3, 2))}
    assert [(m.reference, m.candidate) for m in match_by_activations(a, b)] in (
        [("b", "p"), ("d", "r")],
        [("a", "q"), ("d", "r")],
    )
    unlike = {"p": np.array([1.0, 0.0])}
    assert match_by_activations({"a": np.array([0.59, np.sqrt(1 - 0.59**2)])}, unlike) == []
    assert len(match_by_activations({"a": np.array([0.61, np.sqrt(1 - 0.61**2)])}, unlike)) == 1
    assert match_by_activations({"a": a["a"]}, {"a": a["a"]}, {"a": (2, 3)}, {"a": (3, 2)}) == []


def test_names_that_have_shifted_give_way() -> None:
    one, two, three = (RNG.standard_normal(8) for _ in range(3))
    shapes = dict.fromkeys(("r0", "r1", "r2"), (8,))
    matches = [Match(n, n, "name") for n in ("r1", "r2")]
    kept = without_shifted_names(matches, {"r1": one, "r2": two}, {"r1": one, "r2": two + 0.1 * three}, shapes, shapes)
    assert kept == matches
    ours, theirs = {"r1": one, "r2": two}, {"r0": one, "r1": two, "r2": three}
    found = without_shifted_names(matches, ours, theirs, shapes, shapes)
    assert [(m.reference, m.candidate, m.rule) for m in found] == [
        ("r1", "r0", "activations"),
        ("r2", "r1", "activations"),
    ]


def test_a_single_shifted_name_gives_way_unless_the_layer_itself_differs() -> None:
    one, two, three = (RNG.standard_normal(8) for _ in range(3))
    shapes = dict.fromkeys(("r0", "r1", "r2", "r3"), (8,))

    def twin(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, str]:
        matches = [Match(n, n, "name") for n in ours if n in theirs]
        found = without_shifted_names(matches, ours, theirs, shapes, shapes)
        return {m.reference: m.candidate for m in found}

    # A node before it was added: the layer comes after its namesake. Or removed: the namesake is another layer.
    assert twin({"r1": one}, {"r1": -one, "r2": one}) == {"r1": "r2"}
    assert twin({"r1": one, "r2": two}, {"r0": one, "r1": two, "r3": three}) == {"r1": "r0", "r2": "r1"}
    # A node after it changes it under its own name: it is still the layer that differs.
    assert twin({"r1": one, "r2": two}, {"r0": one, "r1": three, "r2": two}) == {"r1": "r1", "r2": "r2"}


@pytest.mark.parametrize("namesake", [np.array([128.0, 0, 0, 0, 0]), np.array([99.0, 13, 5, 2, 1])], ids=["1", "0.99"])
def test_a_layer_that_has_its_namesake_is_not_given_to_another(namesake: np.ndarray) -> None:
    """r1 is broken, and as r2 has its own namesake (cosine 1, or SURE itself), r1 cannot be that under another name."""
    broken, same = np.array([0.0, 0, 0, 0, 128]), np.array([128.0, 0, 0, 0, 0])
    ours, theirs = {"r1": namesake, "r2": same}, {"r1": broken, "r2": namesake, "r3": same}
    assert cosine_of(ours["r2"], theirs["r2"]) in (1, 0.99)
    shapes = dict.fromkeys(("r1", "r2", "r3"), (5,))
    matches = [Match(n, n, "name") for n in ("r1", "r2")]
    assert [(m.reference, m.candidate) for m in match_by_activations(ours, theirs)] == [("r1", "r2"), ("r2", "r3")]
    assert without_shifted_names(matches, ours, theirs, shapes, shapes) == matches


def test_names_are_doubted_where_a_layer_is_unlike_its_namesake() -> None:
    one, matches = RNG.standard_normal((2, 4)), [Match("a", "b", "name alike")]
    for other, doubted in ((one, False), (3 * one, False), (-one, True), (one[:1], True)):
        assert doubtful(matches, {"a": one}, {"b": other}) == doubted


# ---- Summaries ----


def test_a_row_of_an_output() -> None:
    row = summaries.output_row("a", "b", "values", np.array([0.1, 0.3]), "slice 1", 2)
    assert (row["error_mean"], row["error_max"], row["pictures"]) == (0.2, 0.3, 2)
    assert np.isclose(row["sqnr_db"], -20 * np.log10(0.2))
    assert summaries.output_row("a", "b", "values", np.zeros(2), "", 2)["sqnr_db"] == 200
    assert summaries.output_row("a", "b", "values", np.zeros(0), "", 0)["error_mean"] is None


def test_labels_and_drifts() -> None:
    rows = [
        {"agree": True, "score_drift": 0.1, "right": [True, False]},
        {"agree": False, "score_drift": 0.5, "right": [True, True]},
        {"agree": None, "score_drift": None},
    ]
    found = summaries.labels_and_drifts(rows)
    interval = found["accuracy_loss"].pop("interval")
    assert found.pop("accuracy_loss") == {
        "value": 0.5, "pictures": 2, "only_reference": 1, "only_candidate": 0, "p": 1.0
    }  # fmt: skip
    half = 1.959964 * np.sqrt((2 - 1 / 4) / 16)  # one of two pairs, ½ added to each of four cells
    assert np.allclose(interval, [0.25 - half, 0.25 + half])
    assert near(
        found,
        {
            "judged": 2, "label_agreement": 0.5, "score_drift_mean": 0.3, "score_drift_max": 0.5,
            "accuracy": [1.0, 0.5],
            "score_drift_interval": [0.1, 0.5], "labels": 2, "label_interval": [0.094531, 0.905469],
        },
    )  # fmt: skip
    empty = summaries.labels_and_drifts(rows[2:])
    names = "label_agreement", "score_drift_mean", "score_drift_max", "score_drift_interval"
    assert empty == dict.fromkeys(names) | {"judged": 0}


def test_the_largest_jump_counts_the_first_layer_too() -> None:
    rows = [{"layer": n, "sqnr_db": v} for n, v in (("a", 60.0), ("b", 55.0), ("c", 20.0))]
    assert summaries.largest_jump(rows) == {"layer": "a", "before_db": 200.0, "at_db": 60.0}
    rows[0]["sqnr_db"] = 190.0
    assert summaries.largest_jump(rows) == {"layer": "b", "before_db": 190.0, "at_db": 55.0}
    assert summaries.largest_jump([]) is None


def test_evidence_is_summed_up_by_medians() -> None:
    rows: list[dict[str, Any]] = [
        {"evidence": {"m": {"rank_correlation": v, "top_iou": w, "maximum_shift": 0.5}}}
        for v, w in ((0.1, 0.9), (0.5, 0.2), (0.9, 0.3))
    ]
    found = summaries.evidence_summary([*rows, {"evidence": {}}], ["m", "other"])
    assert found["m"].pop("rank_correlation_interval") == [0.1, 0.9]  # type: ignore[comparison-overlap]
    assert found == {"m": {"rank_correlation": 0.5, "top_iou": 0.3, "maximum_shift": 0.5, "rank_correlation_low": 0.1}}


def differ(a: np.ndarray, b: np.ndarray, **about: bool) -> dict[str, Any] | None:
    how = {"rounded": False, "inside": False} | about
    return inputs.input_difference(inputs.Prepared(a, **how), inputs.Prepared(b, False, False))


def test_what_differs_between_two_inputs() -> None:
    a = RNG.uniform(0, 1, (1, 3, 6, 8))
    assert differ(a, a + 1e-5) is None
    kinds = {
        "channels": a[:, ::-1],
        "scale": (a - 0.4) / 0.2,
        "range": np.clip(a, 0, 0.1),
        "values": np.roll(a, 1, axis=3),
        "shape": a[..., :7],
    }
    for kind, b in kinds.items():
        found = differ(a, b)
        assert found is not None and found["kind"] == kind
    found = differ(a, (a - 0.4) / 0.2)
    assert found is not None and found["words"] == (
        "the candidate's input is the reference's × 5 − 2: mean, std or scale differ"
    )
    assert found["sqnr_db"] == pytest.approx(10 * np.log10((a**2).sum() / ((4 * a - 2) ** 2).sum()))
    assert differ(a, a * np.array([1, 2, 4]).reshape(1, 3, 1, 1))["words"].count("×") == 3  # type: ignore[index]
    assert differ(a, a.transpose(0, 2, 3, 1)) is None


def test_images_of_eight_bits_are_equal_a_step_apart() -> None:
    a = RNG.uniform(0, 1, (1, 3, 6, 8))
    steps = np.round(a * 255) / 255
    assert differ(a, steps) is not None and differ(a, steps, rounded=True) is None
    assert differ(a, steps * 1.05, rounded=True) is not None
    assert differ(a, 2 * a, inside=True)["words"].startswith("after the preprocessing inside")  # type: ignore[index]


# ---- Weights ----


def network(w1: np.ndarray, w2: np.ndarray, names: tuple[str, str] = ("w1", "w2"), norm: bool = False) -> Graph:
    nodes = [node("Conv", ["x", names[0]], ["c"], "first", pads=[1, 1, 1, 1])]
    arrays = {names[0]: w1.astype(np.float32), names[1]: w2.astype(np.float32)}
    if norm:
        ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
        nodes.append(node("BatchNormalization", ["c", "one", "zero", "zero", "one"], ["n"]))
        arrays |= {"one": ones, "zero": zeros}
    nodes += [
        node("Relu", ["n" if norm else "c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", names[1]], ["y"], "last"),
    ]
    return Graph.read(model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 5]}, arrays).SerializeToString())


W1, W2 = RNG.standard_normal((4, 3, 3, 3)), RNG.standard_normal((4, 5))


def test_differences_of_weights() -> None:
    assert weights.weight_differences(network(W1, W2), network(W1, W2)) == []
    rows = weights.weight_differences(network(W1, W2), network(W1 * 1.5, W2 * 0.75), {"r": "r"})
    assert [(r["weight"], r["node"], r["layer"], r["rule"]) for r in rows] == [
        ("w1", "first", "r", "name"),
        ("w2", "last", "", "name"),
    ]
    assert np.allclose([r["relative_error"] for r in rows], [0.5, 0.25])
    renamed = weights.weight_differences(network(W1, W2), network(W1, 2 * W2, ("p", "q")))
    assert [(r["weight"], r["rule"]) for r in renamed] == [("w2", "values")]
    swapped = weights.weight_differences(network(W1, W2), network(W1[:, ::-1], W2))
    assert swapped[0]["words"] == "its input channels are in reverse order (RGB or BGR)"
    step = np.zeros_like(W1)
    step[0, 0, 0, 0] = np.abs(W1).max()
    for share, said in ((0.0009, True), (0.0015, False)):  # a thousandth of the largest weight may be rounding
        (row,) = weights.weight_differences(network(W1, W2), network(W1[:, ::-1] + share * step, W2))
        assert bool(row["words"]) == said
    other = weights.weight_differences(network(W1, W2), network(-W1, W2, ("p", "q")))
    assert [(r["weight"], r["rule"], round(r["relative_error"], 4)) for r in other] == [("w1", "place", 2)]


def test_folded_normalisation_is_no_difference() -> None:
    factors = np.array([2.0, 0.5, -1, 3]).reshape(4, 1, 1, 1)
    rows = weights.weight_differences(network(W1, W2, norm=True), network(factors * W1, W2))
    assert not rows or max(r["relative_error"] for r in rows) < 1e-6
    rows = weights.weight_differences(network(W1, W2), network(factors * W1, W2))
    assert rows[0]["weight"] == "w1" and rows[0]["relative_error"] > 0.5


def test_the_share_beyond_a_quantisers_range() -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("QuantizeLinear", ["a", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Relu", ["d"], ["y"]),
    ]
    for zero, values, share in (
        (np.int8(0), [12.7, 12.79, 12.81, -12.8, -12.89, -12.91], 2 / 6),
        (np.int8(-128), [25.5, 25.59, 25.61, -1.0, -5.0, 0.0], 1 / 6),  # nothing below 0 is meant there
        (np.uint8(0), [25.5, 25.59, 25.61, 30.0], 2 / 4),
    ):
        net = model(nodes, {"x": [4]}, {"y": [4]}, {"s": np.float32(0.1), "z": zero})
        graph = Graph.read(net.SerializeToString())
        assert weights.saturated_share(graph, "d", np.array(values)) == share
        assert weights.saturated_share(graph, "a", np.array(values)) is None
        assert weights.saturated_share(graph, "nowhere", np.array(values)) is None


def values_of(source: Any) -> dict[str, np.ndarray]:
    stored = {t.name: t for t in source.proto.graph.initializer}
    return {n: source.detached[n] if n in source.detached else numpy_helper.to_array(t) for n, t in stored.items()}


def test_only_the_last_weights_are_shuffled() -> None:
    explainer = Explainer(small_cnn().SerializeToString())
    shuffled = randomised_head(explainer, 0)
    before, after = values_of(explainer.source()), values_of(shuffled)
    assert {n for n in before if not np.array_equal(before[n], after[n])} == {"w3"}
    assert np.array_equal(np.sort(after["w3"], None), np.sort(before["w3"], None))
    assert shuffled.path is None and shuffled.sha256 == ""


# ---- Audits ----


def test_signs_of_shortcuts_are_shares_over_areas() -> None:
    heat = np.zeros((20, 40))
    heat[1, 3] = 3  # a corner, on the border
    heat[10, 20] = 1
    signs = shortcut_signs(heat)
    assert np.isclose(signs["border"], 0.75 / (1 - 16 * 32 / 800))
    assert np.isclose(signs["corners"], 0.75 / (4 * 4 * 8 / 800))
    assert (signs["maximum_y"], signs["maximum_x"]) == (1.5 / 20, 3.5 / 40)
    even = shortcut_signs(np.ones((20, 40)))
    assert np.isclose(even["border"], 1) and np.isclose(even["corners"], 1)
    assert shortcut_signs(np.zeros((20, 40)))["border"] == 0


def test_hits_are_of_the_maximum() -> None:
    heat = np.zeros((5, 8))
    heat[2, 6] = 1
    boxes = np.array([[6, 2, 7, 3]])
    assert auditing._hits(heat, boxes) and auditing._hits(heat, np.array([[0, 0, 1, 1], [5, 1, 8, 5]]))
    for box in ([7, 2, 8, 3], [5, 2, 6, 3], [6, 3, 7, 4], [6, 1, 7, 2]):
        assert not auditing._hits(heat, np.array([box]))


def test_maxima_together() -> None:
    rows = [{"maximum_y": y, "maximum_x": x} for y, x in ((0.5, 0.5), (0.55, 0.5), (0.5, 0.605), (0.9, 0.9))]
    assert checks.maxima_together(rows)[0] == 0.5
    rows[2]["maximum_x"] = 0.59
    assert checks.maxima_together(rows)[0] == 0.75


def test_other_preprocessings() -> None:
    declared = Preprocess(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    found = preprocessings.alternatives(declared)
    assert found["channels swapped"].preprocess.channels == "BGR" and found["raw"].preprocess.scale == 1
    assert found["declared"] == (declared, "") and found["cropped"].options == "--resize crop"
    bgr = preprocessings.alternatives(declared.replace(channels="BGR"))
    assert bgr["channels swapped"] == (declared, "--channels RGB")
    fits = {"cropped", "letterboxed"}
    whole = preprocessings.alternatives(Preprocess(dtype="uint8", scale=1.0))
    assert set(whole) == {"declared", "channels swapped", *fits}
    assert set(preprocessings.alternatives(Preprocess(channels="GRAY"))) == {"declared", "0-1", "-1-1", "raw", *fits}
    assert not {*fits, "stretched"} & set(preprocessings.alternatives(declared.replace(size=None), True))
    sized = preprocessings.alternatives(declared.replace(size=(96, 200)), True)
    assert [n for n in sized if n.startswith("size")] == ["size 64x96", "size 64x128", "size 128x288", "size 192x384"]


def test_figures_of_a_preprocessing() -> None:
    declared = Preprocess(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    seen = {
        "declared": [(0.5, True), (1.0, False), (float("nan"), None)],
        "raw": [(0.5, True), (0.25, True), (0.75, None)],
    }
    found = preprocessings.contract(declared, seen)
    assert found["declared"] == {"confidence": 0.75, "accuracy": 0.5, "size": 1.0}
    raw = found["raw"]
    assert np.isclose(raw["size"], 255 * np.mean(declared.std)) and raw["options"] == "--preset raw"
    assert (raw["gain"], raw["gain_low"], raw["gain_high"]) == (0.5, 0.0, 1.0)


class Audited:
    """An audit of one picture by a small network, beside plain onnxruntime."""

    def __init__(self) -> None:
        self.net, self.how = small_cnn(), Preprocess(size=(12, 12))
        self.work = Auditing(Explainer(self.net), self.how, probes=1, seed=3)
        pixels = RNG.integers(0, 255, (12, 12, 3), np.uint8)
        self.picture = Picture("p", pixels, 1, np.array([[2.0, 3, 9, 8]]))
        self.array = self.how.apply(pixels)[0]
        self.session = ort.InferenceSession(self.net.SerializeToString(), providers=["CPUExecutionProvider"])
        self.work._look(self.array.shape)
        self.work.randomised = Explainer(randomised_head(self.work.explainer, 3))

    def probabilities(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(self.session.run(None, {"x": array.astype(np.float32)})[0][0])


@pytest.fixture(scope="module")
def audited() -> Audited:
    return Audited()


def test_a_grey_model_can_be_audited() -> None:
    arrays = {"w": RNG.standard_normal((4, 1, 3, 3)), "v": RNG.standard_normal((4, 3))}
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "v"], ["y"]),
    ]
    floats = {name: array.astype(np.float32) for name, array in arrays.items()}
    net = model(nodes, {"x": [1, 1, 12, 12]}, {"y": [1, 3]}, floats)
    picture = Picture("p", RNG.integers(0, 255, (12, 12, 3), np.uint8))
    found = auditing.audit(Explainer(net), Preprocess(size=(12, 12), channels="GRAY"), [picture])
    assert set(found.report["contract"]) == {"declared", "0-1", "-1-1", "raw", "cropped", "letterboxed"}


@pytest.mark.parametrize("takes_any", [True, False])
def test_sizes_are_tried_where_the_model_takes_them(takes_any: bool) -> None:
    """Beside plain onnxruntime; a layer after a Flatten takes one size, whatever the file's input says."""
    inside = 64 if takes_any else 32 * 32 * 4
    floats = {"w": RNG.standard_normal((4, 3, 3, 3)), "v": RNG.standard_normal((4 if takes_any else inside, 3)) / 30}
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c"], ["r"]),
        *([node("GlobalAveragePool", ["r"], ["g"])] if takes_any else []),
        node("Flatten", ["g" if takes_any else "r"], ["f"]),
        node("MatMul", ["f", "v"], ["m"]),
        node("Softmax", ["m"], ["y"]),
    ]
    weights = {name: array.astype(np.float32) for name, array in floats.items()}
    net = model(nodes, {"x": [1, 3, "h", "w"]}, {"y": [1, 3]}, weights)
    picture, how = Picture("p", RNG.integers(0, 255, (50, 70, 3), np.uint8)), Preprocess(size=(64, 64))
    found = auditing.audit(Explainer(net), how, [picture]).report["contract"]
    sizes = {32, 96, 128} if takes_any else set()
    assert {name for name in found if name.startswith("size")} == {f"size {s}x{s}" for s in sizes}
    session = ort.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])
    for size in sizes:
        array = how.replace(size=(size, size)).apply(picture.pixels)[0]
        expected = session.run(None, {"x": array})[0].max()
        assert found[f"size {size}x{size}"]["confidence"] == pytest.approx(float(expected), abs=1e-5)


def test_shifts_of_an_audit(audited: Audited) -> None:
    original = audited.probabilities(audited.array)
    top = int(original.argmax())
    kept, change = [], []
    for axis in (2, 3):
        for by in (-4, 4):
            at = np.clip(np.arange(12) - by, 0, 11)
            after = audited.probabilities(np.take(audited.array, at, axis=axis))
            kept.append(after.argmax() == top)
            change.append(abs(after[top] - original[top]))
    found = audited.work._shifted(audited.array, top, original)
    assert found["label_kept"] == np.mean(kept) and np.isclose(found["change"], np.mean(change), atol=1e-6)


def test_a_label_is_kept_by_the_shifts_that_leave_the_picture_in_its_half() -> None:
    """A bright column at x = 4 of 12, classes "left" and "right": only the shift to the right crosses the middle."""
    halves = np.zeros((2, 12, 12))
    halves[0, :, :6] = halves[1, :, 6:] = 1
    arrays = {"w": np.ones((1, 3, 1, 1)), "v": halves.reshape(2, -1).T}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Flatten", ["c"], ["f"]), node("MatMul", ["f", "v"], ["y"])]
    floats = {name: array.astype(np.float32) for name, array in arrays.items()}
    pixels = np.zeros((12, 12, 3), np.uint8)
    pixels[:, 4] = 255
    explainer = Explainer(model(nodes, {"x": [1, 3, 12, 12]}, {"y": [1, 2]}, floats))
    (row,) = auditing.audit(explainer, Preprocess(size=(12, 12)), [Picture("p", pixels)]).report["rows"]
    assert row["top"] == 0 and row["shift"]["label_kept"] == 0.75


def test_faithfulness_of_an_audit(audited: Audited) -> None:
    heat = RNG.uniform(0, 1, (12, 12))
    top, x = 2, audited.array
    base = x.mean(axis=(0, 2, 3), keepdims=True)
    before = float(audited.probabilities(x)[top])
    cells = np.random.default_rng([3, 0]).random((8, 8))
    noise = cells[np.ix_(np.arange(12) * 8 // 12, np.arange(12) * 8 // 12)]
    expected = {"average_drop": max(0, before - audited.probabilities(x * heat + base * (1 - heat))[top]) / before}
    for name, order in (("", heat), ("_random", noise)):
        first = np.argsort(-order.ravel(), kind="stable")
        for kind in ("deletion", "insertion"):
            curve = []
            for count in np.linspace(0, 144, 13):
                chosen = np.zeros(144, bool)
                chosen[first[: int(np.ceil(count))]] = True
                keep = chosen if kind == "insertion" else ~chosen
                curve.append(audited.probabilities(np.where(keep.reshape(12, 12), x, base))[top])
            expected[kind + name] = (sum(curve) - (curve[0] + curve[-1]) / 2) / 12  # trapezoids
    found = audited.work._faithful(0, x, heat, lambda changed: float(audited.work._probabilities(changed)[top]))
    assert near(found["faithfulness"], expected), (found, expected)
    assert len(found["curves"]["insertion"]) == 13 and np.isclose(found["curves"]["insertion"][-1], before)


def test_sanity_of_an_audit(audited: Audited) -> None:
    explainer, x = audited.work.explainer, audited.array
    heat = explainer.explain(x, "grad-cam", 2).heatmap[0]
    found = audited.work._sanity(x, heat, 2) | audited.work._of_another(0, x, heat, 2, 4)
    other = int((3 + np.random.default_rng([3, 0]).integers(3)) % 4)
    expected = spearman(heat, explainer.explain(x, "grad-cam", other).heatmap[0])
    assert other != 2 and np.isclose(found["other_class"], expected)
    shuffled = audited.work.randomised.explain(x, "grad-cam", 2).heatmap[0]
    assert np.isclose(found["random_head"], spearman(heat, shuffled))
    assert audited.work._of_another(0, x, heat, 0, 1) == {}


def test_bounds_of_channels(audited: Audited) -> None:
    net = onnx.ModelProto.FromString(audited.net.SerializeToString())
    names = [n for n in audited.work._bounds(audited.array) if n in {o for m in net.graph.node for o in m.output}]
    net.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    values = ort.InferenceSession(net.SerializeToString()).run(names, {"x": audited.array})
    found = audited.work._bounds(audited.array)
    assert {"r1", "r2"} <= set(names)
    for name, array in zip(names, values, strict=True):
        flat = array[0].reshape(array.shape[1], -1)
        top = max(flat.max(), 0) * (1 - 1e-6)
        expected = np.stack([flat.min(1), flat.max(1), (flat >= top).mean(1)])
        assert np.allclose(found[name], expected, atol=1e-5)


def test_alternatives_of_an_audit(audited: Audited) -> None:
    found = audited.work._alternatives(audited.picture)
    swapped = audited.probabilities(audited.array[:, ::-1])
    assert np.isclose(found["channels swapped"][0], swapped.max(), atol=1e-6)
    assert found["channels swapped"][1] == (swapped.argmax() == 1)
    assert audited.work._alternatives(Picture("q", audited.picture.pixels))["declared"][1] is None


# ---- Sides ----


def test_scores_are_squashed_as_the_other_file_does() -> None:
    side = Side(Explainer(small_cnn(softmax=False)), (1, 3, 12, 12))
    scores = np.array([[1.0, 2.0, 4.0, 0.0]])
    powers = np.exp(scores)
    assert np.allclose(side.squashed(scores, "Softmax"), powers / powers.sum())
    assert np.allclose(side.squashed(scores, "LogSoftmax"), np.log(powers / powers.sum()))
    assert np.allclose(side.squashed(scores, "Sigmoid"), 1 / (1 + np.exp(-scores)))
    assert side.labels(scores[0]) == [2]


def test_samples_of_a_layer_are_the_same_places() -> None:
    small, large = np.arange(SAMPLE), np.arange(3 * SAMPLE).reshape(3, -1)
    assert sampled(small).tolist() == small.tolist()
    found = sampled(large)
    assert len(found) == SAMPLE == len(set(found.tolist())) and (np.diff(found) > 0).all()
    assert np.array_equal(sampled(large + 7), found + 7)


@pytest.mark.parametrize("broken", [False, True])
def test_outputs_are_compared_in_whatever_layout_the_files_have(broken: bool) -> None:
    rng = np.random.default_rng(2)
    arrays = {"eye": rng.standard_normal((4, 3, 1, 1)).astype(np.float32), "w": RNG.standard_normal((4, 3))}
    arrays["w"] = arrays["w"].astype(np.float32)
    sides = []
    for turned in (False, True):
        own = dict(arrays)
        if turned and broken:
            own["eye"] = arrays["eye"].copy()
            own["eye"][1] *= 3
        map_name = "m" if turned else "r"
        nodes = [node("Conv", ["x", "eye"], ["c"]), node("Relu", ["c"], [map_name])]
        nodes += [node("Transpose", ["m"], ["r"], perm=[0, 2, 3, 1])] if turned else []
        nodes += [
            node("GlobalAveragePool", [map_name], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("MatMul", ["f", "w"], ["logits"]),
        ]
        shape = [1, 6, 7, 4] if turned else [1, 4, 6, 7]
        net = model(nodes, {"x": [1, 3, 6, 7]}, {"logits": [1, 3], "r": shape}, own)
        sides.append(Side(Explainer(net), (1, 3, 6, 7)))
    array = rng.standard_normal((1, 3, 6, 7)).astype(np.float32)
    found = compare(*sides, [Pair("p", array, array)]).report
    (row,) = [row for row in found["compared"] if row["output"] == "r"]
    assert row["pictures"] == 1 and (row["error_mean"] > 0.5 if broken else row["error_mean"] < 1e-6)
    assert not found["not_compared"]


def test_the_drift_of_scores_is_over_the_largest_score() -> None:
    shifted = small_cnn(softmax=False)
    for tensor in shifted.graph.initializer:
        if tensor.name == "b3":
            array = onnx.numpy_helper.to_array(tensor) + np.array([0, 0.5, 0, 0], np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "b3"))
    files, array = (small_cnn(softmax=False), shifted), RNG.random((1, 3, 12, 12)).astype(np.float32)
    (scores,) = ort.InferenceSession(files[0].SerializeToString()).run(None, {"x": array})
    found = compare(*(Side(m, array.shape) for m in files), [Pair("p", array, array)], methods=()).report
    expected = 0.5 / np.abs(scores).max()
    assert not np.isclose(expected, 0.5) and np.isclose(found["rows"][0]["score_drift"], expected, rtol=1e-5)


@pytest.mark.parametrize("second", [3.0, -3.0])
def test_all_labels_of_a_sigmoid_must_agree_although_one_file_gives_logits(second: float) -> None:
    """The top label is the same; the second is above ½ in the reference."""

    def labels(biases: list[float], squashed: bool) -> onnx.ModelProto:
        weights = {"w": np.zeros((2, 3, 1, 1), np.float32), "v": np.zeros((2, 3), np.float32)}
        nodes = [
            node("Conv", ["x", "w"], ["c"]),
            node("GlobalAveragePool", ["c"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "v", "b"], ["y" if not squashed else "logits"]),
        ]
        nodes += [node("Sigmoid", ["logits"], ["y"])] if squashed else []
        return model(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 3]}, weights | {"b": np.array(biases, np.float32)})

    files = labels([5, 3, -5], True), labels([5, second, -5], False)
    array = np.ones((1, 3, 4, 4), np.float32)
    (row,) = compare(*(Side(m, array.shape) for m in files), [Pair("p", array, array)], methods=()).report["rows"]
    assert row["top"] == [0, 0] and row["agree"] == (second > 0)


def test_partial_audits_add_up(audited: Audited) -> None:
    def part(name: str, low: float, high: float, share: float, top: int) -> dict[str, Any]:
        heat = np.full((2, 2), high)
        return {
            "rows": [name], "mean": heat, "classes": {top: [1, heat]}, "shape": (1,),
            "channels": {"r": np.array([[low], [high], [share]])}, "contract": {"raw": [(high, None)]},
        }  # fmt: skip

    one, two, three = part("a", -1, 2, 0.5, 0), part("b", -3, 1, 0.75, 1), part("c", 0, 5, 0.25, 0)
    none = part("d", 0, 0, 1, 0) | {"mean": None, "classes": {}, "channels": {}, "contract": {}}
    merge = audited.work.merge
    for both in (merge(merge(one, two), merge(three, none)), merge(none, merge(one, merge(two, three)))):
        assert both["rows"] == (["a", "b", "c", "d"] if both["rows"][0] == "a" else ["d", "a", "b", "c"])
        assert both["channels"]["r"].ravel().tolist() == [-3, 5, 0.25] and (both["mean"] == 8).all()
        assert both["classes"][0][0] == 2 and (both["classes"][0][1] == 7).all() and both["classes"][1][0] == 1
        assert both["contract"] == {"raw": [(2, None), (1, None), (5, None)]}
    for both in (merge(one, two), merge(two, one)):
        assert both["channels"]["r"].ravel().tolist() == [-3, 2, 0.5]
    assert merge(none, none)["mean"] is None


@pytest.mark.parametrize("size", [1, 60, 8193, 50_000])
def test_drift_of_a_large_layer_is_numpys(size):
    """Over several blocks; the quantile among all elements."""
    rng = np.random.default_rng(size)
    a = np.maximum(rng.standard_normal(size), 0).astype(np.float32)
    b = np.where(rng.random(size) < 0.3, a + 0.01, a).astype(np.float32)
    drift = metrics.Drift()
    drift.add(a, b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    error = np.abs(x - y)
    found = [drift.signal, drift.noise, drift.absolute, drift.largest, drift.quantile_sum]
    expected = [x @ x, error @ error, error.sum(), error.max(), np.quantile(error, 0.99)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
