"""What people see: classes, places, colours, reports, sizes. On models whose answer can be worked out by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

import analyzer
from analyzer import report
from analyzer.analysis.receptive_field import receptive_field
from analyzer.attribution.invariance import TRANSFORMS
from analyzer.graph import Graph
from analyzer.graph.load import load
from analyzer.images import Preprocess, colourise, write_png
from analyzer.images.warp import Warp
from analyzer.mining.miner import MiningResult
from analyzer.mining.patches import LayerPatches, Patch
from analyzer.mining.ranking import Ranking
from analyzer.mining.statistics import PeakStatistics
from analyzer.plain import as_json
from analyzer.report import gallery
from analyzer.report.page import picture as shown
from analyzer.validation import checks as audits
from analyzer.validation.verdict import Thresholds, judge
from tests.models import model, node

HEIGHT, WIDTH = 24, 32
SPOT = (21, 5)  # x, y of the one bright pixel
LABELS = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]
WEIGHTS = np.array([[1, 7, 3, 6, 2, 5, 4], [0.1, 0.2, 0.5, 0.3, 0.7, 0.4, 0.6], [0.3, 0.1, 0.2, 0.5, 0.6, 0.4, 0.7]])
Run = Callable[..., tuple[int, str, str]]


def spotted(layout: str = "NCHW", height: int = HEIGHT, width: int = WIDTH) -> onnx.ModelProto:
    """Scores = mean of relu(x) over positions, times WEIGHTS: the class map is the picture's own light."""
    weights = {"eye": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "w": WEIGHTS.astype(np.float32)}
    turned = layout == "NHWC"
    nodes = [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if turned else []
    nodes += [
        node("Conv", ["t" if turned else "x", "eye"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "w"], ["logits"]),
    ]
    shape = [1, height, width, 3] if turned else [1, 3, height, width]
    return model(nodes, {"x": shape}, {"logits": [1, 7]}, weights)


def spot(background: int = 20) -> np.ndarray:
    picture = np.full((HEIGHT, WIDTH, 3), background, np.uint8)
    picture[SPOT[1], SPOT[0]] = 250, 240, 230
    return picture


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seen")
    onnx.save(spotted(), folder / "model.onnx")
    onnx.save(spotted("NHWC"), folder / "nhwc.onnx")
    onnx.save(spotted(height=24, width=24), folder / "square.onnx")
    write_png(folder / "spot.png", spot())
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    return folder


# ---- explain: the classes, the place, the colours ----

EXPLAIN = ("explain", "model.onnx", "spot.png", "--preset", "0-1", "--labels", "labels.txt")


def scores_of(picture: np.ndarray) -> np.ndarray:
    return np.asarray((picture / 255.0).mean(axis=(0, 1)) @ WEIGHTS)


@pytest.mark.parametrize("file", ["model.onnx", "nhwc.onnx"])
def test_the_classes_are_the_highest_in_order(run: Run, file: str) -> None:
    expected = scores_of(spot())
    order = np.argsort(-expected)[:5]
    asked = [*EXPLAIN[:1], file, *EXPLAIN[2:], *(("--layout", "NHWC") if file == "nhwc.onnx" else ())]
    top = json.loads(run(*asked, "--format", "json")[1])["results"][0]["top"]
    assert [c["class"] for c in top] == order.tolist()
    assert [c["label"] for c in top] == [LABELS[i] for i in order]
    assert np.allclose([c["score"] for c in top], expected[order], rtol=1e-4)
    text = run(*asked)[1]
    places = [text.index(LABELS[i]) for i in order]
    assert places == sorted(places) and not any(LABELS[i] in text for i in set(range(7)) - set(order.tolist()))


@pytest.mark.parametrize("method", ["grad-cam", "gradient", "occlusion"])
@pytest.mark.parametrize("file", ["model.onnx", "nhwc.onnx"])
def test_the_maximum_is_x_then_y_of_the_spot(run: Run, method: str, file: str) -> None:
    # The gradient is the same at every pixel of this model: the first is named.
    expected = [0, 0] if method == "gradient" else list(SPOT)
    asked = [*EXPLAIN[:1], file, *EXPLAIN[2:], "-m", method, "-t", "bee"]
    asked += ["--layout", "NHWC"] if file == "nhwc.onnx" else []
    asked += ["-O", "patch=1", "-O", "stride=1"] if method == "occlusion" else []
    (found,) = json.loads(run(*asked, "--format", "json")[1])["results"][0]["maps"]
    assert (found["method"], found["class"], found["label"], found["maximum"]) == (method, 1, "bee", expected)
    assert f"x={expected[0]}, y={expected[1]}" in run(*asked)[1]


def test_what_the_crop_left_out_has_no_heat(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A square input of a wide picture: NaN, which is drawn without colour, all around what the model saw."""
    from analyzer.passes import explaining

    heats: list[np.ndarray] = []
    monkeypatch.setattr(explaining, "one", lambda given, *_: heats.append(given.values) or given.image)
    assert run("explain", "square.onnx", "spot.png", "--preset", "0-1", "--resize", "crop", "-o", "crop.png")[0] == 0
    seen = np.zeros((HEIGHT, WIDTH), bool)
    seen[2:22, 6:26] = True  # 24 of 27 pixels of the shorter side: ⌊24 / 0.875⌋
    assert np.isfinite(heats[0][seen]).all() and np.isnan(heats[0]).sum() >= HEIGHT * WIDTH - 22 * 22


def test_each_map_of_a_grid_has_its_own_title(run: Run, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    from analyzer.passes import explaining

    titles: list[str] = []
    monkeypatch.setattr(
        explaining, "several", lambda maps, *a, **k: titles.extend(m.title for m in maps) or maps[0].image
    )
    asked = ("-t", "logits[:, 2]", "-t", "logits[:, 5]", "-m", "grad-cam", "-o", "grid.png")
    assert run(*EXPLAIN, *asked)[0] == 0
    assert [t.rsplit(" (", 1)[0] for t in titles] == ["grad-cam: logits[:, 2]", "grad-cam: logits[:, 5]"]


def test_a_label_is_that_of_its_class(run: Run) -> None:
    for index in (0, 3, 6):
        maps = json.loads(run(*EXPLAIN, "-t", str(index), "--format", "json")[1])["results"][0]["maps"]
        assert maps[0]["label"] == LABELS[index]


# ---- The heatmap of a gradient, whatever the order of axes ----


@pytest.mark.parametrize("method", ["gradient", "guided-backprop", "smooth-grad", "integrated-gradients"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_gradient_is_reduced_over_its_channels(method: str, layout: str) -> None:
    rng = np.random.default_rng(3)
    shape = (1, 3, HEIGHT, WIDTH) if layout == "NCHW" else (1, HEIGHT, WIDTH, 3)
    found = analyzer.explain(spotted(layout), rng.standard_normal(shape).astype(np.float32), method, 2)
    size = np.abs(found.raw).max(axis=1 if layout == "NCHW" else 3)
    assert size.shape == found.heatmap.shape == (1, HEIGHT, WIDTH)
    if size.max() > size.min():
        assert np.allclose(found.heatmap, (size - size.min()) / (size.max() - size.min()), atol=1e-5)


# ---- Colours ----


@pytest.mark.parametrize("name", ["turbo", "viridis", "inferno", "gray"])
def test_low_is_cold_and_high_is_hot(name: str) -> None:
    low, high = colourise(np.array([[0.0, 1.0]]), name)[0].astype(int)
    if name == "turbo":
        assert low[2] > low[0] and high[0] > high[2]  # blue, red
    else:
        assert high.sum() > low.sum() + 200  # dark, bright


# ---- Reports hold text, never markup ----

EVIL = '<img src=x onerror="alert(1)">&amp;"'


class Tags(HTMLParser):
    """The pictures and scripts of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.scripts: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("img", "script"):
            (self.found if tag == "img" else self.scripts).append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def harmless(self) -> bool:
        """Pictures are inside, and the one script at most is that of the template."""
        inside = all((a.get("src") or "").startswith("data:image/") and "onerror" not in a for a in self.found)
        return inside and self.scripts in ([], [{}])


def compared(text: str = EVIL) -> dict[str, Any]:
    """A comparison of which every text is that."""
    about = {"model": text, "sha256": text, "identity": text}
    layer = {"layer": text, "candidate": text, "rule": text, "cosine": 0.5, "sqnr_db": 3.0, "finite": True}
    layer |= {"max_error": 1.0, "q99_error": 0.5, "mean_error": 0.1, "cosine_low": 0.2}
    comparison = {
        "reference": about,
        "candidate": about,
        "pictures": 4,
        "outputs": {"label_agreement": 0.5, "score_drift_mean": 0.2, "score_drift_max": 0.7, "judged": 4},
        "compared": [{"output": text, "kind": "values", "error_mean": 0.5, "part": text, "sorted": ""}],
        "not_compared": [{"output": text, "side": "candidate", "why": text}],
        "not_finite": [{"picture": text, "side": "candidate", "where": text, "why": text}],
        "evidence": {text: {"rank_correlation": 0.5, "top_iou": 0.25, "shift": 0.1}},
        "unavailable": {text: text},
        "layers": [layer, layer],
        "largest_jump": {"layer": text, "before_db": 40.0, "at_db": 3.0},
        "weights": [{"weight": text, "node": text, "relative_error": 0.5, "words": text}],
        "plan": {"candidate": {"same": False, "words": text}},
    }
    found = {"code": "labels-differ", "where": text, "value": 0.5, "limit": 0.95, "words": text}
    return {"comparison": comparison, "findings": [found], "run": {text: text}}


def test_a_page_of_a_comparison_holds_no_markup_of_others() -> None:
    page = "".join(report.html(compared(), [shown(EVIL, np.zeros((4, 4, 3), np.uint8))], EVIL))
    tags = Tags(page)
    assert tags.harmless and len(tags.found) == 1, tags.found
    # title, heading, verdict, finding (where, words), coverage, jump, layers, weights, sides, run, caption …
    assert tags.text.count(EVIL) >= 25 and tags.found[0]["alt"] == EVIL


def test_a_page_of_an_audit_holds_no_markup_of_others() -> None:
    identity = {"model": EVIL, "producer": EVIL, "operators": {EVIL: 2}, "layer": EVIL}
    layer = {"layer": EVIL, "size": [4, 4], "channels": 8, "dead": 1, "saturated": 0, "field": "all"}
    audit = {
        "identity": identity, "pictures": 3, "summary": {"confidence": 0.5},
        "contract": {EVIL: {"confidence": 0.5, "size": 1.0}}, "layers": [layer],
    }  # fmt: skip
    found = [{"code": "unfaithful", "where": EVIL, "value": 1.0, "limit": 0.5, "words": EVIL}]
    document = {"audit": audit, "findings": found, "run": {EVIL: EVIL}}
    tags = Tags("".join(report.audit.html(document, [shown(EVIL, np.zeros((4, 4, 3), np.uint8))], EVIL)))
    assert tags.harmless and len(tags.found) == 1 and tags.text.count(EVIL) >= 10


def test_a_gallery_holds_no_markup_of_others(tmp_path: Path) -> None:
    from analyzer.data import Sample

    statistics = PeakStatistics.empty(1)
    statistics.update(np.array([[1.0]]), np.array([[0.5]]))
    ranking = Ranking.empty(1, 1)
    ranking.update(np.array([[1.0]]), np.array([[0]]), np.array([0]))
    result = MiningResult([Sample(EVIL, 0, tmp_path)], {EVIL: ranking}, {EVIL: statistics}, {})
    pixels = np.zeros((4, 4, 3), np.uint8)
    patch = Patch(0, (0, 0), 1.0, ((0, 4), (0, 4)), pixels, None)
    tags = Tags("".join(gallery.html(EVIL, result, [LayerPatches(EVIL, None, {0: [patch]})], {EVIL: EVIL}, EVIL)))
    assert tags.harmless and tags.text.count(EVIL) >= 9


# ---- Reports for machines ----


def test_sarif_has_an_error_per_finding_at_the_candidate() -> None:
    log = json.loads(report.sarif(compared()))
    (result,) = log["runs"][0]["results"]
    assert log["version"] == "2.1.0"
    assert (result["level"], result["ruleId"], result["message"]["text"]) == ("error", "labels-differ", EVIL)
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == quote(EVIL)
    assert [rule["id"] for rule in log["runs"][0]["tool"]["driver"]["rules"]] == ["labels-differ"]


def test_junit_counts_what_failed() -> None:
    suite = ElementTree.fromstring(report.junit(compared()))
    failed = [case for case in suite.iter("testcase") if case.find("failure") is not None]
    assert [case.get("name") for case in failed] == ["labels-differ"]
    assert suite.get("failures") == "1" and suite.get("tests") == str(len(list(suite.iter("testcase"))))


def test_mean_comes_before_largest() -> None:
    for text in (report.markdown(compared()), "".join(report.html(compared()))):
        assert text.index("20.00%") < text.index("70.00%")


def test_json_has_no_nan() -> None:
    assert as_json({"a": [float("nan"), np.inf, np.float32("nan"), 1.5]}) == '{"a": [null, null, null, 1.5]}'


# ---- What is still agreement, and what is not ----


def test_thresholds_are_those_of_the_docs() -> None:
    table = (Path(__file__).parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")
    written: dict[str, float] = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) >= 4 and re.fullmatch(r"(`[a-z_]+`(, )?)+", cells[2]):
            written |= dict(zip(re.findall(r"[a-z_]+", cells[2]), map(float, cells[3].split(",")), strict=True))
    assert written == vars(Thresholds())


@pytest.mark.parametrize(
    ("value", "found"), [(0.61, False), (0.59, True), (0.3, True)], ids=["above", "below", "far below"]
)
def test_maps_that_overlap_too_little_are_found(value: float, found: bool) -> None:
    report = compared()["comparison"] | {"evidence": {"grad-cam": {"rank_correlation": 0.9, "top_iou": value}}}
    assert (("evidence-moves", "grad-cam") in {(f.code, f.where) for f in judge(report, Thresholds())}) == found


def audited(**given: float) -> dict[str, Any]:
    """The report of an audit of a hundred pictures where nothing is wrong but for what is given."""
    usual = {
        "label_kept": 1.0, "random_head": 0.2, "other_class": 0.2, "follows_shift": 0.9, "border": 1.0, "corners": 1.0,
        "together": 0.3, "degenerate": 0, "saturated_scores": 0.0,
        "deletion": 0.2, "deletion_random": 0.4, "insertion": 0.6, "insertion_random": 0.4,
    } | given  # fmt: skip
    rows = [
        {
            "picture": f"{i:03}",
            "top": i % 3,
            "confidence": 0.5,
            "diagnosis": "empty" if i < usual["degenerate"] else "",
            "tied": 2 if i < 100 * usual["saturated_scores"] else 1,
            "border": usual["border"],
            "corners": usual["corners"],
            "maximum_y": 0.5,
            "maximum_x": 0.5 if i < 100 * usual["together"] else 2.0 + i,
            "shift": {"label_kept": usual["label_kept"], "change": 0.0},
            "sanity": {key: usual[key] for key in ("random_head", "other_class", "follows_shift")},
            "faithfulness": {
                kind + order: usual[kind + order] for kind in ("deletion", "insertion") for order in ("", "_random")
            },
        }
        for i in range(100)
    ]
    contract = {"declared": {"confidence": 0.9, "size": 1.0}}
    identity = {"method": "grad-cam"}
    return {
        "rows": rows, "pictures": 100, "contract": contract, "layers": [], "identity": identity, "summary": {}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        ({}, []),
        ({"deletion": 0.5}, []),  # one of the two curves says so: nothing is said
        ({"insertion": 0.3}, []),
        ({"deletion": 0.5, "insertion": 0.3}, ["unfaithful"]),
        ({"deletion": 0.4, "insertion": 0.3}, []),
        ({"deletion": 0.5, "insertion": 0.4}, []),
        ({"random_head": 0.71}, ["sanity-parameters"]),
        ({"random_head": 0.69}, []),
        ({"other_class": 0.91}, ["sanity-labels"]),
        ({"other_class": 0.89}, []),
        ({"label_kept": 0.69}, ["shift-sensitive"]),
        ({"label_kept": 0.7}, []),
        ({"border": 1.51}, ["border-evidence"]),
        ({"corners": 2.01}, ["border-evidence"]),
        ({"border": 1.49, "corners": 1.99}, []),
        ({"together": 0.61}, ["fixed-position"]),
        ({"together": 0.59}, []),
        ({"degenerate": 1}, ["degenerate-maps"]),
        ({"saturated_scores": 0.06}, ["saturated-scores"]),
        ({"saturated_scores": 0.05}, []),
        ({"follows_shift": 0.49}, ["map-unstable"]),
        ({"follows_shift": 0.51}, []),
    ],
    ids=str,
)
def test_what_an_audit_finds(given: dict[str, Any], codes: list[str]) -> None:
    found = audits.findings(audited(**given))
    assert [f.code for f in found] == codes
    for finding in found:
        assert finding.value != finding.limit and finding.where in ("", "grad-cam", "border", "corners")


def test_another_preprocessing_that_does_much_better_is_named() -> None:
    def contract(**better: float) -> dict[str, Any]:
        row = {"confidence": 0.5, "accuracy": 0.5, "size": 1.0}
        return audited() | {"contract": {"declared": row, "raw": row | better}}

    (found,) = audits.findings(contract(accuracy=0.75))
    assert (found.code, found.where, found.value, found.limit) == ("preprocessing-doubtful", "raw", 0.25, 0.1)
    assert audits.findings(contract(accuracy=0.59)) == [] == audits.findings(contract(confidence=0.9))
    assert [f.where for f in audits.findings(contract(accuracy=0.61))] == ["raw"]
    for size, fair in ((3.1, False), (2.9, True), (0.34, True), (0.32, False)):  # larger inputs are surer by themselves
        rows = {"declared": {"confidence": 0.5, "size": 1.0}, "raw": {"confidence": 0.9, "size": size}}
        assert bool(audits.findings(audited() | {"contract": rows})) == fair, size


def test_a_gain_that_may_be_chance_does_not_count() -> None:
    """Nor one in confidence that comes with another size of the input."""
    declared = {"confidence": 0.5, "accuracy": 0.5, "size": 1.0}
    better = declared | {"confidence": 0.9, "accuracy": 0.75, "options": "--resize crop", "gain": 0.25}
    for low, counts in ((-0.05, False), (0.0, False), (0.01, True)):
        rows = {"declared": declared, "cropped": better | {"gain_low": low, "gain_high": 0.5}}
        assert bool(audits.findings(audited() | {"contract": rows})) == counts, low
    for name, truth, counts in (("size 64x64", True, True), ("size 64x64", False, False), ("cropped", False, True)):
        rows = {"declared": dict(declared), name: better | {"gain_low": 0.1, "gain_high": 0.5}}
        for row in () if truth else rows.values():
            del row["accuracy"]
        assert bool(audits.findings(audited() | {"contract": rows})) == counts, (name, truth)


def labelled(answers: dict[int, list[int]]) -> dict[str, Any]:
    """The report of an audit of pictures of these true classes, with these top classes."""
    report = audited(together=0)
    pairs = [(label, top) for label, tops in answers.items() for top in tops]
    rows = [
        row | {"label": label, "top": top, "right": label == top}
        for row, (label, top) in zip(report["rows"], pairs, strict=False)
    ]
    return report | {"rows": rows}


@pytest.mark.parametrize(
    ("answers", "codes"),
    [
        ({0: [0, 0, 1], 1: [1, 1, 1], 2: [2, 2, 0]}, []),
        ({0: [0, 0, 0], 1: [0, 0, 0], 2: [2, 2, 2]}, ["silent-classes"]),
        ({0: [0, 0, 0], 1: [0, 0]}, []),  # two pictures are too few
        ({0: [2, 2, 2], 1: [1, 1, 1], 2: [0, 0, 0], 3: [4, 4, 4], 4: [3, 3, 3]}, ["labels-mixed-up"]),
        ({0: [2, 2, 2], 1: [2, 2, 2], 2: [2, 2, 2]}, ["silent-classes"]),  # one class swallows the others
        ({0: [2, 2, 0, 1], 1: [0, 1, 2, 1], 2: [2, 0, 2, 1]}, []),
    ],
    ids=str,
)
def test_classes_that_an_audit_finds(answers: dict[int, list[int]], codes: list[str]) -> None:
    assert [f.code for f in audits.findings(labelled(answers))] == codes


def test_a_check_names_the_pictures_that_speak_for_its_finding() -> None:
    report = audited(border=1.7)
    report["rows"][7]["border"], report["rows"][9]["border"] = 9.0, 8.0
    (row,) = [row for row in audits.checked(report) if row["check"] == "border"]
    assert row["found"] and row["worst"][:2] == ["007", "009"] and row["low"] <= row["value"] <= row["high"]
    (row,) = [row for row in audits.checked(audited(degenerate=2)) if row["check"] == "degenerate_maps"]
    assert row["worst"] == ["000", "001"]
    (row,) = [row for row in audits.checked(audited()) if row["check"] == "accuracy"]
    assert row["why"] and "value" not in row


def test_channels_that_an_audit_finds() -> None:
    rows = [{"layer": f"{d}-{s}", "channels": 8, "dead": d, "saturated": s} for d, s in ((3, 2), (4, 0), (0, 4))]
    found = audits.findings(audited() | {"layers": rows})
    assert [(f.code, f.where) for f in found] == [("dead-channels", "4-0"), ("saturated-channels", "0-4")]
    assert [(f.value, f.limit) for f in found] == [(0.5, 0.4), (0.5, 0.25)]


# ---- Sizes ----


def test_sizes_are_in_gib(tmp_path: Path) -> None:
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(analyzer.AnalyzerError, match=r"\b3\.0 GiB"):
        load(tmp_path / "large.onnx")


def test_limits_of_memory_are_in_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    from analyzer.commands.options import SessionOptions
    from analyzer.runtime import pool

    said: list[int] = []
    monkeypatch.setattr(pool, "limit_memory", said.append)
    given = SessionOptions(
        {"allow_fallback": False, "threads": None, "memory_limit": 0.5, "time_limit": None, "session_memory": 2.0}
        | {"custom_ops": ()}
    )
    assert given.keywords("cuda")["memory_limit"] == 1 << 29 and said == [2 << 30]


@pytest.mark.parametrize(
    ("size", "whole", "offset"),
    [((8, 11), (7, 11), (0, 0)), ((9, 14), (9, 14), (0, 0)), ((13, 9), (6, 9), (3, 0)), ((9, 19), (9, 14), (0, 2))],
    ids=str,
)
def test_letterbox_rounds_to_the_nearest_and_puts_the_odd_pixel_after(
    size: tuple[int, int], whole: tuple[int, int], offset: tuple[int, int]
) -> None:
    """A picture of 13 × 20 white pixels on black: rows and columns that are not padding, counted."""
    how = Preprocess(size=size, resize="letterbox", pad_value=0.0, scale=1.0, interpolation="nearest")
    tensor, placement = how.apply(np.full((13, 20, 3), 255, np.uint8))
    white = tensor[0, 0] > 127
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    assert (len(rows), len(columns)) == whole and (rows[0], columns[0]) == offset
    assert np.allclose(placement.content_box, (offset[1], offset[0], offset[1] + whole[1], offset[0] + whole[0]))


def test_a_translation_goes_down_and_to_the_right() -> None:
    picture = np.zeros((9, 9, 3), np.uint8)
    picture[4, 4] = 255
    for name, expected in (("translation", (6, 4)), ("horizontal", (4, 6))):
        warp = Warp.affine((9, 9), **TRANSFORMS[name].arguments(2.0))
        moved = warp.apply(picture, 0.0)[..., 0]
        assert np.unravel_index(moved.argmax(), moved.shape) == expected, TRANSFORMS[name].unit


# ---- inspect, receptive-field, localize ----


def test_parameters_are_the_sizes_of_the_weights(run: Run) -> None:
    document = json.loads(run("inspect", "model.onnx", "--format", "json")[1])
    assert document["parameters"] == 9 + WEIGHTS.size
    assert re.search(r"\b30\b", run("inspect", "model.onnx")[1])


def test_size_stride_and_padding_of_a_receptive_field(run: Run, place: Path) -> None:
    weights = {"a": np.ones((2, 3, 3, 3), np.float32), "b": np.ones((2, 2, 5, 5), np.float32)}
    nodes = [
        node("Conv", ["x", "a"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", ["c", "b"], ["d"], pads=[2, 2, 2, 2], strides=[2, 2]),
    ]
    onnx.save(model(nodes, {"x": [1, 3, 32, 32]}, {"d": [1, 2, 8, 8]}, weights), place / "field.onnx")
    # size 3 + (5 − 1) · 2, stride 2 · 2, padding 1 + 2 · 2
    rows = json.loads(run("receptive-field", "field.onnx", "--format", "json")[1])["tensors"]
    (last,) = [row for row in rows if row["tensor"] == "d"]
    assert (last["size"], last["stride"], last["padding"]) == ([11, 11], [4, 4], [5, 5])
    field = receptive_field(Graph.read(place / "field.onnx"))["d"]
    assert field.size == (11, 11)
    line = next(line for line in run("receptive-field", "field.onnx")[1].splitlines() if line.endswith(" d"))
    assert re.findall(r"\d+×\d+", line) == ["11×11", "4×4", "5×5"]


def test_the_best_threshold_is_the_one_of_the_highest_overlap(run: Run, place: Path) -> None:
    """A bright square in a less bright one, around which the given box lies: only low thresholds find that."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[4:16, 8:24] = 100
    picture[8:12, 14:18] = 250
    write_png(place / "squares.png", picture)
    (place / "boxes.json").write_text(json.dumps({"squares.png": {"bee": [8, 4, 24, 16]}}))
    asked = ("localize", "model.onnx", "squares.png", "--preset", "0-1", "--labels", "labels.txt")
    document = json.loads(run(*asked, "--boxes", "boxes.json", "--format", "json")[1])
    summary = document["summary"]
    assert summary["best_threshold"] <= 0.4 and summary["mean_iou_at_best"] == 1
    (target,) = document["results"][0]["targets"]
    assert target["target"] == "bee" and target["boxes"] == [[8, 4, 24, 16]]
    assert target["iou"] == target["energy_inside"] == target["pointing"] == 1


# ---- compare, audit, and runs that go on ----


def test_compare_exits_with_1_where_it_finds_something(run: Run, place: Path) -> None:
    other = spotted()
    for tensor in other.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(onnx.numpy_helper.from_array(WEIGHTS[:, ::-1].astype(np.float32), "w"))
    onnx.save(other, place / "other.onnx")
    pictures = place / "pictures"
    pictures.mkdir()
    for i in range(4):
        write_png(pictures / f"{i}.png", np.roll(spot(10 * i), i, axis=1))
    code, out, _ = run("compare", "model.onnx", "other.onnx", "-d", "pictures", "--preset", "0-1", "--format", "json")
    assert code == 1 and "labels-differ" in {f["code"] for f in json.loads(out)["findings"]}
    code, out, _ = run("compare", "model.onnx", "model.onnx", "-d", "pictures", "--preset", "0-1", "--format", "json")
    assert code == 0 and json.loads(out)["findings"] == []


def test_the_maps_of_an_audit_are_means(place: Path) -> None:
    from analyzer.attribution import Explainer
    from analyzer.validation.audit import Picture, audit

    rng = np.random.default_rng(0)
    explainer, how = Explainer(place / "model.onnx"), Preprocess(size=(HEIGHT, WIDTH))
    pictures = [Picture(str(i), rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)) for i in range(3)]
    found = audit(explainer, how, pictures, probes=0)
    heats = [explainer.explain(how.apply(p.pixels)[0], "grad-cam").heatmap[0] for p in pictures]
    assert np.allclose(found.maps["all pictures"], np.mean(heats, axis=0), atol=1e-6)
    tops = [row["top"] for row in found.report["rows"]]
    for top in set(tops):
        own = [heat for heat, t in zip(heats, tops, strict=True) if t == top]
        assert np.allclose(found.maps[f"class {top} ({len(own)})"], np.mean(own, axis=0), atol=1e-6)


def test_an_audit_shows_eight_classes_and_probes_sixteen_pictures() -> None:
    """A grey of brightness v is of the class whose k is nearest to 12 v: 2 k · 12 v − k² is highest there."""
    from analyzer.attribution import Explainer
    from analyzer.validation.audit import Picture, audit
    from tests.models import node

    k = np.arange(10)
    weights = {"eye": np.eye(3)[:, :, None, None], "w": np.outer(np.ones(3) / 3, 2 * 12 * k), "b": -(k**2)}
    nodes = [
        node("Conv", ["x", "eye"], ["c"]),
        node("GlobalAveragePool", ["c"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "w", "b"], ["y"]),
    ]
    floats = {name: array.astype(np.float32) for name, array in weights.items()}
    explainer = Explainer(model(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 10]}, floats))
    classes = [9, 9, 9, *range(9), 9, 9, 9, 8, 8, 7]
    pictures = [Picture(str(i), np.full((4, 4, 3), round(255 * c / 12), np.uint8)) for i, c in enumerate(classes)]
    found = audit(explainer, Preprocess(size=(4, 4)), pictures)
    assert [row["top"] for row in found.report["rows"]] == classes
    shown = ["class 9 (6)", "class 8 (3)", "class 7 (2)", *(f"class {c} (1)" for c in range(5))]
    assert list(found.maps) == ["all pictures", *shown]
    assert [i for i, row in enumerate(found.report["rows"]) if "sanity" in row] == list(range(16))
    sure = [row["confidence"] for row in found.report["rows"]]
    tried = audit(explainer, Preprocess(size=(4, 4)), pictures, probes=4).report["contract"]["declared"]["confidence"]
    assert np.isclose(tried, np.mean(sure[:16])) and not np.isclose(tried, np.mean(sure))


def test_a_picture_whose_overlay_is_gone_is_explained_again(run: Run, place: Path) -> None:
    for name in ("one.png", "two.png"):
        write_png(place / name, spot())
    asked = ("explain", "model.onnx", "one.png", "two.png", "--preset", "0-1", "-o", "maps", "--store", "kept")
    assert run(*asked)[0] == 0
    before = {p.name: p.read_bytes() for p in (place / "maps").iterdir()}
    (place / "maps" / "two.png").unlink()
    assert run(*asked)[0] == 0
    assert {p.name: p.read_bytes() for p in (place / "maps").iterdir()} == before and len(before) == 2
