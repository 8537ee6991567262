"""Keypoints: formats, what is explained, targets, what is not taken for keypoints, and drawing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import analyzer
from analyzer.attribution import Explainer, Question
from analyzer.attribution.asked import task_for
from analyzer.errors import InputError, NotFoundError
from analyzer.images import Drawing, Found, Map, draw_found, write_png
from analyzer.images.skeleton import NAMES, bones_of
from analyzer.images.views import one
from analyzer.tasks import Declared, task_from
from tests.models import model, node

H, W, K = 64, 48, 17


def colours(stride: int) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """Nodes that make `seen` (1, 17, H / stride, W / stride): how bright a cell is, for each keypoint by its own
    weights, so that keypoint k sees a pixel of red value (k + 1) / 17 best."""
    rng = np.random.default_rng(3)
    kernel = rng.normal(0, 1, (K, 3, stride, stride)).astype(np.float32) / stride
    head = np.eye(K, dtype=np.float32).reshape(K, K, 1, 1)
    nodes = [
        node("Conv", ["x", "kernel"], ["before"], strides=[stride, stride]),
        node("Relu", ["before"], ["map"]),
        node("Conv", ["map", "head"], ["heat"]),
    ]
    return nodes, {"kernel": kernel, "head": head}


def heat_model(name: str = "heat", squashed: bool = False) -> onnx.ModelProto:
    nodes, weights = colours(4)
    nodes[-1].output[0] = "raw"
    nodes.append(node("Sigmoid" if squashed else "Identity", ["raw"], [name]))
    return model(nodes, {"x": [1, 3, H, W]}, {name: [1, K, H // 4, W // 4]}, weights)


def simcc_model() -> onnx.ModelProto:
    """Columns and rows of a grid of half a pixel."""
    nodes, weights = colours(4)
    nodes += [
        node("Reshape", ["heat", "flat"], ["rows"]),
        node("MatMul", ["rows", "across"], ["simcc_x"]),
        node("MatMul", ["rows", "down"], ["simcc_y"]),
    ]
    rng = np.random.default_rng(1)
    cells = H * W // 16
    weights |= {
        "flat": np.array([0, K, cells], np.int64),
        "across": rng.normal(0, 1, (cells, 2 * W)).astype(np.float32),
        "down": rng.normal(0, 1, (cells, 2 * H)).astype(np.float32),
    }
    return model(nodes, {"x": [1, 3, H, W]}, {"simcc_x": [1, K, 2 * W], "simcc_y": [1, K, 2 * H]}, weights)


def movenet() -> onnx.ModelProto:
    """y, x and score of each keypoint, gathered from a heat map after an ArgMax, as MoveNet does."""
    nodes, weights = colours(4)
    cells, columns = H * W // 16, W // 4
    nodes += [
        node("Sigmoid", ["heat"], ["sure"]),
        node("Reshape", ["sure", "flat"], ["rows"]),
        node("ArgMax", ["rows"], ["best"], axis=2, keepdims=1),
        node("GatherElements", ["rows", "best"], ["score"], axis=2),
        node("Cast", ["best"], ["place"], to=1),
        node("Div", ["place", "columns"], ["share"]),
        node("Floor", ["share"], ["row"]),
        node("Mul", ["row", "columns"], ["start"]),
        node("Sub", ["place", "start"], ["column"]),
        node("Div", ["row", "high"], ["y"]),
        node("Div", ["column", "columns"], ["x_"]),
        node("Concat", ["y", "x_", "score"], ["three"], axis=2),
        node("Unsqueeze", ["three", "one"], ["out"]),
    ]
    weights |= {
        "flat": np.array([0, K, cells], np.int64),
        "columns": np.array(columns, np.float32),
        "high": np.array(H // 4, np.float32),
        "one": np.array([1], np.int64),
    }
    return model(nodes, {"x": [1, 3, H, W]}, {"out": [1, 1, K, 3]}, weights)


def coordinates(numbers: int, name: str = "landmarks", flag: float | None = None) -> onnx.ModelProto:
    """So many numbers by a linear layer, and how sure the model is of a face."""
    rng = np.random.default_rng(2)
    nodes = [
        node("Conv", ["x", "kernel"], ["before"], strides=[8, 8]),
        node("Relu", ["before"], ["map"]),
        node("Flatten", ["map"], ["row"], axis=1),
        node("Gemm", ["row", "weights"], [name]),
    ]
    weights = {
        "kernel": rng.normal(0, 1, (4, 3, 8, 8)).astype(np.float32),
        "weights": rng.normal(0, 1, (4 * H * W // 64, numbers)).astype(np.float32),
    }
    outputs: dict[str, list[int]] = {name: [1, numbers]}
    if flag is not None:
        nodes += [
            node("ReduceMean", ["row"], ["mean"], axes=[1], keepdims=1),
            node("Mul", ["mean", "zero"], ["none"]),
            node("Add", ["none", "flag_value"], ["flag"]),
        ]
        weights |= {
            "zero": np.zeros(1, np.float32),
            "flag_value": np.array([flag], np.float32),
        }
        outputs["flag"] = [1, 1]
    return model(nodes, {"x": [1, 3, H, W]}, outputs, weights)


def task_of_model(proto: onnx.ModelProto, **declared: Any) -> Any:
    explainer = Explainer(proto)
    return task_for(explainer, Question(declared=Declared(**declared)), explainer.feeds(picture()))


def picture() -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, H, W), np.float32)


def said(proto: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


@pytest.mark.parametrize(
    ("make", "form"),
    [(heat_model, "maps"), (simcc_model, "simcc"), (movenet, "scored")],
    ids=["maps", "simcc", "movenet"],
)
def test_keypoints_are_recognised_decoded_and_explained(make: Any, form: str):
    proto, x = make(), picture()
    task = task_of_model(proto)
    assert (task.kind, task.form, task.count) == ("keypoints", form, K)
    assert task_from(json.loads(json.dumps(task.as_data()))).evidence == task.evidence
    found = said(proto, x)
    first, *more = found.values()
    points = task.points(task.answer(task.said(found)))
    if form == "maps":
        row, column = np.divmod(first[0].reshape(K, -1).argmax(1), W // 4)
        score = first[0].reshape(K, -1).max(1)
    elif form == "simcc":
        column, row = first[0].argmax(1) / 8, more[0][0].argmax(1) / 8
        score = np.minimum(first[0].max(1), more[0][0].max(1))
    else:
        row, column, score = (first.reshape(K, 3) * [H / 4, W / 4, 1]).T
    slack = 1.01 if form == "maps" else 1e-4  # a quarter of a place
    assert np.abs(points[:, 0] - column * 4).max() <= slack and np.abs(points[:, 1] - row * 4).max() <= slack
    assert np.allclose(points[:, 2], score, atol=1e-5)

    best = int(score.argmax())
    explainer = Explainer(proto)
    top = explainer.explain(x, "gradient")
    assert top.names[0] == f"keypoint:{best} {NAMES[17][best]}"
    named = explainer.explain(x, "gradient", "keypoint:left_wrist")
    of = {
        "maps": lambda v: v["heat"][0, 9].max(),
        "simcc": lambda v: v["simcc_x"][0, 9].max() + v["simcc_y"][0, 9].max(),
        "scored": lambda v: np.log(v["out"][0, 0, 9, 2] / (1 - v["out"][0, 0, 9, 2])),
    }[form]
    step = np.random.default_rng(5).normal(0, 1e-4, x.shape).astype(np.float32)
    change = (float(of(said(proto, x + step))) - float(of(said(proto, x - step)))) / 2
    assert change == pytest.approx(float((named.raw[0] * step[0]).sum()), rel=0.05, abs=2e-5)
    cam = explainer.explain(x, "layer-cam", "keypoint:left_wrist")
    assert cam.layer_of(0) == ("rows" if form == "simcc" else "map")  # rows: the map, flattened


def test_the_surest_keypoint_is_explained_and_none_below_the_threshold():
    proto, x = movenet(), picture()
    task = task_of_model(proto)
    answer = task.answer(task.said(said(proto, x)))
    found = task.predictions(answer)
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    assert task.chosen(-1, answer)[0] == found[0] and found[0].points[0][2] == found[0].score
    strict = task_of_model(proto, score_threshold=2.0)
    assert strict.says_nothing(answer) and not strict.predictions(answer) and not strict.chosen(-1, answer)
    assert "2" in strict.nothing
    with pytest.raises(NotFoundError, match="no keypoint 'tail'"):
        task.resolve("keypoint:tail", answer)
    with pytest.raises(InputError, match="decoded from its scores"):
        task.resolve("keypoint:3.x", answer)
    assert task.resolve("keypoint:a", answer, [chr(97 + i) for i in range(K)])[0].index == 0


def test_an_exported_keypoint_model_explains_the_surest(tmp_path: Path):
    for at, proto in enumerate((movenet(), coordinates(2 * 68, flag=3.0), coordinates(2 * 68, flag=-3.0))):
        analyzer.export(proto, tmp_path / f"{at}.onnx", "layer-cam")  # compares itself with `explain`
        assert (tmp_path / f"{at}.onnx").exists()


@pytest.mark.parametrize("target", ["keypoint:7", "keypoint:9.y", "top1", 3])
@pytest.mark.parametrize(
    "make", [heat_model, simcc_model, movenet, lambda: coordinates(2 * K)], ids=["maps", "simcc", "movenet", "row"]
)
def test_an_exported_keypoint_is_the_one_that_explain_explains(make: Any, target: Any, tmp_path: Path):
    proto, x = make(), picture()
    if target == "keypoint:9.y" and make in (heat_model, simcc_model, movenet):
        with pytest.raises(InputError, match="decoded from its scores"):
            analyzer.export(proto, tmp_path / "m.onnx", "layer-cam", target)
        return
    analyzer.export(proto, tmp_path / "m.onnx", "layer-cam", target)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(["heatmap"], {"x": x})
    expected = Explainer(proto).explain(x, "layer-cam", target)
    assert expected.heatmap.max() > 0
    np.testing.assert_allclose(found, expected.heatmap, atol=1e-5)
    if target != "top1":
        other = Explainer(proto).explain(x, "layer-cam", "keypoint:12")
        assert np.abs(found - other.heatmap).max() > 0.1


def test_coordinates_are_explained_by_themselves():
    proto, x = coordinates(3 * 468, "out", flag=3.0), picture()
    task, found = task_of_model(proto), said(proto, x)
    assert (type(task).__name__, task.count, task.numbers, task.beside) == ("Landmarks", 468, 3, "flag")
    rows = found["out"].reshape(468, 3)
    explainer = Explainer(proto)
    for target, value in {
        "keypoint:7.x": rows[7, 0], "keypoint:7.y": rows[7, 1], "keypoint:7": rows[7, :2].sum(), "7": rows[7, :2].sum(),
        "top1": rows[:, :2].mean(),
    }.items():  # fmt: skip
        assert explainer.explain(x, "gradient", target).value[0] == pytest.approx(value, rel=1e-3), target
    points = task.points(task.answer(task.said(found)))
    assert np.allclose(points[:, :2], rows[:, :2] if np.abs(rows[:, :2]).max() > 2 else rows[:, :2] * [W, H])
    shares = task.points({"out": np.full((1, 1404), 0.5, np.float32), "flag": np.ones((1, 1), np.float32)})
    assert np.allclose(shares[:, :2], [W / 2, H / 2])
    nothing = coordinates(3 * 468, "out", flag=-3.0)
    assert not len(Explainer(nothing).explain(x, "gradient").heatmap)
    assert "'flag' is below 0" in task_of_model(nothing).nothing


@pytest.mark.parametrize(
    ("proto", "kind"),
    [
        (coordinates(196, "output"), "classification"),
        (coordinates(42, "output"), "classification"),
        (coordinates(512, "output"), "embedding"),
        (coordinates(68 * 2, "landmarks"), "keypoints"),
        (coordinates(98 * 2, "landmarks"), "keypoints"),
    ],
    ids=["196 classes", "42 classes", "embedding", "68 points", "98 points"],
)
def test_scores_of_classes_are_no_coordinates(proto: onnx.ModelProto, kind: str):
    assert task_of_model(proto).kind == kind


def test_a_card_says_that_there_are_keypoints():
    assert task_of_model(coordinates(42, "output"), task="pose").count == 21
    assert task_of_model(heat_model("output", squashed=True), task="keypoints").stripped == ("Sigmoid",)
    with pytest.raises(InputError, match="format of its keypoint outputs was not recognized"):
        task_of_model(coordinates(7, "output"), task="keypoints")


# ---- Of a detector ----


def people() -> onnx.ModelProto:
    """MoveNet's rows for six people: 17 keypoints, a box, a score."""
    rng = np.random.default_rng(4)
    nodes = [
        node("Conv", ["x", "kernel"], ["map"], strides=[8, 8]),
        node("Flatten", ["map"], ["row"], axis=1),
        node("Gemm", ["row", "weights"], ["flat"]),
        node("Reshape", ["flat", "shape"], ["rows"]),
        node("Sigmoid", ["rows"], ["out"]),
    ]
    weights = {
        "kernel": rng.normal(0, 1, (4, 3, 8, 8)).astype(np.float32),
        "weights": rng.normal(0, 0.05, (4 * H * W // 64, 6 * 56)).astype(np.float32),
        "shape": np.array([1, 6, 56], np.int64),
    }
    return model(nodes, {"x": [1, 3, H, W]}, {"out": [1, 6, 56]}, weights)


def test_a_keypoint_of_the_strongest_instance():
    proto, x = people(), picture()
    task, found = task_of_model(proto), said(proto, x)
    rows = found["out"][0]
    best = int(rows[:, 55].argmax())
    answer = task.answer(task.said(found))
    first = task.predictions(answer)[0]
    assert first.label == "person" and len(first.points) == 17
    assert np.allclose(first.box, rows[best, [52, 51, 54, 53]] * [W, H, W, H], atol=1e-3)
    assert np.allclose(first.points[5], [rows[best, 16] * W, rows[best, 15] * H, rows[best, 17]], atol=1e-3)
    explained = Explainer(proto).explain(x, "gradient", "keypoint:left_shoulder")
    assert explained.value[0] == pytest.approx(rows[best, 17]) and "left_shoulder" in explained.names[0]
    with pytest.raises(NotFoundError, match="no keypoint 'tail'"):
        task.resolve("keypoint:tail", answer)


# ---- Drawing ----


def test_skeletons_join_keypoints_that_exist():
    for count, names in NAMES.items():
        assert len(names) == count == len(set(names)) and all(a < count > b for a, b in bones_of(count))
    assert (5, 7) in bones_of(17) and not bones_of(468)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(40, 60), (480, 640), (3000, 2000)])
def test_what_is_found_is_drawn_inside_every_picture(size: tuple[int, int]):
    height, width = size
    image = np.full((height, width, 3), 128, np.uint8)
    box = (0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height)
    points = [[0.5 * width, 0.5 * height, 1.0]] * 16 + [[-1e9, np.nan, 1.0]]
    far = (-5 * width, -5 * height, 9 * width, np.inf)
    drawn = draw_found(image, [Found("cat", 0.9, box, points), Found("a dog " * 99, 0.5, far), Found("cat", 0.2, box)])
    changed = np.abs(drawn.astype(int) - 128).sum(axis=2) > 0
    assert changed[:, drawn.shape[1] // 2].sum() >= 4 and (image == 128).all()
    assert changed[drawn.shape[0] // 2, drawn.shape[1] // 2]  # the keypoint
    assert draw_found(image, [], title="nothing").shape[2] == 3


def test_the_explained_is_thicker_and_a_class_has_one_colour():
    image = np.full((600, 600, 3), 128, np.uint8)
    boxes = [(20, 100, 120, 200), (220, 100, 320, 200), (420, 100, 520, 200)]
    drawn = draw_found(image, [Found(n, None, b, strong=n == "b") for n, b in zip("aab", boxes, strict=True)])
    column = [drawn[150, b[0]] for b in boxes]
    assert np.array_equal(column[0], column[1]) and not np.array_equal(column[0], column[2])
    widths = [(np.abs(drawn[150, b[0] - 15 : b[0] + 15].astype(int) - 128).sum(axis=1) > 0).sum() for b in boxes]
    assert widths[0] == widths[1] < widths[2]


def test_labels_do_not_cover_each_other():
    image = np.full((600, 600, 3), 128, np.uint8)
    box = (200, 200, 400, 400)
    alone = draw_found(image, [Found("cat", 0.9, box)])
    both = draw_found(image, [Found("cat", 0.9, box), Found("cat", 0.8, box)])
    label = alone[150:200, 190:300]
    assert np.array_equal(both[150:192, 202:260], label[:42, 12:70])  # the surer one's label is as it was
    assert not np.array_equal(both, alone)  # and the other has a place of its own


def test_the_heat_lies_over_what_is_found():
    image, heat = np.full((500, 500, 3), 128, np.uint8), np.zeros((5, 5), np.float32)
    heat[2, 2] = 1
    plain = one(Map(image, heat), Drawing(), (448, 1024), bare=True)
    marked = one(Map(image, heat, found=[Found("a", 0.5, (100, 250, 400, 480))]), Drawing(), (448, 1024), bare=True)
    assert not np.array_equal(plain[250, 110], marked[250, 110])
    assert (
        np.abs(plain[250, 250].astype(int) - marked[250, 250]).sum()
        < np.abs(plain[250, 110].astype(int) - marked[250, 110]).sum()
    )  # covered by the heat


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def test_each_target_has_a_file(place: Path, run: Any):
    write_png(place / "x.png", (picture()[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    onnx.save(movenet(), place / "m.onnx")
    asked = (
        "explain",
        "m.onnx",
        "x.png",
        "--preset",
        "0-1",
        "-t",
        "keypoint:nose",
        "-t",
        "keypoint:left_hip",
        "--each",
    )
    code, out, err = run(*asked, "-o", "out.png", "--format", "json")
    assert code == 0, err
    assert sorted(p.name for p in place.glob("out*")) == ["out-0.png", "out-1.png"]
    found = json.loads(out)["results"][0]["predictions"]
    assert found and all(len(p["points"]) == 1 and len(p["points"][0]) == 3 for p in found)
    assert run(*asked, "-o", "-")[0] == 2
    assert "keypoint" in run(*asked)[1]


def test_a_pose_is_one_annotation_of_coco(place: Path, run: Any):
    write_png(place / "x.png", (picture()[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    onnx.save(movenet(), place / "m.onnx")
    asked = ("explain", "m.onnx", "x.png", "--preset", "0-1", "--format")
    (result,) = json.loads(run(*asked, "json")[1])["results"]
    places = {p["class"]: p["points"][0] for p in result["predictions"]}
    least = sorted(p[2] for p in places.values())[K // 2]
    code, out, err = run(*asked, "coco", "--score-threshold", str(least - 1e-4))
    assert code == 0, err
    found = json.loads(out)
    (pose,), (category,) = found["annotations"], found["categories"]
    points = np.array(pose["keypoints"]).reshape(K, 3)
    kept = {i for i, (_, _, score) in places.items() if score >= least}
    assert result["keypoints"] == category["keypoints"] == list(NAMES[K])
    assert category["skeleton"] == [[a + 1, b + 1] for a, b in bones_of(K)]
    assert {i for i in range(K) if points[i, 2] == 2} == kept and 0 < len(kept) == pose["num_keypoints"] < K
    assert all(points[i, :2].tolist() == places[i][:2] for i in kept) and not points[points[:, 2] == 0].any()
    x, y = points[points[:, 2] == 2, :2].T
    assert np.allclose(pose["bbox"], [x.min(), y.min(), np.ptp(x), np.ptp(y)], atol=0.01)
    assert pose["score"] == pytest.approx(np.mean([places[i][2] for i in kept]), abs=1e-3)
    _, out, _ = run(*asked, "coco", "--score-threshold", "1")
    assert json.loads(out)["annotations"] == []
